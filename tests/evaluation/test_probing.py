"""Probes: planted signals are found, noise is not, and the lens is the model's own head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lrd_peft.cli import app as cli
from lrd_peft.data.generators.graph_mini import candidates
from lrd_peft.data.problem import Problem
from lrd_peft.data.problem_sets import load_problems
from lrd_peft.evaluation.probe_results import Probed, Probes
from lrd_peft.evaluation.probing import Target, _fitted, probe_states
from lrd_peft.model.parts import final_norm
from lrd_peft.model.student import StudentModel
from lrd_peft.pipeline.probe import _starts, probe_model, step_results
from lrd_peft.report.thought_tables import probe_table, probe_text
from lrd_peft.runtime.errors import UserError
from tests.model.small_models import gpt2, llama

POSITIONS = ("question", "thought 1", "thought 2", "answer")


def drawn(*, strength: float, seed: int = 0, num_problems: int = 500) -> tuple[dict[int, np.ndarray], list[str | None]]:
    """Return states of two layers in which the value stands at layer 5, thought 2 only."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(4, size=num_problems)
    states = {layer: rng.normal(size=(num_problems, 4, 24)).astype(np.float32) for layer in (1, 5)}
    directions = rng.normal(size=(4, 24))
    states[5][:, 2] += strength * directions[classes]
    return states, [str(each) for each in classes]


def probed(states: dict[int, np.ndarray], values: list[str | None]) -> Probed:
    target = Target("step 1", values, {5: np.tile(np.array([[True, False, True, False]]), (len(values), 1))})
    return probe_states(states, [target], model="m", dataset="d", positions=POSITIONS)


def test_a_planted_signal_is_found_where_it_is_and_nowhere_else() -> None:
    found = probed(*drawn(strength=1.0))
    (target,) = found.targets
    assert target.best == (1, 2) and found.layers == (1, 5)
    assert target.accuracy[1][2] > 0.9  # type: ignore[operator]
    others = [value for line in target.accuracy for value in line if value != target.accuracy[1][2]]
    # 100 test problems, four classes: standard error 4.3 points.
    assert max(others) < 0.42 and target.shuffled[1][2] < 0.42  # type: ignore[type-var, operator]
    assert (target.num_classes, target.num_train, target.num_test, target.num_left_out) == (4, 300, 100, 0)
    assert target.lens == ((None,) * 4, (1.0, 0.0, 1.0, 0.0))
    assert "the result of step 1 can be read from thought 2 at layer 5 in" in found.verdict()


def test_noise_gives_the_share_of_chance() -> None:
    (target,) = probed(*drawn(strength=0.0)).targets
    assert all(0.1 < value < 0.42 for line in target.accuracy for value in line if value is not None)


