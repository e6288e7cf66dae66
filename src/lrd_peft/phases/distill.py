"""Phase 3: a student is trained as its method says, from problems and what the phases before have left.

Knows which trainer goes with which loss; not how a loss is computed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments, set_seed

from lrd_peft.callbacks import RestartOptimizer
from lrd_peft.checkpoints import last_checkpoint
from lrd_peft.checksums import read_sealed, write_sealed
from lrd_peft.config import RunConfig
from lrd_peft.curriculum import StageCollator, items
from lrd_peft.data import Problem
from lrd_peft.errors import UserError
from lrd_peft.methods import METHODS
from lrd_peft.model.models import StudentModel, TeacherModel
from lrd_peft.model.saving import save_model
from lrd_peft.processes import is_main, on_main
from lrd_peft.run_folder import RunFolder
from lrd_peft.run_inputs import (
    start_student,
    student_limit,
    student_options,
    train_split,
    training_arguments,
    training_problems,
    trust,
    with_lora,
)
from lrd_peft.sampling import count_steps
from lrd_peft.store import Store
from lrd_peft.student_trainers import SelfDistillationTrainer, TokenDistillationTrainer
from lrd_peft.trainer import LRDPEFTTrainer
from lrd_peft.training import ThinkingTrainer

# A student of a given time is timed over so many steps, after the first ones, in which memory is still being found.
_WARM_UP_STEPS, _TIMED_STEPS = 5, 25


def distill(config: RunConfig, run: RunFolder) -> None:
    """Train the student of a run folder and mark the phase as done."""
    began = time.perf_counter()
    method = METHODS[config.method]
    assert method.trains != "nothing", f"{config.method} trains no student"
    if method.needs == "store":
        run.require("store", config)
    if method.needs == "teacher/cot" or config.student_weights == "trained":
        run.require("teacher", config)
    store = Store.open(run.store) if method.needs == "store" else None
    folder = run.checkpoints("student")
    max_steps = config.max_steps or -1
    if config.max_seconds is not None:
        max_steps = _affordable_steps(config, run, store, seconds=config.max_seconds)
        print(f"student: {max_steps} steps fit into {config.max_seconds:g} seconds")
    student, trainer = _begin(config, run, store, output_dir=folder, max_steps=max_steps)
    for note in student.notes:
        print(note)
    layer_map = trainer.layer_map if isinstance(trainer, LRDPEFTTrainer) else {}
    if layer_map:
        pairs = ", ".join(f"{teacher}->{own}" for teacher, own in layer_map.items())
        print(f"layers of the teacher -> of the student: {pairs}")
    num_trained = student.num_parameters(trainable=True)
    base_parameters = student.num_parameters()
    how = f"LoRA r={config.lora_r}" if method.trains == "lora" else "all weights"
    print(f"student: {num_trained} of {base_parameters} parameters are trained ({config.method}, {how})")
    trainer.train(resume_from_checkpoint=on_main(last_checkpoint, folder))
    curve = trainer.curve()
    student.eval()
    if is_main():
        pairs = {str(teacher): own for teacher, own in layer_map.items()}
        description = {"method": config.method, "layer_map": pairs}
        save_model(student, run.student, card=_card(config, student), description=description)
        shutil.rmtree(folder, ignore_errors=True)
    run.finish(
        "student",
        config,
        {
            "curve": curve,
            "wall_seconds": round(time.perf_counter() - began, 3),
            "trainable_parameters": num_trained,
            "total_parameters": base_parameters,
        },
    )


def _begin(
    config: RunConfig, run: RunFolder, store: Store | None, *, output_dir: Path, max_steps: int
) -> tuple[StudentModel, ThinkingTrainer]:
    """Return a student as it is before training, and the trainer of its method; `max_steps` of -1: for the epochs."""
    set_seed(config.seed)
    student = start_student(config, run, student_options(config), method=config.method)
    if METHODS[config.method].trains == "lora":
        student = with_lora(config, student)
    args = training_arguments(config, student=True, epochs=config.epochs, output_dir=output_dir, name="student")
    args.max_steps = max_steps
    if store is not None:
        return student, _latent_trainer(config, store, student, args)
    return student, _other_trainer(config, run, student, args)


def _affordable_steps(config: RunConfig, run: RunFolder, store: Store | None, *, seconds: float) -> int:
    """Return how many steps fit into the time, timed on a student that is thrown away and noted for a resumed run.

    Several processes take the steps together, and the number that the main one finds.
    """
    path = run.root / "student_steps.json"
    if noted := on_main(read_sealed, path):
        return int(noted["steps"])
    with tempfile.TemporaryDirectory() as folder:
        _, trainer = _begin(config, run, store, output_dir=Path(folder), max_steps=_WARM_UP_STEPS + _TIMED_STEPS)
        clock = _Clock()
        trainer.add_callback(clock)
        trainer.train()
    per_step = (clock.times[-1] - clock.times[_WARM_UP_STEPS - 1]) / _TIMED_STEPS
    note = on_main(lambda: {"steps": max(1, int(seconds / per_step)), "seconds_per_step": per_step})
    if is_main():
        write_sealed(path, note)
    return int(note["steps"])


class _Clock(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.times.append(time.perf_counter())


def _latent_trainer(config: RunConfig, store: Store, student: StudentModel, args: TrainingArguments) -> LRDPEFTTrainer:
    problems = [Problem.from_row(store.row(i)) for i in range(len(store))]
    chosen = None
    if config.num_student_problems is not None:
        wanted = {(problem.id, problem.question) for problem in train_split(config, limit=student_limit(config))}
        chosen = [i for i, problem in enumerate(problems) if (problem.id, problem.question) in wanted]
        if not chosen:
            raise UserError(
                f"num_student_problems is {config.num_student_problems}, and all of these problems are longer than the "
                "teacher's context; raise it"
            )
        print(f"student: {len(chosen)} of {len(problems)} training problems")
    return LRDPEFTTrainer(
        student_model=student,
        store=store if config.distill_alpha > 0 or config.thoughts_from != "student" else None,
        train_dataset=problems,
        train_indices=chosen,
        distill_alpha=config.distill_alpha,
        alpha_schedule=config.alpha_schedule,
        distill_layers=config.distill_layers,
        student_layers=config.student_layers,
        normalize=config.normalize,
        distill_loss=config.distill_loss,
        positions=config.positions,
        align_to=config.align_to,
        projector_init=config.projector_init,
        thoughts_from=config.thoughts_from,
        curriculum=config.student_curriculum,
        step_loss_weight=config.step_loss_weight,
        thoughts_per_step=config.thoughts_per_step,
        args=args,
    )


def _other_trainer(
    config: RunConfig, run: RunFolder, student: StudentModel, args: TrainingArguments
) -> ThinkingTrainer:
    """Return the trainer of a method that reads no store."""
    method = METHODS[config.method]
    data = training_problems(config, student, student=True)
    for line in data.report:
        print(line)
    encoded = items(data.encoded)
    # rows -> stage, thoughts for a step. A stage above 0 without thoughts takes the steps away.
    stage, thoughts_per_step = {
        "steps": (0, 0),
        "answer": (1, 0),
        "stages": (config.max_stage, 0),
        "both": (config.max_stage, config.thoughts_per_step),
    }[method.rows]
    rise = count_steps(args, len(encoded)) / 2 if method.rows == "stages" else 0
    collator = StageCollator(student, stage, max_stage=stage, thoughts_per_step=thoughts_per_step, rise_steps=rise)
    parts: dict[str, Any] = {"items": encoded, "collator": collator, "args": args, "label": config.method}
    if method.loss == "tokens":
        teacher = TeacherModel.load(run.teacher / "cot", **trust(config))
        return TokenDistillationTrainer(
            student, teacher=teacher, alpha=config.token_alpha, temperature=config.temperature, **parts
        )
    if method.loss == "self":
        return SelfDistillationTrainer(student, weight=config.codi_weight, **parts)
    trainer = ThinkingTrainer(student, **parts)
    if method.rows == "stages":
        trainer.add_callback(RestartOptimizer(collator.stage_at))
    return trainer


def _card(config: RunConfig, student: StudentModel) -> str:
    """Return the model card of the student."""
    method = METHODS[config.method]
    lora = method.trains == "lora"
    facts: dict[str, Any] = {
        "method": f"{config.method} ({method.title})",
        "paper": method.paper or "none",
        "base model": student.source,
        "teacher": config.teacher if method.needs != "nothing" else "none",
        "training problems": config.dataset
        if config.num_student_problems is None
        else f"{config.dataset}, the first {config.num_student_problems} of each",
        "thoughts": student.options.num_thoughts,
        "trained": f"LoRA r={config.lora_r}, alpha={config.lora_alpha}, {config.lora_targets}"
        if lora
        else "all weights",
        "seed": config.seed,
    }
    if method.loss == "latent":
        facts |= {
            "alpha": config.distill_alpha,
            "distilled layers of the teacher": list(config.distill_layers),
        }
        if config.alpha_schedule != "constant":
            facts["course of alpha"] = config.alpha_schedule
        if config.student_curriculum > 0:
            facts["share of its steps over which thoughts replaced steps"] = config.student_curriculum
        if config.step_loss_weight > 0:
            facts["weight of the steps that thoughts write"] = config.step_loss_weight
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    how = "in continuous thoughts" if method.thinks else "in written steps" if method.rows == "steps" else "at once"
    plain = (
        "The adapter is plain PEFT: `PeftModel.from_pretrained(base, folder)`."
        if lora
        else "The folder is a plain transformers model."
    )
    return (
        f"---\nlibrary_name: {'peft' if lora else 'transformers'}\ntags: [latent-reasoning, lrd-peft]\n---\n\n"
        f"# A student that answers {how}\n\n"
        f"{lines}\n\n"
        f"{plain} To let it answer as it was trained, use "
        '`lrd_peft.StudentModel.load(folder).solve(["question"])`. Its accuracy stands in the run\'s evaluation.json.\n'
    )
