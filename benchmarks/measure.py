"""Times contenders in turn and keeps the ratios. Knows clocks and tables, not models.

Two contenders are timed as A B B A A B ...: what the machine does meanwhile falls on both alike. The ratio is taken
within each pair; the table shows the median of those ratios and their range.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Contender = Callable[[], object]
LEAST_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure.

    Attributes:
        quick: fewer works, fewer repeats.
        threads: the numbers of threads to measure with.
        repeats: pairs of timings, unless `seconds` runs out first (never fewer than `LEAST_REPEATS`).
        seconds: what one comparison may take.
        clock: "wall", or "cpu" (this process's own time) on a machine that others use too.
    """

    quick: bool
    threads: tuple[int, ...]
    repeats: int
    seconds: float
    clock: str = "wall"

    @property
    def has_most_threads(self) -> bool:
        """Whether this is the round with the most threads: what depends on no threads, memory, is measured in it."""
        return torch.get_num_threads() == max(self.threads)

    @property
    def thorough(self) -> bool:
        """Whether the large works are measured too: with all cores only, they take minutes on one."""
        return not self.quick and self.has_most_threads

    def now(self) -> float:
        return time.perf_counter() if self.clock == "wall" else time.process_time()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        section, work, ours, other: what was measured, on what, and the two contenders.
        threads: of torch's matrix products.
        ours_seconds, other_seconds: medians.
        ratio, low, high: other / ours (how many times as fast we are), or ours / other where `is_cost`.
        num_repeats: pairs of timings.
        target: what was asked for, empty where nothing was.
        is_cost: the ratio is what we take of an unavoidable part: lower is better.
        load: the machine's load average (1 minute) when the row was done.
        ours_bytes, other_bytes: most memory that the contenders held at once beside the weights, if it was measured.
    """

    section: str
    work: str
    ours: str
    other: str
    threads: int
    ours_seconds: float
    other_seconds: float
    ratio: float
    low: float
    high: float
    num_repeats: int
    target: str
    is_cost: bool
    load: float
    ours_bytes: int | None = None
    other_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def alternate(
    settings: Settings, *contenders: Contender, warm_up: bool = True, least: int = LEAST_REPEATS
) -> list[list[float]]:
    """Return the seconds of each contender, timed in turn, forwards and backwards.

    Args:
        settings: how often, how long.
        contenders: what to time.
        warm_up: let each run once before.
        least: repeats that are made even when the time is up.
    """
    times: list[list[float]] = [[] for _ in contenders]
    began = time.perf_counter()
    for contender in contenders if warm_up else ():
        contender()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for repeat in range(settings.repeats):
            order = range(len(contenders)) if repeat % 2 == 0 else reversed(range(len(contenders)))
            for place in order:
                start = settings.now()
                contenders[place]()
                times[place].append(settings.now() - start)
            if repeat + 1 >= least and time.perf_counter() - began > settings.seconds:
                break
    finally:
        if collecting:
            gc.enable()
    return times


def row(
    section: str,
    work: str,
    *,
    ours: tuple[str, Sequence[float]],
    other: tuple[str, Sequence[float]],
    target: str = "",
    is_cost: bool = False,
    scale: float = 1.0,
    peaks: tuple[int | None, int | None] = (None, None),
) -> Row:
    """Make a row of two contenders' timings; `scale` multiplies the other's (it did a part of the work).

    `peaks` are the bytes of both.
    """
    scaled = [value * scale for value in other[1]]
    ratios = [a / b if is_cost else b / a for a, b in zip(ours[1], scaled, strict=True)]
    return Row(
        section=section,
        work=work,
        ours=ours[0],
        other=other[0],
        threads=torch.get_num_threads(),
        ours_seconds=statistics.median(ours[1]),
        other_seconds=statistics.median(scaled),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        num_repeats=len(ratios),
        target=target,
        is_cost=is_cost,
        load=os.getloadavg()[0],
        ours_bytes=peaks[0],
        other_bytes=peaks[1],
    )


def peak_bytes(contender: Contender) -> int:
    """Return the most bytes of tensors that a contender holds at once above the least that it holds before.

    A step that begins by freeing the gradients of the last one has the same peak as one that finds none.
    """
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            contender()
    events = recorded.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]  # pyright: ignore[reportAttributeAccessIssue]
    held = least = most = 0
    for _, change in sorted(changes):
        held += change
        least = min(least, held)
        most = max(most, held - least)
    return most


def measured_once(
    section: str, work: str, ours: str, value: float, *, seconds: float, other: str, target: str = ""
) -> Row:
    """Make a row of a quantity that has no contender (bytes, a slope): its value stands as the ratio."""
    return Row(
        section=section,
        work=work,
        ours=ours,
        other=other,
        threads=torch.get_num_threads(),
        ours_seconds=seconds,
        other_seconds=float("nan"),
        ratio=value,
        low=value,
        high=value,
        num_repeats=1,
        target=target,
        is_cost=True,
        load=os.getloadavg()[0],
    )
