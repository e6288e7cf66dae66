"""Saved models come back with the same logits: whole, adapters, projections, projectors, markers. And solving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from lrd_peft.data.collate import collate
from lrd_peft.lora import create_lora_model
from lrd_peft.model.generation import answer_batch
from lrd_peft.model.loading import embedded
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.serialization import DESCRIPTION
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.checksums import write_checksums
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.curriculum import items, row_at
from tests import tiny
from tests.test_lora import randomise


def outputs(model: ThinkingModel, *, num_thoughts: int = 2) -> Tensor:
    """What a model makes of two problems: its loss and its thoughts in one tensor."""
    rows = [
        row_at(item, stage=num_thoughts, thoughts_per_step=1, model=model)
        for item in items(model.encoder.encode_many(tiny.problems(2)))
    ]
    model.eval()
    with torch.no_grad():
        output = model(**collate(rows, pad_id=0))
    return torch.cat([output.loss_sum[None], output.thoughts.flatten()])


def shaken(model: ThinkingModel, *, seed: int = 5) -> None:
    """Move everything that is ours and not the LM's away from where it starts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("lm."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("projection", ["none", "linear", "mlp"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_what_is_saved_comes_back(family: str, projection: str, lora: bool, tmp_path: Path):
    student = tiny.student(family, options={"projection": projection})
    if lora:
        student = create_lora_model(student, r=2)
        randomise(student)
    shaken(student)
    expected = outputs(student)
    student.save_pretrained(tmp_path / "model")
    loaded = StudentModel.from_pretrained(tmp_path / "model")
    assert torch.equal(outputs(loaded), expected)
    assert loaded.options == student.options and loaded.has_adapters is lora
    assert not loaded.training
    torch.manual_seed(1)
    plain = tiny.student(family, options={"projection": projection})
    assert not lora or not torch.allclose(outputs(plain), expected, atol=1e-3)


def test_a_full_model_is_a_plain_transformers_folder(tmp_path: Path):
    teacher = tiny.teacher(seed=3)
    teacher.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, teacher.lm(ids).logits)


def test_an_adapter_loads_with_plain_peft(tmp_path: Path):
    student = create_lora_model(tiny.student(), r=2)
    randomise(student)
    student.attach_projectors([1], teacher_hidden_size=32)
    student.save_pretrained(tmp_path / "model", card="# A card")
    assert not (tmp_path / "model" / "model.safetensors").exists()
    assert (tmp_path / "model" / "README.md").read_text() == "# A card"
    base = AutoModelForCausalLM.from_pretrained(tiny.folder())
    plain = PeftModel.from_pretrained(base, str(tmp_path / "model")).eval()
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, student.eval().lm(ids).logits)


@pytest.mark.parametrize("given", [{}, {"projectors": {}, "thought_adapter": False}], ids=["bare", "described"])
def test_projectors_and_thought_adapter_come_back(given: dict[str, Any], tmp_path: Path):
    student = create_lora_model(tiny.student(), r=2)
    student.attach_projectors([1, 3], teacher_hidden_size=32, thoughts=True)
    shaken(student)
    student.save_pretrained(tmp_path / "model", facts=given)
    loaded = StudentModel.from_pretrained(tmp_path / "model")
    assert sorted(loaded.projectors) == ["1", "3"] and loaded.thought_adapter is not None
    ours = {name: value for name, value in student.state_dict().items() if not name.startswith("lm.")}
    theirs = {name: value for name, value in loaded.state_dict().items() if not name.startswith("lm.")}
    assert ours.keys() == theirs.keys() and len(ours) == 6
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    states = torch.randn(1, 2, 16)
    assert loaded.project(3, states).shape == (1, 2, 32)
    torch.testing.assert_close(loaded.project(3, states), student.project(3, states))


def test_equal_widths_need_no_projectors():
    student = tiny.student()
    student.attach_projectors([1], teacher_hidden_size=16, thoughts=True)
    assert len(student.projectors) == 0 and student.thought_adapter is None
    states = torch.randn(1, 2, 16)
    assert student.project(1, states) is states


