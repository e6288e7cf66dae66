"""Builds the tokenizer of the embedded tiny models.

Every number from 0 to 99 and every frequent word of the offline problem sets is one token. Other text falls back to its
bytes, so nothing is lost. Spaces belong to the adjacent words and operators, never to a number:
"16 - 3 = 13" is `16`, ` - `, `3`, ` = `, `13`, with the same embedding for a number in every position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, BOT, EOT = "<pad>", "<eos>", "<bot>", "<eot>"

# First match wins: the answer marker, option letters, operators and label colons with their spaces, numbers of at
# most two digits, words (with the space behind them if a number follows), LaTeX commands, single characters.
_PIECES = (
    r"### |"
    r" ?\([A-E]\) ?|"
    r" [-+*/=:%] |: |"
    r"\d{1,2}|"
    r" ?\\?[A-Za-z]+(?: (?=\d))?\{?|"
    r"\}\{|"
    r"[.,?!](?: (?=\d))?|"
    r"\s|."
)


def build_tokenizer(texts: Iterable[str], *, min_count: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer whose words are the pieces that occur at least `min_count` times.

    Args:
        texts: Texts to count pieces in.
        min_count: Minimum number of occurrences of a word.

    Returns:
        The tokenizer. Its vocabulary is deterministic: special tokens, the 256 bytes, then words by decreasing count.
    """
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"), bytes_of])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    counts.update({str(number): min_count for number in range(100)})
    counts.update({bytes_of.pre_tokenize_str("### ")[0][0]: min_count})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [word for word, count in counts.most_common() if count >= min_count and word not in set(alphabet)]
    words.sort(key=lambda word: (-counts[word], word))
    specials = [PAD, EOS, BOT, EOT]
    # A whole word always beats its bytes: it has fewer pieces and a lower cost.
    pieces = [(token, 0.0) for token in specials] + [(byte, -10.0) for byte in alphabet] + [(w, -1.0) for w in words]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[BOT, EOT],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
