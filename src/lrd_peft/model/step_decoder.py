"""An auxiliary decoder that writes steps from thoughts, in training only (SIM-CoT).

    inputs    t_1 ... t_c   E(w_1) ... E(w_{n-1})      t: the thoughts of a step; w: its text and the end token
    labels            w_1   w_2    ... w_n             E: token embeddings of the model that thinks

(SIM-CoT, Wei et al., arXiv 2509.20317.) The decoder is a second causal LM with weights of its own. It reads thoughts
as they are fed back, so gradients flow through them, and it is dropped after the training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import Self

from lrd_peft.config.choices import DecoderForm, check_choice
from lrd_peft.data.collate import IGNORED
from lrd_peft.model.inspection import unwrap
from lrd_peft.model.parts import decoder_of, head_logits
from lrd_peft.model.paths import paths_of


class StepDecoder(nn.Module):
    """A causal LM that must write each step from the thoughts that stand for it.

    Args:
        lm: Causal LM of the thinking model's width and tokens. All of it is trained, except an embedding table that is
            not tied to the head: the tokens are embedded by the thinking model.
        form: `curriculum` (SIM-CoT on Coconut: positions count from 1, dropout is off, each of the rising number of
            thoughts is decoded) or `both-paths` (on CODI: positions count from 0, and the thought that the last slot
            would feed back is decoded too).
        num_groups: Number of sums that `forward` returns.
        thoughts_per_group: Thoughts that stand for one step.

    Raises:
        UserError: If the form is unknown.
    """

    def __init__(self, lm: nn.Module, *, form: DecoderForm, num_groups: int, thoughts_per_group: int = 1) -> None:
        super().__init__()
        check_choice("form", form, DecoderForm)
        assert num_groups >= 1 and thoughts_per_group >= 1
        self.lm = lm.requires_grad_(True)
        self.form = form
        self.num_groups, self.thoughts_per_group = num_groups, thoughts_per_group
        inner = unwrap(lm)
        table, head = inner.get_input_embeddings(), inner.get_output_embeddings()
        if head is None or table.weight is not head.weight:
            table.requires_grad_(False)  # never used

    @property
    def reads_next_thought(self) -> bool:
        """Whether the thought after the last slot is decoded too."""
        return self.form == "both-paths"

    def train(self, mode: bool = True) -> Self:
        """Set the mode. On the curriculum the decoder has no dropout, as in the authors' code."""
        return super().train(mode and self.form == "both-paths")

    def forward(
        self,
        embed: nn.Module,
        thoughts: Float[Tensor, "batch thought hidden"],
        *,
        labels: Int[Tensor, "step word"],
        places: Int[Tensor, "step 2"],
        groups: Int[Tensor, " step"],
    ) -> Float[Tensor, " group"]:
        """Compute the summed cross-entropy of steps, by group.

        Args:
            embed: Token embeddings of the thinking model.
            thoughts: Its thoughts.
            labels: Tokens of the steps, right-padded with -100.
            places: Row and slot of each step's last thought.
            groups: Group of each step; one of `num_groups` or more counts nothing.

        Returns:
            For each group the sum over all tokens of its steps, at least float32.
        """
        last = torch.arange(1 - self.thoughts_per_group, 1, device=places.device)
        first = thoughts[places[:, :1], places[:, 1:] + last]
        # Padding may be any token and needs no mask: it comes after everything that a label attends to.
        words = embed(labels[:, :-1].clamp(min=0))
        inputs = torch.cat([first.to(words.dtype), words], dim=1).to(unwrap(self.lm).dtype)
        options = {}
        if self.form == "curriculum" and not paths_of(self.lm).rows_apart:
            options["position_ids"] = torch.arange(1, inputs.shape[1] + 1, device=inputs.device).expand(len(inputs), -1)
        hidden = decoder_of(self.lm)(inputs_embeds=inputs, use_cache=False, **options).last_hidden_state
        labelled = labels != IGNORED
        logits = head_logits(self.lm, hidden[:, self.thoughts_per_group - 1 :][labelled])
        losses = F.cross_entropy(logits, labels[labelled], reduction="none")
        of_group = groups[:, None].expand_as(labels)[labelled]
        members = of_group[:, None] == torch.arange(self.num_groups, device=of_group.device)
        return torch.where(members, losses[:, None], 0.0).sum(dim=0)