def test_trainable_leaves_adapters_open(tmp_path: Path):
    create_lora_model(tiny.teacher(), r=2).save_pretrained(tmp_path / "model")
    closed, opened = (
        TeacherModel.from_pretrained(tmp_path / "model"),
        TeacherModel.from_pretrained(tmp_path / "model", trainable=True),
    )
    assert closed.num_parameters(trainable=True) == 0
    assert opened.num_parameters(trainable=True) == create_lora_model(tiny.teacher(), r=2).num_parameters(
        trainable=True
    )


def test_an_adapter_on_a_saved_model_finds_that_one_again(tmp_path: Path):
    """Not the base that the saved model began from: the shapes are the same, the weights are not."""
    first = tiny.student()
    with torch.no_grad():
        for parameter in first.lm.parameters():
            parameter.add_(0.1)
    first.save_pretrained(tmp_path / "full")
    student = create_lora_model(StudentModel.from_pretrained(tmp_path / "full"), r=2)
    randomise(student)
    student.save_pretrained(tmp_path / "adapter")
    assert torch.equal(outputs(StudentModel.from_pretrained(tmp_path / "adapter")), outputs(student))
    again = StudentModel.from_pretrained(tmp_path / "full")
    assert again.name == first.name


# Markers


def without_markers(folder: Path) -> str:
    """A copy of the tiny Llama whose tokenizer has no <bot> and <eot>: the last two ids are free for them."""
    shutil.copytree(tiny.folder(), folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace("<bot>", "<one>").replace("<eot>", "<two>"))
    return str(folder)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("new", [False, True], ids=["known", "new"])
def test_markers_come_back(lora: bool, new: bool, tmp_path: Path):
    base = without_markers(tmp_path / "base") if new else tiny.folder()
    student = StudentModel(base, options=ThinkingOptions(num_thoughts=2, markers=True))
    num_rows = tiny.student().lm.get_input_embeddings().weight.shape[0]  # pyright: ignore
    assert len(student.new_token_ids) == (2 if new else 0)
    if lora:
        student = create_lora_model(student, r=2)
        randomise(student)
    with torch.no_grad():
        for name, parameter in student.lm.named_parameters():
            if "trainable_tokens" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    if lora and new:
        trained = [name for name, p in student.lm.named_parameters() if p.requires_grad and "lora_" not in name]
        assert len(trained) == 1 and "trainable_tokens" in trained[0]
    expected = outputs(student)
    student.save_pretrained(tmp_path / "model")
    loaded = StudentModel.from_pretrained(tmp_path / "model")
    assert torch.equal(outputs(loaded), expected)
    prompt, suffix = loaded.around_thoughts((5,), (6,), num_thoughts=2)
    assert loaded.around_thoughts((5,), (6,), num_thoughts=0) == ((5,), (6,))
    assert prompt == (5, loaded.tokenizer.convert_tokens_to_ids("<bot>")) and suffix[1:] == (6,)
    assert len(loaded.tokenizer) == num_rows + 2 * new


def test_a_new_marker_starts_at_the_mean_and_the_same_each_time(tmp_path: Path):
    base = without_markers(tmp_path / "base")
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(StudentModel(base, options=ThinkingOptions(markers=True)))
    first, second = (model.lm.get_input_embeddings().weight for model in made)
    assert torch.equal(first, second)
    torch.testing.assert_close(first[-1], first[:-2].mean(dim=0))


def test_a_new_marker_starts_as_the_token_that_is_named(tmp_path: Path):
    base = without_markers(tmp_path / "base")
    student = StudentModel(base, options=ThinkingOptions(markers=True, marker_init=" + "))
    (source,) = student.tokenizer(" + ")["input_ids"]
    weight = student.lm.get_input_embeddings().weight  # pyright: ignore
    assert torch.equal(weight[-1], weight[source]) and torch.equal(weight[-2], weight[source])
    with torch.no_grad():
        weight[-2:] += 1.0
    student.save_pretrained(tmp_path / "model")
    again = StudentModel.from_pretrained(tmp_path / "model").lm.get_input_embeddings().weight  # pyright: ignore
    assert torch.equal(again, weight)
    with pytest.raises(UserError, match=r"marker_init is '3 \+ 4', which is 3 tokens"):
        StudentModel(base, options=ThinkingOptions(markers=True, marker_init="3 + 4"))


