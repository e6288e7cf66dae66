"""What a thought holds: linear probes on hidden states, with controls, and the logit lens.

A probe is a ridge regression on one-hot labels (Hoerl and Kennard, Technometrics 12, 1970). With standardized states X
and centered labels Y of the training problems,

    W = (X^T X + lambda I)^-1 X^T Y,        predicted class = argmax over columns of x W + mean of Y,

computed by the singular value decomposition of X. Where the problem names the values to choose from, the argmax is over
these. A fifth of the problems is kept aside to choose lambda and the best cell, another fifth is the test. The control
is the mean of five probes that are fitted in the same way on shuffled labels (Hewitt and Liang, arXiv 1909.03368, use
random labels for the same purpose). The logit lens (nostalgebraist, 2020) applies the final norm and the LM head to the
states of each layer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrd_peft.evaluation.probe_results import Probed, ProbedTarget
from lrd_peft.runtime.errors import UserError

States = Mapping[int, NDArray[np.float32]]
"""Layer -> hidden states, float32 of shape [problem, position, hidden]."""

MIN_PER_CLASS = 5
"""Training problems that a value needs to be a class."""
MIN_TEST = 20
"""Test problems that a quantity needs."""
_NUM_SHUFFLES = 5
_PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)


@dataclass(frozen=True, slots=True)
class Target:
    """A quantity to read.

    Attributes:
        name: `step 1`, ... or `answer`.
        values: Its value in each problem; None where there is none.
        lens_hits: Layer -> whether the LM head's first choice begins the value, bool of shape [problem, position].
            Layers that could not be read are missing.
        choices: The values that each problem leaves to choose from; None if it names none.
    """

    name: str
    values: Sequence[str | None]
    lens_hits: Mapping[int, NDArray[np.bool_]]
    choices: Sequence[tuple[str, ...]] | None = None


def probe_states(
    states: States,
    targets: Sequence[Target],
    *,
    model: str,
    dataset: str,
    positions: Sequence[str],
    seed: int = 0,
) -> Probed:
    """Fit probes for each quantity at each layer and position.

    Args:
        states: Hidden states of the problems.
        targets: Quantities to read.
        model: What the model is called in the result.
        dataset: Name of the data set.
        positions: Names of the positions; the first is the question's last one, those of thoughts begin with "thought".
        seed: Seed of the split of the problems and of the shuffled labels.

    Raises:
        UserError: If no quantity has enough problems.

    Example:
        >>> import numpy as np
        >>> from lrd_peft.evaluation.probing import Target, probe_states
        >>> rng = np.random.default_rng(0)
        >>> values = [str(i % 3) for i in range(300)]
        >>> states = rng.normal(size=(300, 2, 8)).astype(np.float32)
        >>> states[:, 1, 0] += [3 * (i % 3) for i in range(300)]
        >>> target = Target("answer", values, {})
        >>> found = probe_states({1: states}, [target], model="m", dataset="d", positions=["question", "thought 1"])
        >>> found.targets[0].accuracy[0][1] > 0.8 > 0.6 > found.targets[0].accuracy[0][0]
        True
    """
    layers = tuple(sorted(states))
    num_problems = len(states[layers[0]])
    parts = _parts(num_problems, seed=seed)
    found, skipped = [], []
    for target in targets:
        classes, rows = _classes(target.values, parts)
        if len(classes) < 2 or len(rows[2]) < MIN_TEST or not rows[1]:
            skipped.append(
                f"{target.name}: {len(rows[2])} test problems and {len(classes)} values with at least {MIN_PER_CLASS} "
                f"training problems; it takes {MIN_TEST} and 2"
            )
            continue
        found.append(_probe(states, layers, target, classes, rows, positions=positions, seed=seed))
    if not found:
        raise UserError(
            f"{num_problems} problems of {dataset} are too few for probes ({'; '.join(skipped)}); raise --num_problems"
        )
    return Probed(model, dataset, layers, tuple(positions), tuple(found), tuple(skipped))


def _parts(num_problems: int, *, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Split problems at random: three fifths to fit on, one to choose on, one to test on, each in order."""
    order = list(range(num_problems))
    random.Random(f"probes/{seed}").shuffle(order)
    first, second = round(0.6 * num_problems), round(0.8 * num_problems)
    return sorted(order[:first]), sorted(order[first:second]), sorted(order[second:])


def _classes(values: Sequence[str | None], parts: Sequence[Sequence[int]]) -> tuple[list[str], list[list[int]]]:
    """Return the values that enough problems of the first part have, and the problems of each part with one of them."""
    counts = Counter(value for i in parts[0] if (value := values[i]) is not None)
    classes = sorted(value for value, count in counts.items() if count >= MIN_PER_CLASS)
    known = set(classes)
    return classes, [[i for i in part if values[i] in known] for part in parts]


