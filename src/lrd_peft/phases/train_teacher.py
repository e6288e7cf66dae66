"""Phase 1: a teacher learns to think, stage by stage. Knows no students.

    stage 0    all steps written                      -> teacher/cot
    stage k    the first k steps are thoughts
    last       all steps are thoughts                 -> teacher/latent

The optimizer starts anew at each stage (COCONUT, arXiv 2412.06769). A finished stage is saved before the next begins.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import set_seed

from lrd_peft.checkpoints import last_checkpoint
from lrd_peft.checksums import folder_damages
from lrd_peft.config import RunConfig
from lrd_peft.curriculum import Item, StageCollator, items
from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.metrics import wilson
from lrd_peft.evaluation.score import score, written_limit
from lrd_peft.model.models import TeacherModel
from lrd_peft.model.saving import read_description, save_model
from lrd_peft.processes import is_main, on_main, wait
from lrd_peft.run_folder import RunFolder
from lrd_peft.run_inputs import (
    held_out,
    load_options,
    some_training_problems,
    thinking_options,
    training_arguments,
    training_problems,
    trust,
    with_lora,
)
from lrd_peft.training import ThinkingTrainer


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
    last = config.max_stage
    plan = [Stage(0, config.epochs_stage0, last == 0)]
    if config.needed_teacher == "cot":
        return plan
    for number in range(1, last + 1):
        epochs = config.last_stage_epochs if number == last else config.epochs_per_stage
        plan.append(Stage(number, epochs, number == last))
    return plan


def train_teacher(config: RunConfig, run: RunFolder) -> None:
    """Run the stages that are not finished yet and mark the phase as done."""
    plan = stages(config)
    done = on_main(_whole_stages, run, plan)
    teacher = _teacher(config, run, done[-1] if done else None)
    wait()  # all have loaded what is there before one puts something else in its place
    data = training_problems(config, teacher)
    for line in data.report:
        print(line)
    encoded = items(data.encoded)
    validation: list[Problem] = []
    if config.num_validation_problems:
        for name in config.dataset_parts:
            validation += held_out(config, name, split="validation", limit=config.num_validation_problems)
    if done and done[0] != plan[0]:
        # The teacher with written steps was lost and those with thoughts were not.
        _run_stage(config, run, _teacher(config, run, None), plan[0], encoded, validation, history=[])
    history: list[dict[str, Any]] = []
    if done:
        print(f"teacher: stage {done[-1].number} is finished, going on")
        history = on_main(read_description, run.teacher / done[-1].folder)["history"]
    for stage in plan[plan.index(done[-1]) + 1 if done else 0 :]:
        history = _run_stage(config, run, teacher, stage, encoded, validation, history=history)
    run.finish(
        "teacher",
        config,
        {
            "history": history,
            "num_train_problems": len(encoded),
            "wall_seconds": round(sum(note["wall_seconds"] for note in history), 3),
            "trainable_parameters": teacher.num_parameters(trainable=True),
            "total_parameters": teacher.num_parameters(),
        },
    )


def _whole_stages(run: RunFolder, plan: list[Stage]) -> list[Stage]:
    return [stage for stage in plan if _is_whole(run, stage)]


def _is_whole(run: RunFolder, stage: Stage) -> bool:
    """Return whether a stage's teacher is there, and as it was written."""
    folder = run.teacher / stage.folder
    if not folder.is_dir():
        return False
    found = folder_damages(folder)
    if f"teacher/{stage.folder}" in run.replaced("teacher"):
        found.append(f"{stage.folder} is not what this run made")
    if found:
        print(f"teacher: {found[0]}, trained again")
    return not found


def _run_stage(
    config: RunConfig,
    run: RunFolder,
    teacher: TeacherModel,
    stage: Stage,
    encoded: list[Item],
    validation: list[Problem],
    *,
    history: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Train, validate and save one stage; return the history with its note."""
    began = time.perf_counter()
    teacher.options = replace(teacher.options, num_thoughts=stage.number * config.thoughts_per_step)
    note: dict[str, Any] = {"stage": stage.number, "epochs": stage.epochs, "curve": []}
    if stage.epochs > 0:
        note["curve"] = _train_stage(config, run, teacher, stage, encoded)
    if validation:
        note |= _validate(config, teacher, stage, validation, some_training_problems(config))
    note["wall_seconds"] = round(time.perf_counter() - began, 3)
    history = [*history, note]
    if is_main():
        save_model(teacher, run.teacher / stage.folder, description={"stage": stage.number, "history": history})
        shutil.rmtree(run.checkpoints(f"teacher-{stage.number}"), ignore_errors=True)
        if stage.number > 1:
            shutil.rmtree(run.teacher / f"stage-{stage.number - 1}", ignore_errors=True)
    run.log("stage finished", stage=stage.number, accuracy=note.get("accuracy"))
    return history


def _teacher(config: RunConfig, run: RunFolder, after: Stage | None) -> TeacherModel:
    """Load the teacher as the last finished stage left it, or from its base."""
    options = load_options(config, student=False)
    if after is not None:
        folder = run.teacher / after.folder
        teacher = TeacherModel.load(folder, trainable=True, **trust(config))
    else:
        set_seed(config.problems_seed)
        teacher = TeacherModel(config.teacher, options=thinking_options(config, num_thoughts=0), **options)
        if config.teacher_tuning != "full":
            teacher = with_lora(config, teacher)
    for note in teacher.notes:
        print(note)
    return teacher


def _train_stage(
    config: RunConfig, run: RunFolder, teacher: TeacherModel, stage: Stage, encoded: list[Item]
) -> list[dict[str, Any]]:
    name = f"teacher-{stage.number}"
    folder = run.checkpoints(name)
    trainer = ThinkingTrainer(
        teacher,
        items=encoded,
        collator=StageCollator(
            teacher,
            stage=stage.number,
            max_stage=config.max_stage,
            thoughts_per_step=config.thoughts_per_step,
            uniform_prob=config.uniform_prob,
            seed=config.problems_seed,
        ),
        args=training_arguments(config, student=False, epochs=stage.epochs, output_dir=folder, name=name),
        label=f"teacher, stage {stage.number} of {config.max_stage}",
        # Stage 0 is also the teacher of methods without thoughts: it has the weight not even for steps drawn later.
        step_loss_weight=config.teacher_step_loss_weight if stage.number > 0 else 0.0,
    )
    trainer.train(resume_from_checkpoint=on_main(last_checkpoint, folder))
    return trainer.curve()


def _validate(
    config: RunConfig, teacher: TeacherModel, stage: Stage, problems: list[Problem], known: Sequence[Problem]
) -> dict[str, Any]:
    """Return the accuracy on validation problems, answered as the stage teaches."""
    results = score(
        teacher,
        problems,
        thinking=stage.number > 0,
        force_marker=stage.is_last and stage.number > 0,
        batch_size=config.eval_batch_size,
        max_new_tokens=config.max_new_tokens or written_limit(teacher, known, thinking=False),
        label=f"validation, stage {stage.number}",
    )
    num_right = sum(result.right for result in results)
    low, high = wilson(num_right, len(results))
    print(f"stage {stage.number}: {num_right}/{len(results)} validation problems right ({low:.1%} to {high:.1%})")
    return {"num_right": num_right, "num_validation": len(results), "accuracy": num_right / len(results)}
