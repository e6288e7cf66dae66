"""Phase 1: a teacher learns to think, stage by stage. Knows no students.

    stage 0    all steps written                      -> teacher/cot
    stage k    the first k steps are thoughts
    last       all steps are thoughts                 -> teacher/latent

The optimizer starts anew at each stage (COCONUT, arXiv 2412.06769). A finished stage is saved before the next begins.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import set_seed

from lrd_peft.config import RunConfig
from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.metrics import wilson
from lrd_peft.evaluation.score import score, written_limit
from lrd_peft.model.serialization import read_description
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.expected_time import tell_expected_time
from lrd_peft.pipeline.from_config import (
    epoch_restarts,
    load_options,
    some_training_problems,
    thinking_options,
    training_arguments,
    training_problems,
    trust,
    validation_problems,
    with_lora,
)
from lrd_peft.pipeline.ledger import PhaseLedger, PhaseNote
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.pipeline.step_decoders import add_teacher_decoder, decoded_steps, with_targets
from lrd_peft.runtime.checksums import folder_damages
from lrd_peft.runtime.processes import is_main, on_main, wait
from lrd_peft.training.checkpoints import last_checkpoint
from lrd_peft.training.curriculum import Item, StageCollator, items
from lrd_peft.training.objectives import TaskObjective
from lrd_peft.training.thinking_trainer import ThinkingTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """One level of the curriculum, and how long it takes."""

    number: int
    epochs: float
    is_last: bool

    @property
    def folder(self) -> str:
        return "cot" if self.number == 0 else "latent" if self.is_last else f"stage-{self.number}"


def stages(config: RunConfig) -> list[Stage]:
    """Return the stages of a configuration, in order: stage 0 alone if the method needs no teacher that thinks."""
    last = config.thinking.last_stage
    plan = [Stage(number, epochs, number == last) for number, epochs in enumerate(config.stage_epochs)]
    return plan if config.trains_latent_teacher else plan[:1]


def train_teacher(config: RunConfig, run: RunPaths) -> PhaseNote:
    """Run the stages that are not finished yet."""
    plan = stages(config)
    done = on_main(_whole_stages, PhaseLedger(run, config), plan)
    teacher = _teacher(config, run, done[-1] if done else None)
    wait()  # all have loaded what is there before one puts something else in its place
    data = training_problems(config, teacher)
    for line in data.report:
        logger.info(line)
    encoded = items(data.encoded)
    validation = validation_problems(config)
    if not done:
        schedule = [(stage_collator(config, teacher, stage), stage.epochs) for stage in plan]
        tell_expected_time(config, encoded, teacher=teacher, stages=schedule)
    if done and done[0] != plan[0]:
        # The teacher with written steps was lost and those with thoughts were not.
        _run_stage(config, run, _teacher(config, run, None), plan[0], encoded, validation, history=[])
    history: list[dict[str, Any]] = []
    if done:
        logger.info(f"teacher: stage {done[-1].number} already finished, continuing")
        history = on_main(read_description, run.teacher / done[-1].folder).facts["history"]
    for stage in plan[plan.index(done[-1]) + 1 if done else 0 :]:
        history = _run_stage(config, run, teacher, stage, encoded, validation, history=history)
    return PhaseNote(
        history=tuple(history),
        wall_seconds=round(sum(note["wall_seconds"] for note in history), 3),
        trainable_parameters=teacher.num_parameters(trainable=True),
        total_parameters=teacher.num_parameters(),
    )


def _whole_stages(ledger: PhaseLedger, plan: list[Stage]) -> list[Stage]:
    return [stage for stage in plan if _is_whole(ledger, stage)]


def _is_whole(ledger: PhaseLedger, stage: Stage) -> bool:
    """Return whether a stage's teacher exists and is as it was written."""
    folder = ledger.paths.teacher / stage.folder
    if not folder.is_dir():
        return False
    found = folder_damages(folder)
    if f"teacher/{stage.folder}" in ledger.changed("teacher"):
        found.append(f"{stage.folder} is not what this run made")
    if found:
        logger.info(f"teacher: {found[0]}, retraining")
    return not found


