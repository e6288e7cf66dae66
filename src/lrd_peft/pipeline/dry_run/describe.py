"""What a configuration would do, without weights: parameters, size of the store, operations, disk, memory, hours."""

from __future__ import annotations

from lrd_peft.config import RunConfig, dump_yaml
from lrd_peft.data.problem import Problem
from lrd_peft.distillation import map_layers
from lrd_peft.pipeline.dry_run.memory_use import TrainingMemory
from lrd_peft.pipeline.dry_run.meter import H100, UncountableError, Work
from lrd_peft.pipeline.dry_run.phase_work import DryRun, Lengths
from lrd_peft.pipeline.dry_run.weightless import WeightlessModel, weightless_student, weightless_teacher
from lrd_peft.pipeline.from_config import held_out, quiet_libraries, train_split
from lrd_peft.pipeline.preflight import resolve_layers
from lrd_peft.runtime.errors import UserError
from lrd_peft.store import StoreSpec, estimate_bytes

# Where the problems cannot be read: typical tokens of a question and of its written steps, and the sizes of the
# published sets, to train on and to test on.
_ASSUMED_TOKENS = (70.0, 130.0)
_PUBLISHED = {"gsm8k": (7_473, 1_319), "math": (7_500, 5_000), "aqua": (97_467, 254)}
_PUBLISHED["gsm8k-aug"] = (385_620, 1_319)
_CHARS_PER_TOKEN = 4.0
_MARKER_TOKENS = 3.0
_NUM_SAMPLED = 500
_NUM_GPUS = 8  # of the sharded training whose memory is shown
_SHORTEST_HOURS = 0.01


def dry_run(config: RunConfig) -> str:
    """Describe what a run would do and cost. No weights are loaded and nothing is written.

    Args:
        config: Configuration of the run.

    Returns:
        The resolved configuration, parameter counts, the size of the store, disk space, operations and memory.

    Raises:
        UserError: If a model's configuration cannot be loaded.
    """
    quiet_libraries()
    config = resolve_layers(config, published=True)
    method = config.method
    teacher = weightless_teacher(config) if config.makes_teacher else None
    student = weightless_student(config, teacher)
    lengths, num_problems, source = _lengths(config, student)
    run = DryRun(config, teacher, student, lengths, num_problems, _num_held_out(config))
    lines = [dump_yaml(config).rstrip(), ""]
    share = ""
    if teacher is not None:
        share = f" ({student.num_parameters / teacher.num_parameters:.1%} of the teacher's)"
        lines.append(f"teacher: {config.model.teacher}, {_size(teacher)}")
    how = f" (LoRA r={config.adapter.lora_r})" if method.adapts_student else ""
    lines += [
        f"student: {config.model.student}, {_size(student)}{share}",
        f"method: {config.student.method} ({method.title}); phases: {', '.join(config.needed_phases)}",
        f"trained in the student: {student.num_trained:,} parameters{how}",
        f"problems: {num_problems:,} to train on, {run.num_held_out:,} held out ({source})",
        f"tokens of a problem: about {lengths.question:.0f} in the question, {lengths.steps:.0f} in the steps, "
        f"{lengths.end:.0f} after them",
    ]
    for whose, model in (("teacher", teacher), ("student", student)):
        if model is not None and model.num_decoder:
            lines.append(f"auxiliary decoder of the {whose}: {model.num_decoder:,} parameters are trained and dropped")
    if teacher is not None and config.makes_store:
        lines += _store_lines(config, teacher, student, num_problems, lengths)
    lines += [*_disk_lines(run), "", *_work_lines(run), "", *_memory_lines(run)]
    return "\n".join(lines).rstrip()


def _size(model: WeightlessModel) -> str:
    return f"{model.num_blocks} blocks, width {model.hidden_size}, {model.num_parameters:,} parameters"


def _store_lines(
    config: RunConfig, teacher: WeightlessModel, student: WeightlessModel, num_problems: int, lengths: Lengths
) -> list[str]:
    """Return the layers that are aligned and the size of the store."""
    pairs = map_layers(
        config.distill.layers,
        teacher_blocks=teacher.num_blocks,
        student_blocks=student.num_blocks,
        student_layers=config.distill.student_layers,
    )
    spec = StoreSpec(
        fingerprints={},
        teacher_name=config.model.teacher,
        layers=config.stored_layers,
        num_thoughts=config.thinking.num_thoughts,
        hidden_size=teacher.hidden_size,
        num_blocks=teacher.num_blocks,
        num_problems=num_problems,
        positions=config.distill.positions,
        dtype=config.store.store_dtype,
    )
    per_problem = config.thinking.num_thoughts + (config.distill.positions == "thoughts+answer")
    if config.distill.positions == "all":
        per_problem = round(lengths.question + config.thinking.num_thoughts + lengths.end)
    size = estimate_bytes(spec, per_problem * num_problems)
    return [
        "layers of the teacher -> of the student: " + ", ".join(f"{a}->{b}" for a, b in pairs.items()),
        f"store: {size / 1e9:.3f} GB ({per_problem} positions a problem, {len(spec.layers)} layers, {spec.dtype})",
    ]


