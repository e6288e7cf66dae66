"""Interventions on thoughts: each against a plain recomputation, and what their table says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lrd_peft.data.problem import Problem
from lrd_peft.data.problem_sets import load_problems
from lrd_peft.evaluation.ablation import ablate, first_tokens
from lrd_peft.evaluation.ablation_results import Ablated, Ablation, Ablations
from lrd_peft.evaluation.answers import grade, kind_of
from lrd_peft.evaluation.interventions import interventions
from lrd_peft.evaluation.metrics import Accuracy
from lrd_peft.evaluation.score import grade_written, score
from lrd_peft.evaluation.thought_answers import ThoughtAnswers
from lrd_peft.model.generation import Generated, answer_batch
from lrd_peft.model.loop import unwrap
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.ablate import ablate_run
from lrd_peft.report.thought_tables import ablation_table, ablation_text
from lrd_peft.runtime.errors import UserError

PROBLEMS = load_problems("gsm-mini", split="validation", limit=12).problems


@pytest.fixture(scope="module")
def teacher() -> TeacherModel:
    return TeacherModel.from_pretrained("tiny-latent-teacher")


@pytest.fixture(scope="module")
def found(teacher: TeacherModel) -> Ablation:
    return ablate(teacher, PROBLEMS, name="teacher", dataset="gsm-mini", batch_size=5)


def own_thoughts(teacher: TeacherModel) -> torch.Tensor:
    """Return the thoughts of each problem by the plain definition: one row, no cache."""
    rows = []
    lm = unwrap(teacher.lm)
    for problem in PROBLEMS:
        inputs = lm.get_input_embeddings()(torch.tensor([teacher.encoder.prompt(problem.question_text)]))
        thoughts = []
        for _ in range(teacher.options.num_thoughts):
            hidden = lm.get_decoder()(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
            thoughts.append(hidden)
            inputs = torch.cat([inputs, hidden], dim=1)
        rows.append(torch.cat(thoughts, dim=1))
    return torch.cat(rows).detach()


def first_answers(teacher: TeacherModel, thoughts: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of the first answer token after these thoughts, by the plain definition."""
    lm, rows = unwrap(teacher.lm), []
    embed = lm.get_input_embeddings()
    for problem, slots in zip(PROBLEMS, thoughts, strict=True):
        question = embed(torch.tensor([teacher.encoder.prompt(problem.question_text)]))
        marker = embed(torch.tensor([teacher.encoder.marker]))
        inputs = torch.cat([question, slots[None].to(question.dtype), marker], dim=1)
        rows.append(lm(inputs_embeds=inputs, use_cache=False).logits[0, -1].log_softmax(-1))
    return torch.stack(rows).detach()


def test_the_model_s_own_thoughts_given_back_change_nothing(teacher: TeacherModel) -> None:
    questions = [problem.question_text for problem in PROBLEMS]
    own = own_thoughts(teacher)
    natural = answer_batch(teacher, questions, thinking=True, max_new_tokens=8)
    given = answer_batch(teacher, questions, thinking=True, max_new_tokens=8, thoughts=own)
    assert [row.tokens for row in given] == [row.tokens for row in natural]
    assert all(a.num_passes > b.num_passes for a, b in zip(natural, given, strict=True))


def test_the_untouched_model_is_that_of_the_evaluation(teacher: TeacherModel, found: Ablation) -> None:
    graded = score(teacher, PROBLEMS, thinking=True, batch_size=4, max_new_tokens=32)
    assert found.untouched == Accuracy.of([row.right for row in graded])


@pytest.mark.parametrize("name", ["none", "zeros", "other-answer", "without-2", "last-2", "repeat-first"])
def test_the_divergence_is_that_of_plainly_computed_distributions(
    teacher: TeacherModel, found: Ablation, name: str
) -> None:
    own = own_thoughts(teacher)
    golds = [problem.answer for problem in PROBLEMS]
    plan = next(each for each in interventions(own, filler=own[0, 0], golds=golds, seed=0) if each.name == name)
    assert plan.replace is not None
    before, after = first_answers(teacher, own), first_answers(teacher, plan.replace(range(len(PROBLEMS))))
    expected = (before.exp() * (before - after)).sum(-1).mean().item()
    row = found.row(name)
    assert row is not None and row.divergence == pytest.approx(expected, abs=2e-4)


