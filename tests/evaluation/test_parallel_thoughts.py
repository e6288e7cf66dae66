"""Thoughts refined in parallel: against plain recomputation, whatever the batch, and what their table says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lrd_peft.cli import app as cli
from lrd_peft.data.problem_sets import load_problems
from lrd_peft.evaluation.metrics import Accuracy
from lrd_peft.evaluation.parallel_results import ParallelFound, ParallelThoughts
from lrd_peft.evaluation.parallel_thoughts import LinearStart, refine
from lrd_peft.evaluation.score import score
from lrd_peft.model.generation import Refinement, answer_batch
from lrd_peft.model.loop import Thinking, unwrap
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.report.thought_tables import parallel_text
from lrd_peft.runtime.errors import UserError

PROBLEMS = load_problems("graph-mini", split="validation", limit=12).problems
TRAINING = load_problems("graph-mini", split="train", limit=40).problems


@pytest.fixture(scope="module")
def teacher() -> TeacherModel:
    return TeacherModel.from_pretrained("tiny-graph-teacher")


@pytest.fixture(scope="module")
def found(teacher: TeacherModel) -> ParallelThoughts:
    return refine(teacher, PROBLEMS, training=TRAINING, name="teacher", dataset="graph-mini", batch_size=5)


def plain_states(teacher: TeacherModel, question: str, thoughts: Tensor) -> Tensor:
    """Return the last hidden states from the question's last token on, with these thoughts after the question."""
    lm = unwrap(teacher.lm)
    embedded = lm.get_input_embeddings()(torch.tensor([teacher.encoder.prompt(question)]))
    inputs = torch.cat([embedded, thoughts[None]], dim=1)
    return lm.get_decoder()(inputs_embeds=inputs, use_cache=False).last_hidden_state[0, embedded.shape[1] - 1 :]


@torch.no_grad()
def plainly_refined(
    teacher: TeacherModel, question: str, start: LinearStart | None, passes: int, tolerance: float | None
) -> tuple[Tensor, int]:
    """Return the thoughts of one question and the passes before the answer, by the plain definition."""
    first = plain_states(teacher, question, torch.empty(0, teacher.hidden_size))
    thoughts = first.expand(teacher.options.num_thoughts, -1) if start is None else start(first[None])[0]
    taken = 2
    for _ in range(passes - 1):
        before = thoughts
        thoughts = plain_states(teacher, question, before)[:-1]
        taken += 1
        changes = (thoughts - before).norm(dim=-1) / thoughts.norm(dim=-1)
        if tolerance is not None and float(changes.max()) <= tolerance:
            break
    return thoughts, taken


@pytest.mark.parametrize(("passes", "tolerance"), [(1, None), (3, None), (4, 1.1), (4, 0.01)])
@pytest.mark.parametrize("with_start", [False, True])
def test_thoughts_are_those_of_a_plain_refinement(
    with_start: bool, passes: int, tolerance: float | None, teacher: TeacherModel
) -> None:
    start = None
    if with_start:
        torch.manual_seed(0)
        size, later = teacher.hidden_size, teacher.options.num_thoughts - 1
        start = LinearStart(0.1 * torch.randn(later, size, size), 0.1 * torch.randn(later, size))
    thinking: list[Thinking] = []
    questions = [problem.question_text for problem in PROBLEMS]
    rows = answer_batch(
        teacher,
        questions,
        thinking=True,
        max_new_tokens=8,
        refinement=Refinement(passes, start, tolerance),
        thinking_out=thinking,
    )
    taken = []
    for question, row, thoughts in zip(questions, rows, thinking[0].thoughts, strict=True):
        expected, num_passes = plainly_refined(teacher, question, start, passes, tolerance)
        torch.testing.assert_close(thoughts, expected, rtol=1e-3, atol=1e-4)
        taken.append(num_passes)
        assert row.num_passes == num_passes + row.num_tokens - 1
    if tolerance == 1.1:
        assert len(set(taken)) > 1  # rows of one batch stop at different passes