def _probe(
    states: States,
    layers: Sequence[int],
    target: Target,
    classes: Sequence[str],
    rows: Sequence[Sequence[int]],
    *,
    positions: Sequence[str],
    seed: int,
) -> ProbedTarget:
    index = {value: place for place, value in enumerate(classes)}
    labels = [np.array([index[target.values[i] or ""] for i in part]) for part in rows]
    rng = np.random.default_rng(seed)
    shuffles = [[rng.permutation(labels[0]), rng.permutation(labels[1])] for _ in range(_NUM_SHUFFLES)]
    allowed = [_allowed(target, part, index) for part in rows]
    counts = np.bincount(labels[0], minlength=len(classes))
    frequent = np.where(allowed[2], counts, -1).argmax(axis=1)
    num_positions = len(positions)
    size = (len(layers), num_positions)
    accuracy, control, chosen = np.zeros(size), np.zeros(size), np.zeros(size)
    lens: list[list[float | None]] = [[None] * num_positions for _ in layers]
    for place, layer in enumerate(layers):
        for position in range(num_positions):
            inputs = [states[layer][list(part), position].astype(np.float64) for part in rows]
            fit = _fitted(inputs, labels, labels[:2], len(classes), allowed)
            accuracy[place, position], chosen[place, position] = fit.right, fit.held
            controls = [_fitted(inputs, labels, shuffled, len(classes), allowed).right for shuffled in shuffles]
            control[place, position] = np.mean(controls)
            if layer in target.lens_hits:
                lens[place][position] = round(float(target.lens_hits[layer][list(rows[2]), position].mean()), 4)
    gain = 0.0
    places = [place for place, name in enumerate(positions) if name.startswith("thought")]
    best = None
    if places:
        row, column = np.unravel_index(int(chosen[:, places].argmax()), (len(layers), len(places)))
        best = (int(row), places[int(column)])
        gain = float(chosen[best] - chosen[:, 0].max())
    return ProbedTarget(
        name=target.name,
        num_classes=len(classes),
        num_choices=None if target.choices is None else max(map(len, target.choices)),
        num_train=len(rows[0]),
        num_test=len(rows[2]),
        num_left_out=len(target.values) - sum(map(len, rows)),
        majority=round(float((labels[2] == frequent).mean()), 4),
        accuracy=_rounded(accuracy),
        shuffled=_rounded(control),
        lens=tuple(map(tuple, lens)),
        best=best,
        best_question=int(chosen[:, 0].argmax()),
        gain_aside=round(gain, 4),
    )


def _allowed(target: Target, part: Sequence[int], index: Mapping[str, int]) -> NDArray[np.bool_]:
    """Return which classes may be chosen in each problem of a part, [problem, class]."""
    if target.choices is None:
        return np.ones((len(part), len(index)), dtype=np.bool_)
    return np.array([[value in target.choices[i] for value in index] for i in part], dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class _Fit:
    """A probe with the penalty that is best on the problems kept aside.

    Attributes:
        held: Its accuracy on them.
        right: Its accuracy on the test problems.
    """

    held: float
    right: float
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    center: NDArray[np.float64]


def _fitted(
    inputs: Sequence[NDArray[np.float64]],
    labels: Sequence[NDArray[np.int64]],
    fit_labels: Sequence[NDArray[np.int64]],
    num_classes: int,
    allowed: Sequence[NDArray[np.bool_] | bool] = (True, True, True),
) -> _Fit:
    mean, scale = inputs[0].mean(axis=0), inputs[0].std(axis=0)
    scale[scale < 1e-8] = 1.0
    train, aside, test = ((each - mean) / scale for each in inputs)
    one_hot = np.eye(num_classes)[fit_labels[0]]
    center = one_hot.mean(axis=0)
    left, values, right = np.linalg.svd(train, full_matrices=False)
    projected = left.T @ (one_hot - center)

    def weights_of(penalty: float) -> NDArray[np.float64]:
        return right.T @ (projected * (values / (values**2 + penalty))[:, None])

    def share(
        states: NDArray[np.float64],
        weights: NDArray[np.float64],
        wanted: NDArray[np.int64],
        choices: NDArray[np.bool_] | bool,
    ) -> float:
        scores = np.where(choices, states @ weights + center, -np.inf)
        return float((scores.argmax(axis=1) == wanted).mean())

    tried = [(share(aside, each, fit_labels[1], allowed[1]), each) for each in map(weights_of, _PENALTIES)]
    held, weights = max(tried, key=lambda pair: pair[0])  # the first of equals
    return _Fit(held, share(test, weights, labels[2], allowed[2]), mean, scale, weights, center)


@dataclass(frozen=True, slots=True)
class Reader:
    """A probe to read single states with.

    Attributes:
        layer: Layer that it reads.
        classes: Values that it knows.
        fit: How it reads, and how well.
        majority: Share of the held-out problems with the most frequent value, which a reader that sees nothing gives.
    """

    layer: int
    classes: tuple[str, ...]
    fit: _Fit
    majority: float

    @property
    def accuracy(self) -> float:
        """Share of held-out problems whose value it reads right."""
        return self.fit.right

    def read(self, state: NDArray[np.float32]) -> str:
        """Return the value that a state of shape [hidden] holds most likely."""
        scores = ((state.astype(np.float64) - self.fit.mean) / self.fit.scale) @ self.fit.weights + self.fit.center
        return self.classes[int(scores.argmax())]


def fit_reader(states: States, values: Sequence[str | None], *, position: int, seed: int = 0) -> Reader | None:
    """Fit a probe for one quantity at one position, at the layer where a fifth of the problems reads best.

    Args:
        states: Hidden states of the problems.
        values: The quantity in each problem; None where there is none.
        position: Position to read.
        seed: Seed of the split of the problems.

    Returns:
        The probe, or None if the problems are too few.
    """
    classes, rows = _classes(values, _parts(len(values), seed=seed))
    index = {value: place for place, value in enumerate(classes)}
    if len(classes) < 2 or len(rows[2]) < MIN_TEST or not rows[1]:
        return None
    labels = [np.array([index[values[i] or ""] for i in part]) for part in rows]
    fits = {}
    for layer in sorted(states):
        inputs = [states[layer][part, position].astype(np.float64) for part in rows]
        fits[layer] = _fitted(inputs, labels, labels, len(classes))
    layer = max(fits, key=lambda each: fits[each].held)
    majority = float((labels[2] == np.bincount(labels[0]).argmax()).mean())
    return Reader(layer, tuple(classes), fits[layer], majority)


def _rounded(values: NDArray[np.float64]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(round(float(value), 4) for value in line) for line in values)
