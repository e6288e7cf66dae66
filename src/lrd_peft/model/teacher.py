"""The teacher: learns to think first; its hidden states are distilled."""

from __future__ import annotations

from typing import ClassVar

from lrd_peft.model.fingerprints import fingerprint_tokenizer, fingerprint_weights
from lrd_peft.model.thinking_model import ThinkingModel


class TeacherModel(ThinkingModel):
    """The model that learns to think first. Its hidden states are distilled into a student.

    Arguments and attributes are those of `ThinkingModel`.

    Example:
        >>> from lrd_peft import TeacherModel
        >>> teacher = TeacherModel("tiny-teacher")
        >>> teacher.hidden_size
        80
    """

    _RUN_PARTS: ClassVar[tuple[str, ...]] = ("teacher/latent", "teacher/cot")

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints that bind a store to this teacher.

        Returns:
            "teacher": hash of the weights, including adapters and projection. "tokenizer": hash of the tokenizer.
        """
        return {
            "teacher": fingerprint_weights(self),
            "tokenizer": fingerprint_tokenizer(self.tokenizer),
        }