def test_choices_are_what_a_probe_decides_between() -> None:
    # The state tells 0 or 1 from 2 or 3, no more. A problem that offers one of each pair is then decided.
    states, _ = drawn(strength=0.0)
    classes = np.random.default_rng(3).integers(4, size=len(states[5]))
    states[5][:, 2, 0] += 8 * (classes // 2)
    values = [str(each) for each in classes]
    offered = [(str(each), str((each + 2) % 4)) for each in classes]
    targets = [Target("step 1", values, {}), Target("answer", values, {}, offered)]
    found = probe_states(states, targets, model="m", dataset="d", positions=POSITIONS)
    free, chosen = found.targets
    assert free.accuracy[1][2] < 0.7 and chosen.accuracy[1][2] == 1.0  # type: ignore[operator]
    # 100 test problems, two choices: standard error 5 points.
    assert 0.35 < chosen.accuracy[0][1] < 0.65 and 0.35 < chosen.majority < 0.65  # type: ignore[operator]
    assert (free.num_choices, chosen.num_choices) == (None, 2)
    assert [row[-1] for row in probe_table(found).rows] == ["4", "2 of 4"]
    assert "the answer, one of 2, can be read from thought 2" in found.verdict()


def test_the_answer_position_is_no_thought() -> None:
    states, values = drawn(strength=0.0)
    for place, value in enumerate(values):
        states[5][place, 3, int(value or 0)] = 20
    (target,) = probed(states, values).targets
    assert target.accuracy[1][3] == 1.0 and target.best is not None and target.best[1] in (1, 2)


def test_a_probe_is_ridge_regression_on_one_hot_labels() -> None:
    rng = np.random.default_rng(2)
    labels = [rng.integers(3, size=size) for size in (60, 30, 30)]
    inputs = [rng.normal(size=(len(part), 6)) + 0.6 * np.eye(6)[part] for part in labels]
    mean, scale = inputs[0].mean(axis=0), inputs[0].std(axis=0)
    train, aside, test = ((each - mean) / scale for each in inputs)
    one_hot = np.eye(3)[labels[0]]
    scores = {}
    for penalty in (1.0, 10.0, 100.0, 1000.0, 10000.0):
        weights = np.linalg.solve(train.T @ train + penalty * np.eye(6), train.T @ (one_hot - one_hot.mean(axis=0)))
        held, right = (
            float(((part @ weights + one_hot.mean(axis=0)).argmax(axis=1) == truth).mean())
            for part, truth in ((aside, labels[1]), (test, labels[2]))
        )
        scores.setdefault(held, right)
    best = max(scores)
    fit = _fitted(inputs, labels, labels[:2], 3)
    assert (fit.right, fit.held) == (pytest.approx(scores[best]), pytest.approx(best))


def test_rare_values_are_left_out_and_too_few_problems_refused() -> None:
    states, values = drawn(strength=1.0)
    values[:3] = ["rare"] * 3
    values[3] = None
    (target,) = probed(states, values).targets
    assert target.num_left_out == 4 and target.num_classes == 4
    with pytest.raises(UserError, match=r"40 problems of d are too few for probes.*raise --num_problems"):
        probed({layer: state[:40] for layer, state in states.items()}, values[:40])


@pytest.mark.parametrize("make", [llama, gpt2])
def test_the_final_norm_is_the_one_before_the_head(make: type) -> None:
    lm = make().eval()
    norm = final_norm(lm)
    assert norm is not None
    seen = []
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    logits = lm(input_ids=torch.tensor([[3, 4, 5]])).logits
    handle.remove()
    assert torch.allclose(lm.get_output_embeddings()(norm(seen[0][0])), logits, atol=1e-5)


@pytest.fixture(scope="module")
def of_student() -> Probed:
    student = StudentModel.from_pretrained("tiny-latent-student")
    problems = load_problems("gsm-mini", split="test", limit=600).problems
    return probe_model(student, problems, name="student", dataset="gsm-mini")


def test_at_the_last_layer_the_lens_reads_the_model_s_own_answer(of_student: Probed) -> None:
    student = StudentModel.from_pretrained("tiny-latent-student")
    problems = load_problems("gsm-mini", split="test", limit=600).problems
    answer = next(each for each in of_student.targets if each.name == "answer")
    texts = student.generate([problem.question_text for problem in problems], max_new_tokens=1)
    said = [text.removeprefix(student.encoder.answer_marker) for text in texts]
    right = sum(text == problem.answer for text, problem in zip(said, problems, strict=True))
    # The lens is counted on a fifth of the problems.
    assert answer.lens[-1][-1] == pytest.approx(right / len(problems), abs=0.1)
    assert answer.lens[-1][0] is not None and answer.lens[-1][0] < answer.lens[-1][-1]  # type: ignore[operator]
    assert of_student.positions == ("question", *(f"thought {n}" for n in range(1, 5)), "answer")
    assert of_student.layers == (0, 1, 2, 3, 4)


def test_only_results_before_the_last_step_are_steps_and_blank_tokens_are_no_hits() -> None:
    student = StudentModel.from_pretrained("tiny-latent-student")
    steps = (("a: 1 + 2 = 3 (B)", "3 - 1 = 2"), ("5 + 5 = 10",))
    problems = [Problem(str(i), "q", each, "2", (), "") for i, each in enumerate(steps)]
    assert step_results(problems, dataset="d") == {"step 1": ["3", None], "answer": ["2", "2"]}
    (problem,) = load_problems("graph-mini", split="test", limit=1).problems
    edges = problem.steps
    assert [value for (value,) in step_results([problem], dataset="graph-mini:nodes=16").values()] == [
        *(edge[2:] for edge in edges[:-1]),
        problem.answer,
    ]
    assert problem.answer in candidates(problem.question) and edges[-1].endswith(problem.answer)
    found = {str(student.tokenizer.decode([token])).strip() for token in _starts(student, "28")}
    assert found == {"28"}


def test_tables_and_verdict_fit_a_terminal(of_student: Probed) -> None:
    text = probe_text(of_student)
    assert max(map(len, text.splitlines())) <= 120 and "can be read from thought" in text
    assert len(probe_table(of_student).rows) == len(of_student.targets)
    assert Probes.from_json(Probes("s", (of_student,)).to_json()).found == (of_student,)


def test_the_command_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["tiny-latent-student", "--num_problems", "400", "--output", str(tmp_path)]
    assert cli.main(["probe", *flags, "--dataset", "gsm-mini"]) is None
    assert "written" in capsys.readouterr().out
    held = Probes.from_json(json.loads((tmp_path / "probe.json").read_text("utf-8")))
    assert held.source == "tiny-latent-student, 400 test problems of gsm-mini"
    for arguments, message in (
        (flags, "name the problems with --dataset"),
        (["tiny-teacher", "--dataset", "gsm-mini"], "it has not learned to think"),
        ([*flags[:2], "12", "--dataset", "gsm-mini"], "are too few for probes"),
        (["tiny-latent-student", "--models", "x", "--dataset", "gsm-mini"], "--models is for run folders"),
    ):
        assert cli.main(["probe", *arguments]) == cli.USER_ERROR
        assert message in capsys.readouterr().err
