"""LRDPEFTTrainer: what must not change its result, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from lrd_peft.model.loop import unwrap
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.curriculum import StageCollator, items
from lrd_peft.training.objectives import LatentObjective, TaskObjective
from lrd_peft.training.thinking_trainer import ThinkingTrainer
from lrd_peft.training.trainer import LRDPEFTTrainer
from lrd_peft.training.training_arguments import LRDPEFTConfig
from tests import tiny
from tests.training.small import LAYERS, assert_close, assert_same_runs, make_store, moved, student, trainer, weights

# Adam turns rounding into steps of its own size; plain gradient descent shows what the gradients are.
SGD = {"optim": "sgd", "learning_rate": 0.1}
WIDER: dict[str, Any] = {"width": 32, "seed": 4}


def accumulated(num: int) -> dict[str, Any]:
    return {"per_device_train_batch_size": 8 // num, "gradient_accumulation_steps": num, **SGD}


# One result however it is computed


@pytest.mark.parametrize("num", [8, 4])
@pytest.mark.parametrize("positions", ["thoughts+answer", "all", None], ids=str)
def test_accumulated_batches_equal_one_large_batch(positions: str | None, num: int, tmp_path: Path):
    after = []
    for parts in (1, num):
        own = student()
        options: dict[str, Any] = (
            {"distill_alpha": 0.0}
            if positions is None
            else {"teacher_model": tiny.teacher(**WIDER), "positions": positions}
        )
        run = trainer(
            tmp_path,
            student_model=own,
            train_dataset=tiny.problems(20),
            arguments=accumulated(parts),
            **options,
        )
        run.prepare()
        before = weights(own)
        run.train()
        assert run.state.global_step == 3  # 8, 8 and 4 problems
        after.append((weights(own), run.curve()))
        assert moved(before, after[-1][0])
    assert_same_runs(*after)


@pytest.mark.parametrize("uniform_prob", [0.0, 1.0])
def test_accumulation_changes_nothing_in_the_training_of_a_teacher(uniform_prob: float, tmp_path: Path):
    after = []
    for parts in (1, 8):
        model = tiny.teacher()
        encoded = items(model.encoder.encode_many(tiny.problems(16)))
        collator = StageCollator(model, stage=1, max_stage=3, thoughts_per_step=2, uniform_prob=uniform_prob, seed=5)
        ThinkingTrainer(
            model,
            objective=TaskObjective(),
            items=encoded,
            collator=collator,
            args=tiny.arguments(tmp_path, **accumulated(parts)),
        ).train()
        after.append(weights(model))
    assert_close(*after)


@pytest.mark.parametrize("thoughts_from", ["student", "teacher", "annealed", "refined"])
@pytest.mark.parametrize("positions", ["thoughts+answer", "thoughts", "all"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_online_teacher_equals_its_store(family: str, positions: str, thoughts_from: str, tmp_path: Path):
    data = tiny.problems(8)
    results = []
    for online in (True, False):
        own, teacher = student(family), tiny.teacher(family, **WIDER)
        source: dict[str, Any] = {"teacher_model": teacher}
        if not online:
            kept = "thoughts+answer" if positions == "thoughts" else positions
            source = {"store": make_store(teacher, data, tmp_path / "store", positions=kept, layers=(0, *LAYERS))}
        run = trainer(
            tmp_path,
            student_model=own,
            train_dataset=data,
            positions=positions,
            thoughts_from=thoughts_from,
            arguments=SGD,
            **source,
        )
        run.train()
        results.append((run.curve(), weights(own)))
    assert_close(results[0][1], results[1][1])
    for ours, theirs in zip(results[0][0], results[1][0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_a_bfloat16_store_is_close(tmp_path: Path):
    data, teacher = tiny.problems(8), tiny.teacher(**WIDER)
    losses = []
    for dtype in ("float32", "bfloat16"):
        store = make_store(teacher, data, tmp_path / dtype, dtype=dtype)
        run = trainer(tmp_path, store=store, train_dataset=data, arguments=SGD)
        run.train()
        losses.append(run.curve()[0]["distill"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


def test_alpha_0_is_training_on_the_task_alone(tmp_path: Path):
    data = tiny.problems(8)
    own = student()
    run = trainer(tmp_path, student_model=own, teacher_model=tiny.teacher(**WIDER), distill_alpha=0.0, arguments=SGD)
    run.train()
    assert not own.projectors and not run.layer_map
    plain = student()
    task = ThinkingTrainer(
        plain,
        objective=TaskObjective(),
        items=items(plain.encoder.encode_many(data)),
        collator=StageCollator(plain, stage=2, max_stage=2, thoughts_per_step=1),
        args=tiny.arguments(tmp_path, **SGD),
    )
    task.train()
    ours, theirs = weights(own), weights(plain)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    nearly = student()
    trainer(tmp_path, student_model=nearly, teacher_model=tiny.teacher(), distill_alpha=1e-9, arguments=SGD).train()
    assert_close(weights(nearly), theirs)


def test_a_teacher_like_the_student_costs_nothing_at_first(tmp_path: Path):
    run = trainer(tmp_path, teacher_model=tiny.teacher(), arguments={"per_device_train_batch_size": 8})
    run.train()
    assert run.curve()[0]["distill"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_logged_loss_is_the_sum_of_its_logged_parts(parts: int, tmp_path: Path):
    arguments = {"logging_steps": 3, "num_train_epochs": 4, "gradient_accumulation_steps": parts}
    run = trainer(tmp_path, teacher_model=tiny.teacher(**WIDER), distill_alpha=0.3, arguments=arguments)
    run.train()
    curve = run.curve()
    assert [row["step"] for row in curve] == [3, 6] if parts == 1 else [3]
    for row in curve:
        assert row["loss"] == pytest.approx(0.3 * row["distill"] + 0.7 * row["task"], rel=1e-4)
        layers = [row[f"distill_layer_{layer}"] for layer in LAYERS]
        assert row["distill"] == pytest.approx(sum(layers) / 3, rel=1e-4)


def test_logged_parts_are_means_over_the_steps_since_the_last_line(tmp_path: Path):
    arguments = {"num_train_epochs": 3, "eval_strategy": "steps", "eval_steps": 2}
    single = trainer(tmp_path, teacher_model=tiny.teacher(**WIDER), eval_dataset=tiny.problems(4), arguments=arguments)
    single.train()
    several = trainer(
        tmp_path,
        teacher_model=tiny.teacher(**WIDER),
        eval_dataset=tiny.problems(4),
        arguments={**arguments, "logging_steps": 3},
    )
    several.train()
    each = [row for row in single.curve() if "loss" in row]
    lines = [row for row in several.curve() if "loss" in row]
    assert len(each) == 6 and len(lines) == 2
    for name in ("loss", "task", "distill", "distill_layer_2"):
        for i, line in enumerate(lines):
            assert line[name] == pytest.approx(sum(row[name] for row in each[3 * i : 3 * i + 3]) / 3, rel=1e-3)


# Whose thoughts


def test_the_teachers_thoughts_save_passes(tmp_path: Path):
    for thoughts_from, passes in (("teacher", 1), ("refined", 2), ("student", 3)):
        own = student()
        run = trainer(
            tmp_path,
            student_model=own,
            teacher_model=tiny.teacher(**WIDER),
            thoughts_from=thoughts_from,
            arguments={"per_device_train_batch_size": 8},
        )
        calls: list[int] = []
        decoder: Any = unwrap(own.lm).base_model
        handle = decoder.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        run.train()
        handle.remove()
        assert (run.state.global_step, len(calls)) == (1, passes)


def test_annealing_goes_from_the_teachers_thoughts_to_the_students(tmp_path: Path):
    run = trainer(tmp_path, teacher_model=tiny.teacher(), thoughts_from="annealed")
    assert isinstance(run.objective, LatentObjective)
    run.state.max_steps = 1000
    taken = []
    for step in range(1000):
        run.state.global_step = step
        taken.append(run.objective.feeds_teacher_thoughts())
    assert taken[0] and sum(taken[:100]) > 85 and sum(taken[-100:]) < 15
    assert sum(taken) / 1000 == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("thoughts_from", ["student", "teacher", "refined"])
def test_projectors_and_thought_adapter_are_trained(thoughts_from: str, tmp_path: Path):
    own = student()
    run = trainer(
        tmp_path, student_model=own, teacher_model=tiny.teacher(**WIDER), thoughts_from=thoughts_from, arguments=SGD
    )
    run.prepare()
    before = weights(own)
    run.train()
    changed = moved(before, weights(own))
    expected = {f"projectors.{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
    if thoughts_from != "student":
        expected |= {"thought_adapter.weight", "thought_adapter.bias"}
    assert {name for name in changed if not name.startswith("lm.")} == expected
    assert any("lora_A" in name for name in changed) and any("lora_B" in name for name in changed)
    frozen = [name for name, p in own.named_parameters() if not p.requires_grad]
    assert frozen and not changed & set(frozen)


def test_the_teacher_stays_as_it_was(tmp_path: Path):
    teacher = tiny.teacher(**WIDER)
    before = teacher.fingerprints()
    trainer(tmp_path, teacher_model=teacher).train()
    assert teacher.fingerprints() == before


# Tokenizers


def other_tokenizer() -> dict[str, Any]:
    return {**WIDER, "num_problems": 60}


def test_latent_distillation_works_across_tokenizers(tmp_path: Path):
    own, teacher = student(), tiny.teacher(**other_tokenizer())
    assert own.tokenizer.get_vocab() != teacher.tokenizer.get_vocab()
    run = trainer(tmp_path, student_model=own, teacher_model=teacher, arguments={"num_train_epochs": 15})
    run.train()
    curve = run.curve()
    assert curve[-1]["distill"] < curve[0]["distill"]


def test_all_positions_need_one_tokenizer(tmp_path: Path):
    teacher = tiny.teacher(**other_tokenizer())
    with pytest.raises(UserError, match=r'positions="all".*one tokenizer.*thoughts\+answer'):
        trainer(tmp_path, teacher_model=teacher, positions="all")
    store = make_store(teacher, tiny.problems(8), tmp_path / "store", positions="all")
    with pytest.raises(UserError, match=r'positions="all".*one tokenizer'):
        trainer(tmp_path, store=store, positions="all")


# The specification's calls


def test_train_takes_epochs_and_learning_rate(tmp_path: Path):
    run = LRDPEFTTrainer(
        student_model=student(),
        teacher_model=tiny.teacher(),
        train_dataset=tiny.problems(8),
        eval_dataset=tiny.problems(4, seed=1),
        distill_alpha=0.1,
        distill_layers=[1, 2, 3],
        args=LRDPEFTConfig(output_dir=str(tmp_path), eval_strategy="epoch", use_cpu=True),
    )
    assert (run.args.per_device_train_batch_size, run.args.num_train_epochs, run.args.learning_rate) == (4, 3, 1e-4)
    run.train(epochs=5, learning_rate=3e-4)
    assert run.state.global_step == 10
    assert max(row["learning_rate"] for row in run.curve() if "loss" in row) <= 3e-4
    assert (run.args.num_train_epochs, run.args.learning_rate) == (3, 1e-4), "as they were"
    losses = [row["eval_loss"] for row in run.curve() if "eval_loss" in row]
    assert len(losses) == 5, "one an epoch"
    assert run.evaluate()["eval_loss"] == pytest.approx(losses[-1])


def test_a_second_call_of_train_uses_its_own_rate(tmp_path: Path):
    own = student()
    run = trainer(tmp_path, student_model=own, distill_alpha=0.0)
    run.train(epochs=1, learning_rate=1e-2)
    before = weights(own)
    run.train(epochs=1, learning_rate=0.0)
    assert not moved(before, weights(own))


def test_adamw_without_decay_and_a_tenth_of_warm_up_are_the_defaults(tmp_path: Path):
    run = LRDPEFTTrainer(
        student_model=student(),
        train_dataset=tiny.problems(8),
        distill_alpha=0.0,
        args=LRDPEFTConfig(output_dir=str(tmp_path), logging_steps=1, use_cpu=True),
    )
    run.train(epochs=10)
    rates = [row["learning_rate"] for row in run.state.log_history if "loss" in row]
    assert isinstance(run.optimizer.optimizer, torch.optim.AdamW)
    assert len(rates) == 20 and max(rates) == pytest.approx(1e-4) and rates.index(max(rates)) in (1, 2)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill_alpha": 1.5}, r"distill_alpha is 1\.5.*0 to 1"),
        ({"train_dataset": []}, "train_dataset is empty"),
        ({"thoughts_from": "nobody"}, 'thoughts_from is "nobody".*student, teacher, annealed'),
        ({"positions": "everywhere"}, r'positions is "everywhere".*thoughts\+answer, thoughts, all'),
        ({"distill_layers": (1, 4)}, "distill_layers has 4, but that model has 3 blocks"),
        ({"distill_layers": ()}, "distill_layers"),
        ({"distill_layers": (2, 2)}, "2 is listed more than once"),
        ({"distill_layers": (1, 2), "student_layers": (1,)}, "student_layers names 1 layers and distill_layers 2"),
        ({"student_layers": (1, 2, 7)}, "student_layers has 7, but that model has 3 blocks"),
        ({"distill_loss": "mae"}, 'distill_loss is "mae"; it must be one of mse, cosine, smooth-l1'),
        ({"normalize": "max"}, 'normalize is "max"; it must be one of variance, none'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, teacher_model=tiny.teacher(), **options)


def test_teacher_or_store_but_one_of_them(tmp_path: Path):
    with pytest.raises(UserError, match="a teacher_model or a store, one of the two"):
        trainer(tmp_path)
    store = make_store(tiny.teacher(), tiny.problems(8), tmp_path / "store")
    with pytest.raises(UserError, match="a teacher_model or a store, one of the two"):
        trainer(tmp_path, store=store, teacher_model=tiny.teacher())


def test_numbers_of_thoughts_must_agree(tmp_path: Path):
    with pytest.raises(UserError, match="teacher thinks 3 thoughts and the student 2"):
        trainer(tmp_path, teacher_model=tiny.teacher(num_thoughts=3))
    store = make_store(tiny.teacher(num_thoughts=3), tiny.problems(8), tmp_path / "store")
    with pytest.raises(UserError, match=r"made with 3 thoughts and the student thinks 2"):
        trainer(tmp_path, store=store)


def test_a_store_must_hold_what_is_asked_for(tmp_path: Path):
    data = tiny.problems(8)
    store = make_store(tiny.teacher(), data, tmp_path / "store", layers=(1, 2))
    for options, message in (
        ({}, r"holds layers \[1, 2\].*also asks for \[3\]"),
        ({"distill_layers": (1,), "positions": "all"}, r'positions "thoughts\+answer", the trainer wants "all"'),
        ({"distill_layers": (1,), "thoughts_from": "teacher"}, "needs layer 0"),
        ({"distill_layers": (1,), "train_dataset": data[:5]}, "holds 8 problems and train_dataset 5"),
        ({"distill_layers": (1,), "train_dataset": [*data[:6], data[7], data[6]]}, "from other problems.*problem 6"),
    ):
        with pytest.raises(UserError, match=message):
            trainer(tmp_path, store=store, **options)


def test_no_thoughts_leave_no_slots_to_distil_but_the_answer_position(tmp_path: Path):
    with pytest.raises(UserError, match="0 thoughts leaves nothing to distill"):
        trainer(
            tmp_path,
            student_model=student(num_thoughts=0),
            teacher_model=tiny.teacher(num_thoughts=0),
            positions="thoughts",
        )
    for positions in ("thoughts+answer", "all"):
        run = trainer(
            tmp_path,
            student_model=student(num_thoughts=0),
            teacher_model=tiny.teacher(num_thoughts=0, **WIDER),
            positions=positions,
        )
        run.train()
        assert run.curve()[-1]["distill"] > 0


def test_problems_beyond_the_context_are_counted_thoughts_included(tmp_path: Path):
    data = tiny.problems(4)
    own = student()
    # prompt, two thoughts, marker, answer with its end
    lengths = [len(row.prompt) + 2 + len(row.marker) + len(row.answer) for row in own.encoder.encode_many(data)]
    own.lm.config.max_position_embeddings = max(lengths)  # pyright: ignore
    trainer(tmp_path, student_model=own, train_dataset=data, distill_alpha=0.0)
    own.lm.config.max_position_embeddings = max(lengths) - 1  # pyright: ignore
    num_too_long = sum(length == max(lengths) for length in lengths)
    message = rf"{num_too_long} of 4 problems.*2 thoughts.*student's context of {max(lengths) - 1} tokens"
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, student_model=own, train_dataset=data, distill_alpha=0.0)
    long = dataclasses.replace(data[0], steps=data[0].steps * 100)  # gone at the last stage
    own.lm.config.max_position_embeddings = max(lengths)  # pyright: ignore
    trainer(tmp_path, student_model=own, train_dataset=[long, *data[1:]], distill_alpha=0.0)
