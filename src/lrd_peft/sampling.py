"""Which problems an optimizer step takes, in which batches, in which process. Knows lengths, no text and no models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch.utils.data import Dataset, Sampler
from transformers import TrainingArguments

from lrd_peft.curriculum import Item
from lrd_peft.errors import UserError

# Batches are made of neighbours in length within windows of this many batches.
_WINDOW = 32


class LengthBucketSampler(Sampler[int]):
    """Shuffles, then sorts by length within windows, so that a batch pads little. A function of seed and epoch."""

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order: list[int] = torch.randperm(len(self.lengths), generator=generator).tolist()
        window = self.batch_size * _WINDOW
        batches: list[list[int]] = []
        for start in range(0, len(order), window):
            chunk = sorted(order[start : start + window], key=lambda i: self.lengths[i])
            batches += [chunk[i : i + self.batch_size] for i in range(0, len(chunk), self.batch_size)]
        # A short batch stays last: the loader cuts the order into batches again.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        short = [batch for batch in batches if len(batch) < self.batch_size]
        for place in torch.randperm(len(full), generator=generator).tolist():
            yield from full[place]
        for batch in short:
            yield from batch


class StepSampler(Sampler[tuple[int, int]]):
    """Says with each problem of another sampler which optimizer step will take it, counted over all epochs."""

    def __init__(self, order: LengthBucketSampler, *, problems_per_step: int) -> None:
        self.order, self.problems_per_step = order, problems_per_step

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first = self.order.epoch * math.ceil(len(self.order) / self.problems_per_step)
        for place, index in enumerate(self.order):
            yield index, first + place // self.problems_per_step


class Taken(Dataset[Item]):
    """Problems by what a sampler says: their place, and the optimizer step that takes them."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index, step = key
        return replace(self.items[index], step=step)


class ProcessBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one of several processes: its share of each optimizer step, with the step's number.

    A step takes the problems that it takes in one process whose batches are as large as those of all processes
    together. Every process has as many batches of a step as the others, none is empty, no problem is taken twice.
    Where the last step of an epoch has too few problems for that, some (fewer than there are processes) are left out
    of this epoch.

    Raises:
        UserError: if there are fewer problems than processes.
    """

    def __init__(
        self, sampler: LengthBucketSampler, *, batch_size: int, accumulation: int, rank: int, num_processes: int
    ) -> None:
        # accelerate's loader finds `sampler` by its name and tells it the epoch.
        self.sampler, self.batch_size, self.rank, self.num_processes = sampler, batch_size, rank, num_processes
        self._per_batch = batch_size * num_processes  # of all processes together
        self._per_step = self._per_batch * accumulation
        num_steps, left = divmod(len(sampler), self._per_step)
        last = usable(left, batch_size=batch_size, num_processes=num_processes)
        self._num_steps = num_steps + (last > 0)
        self._num_batches = num_steps * accumulation + math.ceil(last / self._per_batch)
        if self._num_batches == 0:
            raise UserError(f"{len(sampler)} training problems are too few for {num_processes} processes")

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, first = list(self.sampler), self.sampler.epoch * self._num_steps
        for step in range(self._num_steps):
            taken = order[step * self._per_step : (step + 1) * self._per_step]
            taken = taken[: usable(len(taken), batch_size=self.batch_size, num_processes=self.num_processes)]
            # Neighbours in length are spread over the processes, so that none waits long for another.
            mine = [(index, first + step) for index in taken[self.rank :: self.num_processes]]
            num_batches = math.ceil(len(taken) / self._per_batch)
            for i in range(num_batches):
                yield mine[i * len(mine) // num_batches : (i + 1) * len(mine) // num_batches]


def usable(num_problems: int, *, batch_size: int, num_processes: int) -> int:
    """Return how many of a step's problems can be shared out so that every process has one in each of its batches."""
    num_batches = math.ceil(num_problems / (batch_size * num_processes))
    each = num_problems // num_processes
    return num_problems if each >= num_batches else each * num_processes


def problems_per_step(args: TrainingArguments) -> int:
    """Return how many problems all processes together take in one optimizer step."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def count_steps(args: TrainingArguments, num_problems: int) -> int:
    """Return the optimizer steps of a whole training, as transformers counts them."""
    if args.max_steps > 0:
        return args.max_steps
    num_steps, left = divmod(num_problems, problems_per_step(args))
    num_steps += usable(left, batch_size=args.train_batch_size, num_processes=args.world_size) > 0
    return math.ceil(args.num_train_epochs * num_steps)
