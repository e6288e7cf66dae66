"""Pretrains an embedded tiny model from scratch on text of the generators.

python -m tools.pretrain tiny-teacher        reproduces the folder that ships with the package
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from lrd_peft.data.encoding import MARKER, Encoder
from lrd_peft.data.generators import generate_problems
from lrd_peft.data.problem import LETTERS, Problem
from lrd_peft.evaluation.metrics import wilson
from lrd_peft.evaluation.score import score
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.runtime.errors import UserError, nearest
from tools.tiny_tokenizer import EOS, PAD, build_tokenizer

_CONTEXT = 512
_IGNORED = -100
_NUM_MEASURED = 400


@dataclass(frozen=True, slots=True)
class TinyModel:
    """Architecture and training of one tiny model.

    Attributes:
        hidden_size: Width of the hidden states.
        intermediate_size: Width of the MLPs.
        num_blocks: Number of blocks.
        num_heads: Attention heads per block.
        problems: Number of distinct training problems of each set, read once each.
        drills: Number of short texts that look up the letter of an option.
        batch_size: Texts per update.
        learning_rate: Peak learning rate.
        decay: Share of the updates in which the learning rate falls to 0 in the end, 0 for a constant rate; None for a
            cosine from the start.
        adam_beta2: Decay of AdamW's second moment.
        by_length: Whether texts of like length share a batch.
        start: Tiny model whose trained weights this one starts from; it is made first.
        blocks: With `start`, its block that each block copies. A second copy of a block adds nothing at first: its two
            output matrices are 0.
        seed: Seed of the weights and of the data.
    """

    hidden_size: int
    intermediate_size: int
    num_blocks: int
    num_heads: int
    problems: tuple[tuple[str, int], ...]
    drills: int
    batch_size: int
    learning_rate: float
    decay: float | None = None
    adam_beta2: float = 0.98
    by_length: bool = True
    start: str | None = None
    blocks: tuple[int, ...] = ()
    seed: int = 20


# Following edges is learned suddenly, after a long plateau, and at a high constant rate: a cosine stays on the plateau,
# and six blocks from scratch do too, for 1,250 updates at least. Four blocks leave it and grow.
_GRAPH_START = TinyModel(
    hidden_size=64,
    intermediate_size=172,
    num_blocks=4,
    num_heads=4,
    problems=(("graph-mini", 120_000),),
    drills=0,
    batch_size=128,
    learning_rate=3e-3,
    decay=0.0,
    adam_beta2=0.999,
    by_length=False,
)

TINY_MODELS = {
    "tiny-teacher": TinyModel(
        hidden_size=80,
        intermediate_size=216,
        num_blocks=12,
        num_heads=4,
        problems=(("gsm-mini", 80_000), ("math-mini", 35_000), ("aqua-mini", 35_000)),
        drills=30_000,
        batch_size=32,
        learning_rate=1e-3,
    ),
    "tiny-student": TinyModel(
        hidden_size=72,
        intermediate_size=192,
        num_blocks=6,
        num_heads=4,
        # Enough to write chains, but far less than it could learn: a student before distillation.
        problems=(("gsm-mini", 32_000), ("math-mini", 14_000), ("aqua-mini", 14_000)),
        drills=12_000,
        batch_size=32,
        learning_rate=2e-3,
    ),
    "tiny-graph-start": _GRAPH_START,
    "tiny-graph-writer": replace(
        _GRAPH_START,
        num_blocks=6,
        problems=(("graph-mini", 60_000),),
        learning_rate=2e-3,
        decay=0.3,
        start="tiny-graph-start",
        blocks=(0, 1, 1, 2, 2, 3),
        seed=21,
    ),
}


def written(problem: Problem) -> str:
    """Return the text of a problem with steps and answer, as a model reads and writes it."""
    return "\n".join([problem.question_text, *problem.steps, MARKER + problem.answer])


def drills(count: int, *, seed: int) -> list[Problem]:
    """Return problems that only ask for the letter of an option."""
    rng = random.Random(f"drills/{seed}")
    texts = []
    for index in range(count):
        options = tuple(str(number) for number in rng.sample(range(100), len(LETTERS)))
        place = rng.randrange(len(LETTERS))
        question = f"which option is {options[place]}?"
        steps = (f"{options[place]} ({LETTERS[place]})",)
        texts.append(Problem(f"drills/{index}", question, steps, LETTERS[place], options, "lookup"))
    return texts


def _collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Right-pad to the longest row. Questions carry no labels."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, _IGNORED)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[i, :length] = torch.tensor(row["input_ids"])
        mask[i, :length] = 1
        labels[i, row["prompt"] : length] = ids[i, row["prompt"] : length]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def pretrain(name: str, *, output_dir: Path, scale: float = 1.0, threads: int | None = None) -> Path:
    """Train one embedded model from scratch and save it with its tokenizer in float16.

    Args:
        name: One of `TINY_MODELS`.
        output_dir: Folder of the model.
        scale: Multiplies the number of problems; below 1 for a quick try.
        threads: Threads of torch (None = unchanged).

    Returns:
        The folder.

    Raises:
        UserError: If the name is unknown.
    """
    if name not in TINY_MODELS:
        raise UserError(f'no tiny model "{name}"; choose one of {", ".join(TINY_MODELS)}.{nearest(name, TINY_MODELS)}')
    recipe = TINY_MODELS[name]
    if threads is not None:
        torch.set_num_threads(threads)
    start = time.perf_counter()
    set_seed(recipe.seed)
    # Both models share one tokenizer.
    tokenizer = build_tokenizer(
        (
            written(problem)
            for part, _ in recipe.problems
            for problem in generate_problems(part, split="train", num_problems=10_000, seed=0)
        ),
        min_count=20,
    )
    encoder = Encoder(tokenizer)
    problems = drills(int(recipe.drills * scale), seed=recipe.seed)
    for part, count in recipe.problems:
        problems += generate_problems(part, split="train", num_problems=max(1, int(count * scale)), seed=recipe.seed)
    rows = [
        {"input_ids": [*encoded.prompt, *encoded.suffix(0)], "prompt": len(encoded.prompt)}
        for encoded in encoder.encode_many(problems)
    ]
    print(f"{len(rows)} problems, {sum(len(row['input_ids']) for row in rows)} tokens, vocabulary {len(tokenizer)}")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.num_blocks,
            num_attention_heads=recipe.num_heads,
            num_key_value_heads=recipe.num_heads,
            max_position_embeddings=_CONTEXT,
            initializer_range=0.04,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.get_vocab()[EOS],
            pad_token_id=tokenizer.get_vocab()[PAD],
        )
    )
    if recipe.start is not None:
        begun = output_dir.parent / recipe.start
        if not (begun / "config.json").is_file():
            pretrain(recipe.start, output_dir=begun, scale=scale, threads=threads)
        set_seed(recipe.seed)
        grow(model, LlamaForCausalLM.from_pretrained(begun, dtype=torch.float32), recipe.blocks)
    num_updates = math.ceil(len(rows) / recipe.batch_size)
    schedule = "cosine" if recipe.decay is None else "warmup_stable_decay" if recipe.decay else "constant_with_warmup"
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output_dir),
            per_device_train_batch_size=recipe.batch_size,
            num_train_epochs=1,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=schedule,
            lr_scheduler_kwargs={"num_decay_steps": int(recipe.decay * num_updates)} if recipe.decay else None,
            warmup_steps=0.05,
            weight_decay=0.01,
            adam_beta2=recipe.adam_beta2,
            logging_steps=50,
            save_strategy="no",
            report_to=[],
            seed=recipe.seed,
            use_cpu=True,
            remove_unused_columns=False,
            train_sampling_strategy="group_by_length" if recipe.by_length else "random",
            disable_tqdm=True,
        ),
        train_dataset=rows,  # pyright: ignore[reportArgumentType]
        data_collator=_collate,
    )
    trainer.train()
    model.half().save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    with (output_dir / "training_log.jsonl").open("w", encoding="utf-8") as file:
        for row in trainer.state.log_history:
            if "loss" in row:
                file.write(json.dumps({key: row[key] for key in ("step", "epoch", "loss", "learning_rate")}) + "\n")
    (output_dir / "README.md").write_text(model_card(name, output_dir), encoding="utf-8")
    print(f"{model.num_parameters():,} parameters, {time.perf_counter() - start:.0f} s -> {output_dir}")
    return output_dir


def grow(model: LlamaForCausalLM, start: LlamaForCausalLM, blocks: Sequence[int]) -> None:
    """Give a model the weights of a shallower one, so that it computes the same at first.

    Args:
        model: Model to fill.
        start: Trained model of the same widths.
        blocks: For each block of `model` the block of `start` that it copies; a second copy adds nothing at first.
    """
    taken = start.state_dict()
    weights = dict(taken)
    for name in model.state_dict():
        parts = name.split(".")
        if parts[1] != "layers":
            continue
        place = int(parts[2])
        source = ".".join([*parts[:2], str(blocks[place]), *parts[3:]])
        weights[name] = taken[source].clone()
        again = blocks[place] in blocks[:place]
        if again and parts[-2] in ("o_proj", "down_proj"):
            weights[name] = torch.zeros_like(weights[name])
    model.load_state_dict(weights)


def model_card(name: str, folder: Path) -> str:
    """Return the model card: training, and accuracy with written steps on validation problems."""
    recipe = TINY_MODELS[name]
    model = TeacherModel(str(folder)).eval()
    rows = []
    for part, _ in recipe.problems:
        problems = generate_problems(part, split="validation", num_problems=_NUM_MEASURED, seed=0)
        results = score(model, problems, thinking=False, batch_size=64, max_new_tokens=70, label=part)
        right = sum(result.right for result in results)
        low, high = wilson(right, len(results))
        rows.append(f"| {part} | {right / len(results):.1%} | {low:.1%} to {high:.1%} |")
    counts = ", ".join(f"{count:,} of {part}" for part, count in recipe.problems)
    return "\n".join(
        [
            "---",
            "license: mit",
            "library_name: transformers",
            "---",
            "",
            f"# {name}",
            "",
            f"A Llama-like model of {model.num_parameters():,} parameters ({recipe.num_blocks} blocks, width "
            f"{recipe.hidden_size}, {recipe.num_heads} heads, tied embeddings, vocabulary {len(model.tokenizer)}), "
            "made for trying latent reasoning distillation on a CPU. It writes chains of equations for the three "
            "offline problem sets of LRD-PEFT and knows nothing else.",
            "",
            f"Pretrained from scratch on training problems with their written steps ({counts}, once each, and "
            f"{recipe.drills:,} option look-ups; AdamW, peak "
            f"learning rate {recipe.learning_rate}, batch {recipe.batch_size}, seed {recipe.seed}); the loss is on "
            "what it writes. Weights are float16. "
            f"`python -m tools.pretrain {name}` in the repository reproduces it.",
            "",
            f"Greedy decoding of written steps, {_NUM_MEASURED} validation problems of each set, 95% intervals:",
            "",
            "| set | accuracy | interval |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.pretrain", description="Make an embedded tiny model again.")
    parser.add_argument("name", choices=sorted(TINY_MODELS))
    parser.add_argument("--output_dir", type=Path, help="folder that becomes the model (default: runs/pretrain/NAME)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training; below 1 for a quick try")
    parser.add_argument("--num_threads", type=int, help="CPU threads of torch")
    found = parser.parse_args()
    if not found.scale > 0:
        parser.error(f"--scale is {found.scale:g}; it must be above 0")
    if found.num_threads is not None and found.num_threads < 1:
        parser.error(f"--num_threads is {found.num_threads}; it must be at least 1")
    folder = found.output_dir or Path("runs", "pretrain", found.name)
    print(pretrain(found.name, output_dir=folder, scale=found.scale, threads=found.num_threads))


if __name__ == "__main__":
    main()
