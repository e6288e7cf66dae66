"""Problems to ids, by hand: parts, start of text, chat, limits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lrd_peft.data.encoding import MARKER, Encoder
from lrd_peft.data.problem import Problem
from lrd_peft.runtime.errors import UserError
from tests import tiny
from tests.model.small_models import make_tokenizer

PROBLEM = Problem(
    id="1",
    question="Ann has 16 keys. She gives 3 away.",
    steps=("Ann: 16 - 3 = 13", "13 + 4 = 17"),
    answer="17",
)
TOKENIZER = tiny.tokenizer()


def pieces(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> list[str]:
    return [str(tokenizer.decode([token])) for token in ids]


def test_parts_by_hand():
    encoded = Encoder(TOKENIZER).encode(PROBLEM)
    assert pieces(TOKENIZER, encoded.marker) == ["### "]
    assert pieces(TOKENIZER, encoded.answer) == ["17", "<eos>"]
    assert pieces(TOKENIZER, encoded.steps[1]) == ["13", " + ", "4", " = ", "17", "\n"]
    assert TOKENIZER.decode(list(encoded.prompt)) == "Ann has 16 keys. She gives 3 away.\n"
    assert TOKENIZER.decode(list(encoded.suffix(1))) == "13 + 4 = 17\n### 17<eos>"
    assert encoded.suffix(2) == (*encoded.marker, *encoded.answer)
    assert encoded.num_tokens == len(encoded.prompt) + len(encoded.suffix(0))
    assert encoded.step_ends == (len(encoded.steps[0]) - 1, len(encoded.steps[0]) + 5)
    assert pieces(TOKENIZER, tuple(encoded.suffix(0)[end] for end in encoded.step_ends)) == ["\n", "\n"]
    assert Encoder(TOKENIZER).encode(dataclasses.replace(PROBLEM, steps=())).step_ends == ()


def test_other_texts_around_the_parts():
    texts = {"question_end": " <eos>", "step_end": " ", "answer_marker": "<eos> The answer is:"}
    encoder = Encoder(TOKENIZER, **texts)
    encoded = encoder.encode(PROBLEM)
    eos = TOKENIZER.eos_token_id
    assert encoded.prompt[-1] == encoded.marker[0] == eos
    assert TOKENIZER.decode(list(encoded.prompt)) == "Ann has 16 keys. She gives 3 away. <eos>"
    assert TOKENIZER.decode(list(encoded.suffix(1))) == "13 + 4 = 17 <eos> The answer is:17<eos>"
    assert (encoder.shown_marker, Encoder(TOKENIZER).shown_marker) == ("The answer is:", "###")
    bare = Encoder(TOKENIZER, question_end="", step_end="").encode(PROBLEM)
    assert TOKENIZER.decode(list(bare.prompt)) == PROBLEM.question
    assert bare.step_ends == (len(bare.steps[0]) - 1, len(bare.steps[0]) + len(bare.steps[1]) - 1)


@given(
    question=st.text(min_size=1, max_size=30),
    steps=st.lists(st.text(max_size=20), max_size=3),
    answer=st.text(min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_a_problem_comes_back_from_its_ids(question: str, steps: list[str], answer: str):
    encoded = Encoder(TOKENIZER).encode(Problem(id="", question=question, steps=tuple(steps), answer=answer))
    text = TOKENIZER.decode([*encoded.prompt, *encoded.suffix(0)])
    assert text == question + "\n" + "".join(step + "\n" for step in steps) + MARKER + answer + "<eos>"


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_removed_step_changes_no_other_token(removed: int):
    encoded = Encoder(TOKENIZER).encode(PROBLEM)
    whole = encoded.suffix(0)
    assert whole[sum(len(step) for step in encoded.steps[:removed]) :] == encoded.suffix(removed)
    shorter = Encoder(TOKENIZER).encode(dataclasses.replace(PROBLEM, steps=PROBLEM.steps[removed:]))
    assert shorter.suffix(0) == encoded.suffix(removed)


def test_many_at_once_equal_one_by_one():
    encoder = Encoder(TOKENIZER)
    problems = [*tiny.problems(5), dataclasses.replace(PROBLEM, steps=())]
    assert encoder.encode_many(problems) == [encoder.encode(problem) for problem in problems]
    assert encoder.encode_many([]) == []


def test_options_are_part_of_the_question():
    problem = Problem(id="", question="Which?", steps=(), answer="B", options=("1", "2"))
    prompt = Encoder(TOKENIZER).encode(problem).prompt
    assert TOKENIZER.decode(list(prompt)) == "Which?\nOptions: (A) 1 (B) 2\n"


def with_start() -> PreTrainedTokenizerBase:
    from tokenizers import processors

    tokenizer = make_tokenizer(pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", bos_token="what")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="what $A", special_tokens=[("what", tokenizer.convert_tokens_to_ids("what"))]
    )
    return tokenizer


def test_a_beginning_of_text_token_opens_the_prompt_and_nothing_else():
    tokenizer = with_start()
    start = tokenizer.convert_tokens_to_ids("what")
    encoded = Encoder(tokenizer).encode(Problem(id="", question="is two", steps=("two plus",), answer="five"))
    assert pieces(tokenizer, encoded.prompt) == ["what", "is", "two"]
    assert start not in encoded.suffix(0)


def test_a_tokenizer_that_adds_no_start_gets_none():
    assert pieces(TOKENIZER, Encoder(TOKENIZER).prompt("16"))[0] == "16"


def test_chat_style_uses_the_template_once():
    tokenizer = with_start()
    tokenizer.chat_template = (
        "{% for m in messages %}plus {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}five{% endif %}"
    )
    encoder = Encoder(tokenizer, prompt_style="chat")
    assert pieces(tokenizer, encoder.prompt("is two")) == ["plus", "is", "two", "five"]
    assert encoder.encode(Problem(id="", question="is two", steps=(), answer="two")).prompt == encoder.prompt("is two")


@pytest.mark.parametrize(
    ("specials", "options", "message"),
    [
        ({"pad_token": "<pad>", "eos_token": "<eos>"}, {"prompt_style": "chat"}, "has no chat template.*plain"),
        ({"pad_token": "<pad>", "eos_token": "<eos>"}, {"prompt_style": "chatty"}, '"chatty".*plain, chat'),
        ({"pad_token": "<pad>"}, {}, "no end-of-text token"),
        ({"pad_token": "<pad>", "eos_token": "<eos>"}, {"answer_marker": " <eos>\n"}, "answer_marker is .*add a word"),
        ({"pad_token": "<pad>", "eos_token": "<eos>"}, {"step_end": "\ud800"}, "lone surrogate"),
    ],
)
def test_what_does_not_fit_is_said(specials: dict[str, str], options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        Encoder(make_tokenizer(unk_token="<unk>", **specials), **options)


def test_problems_that_are_too_long_are_counted():
    encoder = Encoder(TOKENIZER)
    problems = tiny.problems(10)
    lengths = sorted(encoder.encode(problem).num_tokens for problem in problems)
    limit = lengths[4]
    kept, num_too_long = encoder.encode_all(problems, max_length=limit)
    assert num_too_long == sum(length > limit for length in lengths) > 0
    assert [row.problem for row in kept] == [p for p in problems if encoder.encode(p).num_tokens <= limit]
    assert encoder.encode_all(problems)[1] == 0
    with pytest.raises(UserError, match=rf"all 10 problems are longer.*{lengths[0] - 1}.*shortest has {lengths[0]}"):
        encoder.encode_all(problems, max_length=lengths[0] - 1)
