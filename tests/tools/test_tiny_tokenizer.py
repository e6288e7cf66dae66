"""The tiny tokenizer: numbers are one token wherever they stand, no text is lost."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import tiny
from tools.tiny_tokenizer import BOT, EOS, EOT, PAD, build_tokenizer

TOKENIZER = tiny.tokenizer()


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def pieces(text: str) -> list[str]:
    return [str(TOKENIZER.decode([token])) for token in ids(text)]


def test_pieces_by_hand():
    assert pieces("16 - 3 = 13") == ["16", " - ", "3", " = ", "13"]
    assert pieces("Ann: 16 - 3 = 13\n")[-6:] == ["16", " - ", "3", " = ", "13", "\n"]
    assert pieces("### 18") == ["### ", "18"]
    assert pieces("125") == ["12", "5"]


@pytest.mark.parametrize("number", range(100))
def test_a_number_is_one_token_with_one_id_wherever_it_stands(number: int):
    (alone,) = ids(str(number))
    for text in (
        f"Ann has {number} keys.",
        f"{number} + {number} = {number}",
        f"({number})",
        f"x = {number}.",
        f"### {number}",
        f"has {number},",
        f"\\frac{{{number}}}{{{number}}}",
        f"Ann: {number}\n",
        f"(A) {number} (B) {number}",
        f"zz{number}\u00e9",
    ):
        assert ids(text).count(alone) == text.count(str(number)), text


@given(st.text(max_size=60))
@example("  \t\r\n a  b\u00a0\u3000 16  3")
@example("\u00e9\U0001f600\u200d\x00\ufffd \\frac{1}{2}}{ ### (A)(B )")
@settings(max_examples=150, deadline=None)
def test_no_text_is_lost(text: str):
    assert TOKENIZER.decode(ids(text)) == text


def test_special_tokens_and_what_they_are_for():
    assert [TOKENIZER.convert_tokens_to_ids(token) for token in (PAD, EOS, BOT, EOT)] == [0, 1, 2, 3]
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.bos_token_id) == (0, 1, None)
    assert TOKENIZER.decode([*ids("5"), 1, 0, 2, 3], skip_special_tokens=True) == "5"


def test_the_same_texts_give_the_same_vocabulary_and_rare_words_fall_to_bytes():
    texts = ["red red blue", "blue red green"]
    first, again = build_tokenizer(texts, min_count=2), build_tokenizer(list(texts), min_count=2)
    assert first.get_vocab() == again.get_vocab()
    assert first.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()

    def number_of(word: str) -> int:
        return len(first(word, add_special_tokens=False)["input_ids"])

    assert number_of(" red") == 1
    assert number_of(" green") == len(" green")


def test_it_is_the_same_after_saving(tmp_path):
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Ann: 16 - 3 = 13\n### 13"
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 1)
