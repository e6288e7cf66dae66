"""A model that thinks, for EleutherAI's lm-evaluation-harness: `lrd lm-eval --model_args pretrained=RUN --tasks ...`.

question    the task's context, as in training
thoughts    those of the model
answer      after the answer marker: `generate_until` writes it, `loglikelihood` scores a given one
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from torch import Tensor

from lrd_peft.model.generation import answer_batch, until_stop
from lrd_peft.model.inspection import context_length
from lrd_peft.model.loop import head_logits, unwrap
from lrd_peft.model.memory import rows_that_fit
from lrd_peft.model.prompts import think_about
from lrd_peft.model.student import StudentModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.progress import Progress

_LOG = logging.getLogger(__name__)


class LatentReasoningLM(LM):
    """A thinking model as the harness's model type "lrd".

    Args:
        pretrained: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        num_thoughts: Number of thoughts; None for the model's own.
        force_marker: Put the answer marker after the thoughts, so that the model answers at once; by default where it
            thinks and was saved so.
        batch_size: Maximum number of requests at a time; fewer where memory is estimated to be too small.
        max_batch_size: Not used: `batch_size` is a maximum already.
        max_gen_toks: Tokens to write at most where the task sets no limit.
        device: Where to put the model; the CPU where there is no GPU.
        dtype: float32, bfloat16 or float16; by default as saved.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run Python code that comes with the model.

    Attributes:
        model: The model.

    Raises:
        UserError: If there is no such model, or it is a plain language model.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        num_thoughts: int | None = None,
        force_marker: bool | None = None,
        batch_size: int | str = 64,
        max_batch_size: int | None = None,
        max_gen_toks: int = 256,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        # The harness asks for "cuda:0" where nobody has said anything.
        if not torch.cuda.is_available() and (device or "cuda").startswith("cuda"):
            device = "cpu"
        self.model = StudentModel.from_pretrained(
            pretrained, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
        )
        if not self.model.is_saved:
            raise UserError(f"{pretrained} is a plain language model; evaluate it with --model hf")
        if num_thoughts is not None and num_thoughts < 0:
            raise UserError(f"num_thoughts is {num_thoughts}; it must be at least 0")
        self._device = self.model.device
        self.num_thoughts = self.model.options.num_thoughts if num_thoughts is None else num_thoughts
        forces = self.num_thoughts > 0 and self.model.options.force_marker
        self.force_marker = forces if force_marker is None else force_marker
        # The harness's "auto" looks for the largest size that fits; here the size is estimated in any case.
        self.batch_size = sys.maxsize if str(batch_size).startswith("auto") else int(batch_size)
        self.max_gen_toks = max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """Name under which the harness caches requests."""
        return self.model.name

    def get_model_info(self) -> dict[str, Any]:
        """Return what the harness keeps with the results."""
        return {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": str(next(self.model.lm.parameters()).dtype),
            "model_base": self.model.name,
            "num_thoughts": self.num_thoughts,
            "force_marker": self.force_marker,
        }

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Refuse: a model that was trained with its chat template applies it by itself."""
        raise UserError(
            f"leave --apply_chat_template out: this model reads questions in the style that it was trained with "
            f"({self.model.options.prompt_style})"
        )

    @torch.no_grad()
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Think about each context, then write greedily.

        Args:
            requests: Instances with arguments (context, generation settings).
            disable_tqdm: Show no progress.

        Returns:
            For each request the answer marker, if it is forced, and what was written, up to the first stop text in it.

        Raises:
            UserError: If a request asks for sampling.
        """
        settings = [_Settings(_arguments(request)[1], self.max_gen_toks) for request in requests]
        limit = max((each.max_new_tokens for each in settings), default=0)
        marker = self.model.encoder.answer_marker if self.force_marker else ""
        texts: list[str] = [""] * len(requests)
        unfit = 0
        contexts = [_arguments(request)[0] for request in requests]
        lengths = [len(self.model.encoder.prompt(context)) for context in contexts]
        for chosen in self._batches(lengths, new_tokens=limit, quiet=disable_tqdm):
            rows = answer_batch(
                self.model,
                [contexts[i] for i in chosen],
                thinking=True,
                max_new_tokens=max(settings[i].max_new_tokens for i in chosen),
                force_marker=self.force_marker,
                num_thoughts=self.num_thoughts,
            )
            for i, row in zip(chosen, rows, strict=True):
                unfit += row.num_passes == 0
                tokens = list(row.tokens[: settings[i].max_new_tokens])
                text = str(self.model.tokenizer.decode(tokens, skip_special_tokens=True))
                texts[i] = marker + until_stop(text, settings[i].until) if row.num_passes else ""
                self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
        if unfit:
            _LOG.warning(
                "%d of %d contexts do not fit into the model's %s tokens; they count as answered with nothing",
                unfit,
                len(requests),
                context_length(unwrap(self.model.lm).config),
            )
        return texts

    @torch.no_grad()
    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Think about each context, then score its continuation as the answer.

        Where the answer marker is forced and ends with a space, spaces at the continuation's beginning are left out.

        Args:
            requests: Instances with arguments (context, continuation).
            disable_tqdm: Show no progress.

        Returns:
            For each request the sum of the continuation's log-probabilities, and whether greedy decoding writes it.

        Raises:
            UserError: If a request does not fit the model's context.
        """
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        scored = [self._scored(*_arguments(request)) for request in requests]
        lengths = [len(prompt) + len(suffix) for prompt, suffix, _ in scored]
        for chosen in self._batches(lengths, new_tokens=0, quiet=disable_tqdm):
            for i, row in zip(chosen, self._log_likelihoods([scored[i] for i in chosen]), strict=True):
                found[i] = row
                self.cache_hook.add_partial("loglikelihood", requests[i].args, row)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Refuse: a text on its own is no question to think about.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "this task measures the perplexity of texts, which have no question to think about; evaluate the language "
            "model on its own with --model hf"
        )

    def _batches(self, lengths: Sequence[int], *, new_tokens: int, quiet: bool) -> Iterator[list[int]]:
        """Yield indices of requests of similar length in tokens, so many at a time as memory holds."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        if not order:
            return
        longest = lengths[order[-1]]
        positions = longest + self.num_thoughts + new_tokens
        size = min(self.batch_size, rows_that_fit(unwrap(self.model.lm), question=longest, positions=positions))
        with Progress("lm-eval", total=len(order), unit="requests", quiet=quiet) as progress:
            for start in range(0, len(order), size):
                yield order[start : start + size]
                progress.update(min(start + size, len(order)))

    def _scored(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Return the ids of question and suffix, and how many at the suffix's end are scored."""
        encoder, forced = self.model.encoder, self.model.encoder.marker if self.force_marker else ()
        if forced and encoder.answer_marker[-1:].isspace():
            continuation = continuation.lstrip(" ")
        scored = self.model.tokenizer(continuation, add_special_tokens=False)["input_ids"]
        prompt, suffix = self.model.around_thoughts(
            encoder.prompt(context), (*forced, *scored), num_thoughts=self.num_thoughts
        )
        ends = self.model.tokenizer.eos_token_id
        assert isinstance(ends, int)
        prompt = prompt or (ends,)  # no context at all
        context_size = context_length(unwrap(self.model.lm).config)
        total = len(prompt) + self.num_thoughts + len(suffix)
        if context_size is not None and total > context_size:
            raise UserError(
                f"the context that begins {context[:60]!r} makes {total} tokens with thoughts and continuation; the "
                f"model takes {context_size}"
            )
        return prompt, suffix, len(scored)

    def _log_likelihoods(
        self, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...], int]]
    ) -> list[tuple[float, bool]]:
        pairs = [(prompt, suffix) for prompt, suffix, _ in rows]
        last = think_about(self.model, pairs, num_thoughts=self.num_thoughts).thinking.last
        found = []
        for row, (_, suffix, num_scored) in enumerate(rows):
            first = len(suffix) - num_scored
            where = self.num_thoughts + first
            found.append(self._row(last[row, where : where + num_scored], suffix[first:]))
        return found

    def _row(self, hidden: Tensor, tokens: Sequence[int]) -> tuple[float, bool]:
        if not tokens:
            return 0.0, True
        wanted = torch.tensor(tokens, device=hidden.device)
        scores = head_logits(self.model.lm, hidden).float().log_softmax(dim=-1)
        total = scores.gather(1, wanted[:, None]).sum().item()
        return total, bool((scores.argmax(dim=-1) == wanted).all())


