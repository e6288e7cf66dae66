"""Small trainings for the tests: students, teachers, stores, and what is left of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrd_peft.data.collate import collate
from lrd_peft.data.problem import Problem
from lrd_peft.lora import create_lora_model
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.extract import write_states
from lrd_peft.runtime.progress import Progress
from lrd_peft.store import Store, StoreSpec, StoreWriter
from lrd_peft.training.curriculum import items, row_at
from lrd_peft.training.overrides import trainable_state
from lrd_peft.training.trainer import LRDPEFTTrainer
from tests import tiny

LAYERS = (1, 2, 3)


def student(family: str = "llama", *, lora_dropout: float = 0.0, **size: Any) -> StudentModel:
    """A student with adapters, the same each time."""
    made = tiny.student(family, **size)
    torch.manual_seed(11)
    return create_lora_model(made, r=4, lora_dropout=lora_dropout)


def trainer(folder: Path, *, arguments: dict[str, Any] | None = None, **changes: Any) -> LRDPEFTTrainer:
    chosen: dict[str, Any] = {"distill_layers": LAYERS, "distill_alpha": 0.5, **changes}
    chosen.setdefault("train_dataset", tiny.problems(8))
    if "student_model" not in chosen:
        chosen["student_model"] = student()
    return LRDPEFTTrainer(args=tiny.arguments(folder, **(arguments or {})), **chosen)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainable_state(model).items()}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, atol: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def assert_same_runs(*after: tuple[dict[str, Tensor], list[dict[str, Any]]]) -> None:
    """Two trainings, weights and curve of each, that differ in how many small batches make a step."""
    assert_close(*(result[0] for result in after))
    for ours, theirs in zip(*(result[1] for result in after), strict=True):
        del ours["epoch"], theirs["epoch"]  # counted in small batches
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def _spec(
    teacher: TeacherModel, problems: Sequence[Problem], *, num_thoughts: int, layers: Sequence[int], **chosen: Any
) -> StoreSpec:
    return StoreSpec(
        fingerprints={**teacher.fingerprints(), "data": "made"},
        teacher_name=teacher.name,
        layers=tuple(layers),
        num_thoughts=num_thoughts,
        hidden_size=teacher.hidden_size,
        num_blocks=teacher.num_blocks,
        num_problems=len(problems),
        **chosen,
    )


def make_store(
    teacher: TeacherModel,
    problems: Sequence[Problem],
    folder: Path,
    *,
    positions: str = "thoughts+answer",
    layers: Sequence[int] = LAYERS,
    dtype: str = "float32",
) -> Store:
    """Write a store one problem at a time, so that nothing shares a batch with anything."""
    stage = teacher.options.num_thoughts
    spec = _spec(teacher, problems, num_thoughts=stage, layers=layers, positions=positions, dtype=dtype)
    with StoreWriter.open(folder, spec) as writer, torch.no_grad():
        for item in items(teacher.encoder.encode_many(problems)):
            row = row_at(item, stage=stage, thoughts_per_step=1, model=teacher, last=True)
            output = teacher(**collate([row], pad_id=0), layers=layers, positions=positions, with_loss=False)
            states = torch.stack([output.states[layer][0, output.valid[0]] for layer in layers])
            writer.add(item.index, states, problems[item.index].to_row())
        writer.finish()
    return Store.open(folder)


def make_written_store(
    teacher: TeacherModel,
    problems: Sequence[Problem],
    folder: Path,
    *,
    num_thoughts: int = 2,
    thoughts_per_step: int = 1,
    positions: str = "thoughts+answer",
    layers: Sequence[int] = LAYERS,
    dtype: str = "float32",
    batch_size: int = 3,
) -> Store:
    """Write a store of the states at the ends of written steps, as phase 2 does."""
    spec = _spec(
        teacher,
        problems,
        num_thoughts=num_thoughts,
        layers=layers,
        positions=positions,
        dtype=dtype,
        align_to="steps",
        thoughts_per_step=thoughts_per_step,
    )
    encoded = teacher.encoder.encode_many(problems)
    rows = [row_at(item, stage=0, thoughts_per_step=1, model=teacher) for item in items(encoded)]
    with StoreWriter.open(folder, spec) as writer, Progress("made", total=len(rows), unit="", quiet=True) as progress:
        ends = [row.step_ends for row in encoded]
        write_states(teacher, rows, problems, writer, batch_size=batch_size, progress=progress, step_ends=ends)
        writer.finish()
    return Store.open(folder)
