"""`lrd import`: bring a checkpoint of Coconut's, CODI's, PCCoT's or SIM-CoT's authors into a folder of ours.

    project    tensors                               tokens after the base's V           question, answer
    coconut    base_causallm.*                       V <bot>, V+1 <eot>, V+2 latent      "q\\n" "###"
    codi       codi.* with LoRA, prj.{1,3,ln}        V [PAD], V+1 <bot>, V+2 <eot>       "q" "The answer is:"
    pccot      adapter or weights, prj.{0,2,3}       as in pccot_args.json               "q", its answer_prompt
    simcot     those of coconut or codi; decoders are left out

(arXiv 2412.06769, 2502.21074, 2506.18582, 2509.20317, and the projects' public code.) Coconut and CODI let the model
write the answer marker, PCCoT gives it. Adapters are merged.

Their own batched decoding lets padding take part (CODI, PCCoT), so a padded batch of theirs answers otherwise than one
problem alone. Ours gives the answers that theirs gives one problem at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lrd_peft.model.loading.lm import load_lm
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.student import StudentModel
from lrd_peft.runtime.errors import UserError, nearest

Project = Literal["coconut", "codi", "pccot", "simcot"]

_WEIGHT_FILES = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
_PCCOT_ARGUMENTS = "pccot_args.json"
_NUM_THOUGHTS = 6  # of all four projects' settings for GSM8K
_LORA_ALPHA = 32  # of CODI's and PCCoT's scripts
# Parts that only training uses: SIM-CoT's decoders, and a second name of Coconut's embeddings.
_TRAINING_ONLY = ("expainable_llm.", "decoder.", "pj_", "embedding.")


@dataclass(frozen=True)
class _Layout:
    """A checkpoint in our terms.

    Attributes:
        options: How the model thinks.
        tokens: Id -> name of each token that was added to the base's.
        weights: The language model's tensors, named as in transformers or PEFT.
        projection: The tensors of the projection, named as in ours.
        lora_alpha: Scale of the adapter; None where there is none.
    """

    options: ThinkingOptions
    tokens: dict[int, str]
    weights: dict[str, Tensor]
    projection: dict[str, Tensor] = field(default_factory=dict)
    lora_alpha: float | None = None


def import_checkpoint(
    project: Project,
    checkpoint: str | Path,
    *,
    base: str,
    output: str | Path,
    num_thoughts: int | None = None,
    lora_alpha: float | None = None,
) -> Path:
    """Write another project's checkpoint as a thinking model of ours.

    Args:
        project: coconut, codi, pccot or simcot.
        checkpoint: File of tensors, or a folder with one.
        base: Model that the training started from; see `load_lm`.
        output: Folder to create or replace.
        num_thoughts: Number of thoughts; None for what pccot_args.json says, or 6.
        lora_alpha: Scale of the adapter, which checkpoints of CODI do not hold; None for what pccot_args.json or
            adapter_config.json says, or 32.

    Returns:
        The folder.

    Raises:
        UserError: If there is no such checkpoint, or it does not fit the project's layout or the base.
    """
    if project not in get_args(Project):
        choices = ", ".join(get_args(Project))
        raise UserError(f'no project "{project}"; choose one of {choices}.{nearest(project, get_args(Project))}')
    if num_thoughts is not None and num_thoughts < 1:
        raise UserError(f"num_thoughts is {num_thoughts}; it must be at least 1")
    place = Path(checkpoint)
    state = {name: value for name, value in _read(place).items() if not name.startswith(_TRAINING_ONLY)}
    loaded = load_lm(base)
    if project == "pccot":
        layout = _pccot(state, place, num_thoughts=num_thoughts, lora_alpha=lora_alpha)
    elif any(name.startswith("codi.") for name in state):
        if project == "coconut":
            raise UserError(f"{place} has CODI's layout; import it as codi or simcot")
        # CODI counts the embeddings, which a base may have more of than its tokenizer has tokens.
        embeddings: Any = loaded.lm.get_input_embeddings()
        layout = _codi(state, embeddings.num_embeddings, num_thoughts=num_thoughts, lora_alpha=lora_alpha)
    elif any(name.startswith("base_causallm.") for name in state):
        if project == "codi":
            raise UserError(f"{place} has Coconut's layout; import it as coconut or simcot")
        if lora_alpha is not None:
            raise UserError("--lora_alpha has no effect: a checkpoint of Coconut has all weights and no adapter")
        layout = _coconut(state, len(loaded.tokenizer), num_thoughts=num_thoughts)
    else:
        shown = ", ".join(sorted(state)[:3]) or "none"
        wanted = '"base_causallm." or "codi."' if project == "simcot" else f"{project}'s prefix"
        raise UserError(f"{place} does not look like {project}: no tensor's name begins with {wanted} (it has {shown})")
    lm = _with_weights(loaded.lm, layout, place=place, base=base)
    _add_tokens(loaded.tokenizer, layout.tokens)
    model = StudentModel(lm, tokenizer=loaded.tokenizer, options=layout.options)
    if layout.projection:
        assert model.projection is not None
        try:
            model.projection.load_state_dict(layout.projection)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise UserError(f"the projection of {place} does not fit: {text}") from error
    model.name, model.load_options = base, {}
    model.save_pretrained(output, facts={"imported_from": project})
    return Path(output)


def _read(place: Path) -> dict[str, Tensor]:
    """Read tensors. Pickles are read as tensors only and run no code."""
    file = place
    if place.is_dir():
        found = [place / name for name in _WEIGHT_FILES if (place / name).is_file()]
        if not found:
            raise UserError(f"{place} holds none of {', '.join(_WEIGHT_FILES)}; name the file of the weights")
        file = found[0]
    if not file.is_file():
        raise UserError(f"there is no checkpoint {place}")
    try:
        state: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except SafetensorError as error:
        raise UserError(f"{file} is not a readable safetensors file ({' '.join(str(error).split())})") from error
    except Exception as error:  # torch's pickle reader raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file} is not a readable file of tensors ({reason})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds more than a dictionary of tensors; save the model's state_dict alone")
    return state


def _stripped(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _coconut(state: Mapping[str, Tensor], size: int, *, num_thoughts: int | None) -> _Layout:
    options = ThinkingOptions(
        num_thoughts=num_thoughts or _NUM_THOUGHTS,
        markers=True,
        empty_markers=True,
        question_end="\n",
        answer_marker="###",
        answer_prefix=" ",
        force_marker=False,
    )
    tokens = {size: "<bot>", size + 1: "<eot>", size + 2: "<latent>"}
    return _Layout(options, tokens, _stripped(state, "base_causallm."))


def _codi(state: Mapping[str, Tensor], size: int, *, num_thoughts: int | None, lora_alpha: float | None) -> _Layout:
    # prj is a Sequential of dropout, Linear, GELU, Linear and a LayerNorm called "ln".
    own = {"1": "0", "3": "2", "ln": "3"}
    projection = {}
    for name, value in _stripped(state, "prj.").items():
        module, _, rest = name.partition(".")
        projection[f"{own[module]}.{rest}" if module in own else name] = value.float()
    if projection and "3.weight" not in projection:
        raise UserError("this checkpoint of CODI was trained with --prj_no_ln, which our projection cannot be")
    options = ThinkingOptions(
        num_thoughts=num_thoughts or _NUM_THOUGHTS,
        projection="mlp" if projection else "none",
        projection_width=projection["0.weight"].shape[0] if projection else None,
        markers=True,
        empty_markers=True,
        question_end="",
        step_end=" ",
        answer_marker="The answer is:",
        answer_prefix=" ",
        force_marker=False,
    )
    tokens = {size: "[PAD]", size + 1: "<bot>", size + 2: "<eot>"}
    weights = _stripped(state, "codi.")
    adapted = any(".lora_A." in name for name in weights)
    if lora_alpha is not None and not adapted:
        raise UserError("--lora_alpha has no effect: this checkpoint has no adapter")
    return _Layout(options, tokens, weights, projection, (lora_alpha or _LORA_ALPHA) if adapted else None)


def _pccot(state: Mapping[str, Tensor], place: Path, *, num_thoughts: int | None, lora_alpha: float | None) -> _Layout:
    folder = place if place.is_dir() else place.parent
    arguments = _json(folder / _PCCOT_ARGUMENTS, needed=True)
    config = _json(folder / "config.json")
    adapter = _json(folder / "adapter_config.json")
    names = {"bot_token_id": "<bot>", "eot_token_id": "<eot>", "latent_token_id": "<latent>"}
    if any(not isinstance(arguments.get(key), int) for key in names):
        raise UserError(f"{folder / _PCCOT_ARGUMENTS} lacks one of {', '.join(names)}; copy it from the training run")
    bare = {name.removeprefix("base_model.model."): value for name, value in state.items()}
    projection = {name: value.float() for name, value in _stripped(bare, "prj.").items()}
    if "num_iterations" not in config:
        raise UserError(
            f"{folder / 'config.json'} does not say num_iterations, the number of parallel passes; copy it from the "
            "training run"
        )
    options = ThinkingOptions(
        num_thoughts=num_thoughts or int(arguments.get("num_latent_tokens", _NUM_THOUGHTS)),
        projection="mlp" if projection else "none",
        jacobi_passes=int(config["num_iterations"]),
        placeholder=True,
        markers=True,
        empty_markers=True,
        question_end="",
        step_end="",
        answer_marker=str(arguments.get("answer_prompt", "The answer is:")),
    )
    weights = {name: value for name, value in state.items() if "prj." not in name}
    adapted = any(".lora_A." in name for name in weights)
    alpha = lora_alpha or adapter.get("lora_alpha") or arguments.get("lora_alpha") or _LORA_ALPHA
    tokens = {arguments[key]: name for key, name in names.items()}
    return _Layout(options, tokens, weights, projection, float(alpha) if adapted else None)


def _json(path: Path, *, needed: bool = False) -> dict[str, Any]:
    if not path.is_file():
        if needed:
            raise UserError(f"PCCoT's checkpoints come with {path.name}; there is none in {path.parent}")
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no JSON object ({error})") from error


def _with_weights(lm: PreTrainedModel, layout: _Layout, *, place: Path, base: str) -> PreTrainedModel:
    """Put the tensors into the base, with as many embeddings as the checkpoint has, and merge an adapter."""
    rows = max(layout.tokens) + 1
    embeddings: Any = lm.get_input_embeddings()
    (own,) = [name for name, value in lm.named_parameters() if value is embeddings.weight]
    names = [name for name in layout.weights if name.replace(".base_layer.", ".").endswith(own)]
    stored = layout.weights[names[0]].shape[0] if names else None
    if stored is not None and stored < rows:
        raise UserError(
            f"{place} has {stored} embeddings and would need {rows} for the tokens that were added to {base}: it was "
            "trained on another base, or with another tokenizer"
        )
    lm.resize_token_embeddings(stored or max(rows, embeddings.num_embeddings), mean_resizing=False)
    weights, whole = layout.weights, lm
    target: Any = lm
    if layout.lora_alpha is not None:
        # The adapter's name stands in the names of a whole model, not in those of an adapter's file.
        weights = {
            name.replace(".lora_A.weight", ".lora_A.default.weight").replace(
                ".lora_B.weight", ".lora_B.default.weight"
            ): value
            for name, value in weights.items()
        }
        down = [(name, value) for name, value in weights.items() if ".lora_A." in name]
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=down[0][1].shape[0],
            lora_alpha=layout.lora_alpha,  # pyright: ignore[reportArgumentType]
            target_modules=sorted({name.partition(".lora_A.")[0].rpartition(".")[2] for name, _ in down}),
        )
        target = get_peft_model(lm, config)
    expected = dict(target.state_dict())
    tied = {"lm_head.weight"} if getattr(lm.config, "tie_word_embeddings", False) else set()
    unknown = sorted(name for name in weights if name not in expected)
    wrong = [name for name, value in weights.items() if name in expected and value.shape != expected[name].shape]
    # Without an adapter everything was trained. With one the base may be left out, the adapter may not.
    missing = [
        name
        for name in expected
        if name not in weights
        and not any(name.endswith(each) for each in tied)
        and (layout.lora_alpha is None or ".lora_" in name)
        and not name.endswith((".attn.bias", ".attn.masked_bias"))
    ]
    for what, found in (("does not know", unknown), ("has in another shape", wrong)):
        if found:
            raise UserError(f"{place} does not fit {base}: the base {what} {_some(found)}")
    if missing:
        raise UserError(f"{place} does not fit {base}: the checkpoint lacks {_some(missing)}")
    target.load_state_dict(weights, strict=False)
    lm.tie_weights()
    if isinstance(target, PeftModel):
        merged: Any = target.merge_and_unload()
        whole = merged
    return whole.eval()


def _some(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Mapping[int, str]) -> None:
    """Add tokens so that each gets its id; ids between them get names that no text has."""
    last = max(tokens)
    names = {index: tokens.get(index, f"<unused-{index}>") for index in range(len(tokenizer), last + 1)}
    if taken := [index for index in tokens if index not in names]:
        known = tokenizer.convert_ids_to_tokens(taken)
        if list(known) != [tokens[index] for index in taken]:
            raise UserError(
                f"the checkpoint's ids {', '.join(map(str, taken))} stand for other tokens in the base's tokenizer: it "
                "was trained on another base"
            )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(names.values())}, replace_extra_special_tokens=False
    )
    wrong = [index for index, name in names.items() if tokenizer.convert_tokens_to_ids(name) != index]
    if wrong:
        raise UserError(
            f"token {wrong[0]} must be {names[wrong[0]]!r}, which the base's tokenizer has elsewhere; name the base "
            "that the training started from"
        )