def test_more_thoughts_are_the_model_s_own(teacher: TeacherModel, found: Ablation) -> None:
    row = found.row("think-6")
    assert row is not None and row.num_thoughts == 6
    questions = [problem.question_text for problem in PROBLEMS]
    longer = answer_batch(teacher, questions, thinking=True, max_new_tokens=32, num_thoughts=6)
    natural = answer_batch(teacher, questions, thinking=True, max_new_tokens=32)
    assert row.num_changed == sum(a.tokens != b.tokens for a, b in zip(longer, natural, strict=True))


def test_nothing_depends_on_the_batches(teacher: TeacherModel, found: Ablation) -> None:
    whole = ablate(teacher, PROBLEMS, name="teacher", dataset="gsm-mini", batch_size=64)
    for one, other in zip(found.rows, whole.rows, strict=True):
        assert one.divergence == pytest.approx(other.divergence, abs=1e-4)
        assert replace(one, divergence=0.0) == replace(other, divergence=0.0)


def test_interventions_are_what_they_are_called() -> None:
    own = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1))
    golds, filler = ["7", "9", "7", "7", "2"], torch.arange(8.0)
    plans = {each.name: each for each in interventions(own, filler=filler, golds=golds, seed=3)}
    new = {name: plan.replace([3, 0]) for name, plan in plans.items() if plan.replace and not plan.donors}
    assert new["none"].shape == (2, 0, 8) and new["zeros"].abs().max() == 0
    assert torch.allclose(new["noise"].norm(dim=-1), own[[3, 0]].norm(dim=-1))
    assert torch.equal(plans["noise"].replace([0]), new["noise"][1:])  # type: ignore[misc]
    assert torch.allclose(new["mean"][0], own.mean(0)) and torch.equal(new["filler"][1, 2], filler)
    assert torch.equal(new["repeat-first"][0], own[3, [0, 0, 0]])
    assert torch.equal(new["without-2"], own[[3, 0]][:, [0, 2]])
    assert torch.equal(new["first-1"], own[[3, 0]][:, :1]) and torch.equal(new["last-1"], own[[3, 0]][:, 2:])
    same, other = plans["same-answer"], plans["other-answer"]
    assert [same.possible(i) for i in range(5)] == [True, False, True, True, False]
    for i in range(5):
        donor = other.donors[i]
        assert donor is not None and golds[donor] != golds[i]
        assert torch.equal(other.replace([i])[0], own[donor])  # type: ignore[misc]
        if same.possible(i):
            donor = same.donors[i]
            assert donor is not None and donor != i and golds[donor] == golds[i]


def test_where_all_answers_are_equal_there_is_no_donor_with_another() -> None:
    plans = interventions(torch.zeros(2, 1, 4), filler=torch.zeros(4), golds=["1", "1"], seed=0)
    other = next(each for each in plans if each.name == "other-answer")
    assert other.donors == (None, None)
    assert not any(each.name.startswith(("without", "first", "repeat")) for each in plans)


def row(name: str, right: int, *, p: float, title: str = "", compared: int = 0, of_donor: int = 0) -> Ablated:
    count = Accuracy.of([i < right for i in range(100)])
    untouched = Accuracy.of([i < 90 for i in range(100)])
    return Ablated(name, title or name, 2, count, untouched, p, 3, 0.5, 0, compared, of_donor)


def test_the_verdict_is_what_the_numbers_say() -> None:
    rows = (
        row("none", 14, p=1e-9),
        row("filler", 20, p=1e-9),
        row("other-answer", 50, p=1e-9, compared=80, of_donor=60),
        row("without-1", 88, p=0.5),
        row("without-2", 59, p=1e-4),
    )
    ablation = Ablation("latent-lora", "gsm-mini", 2, rows[0].untouched, rows)
    assert ablation.verdict() == (
        "latent-lora on gsm-mini: 90.0% right with its thoughts, 14.0% without; removing thought 2 alone costs 31 "
        "points; another problem's thoughts cost 40 points and give that problem's answer in 75% of cases"
    )
    idle = Ablation("x", "y", 2, rows[0].untouched, (rows[0], row("filler", 89, p=0.8), row("without-1", 88, p=0.5)))
    assert "removing any single thought costs nothing that the test can see" in idle.verdict()
    assert idle.verdict().endswith("a filler token is not significantly different from the thoughts (p = 0.8)")
    better = (rows[0], row("other-answer", 95, p=0.3, compared=4), row("without-1", 99, p=0.004))
    gains = Ablation("x", "y", 2, rows[0].untouched, better).verdict()
    assert "single thought costs nothing" in gains and "another problem's thoughts gain 5 points" in gains
    assert Ablations.from_json(Ablations("s", (ablation,)).to_json()).found == (ablation,)
    table, text = ablation_table(ablation), ablation_text(ablation)
    assert table.rows[3][3:5] == ("40.0", "<0.0001") and table.rows[3][-1] == "60 of 80"
    assert "removing thought 2" in text and max(map(len, text.splitlines())) <= 120


