"""LoRA: the algebra in numbers, what is trained, what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, IA3Config, LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lrd_peft.lora import create_lora_model
from lrd_peft.model.loop import unwrap
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.runtime.errors import UserError
from tests import tiny


def randomise(student: StudentModel | TeacherModel, *, seed: int = 5) -> None:
    """Give every adapter weight a value: B is zero at the start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in student.lm.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def logits(lm: nn.Module) -> Tensor:
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        return lm(ids).logits


def peft_config(student: StudentModel) -> Any:
    assert isinstance(student.lm, PeftModel)
    return student.lm.peft_config["default"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_adapters_are_a_low_rank_sum(family: str):
    student = create_lora_model(tiny.student(family), r=3, lora_alpha=12)
    student.eval()
    randomise(student)
    adapted = logits(student.lm)
    plain = tiny.student(family).lm.eval()
    modules: dict[str, Any] = dict(unwrap(student.lm).named_modules())
    changed = 0
    with torch.no_grad():
        for name, module in plain.named_modules():
            own = modules.get(name)
            if own is None or not hasattr(own, "lora_A"):
                continue
            a, b = own.lora_A["default"].weight, own.lora_B["default"].weight
            assert a.shape[0] == b.shape[1] == 3
            change = 12 / 3 * b @ a
            # GPT-2's Conv1D keeps its weight transposed.
            module.weight += change.T if family == "gpt2" else change
            changed += 1
    # q, k, v, o, gate, up, down in each of three blocks; c_attn, c_proj, c_fc, c_proj in GPT-2's.
    assert changed == (21 if family == "llama" else 12)
    torch.testing.assert_close(adapted, logits(plain), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(adapted, logits(tiny.student(family).lm), atol=1e-2)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_new_adapters_change_nothing(family: str):
    before = logits(tiny.student(family).lm.eval())
    assert torch.equal(logits(create_lora_model(tiny.student(family)).eval().lm), before)


def test_only_adapters_projection_and_projectors_are_trained():
    student = tiny.student(options={"projection": "linear"})
    student.attach_projectors([1, 2], teacher_hidden_size=32, thoughts=True)
    student = create_lora_model(student, r=2)
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    own = {name for name in trained if not name.startswith("lm.")}
    assert all("lora_A" in name or "lora_B" in name for name in trained - own)
    assert len(trained - own) == 2 * 21
    assert own == {
        f"{module}.{part}"
        for module in ("projection.0", "projectors.1", "projectors.2", "thought_adapter")
        for part in ("weight", "bias")
    }
    # 16 -> 32 twice and 32 -> 16 and 16 -> 16, with biases; the rest are adapters
    extra = 2 * (16 * 32 + 32) + (32 * 16 + 16) + (16 * 16 + 16)
    # r = 2 times in + out of q, o (16, 16), k, v (16, 8), gate, up (16, 32), down (32, 16), three blocks
    adapters = 3 * 2 * (2 * 32 + 2 * 24 + 3 * 48)
    assert student.num_parameters(trainable=True) == adapters + extra


def test_the_parameters_that_answer_do_not_count_adapters():
    student = tiny.student()
    before = student.num_parameters()
    assert create_lora_model(student).num_parameters() == before


def test_the_specifications_call():
    student = tiny.student()
    result = create_lora_model(student, r=16, lora_alpha=32)
    assert result is student and result.has_adapters
    config = peft_config(student)
    assert (config.r, config.lora_alpha, config.task_type) == (16, 32, "CAUSAL_LM")
    positional = create_lora_model(tiny.student(), 8, 4)
    config = peft_config(positional)
    assert (config.r, config.lora_alpha) == (8, 4)


def test_a_teacher_takes_adapters_too():
    teacher = create_lora_model(tiny.teacher(), r=2)
    assert isinstance(teacher, TeacherModel) and teacher.has_adapters


def test_chosen_modules_only():
    student = create_lora_model(tiny.student(), r=2, target_modules=["q_proj", "v_proj"])
    adapted = {name.split(".")[-4] for name, p in student.lm.named_parameters() if p.requires_grad and "lora_" in name}
    assert adapted == {"q_proj", "v_proj"}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_warnings(family: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        create_lora_model(tiny.student(family), r=2)


def test_twice_is_refused():
    student = create_lora_model(tiny.student())
    with pytest.raises(UserError, match="has LoRA adapters already"):
        create_lora_model(student)


@pytest.mark.parametrize("targets", [["q_proj", "query"], "query"])
def test_a_target_that_is_not_there_is_refused_with_those_that_are(targets):
    with pytest.raises(UserError, match=r"query.*down_proj.*q_proj.*all-linear"):
        create_lora_model(tiny.student(), target_modules=targets)


@pytest.mark.parametrize("r", [0, -4])
def test_a_rank_below_one_is_refused(r: int):
    with pytest.raises(UserError, match=f"lora_r is {r}.*at least 1"):
        create_lora_model(tiny.student(), r=r)


# PEFT's own configuration, and its ways to name targets


def adapted_names(student: StudentModel) -> set[str]:
    return {name.split(".")[-4] for name, p in student.lm.named_parameters() if p.requires_grad and "lora_A" in name}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("q_proj", {"q_proj"}),
        (["q_proj", "mlp.up_proj"], {"q_proj", "up_proj"}),
        (r".*\.(q|v)_proj", {"q_proj", "v_proj"}),
        ([r".*\.(q|v)_proj"], {"q_proj", "v_proj"}),
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
    ids=["name", "list", "pattern", "pattern from a file", "all-linear"],
)
def test_targets_are_named_as_in_peft(targets: Any, expected: set[str]):
    assert adapted_names(create_lora_model(tiny.student(), r=2, target_modules=targets)) == expected
    config = LoraConfig(r=2, target_modules=targets)
    assert adapted_names(create_lora_model(tiny.student(), peft_config=config)) == expected


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            "input_layernorm",
            r"chooses model\.layers\.0\.input_layernorm, a LlamaRMSNorm, .*no LoRA layer; leave",
        ),
        (["q_proj", "norm"], r"chooses model\.norm, a LlamaRMSNorm"),
        ("*.q_proj", r'"\*\.q_proj", which is not a regular expression'),
        (r".*\.query", r"lora_targets has \.\*\\\.query, which this model lacks"),
    ],
)
def test_targets_that_cannot_be_adapted_are_one_line(targets: Any, message: str):
    with pytest.raises(UserError, match=message):
        create_lora_model(tiny.student(), target_modules=targets)


KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "whole-norm": {"modules_to_save": ["norm"]},
    "one-layer": {"layers_to_transform": [1]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_comes_back(kind: str, tmp_path: Path):
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], **KINDS[kind])
    student = create_lora_model(tiny.student(), peft_config=config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    expected = logits(student.eval().lm)
    assert not torch.allclose(expected, logits(tiny.student().lm), atol=1e-3)
    student.save_pretrained(tmp_path / "student")
    loaded = StudentModel.from_pretrained(tmp_path / "student")
    assert torch.equal(logits(loaded.lm), expected)
    base = AutoModelForCausalLM.from_pretrained(tiny.folder())
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path / "student").eval()), expected)
    assert loaded.num_parameters() == tiny.student().num_parameters()
    assert config.task_type is None, "the caller's configuration is left as it is"


def test_peft_finds_the_base_by_itself_where_that_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = Path(tiny.folder())
    monkeypatch.chdir(base.parent)
    student = create_lora_model(StudentModel(base.name), r=2)
    randomise(student)
    student.save_pretrained(tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "student")
    assert torch.equal(logits(plain.eval()), logits(student.eval().lm))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 8}, "r is 8, but peft_config has 4"),
        ({"lora_alpha": 1.0}, "lora_alpha is 1.0, but peft_config has 16"),
        ({"target_modules": ["v_proj"]}, "target_modules is .*v_proj.* but peft_config has"),
    ],
)
def test_an_argument_that_contradicts_peft_config_is_refused(arguments: dict[str, Any], message: str):
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj"])
    with pytest.raises(UserError, match=message):
        create_lora_model(tiny.student(), **arguments, peft_config=config)
    equal = create_lora_model(tiny.student(), 4, 16, target_modules=["q_proj"], peft_config=config)
    assert adapted_names(equal) == {"q_proj"}


def test_only_lora_is_taken():
    with pytest.raises(UserError, match="peft_config is a IA3Config; only LoraConfig is supported"):
        create_lora_model(tiny.student(), peft_config=IA3Config())
