"""What a configuration would do, without weights: parameters, size of the store, operations, memory, hours."""

from __future__ import annotations

from peft import get_peft_model
from transformers import PreTrainedConfig

from lrd_peft.config import RunConfig, dump_yaml
from lrd_peft.distillation import map_layers
from lrd_peft.errors import UserError
from lrd_peft.experiments.cost import H100, Cost, Memory, shape_of, training_memory, updated_parameters
from lrd_peft.experiments.preflight import student_config, teacher_config
from lrd_peft.experiments.work import Lengths, Run, of_phases, student_activations, teacher_activations
from lrd_peft.lora import lora_config
from lrd_peft.methods import METHODS
from lrd_peft.model.facts import block_count, hidden_size, meta_model
from lrd_peft.run_inputs import held_out, quiet_libraries, train_split
from lrd_peft.store import StoreSpec, estimate_bytes

# Where the problems cannot be read: guesses at the tokens of a question and of its written steps, and the sizes of the
# published sets, to train on and to test on.
_ASSUMED_TOKENS = (70.0, 130.0)
_PUBLISHED = {"gsm8k": (7_473, 1_319), "math": (7_500, 5_000), "aqua": (97_467, 254)}
_CHARS_PER_TOKEN = 4.0
_MARKER_TOKENS = 3.0
_MANY = 8  # the other number of GPUs that hours are given for


def dry_run(config: RunConfig) -> str:
    """Return the resolved configuration, parameter counts, size of the store, operations, memory and hours.

    No weights are loaded and nothing is written.
    """
    quiet_libraries()
    method = METHODS[config.method]
    student = student_config(config, published=True)
    teacher = None if config.needed_teacher == "none" else teacher_config(config, published=True)
    lengths, num_problems, source = _lengths(config)
    run = Run(
        config=config,
        teacher=None if teacher is None else shape_of(teacher),
        student=shape_of(student),
        teacher_adapters=0 if teacher is None or config.teacher_tuning == "full" else _adapters(config, teacher),
        student_adapters=_adapters(config, student) if method.trains == "lora" else 0,
        lengths=lengths,
        num_problems=num_problems,
        num_held_out=_num_held_out(config),
    )
    lines = [dump_yaml(config).rstrip(), ""]
    share = ""
    if run.teacher is not None and teacher is not None:
        share = f" ({run.student.parameters / run.teacher.parameters:.1%} of the teacher's)"
        lines.append(f"teacher: {config.teacher}, {_size(teacher, run.teacher.parameters)}")
    trained = updated_parameters(run.student, trained=method.trains, adapters=run.student_adapters)
    how = f" (LoRA r={config.lora_r})" if method.trains == "lora" else ""
    lines += [
        f"student: {config.student}, {_size(student, run.student.parameters)}{share}",
        f"method: {config.method} ({method.title}); phases: {', '.join(config.needed_phases)}",
        f"trained in the student: {trained:,} parameters{how}",
        f"problems: {num_problems:,} to train on, {run.num_held_out:,} held out ({source})",
        f"tokens of a problem: about {lengths.question:.0f} in the question, {lengths.steps:.0f} in the steps, "
        f"{lengths.end:.0f} after them",
    ]
    if teacher is not None and method.needs == "store":
        lines += _store_lines(config, teacher, student, num_problems, lengths)
    lines += [*_disk_lines(run), "", *_work_lines(run), "", *_memory_lines(run)]
    return "\n".join(lines)


def _size(model: PreTrainedConfig, num_parameters: int) -> str:
    return f"{block_count(model)} blocks, width {hidden_size(model)}, {num_parameters:,} parameters"


