"""After the phases: what the thoughts of a finished student hold goes into similarity.json and answers.json.

Knows the models of a run folder and held-out problems; trains and grades nothing that a record would hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import set_seed

from lrd_peft.config import RunConfig, load_config
from lrd_peft.curriculum import items, thinking_rows
from lrd_peft.data import Problem
from lrd_peft.data.collate import Row, collate, to_device
from lrd_peft.data.encoding import MARKER
from lrd_peft.data.problem import LETTERS
from lrd_peft.errors import UserError
from lrd_peft.evaluation.answers import grade, kind_of
from lrd_peft.evaluation.decoded import Answers, DecodedProblem
from lrd_peft.evaluation.score import written_limit
from lrd_peft.evaluation.similarity import Matrix, Similarity, cka_matrix, mean_cosine
from lrd_peft.methods import METHODS
from lrd_peft.model.facts import context_length
from lrd_peft.model.models import StudentModel, TeacherModel, write
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.processes import device_of
from lrd_peft.progress import Progress
from lrd_peft.records import write_json_atomic
from lrd_peft.run_folder import RunFolder
from lrd_peft.run_inputs import held_out, quiet_libraries, some_training_problems, start_student, student_options

# Held-out problems unless told otherwise: a page is read by people, a similarity needs more positions than units.
NUM_ANSWERS, NUM_COMPARED = 60, 200
# Tokens of the LM head shown for a thought.
TOP_TOKENS = 3
# Files keep fewer digits than change with the number of threads.
DIGITS = 4

States = dict[int, NDArray[np.float32]]
Model = TypeVar("Model", bound=ThinkingModel)


def inspect(root: Path, *, num_problems: int | None = None, output: Path | None = None) -> list[str]:
    """Write answers.json, and similarity.json where the run has a teacher that thinks.

    Args:
        root: the run folder of a method that trains a student which thinks.
        num_problems: held-out problems for each file, spread over the run's data sets; None: `NUM_ANSWERS` and
            `NUM_COMPARED`. Never more of a data set than the run was evaluated on.
        output: another folder for the files than the run's; made if it is not there.

    Returns:
        A line for each file.

    Raises:
        UserError: if the run has no student that thinks.
    """
    if num_problems is not None and num_problems < 1:
        raise UserError(f"--num_problems is {num_problems}; it must be at least 1")
    run = RunFolder(root)
    if not (root / "config.yaml").is_file():
        raise UserError(f"{root} is no run folder (no config.yaml); give the --output_dir of a finished `lrd run`")
    config = load_config(yaml_path=root / "config.yaml")
    _require_thinking_student(config, run)
    folder = root if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    quiet_libraries()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    shown = _held_out(config, NUM_ANSWERS if num_problems is None else num_problems)
    answers = Answers(_source(config, shown), tuple(decode_thoughts(config, run, shown)))
    write_json_atomic(folder / "answers.json", answers.to_dict())
    right = sum(problem.right for problem in answers.problems)
    lines = [f"written  {folder / 'answers.json'}  {answers.source}: {right} right"]
    if config.needed_teacher != "latent":
        return [*lines, f"no similarity.json: {config.method} learns from no teacher that thinks"]
    compared = _held_out(config, NUM_COMPARED if num_problems is None else num_problems)
    similarity = compare_with_teacher(config, run, compared)
    write_json_atomic(folder / "similarity.json", similarity.to_dict())
    return [*lines, f"written  {folder / 'similarity.json'}  {similarity.source}: {similarity.num_positions} positions"]


def decode_thoughts(config: RunConfig, run: RunFolder, problems: Sequence[tuple[str, Problem]]) -> list[DecodedProblem]:
    """Let the teacher write and the student think; problems come with the names of their data sets."""
    steps: list[tuple[str, ...]] = [()] * len(problems)
    known = some_training_problems(config)
    if config.needed_teacher != "none":
        teacher = _on_device(config, TeacherModel.load(_saved_teacher(run, "cot")))
        limit = config.max_new_tokens or written_limit(teacher, known, thinking=False)
        steps = [
            tuple(line for line in text.partition(MARKER.strip())[0].splitlines() if line.strip())
            for text, _ in _answered(config, teacher, problems, thinking=False, limit=limit, label="teacher's steps")
        ]
        del teacher
    student = _on_device(config, StudentModel.from_run(run.root))
    limit = config.max_new_tokens or written_limit(student, known, thinking=True)
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


def compare_with_teacher(config: RunConfig, run: RunFolder, problems: Sequence[tuple[str, Problem]]) -> Similarity:
    """Compare every layer of the thinking teacher with every layer of the student, trained and untrained.

    The states are those at the slots and the answer position. Where the widths differ, the cosine is that of the
    student's state after its trained projector, for the pairs of layers that have one.

    Raises:
        UserError: if no problem fits into both models' contexts.
    """
    own = [problem for _, problem in problems]
    teacher = _on_device(config, TeacherModel.load(_saved_teacher(run, "latent")))
    teacher_fits, teacher_all = thinking_states(config, teacher, own, label="teacher's states")
    del teacher
    student = _on_device(config, StudentModel.from_run(run.root))
    student_fits, student_all = thinking_states(config, student, own, label="student's states")
    both = sorted({*teacher_fits} & {*student_fits})
    if not both:
        raise UserError(f"none of the {len(own)} problems fits into the contexts of both teacher and student")
    teacher_states = _chosen(teacher_all, teacher_fits, both)
    trained = _chosen(student_all, student_fits, both)
    projected = _projected(student, trained)
    del student
    set_seed(config.seed)
    start = _on_device(config, start_student(config, run, student_options(config), method=config.method))
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
    """Return the hidden states of all layers at the slots and the answer position.

    Returns:
        The indices of the problems that fit into the model's context, and layer -> [those problems, N + 1, H].
    """
    context = context_length(unwrap(model.lm).config)
    layers, pad = range(model.num_blocks + 1), model.tokenizer.pad_token_id
    assert isinstance(pad, int)
    rows: list[Row] = []
    encoded = items(model.encoder.encode_many(problems))
    for row in thinking_rows(encoded, num_thoughts=config.num_thoughts, model=model):
        row = replace(row, suffix=row.suffix[: row.answer_start])
        if context is None or row.length <= context:
            rows.append(row)
    parts: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
    with Progress(label, total=len(rows), unit="problems") as progress:
        for begin in range(0, len(rows), config.eval_batch_size):
            batch = to_device(collate(rows[begin : begin + config.eval_batch_size], pad_id=pad), model.device)
            output = model(**batch, layers=layers, positions="thoughts+answer", with_loss=False)
            for layer in layers:
                parts[layer].append(output.states[layer].float().cpu().numpy())
            progress.update(min(begin + config.eval_batch_size, len(rows)))
    return [row.index for row in rows], {layer: np.concatenate(found) for layer, found in parts.items() if found}


def _require_thinking_student(config: RunConfig, run: RunFolder) -> None:
    method = METHODS[config.method]
    if method.trains == "nothing":
        raise UserError(f"{run.root} is a run of {config.method}, which trains no student; there is none to look into")
    if not method.thinks or config.num_thoughts == 0:
        why = "which writes its steps" if not method.thinks else "with no thoughts (max_stage 0)"
        thinking = [name for name, row in METHODS.items() if row.thinks and row.trains != "nothing"]
        raise UserError(f"{run.root} is a run of {config.method}, {why}; there are thoughts in {', '.join(thinking)}")
    run.require("student", config)
    if not run.student.is_dir():
        raise UserError(
            f"the student of {run.root} has been removed, as a study does when a cell has its record; delete that "
            "folder and the cell's record, then give `lrd study` again with --keep_students: it makes this cell anew "
            "and keeps the teacher and the store"
        )


def _saved_teacher(run: RunFolder, name: str) -> Path:
    folder = run.teacher / name
    if not folder.is_dir():
        raise UserError(
            f"there is no teacher {folder} any more (a study's teachers are in its shared/); delete "
            f"{run.root} and make the run again"
        )
    return folder


def _held_out(config: RunConfig, count: int) -> list[tuple[str, Problem]]:
    """Return the first held-out problems of each data set, `count` in all, with the names of their sets."""
    found: list[tuple[str, Problem]] = []
    names = config.evaluated_datasets
    for place, name in enumerate(names):
        share = count // len(names) + (place < count % len(names))
        limit = min(share, config.num_eval_problems or share)
        if limit > 0:
            found += [(name, each) for each in held_out(config, name, split=config.eval_split, limit=limit)]
    return found


def _answered(
    config: RunConfig,
    model: ThinkingModel,
    problems: Sequence[tuple[str, Problem]],
    *,
    thinking: bool,
    limit: int,
    label: str,
) -> list[tuple[str, tuple[tuple[tuple[str, float], ...], ...]]]:
    """Return for each problem what the model wrote, and for each thought its likeliest tokens with probabilities."""
    found = []
    with Progress(label, total=len(problems), unit="problems") as progress:
        for start in range(0, len(problems), config.eval_batch_size):
            batch = problems[start : start + config.eval_batch_size]
            texts = [problem.question_text for _, problem in batch]
            rows = write(model, texts, thinking=thinking, max_new_tokens=limit, top_tokens=TOP_TOKENS)
            for row in rows:
                thoughts = tuple(
                    tuple(
                        (str(model.tokenizer.decode([token])), round(probability, DIGITS))
                        for token, probability in zip(tokens, probabilities, strict=True)
                    )
                    for tokens, probabilities in zip(row.thought_tokens, row.thought_probabilities, strict=True)
                )
                found.append((str(model.tokenizer.decode(list(row.tokens), skip_special_tokens=True)), thoughts))
            progress.update(start + len(batch))
    return found


def _source(config: RunConfig, problems: Sequence[tuple[str, Problem]]) -> str:
    names = ", ".join(dict.fromkeys(name for name, _ in problems))
    return f"{config.method}, seed {config.seed}, {len(problems)} {config.eval_split} problems of {names}"


def _on_device(config: RunConfig, model: Model) -> Model:
    return model.eval().to(device_of(config.device))


def _chosen(states: States, indices: Sequence[int], wanted: Sequence[int]) -> States:
    """Pick problems and let positions follow one another: layer -> [problems * positions, H]."""
    places = [indices.index(index) for index in wanted]
    return {layer: state[places].reshape(-1, state.shape[-1]) for layer, state in states.items()}


@torch.no_grad()
def _projected(student: StudentModel, states: States) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Return the student's states in the teacher's space: (teacher layer, student layer) -> [positions, H_T].

    There is a pair for each projector that the student was trained with.
    """
    return {
        (int(layer), own): student.project(int(layer), torch.from_numpy(states[own]).to(student.device)).cpu().numpy()
        for layer, own in student.description["layer_map"].items()
        if layer in student.projectors
    }


def _cosines(teacher: States, student: States, projected: Mapping[tuple[int, int], NDArray[np.float32]]) -> Matrix:
    return tuple(
        tuple(mean_cosine(teacher[t], projected.get((t, s), student[s])) for s in sorted(student))
        for t in sorted(teacher)
    )


def _rounded(matrix: Matrix) -> Matrix:
    return tuple(tuple(None if value is None else round(value, DIGITS) for value in line) for line in matrix)