def _disk_lines(run: DryRun) -> list[str]:
    """Return the size of the run folder without the store: trained weights, in float32."""
    sizes: list[tuple[str, int]] = []
    if run.teacher is not None:
        num_teachers = 2 if run.config.trains_latent_teacher else 1
        sizes.append(("teachers", run.teacher.num_trained * num_teachers))
    if run.config.trains_student:
        sizes.append(("student", run.student.num_trained))
    if not sizes:
        return []
    # A checkpoint also holds AdamW's two moments, and the one before is removed after it is complete.
    largest = max(run.teacher.num_updated if run.teacher else 0, run.student.num_updated)
    sizes.append(("checkpoints at most", 2 * 3 * largest))
    return ["other files: " + ", ".join(f"{name} {4 * count / 1e9:.3f} GB" for name, count in sizes)]


def _work_lines(run: DryRun) -> list[str]:
    """Return the operations of each phase, and the hours on an accelerator where they are worth a mention."""
    try:
        works = run.works()
    except UncountableError as error:
        return [f"operations: cannot be counted for this architecture ({error})"]
    works["all"] = sum(works.values(), Work())
    with_hours = run.config.run.device != "cpu" and works["all"].seconds / 3600 >= _SHORTEST_HOURS
    lines = [f"{'phase':<12}{'10^12 operations':>20}" + (f"{H100.name + ' hours':>14}" if with_hours else "")]
    for phase, work in works.items():
        hours = f"{work.seconds / 3600:>14,.2f}" if with_hours else ""
        lines.append(f"{phase:<12}{work.operations / 1e12:>20,.2f}{hours}")
    if with_hours:
        lines.append(
            f"about {works['all'].seconds / 3600:,.2f} h on one {H100.name} at {H100.utilization:.0%} of its peak "
            f"rates ({H100.flops_per_second / 1e12:.0f} TFLOP/s, {H100.bytes_per_second / 1e12:.2f} TB/s): "
            "an estimate, not measured"
        )
    return lines


def _memory_lines(run: DryRun) -> list[str]:
    """Return the memory of each training on one GPU, and on one of several that share weights and optimizer."""
    half = run.config.model.dtype != "float32"
    try:
        activations = run.activation_bytes()
    except UncountableError:
        return []  # the line on operations says why
    columns = ("weights", "gradients", "AdamW", "activations", "all")
    lines = ["GB on each GPU in training" + "".join(f"{name:>13}" for name in columns)]
    for num_gpus, ending in ((1, ""), (_NUM_GPUS, f", FSDP over {_NUM_GPUS}")):
        for name, activation_bytes in activations.items():
            model = run.student if name == "student" else run.teacher
            assert model is not None
            memory = TrainingMemory.of(
                num_frozen=model.num_frozen,
                num_trained=model.num_updated,
                half=half,
                activations=activation_bytes,
                num_gpus=num_gpus,
            )
            parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.total)
            lines.append(f"{name + ending:<26}" + "".join(f"{part / 1e9:>13,.3f}" for part in parts))
    return lines if activations else []


def _lengths(config: RunConfig, student: WeightlessModel) -> tuple[Lengths, int, str]:
    """Return the lengths of a typical problem, the number of training problems, and where both come from."""
    try:
        problems = train_split(config, limit=config.data.num_train_problems)
    except UserError as error:
        sizes = [_PUBLISHED.get(name, _PUBLISHED["gsm8k"])[0] for name in config.data.dataset_parts]
        count = sum(min(size, config.data.num_train_problems or size) for size in sizes)
        question, steps = _ASSUMED_TOKENS
        return Lengths(question, steps, _MARKER_TOKENS, 3.0), count, f"assumed, the data cannot be read: {error}"
    sample = problems[:_NUM_SAMPLED]
    if student.knows_tokens:
        return _token_lengths(sample, student), len(problems), "read"

    def tokens(texts: list[str]) -> float:
        return sum(map(len, texts)) / len(sample) / _CHARS_PER_TOKEN

    lengths = Lengths(
        question=tokens([problem.question_text for problem in sample]),
        steps=tokens(["\n".join(problem.steps) for problem in sample]),
        marker=_MARKER_TOKENS,
        answer=tokens([problem.answer for problem in sample]) + 1,
    )
    return lengths, len(problems), "read; the tokenizer cannot be, a token is taken to be four characters"


def _token_lengths(sample: tuple[Problem, ...], student: WeightlessModel) -> Lengths:
    """Return the mean lengths of problems in the tokens of the student."""
    encoded = student.one_block.encoder.encode_many(sample)
    return Lengths(
        question=sum(len(row.prompt) for row in encoded) / len(encoded),
        steps=sum(len(step) for row in encoded for step in row.steps) / len(encoded),
        marker=len(encoded[0].marker),
        answer=sum(len(row.answer) for row in encoded) / len(encoded),
    )


def _num_held_out(config: RunConfig) -> int:
    total = 0
    for name in config.evaluated_datasets:
        try:
            total += len(
                held_out(config, name, split=config.evaluation.eval_split, limit=config.evaluation.num_eval_problems)
            )
        except UserError:
            size = _PUBLISHED.get(name, _PUBLISHED["gsm8k"])[1]
            total += min(size, config.evaluation.num_eval_problems or size)
    return total
