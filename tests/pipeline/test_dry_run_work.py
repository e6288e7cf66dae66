"""What the dry run measures without weights, against the same batches on real weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lrd_peft import StudentModel, TeacherModel
from lrd_peft.config import RunConfig
from lrd_peft.model.generation import decode_batch
from lrd_peft.model.loop import unwrap
from lrd_peft.pipeline.dry_run.memory_use import TrainingMemory
from lrd_peft.pipeline.dry_run.meter import H100, Accelerator
from lrd_peft.pipeline.dry_run.phase_work import DryRun, Lengths, _by_stage
from lrd_peft.pipeline.dry_run.weightless import weightless_student, weightless_teacher
from lrd_peft.pipeline.from_config import student_options, thinking_options, with_lora
from lrd_peft.training.curriculum import StageCollator, items

LENGTHS = Lengths(question=20, steps=40, marker=3, answer=2)
ROWS = 8


def dry_run_of(lengths: Lengths = LENGTHS, **settings: Any) -> DryRun:
    chosen = {
        "dtype": "float32",
        "num_validation_problems": 0,
        "epochs": 2,
        "max_stage": 4,
        "thoughts_per_step": 1,
        **settings,
    }
    config = RunConfig.from_flat(batch_size=ROWS, teacher_batch_size=ROWS, **chosen)
    teacher = weightless_teacher(config) if config.trains_teacher else None
    return DryRun(config, teacher, weightless_student(config, teacher), lengths, num_problems=80, num_held_out=10)


def real_model(run: DryRun, *, teacher: bool, attention: str) -> TeacherModel | StudentModel:
    config = run.config
    if teacher:
        return TeacherModel("tiny-teacher", options=thinking_options(config), attn_implementation=attention).train()
    student = StudentModel("tiny-student", options=student_options(config), attn_implementation=attention)
    return with_lora(config, student).train()


def real_batch(model: Any, stage: int, *, with_steps: bool = False) -> Any:
    collator = StageCollator(model, stage=stage, max_stage=4, thoughts_per_step=1, with_steps=with_steps)
    return collator(items([LENGTHS.problem(4)] * ROWS))


@pytest.mark.parametrize("stage", [0, 2, 4])
@pytest.mark.parametrize("teacher", [True, False], ids=["all weights", "lora"])
@pytest.mark.parametrize("with_steps", [False, True], ids=["", "steps"])
def test_operations_of_training_are_those_that_torch_counts(teacher: bool, stage: int, with_steps: bool) -> None:
    run = dry_run_of(teacher_tuning="full", distill_alpha=0.0)
    # torch counts no operations of the CPU's fused attention, and all of eager attention's
    model = real_model(run, teacher=teacher, attention="eager")
    batch = real_batch(model, stage, with_steps=with_steps)
    with FlopCounterMode(display=False) as counter:
        output = model(**batch)
        (output.loss_sum if output.step_loss_sum is None else output.loss_sum + output.step_loss_sum).backward()
    sketch = run.teacher if teacher else run.student
    assert sketch is not None
    collator = StageCollator(sketch.one_block, stage, max_stage=4, thoughts_per_step=1, with_steps=with_steps)
    ours = run._teacher_batch(collator) if teacher else run._student_batch(collator)
    assert ours.work.operations == pytest.approx(counter.get_total_flops(), rel=0.04)
    # More by what flash attention computes again in its backward pass, and by the fused loss's in-place product.
    assert ours.work.operations >= counter.get_total_flops()


@pytest.mark.parametrize(("positions", "suffix"), [("thoughts", 0), ("thoughts+answer", 3), ("all", 5)])
def test_operations_of_the_store_are_those_that_torch_counts(positions: str, suffix: int) -> None:
    run = dry_run_of(positions=positions, distill_layers=(8, 12), eval_batch_size=ROWS)
    model = real_model(run, teacher=True, attention="eager").eval()
    batch = real_batch(model, 4)
    batch["suffix_ids"], batch["labels"] = batch["suffix_ids"][:, :suffix], batch["labels"][:, :suffix]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch, layers=[8, 12], positions=positions, with_loss=False)
    assert run.works()["store"].operations == pytest.approx(counter.get_total_flops() * 80 / ROWS, rel=0.001)


@pytest.mark.parametrize("thoughts", [0, 4])
def test_operations_of_answering_are_those_that_torch_counts(thoughts: int) -> None:
    run = dry_run_of()
    model = real_model(run, teacher=True, attention="eager").eval()
    questions = torch.zeros(10, 20, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        # No token has this id, so that every row writes as many tokens as it may.
        decode_batch(
            unwrap(model.lm),
            questions,
            torch.ones_like(questions),
            num_thoughts=thoughts,
            forced=(0, 0, 0) if thoughts else (),
            max_new_tokens=15,
            eos_id=-1,
        )
    assert run.teacher is not None
    ours = run._answers(run.teacher, thoughts=thoughts, num_tokens=15, count=10)
    assert ours.operations == pytest.approx(counter.get_total_flops(), rel=0.001)


@pytest.mark.parametrize("stage", [0, 4])
@pytest.mark.parametrize("teacher", [True, False], ids=["all weights", "lora"])
def test_activations_are_those_that_autograd_keeps(teacher: bool, stage: int) -> None:
    run = dry_run_of(teacher_tuning="full", distill_alpha=0.0)
    model = real_model(run, teacher=teacher, attention="sdpa")
    batch = real_batch(model, stage)
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
    sketch = run.teacher if teacher else run.student
    assert sketch is not None
    collator = StageCollator(sketch.one_block, stage, max_stage=4, thoughts_per_step=1)
    ours = run._teacher_batch(collator) if teacher else run._student_batch(collator)
    assert ours.activation_bytes == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.1)


def test_a_teachers_stages_and_step_loss_cost_what_their_batches_cost() -> None:
    run = dry_run_of(method="latent-full", teacher_step_loss_weight=0.5)
    teacher = run.teacher
    assert teacher is not None
    expected = 0.0
    for stage in range(5):
        collator = StageCollator(teacher.one_block, stage, 4, thoughts_per_step=1, with_steps=stage > 0)
        epochs = [
            run.config.teacher.epochs_stage0,
            *[run.config.teacher.epochs_per_stage] * 3,
            run.config.teacher.last_stage_epochs,
        ][stage]
        expected += run._teacher_batch(collator).work.operations * epochs * 80 / ROWS
    assert run.works()["teacher"].operations == pytest.approx(expected)
    plain = dry_run_of(method="latent-full")
    assert plain.works()["teacher"].operations < 0.9 * expected
    for phase in ("store", "student", "evaluation"):
        assert run.works()[phase].operations == pytest.approx(plain.works()[phase].operations)


def test_a_students_curriculum_costs_what_its_stages_cost() -> None:
    def student(method: str = "latent-full", **settings: Any) -> float:
        return dry_run_of(method=method, **settings).works()["student"].operations

    run = dry_run_of(method="latent-full")

    def stage(number: int, thoughts_per_step: int = 1) -> float:
        collator = StageCollator(run.student.one_block, number, 4, thoughts_per_step)
        return 2 * 80 / ROWS * run._student_batch(collator).work.operations

    # Of 20 updates the first ten rise; ten updates over four stages: 3, 2, 3, 2.
    def rising(thoughts_per_step: int) -> float:
        early = [stage(number, thoughts_per_step) for number in range(4)]
        return (3 * early[0] + 2 * early[1] + 3 * early[2] + 2 * early[3] + 10 * stage(4, thoughts_per_step)) / 20

    whole, codi = student(), student("codi")
    assert whole == pytest.approx(stage(4))
    assert student(student_curriculum=0.5) == pytest.approx(rising(1))
    assert student("icot") == pytest.approx(rising(0), rel=0.01)  # its student has no projectors
    assert student("full-finetune") == pytest.approx(stage(0), rel=0.01)
    assert codi == pytest.approx(2 * student("codi", num_student_problems=40))
    assert student(step_loss_weight=0.5) > 1.1 * whole
    assert student(num_student_problems=20) == pytest.approx(whole / 4)
    assert student(max_steps=20) == pytest.approx(whole)
    assert student(num_student_problems=1000) == pytest.approx(whole)


def test_a_training_of_millions_of_updates_is_split_by_its_shares() -> None:
    model = StudentModel("tiny-student")
    collator = StageCollator(model, 2, max_stage=2, thoughts_per_step=1, begins=(300_000, 1_200_000))
    found = [(one.stage, count) for one, count in _by_stage(collator, 3_000_000)]
    assert [stage for stage, _ in found] == [0, 1, 2]
    assert [count for _, count in found] == pytest.approx([300_000, 900_000, 1_800_000], rel=1e-3)
    few = [count for _, count in _by_stage(replace(collator, begins=(1, 3)), 7.5)]
    assert few == pytest.approx([7.5 / 8, 2 * 7.5 / 8, 5 * 7.5 / 8])


def test_teacher_thoughts_take_one_pass() -> None:
    one, many = dry_run_of(thoughts_from="teacher").works()["student"], dry_run_of().works()["student"]
    assert one.operations == pytest.approx(many.operations, rel=0.02)
    refined = dry_run_of(thoughts_from="refined").works()["student"]
    assert one.operations < refined.operations
    assert one.seconds < refined.seconds < many.seconds


def test_half_precision_halves_what_a_block_keeps() -> None:
    half, single = dry_run_of(dtype="bfloat16"), dry_run_of()
    for name, kept in half.activation_bytes().items():
        # norms compute in float32 all the same
        assert 0.5 * single.activation_bytes()[name] < kept < 0.9 * single.activation_bytes()[name]
    assert half.works()["student"].operations == pytest.approx(single.works()["student"].operations, rel=0.01)


def test_a_pass_is_bound_by_arithmetic_or_by_memory() -> None:
    accelerator = Accelerator("made", flops_per_second=100, bytes_per_second=10, utilization=0.5)
    assert accelerator.seconds(1000, 10) == 20
    assert accelerator.seconds(10, 1000) == 200
    assert H100.utilization < 1


def test_memory_of_what_is_trained_and_what_is_not() -> None:
    memory = TrainingMemory.of(num_frozen=0, num_trained=1000, half=False, activations=7)
    assert memory.total == 16 * 1000 + 7  # float32 weight, gradient, two moments
    memory = TrainingMemory.of(num_frozen=1000, num_trained=100, half=True, activations=0)
    assert (memory.weights, memory.gradients, memory.optimizer) == (2 * 1000 + 600, 400, 800)


def test_memory_of_a_training_that_is_spread() -> None:
    memory = TrainingMemory.of(num_frozen=0, num_trained=1000, half=True, activations=7, num_gpus=4)
    # a quarter of float32 weights, gradients and moments; weights and gradients as they are computed with
    assert memory.total == (4 + 2 + 2) * 1000 + 7
    memory = TrainingMemory.of(num_frozen=1000, num_trained=100, half=True, activations=0, num_gpus=2)
    assert memory.weights == 2 * 1000 * 1.5 + 200 + 200


def test_a_stage_without_updates_counts_neither_in_work_nor_in_memory() -> None:
    run = dry_run_of(Lengths(question=20, steps=400, marker=3, answer=2), epochs_of_stages=(0, 0, 0, 0, 1))
    assert [collator.stage for collator, _ in run._teacher_updates()] == [4]
