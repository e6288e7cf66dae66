"""A causal LM with a thinking loop: its tokenizer, markers and projection, and one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lrd_peft.data.collate import IGNORED, split_rows, suffix_mask
from lrd_peft.data.encoding import Encoder
from lrd_peft.model import fused
from lrd_peft.model.block_checkpoints import set_checkpointing
from lrd_peft.model.fingerprints import fingerprint_base
from lrd_peft.model.inspection import block_count, hidden_size
from lrd_peft.model.loading.lm import check_vocabulary, load_lm
from lrd_peft.model.loop import Thinking, gather_positions, head_logits, think, unwrap
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.paths import paths_of
from lrd_peft.model.projection import PauseToken, make_projection
from lrd_peft.model.step_decoder import StepDecoder
from lrd_peft.model.step_loss import summed_step_loss
from lrd_peft.model.thinking_output import ThinkingOutput as ThinkingOutput
from lrd_peft.model.thinking_output import summed_outputs
from lrd_peft.runtime.errors import UserError

# Parts of the names of parameters that an adapter adds or replaces.
_ADAPTER_PARTS = ("lora_", "token_adapter", "original_module")


class ThinkingCore(nn.Module):
    """A causal LM with a thinking loop, without files: see `ThinkingModel`.

    Args:
        model: Name of a base model (see `load_lm`), or a transformers model.
        tokenizer: Tokenizer of a model object, with a pad token. A named model brings its own.
        options: How the model thinks.
        fuse_activations: Replace GPT-2's GELU by an equal, faster module. By default this happens to models loaded by
            name and leaves model objects unchanged.
        load_options: For a named model, keyword arguments of `load_lm`: device, dtype, revision, trust_remote_code,
            quantization, keep_blocks, teacher, attn_implementation.

    Attributes:
        name: Name of the model.
        source: Where the weights came from, in words.
        notes: Choices made at load that a user should know.
        kept_blocks: Blocks that depth pruning kept; None if it dropped none.
        base: Name of the model that an adapter would belong on.
        base_options: Options that load this base again.
        base_weights: Fingerprint of the base.
        step_decoder: Auxiliary decoder of the steps while a training uses one; never saved.

    Raises:
        UserError: If the model cannot be loaded, or an argument does not fit.
    """

    lm: nn.Module

    def __init__(
        self,
        model: str | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        options: ThinkingOptions | None = None,
        fuse_activations: bool | None = None,
        **load_options: Any,
    ) -> None:
        super().__init__()
        self.notes: tuple[str, ...] = ()
        if isinstance(model, str):
            if tokenizer is not None:
                raise UserError(
                    f'tokenizer= belongs to a model object; "{model}" is a name and brings its own tokenizer'
                )
            loaded = load_lm(model, **load_options)
            self.name, self.source, self.notes = model, loaded.source, loaded.notes
            self.lm, self.tokenizer = loaded.lm, loaded.tokenizer
            self.kept_blocks = loaded.kept_blocks
        else:
            if tokenizer is None:
                raise UserError("a model object needs its tokenizer; pass tokenizer=")
            if load_options:
                raise UserError(
                    f"a model object is loaded already, so {', '.join(sorted(load_options))} would have no effect; "
                    "pass the model's name, or set this on the object"
                )
            self.name = self.source = str(model.config.name_or_path or type(model).__name__)
            check_vocabulary(model, tokenizer, name=self.name)
            self.lm, self.tokenizer, self.kept_blocks = model, tokenizer, None
        self.notes = (*self.notes, *paths_of(self.lm).notes())
        if isinstance(model, str) if fuse_activations is None else fuse_activations:
            fused.fuse_activations(self.lm)
        self.load_options = load_options
        self.step_decoder: StepDecoder | None = None
        # `name` may be where full weights started from; `base` is where they are now.
        self.base, self.base_options = self.name, load_options
        # Taken before markers and adapters change the model: an adapter is bound to this base.
        self.base_weights = fingerprint_base(unwrap(self.lm))
        self.options = options or ThinkingOptions()
        self.encoder = Encoder(
            self.tokenizer,
            prompt_style=self.options.prompt_style,
            question_end=self.options.question_end,
            step_end=self.options.step_end,
            answer_marker=self.options.answer_marker,
            answer_prefix=self.options.answer_prefix,
        )
        self.new_token_ids: tuple[int, ...] = ()
        if self.options.placeholder and not self.options.markers:
            raise UserError(
                "placeholder needs markers: the thoughts start from the token <latent> between <bot> and <eot>"
            )
        if self.options.markers:
            self._add_markers()
        projection = self._new_projection()
        self.projection = None if projection is None else projection.to(self.device)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return hidden_size(unwrap(self.lm).config)

    @property
    def num_blocks(self) -> int:
        """Number of decoder blocks."""
        return block_count(unwrap(self.lm).config)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.lm.parameters()).device

    @property
    def has_adapters(self) -> bool:
        """Whether the LM carries PEFT adapters."""
        return isinstance(self.lm, PeftModel)

    def _new_projection(self) -> nn.Module | None:
        options = self.options
        if options.projection == "pause":
            table: Any = unwrap(self.lm).get_input_embeddings()
            return PauseToken(table.weight[: len(self.tokenizer)].float().mean(dim=0))
        return make_projection(
            options.projection, self.hidden_size, width=options.projection_width, dropout=options.projection_dropout
        )

    def _add_markers(self) -> None:
        """Add <bot> and <eot> to the tokenizer, and embeddings for them to the model, where they are missing."""
        before = set(self.tokenizer.get_vocab())
        # The tokenizer's own special tokens stay.
        self.tokenizer.add_special_tokens(
            {"additional_special_tokens": list(self._marker_names)}, replace_extra_special_tokens=False
        )
        self.new_token_ids = tuple(
            token_id
            for token, token_id in zip(self._marker_names, self._marker_ids, strict=True)
            if token not in before
        )
        inner: Any = unwrap(self.lm)
        num_before = inner.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > num_before:
            inner.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
            # The mean of the others: identical every time an adapter's base is rebuilt.
            with torch.no_grad():
                for layer in (inner.get_input_embeddings(), inner.get_output_embeddings()):
                    layer.weight[num_before:] = layer.weight[:num_before].mean(dim=0)
        if self.options.marker_init is not None and self.new_token_ids:
            source = self._only_token(self.options.marker_init)
            with torch.no_grad():
                for layer in (inner.get_input_embeddings(), inner.get_output_embeddings()):
                    for token_id in self.new_token_ids:
                        layer.weight[token_id] = layer.weight[source]

    def _only_token(self, text: str) -> int:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(
                f"marker_init is {text!r}, which is {len(ids)} tokens to {self.name}; name a text of one token, or "
                "leave it out"
            )
        return int(ids[0])

    @property
    def _marker_names(self) -> tuple[str, ...]:
        return ("<bot>", "<eot>", "<latent>") if self.options.placeholder else ("<bot>", "<eot>")

    @property
    def _marker_ids(self) -> tuple[int, ...]:
        ids = self.tokenizer.convert_tokens_to_ids(list(self._marker_names))
        assert isinstance(ids, list)
        return tuple(ids)

    @property
    def placeholder_id(self) -> int | None:
        """Token that fills the slots before they are refined in parallel; None without one."""
        return self._marker_ids[2] if self.options.placeholder and self.options.jacobi_passes is not None else None

    def around_thoughts(
        self, question: Sequence[int], suffix: Sequence[int], *, num_thoughts: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of question and suffix, with the markers that this model puts around so many thoughts."""
        if not self.options.markers or (num_thoughts == 0 and not self.options.empty_markers):
            return tuple(question), tuple(suffix)
        bot, eot = self._marker_ids[:2]
        return (*question, bot), (eot, *suffix)

    def forward(
        self,
        *,
        question_ids: Int[Tensor, "batch question"],
        question_mask: Int[Tensor, "batch question"],
        suffix_ids: Int[Tensor, "batch suffix"],
        labels: Int[Tensor, "batch predicted"],
        answer_start: Int[Tensor, " batch"],
        num_thoughts: int,
        row_thoughts: Int[Tensor, " batch"] | None = None,
        index: Int[Tensor, " batch"] | None = None,
        step_labels: Int[Tensor, "step word"] | None = None,
        step_places: Int[Tensor, "step 2"] | None = None,
        step_groups: Int[Tensor, " step"] | None = None,
        layers: Sequence[int] = (),
        positions: str = "thoughts+answer",
        forced: Float[Tensor, "batch thought hidden"] | None = None,
        start: Float[Tensor, "batch thought hidden"] | None = None,
        refine_passes: int = 1,
        with_loss: bool = True,
        with_logits: bool = False,
    ) -> ThinkingOutput:
        """Think through a batch (see `lrd_peft.data.collate.Batch`); compute the loss and collect hidden states.

        Args:
            question_ids: Token ids of the questions, left-padded.
            question_mask: 1 on tokens, 0 on padding.
            suffix_ids: Token ids after the slots, right-padded.
            labels: Suffix ids, -100 where no label is wanted.
            answer_start: Index in the suffix of the answer's first token.
            num_thoughts: Slots between question and suffix.
            row_thoughts: Slots of each row, where rows have numbers of their own: rows with equal numbers then run
                together, one number after the other, and the output has neither states nor thoughts.
            index: Positions of the problems in their data set; unused here.
            step_labels: Steps that thoughts must write, right-padded with -100.
            step_places: Row and slot of each step's thought.
            step_groups: Group of each step, for the auxiliary decoder.
            layers: Layer indices of the hidden states to return.
            positions: Positions to return them at. "thoughts" are the slots, "thoughts+answer" adds the position that
                predicts the answer's first token, "all" is every position; its mask excludes padding and the first
                token, an attention sink.
            forced: Inputs to use at the slots instead of the model's own thoughts.
            start: Inputs from which the model's own thoughts are refined in parallel, not computed one by one.
            refine_passes: Passes of this refinement.
            with_loss: Compute the loss.
            with_logits: Return the logits at labeled positions.

        Returns:
            Loss, hidden states and thoughts.
        """
        if row_thoughts is not None:
            assert not layers and not with_logits, "states and logits need equal numbers of thoughts"
            assert forced is None and start is None, "given thoughts need equal numbers of thoughts"
            parts = split_rows(
                row_thoughts,
                {
                    "question_ids": question_ids,
                    "question_mask": question_mask,
                    "suffix_ids": suffix_ids,
                    "labels": labels,
                    "answer_start": answer_start,
                },
                step_labels=step_labels,
                step_places=step_places,
                step_groups=step_groups,
            )
            return summed_outputs([self(**part, with_loss=with_loss) for part in parts])
        keep_all = positions == "all"
        thinking = think(
            self.lm,
            question_ids,
            question_mask,
            num_thoughts=num_thoughts,
            suffix_ids=suffix_ids,
            layers=layers,
            keep_question=keep_all,
            projection=self.projection,
            forced=forced,
            jacobi_passes=self.options.jacobi_passes if start is None else refine_passes,
            start=start,
            placeholder_id=self.placeholder_id,
            states_only=not (with_loss or with_logits),
        )
        if 0 in thinking.states:
            # The thought itself at each slot: some architectures (GPT-2) add its position in their layer 0.
            before = question_ids.shape[1] if keep_all else 0
            inputs = thinking.states[0]
            parts = [inputs[:, :before], thinking.thoughts, inputs[:, before + num_thoughts :]]
            thinking.states[0] = torch.cat(parts, dim=1)
        step_loss = step_sums = None
        if step_groups is not None and step_labels is not None and step_places is not None:
            step_sums = self._decoded(thinking, labels=step_labels, places=step_places, groups=step_groups)
        elif step_labels is not None and step_places is not None:
            step_loss = summed_step_loss(self.lm, thinking.thoughts, labels=step_labels, places=step_places)
        labelled = labels != IGNORED
        loss = thinking.last.new_zeros((), dtype=torch.float32)
        logits = None
        if with_loss or with_logits:
            predicting = thinking.last[:, num_thoughts : num_thoughts + labels.shape[1]]
            if with_logits:
                logits = head_logits(self.lm, predicting[labelled])
            if with_loss and logits is not None:
                loss = F.cross_entropy(logits, labels[labelled], reduction="sum")
            elif with_loss:
                loss = fused.summed_cross_entropy(self.lm, predicting[labelled], labels[labelled])
        if keep_all:
            first_token = (question_mask.cumsum(dim=1) == 1) & (question_mask == 1)
            slot_part = torch.ones_like(question_mask[:, :1], dtype=torch.bool).expand(-1, num_thoughts)
            tokens = suffix_mask(labels, answer_start)
            valid = torch.cat([question_mask == 1, slot_part, tokens], dim=1)
            mask = torch.cat([(question_mask == 1) & ~first_token, slot_part, tokens], dim=1)
            states = thinking.states
        else:
            where = torch.arange(num_thoughts, device=answer_start.device).expand(len(answer_start), -1)
            if positions == "thoughts+answer":
                where = torch.cat([where, (num_thoughts + answer_start - 1)[:, None]], dim=1)
            mask = valid = torch.ones_like(where, dtype=torch.bool)
            states = {layer: gather_positions(state, where) for layer, state in thinking.states.items()}
        return ThinkingOutput(
            loss_sum=loss,
            num_labels=labelled.sum(),
            states=states,
            valid=valid,
            mask=mask,
            thoughts=thinking.thoughts,
            logits=logits,
            step_loss_sum=step_loss,
            step_sums=step_sums,
        )

    def _decoded(self, thinking: Thinking, **steps: Tensor) -> Float[Tensor, " group"]:
        assert self.step_decoder is not None, "steps in groups are for an auxiliary decoder"
        thoughts, num_thoughts = thinking.thoughts, thinking.thoughts.shape[1]
        if self.step_decoder.reads_next_thought:
            following = thinking.last[:, num_thoughts : num_thoughts + 1]
            following = following if self.projection is None else self.projection(following)
            thoughts = torch.cat([thoughts, following.to(thoughts.dtype)], dim=1)
        return self.step_decoder(unwrap(self.lm).get_input_embeddings(), thoughts, **steps)

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        *,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Compute blocks again in the backward pass of a training, which takes less memory and more time.

        Args:
            activation_checkpointing_kwargs: Has no effect: torch's checkpointing without reentry is used.
            every_n_layers: Must be 1.
            offload: Must be False.

        Raises:
            UserError: If an option is not supported.
        """
        if every_n_layers != 1 or offload:
            raise UserError(
                f"gradient checkpointing with every_n_layers={every_n_layers} and offload={offload} is not supported: "
                "each block is computed again; leave both out"
            )
        set_checkpointing(unwrap(self.lm), on=True)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Do the same, under transformers' older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Keep the activations of all blocks again."""
        set_checkpointing(unwrap(self.lm), on=False)

    def num_parameters(self, *, trainable: bool = False) -> int:
        """Count parameters, tied weights once.

        Args:
            trainable: Count those that require a gradient, including LoRA adapters and projectors, without an
                auxiliary decoder. Otherwise count those of the model that answers: an adapter can be merged and adds
                none.
        """
        if trainable:
            return sum(p.numel() for p in self._kept_parameters() if p.requires_grad)
        modules = [self.lm] if self.projection is None else [self.lm, self.projection]
        named = [pair for module in modules for pair in module.named_parameters()]
        return sum(p.numel() for name, p in named if not any(part in name for part in _ADAPTER_PARTS))

    def _kept_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if not name.startswith("step_decoder.")]
