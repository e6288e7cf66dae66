"""The formulas of the dry run against what torch counts: operations, saved activations, parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lrd_peft.config import RunConfig
from lrd_peft.curriculum import StageCollator, items
from lrd_peft.data.collate import IGNORED
from lrd_peft.data.generators import generate
from lrd_peft.experiments.cost import (
    H100,
    Machine,
    Pass,
    activation_bytes,
    batch_cost,
    passes,
    shape_of,
    training_memory,
    writing,
)
from lrd_peft.experiments.work import Lengths, Run, of_phases
from lrd_peft.lora import create_lora_model
from lrd_peft.model.models import StudentModel
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingOptions

ROWS = 8


def batch_of(model: StudentModel, stage: int, *, with_steps: bool = False) -> Any:
    problems = list(generate("gsm-mini", split="train", num_problems=ROWS, seed=0))
    rows = items(model.encoder.encode_many(problems))
    return StageCollator(model, stage=stage, max_stage=4, thoughts_per_step=1, with_steps=with_steps)(rows)


def tiny(name: str, *, lora: bool, attention: str) -> tuple[StudentModel, int]:
    """Return a model to train and the parameters of its adapters."""
    model = StudentModel(name, options=ThinkingOptions(num_thoughts=4), attn_implementation=attention)
    if lora:
        model = create_lora_model(model, r=16)
    return model.train(), model.num_parameters(trainable=True) if lora else 0


@pytest.mark.parametrize("stage", [0, 2, 4])
@pytest.mark.parametrize(("name", "lora"), [("tiny-teacher", False), ("tiny-student", True)])
def test_operations_of_training_are_those_that_torch_counts(name: str, lora: bool, stage: int) -> None:
    # torch counts no operations of the CPU's fused attention, and all of eager attention's
    model, adapters = tiny(name, lora=lora, attention="eager")
    batch = batch_of(model, stage)
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss_sum.backward()
    num_labels = int(batch["labels"].ne(IGNORED).sum()) / ROWS
    calls = passes(batch["question_ids"].shape[1], batch["num_thoughts"], batch["suffix_ids"].shape[1])
    ours = batch_cost(
        shape_of(unwrap(model.lm).config),
        calls,
        rows=ROWS,
        labels=num_labels,
        trained="lora" if lora else "all",
        adapters=adapters,
    )
    assert ours.flops == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize(("name", "lora"), [("tiny-teacher", False), ("tiny-student", True)])
def test_operations_of_steps_that_thoughts_write_are_those_that_torch_counts(name: str, lora: bool) -> None:
    model, adapters = tiny(name, lora=lora, attention="eager")
    counts = []
    batch = batch_of(model, 4, with_steps=True)
    for chosen in (batch, batch_of(model, 4)):
        with FlopCounterMode(display=False) as counter:
            output = model(**chosen)
            loss = output.loss_sum if output.step_loss_sum is None else output.loss_sum + output.step_loss_sum
            loss.backward()
        counts.append(counter.get_total_flops())
    num_steps, length = batch["step_labels"].shape
    ours = batch_cost(
        shape_of(unwrap(model.lm).config),
        [Pass(length, length, rows=num_steps / ROWS)],
        rows=ROWS,
        labels=int(batch["step_labels"].ne(IGNORED).sum()) / ROWS,
        trained="lora" if lora else "all",
        adapters=adapters,
    )
    assert ours.flops == pytest.approx(counts[0] - counts[1], rel=0.03)


def test_steps_that_thoughts_write_cost_their_phase_so_many_calls_more() -> None:
    model, _ = tiny("tiny-student", lora=False, attention="sdpa")
    shape = shape_of(unwrap(model.lm).config)

    def costs(**weights: float) -> dict[str, Any]:
        config = RunConfig(method="latent-full", epochs=2, num_validation_problems=0, **weights)  # pyright: ignore
        lengths = Lengths(question=20, steps=40, marker=3, answer=2)
        run = Run(config, shape, shape, 0, 0, lengths, num_problems=100, num_held_out=10)
        return {phase: cost.flops for phase, cost in of_phases(run).items()}

    plain = costs()
    # four steps of ten tokens; in phase 1 one, two, three and four of them, an epoch each
    one = batch_cost(shape, [Pass(10, 10)], rows=100, labels=10, trained="all").flops
    more = costs(teacher_step_loss_weight=0.5, step_loss_weight=0.5)
    assert more["teacher"] - plain["teacher"] == pytest.approx(10 * one)
    assert more["student"] - plain["student"] == pytest.approx(2 * 4 * one)
    assert (more["store"], more["evaluation"]) == (plain["store"], plain["evaluation"])


def test_a_students_curriculum_costs_what_its_stages_cost() -> None:
    model, _ = tiny("tiny-student", lora=False, attention="sdpa")
    shape = shape_of(unwrap(model.lm).config)

    def student(method: str = "latent-full", **settings: Any) -> float:
        config = RunConfig(method=method, **{"epochs": 2, "max_stage": 4, **settings})
        lengths = Lengths(question=20, steps=40, marker=3, answer=2)
        run = Run(config, shape, shape, 0, 0, lengths, num_problems=100, num_held_out=10)
        return of_phases(run)["student"].flops

    def stage(steps: float, thoughts: int) -> float:
        calls = passes(20, thoughts, steps + 5)
        return 2 * batch_cost(shape, calls, rows=100, labels=steps + 5, trained="all").flops

    assert student() == pytest.approx(stage(0, 4))
    rising = (stage(40, 0) + stage(30, 1) + stage(20, 2) + stage(10, 3)) / 4
    assert student(student_curriculum=0.5) == pytest.approx(rising / 2 + stage(0, 4) / 2)
    assert student(max_stage=0, student_curriculum=0.5) == pytest.approx(stage(40, 0))
    forced = student(thoughts_from="teacher")
    more = 2 * 4 * batch_cost(shape, [Pass(10, 10)], rows=100, labels=10, trained="all").flops
    assert student(thoughts_from="teacher", step_loss_weight=0.5) == pytest.approx(forced + more)
    # Steps that go without thoughts in their place, over the first half.
    without = (stage(40, 0) + stage(30, 0) + stage(20, 0) + stage(10, 0)) / 4
    assert student("icot") == pytest.approx(without / 2 + stage(0, 0) / 2)
    assert student(num_student_problems=25) == pytest.approx(student() / 4)
    assert student(max_steps=50, batch_size=4) == pytest.approx(student())
    assert student(num_student_problems=1000) == pytest.approx(student())


def test_operations_of_a_forward_pass_are_those_that_torch_counts() -> None:
    model, _ = tiny("tiny-teacher", lora=False, attention="eager")
    batch = batch_of(model, 4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch, layers=[12], with_loss=False)
    calls = passes(batch["question_ids"].shape[1], 4, batch["suffix_ids"].shape[1])
    shape = shape_of(unwrap(model.lm).config)
    ours = batch_cost(shape, calls, rows=ROWS, labels=0, trained="nothing")
    assert ours.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("stage", [0, 4])
@pytest.mark.parametrize(("name", "lora"), [("tiny-teacher", False), ("tiny-student", True)])
def test_activations_are_those_that_autograd_keeps(name: str, lora: bool, stage: int) -> None:
    model, _ = tiny(name, lora=lora, attention="sdpa")
    batch = batch_of(model, stage)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no other takes its place in memory
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(**batch)
    assert output.loss_sum.requires_grad
    calls = passes(batch["question_ids"].shape[1], batch["num_thoughts"], batch["suffix_ids"].shape[1])
    shape = shape_of(unwrap(model.lm).config)
    ours = activation_bytes(shape, calls, rows=ROWS, labels=0, item_bytes=4)
    assert ours == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.1)


def test_a_model_worked_out_by_hand() -> None:
    model, _ = tiny("tiny-student", lora=False, attention="sdpa")
    shape = shape_of(unwrap(model.lm).config)
    # four of 72 x 72, gate, up and down of 72 x 192, in six blocks
    assert shape.matrices == 6 * (4 * 72 * 72 + 3 * 72 * 192)
    assert (shape.blocks, shape.width, shape.kv_width, shape.mlp_width) == (6, 72, 72, 192)
    assert shape.parameters == model.num_parameters()


def test_calls_of_the_thinking_loop() -> None:
    assert passes(10, 0, 5) == [Pass(15, 15)]
    assert passes(10, 3, 5) == [Pass(10, 10), Pass(1, 11), Pass(1, 12), Pass(6, 18)]
    # the marker goes with the last slot; the first token needs no call of its own
    assert writing(10, 2, 3, forced=4) == [Pass(10, 10), Pass(1, 11), Pass(5, 16), Pass(1, 17), Pass(1, 18)]


def test_a_call_is_bound_by_arithmetic_or_by_memory() -> None:
    machine = Machine("made", flops_per_second=100, bytes_per_second=10, memory_bytes=1, utilisation=0.5)
    assert machine.seconds(1000, 10) == 20
    assert machine.seconds(10, 1000) == 200
    assert H100.utilisation < 1


def test_memory_of_what_is_trained_and_what_is_not() -> None:
    model, _ = tiny("tiny-student", lora=False, attention="sdpa")
    shape = shape_of(unwrap(model.lm).config)
    memory = training_memory(shape, trained="all", half=False, activations=7)
    assert memory.total == 16 * shape.parameters + 7  # float32 weight, gradient, two moments
    memory = training_memory(shape, trained="lora", adapters=100, half=True, activations=0)
    assert (memory.weights, memory.gradients, memory.optimizer) == (2 * shape.parameters + 600, 400, 800)


def test_memory_of_a_training_that_is_spread() -> None:
    model, _ = tiny("tiny-student", lora=False, attention="sdpa")
    shape = shape_of(unwrap(model.lm).config)
    memory = training_memory(shape, trained="all", half=True, activations=7, spread_over=4)
    # a quarter of float32 weights, gradients and moments; beside it weights and gradients as they are computed with
    assert memory.total == (4 + 2 + 2) * shape.parameters + 7
    memory = training_memory(shape, trained="lora", adapters=100, half=True, activations=0, spread_over=2)
    assert memory.weights == 2 * shape.parameters * 1.5 + 200 + 200
