"""What is refused before a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from lrd_peft.cli.app import main
from lrd_peft.config import RunConfig
from lrd_peft.model.loading.lm import load_tokenizer
from lrd_peft.pipeline import preflight as preflight_module
from lrd_peft.pipeline.preflight import check_device, preflight
from lrd_peft.runtime.errors import UserError


def test_a_student_sees_no_more_of_an_endless_set_than_its_teacher() -> None:
    with pytest.raises(UserError, match="num_student_problems is 6001, but the teacher sees 6000 of math-mini"):
        preflight(RunConfig.from_flat(dataset="math-mini", num_student_problems=6001))
    preflight(RunConfig.from_flat(dataset="math-mini", num_student_problems=6000))
    preflight(RunConfig.from_flat(dataset="math-mini", num_student_problems=6001, num_train_problems=9000))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "float16"}, 'dtype is "float16".*use "bfloat16"'),
        ({"quantization": "4bit", "teacher_tuning": "qlora"}, 'quantization is "4bit".*ddp.yaml'),
    ],
)
def test_what_cannot_be_sharded_is_refused(options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module, "is_sharded", lambda: True)
    with pytest.raises(UserError, match=said):
        preflight(RunConfig.from_flat(**options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("cuda", "cuda:1"):
        assert main(["run", "--device", device, "--output_dir", str(tmp_path / "run")]) == 2
        out, err = capsys.readouterr()
        assert f'device is "{device}", but torch {torch.__version__} finds no CUDA GPU; use --device cpu' in err
        assert err.count("\n") == 1 and "begins" not in out
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_float16_is_not_trained_on_a_cpu() -> None:
    for device in ("cpu", None):
        with pytest.raises(UserError, match=r"float16.*use --dtype bfloat16 or float32"):
            check_device(RunConfig.from_flat(dtype="float16", device=device))
    check_device(RunConfig.from_flat(dtype="float16", device="cpu", method="base"))
    check_device(RunConfig.from_flat(dtype="bfloat16"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_targets": ["q_projj"]}, "lora_targets has q_projj"),
        ({"method": "direct", "teacher_tuning": "lora", "lora_targets": ["nope"]}, None),  # no adapters in this run
        ({"method": "distill-lora", "teacher_tuning": "lora", "lora_targets": ["nope"]}, "lora_targets has nope"),
        ({"student": "teacher:40"}, "cannot keep 40 of 12 blocks"),
        ({"student": "teacher:2", "keep_blocks": [0, 99]}, "99"),
        ({"distill_layers": [40]}, "40"),
        ({"distill_layers": [40], "distill_alpha": 0.0}, None),  # nothing is aligned
    ],
)
def test_what_a_later_phase_would_refuse(settings: dict[str, Any], message: str | None) -> None:
    config = RunConfig.from_flat(settings)
    if message is None:
        preflight(config)
        return
    with pytest.raises(UserError, match=message):
        preflight(config)


def test_a_teacher_that_cannot_be_pruned_is_refused_before_phase_1(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("tiny-teacher")
    kinds = [[["global", "local"], 3]]
    config = GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_layers=6, attention_types=kinds, num_heads=2, window_size=4
    )
    folder = tmp_path / "teacher"
    GPTNeoForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="GPTNeoForCausalLM cannot be pruned"):
        preflight(RunConfig.from_flat(teacher=str(folder), student="teacher:3", distill_layers=[2]))
