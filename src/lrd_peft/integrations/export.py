"""`lrd export`: write a model that thinks as a transformers model with code of its own, without this package."""

from __future__ import annotations

import copy
import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from lrd_peft.integrations import modeling_thinking
from lrd_peft.integrations.modeling_thinking import Projection, ThinkingForCausalLM, ThinkingLMConfig
from lrd_peft.model.generation import answer_batch, end_tokens
from lrd_peft.model.loop import unwrap
from lrd_peft.model.projection import PauseToken
from lrd_peft.model.student import StudentModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.files import atomic_folder

_MODULE = modeling_thinking.__name__.rpartition(".")[2]
# Questions of different lengths that both models must answer with the same tokens before anything is written.
_QUESTIONS = (
    "Ann has 3 pens. She buys 4 more. How many pens does Ann have now?",
    "What is 12 + 7 - 5?",
    "Tom has 20 books and gives 6 to Ben, then buys 9. How many books does he have now?",
)
_CHECKED_TOKENS = 12


def export(target: str, folder: str | Path, *, max_new_tokens: int = 256) -> Path:
    """Write a model as a folder that `AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True)` loads.

    Adapters are merged. The folder holds one file of code, which needs transformers and torch only; its `generate`
    thinks and answers.

    Args:
        target: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        folder: Folder to create or replace.
        max_new_tokens: Tokens that `generate` writes where its caller sets no limit.

    Returns:
        The folder.

    Raises:
        UserError: If the model does not think, or its architecture gives other tokens without this package.
    """
    model = StudentModel.from_pretrained(target)
    if not model.is_saved:
        raise UserError(f"{target} is a plain language model already; there is no thinking to export")
    if model.options.num_thoughts == 0:
        raise UserError(f"{target} answers in text, without thoughts; save it with transformers' save_pretrained")
    expected = _own_tokens(model)
    exported = thinking_lm(model, max_new_tokens=max_new_tokens)
    if (found := _exported_tokens(model, exported)) != expected:
        different = sum(a != b for a, b in zip(found, expected, strict=True))
        raise UserError(
            f"{type(unwrap(model.lm)).__name__} needs more of this package than an export holds: {different} of "
            f"{len(_QUESTIONS)} test questions get other tokens; share the folder that save_pretrained writes instead"
        )
    with atomic_folder(Path(folder)) as temporary:
        exported.save_pretrained(temporary)
        tokenizer = copy.deepcopy(model.tokenizer)
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
        tokenizer.save_pretrained(temporary)
        with resources.as_file(resources.files("lrd_peft.integrations") / f"{_MODULE}.py") as source:
            shutil.copyfile(source, temporary / f"{_MODULE}.py")
        (temporary / "README.md").write_text(_card(model, Path(folder).name), encoding="utf-8")
    return Path(folder)


def thinking_lm(model: ThinkingModel, *, max_new_tokens: int = 256) -> ThinkingForCausalLM:
    """Return a model that thinks as a transformers model of its own; the given one loses its adapters to it.

    Args:
        model: Model that thinks, in evaluation mode.
        max_new_tokens: Tokens that its `generate` writes where its caller sets no limit.
    """
    if isinstance(model.lm, PeftModel):
        merged: Any = model.lm.merge_and_unload()
        model.lm = merged
    lm = model.lm
    assert isinstance(lm, PreTrainedModel)
    options = model.options
    marker = model.encoder.marker if options.force_marker else ()
    before, after = model.around_thoughts((), marker, num_thoughts=options.num_thoughts)
    config = ThinkingLMConfig(
        language_model=_plain(lm.config.to_dict()),
        num_thoughts=options.num_thoughts,
        before=list(before),
        after=list(after),
        shown=len(marker),
        projection=options.projection,
        projection_width=options.projection_width,
        parallel_passes=options.jacobi_passes,
        placeholder=model.placeholder_id if options.placeholder else None,
        auto_map={
            "AutoConfig": f"{_MODULE}.ThinkingLMConfig",
            "AutoModelForCausalLM": f"{_MODULE}.ThinkingForCausalLM",
        },
        architectures=[ThinkingForCausalLM.__name__],
        dtype=next(lm.parameters()).dtype,
        tie_word_embeddings=bool(getattr(lm.config, "tie_word_embeddings", False)),
    )
    exported: Any = ThinkingForCausalLM(config)
    exported.to(next(lm.parameters()).dtype)
    exported.language_model.load_state_dict(lm.state_dict())
    _copy_projection(model.projection, exported.projection)
    exported.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(end_tokens(lm, model.tokenizer)),
        pad_token_id=model.tokenizer.pad_token_id,
    )
    return exported.eval()


def _copy_projection(own: torch.nn.Module | None, exported: Projection) -> None:
    if own is None:
        return
    if isinstance(own, PauseToken):
        exported.load_state_dict(own.state_dict())
    else:
        exported.layers.load_state_dict(own.state_dict())
    exported.float()  # as in training, beside a model of a smaller type


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as JSON values, without what belongs to the machine or the files that it came from."""
    dropped = ("_name_or_path", "architectures", "auto_map", "transformers_version")
    return json.loads(json.dumps({name: value for name, value in values.items() if name not in dropped}, default=str))


def _own_tokens(model: ThinkingModel) -> list[tuple[int, ...]]:
    rows = answer_batch(model, _QUESTIONS, thinking=True, max_new_tokens=_CHECKED_TOKENS)
    return [row.tokens for row in rows]


def _exported_tokens(model: ThinkingModel, exported: ThinkingForCausalLM) -> list[tuple[int, ...]]:
    tokenizer = model.tokenizer
    prompts = [model.encoder.prompt(question) for question in _QUESTIONS]
    padded = tokenizer.pad({"input_ids": [list(ids) for ids in prompts]}, padding_side="left", return_tensors="pt")
    ends, found = end_tokens(exported.language_model, tokenizer), []
    whole = exported.generate(**padded, max_new_tokens=_CHECKED_TOKENS)
    for row in whole[:, padded["input_ids"].shape[1] + exported.config.shown :].tolist():
        kept = next((i for i, token in enumerate(row) if token in ends), len(row))
        found.append(tuple(row[:kept]))
    return found


def _card(model: ThinkingModel, name: str) -> str:
    """Return a model card with code that runs."""
    question = (
        f"{_QUESTIONS[0]}{model.options.question_end}" if model.options.prompt_style == "plain" else _QUESTIONS[0]
    )
    lines = [
        "---",
        "library_name: transformers",
        "tags: [latent-reasoning, continuous-thoughts]",
        "---",
        "",
        f"# {name}",
        "",
        f"A language model that thinks {model.options.num_thoughts} continuous thoughts before it answers (COCONUT, "
        "arXiv 2412.06769), exported by LRD-PEFT. It needs transformers and torch only; its code is in this folder.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({name!r}, trust_remote_code=True)",
        f"model = AutoModelForCausalLM.from_pretrained({name!r}, trust_remote_code=True)",
        f"inputs = tokenizer([{question!r}], return_tensors='pt', padding=True)",
        "print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])",
        "```",
        "",
    ]
    if model.options.prompt_style == "plain" and model.options.question_end:
        lines += [f"A question ends with {model.options.question_end!r}, as in training.", ""]
    return "\n".join(lines)
