"""A causal language model that thinks in continuous thoughts before it answers.

    positions   q_1 ... q_Q   s_1 ... s_N   x_1 ... x_S        question, slots, answer marker
    inputs      E(q)          t_1 ... t_N   E(x)               E: token embeddings
    thoughts    t_1 = f(h(q_Q)),  t_j = f(h(s_{j-1}))          h: last hidden state, f: projection

(COCONUT, arXiv 2412.06769.) Written by `lrd export` of LRD-PEFT. Needs transformers and torch.

    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
    inputs = tokenizer(["What is 2 + 3?\n"], return_tensors="pt", padding=True)
    print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=16), skip_special_tokens=True))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel


class ThinkingLMConfig(PretrainedConfig):
    """How the model thinks, and the configuration of its language model.

    Attributes:
        language_model: Configuration of the language model.
        num_thoughts: Slots between question and answer.
        before: Token ids that follow the question.
        after: Token ids that follow the thoughts, the answer marker among them.
        shown: How many of the last of these are part of the returned text.
        projection: Module between a hidden state and the thought: none, linear, mlp or pause.
        projection_width: Width of the hidden layer of an mlp.
        parallel_passes: Refine all thoughts in parallel this many times; None computes them one after another.
        placeholder: Token in every slot of a pass before the refinement; None starts from the first thought.
    """

    model_type = "lrd_thinking"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        language_model: dict[str, Any] | None = None,
        num_thoughts: int = 0,
        before: list[int] | None = None,
        after: list[int] | None = None,
        shown: int = 0,
        projection: str = "none",
        projection_width: int | None = None,
        parallel_passes: int | None = None,
        placeholder: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.language_model = language_model or {}
        self.num_thoughts = num_thoughts
        self.before, self.after, self.shown = before or [], after or [], shown
        self.projection, self.projection_width = projection, projection_width
        self.parallel_passes, self.placeholder = parallel_passes, placeholder
        super().__init__(**kwargs)

    def inner(self) -> Any:
        """Return the configuration of the language model."""
        values = dict(self.language_model)
        return AutoConfig.for_model(values.pop("model_type"), **values)


class Projection(nn.Module):
    """The module between a hidden state and the thought that it becomes."""

    def __init__(self, kind: str, size: int, width: int | None) -> None:
        super().__init__()
        self.kind = kind
        if kind == "pause":
            self.embedding = nn.Parameter(torch.zeros(size))
        elif kind == "linear":
            self.layers = nn.Sequential(nn.Linear(size, size))
        elif kind == "mlp":
            inner = width or size
            self.layers = nn.Sequential(nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, size), nn.LayerNorm(size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states to thoughts."""
        if self.kind == "none":
            return hidden
        if self.kind == "pause":
            return self.embedding.to(hidden.dtype).expand(hidden.shape)
        return self.layers(hidden.to(next(self.layers.parameters()).dtype)).to(hidden.dtype)


class ThinkingForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model whose `generate` thinks first."""

    config_class = ThinkingLMConfig
    base_model_prefix = "language_model"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True

    def __init__(self, config: ThinkingLMConfig) -> None:
        super().__init__(config)
        inner = config.inner()
        self.language_model = AutoModelForCausalLM.from_config(inner)
        self.projection = Projection(config.projection, inner.hidden_size, config.projection_width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave weights as they are: all of them are loaded."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.language_model.get_output_embeddings()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the language model, without thoughts."""
        return self.language_model(*args, **kwargs)

    @torch.no_grad()
    def prompt_embeds(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, num_thoughts: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs after which the language model answers: question, thoughts and answer marker.

        Args:
            input_ids: Token ids of the questions, padded on the left.
            attention_mask: 1 on tokens, 0 on padding. By default everything but the pad token counts.
            num_thoughts: Instead of the model's own number.

        Returns:
            Embeddings of shape [batch, position, hidden], and their attention mask.
        """
        count = self.config.num_thoughts if num_thoughts is None else num_thoughts
        if attention_mask is None:
            pad = self.generation_config.pad_token_id
            attention_mask = torch.ones_like(input_ids) if pad is None else (input_ids != pad).long()
        if not bool(attention_mask[:, -1].all()):
            raise ValueError('pad on the left: set tokenizer.padding_side = "left"')
        ids = self._append(input_ids, self.config.before if count else [])
        mask = self._append(attention_mask, [1] * (ids.shape[1] - attention_mask.shape[1]))
        embed = self.get_input_embeddings()
        inputs = embed(ids)
        if count:
            thoughts = self._thoughts(inputs, mask, count)
            inputs = torch.cat([inputs, thoughts], dim=1)
            mask = self._append(mask, [1] * count)
            inputs = torch.cat([inputs, embed(self._append(ids[:, :0], self.config.after))], dim=1)
            mask = self._append(mask, [1] * len(self.config.after))
        return inputs, mask

    def _append(self, rows: Tensor, values: list[int]) -> Tensor:
        tail = torch.tensor(values, dtype=rows.dtype, device=rows.device).expand(rows.shape[0], -1)
        return torch.cat([rows, tail], dim=1)

    def _hidden(self, inputs: Tensor, mask: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Return the last hidden states of the inputs, which continue the cached ones, and the cache."""
        position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        output = self.language_model.base_model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True
        )
        return output.last_hidden_state, output.past_key_values

    def _thoughts(self, question: Tensor, mask: Tensor, count: int) -> Tensor:
        hidden, cache = self._hidden(question, mask)
        found = [self.projection(hidden[:, -1:])]
        if self.config.parallel_passes is not None:
            return self._refined(question, mask, found[0], count)
        while len(found) < count:
            mask = self._append(mask, [1])
            hidden, cache = self._hidden(found[-1], mask, cache)
            found.append(self.projection(hidden))
        return torch.cat(found, dim=1)

    def _refined(self, question: Tensor, mask: Tensor, first: Tensor, count: int) -> Tensor:
        """Refine all thoughts in parallel (PCCoT, arXiv 2506.18582), each pass over question and slots."""
        mask = self._append(mask, [1] * count)

        def after(slots: Tensor) -> Tensor:
            hidden, _ = self._hidden(torch.cat([question, slots], dim=1), mask)
            return torch.cat([first, self.projection(hidden[:, -count:-1])], dim=1)

        thoughts = first.expand(-1, count, -1)
        if self.config.placeholder is not None and count > 1:
            ids = torch.full_like(mask[:, :count], self.config.placeholder)
            thoughts = after(self.get_input_embeddings()(ids))
        for _ in range(self.config.parallel_passes - 1):
            thoughts = after(thoughts)
        return thoughts

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        num_thoughts: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Think about each question, then write as transformers' `generate` does.

        Args:
            inputs: Token ids of the questions, padded on the left; also as `input_ids`.
            attention_mask: 1 on tokens, 0 on padding.
            num_thoughts: Instead of the model's own number.
            kwargs: Passed on to the language model's `generate`.

        Returns:
            Question, answer marker and what was written, as token ids; or what `return_dict_in_generate` gives.
        """
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if ids is None:
            raise ValueError("generate needs input_ids: the token ids of the questions")
        self.language_model.generation_config = self.generation_config
        embeds, mask = self.prompt_embeds(ids, attention_mask, num_thoughts)
        output = self.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **kwargs)
        written = output if isinstance(output, Tensor) else output.sequences
        thinks = embeds.shape[1] > ids.shape[1]
        shown = self.config.after[len(self.config.after) - self.config.shown :] if thinks else []
        prompts = self._append(ids, shown).repeat_interleave(written.shape[0] // ids.shape[0], dim=0)
        whole = torch.cat([prompts, written], dim=1)
        if isinstance(output, Tensor):
            return whole
        output.sequences = whole
        return output
