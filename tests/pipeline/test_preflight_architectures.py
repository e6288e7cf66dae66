"""An architecture that a later phase cannot use is refused before the first one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from lrd_peft import StudentModel
from lrd_peft.config import RunConfig
from lrd_peft.pipeline.preflight import preflight
from lrd_peft.runtime.errors import UserError
from tests.model.small_models import make_tokenizer
from tools.architectures import small_model


def saved(lm: PreTrainedModel, folder: Path) -> str:
    lm.save_pretrained(folder)
    make_tokenizer(pad_token="<pad>", eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    return str(folder)


def run_config(name: str, **options) -> RunConfig:
    return RunConfig.from_flat(teacher=name, student=name, max_stage=2, distill_layers=(1, 2), **options)


def test_a_teacher_that_cannot_think_is_refused(tmp_path: Path) -> None:
    name = saved(small_model("gemma3n_text"), tmp_path)
    with pytest.raises(UserError, match=r'"gemma3n_text".* reads token ids beside their embeddings'):
        preflight(run_config(name))
    with pytest.raises(UserError, match="reads token ids beside their embeddings"):
        StudentModel.from_pretrained(name)


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("mixtral", {"lora_dropout": 0.1}, "PEFT refuses these adapters"),
        ("phimoe", {}, "does not run with these adapters"),
        ("mamba2", {}, "PEFT refuses these adapters"),
    ],
)
def test_adapters_that_the_students_phase_would_refuse_are_refused_at_once(
    model_type: str, options: dict[str, float], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        preflight(run_config(saved(small_model(model_type), tmp_path), **options))


def test_a_slower_way_is_said_with_its_cost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = saved(small_model("openai-gpt"), tmp_path)
    with caplog.at_level(logging.INFO, logger="lrd_peft"):
        preflight(run_config(name))
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("teacher: no KV cache") and "N + 1 passes" in line for line in said)
    student = StudentModel.from_pretrained(name)
    assert any("no KV cache" in note for note in student.notes)
    (text,) = student.generate(["what is two plus three ?"], max_new_tokens=3, num_thoughts=2)
    assert isinstance(text, str)
