"""Stores made of numbers, for the tests: states and rows of problem i depend on i alone."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrd_peft.store import StoreSpec, StoreWriter

SPEC = StoreSpec(
    fingerprints={"teacher": "aaaa", "tokenizer": "bbbb", "data": "cccc"},
    teacher_name="tiny-teacher",
    layers=(2, 5),
    num_thoughts=2,
    hidden_size=8,
    num_blocks=6,
    num_problems=11,
)
TWO_PROBLEMS = 2 * 2 * 3 * 8 * 2  # bytes of the states of two problems of SPEC: its shards are 0..1, 2..3, ... 10


def spec(**changes: Any) -> StoreSpec:
    return dataclasses.replace(SPEC, **changes)


def states(index: int, *, of: StoreSpec = SPEC, ragged: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    num_positions = index % 4 if ragged else of.num_thoughts + 1
    values = torch.randn(len(of.layers), num_positions, of.hidden_size, generator=generator)
    return values.to(getattr(torch, of.dtype))


def row(index: int) -> dict[str, Any]:
    steps = [f"Ann: {index} + {step} = {index + step}" for step in range(index % 3)]
    return {"id": f"made/{index}", "question": f"How many? é {index}", "steps": steps, "answer": str(index)}


def fill(writer: StoreWriter, *, ragged: bool = False) -> int:
    """Add what is missing; return how many problems that was."""
    num_added = 0
    for first, stop in writer.missing:
        for index in range(first, stop):
            writer.add(index, states(index, of=writer.spec, ragged=ragged), row(index))
            num_added += 1
    return num_added


def make(folder: Path, *, of: StoreSpec = SPEC, shard_bytes: int = TWO_PROBLEMS, ragged: bool = False) -> Path:
    with StoreWriter.open(folder, of, shard_bytes=shard_bytes) as writer:
        fill(writer, ragged=ragged)
        writer.finish()
    return folder


def contents(folder: Path) -> dict[str, str]:
    """File name -> checksum of everything in the folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def shard(folder: Path, number: int, suffix: str = ".safetensors") -> Path:
    return sorted(folder.glob(f"shard-*{suffix}"))[number]
