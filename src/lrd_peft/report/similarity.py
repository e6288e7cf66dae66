"""How alike two models' layers are: cosine and linear CKA. Knows numpy arrays and one small JSON file, not models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrd_peft.errors import UserError

Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Similarity:
    """Teacher layers (rows) against student layers (columns); `similarity.json` beside a study's records.

    Attributes:
        teacher_layers: layer indices of the rows.
        student_layers: layer indices of the columns.
        cosine: mean cosine over positions; None where the widths differ.
        cka: linear CKA over positions; None where a layer does not vary.
        num_positions: positions that both models' states were read at.
    """

    teacher_layers: tuple[int, ...]
    student_layers: tuple[int, ...]
    cosine: Matrix
    cka: Matrix
    num_positions: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types only."""
        return {key: _lists(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Similarity:
        """Make it from `to_dict`'s mapping.

        Raises:
            UserError: if a part is missing or a matrix has another shape than the layers.
        """
        names = cls.__dataclass_fields__.keys()
        if row.keys() != names:
            raise UserError(f"a similarity has the parts {', '.join(names)}; found {', '.join(sorted(row))}")
        teacher, student = tuple(row["teacher_layers"]), tuple(row["student_layers"])
        matrices = {name: tuple(tuple(line) for line in row[name]) for name in ("cosine", "cka")}
        for name, matrix in matrices.items():
            if len(matrix) != len(teacher) or any(len(line) != len(student) for line in matrix):
                raise UserError(f"{name} must have {len(teacher)} rows of {len(student)}, as the layers named say")
        return cls(teacher, student, matrices["cosine"], matrices["cka"], row["num_positions"])


def compare_layers(teacher: Mapping[int, NDArray[Any]], student: Mapping[int, NDArray[Any]]) -> Similarity:
    """Compare every teacher layer with every student layer.

    Args:
        teacher: layer index -> states, [positions, teacher width], in any float type.
        student: layer index -> states, [positions, student width]; row i is the same position as the teacher's row i.

    Raises:
        UserError: if there are no layers, or the numbers of positions differ.
    """
    counts = {len(states) for states in (*teacher.values(), *student.values())}
    if not teacher or not student or len(counts) != 1:
        raise UserError(f"layers can be compared at the same positions only; found {sorted(counts)} positions")
    rows, columns = sorted(teacher), sorted(student)
    return Similarity(
        teacher_layers=tuple(rows),
        student_layers=tuple(columns),
        cosine=tuple(tuple(mean_cosine(teacher[t], student[s]) for s in columns) for t in rows),
        cka=tuple(tuple(linear_cka(teacher[t], student[s]) for s in columns) for t in rows),
        num_positions=counts.pop(),
    )


def linear_cka(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Return the linear centred kernel alignment of two sets of states, in [0, 1].

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) with the columns of X and Y centred: Kornblith et al., "Similarity of neural
    network representations revisited" (2019), section 3. Unchanged by rotations and by one scale for all units; widths
    may differ.

    Args:
        first: [positions, width]. second: [positions, another width].

    Returns:
        None where one of them does not vary over positions, for which it is not defined.
    """
    x, y = _centred(first), _centred(second)
    if x is None or y is None:
        return None
    return float(np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


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


def _centred(states: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return states less their mean over positions; None if only rounding errors are left."""
    states = states.astype(np.float64)
    centred = states - states.mean(axis=0)
    rounding = 8 * np.finfo(np.float64).eps * np.abs(states).max()
    return centred if np.abs(centred).max() > rounding else None


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value
