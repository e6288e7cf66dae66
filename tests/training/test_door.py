"""LRDPEFTTrainer as a transformers Trainer: its constructor, its data and arguments, evaluation, saved models."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, EvalPrediction, TrainerCallback, TrainingArguments

from lrd_peft.evaluation.metrics import wilson
from lrd_peft.model.loop import unwrap
from lrd_peft.model.student import StudentModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.alignment import attach_projectors, plan_alignment
from lrd_peft.training.curriculum import items, thinking_rows
from lrd_peft.training.trainer import LRDPEFTTrainer
from lrd_peft.training.training_arguments import DISTILL_OPTIONS, LRDPEFTConfig
from tests import tiny
from tests.training.small import LAYERS, make_store, moved, student, trainer, weights

WIDER: dict[str, Any] = {"width": 32, "seed": 4}


def config(folder: Path, **changes: Any) -> LRDPEFTConfig:
    chosen: dict[str, Any] = {"distill_layers": LAYERS, "use_cpu": True, "max_steps": 2, **changes}
    return LRDPEFTConfig(output_dir=str(folder), **chosen)


def counting_calls(model: Any) -> list[int]:
    calls: list[int] = []
    unwrap(model.lm).base_model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


# The constructor


@pytest.mark.parametrize("source", ["teacher", "store"])
def test_the_constructor_runs_no_model_and_changes_none(source: str, tmp_path: Path) -> None:
    data, own, teacher = tiny.problems(8), student(), tiny.teacher(**WIDER)
    given: dict[str, Any] = {"teacher_model": teacher}
    if source == "store":
        given = {"store": make_store(teacher, data, tmp_path / "store"), "positions": "thoughts"}
    ours, theirs = counting_calls(own), counting_calls(teacher)
    before, trained = weights(own), [p.requires_grad for p in teacher.parameters()]
    run = trainer(tmp_path, student_model=own, train_dataset=data, projector_init="least-squares", **given)
    assert not ours and not theirs
    assert not own.projectors and weights(own).keys() == before.keys() and not moved(before, weights(own))
    assert [p.requires_grad for p in teacher.parameters()] == trained
    assert run.layer_map == {1: 1, 2: 2, 3: 3}
    run.train()
    assert sorted(own.projectors) == ["1", "2", "3"] and ours
    if source == "teacher":
        assert theirs and not any(p.requires_grad for p in teacher.parameters())


def test_the_variance_is_measured_and_projectors_fitted_once(tmp_path: Path) -> None:
    own, teacher = student(), tiny.teacher(**WIDER)
    run = trainer(tmp_path, student_model=own, teacher_model=teacher, projector_init="least-squares")
    run.train(learning_rate=0.0)
    fitted, calls = weights(own), counting_calls(teacher)
    run.train(learning_rate=0.0)
    assert not moved(fitted, weights(own))
    assert len(calls) == run.state.global_step * 3, "one pass per batch: a question and two thoughts"


def test_projectors_attached_before_the_training_are_kept(tmp_path: Path) -> None:
    own, teacher, data = student(), tiny.teacher(**WIDER), tiny.problems(8)
    args = config(tmp_path, learning_rate=0.0)
    plan = plan_alignment(own, teacher=teacher, problems=data, config=args.distillation())
    assert plan.projected_layers == LAYERS and not plan.reads_thoughts and not own.projectors
    attach_projectors(own, plan)
    before = weights(own)
    LRDPEFTTrainer(student_model=own, teacher_model=teacher, train_dataset=data, args=args).train()
    assert not moved(before, weights(own)) and weights(own).keys() == before.keys()


def test_a_trainings_projectors_depend_on_its_seed_alone(tmp_path: Path) -> None:
    drawn = []
    for noise, seed in ((0, 1), (3, 1), (0, 2)):
        run = trainer(tmp_path, teacher_model=tiny.teacher(**WIDER), arguments={"seed": seed})
        torch.rand(noise)
        state = torch.get_rng_state()
        run.prepare()
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(run.student.projectors["1"].weight)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


# Data

ROWS = [{**problem.to_row(), "question": problem.question} for problem in tiny.problems(8)]


class Frame:
    """What a pandas data frame offers of what is used."""

    columns = ("query", "steps", "answer")

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return [{"query": row["question"], "steps": tuple(row["steps"]), "answer": row["answer"]} for row in ROWS]


@pytest.mark.parametrize("form", ["dicts", "dataset", "renamed", "frame", "hidden states"])
def test_rows_train_as_problems_do(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = None
    data: Any = ROWS
    if form == "dataset":
        data = Dataset.from_list(ROWS)
    elif form == "renamed":
        data, columns = [{"q": row["question"], **row} for row in ROWS], {"question": "q"}
        for row in data:
            del row["question"]
    elif form == "frame":
        data, columns = Frame(), {"question": "query"}
    elif form == "hidden states":
        data = [{**row, "hidden_states": {"layer_8": [0.0]}} for row in ROWS]
    after = []
    for rows, names in ((tiny.problems(8), None), (data, columns)):
        own = student()
        with caplog.at_level(logging.WARNING):
            run = trainer(
                tmp_path, student_model=own, train_dataset=rows, eval_dataset=rows, columns=names, distill_alpha=0.0
            )
        run.train()
        after.append((weights(own), run.evaluate()["eval_loss"]))
    assert not moved(after[0][0], after[1][0]) and after[0][1] == after[1][1]
    assert ("hidden_states is ignored" in caplog.text) == (form == "hidden states")


@pytest.mark.parametrize(
    ("data", "columns", "message"),
    [
        ([{"q": "1 + 1?", "answer": "2"}], None, r'row 0 .*columns=\{"question"'),
        ([{"q": "1 + 1?", "answer": "2"}], {"question": "qu"}, r'no column "qu" for "question".*q.*answer'),
        ([{"q": "1 + 1?", "answer": "2"}], {"questoin": "q"}, r'columns maps "questoin".*Did you mean "question"'),
        ([{"question": "1 + 1?", "steps": [], "answer": ""}], None, "row 0 .* no usable problem: empty answer"),
        ([{"question": "1 + 1?", "steps": 2, "answer": "2"}], None, 'row 0 .*"steps" must be a list'),
        ("train.jsonl", None, "the data are a str"),
        ([("1 + 1?", "2")], None, "row 0 of the data is a tuple"),
        (tiny.problems(2), {"question": "q"}, "the data are problems already"),
    ],
)
def test_rows_that_cannot_be_read(data: Any, columns: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, train_dataset=data, columns=columns, distill_alpha=0.0)


# Models


def test_models_are_taken_by_name_or_as_objects(tmp_path: Path) -> None:
    models: list[Any] = [
        tiny.folder("llama"),
        AutoModelForCausalLM.from_pretrained(tiny.folder("llama")),
        student().lm,  # a PeftModel
    ]
    for student_model in models:
        run = LRDPEFTTrainer(
            student_model=student_model,
            teacher_model=tiny.folder("llama", **WIDER),
            train_dataset=tiny.problems(8),
            processing_class=tiny.tokenizer(),
            args=config(tmp_path),
        )
        run.train()
        assert run.state.global_step == 2
        assert run.student.options.num_thoughts == 4


def test_a_student_by_name_thinks_as_many_thoughts_as_the_store(tmp_path: Path) -> None:
    data = tiny.problems(8)
    store = make_store(tiny.teacher(num_thoughts=3), data, tmp_path / "store")
    run = LRDPEFTTrainer(
        student_model=tiny.folder("llama"), store=store, train_dataset=data, args=config(tmp_path / "run")
    )
    assert run.student.options.num_thoughts == 3


def test_a_model_object_needs_its_tokenizer(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.folder("llama"))
    with pytest.raises(UserError, match="tokenizer"):
        LRDPEFTTrainer(student_model=model, train_dataset=tiny.problems(8), args=config(tmp_path), distill_alpha=0.0)


def test_peft_config_adapts_the_student(tmp_path: Path) -> None:
    own = tiny.student()
    adapters = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    run = trainer(tmp_path, student_model=own, peft_config=adapters, distill_alpha=0.0)
    before = weights(own)
    assert before and all("lora_" in name for name in before)
    run.train()
    assert any("magnitude" in name for name in moved(before, weights(own)))
    with pytest.raises(UserError, match="adapters already"):
        trainer(tmp_path, student_model=own, peft_config=adapters, distill_alpha=0.0)


# Arguments


def test_callbacks_optimizers_and_metrics_are_used(tmp_path: Path) -> None:
    updates: list[int] = []
    seen: list[EvalPrediction] = []

    class Noting(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            updates.append(state.global_step)

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"found": sum(answer is not None for answer in prediction.predictions)}

    own = student()
    optimizer = torch.optim.SGD([p for p in own.parameters() if p.requires_grad], lr=0.0)
    run = trainer(
        tmp_path,
        student_model=own,
        distill_alpha=0.0,
        eval_dataset=tiny.problems(3, seed=1),
        callbacks=[Noting()],
        optimizers=(optimizer, None),
        compute_metrics=metrics,
    )
    before = weights(own)
    run.train()
    assert updates == [1, 2] and not moved(before, weights(own)), "a rate of 0"
    found = run.evaluate()
    assert found["eval_found"] == sum(answer is not None for answer in seen[0].predictions)
    assert list(seen[0].label_ids) == [problem.answer for problem in tiny.problems(3, seed=1)]


def test_an_optimizer_that_lacks_the_projectors_is_refused(tmp_path: Path) -> None:
    own = student()
    optimizer = torch.optim.SGD([p for p in own.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(UserError, match="before the student had its projectors"):
        trainer(tmp_path, student_model=own, teacher_model=tiny.teacher(**WIDER), optimizers=(optimizer, None))


def test_the_configuration_holds_the_options_and_keywords_override_it(tmp_path: Path) -> None:
    args = config(tmp_path, distill_alpha=0.3, normalize="none", alpha_schedule="falling")
    run = LRDPEFTTrainer(
        student_model=student(),
        teacher_model=tiny.teacher(),
        train_dataset=tiny.problems(8),
        args=args,
        distill_alpha=1,
    )
    assert (run.distillation.distill_alpha, run.distillation.normalize) == (1, "none")
    assert run.distillation.alpha_schedule == "falling"
    defaults = LRDPEFTConfig(output_dir=str(tmp_path))
    assert (defaults.learning_rate, defaults.per_device_train_batch_size, defaults.num_train_epochs) == (1e-4, 4, 3)
    assert (defaults.warmup_steps, defaults.weight_decay, defaults.optim) == (0.1, 0.0, "adamw_torch_fused")
    assert set(DISTILL_OPTIONS) <= {field.name for field in dataclasses.fields(LRDPEFTConfig)}


def test_layers_are_chosen_where_none_are_named(tmp_path: Path) -> None:
    run = LRDPEFTTrainer(
        student_model=student(),
        teacher_model=tiny.teacher(),
        train_dataset=tiny.problems(8),
        args=LRDPEFTConfig(output_dir=str(tmp_path), use_cpu=True),
    )
    assert run.layer_map == {1: 1, 2: 2, 3: 3}, "the last five of a teacher with three blocks"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing_factor": 0.1}, r"label_smoothing_factor is 0\.1"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha is 5"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy is 'group_by_length'"),
        ({"torch_compile": True}, "torch_compile is True"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size is True"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"},
            "load_best_model_at_end",
        ),
        ({"dataloader_drop_last": True}, "dataloader_drop_last is True"),
        ({"data_seed": 7}, "data_seed is 7"),
        ({"push_to_hub": True}, r"push_to_hub is True.*student\.push_to_hub"),
    ],
)
def test_arguments_without_effect_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **changes)
    with pytest.raises(UserError, match=message):
        LRDPEFTTrainer(
            student_model=student(),
            train_dataset=tiny.problems(8),
            eval_dataset=tiny.problems(2),
            args=args,
            distill_alpha=0.0,
        )


def test_plain_training_arguments_are_taken_and_left_alone(tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=1, report_to="none")
    run = LRDPEFTTrainer(student_model=student(), train_dataset=tiny.problems(8), args=args, distill_alpha=0.0)
    run.train(learning_rate=0.5)
    assert args.remove_unused_columns and run.args.learning_rate == args.learning_rate == 5e-5


def test_an_unknown_keyword_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no argument distil_alpha\. Did you mean .distill_alpha"):
        trainer(tmp_path, distil_alpha=0.1)


# Evaluation


def test_evaluation_is_the_loss_per_token_and_the_accuracy_of_answers(tmp_path: Path) -> None:
    own, held_out = student(), tiny.problems(5, seed=1)
    run = trainer(
        tmp_path,
        student_model=own,
        distill_alpha=0.0,
        eval_dataset=held_out,
        arguments={"per_device_eval_batch_size": 2},
    )
    found = run.evaluate()
    loss, count = 0.0, 0
    encoded = items(own.encoder.encode_many(held_out))
    for item, row in zip(encoded, thinking_rows(encoded, num_thoughts=2, model=own), strict=True):
        with torch.no_grad():
            output = own(**run.collator([item]))
        loss, count = loss + output.loss_sum.item(), count + len(row.suffix)
    assert found["eval_loss"] == pytest.approx(loss / count, rel=1e-5)
    answers = [solution.answer for solution in own.solve([problem.question_text for problem in held_out])]
    num_right = sum(ours == problem.answer for ours, problem in zip(answers, held_out, strict=True))
    low, high = wilson(num_right, 5)
    assert found["eval_accuracy"] == num_right / 5 and found["eval_num_problems"] == 5
    assert (found["eval_accuracy_low"], found["eval_accuracy_high"]) == (low, high)
    assert run.evaluate(tiny.problems(2, seed=2))["eval_num_problems"] == 2


def test_several_evaluation_sets_and_prediction(tmp_path: Path) -> None:
    sets = {"near": tiny.problems(2, seed=1), "far": ROWS[:3]}
    run = trainer(tmp_path, distill_alpha=0.0, eval_dataset=sets)
    found = run.evaluate()
    assert (found["eval_near_num_problems"], found["eval_far_num_problems"]) == (2, 3)
    predicted = run.predict(tiny.problems(4, seed=2))
    assert predicted.metrics is not None and predicted.metrics["test_num_problems"] == 4
    assert len(predicted.predictions) == 4 and list(predicted.label_ids or ()) == [
        problem.answer for problem in tiny.problems(4, seed=2)
    ]


def test_without_data_or_answers(tmp_path: Path) -> None:
    run = trainer(tmp_path, distill_alpha=0.0, arguments={"prediction_loss_only": True})
    with pytest.raises(UserError, match="no eval_dataset"):
        run.evaluate()
    assert "eval_accuracy" not in run.evaluate(tiny.problems(2))


def test_evaluation_between_updates_changes_no_weight(tmp_path: Path) -> None:
    after = []
    for evaluate in (False, True):
        own = student(lora_dropout=0.2)
        changes = {"eval_strategy": "steps", "eval_steps": 1} if evaluate else {}
        run = trainer(tmp_path, student_model=own, distill_alpha=0.0, eval_dataset=tiny.problems(3), arguments=changes)
        run.train()
        after.append(weights(own))
    assert not moved(*after)


# Saved models


def test_a_saved_model_is_loaded_by_us_and_by_peft(tmp_path: Path) -> None:
    own = student()
    run = trainer(tmp_path / "run", student_model=own, teacher_model=tiny.teacher(**WIDER))
    run.train()
    run.save_model(str(tmp_path / "saved"))
    questions = [problem.question_text for problem in tiny.problems(3)]
    expected = [solution.text for solution in own.solve(questions)]
    again = StudentModel.from_pretrained(tmp_path / "saved")
    assert [solution.text for solution in again.solve(questions)] == expected
    assert sorted(again.projectors) == ["1", "2", "3"]
    base = AutoModelForCausalLM.from_pretrained(tiny.folder("llama"))
    plain = PeftModel.from_pretrained(base, tmp_path / "saved")
    ours = {name: value for name, value in own.lm.named_parameters() if "lora_" in name}
    theirs: dict[str, nn.Parameter] = dict(plain.named_parameters())
    assert ours and all(torch.equal(value, theirs[name]) for name, value in ours.items())
