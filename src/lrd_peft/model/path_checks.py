"""The comparisons of a model's fast ways with the plain definition of thinking; `self_check.py` says when they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lrd_peft.model.inspection import block_count
from lrd_peft.model.loop import think
from lrd_peft.model.parts import decoder_of, head_logits, own_logits
from lrd_peft.model.paths import USES, Paths, trying

# Largest difference from the plain definition, relative to its largest value. In float32 the right ways of all
# architectures differ by up to 1e-4 (hybrids; 1e-6 is usual), wrong ones by 1e-3 and more, most of them by 0.1.
TOLERANCES = {torch.float64: 2e-4, torch.float32: 2e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
CANNOT_RUN = "does not run on input embeddings without a cache"
# Gradients sum many rounding errors; a wrong one differs in its first digit.
_GRADIENT_FACTOR = 50
# Token ids; small, because every vocabulary has them, and ragged. No two rows share a length.
_QUESTIONS = ((5, 9, 2), (7, 3, 11, 4, 8, 6, 10, 2, 12, 5, 9, 3), (9,))
_SUFFIX = (3, 8, 5)
_NUM_THOUGHTS = 3
_LEFT_ROWS = (2, 0)
_TINY = 1_000_000  # parameters of a model whose gradients are all compared


def find_paths(lm: PreTrainedModel) -> Paths:
    """Check every use of a model.

    Args:
        lm: Causal LM with weights; its mode, weights and gradients are left as they are.

    Returns:
        The ways through it, or the reason why there is none.
    """
    was_training = lm.training
    lm.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            return ModelCheck(lm).paths()
    finally:
        lm.train(was_training)


@dataclass(frozen=True, slots=True)
class _Expected:
    """The plain definition's results of one row."""

    last: Tensor
    states: tuple[Tensor, ...]
    logits: Tensor


