"""A training step on continuous thoughts, forward and backward: against two references, and against its own parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from benchmarks.measure import Row, Settings, alternate, peak_bytes, row
from benchmarks.reference import thinking as reference
from benchmarks.work import NUM_THOUGHTS, Work, make
from lrd_peft.model.loop import head_logits, unwrap

# work -> the least ratio to the reference that runs the growing sequence again
TARGETS = {"gpt2-256x4-50k": "≥ 5", "gpt2-124m": "≥ 2"}
SECTION = "training step"
# The fair comparison, which the README quotes: published training code has a cache too.
CACHED = "cached, head and states everywhere"


def ours(work: Work) -> float:
    """One step of the thinking loop; return the loss."""
    work.model.zero_grad(set_to_none=True)
    output = work.model(**work.batch)
    loss = output.loss_sum / output.num_labels
    loss.backward()
    return loss.item()


def theirs(work: Work, run: Callable[..., tuple[Tensor, object]]) -> float:
    """One step of a reference; return the loss."""
    work.plain.zero_grad(set_to_none=True)
    batch = work.batch
    logits, states = run(
        work.plain, batch["question_ids"], batch["question_mask"], batch["num_thoughts"], batch["suffix_ids"]
    )
    loss = reference.task_loss(logits, batch["labels"])
    loss.backward()
    del states
    return loss.item()


class Parts:
    """What no implementation with a cache can do without, each part by itself, forward and backward.

    One pass over the question, N - 1 over one position, one over the last slot and the suffix, each on keys and values
    that were there before and want a gradient too; the head and its loss on the labelled positions; the embeddings.
    """

    def __init__(self, work: Work) -> None:
        self.work, self.batch = work, work.batch
        self.lm = unwrap(work.model.lm)
        self.mask = torch.cat(
            [
                self.batch["question_mask"],
                torch.ones(len(work.rows), NUM_THOUGHTS, dtype=torch.long),
                torch.ones_like(self.batch["suffix_ids"]),
            ],
            dim=1,
        )
        self.padded = not bool(self.batch["question_mask"].all())
        self.positions = reference.positions_of(self.mask)
        num_question, num_suffix = self.batch["question_ids"].shape[1], self.batch["suffix_ids"].shape[1]
        self.spans = [(0, num_question)]
        self.spans += [(num_question + i, num_question + i + 1) for i in range(NUM_THOUGHTS - 1)]
        self.spans += [(num_question + NUM_THOUGHTS - 1, num_question + NUM_THOUGHTS + num_suffix)]
        width = work.model.hidden_size
        generator = torch.Generator().manual_seed(0)
        shape = (len(work.rows), self.mask.shape[1], width)
        self.inputs = torch.randn(shape, generator=generator) * 0.02
        self.gradient = torch.randn(shape, generator=generator) * 1e-3
        self.pasts = self._pasts()

    @torch.no_grad()
    def _pasts(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Keys and values of each block before each pass."""
        cache = DynamicCache(config=self.lm.config)
        pasts: list[list[tuple[Tensor, Tensor]]] = []
        for start, stop in self.spans:
            layers: list[Any] = list(cache.layers)
            seen = [(layer.keys.clone(), layer.values.clone()) for layer in layers if layer.get_seq_length()]
            pasts.append(seen)
            self._pass(self.inputs[:, start:stop], cache, start, stop)
        return pasts

    def _pass(self, inputs: Tensor, cache: DynamicCache, start: int, stop: int) -> Tensor:
        return self.lm.base_model(
            inputs_embeds=inputs,
            attention_mask=self.mask[:, :stop] if self.padded else None,
            position_ids=self.positions[:, start:stop],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def __call__(self) -> None:
        self.lm.zero_grad(set_to_none=True)
        for (start, stop), past in zip(self.spans, self.pasts, strict=True):
            cache = DynamicCache(config=self.lm.config)
            for index, (keys, values) in enumerate(past):
                cache.update(keys.detach().requires_grad_(), values.detach().requires_grad_(), index)
            hidden = self._pass(self.inputs[:, start:stop].detach().requires_grad_(), cache, start, stop)
            hidden.backward(self.gradient[:, start:stop])
        labels = self.batch["labels"].flatten()
        chosen = labels != -100
        states = self.inputs[:, -len(labels) // len(self.work.rows) :].flatten(0, 1)[chosen].detach().requires_grad_()
        F.cross_entropy(head_logits(self.lm, states), labels[chosen], reduction="sum").backward()
        ids = torch.cat([self.batch["question_ids"], self.batch["suffix_ids"]], dim=1)
        embed: nn.Module = self.lm.get_input_embeddings()
        embed(ids).backward(self.gradient[:, : ids.shape[1]])


def check(work: Work) -> None:
    """Raise AssertionError unless ours and both references give one loss and one gradient."""
    loss = ours(work)
    gradients = {name: p.grad for name, p in unwrap(work.model.lm).named_parameters()}
    for run in (reference.rerun, reference.cached):
        other = theirs(work, run)
        assert abs(loss - other) <= 1e-5 * abs(other), f"{work.name}: loss {loss} against {other}"
        for name, parameter in work.plain.named_parameters():
            mine, wanted = gradients[name], parameter.grad
            assert mine is not None and wanted is not None, name
            limit = 1e-3 * wanted.abs().max().item() + 1e-7
            assert (mine - wanted).abs().max().item() <= limit, f"{work.name}: gradient of {name} differs"


def rows(settings: Settings) -> Iterator[Row]:
    sizes: dict[str, int | None] = {"gpt2-256x4-50k": None, "tiny": None}
    if settings.quick:
        sizes = {"gpt2-256x4-50k": 4, "tiny": 8}
    elif settings.thorough:
        sizes |= {"llama-256x4-50k": None, "gpt2-124m": 4}
    for name, batch_size in sizes.items():
        check(make(name, batch_size=3))
        yield from _rows(settings, make(name, batch_size=batch_size))


def _rows(settings: Settings, work: Work) -> Iterator[Row]:
    large = work.name == "gpt2-124m"
    losses: dict[str, float] = {}

    def mine() -> None:
        losses["ours"] = ours(work)

    def again() -> None:
        losses["again"] = theirs(work, reference.rerun)

    def cached() -> None:
        losses["cached"] = theirs(work, reference.cached)

    label = f"{work.name}, batch {len(work.rows)}"
    # The check was the warm-up: the references are slow.
    own, parts, with_cache = alternate(settings, mine, Parts(work), cached, warm_up=False)
    own_again, rerun = alternate(settings, mine, again, warm_up=False, least=2)
    assert all(abs(loss - losses["ours"]) <= 1e-5 * loss for loss in losses.values()), f"{work.name}: {losses}"
    peaks = {run: peak_bytes(run) for run in (mine, cached, again)[: 2 if large else 3] if settings.has_most_threads}
    yield row(SECTION, label, ours=("ours", own), other=("its own parts", parts), target="≤ 1.15", is_cost=True)
    yield row(
        SECTION, label, ours=("ours", own), other=(CACHED, with_cache), peaks=(peaks.get(mine), peaks.get(cached))
    )
    yield row(
        SECTION,
        label,
        ours=("ours", own_again),
        other=("sequence run again for each thought", rerun),
        target=TARGETS.get(work.name, ""),
        peaks=(peaks.get(mine), peaks.get(again)),
    )
