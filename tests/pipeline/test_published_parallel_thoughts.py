"""Recipes of PCCoT: their losses against a plain transcription of the authors' code path.

Wu et al., arXiv 2506.18582, sections 3 and 4. The models are small and random; everything else is the recipe's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lrd_peft.config import RunConfig, load_config
from lrd_peft.config.recipes import recipes_folder
from lrd_peft.model.loop import think, unwrap
from lrd_peft.model.student import StudentModel
from lrd_peft.pipeline.dry_run.describe import dry_run
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.curriculum import Item
from tests.pipeline.test_published_curricula import assert_same_loss
from tests.pipeline.test_published_self_distillation import cross_entropy, prepared, read

pytestmark = pytest.mark.timeout(600)

GPT2: dict[str, Any] = {"lora_targets": ["c_attn", "c_fc", "c_proj"]}


def refined(model: Any, prompt: Sequence[int], *, num_thoughts: int, passes: int) -> Tensor:
    """Return question, <bot> and the thoughts that the answer reads, each pass over the whole sequence."""
    lm, embed = unwrap(model.lm), unwrap(model.lm).get_input_embeddings()
    bot, latent = model.tokenizer.convert_tokens_to_ids(["<bot>", "<latent>"])
    question = embed(torch.tensor([[*prompt, bot]]))
    start, size = question.shape[1] - 1, question.shape[1]
    slots = embed(torch.tensor([[latent] * num_thoughts]))
    thoughts = read(lm, torch.cat([question, slots], dim=1)).hidden_states[-1][:, start : start + num_thoughts]
    for _ in range(passes - 1):
        states = read(lm, torch.cat([question, thoughts], dim=1)).hidden_states[-1][:, size:]
        thoughts = torch.cat([thoughts[:, :1], states[:, :-1]], dim=1)
    return torch.cat([question, thoughts], dim=1)


def transcription(model: Any, rows: Sequence[Item], *, num_thoughts: int, passes: int) -> Tensor:
    """PCCoT's loss, each problem by itself, so that there is no padding; the last step is dropped."""
    lm, embed = unwrap(model.lm), unwrap(model.lm).get_input_embeddings()
    eot = model.tokenizer.convert_tokens_to_ids("<eot>")
    on_steps, on_answer, num_steps, num_answer = torch.zeros(()), torch.zeros(()), 0, 0
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    for item in rows:
        row = item.encoded
        told = [token for step in row.steps[:-1] for token in step] + [*row.marker, *row.answer]
        said, place = [*row.marker, *row.answer], -len(row.answer) - 1
        written = read(lm, embed(torch.tensor([[*row.prompt, *told]])))
        on_steps, num_steps = on_steps + cross_entropy(written.logits, told), num_steps + len(told)
        thought = refined(model, row.prompt, num_thoughts=num_thoughts, passes=passes)
        latent = read(lm, torch.cat([thought, embed(torch.tensor([[eot, *said]]))], dim=1))
        on_answer, num_answer = on_answer + cross_entropy(latent.logits, said), num_answer + len(said)
        ours.append(torch.stack([state[0, place] for state in latent.hidden_states[1:]]))
        theirs.append(torch.stack([state[0, place] for state in written.hidden_states[1:]]).detach())
    students, teachers = torch.stack(ours, dim=1).flatten(1), torch.stack(theirs, dim=1).flatten(1)
    apart = F.smooth_l1_loss(students, teachers, reduction="none") / teachers.std(dim=-1, keepdim=True)
    return on_steps / num_steps + on_answer / num_answer + apart.mean()


@pytest.mark.parametrize(
    ("recipe", "family", "thoughts", "passes", "changes"),
    [
        ("pccot_gpt2", "gpt2", 6, 6, GPT2),
        ("pccot_gpt2", "gpt2", 24, 3, {**GPT2, "thoughts_per_step": 4, "thought_passes": 3}),
        ("pccot_gpt2", "gpt2", 6, 2, {"method": "pccot-full", "thought_passes": 2}),
        ("pccot_llama-3.2-1b", "llama", 6, 6, {}),
    ],
    ids=["gpt2", "24 thoughts in 3 passes", "all-weights", "llama"],
)
def test_pccots_loss_is_that_of_its_code(
    recipe: str, family: str, thoughts: int, passes: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    trainer = prepared(recipe, family, tmp_path, **changes)
    model: Any = trainer.model
    assert (model.options.num_thoughts, model.options.jacobi_passes) == (thoughts, passes)
    chosen = trainer.items[:4]
    expected = transcription(model, chosen, num_thoughts=thoughts, passes=passes)
    assert len({len(item.encoded.prompt) for item in chosen}) > 1, "some questions are padded"
    assert_same_loss(trainer, trainer.collator(chosen), expected)


def test_answers_are_read_from_the_same_thoughts_and_the_saved_student_gives_them(tmp_path: Path) -> None:
    trainer = prepared("pccot_gpt2", "gpt2", tmp_path / "run", **GPT2)
    model: Any = trainer.model
    row = trainer.items[0].encoded
    bot, eot = model.tokenizer.convert_tokens_to_ids(["<bot>", "<eot>"])
    whole = refined(model, row.prompt, num_thoughts=6, passes=6)
    ids = torch.tensor([[*row.prompt, bot]])
    found = think(
        model.lm,
        ids,
        torch.ones_like(ids),
        num_thoughts=6,
        suffix_ids=torch.tensor([[eot]]),
        jacobi_passes=6,
        placeholder_id=model.placeholder_id,
    )
    torch.testing.assert_close(found.thoughts, whole[:, -6:], atol=1e-5, rtol=1e-4)
    questions = [item.encoded.problem.question_text for item in trainer.items[:3]]
    said = model.generate(questions, max_new_tokens=4)
    model.save_pretrained(tmp_path / "student")
    loaded = StudentModel.from_pretrained(tmp_path / "student")
    assert loaded.options.placeholder and loaded.generate(questions, max_new_tokens=4) == said


@pytest.mark.parametrize("recipe", ["pccot_gpt2", "pccot_llama-3.2-1b"])
def test_the_recipes_can_be_planned(recipe: str) -> None:
    config = load_config(yaml_path=recipes_folder() / "published" / f"{recipe}.yaml")
    assert "method: pccot (student, LoRA, parallel thoughts)" in dry_run(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"thought_placeholder": True, "thought_passes": 2},
            "thought_placeholder is true, but thought_markers is false",
        ),
        ({"thought_placeholder": True, "thought_markers": True}, "but thoughts are computed one after another"),
    ],
)
def test_a_placeholder_without_effect_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig.from_flat(**settings)
