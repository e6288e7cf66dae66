"""Loading and saving in Hugging Face's shape: what a name may be, what is refused, and what stays untouched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from transformers.activations import NewGELUActivation

from lrd_peft.data.encoding import Encoder
from lrd_peft.lora import create_lora_model
from lrd_peft.model.card import MeasuredAccuracy, make_card
from lrd_peft.model.loading.device import require_device
from lrd_peft.model.loading.lm import load_lm
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.serialization import DESCRIPTION, read_description, rewrite_card
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.checksums import folder_damages
from lrd_peft.runtime.errors import UserError
from tests import tiny
from tests.test_lora import randomise

QUESTIONS = [problem.question_text for problem in tiny.problems(3)]


# Names


def make_run(folder: Path) -> Path:
    create_lora_model(tiny.student(), r=2).save_pretrained(folder / "student")
    tiny.teacher(seed=1).save_pretrained(folder / "teacher" / "cot")
    tiny.teacher(seed=2).save_pretrained(folder / "teacher" / "latent")
    return folder


def test_a_run_folder_holds_a_student_and_a_teacher(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert StudentModel.from_pretrained(run).has_adapters
    assert TeacherModel.from_pretrained(run).fingerprints() == tiny.teacher(seed=2).fingerprints()
    assert TeacherModel.from_pretrained(run / "teacher" / "cot").fingerprints() == tiny.teacher(seed=1).fingerprints()
    assert ThinkingModel.from_pretrained(run).has_adapters


def test_a_plain_model_loads_by_name_in_evaluation_mode() -> None:
    options = ThinkingOptions(num_thoughts=1)
    model = StudentModel.from_pretrained(tiny.folder(), options=options, dtype=torch.bfloat16, device="cpu")
    assert not model.training and not model.is_saved and model.options == options
    assert next(model.parameters()).dtype == torch.bfloat16
    assert not TeacherModel.from_pretrained("tiny-teacher").is_saved


def test_options_replace_the_saved_ones(tmp_path: Path) -> None:
    tiny.student(num_thoughts=3).save_pretrained(tmp_path / "model")
    assert StudentModel.from_pretrained(tmp_path / "model").options.num_thoughts == 3
    options = ThinkingOptions(num_thoughts=1)
    assert StudentModel.from_pretrained(tmp_path / "model", options=options).options == options


def test_a_student_loads_as_a_teacher_without_its_projectors(tmp_path: Path) -> None:
    student = create_lora_model(tiny.student(), r=2)
    randomise(student)
    student.attach_projectors([1], teacher_hidden_size=32, thoughts=True)
    student.save_pretrained(tmp_path / "student")
    teacher = TeacherModel.from_pretrained(tmp_path / "student")
    assert teacher.generate(QUESTIONS, max_new_tokens=6) == student.generate(QUESTIONS, max_new_tokens=6)


def test_a_revision_without_a_hub_id_is_refused(tmp_path: Path) -> None:
    tiny.student().save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r'revision is "v1", but .* is a local folder'):
        StudentModel.from_pretrained(tmp_path / "model", revision="v1")


def test_facts_are_kept(tmp_path: Path) -> None:
    tiny.student().save_pretrained(tmp_path / "model", facts={"layer_map": {"1": 2}})
    assert StudentModel.from_pretrained(tmp_path / "model").facts == {"layer_map": {"1": 2}}
    assert read_description(tmp_path / "model").facts == {"layer_map": {"1": 2}}


def test_a_description_of_another_version_is_one_line(tmp_path: Path) -> None:
    tiny.student().save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), "surprise": 1}))
    with pytest.raises(UserError, match=r"lrd_model\.json is damaged or from another version \(surprise: "):
        StudentModel.from_pretrained(tmp_path / "model")


# Answers


@pytest.mark.parametrize("make", [tiny.student, tiny.teacher])
def test_both_models_generate_and_solve(make: Any) -> None:
    model = make(num_thoughts=2).train()
    texts = model.generate(QUESTIONS, max_new_tokens=6)
    solutions = model.solve(QUESTIONS, max_new_tokens=6)
    assert texts == [solution.text for solution in solutions]
    assert all(text.startswith("### ") for text in texts)
    assert [len(solution.thoughts) for solution in solutions] == [2, 2, 2]
    assert model.training, "the mode is left as it was"


def test_the_number_of_thoughts_can_be_chosen_for_a_call() -> None:
    model, other = tiny.student(num_thoughts=2), tiny.student(num_thoughts=4)
    assert model.generate(QUESTIONS, num_thoughts=4) == other.generate(QUESTIONS)
    text = tiny.student(num_thoughts=0).generate(QUESTIONS, max_new_tokens=6)
    assert model.generate(QUESTIONS, num_thoughts=0, max_new_tokens=6) == text
    with pytest.raises(UserError, match="num_thoughts is -1; it must be at least 0"):
        model.generate(QUESTIONS, num_thoughts=-1)


# What belongs to the caller


def test_a_model_object_is_left_as_it_is() -> None:
    tokenizer = tiny.tokenizer()
    lm = tiny.lm("gpt2", vocabulary=len(tokenizer))
    before = [type(module) for module in lm.modules()]
    assert NewGELUActivation in before
    StudentModel(lm, tokenizer=tokenizer)
    assert [type(module) for module in lm.modules()] == before
    StudentModel(lm, tokenizer=tokenizer, fuse_activations=True)
    assert not any(isinstance(module, NewGELUActivation) for module in lm.modules())
    assert not any(isinstance(module, NewGELUActivation) for module in tiny.student("gpt2").modules())


def test_options_that_would_have_no_effect_are_refused() -> None:
    tokenizer = tiny.tokenizer()
    lm = tiny.lm("llama", vocabulary=len(tokenizer))
    with pytest.raises(UserError, match="loaded already, so device, dtype would have no effect"):
        StudentModel(lm, tokenizer=tokenizer, dtype="bfloat16", device="cpu")
    with pytest.raises(UserError, match='"tiny-student" is a name and brings its own tokenizer'):
        StudentModel("tiny-student", tokenizer=tokenizer)
    with pytest.raises(UserError, match="private: only used with push_to_hub=True"):
        tiny.student().save_pretrained("unused", private=True)


# What shows to be wrong at load


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder())
    lm = load_lm(tiny.folder()).lm
    tokenizer.add_tokens(["<one>", "<two>"])
    rows = lm.get_input_embeddings().num_embeddings
    message = rf"has ids up to {len(tokenizer) - 1} and the model has {rows} embeddings"
    with pytest.raises(UserError, match=message):
        StudentModel(lm, tokenizer=tokenizer)
    lm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        StudentModel.from_pretrained(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_cuda_without_cuda_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UserError, match=r'device is "cuda:1", but torch .* finds no CUDA GPU; use --device cpu'):
        require_device("cuda:1")
    with pytest.raises(UserError, match=r'device is "cuda", but torch .* finds no CUDA GPU'):
        load_lm("no-such-model", device="cuda")
    require_device("cpu")
    require_device(None)


def test_a_chat_template_that_fails_is_one_line() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ raise_exception('a system message is needed') }}"
    with pytest.raises(UserError, match=r"chat template fails .*a system message is needed.*prompt_style \"plain\""):
        Encoder(tokenizer, prompt_style="chat").prompt("a question")


def test_a_lone_surrogate_is_one_line() -> None:
    with pytest.raises(UserError, match=r"lone surrogate U\+D83D at character 6"):
        tiny.student().generate(["smile \ud83d"])
    assert tiny.student().generate(["smile \U0001f600"], max_new_tokens=1)


# Cards


def front_matter(card: str) -> list[str]:
    assert card.startswith("---\n")
    return card.split("---\n")[1].splitlines()


def test_the_card_of_an_adapter_says_what_it_is_and_runs(tmp_path: Path) -> None:
    student = create_lora_model(StudentModel("tiny-student"), r=2)
    student.save_pretrained(tmp_path / "model", card=make_card(student.describe({}), name=str(tmp_path / "model")))
    card = (tmp_path / "model" / "README.md").read_text()
    assert front_matter(card) == [
        "library_name: peft",
        "pipeline_tag: text-generation",
        "tags:",
        "- latent-reasoning",
        "- lrd-peft",
    ]
    assert "Plain PEFT loads the weights" in card and "does not think" in card
    assert '`StudentModel("tiny-student").lm.save_pretrained("base")`' in card
    snippet = card.split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {}
    exec(snippet, scope)
    assert scope["student"].has_adapters


@pytest.mark.parametrize(
    ("base", "options", "expected"),
    [
        ("owner/model", {}, "base_model: owner/model"),
        ("teacher:2", {"teacher": "tiny-teacher"}, '`StudentModel("teacher:2", teacher="tiny-teacher").lm.save'),
    ],
)
def test_the_card_says_where_the_base_is(base: str, options: dict[str, Any], expected: str) -> None:
    saved = create_lora_model(tiny.student(), r=2).describe({})
    card = make_card(saved.model_copy(update={"base": base, "load_options": options}), name="model")
    assert expected in card


@pytest.mark.parametrize(
    ("dataset", "question"), [("graph-mini+gsm-mini", r"from \d\d to \d\d or \d\d\?"), ("svamp", "Ann has 3 pens")]
)
def test_the_example_of_a_card_asks_what_the_model_has_learned(dataset: str, question: str) -> None:
    card = make_card(tiny.student().describe({}), name="model", dataset=dataset)
    assert re.search(question, card.split("## Usage")[1])


def test_a_measured_accuracy_enters_the_card_and_the_checksums_stay_valid(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny.student().save_pretrained(folder)
    assert "## Accuracy" not in (folder / "README.md").read_text()
    accuracy = [MeasuredAccuracy("gsm-mini", 30, 100, 0.219, 0.396)]
    rewrite_card(folder, make_card(read_description(folder), name="model", accuracy=accuracy))
    assert "| gsm-mini | 30.0% | 21.9% to 39.6% | 100 |" in (folder / "README.md").read_text()
    assert folder_damages(folder) == []
    (folder / "README.md").write_text("something else")
    assert folder_damages(folder) != []
