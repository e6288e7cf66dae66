"""The settings that decide how a model thinks; saved with its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ThinkingOptions:
    """How a model thinks. Saved with its weights.

    Attributes:
        num_thoughts: Slots between the question and the answer. 0 makes a model that answers in text.
        projection: Module between a hidden state and the next input embedding: none, linear, mlp, or pause (one
            learned embedding in every slot, whatever the hidden state).
        projection_width: Width of the hidden layer of an mlp. None: the model's.
        projection_dropout: Dropout in front of the projection.
        jacobi_passes: Refine all thoughts in parallel this many times. None computes them one after another.
        placeholder: With `jacobi_passes`, start from the hidden states of a pass with the token <latent> in every slot,
            not from the first thought in every slot. Needs `markers`.
        markers: Put <bot> and <eot> around the thoughts.
        empty_markers: Put them where there are no thoughts too.
        marker_init: Text of one token whose embedding new markers start from. None: the mean of all embeddings.
        prompt_style: plain, or chat for the tokenizer's chat template.
        question_end: Text after a plain question.
        step_end: Text after each written step.
        answer_marker: Text before the answer.
        answer_prefix: Text before the answer that is tokenized with it.
        force_marker: Put the answer marker after the thoughts, so that the model answers at once. False: it writes the
            marker itself.

    Example:
        >>> from lrd_peft import ThinkingOptions
        >>> ThinkingOptions(num_thoughts=6).num_thoughts
        6
    """

    num_thoughts: int = 4
    projection: str = "none"
    projection_width: int | None = None
    projection_dropout: float = 0.0
    jacobi_passes: int | None = None
    placeholder: bool = False
    markers: bool = False
    empty_markers: bool = False
    marker_init: str | None = None
    prompt_style: str = "plain"
    question_end: str = "\n"
    step_end: str = "\n"
    answer_marker: str = "### "
    answer_prefix: str = ""
    force_marker: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the options as a JSON object."""
        return asdict(self)
