"""graph-mini: one candidate can be reached, by one path; names do not decide the split; no shortcut pays."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lrd_peft.data.encoding import Encoder
from lrd_peft.data.generators import generate_problems
from lrd_peft.data.generators.graph_mini import LEVELS, GraphLevel, draw_graph, graph_signature, level_of
from lrd_peft.data.problem_sets import load_problems
from lrd_peft.evaluation.answers import kind_of
from lrd_peft.runtime.errors import UserError

Edge = tuple[str, str]


def parsed(question: str) -> tuple[list[Edge], str, tuple[str, str]]:
    """Read the edges, the root and the candidates from a question's text."""
    match = re.fullmatch(r"((?:\d{4} )*\d{4})\. from (\d\d) to (\d\d) or (\d\d)\?", question)
    assert match is not None, question
    listed, root, first, second = match.groups()
    return [(edge[:2], edge[2:]) for edge in listed.split()], root, (first, second)


def paths(edges: list[Edge], start: str, end: str) -> list[tuple[str, ...]]:
    """All paths as edges, by brute force; a cycle would not terminate."""
    if start == end:
        return [()]
    return [(a + b, *rest) for a, b in edges if a == start for rest in paths(edges, b, end)]


@pytest.mark.parametrize("name", LEVELS)
@settings(deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**64))
def test_one_candidate_is_reached_by_the_path_that_the_steps_write(name: str, seed: int) -> None:
    level = LEVELS[name]
    draft = draw_graph(level, random.Random(seed))
    edges, root, candidates = parsed(draft.question)
    assert len({node for edge in edges for node in edge}) == level.num_nodes
    assert len(set(edges)) == len(edges) == level.num_nodes - 2 + 2 * level.num_crossings
    assert max(sum(start == node for start, _ in edges) for node, _ in edges) <= level.branching
    (other,) = set(candidates) - {draft.answer}
    assert paths(edges, root, draft.answer) == [draft.steps]
    assert paths(edges, root, other) == []
    assert len(draft.steps) in level.depths


@given(seed=st.integers(min_value=0, max_value=2**32))
@settings(deadline=None)
def test_a_signature_depends_on_no_name_and_no_order(seed: int) -> None:
    rng = random.Random(seed)
    draft = draw_graph(LEVELS["graph-mini"], rng)
    edges, root, (first, second) = parsed(draft.question)
    other = second if draft.answer == first else first
    nodes = sorted({node for edge in edges for node in edge})
    rng.shuffle(nodes)
    rng.shuffle(edges)
    number = {node: index for index, node in enumerate(nodes)}
    renamed = [(number[start], number[end]) for start, end in edges]
    marks = [number[root], number[draft.answer], number[other]]
    assert graph_signature(len(nodes), renamed, marks=marks) == draft.signature
    assert graph_signature(len(nodes), renamed[1:], marks=marks) != draft.signature


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_nodes": 15, "depths": (3,)}, "num_nodes is 15; it must be even and 10 to 90"),
        ({"num_nodes": 8, "depths": (3,)}, "num_nodes is 8; it must be even and 10 to 90"),
        ({"num_nodes": 92, "depths": (3,)}, "num_nodes is 92"),
        ({"num_nodes": 14, "depths": ()}, r"depths is \(\); give at least one depth"),
        ({"num_nodes": 14, "depths": (0, 3)}, r"depths is \(0, 3\)"),
        ({"num_nodes": 14, "depths": (3,), "branching": 0}, "branching is 0"),
    ],
)
def test_impossible_levels_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GraphLevel(**fields)  # type: ignore[arg-type]


def test_nodes_have_few_names_and_large_graphs_as_many_as_they_need() -> None:
    named = {}
    for num_nodes in (16, 40, 90):
        drafts = [draw_graph(GraphLevel(num_nodes, (3,)), random.Random(seed)) for seed in range(60)]
        named[num_nodes] = {int(node) for draft in drafts for edge in parsed(draft.question)[0] for node in edge}
    assert named == {16: set(range(10, 40)), 40: set(range(10, 50)), 90: set(range(10, 100))}


def test_a_name_with_settings_is_a_level_of_its_own() -> None:
    assert level_of("graph-mini", "nodes=20,depth=5") == replace(LEVELS["graph-mini"], num_nodes=20, depths=(5,))
    name = "graph-mini:nodes=24,depth=2-4,branching=2,crossings=0,sources=2"
    problems = load_problems(f"gsm-mini+{name}", split="test", limit=20)[20:]
    assert {problem.num_steps for problem in problems} == {2, 3, 4}
    assert all(len(parsed(problem.question)[0]) == 22 for problem in problems)
    assert problems[0].id == f"{name}/test/0/0"
    assert kind_of(problems[0]) == "numeric"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("graph-mini:", r'sets ""; choose from nodes, depth'),
        ("graph-mini:node=12", r'sets "node"; .* Did you mean "nodes"\?'),
        ("graph-mini:nodes", 'sets nodes to ""; give one number, once'),
        ("graph-mini:nodes=12-14", 'sets nodes to "12-14"; give one number, once'),
        ("graph-mini:nodes=-12", 'sets nodes to "-12"; give one number, once'),
        ("graph-mini:depth=3,depth=4", 'sets depth to "4"; give one number or a range such as 3-5, once'),
        ("graph-mini:depth=5-3", r"depths is \(\); give at least one depth"),
        ("graph-mini:nodes=15", "num_nodes is 15; it must be even"),
        ("graph-mini:branching=1", "no graph of 14 nodes .* branching 1, 1 crossings .* allow more branching"),
        ("graph-mini:crossings=99", "no graph of 14 nodes .* 99 crossings .* fewer crossings"),
        ("gsm-mini:nodes=12", "gsm-mini takes none; those that do: graph-mini"),
    ],
)
def test_settings_that_make_no_graph_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_problems(name, limit=1)
    assert "\n" not in str(caught.value)