def test_what_cannot_be_ablated_is_said(teacher: TeacherModel) -> None:
    with pytest.raises(UserError, match="at least two problems"):
        ablate(teacher, PROBLEMS[:1], name="teacher", dataset="gsm-mini")
    writes = TeacherModel("tiny-teacher", options=replace(teacher.options, num_thoughts=0))
    with pytest.raises(UserError, match="no thoughts to replace"):
        ablate(writes, PROBLEMS, name="teacher-cot", dataset="gsm-mini")


def test_what_is_left_out_is_counted_and_said(teacher: TeacherModel) -> None:
    answers = {problem.answer: problem for problem in PROBLEMS}
    distinct = list(answers.values())[:3]
    too_long = replace(distinct[0], question=distinct[0].question + " and so on" * 2000)
    found = ablate(teacher, [*distinct, too_long], name="teacher", dataset="gsm-mini", max_new_tokens=4)
    assert found.untouched.n == 3 and found.num_too_long == 1
    assert found.row("same-answer") is None and found.impossible == ("another problem's, same answer",)
    paired = ablate(teacher, [*distinct, distinct[0]], name="teacher", dataset="gsm-mini", max_new_tokens=4)
    same = paired.row("same-answer")
    assert same is not None and (same.accuracy.n, same.num_left_out, paired.impossible) == (2, 2, ())
    for ablation, said in (
        (found, "another problem's, same answer: no problem has such a donor. Left out because they do not fit"),
        (paired, "another problem's, same answer: n = 2; 2 problems have no such donor."),
    ):
        assert said in ablation_table(ablation).note
        assert said in " ".join(ablation_text(ablation).split())


@pytest.mark.parametrize(("projection", "jacobi_passes"), [("none", 2), ("mlp", None), ("mlp", 1), ("pause", 1)])
def test_own_thoughts_given_back_change_nothing_however_they_are_made(
    projection: str, jacobi_passes: int | None
) -> None:
    made = {"projection": projection, "jacobi_passes": jacobi_passes}
    options = ThinkingOptions(num_thoughts=3, **made)
    model = StudentModel("tiny-student", options=options)
    if projection == "mlp":
        torch.manual_seed(0)
        for weight in model.projection.parameters():  # type: ignore[union-attr]
            torch.nn.init.normal_(weight, std=0.1)
    answers = ThoughtAnswers(model, PROBLEMS, batch_size=5, max_new_tokens=4)
    with torch.no_grad():
        for rows in answers.batches():
            without, own = answers.given(rows, num_thoughts=3)
            given, forced = answers.given(rows, thoughts=own.thoughts, num_thoughts=3)
            _, moved = answers.given(rows, thoughts=own.thoughts + 1, num_thoughts=3)
            natural, again, other = (first_tokens(model, each.last[:, -1]) for each in (own, forced, moved))
            assert torch.allclose(natural, again, atol=1e-4)
            assert not torch.allclose(natural, other, atol=1e-2)
            assert without == given


def test_a_marker_that_the_model_writes_itself_is_read_as_its_own() -> None:
    options = ThinkingOptions(num_thoughts=3, force_marker=False, answer_marker="so it is ")
    model = StudentModel("tiny-student", options=options)
    tokens = tuple(model.tokenizer.encode("3 + 4 = 7 so it is 9 pens 12", add_special_tokens=False))
    row = Generated(tokens, (1.0,) * len(tokens), len(tokens), num_thoughts=3, num_passes=4, finished=True)
    problem = Problem("a", "How many?", (), "9")
    text, found = grade_written(model, problem, row, forced=False)
    assert (found.predicted, found.right) == ("9", True) and "###" in text
    plain = grade(kind_of(problem), str(model.tokenizer.decode(list(tokens))), "9")
    assert not plain.right


def test_a_plain_model_has_no_thoughts_of_its_own() -> None:
    with pytest.raises(UserError, match="tiny-student is a plain language model that has not learned to think"):
        ablate_run("tiny-student", dataset="gsm-mini", num_problems=2)
    found, path = ablate_run("tiny-latent-teacher", dataset="gsm-mini", num_problems=2)
    assert path is None and found.found[0].untouched.n == 2