def test_the_linear_start_is_a_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    thoughts = rng.normal(size=(50, 3, 6)).astype(np.float32)
    made = LinearStart.fit(torch.from_numpy(thoughts))
    first, others = thoughts[:, 0].astype(float), thoughts[:, 1:].reshape(50, -1).astype(float)
    centered = first - first.mean(axis=0)
    penalty = 1e-3 * np.mean(np.sum(centered**2, axis=0))
    goal = others - others.mean(axis=0)
    extended = np.vstack([centered, np.sqrt(penalty) * np.eye(6)]), np.vstack([goal, np.zeros((6, 12))])
    slope = np.linalg.lstsq(*extended, rcond=None)[0]
    expected = (centered @ slope + others.mean(axis=0)).reshape(50, 2, 6)
    predicted = made(torch.from_numpy(thoughts[:, :1]))
    np.testing.assert_allclose(predicted[:, 1:].numpy(), expected, atol=1e-4)
    np.testing.assert_array_equal(predicted[:, 0].numpy(), thoughts[:, 0])
    mean = LinearStart.mean(torch.from_numpy(thoughts))(torch.from_numpy(thoughts[:, :1]))
    for row in mean[:, 1:].numpy():
        np.testing.assert_allclose(row, thoughts[:, 1:].mean(axis=0), atol=1e-6)


def test_as_many_passes_as_thoughts_give_the_sequential_answers(found: ParallelThoughts, teacher: TeacherModel) -> None:
    graded = score(teacher, PROBLEMS, thinking=True, batch_size=5, max_new_tokens=32)
    assert found.sequential.num_right == sum(each.right for each in graded)
    for row in found.rows:
        if row.tolerance is None and row.max_passes == teacher.options.num_thoughts:
            assert (row.num_changed, row.p_value, row.accuracy) == (0, 1.0, found.sequential)
            assert row.distance < 1e-5 and row.mean_passes == teacher.options.num_thoughts + 1
    fewer = [row for row in found.rows if row.tolerance is None and row.max_passes == 1]
    assert len(fewer) == 3 and all(row.mean_passes == 2 and row.distance > 0.3 for row in fewer)


def test_the_batch_changes_nothing(found: ParallelThoughts, teacher: TeacherModel) -> None:
    again = refine(teacher, PROBLEMS[::-1], training=TRAINING, name="teacher", dataset="graph-mini", batch_size=12)
    assert again.sequential == found.sequential
    for ours, theirs in zip(again.rows, found.rows, strict=True):
        assert ours.distance == pytest.approx(theirs.distance, rel=1e-3, abs=1e-5)
        assert dataclasses.replace(ours, distance=0) == dataclasses.replace(theirs, distance=0)


def test_the_table_and_the_verdict(found: ParallelThoughts) -> None:
    said = parallel_text(found)
    assert "one after another" in said and "change below 0.03" in said and "40 training problems" in said
    assert ParallelThoughts.from_json(json.loads(json.dumps(found.to_json()))) == found
    [row] = [row for row in found.rows if row.start == "linear" and row.max_passes == 2]
    worse = dataclasses.replace(row, p_value=0.001, accuracy=Accuracy.of([False] * 12))
    assert "fewer passes lose accuracy" in dataclasses.replace(found, rows=(worse,)).verdict()
    better = dataclasses.replace(row, p_value=1.0, accuracy=found.sequential, mean_passes=3.0)
    assert "in 3.0 passes from the linear start (p = 1)" in dataclasses.replace(found, rows=(worse, better)).verdict()


def test_models_without_sequential_thoughts_are_refused() -> None:
    for options, message in (
        (ThinkingOptions(num_thoughts=1), "me has 1 thoughts; parallel refinement needs at least 2"),
        (ThinkingOptions(num_thoughts=3, jacobi_passes=2), "me was trained to refine its thoughts in parallel"),
    ):
        model = StudentModel("tiny-student", options=options)
        with pytest.raises(UserError, match=message):
            refine(model, PROBLEMS, training=TRAINING, name="me", dataset="graph-mini")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", "graph-mini", "--num_problems", "4", "--output", str(tmp_path)]
    assert cli.main(["parallel", "tiny-graph-teacher", *flags]) is None
    kept = ParallelFound.from_json(json.loads((tmp_path / "parallel.json").read_text("utf-8")))
    assert kept.source == "tiny-graph-teacher, 4 test problems of graph-mini"
    assert kept.found[0].num_fitted == 1000 and kept.found[0].sequential.n == 4
    assert kept.found[0].verdict() in " ".join(capsys.readouterr().out.split())
    for wrong, message in (
        (["tiny-graph-teacher"], "name the problems with --dataset"),
        (["tiny-teacher", "--dataset", "graph-mini"], "has not learned to think"),
        (["tiny-graph-teacher", "--dataset", "graph-mini", "--num_problems", "0"], "--num_problems is 0"),
    ):
        assert cli.main(["parallel", *wrong]) == cli.USER_ERROR
        assert message in capsys.readouterr().err