def _run_stage(
    config: RunConfig,
    run: RunPaths,
    teacher: TeacherModel,
    stage: Stage,
    encoded: list[Item],
    validation: list[Problem],
    *,
    history: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Train, validate and save one stage; return the history with its note."""
    began = time.perf_counter()
    num_thoughts = min(stage.number, config.thinking.max_stage) * config.thinking.thoughts_per_step
    teacher.options = replace(teacher.options, num_thoughts=num_thoughts)
    note: dict[str, Any] = {"stage": stage.number, "epochs": stage.epochs, "curve": []}
    if stage.epochs > 0:
        note["curve"] = _train_stage(config, run, teacher, stage, encoded)
    if validation:
        note |= _validate(config, teacher, stage, validation, some_training_problems(config))
    note["wall_seconds"] = round(time.perf_counter() - began, 3)
    history = [*history, note]
    if is_main():
        teacher.save_pretrained(run.teacher / stage.folder, facts={"stage": stage.number, "history": history})
        shutil.rmtree(run.checkpoints(f"teacher-{stage.number}"), ignore_errors=True)
        if stage.number > 1:
            shutil.rmtree(run.teacher / f"stage-{stage.number - 1}", ignore_errors=True)
    run.log("stage finished", stage=stage.number, accuracy=note.get("accuracy"))
    return history


def _teacher(config: RunConfig, run: RunPaths, after: Stage | None) -> TeacherModel:
    """Load the teacher as the last finished stage left it, or from its base."""
    options = load_options(config, student=False)
    if after is not None:
        folder = run.teacher / after.folder
        teacher = TeacherModel.from_pretrained(folder, trainable=True, **trust(config))
    else:
        set_seed(config.run.problems_seed)
        teacher = TeacherModel(config.model.teacher, options=thinking_options(config, num_thoughts=0), **options)
        if config.teacher.teacher_tuning != "full":
            teacher = with_lora(config, teacher)
    for note in teacher.notes:
        logger.info(note)
    return teacher


def _train_stage(
    config: RunConfig, run: RunPaths, teacher: TeacherModel, stage: Stage, encoded: list[Item]
) -> list[dict[str, Any]]:
    name = f"teacher-{stage.number}"
    folder = run.checkpoints(name)
    args = training_arguments(config, student=False, epochs=stage.epochs, output_dir=folder, name=name)
    # Stage 0 is also the teacher of text methods: the weight is 0 there, even for updates that draw a later stage.
    weight = config.teacher.teacher_step_loss_weight if stage.number > 0 else 0.0
    if stage.number > 0:
        add_teacher_decoder(config, teacher)
    trainer = ThinkingTrainer(
        teacher,
        objective=TaskObjective(step_loss_weight=weight, decoded=decoded_steps(teacher, weight=weight)),
        items=with_targets(config, teacher, [item.encoded for item in encoded]),
        collator=stage_collator(config, teacher, stage),
        args=args,
        label=f"teacher, stage {stage.number} of {config.thinking.last_stage}",
        callbacks=epoch_restarts(config, args, num_problems=len(encoded)),
    )
    trainer.train(resume_from_checkpoint=on_main(last_checkpoint, folder))
    teacher.step_decoder = None
    return trainer.curve()


def stage_collator(config: RunConfig, teacher: ThinkingModel, stage: Stage) -> StageCollator:
    """Return what makes the batches of a stage, without the steps of a step loss."""
    return StageCollator(
        teacher,
        stage=stage.number,
        max_stage=config.thinking.last_stage,
        thoughts_per_step=config.thinking.thoughts_per_step,
        thinking_stages=config.thinking.max_stage,
        thoughts_fit_steps=config.thinking.thoughts_fit_steps,
        uniform_prob=config.teacher.uniform_prob,
        seed=config.run.problems_seed,
    )


def _validate(
    config: RunConfig, teacher: TeacherModel, stage: Stage, problems: list[Problem], known: Sequence[Problem]
) -> dict[str, Any]:
    """Return the accuracy on validation problems, answered as the stage teaches."""
    results = score(
        teacher,
        problems,
        thinking=stage.number > 0,
        force_marker=stage.is_last and stage.number > 0,
        batch_size=config.evaluation.eval_batch_size,
        max_new_tokens=config.evaluation.max_new_tokens or written_limit(teacher, known, thinking=False),
        label=f"validation, stage {stage.number}",
    )
    num_right = sum(result.right for result in results)
    low, high = wilson(num_right, len(results))
    logger.info(
        f"stage {stage.number}: {num_right}/{len(results)} validation problems correct ({low:.1%} to {high:.1%})"
    )
    return {"num_right": num_right, "num_validation": len(results), "accuracy": num_right / len(results)}
