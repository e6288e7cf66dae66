"""What a configuration would do, without weights: parameters, size of the store, work. Knows configurations."""

from __future__ import annotations

from dataclasses import dataclass

from peft import LoraConfig, get_peft_model
from transformers.pytorch_utils import Conv1D

from lrd_peft.config import RunConfig, dump_yaml
from lrd_peft.distillation import map_layers
from lrd_peft.errors import UserError
from lrd_peft.experiments.preflight import student_config, teacher_config
from lrd_peft.model.facts import block_count, count_parameters, hidden_size, meta_model
from lrd_peft.run_inputs import train_split
from lrd_peft.store import StoreSpec, estimate_bytes

# Where the problems cannot be read: guesses at the tokens of a question and of its written steps, and GSM8K's size.
_ASSUMED_TOKENS, _ASSUMED_PROBLEMS = (70, 130), 7_473
_CHARS_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-adds counted as two operations: 2 N per token forward, 6 N forward and backward, N parameters."""

    teacher: float
    store: float
    student: float


def dry_run(config: RunConfig) -> str:
    """Return the resolved configuration, parameter counts, size of the store and an estimate of the work.

    No weights are loaded and nothing is written.
    """
    teacher, student = teacher_config(config, published=True), student_config(config, published=True)
    pairs = map_layers(
        config.distill_layers,
        teacher_blocks=block_count(teacher),
        student_blocks=block_count(student),
        student_layers=config.student_layers,
    )
    meta = meta_model(student)
    adapted = get_peft_model(
        meta,
        LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            target_modules=config.lora_targets if isinstance(config.lora_targets, str) else list(config.lora_targets),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in meta.modules()),
            task_type="CAUSAL_LM",
        ),
    )
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    num_problems, question, written, source = _lengths(config)
    spec = StoreSpec(
        fingerprints={},
        teacher_name=config.teacher,
        layers=config.stored_layers,
        num_thoughts=config.num_thoughts,
        hidden_size=hidden_size(teacher),
        num_blocks=block_count(teacher),
        num_problems=num_problems,
        positions=config.positions,
        dtype=config.store_dtype,
    )
    per_problem = config.num_thoughts + (config.positions == "thoughts+answer")
    if config.positions == "all":
        per_problem = round(question) + config.num_thoughts + 8
    size = estimate_bytes(spec, per_problem * num_problems)
    num_teacher, num_student = count_parameters(teacher), count_parameters(student)
    work = _work(config, num_teacher, num_student, num_problems, question, written)
    lines = [
        dump_yaml(config).rstrip(),
        "",
        f"teacher: {config.teacher}, {block_count(teacher)} blocks, width {hidden_size(teacher)}, "
        f"{num_teacher:,} parameters",
        f"student: {config.student}, {block_count(student)} blocks, width {hidden_size(student)}, "
        f"{num_student:,} parameters ({num_student / num_teacher:.1%} of the teacher's)",
        f"trained in the student: {trainable:,} parameters (LoRA r={config.lora_r})",
        "layers of the teacher -> of the student: " + ", ".join(f"{a}->{b}" for a, b in pairs.items()),
        f"problems: {num_problems:,} ({source}), about {question:.0f} tokens in the question, {written:.0f} written",
        f"store: {size / 1e9:.3f} GB ({per_problem} positions a problem, {len(spec.layers)} layers, {spec.dtype})",
        f"work in 10^12 operations: teacher {work.teacher / 1e12:,.2f}, store {work.store / 1e12:,.2f}, "
        f"student {work.student / 1e12:,.2f}",
    ]
    return "\n".join(lines)


def _lengths(config: RunConfig) -> tuple[int, float, float, str]:
    """Return the number of training problems, mean tokens of question and written text, and where they come from."""
    try:
        problems = train_split(config, limit=config.num_train_problems)
    except UserError as error:
        count = config.num_train_problems or _ASSUMED_PROBLEMS
        return count, *_ASSUMED_TOKENS, f"assumed, the data cannot be read: {error}"
    sample = problems[:500]
    # Words and signs of the generated sets are one token each; elsewhere a token has about four characters.
    question = sum(len(p.question_text) for p in sample) / len(sample) / _CHARS_PER_TOKEN
    written = sum(len("\n".join(p.steps)) + len(p.answer) for p in sample) / len(sample) / _CHARS_PER_TOKEN
    return len(problems), question, written, "read, tokens estimated at four characters each"


def _work(
    config: RunConfig, num_teacher: int, num_student: int, num_problems: int, question: float, written: float
) -> Work:
    thoughts, answer = config.num_thoughts, 6
    stage0 = config.epochs_stage0 * (question + written)
    middle = sum(
        config.epochs_per_stage
        * (question + stage * config.thoughts_per_step + written * (1 - stage / max(1, config.max_stage)))
        for stage in range(1, config.max_stage)
    )
    last = config.last_stage_epochs * (question + thoughts + answer) if config.max_stage else 0.0
    sequence = question + thoughts + answer
    return Work(
        teacher=6.0 * num_teacher * num_problems * (stage0 + middle + last),
        store=2.0 * num_teacher * num_problems * sequence,
        student=6.0 * num_student * num_problems * config.epochs * sequence,
    )
