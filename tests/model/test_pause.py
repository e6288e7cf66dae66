"""Pause tokens: the same embedding in every slot, learned, saved, and never a function of the hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lrd_peft.config import RunConfig
from lrd_peft.lora import create_lora_model
from lrd_peft.model.loop import think, unwrap
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.projection import PauseToken
from lrd_peft.model.student import StudentModel
from lrd_peft.pipeline.from_config import student_options
from lrd_peft.runtime.errors import UserError

OPTIONS = ThinkingOptions(num_thoughts=3, projection="pause", jacobi_passes=1)


@pytest.fixture(scope="module")
def student() -> StudentModel:
    return create_lora_model(StudentModel("tiny-student", options=OPTIONS), r=2)


def test_every_slot_holds_the_learned_embedding_and_equals_forced_slots(student: StudentModel) -> None:
    token = student.projection
    assert isinstance(token, PauseToken) and token.embedding.requires_grad
    table: Any = unwrap(student.lm).get_input_embeddings()
    assert torch.allclose(token.embedding, table.weight.mean(dim=0), atol=1e-6)
    ids = torch.tensor([student.encoder.prompt("What is 2 + 3?")])
    common = {"num_thoughts": 3, "suffix_ids": torch.tensor([student.encoder.marker])}
    paused = think(student.lm, ids, torch.ones_like(ids), projection=token, jacobi_passes=1, **common)
    slots = token.embedding.detach().expand(1, 3, -1)
    forced = think(student.lm, ids, torch.ones_like(ids), forced=slots, **common)
    assert torch.equal(paused.thoughts, slots) and paused.num_passes == 2
    assert torch.allclose(paused.last, forced.last, atol=1e-5)
    paused.last[:, -1].sum().backward()
    assert token.embedding.grad is not None and token.embedding.grad.abs().sum() > 0


def test_it_is_saved_with_the_student(student: StudentModel, tmp_path: Path) -> None:
    assert isinstance(student.projection, PauseToken)
    with torch.no_grad():
        student.projection.embedding.add_(0.5)
    student.save_pretrained(tmp_path / "student")
    loaded = StudentModel.from_pretrained(tmp_path / "student")
    assert isinstance(loaded.projection, PauseToken)
    assert torch.equal(loaded.projection.embedding, student.projection.embedding)
    assert loaded.options == OPTIONS


def test_the_method_sets_it_and_is_undefined_without_slots() -> None:
    options = student_options(RunConfig.from_flat(method="pause", thought_projection="mlp", max_stage=2))
    assert (options.projection, options.jacobi_passes) == ("pause", 1)
    with pytest.raises(UserError, match='method "pause" replaces steps, but max_stage is 0'):
        RunConfig.from_flat(method="pause", max_stage=0)
