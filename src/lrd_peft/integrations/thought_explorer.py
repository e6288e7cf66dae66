"""What the playground shows: one question answered with a model's own thoughts and with changed ones, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.ablation import FILLER
from lrd_peft.evaluation.probing import Reader, fit_reader
from lrd_peft.model.generation import answer_batch
from lrd_peft.model.inspection import context_length
from lrd_peft.model.loop import Thinking, head_logits, unwrap
from lrd_peft.model.prompts import think_about
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.probe import states_of, step_results
from lrd_peft.runtime.errors import UserError

CHANGES = {
    "own": "its own",
    "none": "none at all",
    "zeros": "zeros",
    "noise": "noise of the same norm",
    "filler": "a filler token in every slot",
    "first": "the first one in every slot",
    "other": "another question's",
}
"""What the thoughts can be -> in words."""


@dataclass(frozen=True, slots=True)
class ReadThought:
    """One thought.

    Attributes:
        norm: Its norm.
        tokens: What the LM head ranks highest in it, with probabilities.
        read: Quantity -> what a linear probe reads after its slot.
    """

    norm: float
    tokens: tuple[tuple[str, float], ...]
    read: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and the thoughts before it.

    Attributes:
        text: What was written.
        answer: What stands behind the marker.
        probability: Joint probability of what was written.
        thoughts: The thoughts.
        num_passes: Sequential model passes.
    """

    text: str
    answer: str
    probability: float
    thoughts: tuple[ReadThought, ...]
    num_passes: int


class ThoughtExplorer:
    """Answers questions with own and with changed thoughts, and reads the thoughts.

    Args:
        model: Model that thinks, in evaluation mode.
        probed: Problems to fit probes on, some hundreds; none: no probes.
        dataset: Name of their data set.
        max_new_tokens: Tokens of an answer, at most.
        seed: Seed of the noise.

    Attributes:
        readers: Quantity -> for each slot the probe that reads it; None where the problems were too few.
    """

    def __init__(
        self,
        model: ThinkingModel,
        *,
        probed: Sequence[Problem] = (),
        dataset: str = "",
        max_new_tokens: int = 48,
        seed: int = 0,
    ) -> None:
        if model.options.num_thoughts == 0:
            raise UserError(f"{model.name} has no thoughts to play with: it was trained with 0")
        self.model, self.max_new_tokens, self.seed = model, max_new_tokens, seed
        self.readers: dict[str, list[Reader | None]] = {}
        if probed:
            found = states_of(model, probed, label="states for the probes")
            for name, values in step_results(found.problems, dataset=dataset).items():
                # Position 0 is the question's last.
                slots = range(1, model.options.num_thoughts + 1)
                readers = [fit_reader(found.states, values, position=slot) for slot in slots]
                if any(readers):
                    self.readers[name] = readers

    @torch.no_grad()
    def answer(
        self, question: str, *, change: str = "own", num_thoughts: int | None = None, other: str = ""
    ) -> Answered:
        """Answer a question.

        Args:
            question: The question.
            change: What the thoughts are: a key of `CHANGES`.
            num_thoughts: Number of thoughts; None for the model's own.
            other: The question whose thoughts are taken, where `change` is "other".

        Raises:
            UserError: If a question is empty or does not fit into the model's context.
        """
        count = self.model.options.num_thoughts if num_thoughts is None else num_thoughts
        if change == "none":
            count = 0
        forced = None if change in ("own", "none") else self._changed(question, change, count, other)
        (row,) = answer_batch(
            self.model,
            [question],
            thinking=True,
            max_new_tokens=self.max_new_tokens,
            force_marker=self.model.options.force_marker,
            num_thoughts=count,
            thoughts=forced,
        )
        text = str(self.model.tokenizer.decode(list(row.tokens), skip_special_tokens=True))
        if self.model.options.force_marker:
            text = self.model.encoder.answer_marker + text
        probability = 1.0
        for each in row.probabilities:
            probability *= each
        return Answered(
            text=text,
            answer=text.rpartition(self.model.encoder.shown_marker)[2].strip(),
            probability=probability,
            thoughts=self._read(self._think(question, count, forced, every_layer=True), count),
            num_passes=row.num_passes,
        )

    def _changed(self, question: str, change: str, count: int, other: str) -> Tensor:
        if change == "other":
            return self._think(other, count, None, what="other question").thoughts
        own = self._think(question, count, None).thoughts
        if change == "zeros":
            return torch.zeros_like(own)
        if change == "first":
            return own[:, :1].expand_as(own)
        if change == "noise":
            noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(self.seed)).to(own)
            return noise / noise.norm(dim=-1, keepdim=True) * own.norm(dim=-1, keepdim=True)
        assert change == "filler", change
        token = self.model.tokenizer.encode(FILLER, add_special_tokens=False)[-1]
        table = unwrap(self.model.lm).get_input_embeddings()
        return table(torch.full((1, count), token, device=own.device))

    def _think(
        self, question: str, count: int, forced: Tensor | None, *, every_layer: bool = False, what: str = "question"
    ) -> Thinking:
        model = self.model
        if not question.strip():
            raise UserError(f"the {what} is empty; type one or take a problem")
        marker = model.encoder.marker if model.options.force_marker else ()
        prompt, suffix = model.around_thoughts(model.encoder.prompt(question), marker, num_thoughts=count)
        total, context = len(prompt) + count + len(suffix), context_length(unwrap(model.lm).config)
        if context is not None and total >= context:
            raise UserError(f"the {what} makes {total} tokens with its thoughts; the model takes {context}")
        layers = sorted({each.layer for row in self.readers.values() for each in row if each}) if every_layer else ()
        return think_about(model, [(prompt, suffix)], num_thoughts=count, layers=layers, forced=forced).thinking

    def _read(self, thinking: Thinking, count: int) -> tuple[ReadThought, ...]:
        if count == 0:
            return ()
        # Index j of `last` predicts what follows slot j, so slot j's own state is at j + 1.
        best = head_logits(self.model.lm, thinking.last[:, :count]).float().softmax(dim=-1).topk(3, dim=-1)
        found = []
        for slot in range(count):
            tokens = [str(self.model.tokenizer.decode([token])) for token in best.indices[0, slot].tolist()]
            read = {}
            for name, readers in self.readers.items():
                reader = readers[slot] if slot < len(readers) else None
                if reader is not None:
                    # GPT-2's layer 0 holds positions too; layer 0 of a probe is the thought itself.
                    states = thinking.thoughts if reader.layer == 0 else thinking.states[reader.layer]
                    read[name] = reader.read(states[0, slot].float().cpu().numpy())
            found.append(
                ReadThought(
                    norm=float(thinking.thoughts[0, slot].float().norm()),
                    tokens=tuple(zip(tokens, best.values[0, slot].tolist(), strict=True)),
                    read=read,
                )
            )
        return tuple(found)
