"""Phase 3: a student's step from a store, against a bare loop over the same tensors and against online teachers."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from benchmarks.extraction import memory_disk
from benchmarks.measure import Contender, Row, Settings, alternate, peak_bytes, row
from benchmarks.reference import distilling
from benchmarks.work import LONGEST, make_lm, problems
from lrd_peft.data.collate import Batch
from lrd_peft.lora import create_lora_model
from lrd_peft.model.loading.lm import load_lm
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.extract import write_states
from lrd_peft.runtime.progress import Progress
from lrd_peft.store import Store, StoreSpec, StoreWriter
from lrd_peft.training.curriculum import items, thinking_rows
from lrd_peft.training.overrides import trainable_state
from lrd_peft.training.trainer import LRDPEFTTrainer

SECTION = "student's step"
NUM_THOUGHTS = 6
BATCH_SIZE = 16
ALPHA = 0.5


class Pair:
    """A teacher, its store, and a student with LoRA adapters; of one shape, so no projectors: all can be compared.

    The problems are real; the models of other works than `tiny` have random weights and read the tiny tokenizer's ids.
    """

    def __init__(self, name: str, folder: Path, *, num_steps: int, batch_size: int = BATCH_SIZE) -> None:
        torch.manual_seed(0)
        self.name, self.folder, self.num_steps, self.batch_size = name, folder, num_steps, batch_size
        tokenizer = load_lm("tiny-teacher").tokenizer
        options = ThinkingOptions(num_thoughts=NUM_THOUGHTS)
        self.plain_teacher = make_lm(name).eval()
        self.teacher = TeacherModel(
            copy.deepcopy(self.plain_teacher), tokenizer=tokenizer, options=options, fuse_activations=True
        ).eval()
        blocks = self.teacher.num_blocks
        self.layers = tuple(range(blocks // 2, blocks + 1))
        self.problems = problems(batch_size * num_steps)
        self.store = self._write_store()
        self.student = create_lora_model(
            StudentModel(make_lm(name), tokenizer=tokenizer, options=options, fuse_activations=True), r=16
        )

    def _write_store(self) -> Store:
        encoded = items(self.teacher.encoder.encode_many(self.problems))
        rows = thinking_rows(encoded, num_thoughts=NUM_THOUGHTS, model=self.teacher)
        spec = StoreSpec(
            fingerprints={**self.teacher.fingerprints(), "data": "bench"},
            teacher_name=self.name,
            layers=(0, *self.layers),
            num_thoughts=NUM_THOUGHTS,
            hidden_size=self.teacher.hidden_size,
            num_blocks=self.teacher.num_blocks,
            num_problems=len(rows),
            dtype="float32",
        )
        with (
            StoreWriter.open(self.folder / "store", spec) as writer,
            Progress("store", total=len(rows), unit="problems") as progress,
        ):
            write_states(self.teacher, rows, self.problems, writer, batch_size=BATCH_SIZE, progress=progress)
            writer.finish()
        return Store.open(self.folder / "store")

    def trainer(self, *, num_processes: int = 1, **changes: Any) -> LRDPEFTTrainer:
        arguments = TrainingArguments(
            output_dir=str(self.folder / "out"),
            per_device_train_batch_size=self.batch_size // num_processes,
            num_train_epochs=1,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            logging_steps=self.num_steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            ddp_backend="gloo" if num_processes > 1 else None,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        chosen: dict[str, Any] = {"store": self.store, **changes}
        return LRDPEFTTrainer(
            student_model=self.student,
            train_dataset=self.problems,
            distill_alpha=ALPHA,
            distill_layers=self.layers,
            args=arguments,
            **chosen,
        )


class BareLoop:
    """The same steps in plain PyTorch: batches and the teacher's states made before, no logs, no checks."""

    def __init__(self, pair: Pair, batches: Sequence[Batch]) -> None:
        self.pair, self.batches = pair, batches
        self.layers = sorted(set(pair.layers))
        place = {layer: i for i, layer in enumerate(pair.store.spec.layers)}
        self.states = []
        for batch in batches:
            stacked = torch.stack([pair.store.states(i) for i in batch["index"].tolist()], dim=1)
            self.states.append({layer: stacked[place[layer]].clone() for layer in pair.layers})

    def loss(self, number: int) -> Tensor:
        pair = self.pair
        output = pair.student(**self.batches[number], layers=self.layers)
        distances = [
            (output.states[layer] - state).square().mean() / pair.store.variance[layer]
            for layer, state in self.states[number].items()
        ]
        return ALPHA * torch.stack(distances).mean() + (1.0 - ALPHA) * output.loss_sum / output.num_labels

    def __call__(self) -> list[float]:
        self.pair.student.train()
        parameters = [p for p in self.pair.student.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
        losses = []
        for number in range(len(self.batches)):
            loss = self.loss(number)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses


class FieldStyle:
    """A teacher beside the student; `whole` runs the student in the same manner, else as ours does."""

    def __init__(self, bare: BareLoop, *, whole: bool) -> None:
        self.bare, self.whole = bare, whole

    def loss(self, number: int) -> Tensor:
        pair, batch = self.bare.pair, self.bare.batches[number]
        parts = {name: value for name, value in batch.items() if name not in ("index", "labels")}
        states = distilling.online_states(pair.plain_teacher, **parts, layers=pair.layers, num_positions=LONGEST)  # pyright: ignore[reportArgumentType]
        if not self.whole:
            self.bare.states[number] = states
            return self.bare.loss(number)
        return distilling.loss(
            pair.student.lm,  # pyright: ignore[reportArgumentType]
            states,
            **parts,  # pyright: ignore[reportArgumentType]
            labels=batch["labels"],
            layer_map={layer: layer for layer in pair.layers},
            variance=pair.store.variance,
            alpha=ALPHA,
            num_positions=LONGEST,
        )

    def __call__(self) -> float:
        self.bare.pair.student.train()
        self.bare.pair.student.zero_grad()
        loss = self.loss(0)
        loss.backward()
        return loss.item()


def step(trainer: LRDPEFTTrainer, batch: Batch) -> Callable[[], float]:
    """Return a contender that computes the loss and gradients of one batch through a trainer."""
    student, inputs = trainer.student, dict(batch)
    trainer.objective.begin(trainer.args.device)

    def run() -> float:
        student.zero_grad()
        loss = trainer.compute_loss(student, inputs)
        loss.backward()
        return loss.item()

    return run


def rows(settings: Settings) -> Iterator[Row]:
    sizes = {"tiny": 6} if settings.quick else {"tiny": 12}
    if settings.thorough:
        sizes["llama-256x4-50k"] = 16
    for name, num_steps in sizes.items():
        with tempfile.TemporaryDirectory(dir=memory_disk()) as folder:
            yield from _rows(settings, Pair(name, Path(folder), num_steps=num_steps))


def _rows(settings: Settings, pair: Pair) -> Iterator[Row]:
    trainer = pair.trainer()
    batches: list[Batch] = list(trainer.get_train_dataloader())
    bare = BareLoop(pair, batches)
    online, field = FieldStyle(BareLoop(pair, batches), whole=False), FieldStyle(BareLoop(pair, batches), whole=True)
    first = bare.loss(0).item()
    for other in (online, field):
        found = other.loss(0).item()
        assert abs(found - first) <= 1e-4 * abs(first), f"{pair.name}: loss {first} against {found}"
    before = {name: value.clone() for name, value in trainable_state(pair.student).items()}
    trainer.train()
    for name, value in trainable_state(pair.student).items():
        value.copy_(before[name])
    losses = bare()
    found, wanted = trainer.curve()[0]["loss"], sum(losses) / len(losses)
    assert abs(found - wanted) <= 1e-4 * wanted, f"{pair.name}: mean loss {found} against {wanted}"

    work = f"{pair.name}, batch {BATCH_SIZE}"
    mine, loop = alternate(settings, trainer.train, bare, warm_up=False)
    yield row(
        SECTION,
        f"{work}, {pair.num_steps} steps",
        ours=("trainer, from a store", mine),
        other=("bare loop, same tensors", loop),
        target="≤ 1.10",
        is_cost=True,
    )

    own_step, forced_step = step(trainer, batches[0]), step(pair.trainer(thoughts_from="teacher"), batches[0])
    refined_step = step(pair.trainer(thoughts_from="refined"), batches[0])
    contenders = (own_step, forced_step, refined_step, online, field)
    measured = alternate(settings, *contenders, warm_up=False, least=2)
    times: dict[Contender, list[float]] = dict(zip(contenders, measured, strict=True))
    peaks: dict[Contender, int] = {
        contender: peak_bytes(contender) for contender in contenders if settings.has_most_threads
    }

    def compared(ours: tuple[str, Contender], other: tuple[str, Contender], *, target: str = "") -> Row:
        (name, mine), (other_name, theirs) = ours, other
        return row(
            SECTION,
            work,
            ours=(name, times[mine]),
            other=(other_name, times[theirs]),
            target=target,
            peaks=(peaks.get(mine), peaks.get(theirs)),
        )

    stored, own = ("from a store", own_step), ("its own thoughts", own_step)
    yield compared(stored, ("teacher online, head, fixed length", online), target="≥ 3")
    yield compared(stored, ("the same, and the student so too", field))
    yield compared(("teacher's thoughts, one pass", forced_step), own)
    yield compared(("teacher's thoughts refined, two passes", refined_step), own, target="≥ 2")