def test_markers_leave_the_other_special_tokens_special(tmp_path: Path):
    base = without_markers(tmp_path / "base")
    tokenizer = StudentModel(base, options=ThinkingOptions(markers=True)).tokenizer
    ids = tokenizer("<one><two><bot><eot>", add_special_tokens=False)["input_ids"]
    assert len(ids) == 4
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""


# What is refused


def edited(folder: Path, **changes: Any) -> None:
    path = folder / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    write_checksums(folder)


@pytest.mark.parametrize("size", [{"width": 32}, {"blocks": 2}, {"blocks": 4}, {"family": "gpt2"}], ids=str)
def test_an_adapter_on_another_base_is_refused(size: dict[str, Any], tmp_path: Path):
    student = create_lora_model(tiny.student(), r=2)
    randomise(student)
    student.save_pretrained(tmp_path / "model")
    edited(tmp_path / "model", base=tiny.folder(**size), base_weights=None)
    with pytest.raises(UserError, match="does not fit the base model"):
        StudentModel.from_pretrained(tmp_path / "model")


def test_an_adapter_on_other_weights_of_the_same_shape_is_refused_with_both_named(tmp_path: Path):
    """PEFT alone would put it on them without a word."""
    student = create_lora_model(tiny.student(), r=2)
    student.save_pretrained(tmp_path / "model")
    other = tiny.student(seed=1)
    edited(tmp_path / "model", base=other.base)
    trained_on, given = student.base_weights, other.base_weights
    with pytest.raises(UserError, match=f"with weights {trained_on}; .* has weights {given} now"):
        StudentModel.from_pretrained(tmp_path / "model")
    # In another precision the weights are other numbers, so that nothing can be said.
    assert StudentModel.from_pretrained(tmp_path / "model", dtype="bfloat16").has_adapters


@pytest.mark.parametrize("name", ["tiny-teacher", "tiny-student"])
def test_the_embedded_models_are_told_apart(name: str, tmp_path: Path):
    student = create_lora_model(StudentModel(name), r=2)
    student.save_pretrained(tmp_path / "model")
    assert StudentModel.from_pretrained(tmp_path / "model").base_weights == student.base_weights
    edited(tmp_path / "model", base=tiny.folder())
    with pytest.raises(UserError, match=f"was trained on {tiny.folder()!r} with weights {student.base_weights}"):
        StudentModel.from_pretrained(tmp_path / "model")


def test_projectors_of_another_width_are_refused_with_both_named(tmp_path: Path):
    student = tiny.student()
    student.attach_projectors([2], teacher_hidden_size=32)
    create_lora_model(student, r=2).save_pretrained(tmp_path / "model")
    other = create_lora_model(tiny.student(width=24), r=2)
    other.attach_projectors([2], teacher_hidden_size=32)
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "model" / "lrd_extra.safetensors", tmp_path / "other")
    write_checksums(tmp_path / "other")
    with pytest.raises(UserError, match=r"of width 24: projectors\.2\.weight is \[32, 16\] there and \[32, 24\] here"):
        StudentModel.from_pretrained(tmp_path / "other")


def test_extra_tensors_of_another_width_are_refused(tmp_path: Path):
    student = tiny.student(options={"projection": "linear"})
    student.save_pretrained(tmp_path / "model")
    edited(tmp_path / "model", options={**student.options.to_dict(), "projection": "none"})
    with pytest.raises(UserError, match=r"does not fit this model.*projection"):
        StudentModel.from_pretrained(tmp_path / "model")


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no config\.json, so it is not a model folder"):
        StudentModel.from_pretrained(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0")
    with pytest.raises(UserError, match=r"no finished student .*finish it with `lrd run`"):
        StudentModel.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no finished teacher .*finish it with `lrd run`"):
        TeacherModel.from_pretrained(tmp_path)
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match=r"is damaged"):
        StudentModel.from_pretrained(tmp_path)


def test_a_model_object_needs_its_tokenizer():
    with pytest.raises(UserError, match="needs its tokenizer"):
        StudentModel(tiny.lm("llama", vocabulary=50))


def test_an_unknown_projection_is_refused():
    with pytest.raises(UserError, match=r'"cubic".*none, linear, mlp'):
        tiny.student(options={"projection": "cubic"})


# Names, fingerprints, precision


