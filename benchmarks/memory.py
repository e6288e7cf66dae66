"""Peak memory of a training step with gradient checkpointing, as a share of the step without, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Row, Settings, alternate, measured_once, peak_bytes, row
from benchmarks.training_step import ours
from benchmarks.work import Work, make

SECTION = "gradient checkpointing"


def gradient_bytes(work: Work) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in work.model.parameters())


def rows(settings: Settings) -> Iterator[Row]:
    sizes: dict[str, int | None] = {"gpt2-256x4-50k": 4} if settings.quick else {"gpt2-256x4-50k": None}
    if settings.thorough:
        sizes["gpt2-124m"] = None
    for name, batch_size in sizes.items():
        yield from _rows(settings, make(name, batch_size=batch_size))


def _rows(settings: Settings, work: Work) -> Iterator[Row]:
    label = f"{work.name}, batch {len(work.rows)}"

    def plain() -> float:
        work.model.gradient_checkpointing_disable()
        return ours(work)

    def checkpointed() -> float:
        work.model.activation_checkpointing_enable()
        return ours(work)

    assert abs(plain() - checkpointed()) <= 1e-5 * abs(plain()), f"{work.name}: checkpointing changes the loss"
    times = alternate(settings, checkpointed, plain, warm_up=False)
    yield row(
        SECTION,
        label,
        ours=("with", times[0]),
        other=("time of the step without", times[1]),
        target="≤ 1.4",
        is_cost=True,
    )
    if not settings.has_most_threads:
        return
    work.model.gradient_checkpointing_disable()
    without = peak_bytes(lambda: ours(work))
    work.model.activation_checkpointing_enable()
    with_it, gradients = peak_bytes(lambda: ours(work)), gradient_bytes(work)
    seconds = min(times[0])
    yield measured_once(
        SECTION,
        label,
        "with",
        with_it / without,
        seconds=seconds,
        other="peak memory of the step without",
        target="≤ 0.45" if work.name == "gpt2-124m" else "",
    )
    share = (with_it - gradients) / (without - gradients)
    yield measured_once(SECTION, label, "with", share, seconds=seconds, other="the same, but for the gradients")
