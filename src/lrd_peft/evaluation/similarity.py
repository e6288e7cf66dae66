"""Similarity of two models' layers: cosine and linear CKA, and similarity.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileData, parse_json

Matrix = tuple[tuple[float | None, ...], ...]
_MATRICES = ("cka", "cosine", "cka_untrained", "cosine_untrained")


@dataclass(frozen=True, slots=True)
class Similarity(FileData):
    """Teacher layers (rows) against student layers (columns): what `lrd inspect` writes into similarity.json.

    Attributes:
        source: the student and the problems, in a few words.
        teacher_layers: layer indices of the rows.
        student_layers: layer indices of the columns.
        cka: linear CKA over positions; None where a layer does not vary.
        cosine: mean cosine over positions; None where the widths differ and no projector maps one to the other.
        cka_untrained, cosine_untrained: the same with the student before its training; None if it was not measured.
        num_positions: positions that both models' states were read at.
    """

    source: str
    teacher_layers: tuple[int, ...]
    student_layers: tuple[int, ...]
    cka: Matrix
    cosine: Matrix
    cka_untrained: Matrix | None
    cosine_untrained: Matrix | None
    num_positions: int

    @classmethod
    def from_json(cls, body: Any) -> Similarity:
        """Create it from the mapping that `to_json` returns.

        Raises:
            UserError: if a part is missing, unknown or of another type, or a matrix does not fit the layers.
        """
        found = parse_json(cls, body)
        num_rows, num_columns = len(found.teacher_layers), len(found.student_layers)
        for name in _MATRICES:
            matrix = getattr(found, name)
            if matrix is not None and [len(row) for row in matrix] != [num_columns] * num_rows:
                raise UserError(f"{name} must have {num_rows} rows of {num_columns}, as the layers named say")
        return found


def cka_matrix(teacher: Mapping[int, NDArray[Any]], student: Mapping[int, NDArray[Any]]) -> Matrix:
    """Return the linear CKA of every teacher layer (rows, rising) with every student layer (columns, rising).

    Args:
        teacher: layer index -> states, [positions, teacher width], in any float type.
        student: layer index -> states, [positions, student width]; row i is the same position as the teacher's row i.

    Raises:
        UserError: if there are no layers, or the numbers of positions differ.
    """
    counts = {len(states) for states in (*teacher.values(), *student.values())}
    if not teacher or not student or len(counts) != 1:
        raise UserError(f"layers can be compared at the same positions only; found {sorted(counts)} positions")
    rows, columns = ([_prepared(side[layer]) for layer in sorted(side)] for side in (teacher, student))
    return tuple(tuple(_alignment(x, y) for y in columns) for x in rows)


def linear_cka(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Return the linear centred kernel alignment of two sets of states, in [0, 1].

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) with the columns of X and Y centred: Kornblith et al., "Similarity of neural
    network representations revisited" (arXiv 1905.00414), section 3. Unchanged by rotations and by one scale for all
    units; widths may differ. Computed in float64.

    Args:
        first: [positions, width]. second: [positions, another width].

    Returns:
        None where one of them does not vary over positions, for which it is not defined.
    """
    return _alignment(_prepared(first), _prepared(second))


def mean_cosine(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Return the cosine between the two states of a position, averaged over positions; None where the widths differ.

    A state of zeros counts as 0. Unlike CKA it is changed by a rotation of one side.

    Args:
        first: [positions, width]. second: [positions, width].
    """
    if first.shape[1] != second.shape[1]:
        return None
    x, y = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return float(np.mean(np.divide((x * y).sum(axis=1), lengths, out=np.zeros_like(lengths), where=lengths > 0)))


def _prepared(states: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return states less their mean over positions, at unit ||X'X||_F; None if only rounding errors are left.

    Where there are more units than positions, they are first turned until that many hold everything: X'X changes, but
    not its norm, nor that of any Y'X.
    """
    states = states.astype(np.float64)
    centred = states - states.mean(axis=0)
    rounding = 8 * np.finfo(np.float64).eps * np.abs(states).max()
    if np.abs(centred).max() <= rounding:
        return None
    if centred.shape[1] > centred.shape[0]:
        centred = np.asarray(np.linalg.qr(centred.T, mode="r")).T
    return centred / np.sqrt(np.linalg.norm(centred.T @ centred))


def _alignment(x: NDArray[np.float64] | None, y: NDArray[np.float64] | None) -> float | None:
    return None if x is None or y is None else float(np.linalg.norm(y.T @ x) ** 2)
