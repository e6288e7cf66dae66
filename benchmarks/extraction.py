"""Phase 2: states to disk, against the bare forward passes that they need, and against keeping everything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import Row, Settings, alternate, row
from benchmarks.reference import thinking as reference
from benchmarks.work import LONGEST, NUM_THOUGHTS, Work, make, problems
from lrd_peft.data.collate import collate
from lrd_peft.model.loop import unwrap
from lrd_peft.model.pruning import shallow
from lrd_peft.pipeline.extract import write_states
from lrd_peft.runtime.progress import Progress
from lrd_peft.store import Store, StoreSpec, StoreWriter

BATCH_SIZE = 16
SECTION = "extraction"


def layers_of(work: Work) -> tuple[int, ...]:
    """The blocks around the middle, as layers 8 to 12 of 32 are."""
    blocks = work.model.num_blocks
    return tuple(range(blocks // 2 - blocks // 8, blocks // 2 + 1))


def spec_of(work: Work) -> StoreSpec:
    return StoreSpec(
        fingerprints={"teacher": "bench", "tokenizer": "bench", "data": "bench"},
        teacher_name=work.name,
        layers=layers_of(work),
        num_thoughts=NUM_THOUGHTS,
        hidden_size=work.model.hidden_size,
        num_blocks=work.model.num_blocks,
        num_problems=len(work.rows),
        dtype="float32",
    )


def ours(work: Work, folder: Path) -> Path:
    """Write the store of a work's problems."""
    spec = spec_of(work)
    with (
        StoreWriter.open(folder, spec) as writer,
        Progress("extraction", total=len(work.rows), unit="problems") as progress,
    ):
        named = problems(len(work.rows))
        write_states(work.model, work.rows, named, writer, batch_size=BATCH_SIZE, progress=progress)
        writer.finish()
    return folder


@torch.no_grad()
def bare(work: Work) -> None:
    """The passes that the states need, batches made before, nothing kept, nothing written."""
    lm = unwrap(work.model.lm)
    ordered = sorted(work.rows, key=lambda row: row.length)
    for start in range(0, len(ordered), BATCH_SIZE):
        batch = collate(ordered[start : start + BATCH_SIZE], pad_id=0)
        mask, past = batch["question_mask"], None
        inputs = lm.get_input_embeddings()(batch["question_ids"])
        ones = torch.ones_like(mask[:, :1])
        for _ in range(NUM_THOUGHTS):
            positions = reference.positions_of(mask)[:, -inputs.shape[1] :]
            output = lm.base_model(
                inputs_embeds=inputs, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
            )
            past, inputs = output.past_key_values, output.last_hidden_state[:, -1:]
            mask = torch.cat([mask, ones], dim=1)
        num_marker = work.rows[0].answer_start
        inputs = torch.cat([inputs, lm.get_input_embeddings()(batch["suffix_ids"][:, :num_marker])], dim=1)
        mask = torch.cat([mask, ones.expand(-1, num_marker)], dim=1)
        positions = reference.positions_of(mask)[:, -inputs.shape[1] :]
        with shallow(lm, blocks=max(layers_of(work))):
            lm.base_model(
                inputs_embeds=inputs, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
            )


@torch.no_grad()
def everything(work: Work) -> list[torch.Tensor]:
    """All layers at all positions, with the head, padded to one length, sequence run again: the first batch.

    Returns:
        [L, P, H] of each problem.
    """
    chosen = work.rows[:BATCH_SIZE]
    batch = collate(chosen, pad_id=0)
    ids, mask = reference.pad_to(batch["question_ids"], batch["question_mask"], LONGEST)
    _, states = reference.rerun(work.plain, ids, mask, NUM_THOUGHTS, batch["suffix_ids"])
    stacked = torch.stack([states[layer] for layer in layers_of(work)], dim=1)
    kept = []
    for place, item in enumerate(chosen):
        where = [*range(LONGEST, LONGEST + NUM_THOUGHTS), LONGEST + NUM_THOUGHTS + item.answer_start - 1]
        kept.append(stacked[place][:, where])
    return kept


def rows(settings: Settings) -> Iterator[Row]:
    sizes = {"tiny": 64} if settings.quick else {"tiny": 256}
    if settings.thorough:
        sizes["gpt2-256x4-50k"] = 64
    for name, num_problems in sizes.items():
        work = make(name, batch_size=num_problems)
        work.model.eval()
        work.plain.eval()
        with tempfile.TemporaryDirectory(dir=memory_disk()) as folder:
            counter = iter(range(1_000_000))
            store = Store.open(ours(work, Path(folder) / "checked"))
            for index, wanted in enumerate(everything(work)):
                found = store.states(index)
                assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max(), f"{name}: problem {index} differs"
            mine, passes, full = alternate(
                settings,
                lambda work=work, folder=folder, counter=counter: ours(work, Path(folder) / str(next(counter))),
                lambda work=work: bare(work),
                lambda work=work: everything(work),
            )
        label = f"{name}, {num_problems} problems"
        yield row(
            SECTION,
            label,
            ours=("states on disk", mine),
            other=("the bare passes", passes),
            target="≤ 1.1",
            is_cost=True,
        )
        yield row(
            SECTION,
            label,
            ours=("states on disk", mine),
            other=("head, all layers, fixed length, run again", full),
            scale=num_problems / BATCH_SIZE,
        )


def memory_disk() -> str | None:
    """A folder in memory, so that the disk of the machine is not what is measured; None where there is none."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