def test_the_tiny_tokenizer_needs_three_tokens_for_an_edge_and_for_a_step(root: Path) -> None:
    folder = root / "src" / "lrd_peft" / "model" / "assets" / "tiny-teacher"
    encoder = Encoder(PreTrainedTokenizerFast.from_pretrained(str(folder)))
    for name, level in LEVELS.items():
        num_edges = level.num_nodes - 2 + 2 * level.num_crossings
        for row in encoder.encode_many(generate_problems(name, split="train", num_problems=50, seed=0)):
            # The edges, and of ". from 17 to 34 or 22?" and the newline what does not separate edges.
            assert len(row.prompt) == 3 * num_edges + 9 <= 70
            assert {len(step) for step in row.steps} == {3}
            assert len(row.answer) == 2


# --- shortcuts


def measured(question: str) -> list[list[float]]:
    """What can be counted around each candidate without the root, and where its edges stand in the list."""
    edges, _, candidates = parsed(question)
    after: dict[str, list[str]] = defaultdict(list)
    before: dict[str, list[str]] = defaultdict(list)
    for start, end in edges:
        after[start].append(end)
        before[end].append(start)
    return [
        [
            *_degrees(node, after, before),
            *_levels(node, after),
            *_levels(node, before),
            *_places(node, edges),
            sum(node in edge for edge in edges),
            int(node),
        ]
        for node in candidates
    ]


def _degrees(node: str, after: Mapping[str, list[str]], before: Mapping[str, list[str]]) -> list[int]:
    """Edges out and in, and those of the neighbors."""
    neighbors = (*after.get(node, ()), *before.get(node, ()))
    return [
        len(after.get(node, ())),
        len(before.get(node, ())),
        sum(len(after.get(other, ())) for other in neighbors),
        sum(len(before.get(other, ())) for other in neighbors),
    ]


def _levels(node: str, following: Mapping[str, list[str]]) -> list[int]:
    """Follow edges (or walk against them): the nearest and the farthest end, and how many nodes are met."""
    met, frontier, nearest_end, distance = {node}, {node}, -1, 0
    while frontier:
        if nearest_end < 0 and any(not following.get(other) for other in frontier):
            nearest_end = distance
        frontier = {child for other in frontier for child in following.get(other, ())}
        met |= frontier
        distance += 1
    return [nearest_end, distance - 1, len(met)]


def _places(node: str, edges: list[Edge]) -> list[float]:
    """First, last and mean place in the list: of edges into the node, of edges out of it, of both."""
    found = []
    for places in (
        [place for place, edge in enumerate(edges) if edge[1] == node],
        [place for place, edge in enumerate(edges) if edge[0] == node],
        [place for place, edge in enumerate(edges) if node in edge],
    ):
        found += [places[0], places[-1], sum(places) / len(places)] if places else [-1.0, -1.0, -1.0]
    return found


def logistic_regression(features: np.ndarray, is_first: np.ndarray) -> np.ndarray:
    """Fit on the first third of the problems; return for each of the others whether it is right."""
    features = np.hstack([features, features**2])
    part = len(features) // 3
    spread = features[:part].std(axis=0)
    features = features[:, spread > 0]
    features = (features - features[:part].mean(axis=0)) / features[:part].std(axis=0)
    features = np.hstack([features, np.ones((len(features), 1))])
    signs = np.where(is_first, 1.0, -1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs[:part] * (features[:part] @ weights)
        gradient = -(signs[:part] * scipy.special.expit(-margins)) @ features[:part]
        return np.logaddexp(0, -margins).sum() + 0.5 * weights @ weights, gradient + weights

    fitted = scipy.optimize.minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B").x
    return (features[part:] @ fitted > 0) == is_first[part:]


def classified(drafts: Sequence[tuple[str, str]]) -> float:
    """Accuracy on the last two thirds of (question, answer), from both candidates' features and their differences."""
    found = np.array([measured(question) for question, _ in drafts], dtype=float)
    first, second = found[:, 0], found[:, 1]
    is_first = np.array([parsed(question)[2][0] == answer for question, answer in drafts])
    return float(logistic_regression(np.hstack([first - second, first, second]), is_first).mean())


@pytest.mark.parametrize("name", LEVELS)
def test_no_shortcut_tells_the_candidates_apart(name: str) -> None:
    rng = random.Random(11)
    drafts = [draw_graph(LEVELS[name], rng) for _ in range(6_000)]
    for draft in drafts:
        first, second = measured(draft.question)
        # Degrees, levels and mentions are equal for each problem; places and names are equal on average.
        assert first[:10] == second[:10]
        assert first[19] == second[19]
    assert 0.47 <= classified([(draft.question, draft.answer) for draft in drafts]) <= 0.53
    answers_first = np.mean([parsed(draft.question)[2][0] == draft.answer for draft in drafts])
    assert 0.47 <= answers_first <= 0.53


def test_the_classifier_finds_a_shortcut_where_there_is_one() -> None:
    """The other candidate is any node that the root does not reach, as in a careless generator."""
    rng = random.Random(11)
    careless = []
    for _ in range(2_000):
        draft = draw_graph(LEVELS["graph-mini"], rng)
        edges, root, (first, second) = parsed(draft.question)
        nodes = sorted({node for edge in edges for node in edge} - {root, draft.answer})
        wrong = rng.choice([node for node in nodes if not paths(edges, root, node)])
        other = second if draft.answer == first else first
        question = draft.question.rpartition(" to ")
        careless.append((f"{question[0]} to {question[2].replace(other, wrong)}", draft.answer))
    assert classified(careless) >= 0.6