def _arguments(request: Instance) -> tuple[Any, ...]:
    return tuple(request.args)


class _Settings:
    """What a task asks of a generation."""

    def __init__(self, given: dict[str, Any], max_gen_toks: int) -> None:
        if given.get("do_sample") and given.get("temperature", 1.0) != 0:
            raise UserError(
                "this task samples (do_sample: true), and thoughts are followed by greedy decoding here; set "
                "--gen_kwargs do_sample=False"
            )
        until = given.get("until") or []
        self.until: list[str] = [until] if isinstance(until, str) else list(until)
        limit = next((given[name] for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if name in given), None)
        self.max_new_tokens = max_gen_toks if limit is None else int(limit)


register_model("lrd")(LatentReasoningLM)


def run_harness(arguments: Sequence[str]) -> None:
    """Run the harness's own command line, with "lrd" as its model type unless another is named.

    Args:
        arguments: What follows `lrd lm-eval`.
    """
    from lm_eval.__main__ import cli_evaluate

    flags = {argument.partition("=")[0] for argument in arguments}
    own: list[str] = []
    if not flags & {"--model", "-M", "--config", "-C"}:
        own += ["--model", "lrd"]
        if not flags & {"--batch_size", "-b"}:  # the harness's default is one request at a time
            own += ["--batch_size", "64"]
    first = list(arguments[:1])
    plain = bool(first) and not first[0].startswith("-")  # a subcommand of the harness
    before, after = (first, arguments[1:]) if plain else ([], arguments)
    sys.argv = ["lrd lm-eval", *before, *([] if plain and first[0] != "run" else own), *after]
    cli_evaluate()