def test_an_embedded_model_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(tiny.folder(), tmp_path / "tiny-student")
    shutil.copytree(tiny.folder(width=32), tmp_path / "tiny-teacher")
    monkeypatch.setattr(embedded, "assets_folder", lambda: tmp_path)
    student, teacher = StudentModel("tiny-student"), TeacherModel("tiny-teacher")
    assert (student.name, student.hidden_size) == ("tiny-student", 16)
    assert (teacher.name, teacher.hidden_size) == ("tiny-teacher", 32)
    create_lora_model(student, r=2).save_pretrained(tmp_path / "model")
    description = json.loads((tmp_path / "model" / DESCRIPTION).read_text())
    assert description["base"] == "tiny-student"
    assert StudentModel.from_pretrained(tmp_path / "model").name == "tiny-student"


def test_fingerprints_follow_weights_adapters_and_projection():
    prints = [tiny.teacher().fingerprints(), tiny.teacher().fingerprints()]
    assert prints[0] == prints[1]
    adapted = create_lora_model(tiny.teacher(), r=2)
    before = adapted.fingerprints()
    randomise(adapted)
    projected = tiny.teacher(options={"projection": "linear"})
    seeded = tiny.teacher(seed=9)
    seen = {model["teacher"] for model in (prints[0], before, adapted.fingerprints(), projected.fingerprints())}
    assert len(seen | {seeded.fingerprints()["teacher"]}) == 5
    assert {prints[0]["tokenizer"]} == {projected.fingerprints()["tokenizer"]}


@pytest.mark.parametrize("projection", ["none", "linear", "mlp"])
def test_half_precision_models_think_and_solve(projection: str):
    student = StudentModel(
        tiny.folder(), options=ThinkingOptions(num_thoughts=2, projection=projection), dtype="bfloat16"
    )
    (solution,) = student.solve([tiny.problems(1)[0].question_text], max_new_tokens=3)
    assert solution.num_tokens <= 3


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_layer_0_at_a_slot_is_the_thought_itself(family: str):
    """Also where the architecture adds a position to its inputs: what is stored there can be fed in again."""
    model = tiny.teacher(family)
    rows = [
        row_at(item, stage=2, thoughts_per_step=1, model=model, last=True)
        for item in items(model.encoder.encode_many(tiny.problems(3)))
    ]
    batch = collate(rows, pad_id=0)
    with torch.no_grad():
        for positions in ("thoughts", "thoughts+answer", "all"):
            output = model(**batch, layers=[0, 2], positions=positions)
            start = batch["question_ids"].shape[1] if positions == "all" else 0
            assert torch.equal(output.states[0][:, start : start + 2], output.thoughts)


# Solving


def test_solve_answers_each_question_as_alone():
    student = create_lora_model(tiny.student(), r=2)
    randomise(student)
    questions = [problem.question_text for problem in tiny.problems(3)]
    student.train()
    solutions = student.solve(questions, max_new_tokens=5, top_tokens=2)
    assert student.training
    assert [solution.question for solution in solutions] == questions
    for question, solution in zip(questions, solutions, strict=True):
        (alone,) = student.solve([question], max_new_tokens=5, top_tokens=2)
        assert alone == solution
        assert solution.text.startswith("### ") and solution.answer == solution.text[4:].strip()
        assert [len(slot) for slot in solution.thoughts] == [2, 2]
        assert solution.num_passes == 3 + max(0, solution.num_tokens - 1)
    assert student.solve([]) == []


def test_solve_wants_a_list():
    with pytest.raises(UserError, match="must be a list"):
        tiny.student().solve("one question")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_question_beyond_the_context_gets_nothing_and_the_others_their_answers(family: str):
    student = tiny.student(family)
    question = tiny.problems(1)[0].question_text
    long = " ".join(["7"] * 90)  # 180 tokens, the context is 160
    (alone,) = answer_batch(student, [question], thinking=True, max_new_tokens=200)
    nothing, row = answer_batch(student, [long, question], thinking=True, max_new_tokens=200)
    assert (nothing.tokens, nothing.num_passes, nothing.finished) == ((), 0, False)
    assert row.tokens == alone.tokens
    assert [each.num_passes for each in answer_batch(student, [long], thinking=True, max_new_tokens=4)] == [0]
    with pytest.raises(UserError, match=r"'7 7 7.*context of 160 tokens.*shorten"):
        student.solve([question, long])