class ModelCheck:
    """The checks of one model."""

    def __init__(self, lm: PreTrainedModel) -> None:
        self.lm = lm
        self.device = lm.device
        self.tolerance = TOLERANCES.get(lm.dtype, 0.1)
        self.questions = [torch.tensor([row], device=self.device) for row in _QUESTIONS]
        self.suffix = torch.tensor([_SUFFIX], device=self.device)
        longest = max(len(row) for row in _QUESTIONS)
        self.ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in _QUESTIONS], device=self.device)
        self.mask = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in _QUESTIONS], device=self.device
        )
        self.layers: list[int] = []
        self.has_plain_states = True
        self.expected: list[_Expected] = []
        self.expected_gradients: list[Tensor] = []

    def prepare(self) -> str:
        """Compute the plain definition; return why it does not hold for this model, or nothing."""
        with trying(self.lm, Paths()):
            try:
                return self._refusal()
            except Exception as error:  # an architecture may refuse in any way
                return f"{CANNOT_RUN}: {_short(error)}"

    def paths(self) -> Paths:
        """Find the fastest way that holds for each use."""
        if refusal := self.prepare():
            return Paths(refusal=refusal)
        paths = Paths(frozenset(), own_head=not _same_head(self.lm), shallow=False, plain_states=self.has_plain_states)
        if self.difference("think", paths) or self.difference("train", paths):
            paths = replace(paths, rows_apart=True)
            for use in ("think", "train"):
                if difference := self.difference(use, paths):
                    return Paths(refusal=f"differs from its plain definition in use ({use}): {difference}")
        cached = frozenset(
            use for use in USES if not self.difference(use, replace(paths, cached=frozenset({use, "think", "train"})))
        )
        paths = replace(paths, cached=cached)
        return replace(paths, shallow=not self.difference("shallow", replace(paths, shallow=True)))

    def _refusal(self) -> str:
        """Return why the plain definition itself does not hold for this model, or nothing."""
        ids = self.questions[1]
        with torch.no_grad():
            plain = self.lm(input_ids=ids, use_cache=False).logits
            if not plain.isfinite().all():
                return "gives logits that are not finite"
            if not self._close(self.lm(input_ids=ids, use_cache=False).logits, plain):
                return "gives other logits at each call"
            changed = ids.clone()
            changed[0, -1] = 13
            if not self._close(self.lm(input_ids=changed, use_cache=False).logits[:, :-1], plain[:, :-1]):
                return (
                    "is not causal: a later token changes earlier predictions (for BERT-like models set is_decoder in "
                    "the configuration)"
                )
            embedded = self.lm.get_input_embeddings()(ids)
            if not self._close(self.lm(inputs_embeds=embedded, use_cache=False).logits, plain):
                return "reads token ids beside their embeddings, and a thought has no id"
            output = decoder_of(self.lm)(inputs_embeds=embedded, use_cache=False, output_hidden_states=True)
            if not self._close(own_logits(self.lm, output.last_hidden_state), plain):
                return "computes its logits from more than the last hidden states"
            self.layers = list(range(len(output.hidden_states)))
            blocks = block_count(self.lm.config)
            if len(self.layers) != blocks + 1:
                return f"gives {len(self.layers)} hidden states for {blocks} blocks"
            self.has_plain_states = all(state.shape == embedded.shape for state in output.hidden_states)
            if not self.has_plain_states:
                self.layers = self.layers[-1:]
            self.expected = [self._plain(question) for question in self.questions]
        gradient = self._gradients(lambda: self._summed([self._plain(question).last for question in self.questions]))
        if not all(part.isfinite().all() for part in gradient):
            return "gives gradients that are not finite"
        self.expected_gradients = gradient
        return ""

    def _plain(self, question: Tensor) -> _Expected:
        decoder, embed = decoder_of(self.lm), self.lm.get_input_embeddings()
        inputs = embed(question)
        for _ in range(_NUM_THOUGHTS):
            thought = decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
            inputs = torch.cat([inputs, thought], dim=1)
        inputs = torch.cat([inputs, embed(self.suffix)], dim=1)
        output = decoder(inputs_embeds=inputs, use_cache=False, output_hidden_states=True)
        start = question.shape[1]
        last = output.last_hidden_state[0, start - 1 :]
        return _Expected(
            last=last,
            states=tuple(state[0, start:] for state in output.hidden_states),
            logits=own_logits(self.lm, last),
        )

    def difference(self, use: str, paths: Paths) -> str:
        """Return what differs from the plain definition on these ways, or nothing; `prepare` comes before."""
        checks: dict[str, Callable[[], str]] = {
            "think": self._think,
            "train": self._train,
            "parallel": self._parallel,
            "decode": self._decode,
            "shallow": self._shallow,
        }
        with trying(self.lm, paths):
            try:
                return checks[use]()
            except Exception as error:  # an architecture may fail in any way on a path that it does not support
                return _short(error)

    def _run(self, rows: Sequence[int] = (0, 1, 2), **options: Any) -> Any:
        chosen = list(rows)
        mask = self.mask[chosen]
        start = int((mask.cumsum(dim=1) == 0).all(dim=0).sum())
        return think(
            self.lm,
            self.ids[chosen, start:],
            mask[:, start:],
            num_thoughts=_NUM_THOUGHTS,
            suffix_ids=self.suffix.expand(len(chosen), -1),
            **options,
        )

    @torch.no_grad()
    def _think(self) -> str:
        for rows in ((0, 1, 2), (1,)):
            result = self._run(rows, layers=self.layers)
            for place, row in enumerate(rows):
                if not self._close(result.last[place], self.expected[row].last):
                    return "hidden states"
                if not self._close(head_logits(self.lm, result.last[place]), self.expected[row].logits):
                    return "logits"
                for layer in self.layers:
                    if not self._close(result.states[layer][place], self.expected[row].states[layer]):
                        return f"hidden states of layer {layer}"
        return ""

    def _train(self) -> str:
        found = self._gradients(lambda: self._summed(list(self._run().last)))
        return self._other_gradient(found)

    def _parallel(self) -> str:
        result = self._run(jacobi_passes=_NUM_THOUGHTS)
        for place, expected in enumerate(self.expected):
            # Parallel thoughts have no last hidden states at the slots before the last pass, but for the question's.
            if not self._close(result.last[place].detach(), expected.last):
                return "hidden states of parallel thoughts"
        found = self._gradients(lambda: self._summed(list(self._run(jacobi_passes=_NUM_THOUGHTS).last)))
        return self._other_gradient(found)

    @torch.no_grad()
    def _decode(self) -> str:
        kept: list[Any] = []
        self._run(cache_out=kept)
        (sequence,) = kept
        sequence.select(torch.tensor(_LEFT_ROWS, device=self.device))
        decoder, embed = decoder_of(self.lm), self.lm.get_input_embeddings()
        written = torch.tensor([[4], [6]], device=self.device)
        expected = []
        for place, row in enumerate(_LEFT_ROWS):
            inputs = embed(self.questions[row])
            for _ in range(_NUM_THOUGHTS):
                thought = decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
                inputs = torch.cat([inputs, thought], dim=1)
            following = torch.cat([self.suffix, written[place : place + 1], written[place : place + 1]], dim=1)
            output = decoder(inputs_embeds=torch.cat([inputs, embed(following)], dim=1), use_cache=False)
            expected.append(output.last_hidden_state[0, -2:])
        for step in range(2):
            state, _ = sequence.extend(embed(written), torch.ones_like(written), padded=True, keep=False)
            for place in range(len(_LEFT_ROWS)):
                if not self._close(state[place, -1], expected[place][step]):
                    return "hidden states after rows have left"
        return ""

    @torch.no_grad()
    def _shallow(self) -> str:
        # Twice: transformers installs what captures hidden states on first use.
        for layer in {self.layers[1], self.layers[-2]} if self.has_plain_states else ():
            for _ in range(2):
                result = self._run(layers=[layer], states_only=True)
                for place, expected in enumerate(self.expected):
                    if not self._close(result.states[layer][place], expected.states[layer]):
                        return f"hidden states of layer {layer}"
        return self._think()

    def _summed(self, lasts: Sequence[Tensor]) -> Tensor:
        """Return a scalar whose gradient tells positions and dimensions apart."""
        size = lasts[0].numel()
        weights = torch.linspace(0.5, 1.5, size, device=self.device, dtype=lasts[0].dtype).reshape(lasts[0].shape)
        return torch.stack([(last * weights).float().sum() + (last.float() ** 2).sum() for last in lasts]).sum()

    def _gradients(self, loss: Callable[[], Tensor]) -> list[Tensor]:
        """Return the gradients of the embeddings, and of all weights if the model is tiny."""
        tiny = sum(parameter.numel() for parameter in self.lm.parameters()) < _TINY
        wanted: list[Any] = list(self.lm.parameters()) if tiny else [_weight(self.lm)]
        wanted = [part for part in wanted if part.is_floating_point()]
        required = [part.requires_grad for part in wanted]
        for part in wanted:
            part.requires_grad_(True)
        try:
            with torch.enable_grad():
                found = torch.autograd.grad(loss(), wanted, allow_unused=True)
        finally:
            for part, was in zip(wanted, required, strict=True):
                part.requires_grad_(was)
        return [torch.zeros_like(part) if grad is None else grad for part, grad in zip(wanted, found, strict=True)]

    def _other_gradient(self, found: Sequence[Tensor]) -> str:
        largest = max(float(part.abs().max()) for part in self.expected_gradients)
        for ours, expected in zip(found, self.expected_gradients, strict=True):
            # Against the largest of all, because a gradient may be zero but for rounding.
            scale = max(float(expected.abs().max()), 1e-2 * largest)
            if not float((ours - expected).abs().max()) <= _GRADIENT_FACTOR * self.tolerance * scale:
                return "gradients"
        return ""

    def _close(self, found: Tensor, expected: Tensor) -> bool:
        if found.shape != expected.shape:
            return False
        difference = (found.float() - expected.float()).abs().max()
        return bool(difference <= self.tolerance * expected.float().abs().max().clamp(min=1e-3))


def _weight(lm: PreTrainedModel) -> Any:
    embeddings: Any = lm.get_input_embeddings()
    return embeddings.weight


@torch.no_grad()
def _same_head(lm: PreTrainedModel) -> bool:
    """Return whether our head gives the logits of the model's own forward pass."""
    width = lm.config.get_text_config().hidden_size
    hidden = torch.linspace(-1, 1, 2 * width, device=lm.device, dtype=lm.dtype).reshape(1, 2, width)
    with trying(lm, Paths()):
        own = own_logits(lm, hidden)
        try:
            ours = head_logits(lm, hidden)
        except Exception:  # a head that is not ours may fail in any way
            return False
    tolerance = TOLERANCES.get(lm.dtype, 0.1)
    return ours.shape == own.shape and bool((ours - own).abs().max() <= tolerance * own.abs().max().clamp(min=1e-6))


def _short(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return f"{type(error).__name__}: {text.splitlines()[0][:160]}"
