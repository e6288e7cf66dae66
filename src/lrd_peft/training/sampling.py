"""Which problems an optimizer update takes, in which batches, in which process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch.utils.data import Dataset, Sampler
from transformers import TrainingArguments

from lrd_peft.training.curriculum import Item

# Batches are made of problems of similar length within windows of this many batches.
_WINDOW = 32


class LengthBucketSampler(Sampler[int]):
    """Shuffles problems, then sorts them by length within windows, so that batches need little padding.

    The order is a function of seed and epoch.

    Args:
        lengths: Length of each problem, in tokens.
        batch_size: Problems per batch.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
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
        # A short batch stays last, because the loader cuts the order into batches again.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        short = [batch for batch in batches if len(batch) < self.batch_size]
        for place in torch.randperm(len(full), generator=generator).tolist():
            yield from full[place]
        for batch in short:
            yield from batch


class UpdateSampler(Sampler[tuple[int, int]]):
    """Yields each problem of another sampler with the number of the update that takes it, counted over all epochs.

    Args:
        order: Order of the problems.
        problems_per_update: Problems that one update takes.
    """

    def __init__(self, order: LengthBucketSampler, *, problems_per_update: int) -> None:
        self.order, self.problems_per_update = order, problems_per_update

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first = self.order.epoch * math.ceil(len(self.order) / self.problems_per_update)
        for place, index in enumerate(self.order):
            yield index, first + place // self.problems_per_update


class ItemDataset(Dataset[Item]):
    """Training problems, indexed by position, update number and whether they fill a batch, as the samplers yield them.

    Args:
        items: The problems.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int] | tuple[int, int, bool]) -> Item:
        index, update, *fills = key
        return replace(self.items[index], update=update, fills=any(fills))


class ProcessBatches(Sampler[list[tuple[int, int, bool]]]):
    """The batches of one of several processes: its share of each update, with the update's number.

    An update takes the same problems as in one process with larger batches. All processes have the same number of
    batches per update, and no problem counts twice. Where the last update of an epoch has too few problems for that, a
    problem of the update fills the batch of a process that has none: it runs, and counts nothing.

    Args:
        sampler: Order of the problems, the same in all processes.
        batch_size: Problems per batch of one process.
        accumulation: Batches per update of one process.
        rank: Number of this process, from 0.
        num_processes: Number of processes.
    """

    def __init__(
        self, sampler: LengthBucketSampler, *, batch_size: int, accumulation: int, rank: int, num_processes: int
    ) -> None:
        # accelerate's loader finds `sampler` by its name and sets its epoch.
        self.sampler, self.batch_size, self.rank, self.num_processes = sampler, batch_size, rank, num_processes
        self._per_batch = batch_size * num_processes  # of all processes together
        self._per_update = self._per_batch * accumulation
        num_updates, rest = divmod(len(sampler), self._per_update)
        self._num_updates = num_updates + (rest > 0)
        self._num_batches = num_updates * accumulation + math.ceil(rest / self._per_batch)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int, bool]]]:
        order, first = list(self.sampler), self.sampler.epoch * self._num_updates
        for update in range(self._num_updates):
            taken = order[update * self._per_update : (update + 1) * self._per_update]
            # Problems of similar length are spread over the processes, so that they finish at about the same time.
            mine = [(index, first + update, False) for index in taken[self.rank :: self.num_processes]]
            num_batches = math.ceil(len(taken) / self._per_batch)
            for i in range(num_batches):
                batch = mine[i * len(mine) // num_batches : (i + 1) * len(mine) // num_batches]
                yield batch or [(taken[0], first + update, True)]


def problems_per_update(args: TrainingArguments) -> int:
    """Return how many problems one optimizer update takes in all processes together."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def count_updates(args: TrainingArguments, num_problems: int) -> int:
    """Return the number of optimizer updates of a whole training, as transformers counts them."""
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(args.num_train_epochs * updates_per_epoch(args, num_problems))


def updates_per_epoch(args: TrainingArguments, num_problems: int) -> int:
    """Return the number of optimizer updates of one epoch."""
    return math.ceil(num_problems / problems_per_update(args))
