"""Batched cached decoding equals one problem at a time, and both equal the sequence recomputed for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lrd_peft.data.collate import left_pad
from lrd_peft.model.generation import Generated, answer_batch, decode_batch, end_tokens
from tests import tiny
from tests.model.reference import MODELS, VOCAB, recompute
from tests.model.small_models import make_tokenizer

QUESTIONS = [[5, 9, 2], [7, 3, 11, 4, 8, 30, 12], [13], [2, 50, 33, 17]]
FORCED = (21, 22)
NEVER = VOCAB  # an end-of-text id that no model writes


def model(family: str, *, lora: bool = False) -> nn.Module:
    lm = MODELS[family]().double()
    if lora:
        torch.manual_seed(3)
        config = LoraConfig(
            r=2,
            lora_alpha=4,
            target_modules="all-linear",
            init_lora_weights=False,
            fan_in_fan_out=family == "gpt2",
        )
        lm = get_peft_model(lm, config).double()
    return lm.eval()


def decode(lm: nn.Module, questions: Sequence[Sequence[int]], **options: Any) -> list[Generated]:
    ids, mask = left_pad(questions, pad_id=0)
    chosen: dict[str, Any] = {"num_thoughts": 3, "forced": FORCED, "max_new_tokens": 6, "eos_id": NEVER}
    return decode_batch(lm, ids, mask, **{**chosen, **options})


def plain(lm: nn.Module, question: list[int], *, num_thoughts: int, forced: list[int], limit: int) -> list[int]:
    """Greedy decoding that recomputes the whole sequence for each token."""
    written: list[int] = []
    with torch.no_grad():
        for _ in range(limit):
            logits, _ = recompute(lm, question, num_thoughts, [*forced, *written])
            written.append(int(logits[-1].argmax()))
    return written


def tokens(rows: list[Generated]) -> list[tuple[int, ...]]:
    return [row.tokens for row in rows]


def assert_same(ours: Generated, theirs: Generated) -> None:
    first, second = (replace(row, probabilities=(), thought_probabilities=()) for row in (ours, theirs))
    assert first == second
    assert ours.probabilities == pytest.approx(theirs.probabilities, rel=1e-9)
    for slot, other in zip(ours.thought_probabilities, theirs.thought_probabilities, strict=True):
        assert slot == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("lora", [False, True], ids=["bare", "lora"])
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("num_thoughts", [0, 1, 3])
def test_a_ragged_batch_equals_each_row_alone_and_recomputed(family: str, num_thoughts: int, lora: bool) -> None:
    lm = model(family, lora=lora)
    together = decode(lm, QUESTIONS, num_thoughts=num_thoughts, top_tokens=2)
    for question, row in zip(QUESTIONS, together, strict=True):
        (alone,) = decode(lm, [question], num_thoughts=num_thoughts, top_tokens=2)
        assert_same(row, alone)
        expected = plain(lm, question, num_thoughts=num_thoughts, forced=list(FORCED), limit=6)
        assert list(row.tokens) == expected
    assert len(set(tokens(together))) > 1, "the rows must differ for this to test anything"


@pytest.mark.parametrize("family", MODELS)
def test_rows_that_end_early_leave_the_others_as_they_were(family: str) -> None:
    lm = model(family)
    free = decode(lm, QUESTIONS, max_new_tokens=8)
    # Any token that some row writes in the middle, taken as the end, makes rows end at different times.
    for eos in {row.tokens[place] for row in free for place in (1, 2, 4)}:
        ended = decode(lm, QUESTIONS, max_new_tokens=8, eos_id=eos)
        for before, row in zip(free, ended, strict=True):
            cut = before.tokens.index(eos) if eos in before.tokens else len(before.tokens)
            assert row.tokens == before.tokens[:cut]
            assert row.probabilities == pytest.approx(before.probabilities[:cut], rel=1e-9)
            assert row.finished == (eos in before.tokens)
            assert row.num_tokens == cut + row.finished


def test_passes_and_tokens_counted_by_hand() -> None:
    lm = model("llama")
    (free,) = decode(lm, QUESTIONS[:1], num_thoughts=3, max_new_tokens=5)
    # 1 over the question, 2 that find thoughts, 1 over the last slot and the marker; that one gives the first token
    # already, so five tokens need four more.
    assert (free.num_thoughts, free.num_tokens, free.num_passes, free.finished) == (3, 5, 4 + 4, False)
    eos = free.tokens[2]
    assert eos not in free.tokens[:2]
    (ended,) = decode(lm, QUESTIONS[:1], num_thoughts=3, max_new_tokens=5, eos_id=eos)
    assert (ended.tokens, ended.num_tokens, ended.num_passes, ended.finished) == (free.tokens[:2], 3, 4 + 2, True)
    (none,) = decode(lm, QUESTIONS[:1], num_thoughts=0, max_new_tokens=5)
    assert (none.num_thoughts, none.num_passes) == (0, 1 + 4)
    (parallel,) = decode(lm, QUESTIONS[:1], num_thoughts=3, max_new_tokens=5, jacobi_passes=2)
    # 1 over the question, 1 that refines, 1 over slots and marker.
    assert parallel.num_passes == 3 + 4


def test_model_calls_are_those_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model("llama")
    calls: list[int] = []
    decoder: Any = lm.get_submodule("model")
    handle = decoder.register_forward_pre_hook(lambda *_: calls.append(1))
    (row,) = decode(lm, QUESTIONS[:1])
    handle.remove()
    assert len(calls) == row.num_passes


@pytest.mark.parametrize("limit", [0, 1])
def test_the_limit_of_new_tokens_is_kept(limit: int) -> None:
    rows = decode(model("gpt2"), QUESTIONS, max_new_tokens=limit)
    assert [row.num_tokens for row in rows] == [limit] * 4
    assert not any(row.finished for row in rows)


def test_an_end_at_the_limit_is_an_end() -> None:
    lm = model("llama")
    (free,) = decode(lm, QUESTIONS[1:2], max_new_tokens=3)
    eos = free.tokens[2]
    cut = free.tokens.index(eos)
    (row,) = decode(lm, QUESTIONS[1:2], max_new_tokens=cut + 1, eos_id=eos)
    assert row.finished and row.tokens == free.tokens[:cut]


@pytest.mark.parametrize("family", MODELS)
def test_thought_tokens_are_what_the_head_reads_before_each_slot(family: str) -> None:
    lm = model(family)
    rows = decode(lm, QUESTIONS, num_thoughts=3, top_tokens=4)
    for question, row in zip(QUESTIONS, rows, strict=True):
        logits, _ = recompute(lm, question, 3, [])
        before = logits[len(question) - 1 : len(question) + 2]  # the question's last token, slots 1 and 2
        best = before.softmax(dim=-1).topk(4)
        assert [list(slot) for slot in row.thought_tokens] == best.indices.tolist()
        torch.testing.assert_close(torch.tensor(row.thought_probabilities, dtype=best.values.dtype), best.values)


@pytest.mark.parametrize("family", MODELS)
def test_probabilities_are_those_of_the_softmax(family: str) -> None:
    lm = model(family)
    (row,) = decode(lm, QUESTIONS[1:2])
    with torch.no_grad():
        logits, _ = recompute(lm, QUESTIONS[1], 3, [*FORCED, *row.tokens])
    probabilities = logits.softmax(dim=-1)[-7:-1]
    expected = [float(probabilities[i, token]) for i, token in enumerate(row.tokens)]
    assert row.probabilities == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lora", [False, True], ids=["bare", "lora"])
@pytest.mark.parametrize("family", MODELS)
def test_without_thoughts_it_is_greedy_decoding_of_transformers(family: str, lora: bool) -> None:
    lm = model(family, lora=lora)
    free = decode(lm, QUESTIONS, num_thoughts=0, forced=(), max_new_tokens=8)
    eos = free[0].tokens[3]
    ours = decode(lm, QUESTIONS, num_thoughts=0, forced=(), max_new_tokens=8, eos_id=eos)
    ids, mask = left_pad(QUESTIONS, pad_id=0)
    generator: Any = lm
    theirs: Tensor = generator.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=8,
        eos_token_id=eos,
        pad_token_id=0,
    )
    for row, written in zip(ours, theirs[:, ids.shape[1] :].tolist(), strict=True):
        expected = written[: written.index(eos)] if eos in written else written
        assert list(row.tokens) == expected


def test_a_projection_and_jacobi_passes_reach_the_thoughts() -> None:
    lm = model("llama")
    torch.manual_seed(1)
    projection = nn.Linear(24, 24).double()
    (row,) = decode(lm, QUESTIONS[:1], projection=projection, max_new_tokens=1, top_tokens=1)
    with torch.no_grad():
        logits, _ = recompute(lm, QUESTIONS[0], 3, list(FORCED), projection)
    assert row.tokens == (int(logits[-1].argmax()),)
    exact, enough = decode(lm, QUESTIONS), decode(lm, QUESTIONS, jacobi_passes=3)
    assert tokens(exact) == tokens(enough)


def test_the_end_of_the_context_stops_each_row_by_itself() -> None:
    """GPT-2 has 64 positions and no others: a row of 7, 3 thoughts and 2 forced ids may write 53 tokens."""
    lm = model("gpt2")
    rows = decode(lm, QUESTIONS[:2], max_new_tokens=80, context=64)
    # The last token is written at the last position, and never fed in.
    assert [row.num_tokens for row in rows] == [64 - 8 + 1, 64 - 12 + 1]
    assert not any(row.finished for row in rows)
    for question, row in zip(QUESTIONS, rows, strict=False):
        assert_same(decode(lm, [question], max_new_tokens=80, context=64)[0], row)


@pytest.mark.parametrize("listed", [True, False])
def test_decoding_stops_where_generate_stops(listed):
    lm: Any = model("llama")
    (free,) = decode(lm, QUESTIONS[:1], num_thoughts=0, forced=(), max_new_tokens=6)
    first, second = free.tokens[3], free.tokens[1]
    assert len({*free.tokens[:4]}) == 4
    lm.generation_config.eos_token_id = [first, second] if listed else first
    ends = end_tokens(lm, make_tokenizer(pad_token="<pad>", eos_token="<eos>"))
    assert ends == {first, second, 1} if listed else {first, 1}
    (ours,) = decode(lm, QUESTIONS[:1], num_thoughts=0, forced=(), max_new_tokens=6, eos_id=ends)
    ids = torch.tensor([QUESTIONS[0]])
    theirs = lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert ours.finished
    assert [*ours.tokens, second if listed else first] == theirs[0, len(QUESTIONS[0]) :].tolist()


@pytest.mark.parametrize("options", [{}, {"markers": True, "projection": "mlp"}], ids=["plain", "markers"])
def test_plain_generation_goes_on_from_the_prompts_embeddings(options: dict[str, Any]) -> None:
    torch.manual_seed(2)
    student = tiny.student("gpt2", num_thoughts=3, options=options)
    questions = [problem.question_text for problem in tiny.problems(3)]
    lm: Any = student.lm
    for embeds, row in zip(
        student.prompt_embeds(questions),
        answer_batch(student, questions, thinking=True, max_new_tokens=5),
        strict=True,
    ):
        written = lm.generate(inputs_embeds=embeds[None], max_new_tokens=5, do_sample=False, pad_token_id=0)
        assert written[0].tolist()[: len(row.tokens)] == list(row.tokens)
    (embeds,) = student.prompt_embeds(questions[:1], num_thoughts=0)
    assert torch.equal(embeds, lm.get_input_embeddings()(torch.tensor(student.encoder.prompt(questions[0]))))
