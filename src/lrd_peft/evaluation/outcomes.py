"""Which problems were solved, in a few bytes: the ids, and one bit each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileData


@dataclass(frozen=True, slots=True)
class PackedOutcomes(FileData):
    """Outcomes as a record holds them.

    Attributes:
        n: number of problems.
        ids: problem ids in order; a run of numbered ids is (prefix, first number, count).
        right: a bit per problem in hexadecimal digits; the first problem is the highest bit of the first digit.
    """

    n: int
    ids: tuple[str | tuple[str, int, int], ...]
    right: str


def pack_outcomes(outcomes: Mapping[str, bool]) -> dict[str, Any]:
    """Return the JSON form of `PackedOutcomes`.

    Args:
        outcomes: problem id -> whether it was solved; the order is kept.
    """
    ids: list[str | tuple[str, int, int]] = []
    for problem_id in outcomes:
        head, number = _split_number(problem_id)
        last = ids[-1] if ids else None
        if number is None:
            ids.append(problem_id)
        elif isinstance(last, tuple) and last[0] == head and last[1] + last[2] == number:
            ids[-1] = (head, last[1], last[2] + 1)
        else:
            ids.append((head, number, 1))
    bits = "".join("1" if right else "0" for right in outcomes.values())
    padded = bits + "0" * (-len(bits) % 4)
    digits = "".join(f"{int(padded[at : at + 4], 2):x}" for at in range(0, len(padded), 4))
    return PackedOutcomes(n=len(bits), ids=tuple(ids), right=digits).to_json()


def unpack_outcomes(packed: Mapping[str, Any]) -> dict[str, bool]:
    """Return the mapping that `pack_outcomes` was given, in its order.

    Raises:
        UserError: if a part is missing or of another type, or the parts do not fit together.
    """
    found = PackedOutcomes.from_json(packed)
    ids: list[str] = []
    for entry in found.ids:
        ids += [entry] if isinstance(entry, str) else [f"{entry[0]}{entry[1] + k}" for k in range(entry[2])]
    bits = "".join(f"{int(digit, 16):04b}" for digit in found.right)
    if len(ids) != found.n or len(set(ids)) != found.n or not found.n <= len(bits) < found.n + 4:
        raise UserError(
            f"damaged outcomes: {found.n} problems, {len(ids)} ids and {len(bits)} bits do not fit together"
        )
    return {problem_id: bit == "1" for problem_id, bit in zip(ids, bits, strict=False)}


def _split_number(problem_id: str) -> tuple[str, int | None]:
    """Split "set/test/0/17" into "set/test/0/" and 17; None if the number cannot be put back the same."""
    head = problem_id.rstrip("0123456789")
    digits = problem_id[len(head) :]
    if not digits or len(digits) > 15 or str(int(digits)) != digits:
        return problem_id, None
    return head, int(digits)
