"""Phase 2: what the frozen teacher's layers hold while it thinks, or has written its steps, goes to disk.

Knows no students.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from lrd_peft.config import RunConfig
from lrd_peft.data.collate import Row, collate, to_device
from lrd_peft.data.encoding import Encoded
from lrd_peft.data.problem import Problem
from lrd_peft.model.loop import check_layers, gather_positions
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.from_config import training_problems, trust
from lrd_peft.pipeline.ledger import PhaseNote
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.runtime.interrupt import asked, until_safe
from lrd_peft.runtime.processes import device_of, is_main, num_processes, rank, wait
from lrd_peft.runtime.progress import Progress
from lrd_peft.store import StoreSpec, StoreWriter, estimate_bytes, require_space
from lrd_peft.training.curriculum import items, row_at, thinking_rows

logger = logging.getLogger(__name__)

# Batches are made of neighbours in length within windows of this many batches.
WINDOW = 8


def data_fingerprint(problems: Sequence[Problem]) -> str:
    """Return a hash over the problems in order: their questions, steps and answers."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem.to_row(), sort_keys=True).encode())
    return digest.hexdigest()[:32]


@torch.no_grad()
def write_states(
    teacher: TeacherModel,
    rows: Sequence[Row],
    problems: Sequence[Problem],
    writer: StoreWriter,
    *,
    batch_size: int,
    progress: Progress,
    step_ends: Sequence[Sequence[int]] = (),
) -> None:
    """Run the teacher over the rows that the store lacks and add their states.

    Neighbours in length share a batch, so that little is padded. Who shares a batch, and so its padding and rounding,
    depends on the rows alone: it is the same whether or not a part was written before. After a signal (interrupt.py)
    it returns when a shard is full.

    Args:
        rows: of the last stage; of stage 0 for a store that aligns to written steps.
        step_ends: for such a store, where each row's steps end in its suffix.
    """
    layers, positions = writer.spec.layers, writer.spec.positions
    writes = writer.spec.align_to == "steps"
    missing = {index for first, stop in writer.missing for index in range(first, stop)}
    pad = teacher.tokenizer.pad_token_id
    assert isinstance(pad, int)
    if positions != "all":
        # Nothing after the answer position is kept, and nothing before it depends on what comes after.
        needed = writes or positions == "thoughts+answer"
        rows = [replace(row, suffix=row.suffix[: row.answer_start] if needed else ()) for row in rows]
    window = batch_size * WINDOW
    for begin in range(0, len(rows), window):
        order = sorted(range(begin, min(begin + window, len(rows))), key=lambda i: rows[i].length)
        waiting: dict[int, torch.Tensor] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if missing.isdisjoint(chosen):
                continue
            batch = to_device(collate([rows[i] for i in chosen], pad_id=pad), teacher.device)
            output = teacher(**batch, layers=layers, positions="all" if writes else positions, with_loss=False)
            found = output.states
            if writes:
                ends = [(step_ends[i], rows[i].answer_start - 1) for i in chosen]
                found = _at_the_slots(found, ends, spec=writer.spec, num_question=batch["question_ids"].shape[1])
            stacked = torch.stack([found[layer] for layer in layers], dim=1).cpu()
            valid = output.valid.cpu()
            for place, index in enumerate(chosen):
                if index in missing:
                    states = stacked[place]
                    waiting[index] = states[:, valid[place]] if positions == "all" else states
            progress.update(begin + start + len(chosen))
        for index in sorted(waiting):
            if asked() and writer.at_shard_end:
                return
            writer.add(index, waiting[index], problems[index].to_row())


