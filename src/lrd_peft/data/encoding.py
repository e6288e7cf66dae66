"""Problems to token ids: prompt, steps, marker, answer. Knows a tokenizer, not models, slots or batches.

    prompt    question \\n                      (plain)   or the tokenizer's chat template with the question
    steps     step_1 \\n step_2 \\n ...
    marker    ###                                its last position predicts the answer's first token
    answer    18 <eos>

Each part is tokenized by itself and the ids are joined, so a step removed by the curriculum changes no other token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from lrd_peft.data.problem import Problem
from lrd_peft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKER = "### "
PROMPT_STYLES = ("plain", "chat")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one problem.

    Attributes:
        prompt: ids of the question, with the tokenizer's own beginning-of-text token if it has one.
        steps: ids of each step, its newline included.
        marker: ids of the answer marker.
        answer: ids of the answer, the end-of-text token included.
    """

    problem: Problem
    prompt: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    marker: tuple[int, ...]
    answer: tuple[int, ...]

    def suffix(self, removed_steps: int) -> tuple[int, ...]:
        """Return the ids after the slots when the first `removed_steps` steps are thoughts instead."""
        kept = [token for step in self.steps[removed_steps:] for token in step]
        return (*kept, *self.marker, *self.answer)

    @property
    def step_ends(self) -> tuple[int, ...]:
        """Where each step ends in `suffix(0)`: the index of its last token, the one with its newline."""
        return tuple(length - 1 for length in accumulate(len(step) for step in self.steps))

    @property
    def num_tokens(self) -> int:
        """Length of the whole written sequence."""
        return len(self.prompt) + len(self.suffix(0))


class Encoder:
    """Encodes problems with one tokenizer and one prompt style."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, prompt_style: str = "plain") -> None:
        if prompt_style not in PROMPT_STYLES:
            raise UserError(f'prompt_style is "{prompt_style}"; it must be one of {", ".join(PROMPT_STYLES)}')
        if prompt_style == "chat" and not tokenizer.chat_template:
            raise UserError('prompt_style is "chat" but the tokenizer has no chat template; use prompt_style "plain"')
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-text token; set its eos_token, answers need an end")
        self.tokenizer = tokenizer
        self.prompt_style = prompt_style
        # A beginning-of-text token comes from the tokenizer's own template, if it adds one at all.
        self._start = tuple(
            token
            for token in tokenizer("a")["input_ids"][:1]
            if tokenizer.bos_token_id is not None and token == tokenizer.bos_token_id
        )
        self._marker = self._ids(MARKER)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def _prompt_start(self) -> tuple[int, ...]:
        # A chat template brings its own beginning of text.
        return () if self.prompt_style == "chat" else self._start

    def _prompt_text(self, question_text: str) -> str:
        if self.prompt_style == "plain":
            return question_text + "\n"
        chat = [{"role": "user", "content": question_text}]
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

    def prompt(self, question_text: str) -> tuple[int, ...]:
        """Return the ids of a question as the model reads it."""
        return self._prompt_start + self._ids(self._prompt_text(question_text))

    @property
    def marker(self) -> tuple[int, ...]:
        return self._marker

    def encode(self, problem: Problem) -> Encoded:
        """Return the token ids of one problem."""
        return self.encode_many([problem])[0]

    def encode_many(self, problems: Sequence[Problem]) -> list[Encoded]:
        """Return the token ids of problems, all their parts tokenized in one call."""
        eos = self.tokenizer.eos_token_id
        assert isinstance(eos, int)
        texts: list[str] = []
        for problem in problems:
            texts += [
                self._prompt_text(problem.question_text),
                problem.answer,
                *(step + "\n" for step in problem.steps),
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

    def encode_all(self, problems: Sequence[Problem], *, max_length: int | None = None) -> tuple[list[Encoded], int]:
        """Encode problems and leave out those longer than `max_length` tokens.

        Returns:
            The encoded problems, and how many were too long.

        Raises:
            UserError: if no problem fits.
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
