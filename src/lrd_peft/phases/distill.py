"""Phase 3: a student learns the task and the stored states, through LoRA adapters only. Knows no teacher model."""

from __future__ import annotations

import shutil
import time
from typing import Any

from transformers import set_seed

from lrd_peft.checkpoints import last_checkpoint
from lrd_peft.config import RunConfig
from lrd_peft.data import Problem
from lrd_peft.lora import create_lora_model
from lrd_peft.model.models import StudentModel
from lrd_peft.model.saving import save_model
from lrd_peft.run_folder import RunFolder
from lrd_peft.run_inputs import load_options, thinking_options, training_arguments
from lrd_peft.store import Store
from lrd_peft.trainer import LRDPEFTTrainer


def distill(config: RunConfig, run: RunFolder) -> None:
    """Train the student of a run folder from its store and mark the phase as done."""
    began = time.perf_counter()
    run.require("store", config)
    set_seed(config.seed)
    store = Store.open(run.store)
    problems = [Problem.from_row(store.row(i)) for i in range(len(store))]
    student = StudentModel(config.student, options=thinking_options(config), **load_options(config, student=True))
    for note in student.notes:
        print(note)
    base_parameters = student.num_parameters()
    student = create_lora_model(
        student,
        config.lora_r,
        config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_targets,
    )
    folder = run.checkpoints("student")
    trainer = LRDPEFTTrainer(
        student_model=student,
        store=store if config.distill_alpha > 0 or config.thoughts_from != "student" else None,
        train_dataset=problems,
        distill_alpha=config.distill_alpha,
        distill_layers=config.distill_layers,
        student_layers=config.student_layers,
        normalize=config.normalize,
        distill_loss=config.distill_loss,
        positions=config.positions,
        thoughts_from=config.thoughts_from,
        args=training_arguments(
            config,
            output_dir=folder,
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            batch_size=config.batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            name="student",
        ),
    )
    if trainer.layer_map:
        pairs = ", ".join(f"{teacher}->{own}" for teacher, own in trainer.layer_map.items())
        print(f"layers of the teacher -> of the student: {pairs}")
    print(
        f"student: {student.num_parameters(trainable=True)} of {base_parameters} parameters are trained "
        f"(LoRA r={config.lora_r})"
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    curve = trainer.curve()
    num_trained = student.num_parameters(trainable=True)
    student.eval()
    save_model(
        student,
        run.student,
        card=_card(config, student),
        description={
            "layer_map": {str(teacher): own for teacher, own in trainer.layer_map.items()},
        },
    )
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


def _card(config: RunConfig, student: StudentModel) -> str:
    """Return the model card of the adapter."""
    facts: dict[str, Any] = {
        "base model": student.source,
        "teacher": config.teacher,
        "training problems": config.dataset,
        "thoughts": student.options.num_thoughts,
        "alpha": config.distill_alpha,
        "distilled layers of the teacher": list(config.distill_layers),
        "LoRA": f"r={config.lora_r}, alpha={config.lora_alpha}, targets {config.lora_targets}",
        "seed": config.seed,
    }
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return (
        "---\nlibrary_name: peft\ntags: [latent-reasoning, lora, lrd-peft]\n---\n\n"
        "# A student that reasons in continuous thoughts\n\n"
        f"{lines}\n\n"
        "The adapter is plain PEFT: `PeftModel.from_pretrained(base, folder)`. To let it think, use "
        '`lrd_peft.StudentModel.load(folder).solve(["question"])`. Its accuracy stands in the run\'s evaluation.json.\n'
    )
