"""Phase 2: what the frozen teacher's layers hold while it thinks goes to disk. Knows no students."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence

import torch

from lrd_peft.config import RunConfig
from lrd_peft.curriculum import items, row_at
from lrd_peft.data.collate import collate
from lrd_peft.data.problem import Problem
from lrd_peft.model.models import TeacherModel
from lrd_peft.model.thinking import check_layers
from lrd_peft.progress import Progress
from lrd_peft.run_folder import RunFolder
from lrd_peft.run_inputs import training_problems
from lrd_peft.store import StoreSpec, StoreWriter, estimate_bytes, require_space


def data_fingerprint(problems: Sequence[Problem]) -> str:
    """Return a hash over the problems in order: their questions, steps and answers."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem.to_row(), sort_keys=True).encode())
    return digest.hexdigest()[:32]


@torch.no_grad()
def extract(config: RunConfig, run: RunFolder) -> None:
    """Write the states that the store lacks and mark the phase as done."""
    began = time.perf_counter()
    run.require("teacher", config)
    teacher = TeacherModel.load(run.teacher / ("latent" if config.max_stage else "cot"))
    if config.device is not None:
        teacher.to(config.device)
    layers = config.stored_layers
    check_layers(teacher.lm, layers)
    encoded = training_problems(config, teacher).encoded
    problems = [row.problem for row in encoded]
    rows = [
        row_at(item, stage=config.num_thoughts, thoughts_per_step=1, model=teacher, last=True)
        for item in items(encoded)
    ]
    spec = StoreSpec(
        fingerprints={**teacher.fingerprints(), "data": data_fingerprint(problems)},
        teacher_name=teacher.name,
        layers=layers,
        num_thoughts=config.num_thoughts,
        hidden_size=teacher.hidden_size,
        num_blocks=teacher.num_blocks,
        num_problems=len(problems),
        positions=config.positions,
        dtype=config.store_dtype,
    )
    per_problem = config.num_thoughts + (config.positions == "thoughts+answer")
    positions = sum(row.length for row in rows) if config.positions == "all" else per_problem * len(rows)
    num_bytes = estimate_bytes(spec, positions)
    print(f"store: {len(rows)} problems, {positions} positions, layers {list(layers)}: {num_bytes / 1e6:.1f} MB")
    with StoreWriter.open(run.store, spec, shard_bytes=config.shard_bytes) as writer:
        for damage in writer.damages:
            print(f"store: {damage}, written again")
        missing = {index for first, stop in writer.missing for index in range(first, stop)}
        require_space(run.root, num_bytes * len(missing) // len(rows))
        size = config.eval_batch_size
        pad = teacher.tokenizer.pad_token_id
        assert isinstance(pad, int)
        with Progress("extraction", total=len(rows), unit="problems", initial=len(rows) - len(missing)) as progress:
            # Batches always begin at multiples of the size: who shares a batch, and so its padding and rounding, is
            # the same whether or not a part was written before.
            for start in range(0, len(rows), size):
                chosen = rows[start : start + size]
                if missing.isdisjoint(range(start, start + len(chosen))):
                    continue
                batch = {
                    key: value.to(teacher.device) if isinstance(value, torch.Tensor) else value
                    for key, value in collate(chosen, pad_id=pad).items()
                }
                output = teacher(**batch, layers=layers, positions=config.positions, with_loss=False)
                stacked = torch.stack([output.states[layer] for layer in layers], dim=1)
                for place, row in enumerate(chosen):
                    if row.index in missing:
                        states = stacked[place][:, output.valid[place]]
                        writer.add(row.index, states.cpu(), problems[row.index].to_row())
                progress.update(start + len(chosen))
        writer.finish()
    run.finish(
        "store",
        config,
        {
            "wall_seconds": round(time.perf_counter() - began, 3),
            "num_bytes": num_bytes,
            "layers": list(layers),
        },
    )
