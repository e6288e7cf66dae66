"""graph-mini: which of two nodes can be reached from a root along the edges of a directed graph.

    question    edges "1734" (from 17 to 34) in random order, the root, two candidates
    steps       the edges of the only path from the root to the candidate that it reaches

After ProsQA of the Coconut paper (arXiv 2412.06769) and the reachability problems of arXiv 2505.12514. Every graph is
drawn as a base graph and then doubled: node v becomes v and its twin v', an edge u -> v becomes u -> v and u' -> v', or
u -> v' and u' -> v. The candidates are the end x of the base graph's path and its twin x'. Swapping all twins maps the
graph to itself and x to x', so whatever is counted around a candidate without the root (degrees, depths, distances to
leaves, mentions) is the same for both. Only the root tells them apart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lrd_peft.data.generators.chain import Redraw, require
from lrd_peft.data.generators.draft import Draft
from lrd_peft.runtime.errors import UserError, nearest

# An edge of the base graph: from, to, and whether it leads to the other node's twin.
BaseEdge = tuple[int, int, bool]
# Two digits each, so that an edge is two tokens of the tiny tokenizer, without a separator.
_LABELS = range(10, 100)
NODE_WIDTH = 2
# Few names are learned sooner. Larger graphs use more.
_NUM_LABELS = 30
# For an edge, and for a whole graph.
_NUM_TRIES = 40


@dataclass(frozen=True)
class GraphLevel:
    """Size and difficulty of the graphs of a set.

    Attributes:
        num_nodes: Nodes of the graph; even, as each has a twin.
        depths: Numbers of edges from the root to the candidate that it reaches, equally likely.
        branching: Maximum number of edges that leave a node.
        num_crossings: Edges beyond those that connect the base graph; each counts twice in the graph.
        num_sources: Nodes of the base graph that reach the candidate and that the root does not reach: false starts for
            a search backwards from the candidates. The other nodes off the path are dead ends of the search forwards.
    """

    num_nodes: int
    depths: tuple[int, ...]
    branching: int = 3
    num_crossings: int = 1
    num_sources: int = 1

    def __post_init__(self) -> None:
        smallest = 2 * (max(self.depths, default=0) + 1 + self.num_sources)
        if self.num_nodes % 2 or not smallest <= self.num_nodes <= len(_LABELS):
            raise UserError(
                f"num_nodes is {self.num_nodes}; it must be even and {smallest} to {len(_LABELS)} "
                f"for depths {self.depths} and {self.num_sources} sources"
            )
        if not self.depths or min(self.depths) < 1:
            raise UserError(f"depths is {self.depths}; give at least one depth, each at least 1")
        if self.branching < 1 or self.num_crossings < 0 or self.num_sources < 0:
            raise UserError(
                f"branching is {self.branching}, num_crossings {self.num_crossings}, num_sources {self.num_sources}; "
                "they must be at least 1, 0 and 0"
            )


LEVELS: dict[str, GraphLevel] = {
    "graph-mini": GraphLevel(num_nodes=14, depths=(3, 4)),
    "graph-mini-deep": GraphLevel(num_nodes=20, depths=(5, 6)),
}


# Setting of a set's name -> field of its level.
_SETTINGS = {
    "nodes": "num_nodes",
    "depth": "depths",
    "branching": "branching",
    "crossings": "num_crossings",
    "sources": "num_sources",
}


class _Base:
    """A base graph: path nodes 0 (the root) to `depth`, then sources, then dead ends."""

    def __init__(self, level: GraphLevel, depth: int) -> None:
        self.depth, self.branching = depth, level.branching
        self.size = level.num_nodes // 2
        self.sources = range(depth + 1, depth + 1 + level.num_sources)
        self.dead_ends = range(self.sources.stop, self.size)
        self.children: list[list[int]] = [[] for _ in range(self.size)]
        self.edges: list[BaseEdge] = []

    def connect(self, start: int, end: int, *, to_twin: bool = False) -> None:
        self.children[start].append(end)
        self.edges.append((start, end, to_twin))

    def may_cross(self, start: int, end: int) -> bool:
        """Whether an edge is new and opens no way from the root to a candidate and closes no cycle."""
        return (
            (start in self.sources or end in self.dead_ends)
            and end not in self.children[start]
            and len(self.children[start]) < self.branching
            and start not in self._reached(end)
        )

    def _reached(self, start: int) -> set[int]:
        reached, open_nodes = {start}, [start]
        while open_nodes:
            for child in self.children[open_nodes.pop()]:
                if child not in reached:
                    reached.add(child)
                    open_nodes.append(child)
        return reached


def _draw_base(rng: random.Random, level: GraphLevel) -> _Base:
    for _ in range(_NUM_TRIES):
        try:
            return _try_base(rng, level)
        except Redraw:
            continue
    raise UserError(
        f"no graph of {level.num_nodes} nodes with depths {level.depths}, branching {level.branching}, "
        f"{level.num_crossings} crossings and {level.num_sources} sources in {_NUM_TRIES} draws; "
        "allow more branching, more nodes or fewer crossings"
    )


def _try_base(rng: random.Random, level: GraphLevel) -> _Base:
    base = _Base(level, rng.choice(level.depths))
    for node in range(base.depth):
        base.connect(node, node + 1)
    for node in base.sources:
        base.connect(node, rng.randrange(node))
    for node in base.dead_ends:
        starts = [*range(base.depth + 1), *range(base.dead_ends.start, node)]
        starts = [start for start in starts if len(base.children[start]) < level.branching]
        require(bool(starts))
        base.connect(rng.choice(starts), node)
    for _ in range(level.num_crossings):
        _cross(base, rng)
    return base


def _cross(base: _Base, rng: random.Random) -> None:
    for _ in range(_NUM_TRIES):
        start, end = rng.sample(range(base.size), 2)
        if base.may_cross(start, end):
            base.connect(start, end, to_twin=rng.random() < 0.5)
            return
    raise Redraw


def draw_graph(level: GraphLevel, rng: random.Random) -> Draft:
    """Draw one problem. Its `subject` is its depth, such as "depth 3".

    Example:
        >>> import random
        >>> from lrd_peft.data.generators.graph_mini import GraphLevel, draw_graph
        >>> draw_graph(GraphLevel(num_nodes=8, depths=(2,)), random.Random(0)).subject
        'depth 2'
    """
    base = _draw_base(rng, level)
    size, depth = base.size, base.depth
    # Node v of the base graph is v, its twin is size + v.
    edges = [(start, end + size * to_twin) for start, end, to_twin in base.edges]
    edges += [(start + size, end + size * (not to_twin)) for start, end, to_twin in base.edges]
    rng.shuffle(edges)
    labels = rng.sample(_LABELS[: max(_NUM_LABELS, level.num_nodes)], level.num_nodes)
    candidates = [depth, depth + size]
    rng.shuffle(candidates)
    first, second = (labels[candidate] for candidate in candidates)
    listed = " ".join(_written(edge, labels) for edge in edges)
    return Draft(
        question=f"{listed}. from {labels[0]} to {first} or {second}?",
        steps=tuple(_written((node, node + 1), labels) for node in range(depth)),
        answer=str(labels[depth]),
        signature=graph_signature(level.num_nodes, edges, marks=(0, depth, depth + size)),
        subject=f"depth {depth}",
    )


def is_graph_set(name: str) -> bool:
    """Return whether a name is that of a set of graphs, with or without settings."""
    return name.partition(":")[0] in LEVELS


def candidates(question: str) -> tuple[str, str]:
    """Return the two nodes that a question asks about.

    Example:
        >>> from lrd_peft.data.generators.graph_mini import candidates
        >>> candidates("1014 1029 3126. from 10 to 29 or 31?")
        ('29', '31')
    """
    _, _, first, _, second = question.rstrip("?").rsplit(" ", 4)
    return first, second


def _written(edge: tuple[int, int], labels: Sequence[int]) -> str:
    return f"{labels[edge[0]]}{labels[edge[1]]}"


def graph_signature(num_nodes: int, edges: Iterable[tuple[int, int]], *, marks: Sequence[int]) -> str:
    """Return a text that is the same for all graphs that differ only in the names of nodes and the order of edges.

    Nodes are colored by their mark, then by the colors of those that their edges lead to and come from, until no color
    splits (color refinement, the one-dimensional Weisfeiler-Leman test). The signature lists the edges by color. Graphs
    that are equal up to renaming always agree in it. Graphs that the test cannot tell apart agree as well; they then
    share a split, so nothing leaks.

    Args:
        num_nodes: Number of nodes; nodes are integers from 0.
        edges: Edges as (from, to).
        marks: Nodes with a role of their own: root, reached candidate, other candidate.

    Returns:
        The signature.
    """
    after: list[list[int]] = [[] for _ in range(num_nodes)]
    before: list[list[int]] = [[] for _ in range(num_nodes)]
    for start, end in edges:
        after[start].append(end)
        before[end].append(start)
    colors = [0] * num_nodes
    for color, node in enumerate(marks, start=1):
        colors[node] = color
    num_colors = 0
    while len(set(colors)) > num_colors:
        num_colors = len(set(colors))
        seen = [
            (color, tuple(sorted([colors[v] for v in ends])), tuple(sorted([colors[v] for v in starts])))
            for color, ends, starts in zip(colors, after, before, strict=True)
        ]
        rank = {key: index for index, key in enumerate(sorted(seen))}
        colors = [rank[key] for key in seen]
    listed = sorted((colors[start], colors[end]) for start in range(num_nodes) for end in after[start])
    roles = "/".join(str(colors[node]) for node in marks)
    return f"graph/{num_nodes}/{roles}/" + " ".join(f"{start}>{end}" for start, end in listed)


def level_of(name: str, settings: str) -> GraphLevel:
    """Return the level of a set with other settings, such as "nodes=20,depth=5".

    Args:
        name: Name of the set.
        settings: Settings to change, joined by commas: nodes, depth (a number, or a range such as 3-5), branching,
            crossings, sources.

    Raises:
        UserError: If a setting is unknown, given twice or not a number, or the graph is impossible.
    """
    changed: dict[str, int | tuple[int, ...]] = {}
    for setting in settings.split(","):
        key, _, value = (part.strip() for part in setting.partition("="))
        if key not in _SETTINGS:
            raise UserError(
                f'"{name}:{settings}" sets "{key}"; choose from {", ".join(_SETTINGS)}, such as '
                f'"{name}:nodes=20,depth=4-6".{nearest(key, _SETTINGS)}'
            )
        numbers = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", value)
        if numbers is None or (numbers[2] and key != "depth") or _SETTINGS[key] in changed:
            wanted = "one number or a range such as 3-5" if key == "depth" else "one number"
            raise UserError(f'"{name}:{settings}" sets {key} to "{value}"; give {wanted}, once')
        low, high = int(numbers[1]), int(numbers[2] or numbers[1])
        changed[_SETTINGS[key]] = tuple(range(low, high + 1)) if key == "depth" else low
    return replace(LEVELS[name], **changed)
