"""How time grows with the work: exponents of a power law through a few sizes, 1 where time is in proportion."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.extraction import memory_disk
from benchmarks.measure import Row, Settings, alternate, measured_once
from benchmarks.work import make_lm, problems, random_rows
from lrd_peft.data.collate import collate
from lrd_peft.model.loading.lm import load_lm
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.extract import data_fingerprint
from lrd_peft.store import Store, StoreSpec, StoreWriter
from lrd_peft.training.sampling import LengthBucketSampler

SECTION = "growth"


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return b of the least-squares fit log t = a + b log n."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    return statistics.linear_regression(x, y).slope


def rows(settings: Settings) -> Iterator[Row]:
    yield _problems(settings)
    yield from _steps(settings)


def _problems(settings: Settings) -> Row:
    """Everything of a run that is not a model: generate, encode, fingerprint, write, open, read in shuffled order."""
    sizes = [500, 2_000, 8_000] if settings.quick else [1_000, 10_000, 100_000]
    teacher = load_lm("tiny-teacher")
    model = TeacherModel(teacher.lm, tokenizer=teacher.tokenizer)
    states = torch.randn(3, 5, 80)
    seconds = []
    for size in sizes:
        began = settings.now()
        made = problems(size)
        encoded, _ = model.encoder.encode_all(made, max_length=400)
        fingerprints = {"teacher": "bench", "tokenizer": "bench", "data": data_fingerprint(made)}
        spec = StoreSpec(
            fingerprints=fingerprints,
            teacher_name="bench",
            layers=(4, 8, 12),
            num_thoughts=4,
            hidden_size=80,
            num_blocks=12,
            num_problems=size,
        )
        with tempfile.TemporaryDirectory(dir=memory_disk()) as folder:
            with StoreWriter.open(Path(folder) / "store", spec) as writer:
                for index, problem in enumerate(made):
                    writer.add(index, states, problem.to_row())
                writer.finish()
            store = Store.open(Path(folder) / "store")
            sampler = LengthBucketSampler([row.num_tokens for row in encoded], batch_size=4, seed=0)
            order = list(sampler)
            for start in range(0, size, 4):
                torch.stack(store.batch(order[start : start + 4]))
        seconds.append(settings.now() - began)
    return _row("everything but the model", "problems", sizes, seconds)


def _steps(settings: Settings) -> Iterator[Row]:
    """A training step of the tiny teacher, and its forward pass with kept layers."""
    loaded = load_lm("tiny-teacher")
    model = TeacherModel(
        make_lm("tiny"), tokenizer=loaded.tokenizer, options=ThinkingOptions(num_thoughts=4), fuse_activations=True
    ).train()
    vocabulary = len(loaded.tokenizer)

    def step(*, batch_size: int = 8, num_thoughts: int = 4, num_layers: int = 0) -> Callable[[], None]:
        batch = collate(random_rows(vocabulary, batch_size, num_thoughts=num_thoughts), pad_id=0)

        def run() -> None:
            model.zero_grad()
            output = model(**batch, layers=tuple(range(1, num_layers + 1)))
            total = sum((state.square().mean() for state in output.states.values()), output.loss_sum)
            assert isinstance(total, torch.Tensor)
            total.backward()

        return run

    for name, sizes in (
        ("batch_size", [4, 8, 16, 32]),
        ("num_thoughts", [1, 2, 4, 8, 16, 32]),
        ("num_layers", [1, 3, 6, 12]),
    ):
        times = alternate(settings, *(step(**{name: size}) for size in sizes))
        yield _row("training step, tiny", name.removeprefix("num_").replace("_", " "), sizes, [min(t) for t in times])


def _row(work: str, quantity: str, sizes: Sequence[int], seconds: Sequence[float]) -> Row:
    measured = ", ".join(f"{size}: {value:.3g} s" for size, value in zip(sizes, seconds, strict=True))
    slope = exponent(sizes, seconds)
    return measured_once(
        SECTION,
        f"{work} ({measured})",
        f"against {quantity}",
        slope,
        seconds=seconds[-1],
        other="exponent",
        target="≤ 1.1",
    )