def _at_the_slots(
    states: Mapping[int, torch.Tensor],
    ends: Sequence[tuple[Sequence[int], int]],
    *,
    spec: StoreSpec,
    num_question: int,
) -> dict[int, torch.Tensor]:
    """Put the states at the ends of written steps where a thinking teacher's would be: [B, T, H] -> [B, P, H].

    Args:
        states: layer -> states at all positions of a batch.
        ends: of each row, where its steps end and the answer position, in its suffix.
        num_question: T's part before the suffix.
    """
    width = spec.num_thoughts + (spec.positions == "thoughts+answer")
    where = torch.zeros(len(ends), width, dtype=torch.int64)
    filler = torch.ones(len(ends), width, 1, dtype=torch.bool)
    for place, (steps, answer) in enumerate(ends):
        targets = list(spec.targets(len(steps)))
        sources = [*steps[: len(spec.aligned_slots(len(steps)))], answer][: len(targets)]
        where[place, targets] = torch.tensor(sources, dtype=torch.int64) + num_question
        filler[place, targets] = False
    return {
        layer: gather_positions(state, where.to(state.device)).masked_fill(filler.to(state.device), 0.0)
        for layer, state in states.items()
    }


def _step_ends(encoded: Sequence[Encoded], rows: Sequence[Row]) -> list[tuple[int, ...]]:
    """Return where each row's steps end in its suffix, which may begin with a marker."""
    return [
        tuple(end + row.num_unlabeled for end in problem.step_ends) for problem, row in zip(encoded, rows, strict=True)
    ]


@torch.no_grad()
def extract(config: RunConfig, run: RunPaths) -> PhaseNote:
    """Write the states that the store lacks."""
    began = time.perf_counter()
    writes = config.distill.align_to == "steps"
    kind = "cot" if writes or not config.has_thoughts else "latent"
    teacher = TeacherModel.from_pretrained(run.teacher / kind, **trust(config))
    teacher.to(device_of(config.run.device))
    layers = config.stored_layers
    check_layers(teacher.lm, layers)
    encoded = training_problems(config, teacher).encoded
    problems = [row.problem for row in encoded]
    if writes:
        rows = [row_at(item, stage=0, thoughts_per_step=1, model=teacher) for item in items(encoded)]
    else:
        rows = thinking_rows(items(encoded), num_thoughts=config.thinking.num_thoughts, model=teacher)
    spec = StoreSpec(
        fingerprints={**teacher.fingerprints(), "data": data_fingerprint(problems)},
        teacher_name=teacher.name,
        layers=layers,
        num_thoughts=config.thinking.num_thoughts,
        hidden_size=teacher.hidden_size,
        num_blocks=teacher.num_blocks,
        num_problems=len(problems),
        positions=config.distill.positions,
        dtype=config.store.store_dtype,
        align_to=config.distill.align_to,
        thoughts_per_step=config.thinking.thoughts_per_step,
    )
    per_problem = config.thinking.num_thoughts + (config.distill.positions == "thoughts+answer")
    positions = sum(row.length for row in rows) if config.distill.positions == "all" else per_problem * len(rows)
    num_bytes = estimate_bytes(spec, positions)
    logger.info(f"store: {len(rows)} problems, {positions} positions, layers {list(layers)}: {num_bytes / 1e6:.1f} MB")
    part = (rank(), num_processes())
    with until_safe(), StoreWriter.open(run.store, spec, shard_bytes=config.store.shard_bytes, part=part) as writer:
        for damage in writer.damages:
            logger.info(f"store: {damage}, rewriting")
        num_missing = sum(stop - first for first, stop in writer.missing)
        require_space(run.root, num_bytes * num_missing // len(rows))
        wait()  # all have read the journals before one adds to them
        num_own = writer.done + num_missing
        with Progress(
            "extraction", total=num_own, unit="problems", initial=writer.done, quiet=not is_main()
        ) as progress:
            write_states(
                teacher,
                rows,
                problems,
                writer,
                batch_size=config.evaluation.eval_batch_size,
                progress=progress,
                step_ends=_step_ends(encoded, rows) if writes else (),
            )
        if asked():
            return PhaseNote()  # never seen: `Stopped` is raised where the block ends
        if not is_main():
            writer.finish()
        wait()
        if is_main():
            writer.finish()
    return PhaseNote(wall_seconds=round(time.perf_counter() - began, 3))
