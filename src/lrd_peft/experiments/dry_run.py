"""What a configuration would do, without weights: parameters, size of the store, work. Knows configurations."""

from __future__ import annotations

from dataclasses import dataclass

from peft import LoraConfig, get_peft_model
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from lrd_peft.config import RunConfig, dump_yaml
from lrd_peft.distillation import map_layers
from lrd_peft.errors import UserError
from lrd_peft.experiments.preflight import student_config, teacher_config
from lrd_peft.methods import METHODS
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
    method = METHODS[config.method]
    student = student_config(config, published=True)
    teacher = None if config.needed_teacher == "none" else teacher_config(config, published=True)
    num_student, num_teacher = count_parameters(student), count_parameters(teacher) if teacher else 0
    num_problems, question, written, source = _lengths(config)
    work = _work(config, num_teacher, num_student, num_problems, question, written)
    lines = [dump_yaml(config).rstrip(), ""]
    share = ""
    if teacher is not None:
        share = f" ({num_student / num_teacher:.1%} of the teacher's)"
        lines.append(f"teacher: {config.teacher}, {_size(teacher)}")
    trained, how = {"all": num_student, "lora": 0, "nothing": 0}[method.trains], ""
    if method.trains == "lora":
        trained, how = _adapter_parameters(config, student), f" (LoRA r={config.lora_r})"
    lines += [
        f"student: {config.student}, {_size(student)}{share}",
        f"method: {config.method} ({method.title}); phases: {', '.join(config.needed_phases)}",
        f"trained in the student: {trained:,} parameters{how}",
        f"problems: {num_problems:,} ({source}), about {question:.0f} tokens in the question, {written:.0f} written",
    ]
    if teacher is not None and method.needs == "store":
        lines += _store_lines(config, teacher, student, num_problems, question)
    lines.append(
        f"work in 10^12 operations: teacher {work.teacher / 1e12:,.2f}, store {work.store / 1e12:,.2f}, "
        f"student {work.student / 1e12:,.2f}"
    )
    return "\n".join(lines)


def _size(model: PreTrainedConfig) -> str:
    return f"{block_count(model)} blocks, width {hidden_size(model)}, {count_parameters(model):,} parameters"


def _adapter_parameters(config: RunConfig, student: PreTrainedConfig) -> int:
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
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def _store_lines(
    config: RunConfig, teacher: PreTrainedConfig, student: PreTrainedConfig, num_problems: int, question: float
) -> list[str]:
    """Return what the store would hold, and which layers would meet."""
    pairs = map_layers(
        config.distill_layers,
        teacher_blocks=block_count(teacher),
        student_blocks=block_count(student),
        student_layers=config.student_layers,
    )
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
    return [
        "layers of the teacher -> of the student: " + ", ".join(f"{a}->{b}" for a, b in pairs.items()),
        f"store: {size / 1e9:.3f} GB ({per_problem} positions a problem, {len(spec.layers)} layers, {spec.dtype})",
    ]


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
    method = METHODS[config.method]
    thoughts, answer = config.num_thoughts, 6
    stage0 = config.epochs_stage0 * (question + written)
    middle = sum(
        config.epochs_per_stage
        * (question + stage * config.thoughts_per_step + written * (1 - stage / max(1, config.max_stage)))
        for stage in range(1, config.max_stage)
    )
    last = config.last_stage_epochs * (question + thoughts + answer) if config.max_stage else 0.0
    thinking = question + thoughts + answer
    of_student = {
        "steps": question + written,
        "answer": question + answer,
        "stages": question + answer + written / 4,  # they go over the first half of the training
        "thoughts": thinking,
        "both": question + written + thinking,
        "none": 0.0,
    }[method.rows]
    beside = 2.0 * num_teacher * of_student if method.loss == "tokens" else 0.0
    return Work(
        teacher=6.0
        * num_teacher
        * num_problems
        * (stage0 if config.needed_teacher == "cot" else stage0 + middle + last),
        store=2.0 * num_teacher * num_problems * thinking if method.needs == "store" else 0.0,
        student=num_problems * config.epochs * (6.0 * num_student * of_student + beside),
    )