def _adapters(config: RunConfig, model: PreTrainedConfig) -> int:
    """Return how many parameters LoRA adds to a model."""
    meta = meta_model(model)
    chosen = lora_config(meta, r=config.lora_r, lora_alpha=config.lora_alpha, target_modules=config.lora_targets)
    adapted = get_peft_model(meta, chosen)
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def _store_lines(
    config: RunConfig, teacher: PreTrainedConfig, student: PreTrainedConfig, num_problems: int, lengths: Lengths
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
        per_problem = round(lengths.question + config.num_thoughts + lengths.end)
    size = estimate_bytes(spec, per_problem * num_problems)
    return [
        "layers of the teacher -> of the student: " + ", ".join(f"{a}->{b}" for a, b in pairs.items()),
        f"store: {size / 1e9:.3f} GB ({per_problem} positions a problem, {len(spec.layers)} layers, {spec.dtype})",
    ]


def _disk_lines(run: Run) -> list[str]:
    """Return what the run folder holds beside the store: what is trained, in float32."""
    sizes: list[tuple[str, int]] = []
    if run.teacher is not None:
        one = run.teacher_adapters or run.teacher.parameters
        sizes.append(("teachers", one * (2 if run.config.needed_teacher == "latent" else 1)))
    trained = METHODS[run.config.method].trains
    if trained != "nothing":
        sizes.append(("student", run.student_adapters or run.student.parameters))
    if not sizes:
        return []
    # A checkpoint has AdamW's two moments too, and the one before goes when it is whole.
    largest = max(run.teacher_adapters or run.teacher.parameters if run.teacher else 0, sizes[-1][1])
    sizes.append(("checkpoints at most", 2 * 3 * largest))
    return ["on disk beside it: " + ", ".join(f"{name} {4 * count / 1e9:.3f} GB" for name, count in sizes)]


def _work_lines(run: Run) -> list[str]:
    """Return operations and hours of each phase."""
    costs = of_phases(run)
    lines = [
        f"{H100.name}: {H100.flops_per_second / 1e12:.0f} TFLOP/s (dense BF16), "
        f"{H100.bytes_per_second / 1e12:.2f} TB/s, {H100.memory_bytes / 1e9:.0f} GB; "
        f"assumed to reach {H100.utilisation:.0%} of these rates",
        f"{'phase':<12}{'10^12 operations':>20}{'hours on 1':>14}{f'on {_MANY}':>10}",
    ]
    hours = {phase: cost.seconds / 3600 for phase, cost in costs.items()}
    # A number of steps is one of larger steps on several GPUs: as long, and so many times the problems.
    spread = {phase: 1 if phase == "student" and run.config.max_steps else _MANY for phase in costs}
    shared = {phase: hours[phase] / spread[phase] for phase in costs}
    for phase, cost in {**costs, "all": sum(costs.values(), Cost())}.items():
        one, many = (sum(found.values()) if phase == "all" else found[phase] for found in (hours, shared))
        lines.append(f"{phase:<12}{cost.flops / 1e12:>20,.2f}{one:>14,.2f}{many:>10,.2f}")
    return lines


def _memory_lines(run: Run) -> list[str]:
    """Return the memory of both trainings."""
    columns = ("weights", "gradients", "AdamW", "activations", "all")
    lines = ["GB on each GPU in training" + "".join(f"{name:>13}" for name in columns)]
    found: dict[str, Memory] = {}
    for spread_over, ending in ((1, ""), (_MANY, f", FSDP over {_MANY}")):
        if run.teacher is not None:
            found[f"teacher{ending}"] = training_memory(
                run.teacher,
                trained=run.teacher_trained,
                adapters=run.teacher_adapters,
                half=run.half,
                activations=teacher_activations(run),
                spread_over=spread_over,
            )
        trained = METHODS[run.config.method].trains
        if trained != "nothing":
            found[f"student{ending}"] = training_memory(
                run.student,
                trained=trained,
                adapters=run.student_adapters,
                half=run.half,
                activations=student_activations(run),
                spread_over=spread_over,
            )
    for name, memory in found.items():
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.total)
        lines.append(f"{name:<26}" + "".join(f"{part / 1e9:>13,.3f}" for part in parts))
    return lines if found else []


def _lengths(config: RunConfig) -> tuple[Lengths, int, str]:
    """Return mean lengths, the number of training problems, and where both come from."""
    try:
        problems = train_split(config, limit=config.num_train_problems)
    except UserError as error:
        sizes = [_PUBLISHED.get(name, _PUBLISHED["gsm8k"])[0] for name in config.dataset_parts]
        count = sum(min(size, config.num_train_problems or size) for size in sizes)
        question, steps = _ASSUMED_TOKENS
        return Lengths(question, steps, _MARKER_TOKENS, 3.0), count, f"assumed, the data cannot be read: {error}"
    sample = problems[:500]

    def tokens(lengths: list[int]) -> float:
        return sum(lengths) / len(sample) / _CHARS_PER_TOKEN

    lengths = Lengths(
        question=tokens([len(p.question_text) for p in sample]),
        steps=tokens([len("\n".join(p.steps)) for p in sample]),
        marker=_MARKER_TOKENS,
        answer=tokens([len(p.answer) for p in sample]) + 1,
    )
    return lengths, len(problems), "read, tokens estimated at four characters each"


def _num_held_out(config: RunConfig) -> int:
    total = 0
    for name in config.evaluated_datasets:
        try:
            total += len(held_out(config, name, split=config.eval_split, limit=config.num_eval_problems))
        except UserError:
            size = _PUBLISHED.get(name, _PUBLISHED["gsm8k"])[1]
            total += min(size, config.num_eval_problems or size)
    return total
