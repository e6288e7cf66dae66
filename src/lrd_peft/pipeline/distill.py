"""Phase 3: a student is trained as its method says, from problems and what the phases before have left.

Knows which trainer goes with which loss; not how a loss is computed.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import IntervalStrategy, TrainerCallback, TrainingArguments, set_seed

from lrd_peft.config import RunConfig
from lrd_peft.data import Problem
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.expected_time import tell_expected_time
from lrd_peft.pipeline.from_config import (
    epoch_restarts,
    longest_allowed,
    start_student,
    student_collator,
    student_limit,
    student_options,
    train_split,
    training_arguments,
    training_problems,
    trust,
    validation_problems,
    with_lora,
)
from lrd_peft.pipeline.ledger import PhaseNote
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.pipeline.step_decoders import add_student_decoder, decoded_steps, with_targets
from lrd_peft.pipeline.student_card import student_card
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileModel, read_sealed, write_sealed
from lrd_peft.runtime.processes import is_main, on_main
from lrd_peft.store import Store
from lrd_peft.training.alignment import attach_projectors, plan_alignment
from lrd_peft.training.callbacks import RestartOptimizer, StopWhenLevel
from lrd_peft.training.checkpoints import last_checkpoint
from lrd_peft.training.curriculum import items
from lrd_peft.training.objectives import Objective, SelfObjective, TaskObjective, TokenObjective
from lrd_peft.training.sampling import count_updates, updates_per_epoch
from lrd_peft.training.thinking_trainer import ThinkingTrainer
from lrd_peft.training.trainer import LRDPEFTTrainer

logger = logging.getLogger(__name__)

# A student of a given time is timed over so many steps, after the first ones, in which memory is still being found.
_WARM_UP_STEPS, _TIMED_STEPS = 5, 25


class AffordableSteps(FileModel):
    """Contents of student_steps.json: how many updates fit into the student's time.

    Attributes:
        seconds_per_step: measured duration of one update, in seconds.
    """

    steps: int
    seconds_per_step: float


def distill(config: RunConfig, run: RunPaths) -> PhaseNote:
    """Train the student of a run."""
    began = time.perf_counter()
    method = config.method
    assert method.trains_student, f"{config.student.method} trains no student"
    store = Store.open(run.store) if config.makes_store else None
    folder = run.checkpoints("student")
    max_steps = config.student.max_steps or -1
    if config.student.max_seconds is not None:
        max_steps = _affordable_steps(config, run, store, seconds=config.student.max_seconds)
        logger.info(f"student: {max_steps} steps fit into {config.student.max_seconds:g} seconds")
    student, trainer = _begin(config, run, store, output_dir=folder, max_steps=max_steps)
    for note in student.notes:
        logger.info(note)
    layer_map = trainer.layer_map if isinstance(trainer, LRDPEFTTrainer) else {}
    if layer_map:
        pairs = ", ".join(f"{teacher}->{own}" for teacher, own in layer_map.items())
        logger.info(f"aligned layers (teacher -> student): {pairs}")
    num_trained = student.num_parameters(trainable=True)
    base_parameters = student.num_parameters()
    how = f"LoRA r={config.adapter.lora_r}" if method.adapts_student else "all weights"
    logger.info(f"student: {num_trained} of {base_parameters} parameters are trained ({config.student.method}, {how})")
    _grade_while_training(config, student, trainer)
    checkpoint = on_main(last_checkpoint, folder)
    if not config.makes_teacher and checkpoint is None:
        tell_expected_time(config, trainer.items)
    trainer.train(resume_from_checkpoint=checkpoint)
    curve = trainer.curve()
    student.step_decoder = None
    student.eval()
    if is_main():
        pairs = {str(teacher): own for teacher, own in layer_map.items()}
        facts = {"method": config.student.method, "layer_map": pairs}
        card = student_card(config, student.describe(facts), name=run.student)
        student.save_pretrained(run.student, card=card, facts=facts)
        shutil.rmtree(folder, ignore_errors=True)
    return PhaseNote(
        curve=tuple(curve),
        wall_seconds=round(time.perf_counter() - began, 3),
        trainable_parameters=num_trained,
        total_parameters=base_parameters,
    )


def _begin(
    config: RunConfig, run: RunPaths, store: Store | None, *, output_dir: Path, max_steps: int
) -> tuple[StudentModel, ThinkingTrainer]:
    """Return a student as it is before training, and the trainer of its method; `max_steps` of -1: for the epochs."""
    set_seed(config.run.seed)
    student = start_student(config, run, student_options(config), method=config.student.method)
    if config.method.adapts_student:
        student = with_lora(config, student)
    add_student_decoder(config, run, student)
    args = training_arguments(config, student=True, epochs=config.student.epochs, output_dir=output_dir, name="student")
    args.max_steps = max_steps
    if config.reads_store:
        return student, _latent_trainer(config, store, student, args)
    return student, _other_trainer(config, run, student, args)


def _grade_while_training(config: RunConfig, student: StudentModel, trainer: ThinkingTrainer) -> None:
    """Let a trainer grade validation problems as often as the configuration asks, and stop as it asks."""
    options = config.student
    if options.eval_steps is None:
        return
    problems = validation_problems(config)
    encoded, _ = student.encoder.encode_all(problems, max_length=longest_allowed(config, student))
    fitting = [row.problem for row in encoded]
    held_out: Any = trainer.as_items(fitting) if isinstance(trainer, LRDPEFTTrainer) else items(encoded)
    trainer.eval_dataset = held_out
    trainer.args.eval_strategy, trainer.args.eval_steps = IntervalStrategy.STEPS, options.eval_steps
    logger.info(f"student: {len(fitting)} validation problems are graded every {options.eval_steps} updates")
    if options.early_stopping_patience is not None:
        trainer.add_callback(StopWhenLevel(options.early_stopping_patience))


def _affordable_steps(config: RunConfig, run: RunPaths, store: Store | None, *, seconds: float) -> int:
    """Return how many steps fit into the time, timed on a student that is thrown away and noted for a resumed run.

    Several processes take the steps together, and the number that the main one finds.
    """
    path = run.root / "student_steps.json"
    if noted := on_main(read_sealed, path):
        return AffordableSteps.from_json(noted).steps
    with tempfile.TemporaryDirectory() as folder:
        _, trainer = _begin(config, run, store, output_dir=Path(folder), max_steps=_WARM_UP_STEPS + _TIMED_STEPS)
        clock = _Clock()
        trainer.add_callback(clock)
        trainer.train()
    per_step = (clock.times[-1] - clock.times[_WARM_UP_STEPS - 1]) / _TIMED_STEPS
    note = on_main(lambda: AffordableSteps(steps=max(1, int(seconds / per_step)), seconds_per_step=per_step))
    if is_main():
        write_sealed(path, note)
    return note.steps


class _Clock(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.times.append(time.perf_counter())


def _latent_trainer(
    config: RunConfig, store: Store | None, student: StudentModel, args: TrainingArguments
) -> LRDPEFTTrainer:
    """Return the trainer of a latent method; without a store, alpha is 0 and the problems come from the data sets."""
    chosen = None
    if store is None:
        data = training_problems(config, student, student=True)
        for line in data.report:
            logger.info(line)
        problems = list(data.problems)
    else:
        problems = [Problem.from_row(store.row(i)) for i in range(len(store))]
    if store is not None and config.student.num_student_problems is not None:
        wanted = {(problem.id, problem.question) for problem in train_split(config, limit=student_limit(config))}
        chosen = [i for i, problem in enumerate(problems) if (problem.id, problem.question) in wanted]
        if not chosen:
            raise UserError(
                f"num_student_problems is {config.student.num_student_problems}, but all of these problems are longer "
                "than the teacher's context; raise it"
            )
        logger.info(f"student: {len(chosen)} of {len(problems)} training problems")
    if config.distill.reads_states:
        # Here rather than in `train`: the projectors are drawn from the run's seed, right after the adapters.
        attach_projectors(student, plan_alignment(student, store=store, problems=problems, config=config.distill))
    return LRDPEFTTrainer(
        student_model=student,
        store=store,
        train_dataset=problems,
        train_indices=chosen,
        args=args,
        callbacks=epoch_restarts(config, args, num_problems=len(problems if chosen is None else chosen)),
        thoughts_per_step=config.thinking.thoughts_per_step,
        uniform_prob=config.teacher.uniform_prob,
        **config.distill.model_dump(),
    )


def _other_trainer(config: RunConfig, run: RunPaths, student: StudentModel, args: TrainingArguments) -> ThinkingTrainer:
    """Return the trainer of a method that reads no store."""
    method = config.method
    data = training_problems(config, student, student=True)
    for line in data.report:
        logger.info(line)
    encoded = with_targets(config, student, data.encoded)
    decoded = decoded_steps(student, weight=config.distill.step_loss_weight)
    collator = student_collator(
        config,
        student,
        num_updates=count_updates(args, len(encoded)),
        per_epoch=updates_per_epoch(args, len(encoded)),
        longest_steps=max(row.num_step_tokens for row in data.encoded),
    )
    objective: Objective = TaskObjective(
        step_loss_weight=config.distill.step_loss_weight if config.follows_curriculum else 0.0, decoded=decoded
    )
    if method.objective == "tokens":
        teacher = TeacherModel.from_pretrained(run.teacher / "cot", **trust(config))
        options = config.student
        objective = TokenObjective(student, teacher, alpha=options.token_alpha, temperature=options.temperature)
    elif method.objective == "self":
        paths = config.both_paths
        objective = SelfObjective(
            student,
            encoded,
            weight=config.student.codi_weight,
            distance=paths.self_distance,
            scale=paths.self_scale,
            with_embeddings=paths.self_layer0,
            drop_last_step=paths.drop_last_step,
            written_weight=paths.written_weight,
            decoded=decoded,
        )
    trainer = ThinkingTrainer(
        student,
        objective=objective,
        items=encoded,
        collator=collator,
        args=args,
        label=config.student.method,
        callbacks=epoch_restarts(config, args, num_problems=len(encoded)),
    )
    if config.stage_plan.rises:
        trainer.add_callback(RestartOptimizer(collator.scheduled_stage))
    return trainer
