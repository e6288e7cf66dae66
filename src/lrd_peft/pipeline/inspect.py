"""`lrd inspect`: decode a student's thoughts (answers.json) and compare its layers to the teacher's (similarity.json).

Nothing is trained, and records do not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import set_seed

from lrd_peft.config import RunConfig, load_config
from lrd_peft.config.methods import METHODS
from lrd_peft.data import Problem
from lrd_peft.data.collate import collate, to_device
from lrd_peft.data.encoding import MARKER
from lrd_peft.data.problem import LETTERS
from lrd_peft.evaluation.answers import grade, kind_of
from lrd_peft.evaluation.decoded_thoughts import Answers, DecodedProblem, TopToken
from lrd_peft.evaluation.score import written_limit
from lrd_peft.evaluation.similarity import Matrix, Similarity, cka_matrix, mean_cosine
from lrd_peft.model.generation import answer_batch
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.from_config import (
    held_out,
    quiet_libraries,
    some_training_problems,
    start_student,
    student_options,
)
from lrd_peft.pipeline.latent_models import rows_before_answers
from lrd_peft.pipeline.ledger import PhaseLedger
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.pipeline.verify import ArtifactChecks
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import write_json_atomic
from lrd_peft.runtime.processes import device_of
from lrd_peft.runtime.progress import Progress

# Default numbers of held-out problems. People read the answers; CKA needs more positions than hidden units.
NUM_ANSWERS, NUM_COMPARED = 60, 200
# Tokens of the LM head shown for a thought.
TOP_TOKENS = 3
# Rounded, because the last digits depend on the number of threads.
DIGITS = 4

States = dict[int, NDArray[np.float32]]
Model = TypeVar("Model", bound=ThinkingModel)


def inspect(root: Path, *, num_problems: int | None = None, output: Path | None = None) -> list[str]:
    """Write answers.json, and similarity.json if the run has a latent teacher.

    Args:
        root: Run folder of a method that trains a latent student.
        num_problems: Held-out problems per file, divided among the run's data sets (None: `NUM_ANSWERS` and
            `NUM_COMPARED`). At most as many of a data set as the run was evaluated on.
        output: Folder for the files (None: the run folder); created if needed.

    Returns:
        One line per file.

    Raises:
        UserError: If the run has no latent student.
    """
    if num_problems is not None and num_problems < 1:
        raise UserError(f"--num_problems is {num_problems}; it must be at least 1")
    run = RunPaths(root)
    if not (root / "config.yaml").is_file():
        raise UserError(f"{root} is not a run folder (no config.yaml); use the --output_dir of a finished `lrd run`")
    config = load_config(yaml_path=root / "config.yaml")
    _require_thinking_student(config, run)
    folder = root if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    quiet_libraries()
    if config.run.num_threads is not None:
        torch.set_num_threads(config.run.num_threads)
    shown = _held_out(config, NUM_ANSWERS if num_problems is None else num_problems)
    answers = Answers(_source(config, shown), tuple(decode_thoughts(config, run, shown)))
    write_json_atomic(folder / "answers.json", answers.to_json())
    right = sum(problem.right for problem in answers.problems)
    lines = [f"written  {folder / 'answers.json'}  {answers.source}: {right} right"]
    if not (config.makes_teacher and config.trains_latent_teacher):
        return [*lines, f"no similarity.json: this {config.student.method} run has no latent teacher"]
    compared = _held_out(config, NUM_COMPARED if num_problems is None else num_problems)
    similarity = compare_with_teacher(config, run, compared)
    write_json_atomic(folder / "similarity.json", similarity.to_json())
    return [*lines, f"written  {folder / 'similarity.json'}  {similarity.source}: {similarity.num_positions} positions"]


def decode_thoughts(config: RunConfig, run: RunPaths, problems: Sequence[tuple[str, Problem]]) -> list[DecodedProblem]:
    """Answer problems with the run's student, and with its teacher in written steps.

    Args:
        config: Configuration of the run.
        run: Its folder.
        problems: Data set and problem, for each problem.

    Returns:
        The teacher's steps (empty without a teacher), the student's answer and its decoded thoughts, per problem.
    """
    steps: list[tuple[str, ...]] = [()] * len(problems)
    known = some_training_problems(config)
    if config.makes_teacher:
        teacher = _on_device(config, TeacherModel.from_pretrained(_saved_teacher(run, "cot")))
        limit = config.evaluation.max_new_tokens or written_limit(teacher, known, thinking=False)
        steps = [
            tuple(line for line in text.partition(teacher.encoder.shown_marker)[0].splitlines() if line.strip())
            for text, _ in _answered(config, teacher, problems, thinking=False, limit=limit, label="teacher's steps")
        ]
        del teacher
    student = _on_device(config, StudentModel.from_pretrained(run.root))
    limit = config.evaluation.max_new_tokens or written_limit(student, known, thinking=True)
    found = []
    for (dataset, problem), own_steps, (text, thoughts) in zip(
        problems,
        steps,
        _answered(config, student, problems, thinking=True, limit=limit, label="student's thoughts"),
        strict=True,
    ):
        graded = grade(kind_of(problem), MARKER + text, problem.answer)
        found.append(
            DecodedProblem(
                dataset=dataset,
                question=problem.question,
                options=tuple(f"{letter}) {each}" for letter, each in zip(LETTERS, problem.options, strict=False)),
                answer=problem.answer,
                teacher_steps=own_steps,
                student_answer=graded.predicted,
                right=graded.right,
                thoughts=thoughts,
            )
        )
    return found


def compare_with_teacher(config: RunConfig, run: RunPaths, problems: Sequence[tuple[str, Problem]]) -> Similarity:
    """Compare each layer of the latent teacher with each layer of the student, before and after training.

    States are taken at the slots and the answer position. For pairs of layers with a trained projector, the cosine is
    measured after projection.

    Args:
        config: Configuration of the run.
        run: Its folder.
        problems: Data set and problem, for each problem.

    Returns:
        Linear CKA (Kornblith et al., arXiv 1905.00414) and mean cosine, each as [teacher layer, student layer].

    Raises:
        UserError: If no problem fits into both models' contexts.
    """
    own = [problem for _, problem in problems]
    teacher = _on_device(config, TeacherModel.from_pretrained(_saved_teacher(run, "latent")))
    teacher_fits, teacher_all = thinking_states(config, teacher, own, label="teacher's states")
    del teacher
    student = _on_device(config, StudentModel.from_pretrained(run.root))
    student_fits, student_all = thinking_states(config, student, own, label="student's states")
    both = sorted({*teacher_fits} & {*student_fits})
    if not both:
        raise UserError(f"none of the {len(own)} problems fits into the contexts of both teacher and student")
    teacher_states = _chosen(teacher_all, teacher_fits, both)
    trained = _chosen(student_all, student_fits, both)
    projected = _projected(student, trained)
    del student
    set_seed(config.run.seed)
    start = _on_device(config, start_student(config, run, student_options(config), method=config.student.method))
    fits, states = thinking_states(config, start, own, label="untrained student's states")
    untrained = _chosen(states, fits, both)
    return Similarity(
        source=_source(config, [problems[i] for i in both]),
        teacher_layers=tuple(sorted(teacher_states)),
        student_layers=tuple(sorted(trained)),
        cka=_rounded(cka_matrix(teacher_states, trained)),
        cosine=_rounded(_cosines(teacher_states, trained, projected)),
        cka_untrained=_rounded(cka_matrix(teacher_states, untrained)),
        cosine_untrained=_rounded(_cosines(teacher_states, untrained, {})),
        num_positions=len(trained[0]),
    )


@torch.no_grad()
def thinking_states(
    config: RunConfig, model: ThinkingModel, problems: Sequence[Problem], *, label: str
) -> tuple[list[int], States]:
    """Compute the hidden states of all layers at the slots and the answer position.

    Args:
        config: Configuration of the run.
        model: Teacher or student.
        problems: Problems to think about.
        label: What the progress line says.

    Returns:
        Indices of the problems that fit into the model's context, and for each layer an array of shape
        [those problems, thoughts + 1, hidden] in float32.
    """
    layers, pad = range(model.num_blocks + 1), model.tokenizer.pad_token_id
    assert isinstance(pad, int)
    rows = rows_before_answers(model, problems, num_thoughts=config.thinking.num_thoughts)
    parts: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
    with Progress(label, total=len(rows), unit="problems") as progress:
        for begin in range(0, len(rows), config.evaluation.eval_batch_size):
            batch = to_device(
                collate(rows[begin : begin + config.evaluation.eval_batch_size], pad_id=pad), model.device
            )
            output = model(**batch, layers=layers, positions="thoughts+answer", with_loss=False)
            for layer in layers:
                parts[layer].append(output.states[layer].float().cpu().numpy())
            progress.update(min(begin + config.evaluation.eval_batch_size, len(rows)))
    return [row.index for row in rows], {layer: np.concatenate(found) for layer, found in parts.items() if found}


def _require_thinking_student(config: RunConfig, run: RunPaths) -> None:
    method = config.method
    if not method.trains_student:
        raise UserError(f"{run.root} is a run of {config.student.method}, which trains no student")
    if not method.thinks or config.thinking.num_thoughts == 0:
        why = "a text method" if not method.thinks else "with max_stage 0 and so without thoughts"
        thinking = [name for name, row in METHODS.items() if row.thinks and row.trains_student]
        raise UserError(
            f"{run.root} is a run of {config.student.method}, {why}; latent methods are {', '.join(thinking)}"
        )
    ArtifactChecks(PhaseLedger(run, config)).require("student")
    if not run.student.is_dir():
        raise UserError(
            f"{run.root} no longer has its student, because studies delete students of finished cells; delete the "
            "folder and the cell's record, then run `lrd study` with --keep_students: it repeats this cell and reuses "
            "teacher and store"
        )


def _saved_teacher(run: RunPaths, name: str) -> Path:
    folder = run.teacher / name
    if not folder.is_dir():
        raise UserError(
            f"the teacher {folder} no longer exists (teachers of studies are in the folder shared/); delete "
            f"{run.root} and repeat the run"
        )
    return folder


def _held_out(config: RunConfig, count: int) -> list[tuple[str, Problem]]:
    """Return `count` held-out problems, divided among the data sets, each with the name of its set."""
    found: list[tuple[str, Problem]] = []
    names = config.evaluated_datasets
    for place, name in enumerate(names):
        share = count // len(names) + (place < count % len(names))
        limit = min(share, config.evaluation.num_eval_problems or share)
        if limit > 0:
            found += [(name, each) for each in held_out(config, name, split=config.evaluation.eval_split, limit=limit)]
    return found


def _answered(
    config: RunConfig,
    model: ThinkingModel,
    problems: Sequence[tuple[str, Problem]],
    *,
    thinking: bool,
    limit: int,
    label: str,
) -> list[tuple[str, tuple[tuple[TopToken, ...], ...]]]:
    """Return the generated text of each problem, and the most probable tokens of each of its thoughts."""
    found = []
    with Progress(label, total=len(problems), unit="problems") as progress:
        for start in range(0, len(problems), config.evaluation.eval_batch_size):
            batch = problems[start : start + config.evaluation.eval_batch_size]
            texts = [problem.question_text for _, problem in batch]
            rows = answer_batch(model, texts, thinking=thinking, max_new_tokens=limit, top_tokens=TOP_TOKENS)
            for row in rows:
                thoughts = tuple(
                    tuple(
                        TopToken(str(model.tokenizer.decode([token])), round(probability, DIGITS))
                        for token, probability in zip(tokens, probabilities, strict=True)
                    )
                    for tokens, probabilities in zip(row.thought_tokens, row.thought_probabilities, strict=True)
                )
                found.append((str(model.tokenizer.decode(list(row.tokens), skip_special_tokens=True)), thoughts))
            progress.update(start + len(batch))
    return found


def _source(config: RunConfig, problems: Sequence[tuple[str, Problem]]) -> str:
    names = ", ".join(dict.fromkeys(name for name, _ in problems))
    split = config.evaluation.eval_split
    return f"{config.student.method}, seed {config.run.seed}, {len(problems)} {split} problems of {names}"


def _on_device(config: RunConfig, model: Model) -> Model:
    return model.eval().to(device_of(config.run.device))


def _chosen(states: States, indices: Sequence[int], wanted: Sequence[int]) -> States:
    """Select problems and flatten: layer -> [problems * positions, hidden]."""
    places = [indices.index(index) for index in wanted]
    return {layer: state[places].reshape(-1, state.shape[-1]) for layer, state in states.items()}


@torch.no_grad()
def _projected(student: StudentModel, states: States) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Project the student's states into the teacher's space with the projectors of the training.

    Returns:
        (teacher layer, student layer) -> [positions, teacher hidden], for each pair that has a projector.
    """
    return {
        (int(layer), own): student.project(int(layer), torch.from_numpy(states[own]).to(student.device)).cpu().numpy()
        for layer, own in student.facts["layer_map"].items()
        if layer in student.projectors
    }


def _cosines(teacher: States, student: States, projected: Mapping[tuple[int, int], NDArray[np.float32]]) -> Matrix:
    return tuple(
        tuple(mean_cosine(teacher[t], projected.get((t, s), student[s])) for s in sorted(student))
        for t in sorted(teacher)
    )


def _rounded(matrix: Matrix) -> Matrix:
    return tuple(tuple(None if value is None else round(value, DIGITS) for value in line) for line in matrix)
