"""LRDPEFTTrainer: phase 3, a student that learns the task and the teacher's hidden states. Knows no run folders.

    L = alpha L_distill + (1 - alpha) L_task + step_loss_weight L_step        (distillation.py, model/written_steps.py)

The teacher's states come from a store or from the teacher itself (frozen, run beside the student); both give one loss.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from lrd_peft.curriculum import Item
from lrd_peft.data.collate import IGNORED
from lrd_peft.data.problem import Problem
from lrd_peft.distillation import LatentDistillationLoss, check_alpha, combine, map_layers
from lrd_peft.errors import UserError
from lrd_peft.model.models import StudentModel, TeacherModel
from lrd_peft.model.thinking_model import POSITIONS, ThinkingOutput
from lrd_peft.pairing import check_pair, check_same_problems, fitting, last_stage
from lrd_peft.processes import is_main
from lrd_peft.progress import Progress
from lrd_peft.store import ALIGN_TO, Store
from lrd_peft.training import ThinkingTrainer

THOUGHTS_FROM = ("student", "teacher", "annealed")


class LRDPEFTTrainer(ThinkingTrainer):
    """Distils a teacher's thoughts into a student.

    Args:
        student_model: the student, usually with LoRA adapters; projectors are added to it where the widths differ.
        teacher_model: the teacher to run online; or
        store: its states on disk, in the order of `train_dataset`. Neither is needed when `distill_alpha` is 0.
        train_dataset, eval_dataset: problems.
        distill_alpha: weight of the distillation loss, in [0, 1].
        distill_layers: the teacher's layers, `hidden_states` convention.
        student_layers: the student's; None maps by relative depth.
        positions: `thoughts+answer`, `thoughts` or `all`.
        align_to: `thoughts`, or `steps`: a store holds the teacher's states at the ends of written steps instead, and
            slots without one have no part in the loss.
        thoughts_from: whose thoughts fill the student's slots in training: its own (`student`), the teacher's, mapped
            to the student's width (`teacher`: one parallel pass), or the teacher's with a probability that falls from
            1 to 0 (`annealed`).
        step_loss_weight: weight of the steps that the thoughts must write (training.py), 0 for none.
        thoughts_per_step: how many of the student's thoughts stand for one step; matters for that term only.
        args: transformers' training arguments; None makes SPEC.md's defaults (AdamW, 1e-4, batch 4, 3 epochs, 10%
            warm-up).

    Raises:
        UserError: if a value is out of range, or teacher, store and student do not fit together.
    """

    def __init__(
        self,
        *,
        student_model: StudentModel,
        teacher_model: TeacherModel | None = None,
        store: Store | None = None,
        train_dataset: Sequence[Problem],
        eval_dataset: Sequence[Problem] | None = None,
        distill_alpha: float = 0.1,
        distill_layers: Sequence[int] = (8, 9, 10, 11, 12),
        student_layers: Sequence[int] | None = None,
        normalize: str = "variance",
        distill_loss: str = "mse",
        positions: str = "thoughts+answer",
        align_to: str = "thoughts",
        thoughts_from: str = "student",
        step_loss_weight: float = 0.0,
        thoughts_per_step: int = 1,
        args: TrainingArguments | None = None,
        output_dir: str | Path | None = None,
        label: str = "student",
    ) -> None:
        self.alpha = check_alpha(distill_alpha)
        if not train_dataset:
            raise UserError("train_dataset is empty; there is nothing to train on")
        if thoughts_from not in THOUGHTS_FROM:
            raise UserError(f'thoughts_from is "{thoughts_from}"; it must be one of {", ".join(THOUGHTS_FROM)}')
        if positions not in POSITIONS:
            raise UserError(f'positions is "{positions}"; it must be one of {", ".join(POSITIONS)}')
        if align_to not in ALIGN_TO:
            raise UserError(f'align_to is "{align_to}"; it must be one of {", ".join(ALIGN_TO)}')
        self.student, self.teacher, self.store = student_model, teacher_model, store
        self.positions, self.align_to, self.thoughts_from = positions, align_to, thoughts_from
        self._targets: Tensor | None = None  # bool [problems, P], where not all positions count
        self.layer_map: dict[int, int] = {}
        if self.alpha > 0 or thoughts_from != "student":
            self._pair(tuple(distill_layers), student_layers)
            if store is not None:
                check_same_problems(store, train_dataset)
                if align_to == "steps":
                    self._targets = store.target_mask(with_answer=positions == "thoughts+answer")
        self.criterion = LatentDistillationLoss(tuple(self.layer_map), loss=distill_loss, normalize=normalize)
        collator = last_stage(student_model, thoughts_per_step=thoughts_per_step, with_steps=step_loss_weight > 0)
        super().__init__(
            student_model,
            items=fitting(collator, train_dataset, whose="student"),
            eval_items=fitting(collator, eval_dataset, whose="student") if eval_dataset else None,
            collator=collator,
            args=args or default_arguments(output_dir, evaluate=bool(eval_dataset)),
            label=label,
            step_loss_weight=step_loss_weight,
        )
        self._teacher_items: list[Item] = []
        self._variance: dict[int, float] | None = None
        if self.layer_map:
            if self.teacher is not None:
                self.teacher.requires_grad_(False).eval().to(self.args.device)
                self._teacher_items = fitting(last_stage(self.teacher), train_dataset, whose="teacher")
            if store is not None and store.spec.positions == positions:
                self._variance = {layer: store.variance[layer] for layer in self.layer_map}
            elif normalize == "variance":
                self._variance = self._measured_variance()
        self._num_positions: Tensor | int = 0

    def _pair(self, layers: tuple[int, ...], student_layers: Sequence[int] | None) -> None:
        """Check that teacher and student fit, map the layers, and give the student its projectors."""
        width, blocks = check_pair(
            self.student,
            self.teacher,
            self.store,
            layers=layers,
            positions=self.positions,
            align_to=self.align_to,
            thoughts_from=self.thoughts_from,
        )
        self.layer_map = map_layers(
            layers,
            teacher_blocks=blocks,
            student_blocks=self.student.num_blocks,
            student_layers=student_layers,
        )
        self.student.attach_projectors(layers, teacher_hidden_size=width, thoughts=self.thoughts_from != "student")

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        *,
        epochs: float | None = None,
        learning_rate: float | None = None,
        **options: Any,
    ) -> Any:
        """Train from a new optimizer; `epochs` and `learning_rate` replace those of the arguments."""
        if epochs is not None:
            self.args.num_train_epochs = epochs
        if learning_rate is not None:
            self.args.learning_rate = learning_rate
        # A second call would otherwise go on with the first one's optimizer and rate.
        self.optimizer = self.lr_scheduler = None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if self.layer_map:
            count = sum(self._count_positions(batch) for batch in batch_samples)
            self._num_positions = max(1, count)  # none at all where no problem has written steps
            if self.args.world_size > 1:
                everywhere = self.accelerator.gather(torch.tensor(count, device=device))
                self._num_positions = everywhere.sum().clamp(min=1)  # pyright: ignore
        return super()._get_num_items_in_batch(batch_samples, device)

    def _count_positions(self, batch: Any) -> int:
        if self._targets is not None:
            return int(self._targets[batch["index"].cpu()].sum())
        num_rows, slots = len(batch["index"]), batch["num_thoughts"]
        if self.positions == "all":
            question = int(batch["question_mask"].sum()) - num_rows
            return question + num_rows * slots + int(batch["labels"].ne(IGNORED).sum())
        return num_rows * (slots + (self.positions == "thoughts+answer"))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not self.layer_map:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        teacher, thoughts = self._teacher_states(inputs)
        output: ThinkingOutput = model(
            **inputs,
            layer_map=self.layer_map,
            positions=self.positions,
            teacher_thoughts=thoughts if self._use_teacher_thoughts() else None,
        )
        if self.positions == "all" and self.store is not None:
            teacher = {layer: _place(state, output.valid) for layer, state in teacher.items()}
        mask = output.mask
        if self._targets is not None:
            mask = self._targets[inputs["index"].cpu()].to(mask.device)
        accumulated = num_items_in_batch is not None
        distill, per_layer = self.criterion(
            output.states,
            teacher,
            mask=mask,
            variance=self._variance,
            num_positions=self._num_positions if accumulated else None,
        )
        task = output.loss_sum / (output.num_labels if num_items_in_batch is None else num_items_in_batch)
        terms = combine(distill, task, alpha=self.alpha, per_layer=per_layer)
        total, more = terms.total, {}
        if self.step_loss_weight > 0:
            more["step_loss"] = self.step_loss(output, inputs, accumulated=accumulated)
            total = total + self.step_loss_weight * more["step_loss"]
        if accumulated:
            more |= {f"distill_layer_{layer}": value for layer, value in terms.per_layer.items()}
            self.note(loss=total, distill=terms.distill, task=terms.task, **more)
        loss = total * (self.accelerator.num_processes if accumulated else 1)
        return (loss, output) if return_outputs else loss

    def _use_teacher_thoughts(self) -> bool:
        if self.thoughts_from == "annealed":
            step, total = self.state.global_step, max(1, self.state.max_steps)
            return random.Random(f"{self.args.seed}/{step}").random() >= step / total
        return self.thoughts_from == "teacher"

    def _teacher_states(self, inputs: dict[str, Any]) -> tuple[dict[int, Tensor], Tensor | None]:
        """Return the teacher's states (layer -> [B, P, H], or with `all` from a store [sum of P, H]) and thoughts."""
        index = inputs["index"].tolist()
        device = inputs["index"].device
        slots = inputs["num_thoughts"]
        if self.store is None:
            output = self._run_teacher(index)
            return {layer: output.states[layer] for layer in self.layer_map}, output.thoughts
        rows = self.store.batch(index)
        place = {layer: i for i, layer in enumerate(self.store.spec.layers)}
        thoughts = None
        if self.thoughts_from != "student":
            first = [
                inputs["question_mask"][b].sum().item() if self.positions == "all" else 0 for b in range(len(rows))
            ]
            thoughts = torch.stack([row[place[0], int(s) : int(s) + slots] for s, row in zip(first, rows, strict=True)])
            thoughts = thoughts.to(device).float()
        if self.positions == "all":
            joined = torch.cat(rows, dim=1).to(device).float()
        else:
            count = slots + (self.positions == "thoughts+answer")
            joined = torch.stack([row[:, :count] for row in rows], dim=1).to(device).float()
        return {layer: joined[place[layer]] for layer in self.layer_map}, thoughts

    @torch.no_grad()
    def _run_teacher(self, index: Sequence[int]) -> ThinkingOutput:
        """Run the online teacher over the problems with these indices, in its own tokens."""
        assert self.teacher is not None
        rows = last_stage(self.teacher)([self._teacher_items[i] for i in index])
        batch = self._prepare_inputs(rows)  # pyright: ignore[reportArgumentType]
        return self.teacher(**batch, layers=sorted(self.layer_map), positions=self.positions, with_loss=False)

    def _measured_variance(self) -> dict[int, float]:
        """Return the teacher's variance at each layer over the training problems, as a store's manifest has it."""
        count, sums, squares = 0, dict.fromkeys(self.layer_map, 0.0), dict.fromkeys(self.layer_map, 0.0)
        num_problems = len(self._teacher_items) if self.store is None else len(self.store)
        with Progress("teacher's variance", total=num_problems, unit="problems", quiet=not is_main()) as progress:
            for start in range(0, num_problems, 32):
                index = range(start, min(start + 32, num_problems))
                states = self._chosen_states(index)
                for layer, state in states.items():
                    chosen = state.double()
                    sums[layer] += chosen.sum().item()
                    squares[layer] += chosen.square().sum().item()
                count += next(iter(states.values())).numel()
                progress.update(index.stop)
        return {layer: squares[layer] / count - (sums[layer] / count) ** 2 for layer in self.layer_map}

    def _chosen_states(self, index: range) -> dict[int, Tensor]:
        """Return the teacher's states of some problems at the positions that the loss uses: layer -> [positions, H]."""
        if self.store is None:
            output = self._run_teacher(index)
            return {layer: output.states[layer][output.mask] for layer in self.layer_map}
        slots = self.store.spec.num_thoughts  # asked for `thoughts` alone: the manifest counts the answer too
        chosen = [slice(slots)] * len(index) if self._targets is None else [self._targets[i, :slots] for i in index]
        rows = self.store.batch(index)
        joined = torch.cat([row[:, :slots][:, own] for own, row in zip(chosen, rows, strict=True)], dim=1)
        return {layer: joined[self.store.spec.layers.index(layer)] for layer in self.layer_map}


def _place(states: Tensor, valid: Tensor) -> Tensor:
    """Put concatenated rows [sum of P_i, H] at the valid positions of a padded batch: bool [B, P] -> [B, P, H]."""
    placed = states.new_zeros((*valid.shape, states.shape[-1]))
    placed[valid] = states
    return placed


def default_arguments(output_dir: str | Path | None, *, evaluate: bool = False) -> TrainingArguments:
    """Return SPEC.md's hyperparameters: AdamW 1e-4, batch 4, 3 epochs, 10% warm-up."""
    return TrainingArguments(
        output_dir=str(output_dir or tempfile.mkdtemp(prefix="lrd-")),
        per_device_train_batch_size=4,
        num_train_epochs=3,
        learning_rate=1e-4,
        warmup_steps=0.1,
        weight_decay=0.0,
        logging_steps=10,
        save_strategy="no",
        eval_strategy="epoch" if evaluate else "no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
