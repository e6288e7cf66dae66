"""Encoding of problems as token ids: prompt, steps, marker, answer.

    prompt    question \\n                      (plain)   or the tokenizer's chat template with the question
    steps     step_1 \\n step_2 \\n ...
    marker    ###                                its last position predicts the answer's first token
    answer    18 <eos>

Each part is tokenized separately, so a step that the curriculum removes does not change the other tokens. What ends
questions and steps, and the marker, can be other texts, so that a model is asked as it was trained elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from lrd_peft.config.choices import PromptStyle, check_choice
from lrd_peft.data.problem import Problem
from lrd_peft.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKER = "### "


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one problem.

    Attributes:
        problem: The problem.
        prompt: Ids of the question, with the tokenizer's own beginning-of-text token if it has one.
        steps: Ids of each step, including what ends it: a newline.
        marker: Ids of the answer marker.
        answer: Ids of the answer, including the end-of-text token.
        step_targets: Ids that an auxiliary decoder must write (see `Encoder.with_step_targets`).
    """

    problem: Problem
    prompt: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    marker: tuple[int, ...]
    answer: tuple[int, ...]
    step_targets: tuple[tuple[int, ...], ...] = ()

    def suffix(self, removed_steps: int) -> tuple[int, ...]:
        """Return the ids after the slots if thoughts replace the first `removed_steps` steps."""
        kept = [token for step in self.steps[removed_steps:] for token in step]
        return (*kept, *self.marker, *self.answer)

    @property
    def step_ends(self) -> tuple[int, ...]:
        """Index in `suffix(0)` of each step's last token, the one with its newline."""
        return tuple(length - 1 for length in accumulate(len(step) for step in self.steps))

    @property
    def num_step_tokens(self) -> int:
        """Length of all written steps."""
        return sum(len(step) for step in self.steps)

    @property
    def num_tokens(self) -> int:
        """Length of the whole written sequence."""
        return len(self.prompt) + len(self.suffix(0))


class Encoder:
    """Encodes problems with one tokenizer and one prompt style.

    Args:
        tokenizer: Tokenizer with an end-of-text token.
        prompt_style: plain, or chat for the tokenizer's chat template.

    Raises:
        UserError: If the tokenizer lacks what the style needs.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt_style: str = "plain",
        question_end: str = "\n",
        step_end: str = "\n",
        answer_marker: str = MARKER,
        answer_prefix: str = "",
    ) -> None:
        check_choice("prompt_style", prompt_style, PromptStyle)
        if prompt_style == "chat" and not tokenizer.chat_template:
            raise UserError('prompt_style is "chat" but the tokenizer has no chat template; use prompt_style "plain"')
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-text token; set its eos_token, answers need an end")
        self.tokenizer = tokenizer
        self.prompt_style, self.question_end, self.step_end = prompt_style, question_end, step_end
        self.answer_marker, self.answer_prefix = answer_marker, answer_prefix
        # The beginning-of-text token, if the tokenizer adds one.
        self._start = tuple(
            token
            for token in tokenizer("a")["input_ids"][:1]
            if tokenizer.bos_token_id is not None and token == tokenizer.bos_token_id
        )
        for text in (question_end, step_end, answer_marker, answer_prefix):
            _check_unicode(text)
        self._marker = self._ids(answer_marker)
        if not self.shown_marker:
            raise UserError(f"answer_marker is {answer_marker!r}, which nothing is left of in a text; add a word to it")

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def _prompt_start(self) -> tuple[int, ...]:
        # A chat template includes its own beginning of text.
        return () if self.prompt_style == "chat" else self._start

    def _prompt_text(self, question_text: str) -> str:
        if not question_text.isascii():
            _check_unicode(question_text)
        if self.prompt_style == "plain":
            return question_text + self.question_end
        chat = [{"role": "user", "content": question_text}]
        try:
            return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is a program of its author's
            raise UserError(
                f"the tokenizer's chat template fails on a single user message ({' '.join(str(error).split())}); "
                'correct the template, or use prompt_style "plain"'
            ) from error

    def prompt(self, question_text: str) -> tuple[int, ...]:
        """Return the ids of a question as the model reads it.

        Raises:
            UserError: If the text is not valid Unicode, or the chat template fails.
        """
        return self._prompt_start + self._ids(self._prompt_text(question_text))

    @property
    def marker(self) -> tuple[int, ...]:
        """Ids of the answer marker."""
        return self._marker

    @property
    def shown_marker(self) -> str:
        """The answer marker as it stands in a decoded text: without special tokens and outer spaces."""
        text = self.answer_marker
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, "")
        return text.strip()

    def encode(self, problem: Problem) -> Encoded:
        """Encode one problem."""
        return self.encode_many([problem])[0]

    def encode_many(self, problems: Sequence[Problem]) -> list[Encoded]:
        """Encode problems in one call to the tokenizer."""
        eos = self.tokenizer.eos_token_id
        assert isinstance(eos, int)
        texts: list[str] = []
        for problem in problems:
            texts += [
                self._prompt_text(problem.question_text),
                self.answer_prefix + problem.answer,
                *(step + self.step_end for step in problem.steps),
            ]
        if not texts:
            return []
        ids = iter(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        encoded = []
        for problem in problems:
            prompt, answer = (*self._prompt_start, *next(ids)), next(ids)
            steps = tuple(tuple(next(ids)) for _ in problem.steps)
            encoded.append(Encoded(problem, prompt, steps, self._marker, (*answer, eos)))
        return encoded

    def with_step_targets(
        self, encoded: Sequence[Encoded], *, most: int, drop_last_step: bool = False
    ) -> list[Encoded]:
        """Add what an auxiliary decoder must write: each step without its end, then the end-of-text token.

        Args:
            encoded: Any number of encoded problems.
            most: Targets of a problem at most; the last one holds all remaining steps as one text.
            drop_last_step: Leave a problem's last step out.

        Returns:
            The problems with their targets.
        """
        eos = self.tokenizer.eos_token_id
        assert isinstance(eos, int)
        texts = []
        for row in encoded:
            steps = row.problem.steps[: len(row.steps) - drop_last_step] if row.steps else ()
            rest = steps[most - 1 :]
            texts.append([*steps[: most - 1], *([self.step_end.join(rest)] if rest else [])])
        flat = [text for of_row in texts for text in of_row]
        if not flat:
            return list(encoded)
        ids = iter(self.tokenizer(flat, add_special_tokens=False)["input_ids"])
        return [
            replace(row, step_targets=tuple((*next(ids), eos) for _ in of_row))
            for row, of_row in zip(encoded, texts, strict=True)
        ]

    def encode_all(self, problems: Sequence[Problem], *, max_length: int | None = None) -> tuple[list[Encoded], int]:
        """Encode problems and leave out those longer than `max_length` tokens.

        Args:
            problems: Any number of problems.
            max_length: Maximum length of a problem in tokens; None for no limit.

        Returns:
            The encoded problems, and the number of problems left out.

        Raises:
            UserError: If no problem fits.
        """
        encoded = self.encode_many(problems)
        kept = [row for row in encoded if max_length is None or row.num_tokens <= max_length]
        if encoded and not kept:
            shortest = min(row.num_tokens for row in encoded)
            raise UserError(
                f"all {len(encoded)} problems are longer than the context of {max_length} tokens "
                f"(the shortest has {shortest}); raise max_length or choose a model with a longer context"
            )
        return kept, len(encoded) - len(kept)


def _check_unicode(text: str) -> None:
    """Refuse half of a surrogate pair, which tokenizers cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text {text[:60]!r} holds the lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}, which is not valid Unicode; remove it"
        ) from error
