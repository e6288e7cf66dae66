"""Where a training step's time goes: its share of the machine's own matrix-product peak, its largest operations."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, Settings, alternate, measured_once
from benchmarks.training_step import Parts, ours
from benchmarks.work import Work, make

SECTION = "matrix-product peak"
SIZE = 1536


def rows(settings: Settings) -> Iterator[Row]:
    left, right = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    out = torch.empty(SIZE, SIZE)
    for name in ["gpt2-256x4-50k", "gpt2-124m"] if settings.thorough else ["gpt2-256x4-50k"]:
        work = make(name)
        parts = Parts(work)
        with FlopCounterMode(display=False) as counter:
            parts()
        flops = counter.get_total_flops()
        product, step = alternate(settings, lambda: torch.mm(left, right, out=out), lambda work=work: ours(work))
        peak = 2 * SIZE**3 / min(product)
        share = sorted(flops / seconds / peak for seconds in step)[len(step) // 2]
        label = f"{name}: {flops / 1e9:.0f} GFLOP a step, peak {peak / 1e9:.0f} GFLOP a second"
        yield measured_once(SECTION, label, "training step", share, seconds=min(step), other="share of the peak")


def largest_operations(work: Work, *, count: int = 10) -> list[tuple[str, float]]:
    """Operations of one step with their share of its time, largest first."""
    ours(work)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        ours(work)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    ranked = sorted(events, key=lambda event: event.self_cpu_time_total, reverse=True)
    return [(event.key, event.self_cpu_time_total / total) for event in ranked[:count]]
