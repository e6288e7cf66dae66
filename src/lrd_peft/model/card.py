"""The model card of a saved model: front matter for the hub, facts, accuracy, and code that runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrd_peft.data.generators import generate_problems, is_generated
from lrd_peft.model.loading.embedded import OFFLINE_MODELS
from lrd_peft.model.serialization import SavedModel


@dataclass(frozen=True, slots=True)
class MeasuredAccuracy:
    """Accuracy on one data set, with its 95% confidence interval.

    Attributes:
        dataset: Name of the data set.
        num_right: Problems answered correctly.
        num_problems: Problems in all.
        low: Lower end of the interval, from 0 to 1.
        high: Upper end of the interval, from 0 to 1.
    """

    dataset: str
    num_right: int
    num_problems: int
    low: float
    high: float


def make_card(
    saved: SavedModel,
    *,
    name: str,
    details: Mapping[str, object] | None = None,
    dataset: str = "",
    accuracy: Sequence[MeasuredAccuracy] = (),
    verdicts: Sequence[str] = (),
) -> str:
    """Write the card of a saved model.

    Args:
        saved: Description of the model.
        name: What `from_pretrained` is given in the card's example: a folder or a hub id.
        details: Further facts to list, by name.
        dataset: What it was trained on. The card's example asks one of its questions if they are generated.
        accuracy: Measured accuracies.
        verdicts: What ablations said about its thoughts, one sentence each.

    Returns:
        Markdown with the hub's metadata on top, measured accuracies in its `model-index`.
    """
    how = "after continuous thoughts" if saved.options.num_thoughts > 0 else "in text"
    facts = {
        "base model": f"`{saved.base}`",
        "weights": "LoRA adapter" if saved.adapter else "all weights",
        "thoughts": saved.options.num_thoughts,
        **(details or {}),
    }
    sections = [
        _front_matter(saved, name=name, accuracy=accuracy),
        f"# A language model that answers {how}",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
    ]
    if accuracy:
        rows = [
            f"| {each.dataset} | {each.num_right / each.num_problems:.1%} | "
            f"{each.low:.1%} to {each.high:.1%} | {each.num_problems} |"
            for each in accuracy
        ]
        header = "| data set | accuracy | 95% interval | problems |\n|---|---|---|---|"
        sections += ["## Accuracy", "\n".join([header, *rows])]
    if verdicts:
        sections += ["## Do the thoughts matter?", "\n".join(f"- {verdict}." for verdict in verdicts)]
    sections += ["## Usage", _usage(name, question=_example(dataset)), _base_note(saved), _plain_note(saved)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(saved: SavedModel, *, name: str, accuracy: Sequence[MeasuredAccuracy]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=each.dataset,
            dataset_name=each.dataset,
            metric_type="accuracy",
            metric_name=f"accuracy (95% interval {each.low:.1%} to {each.high:.1%}, n = {each.num_problems})",
            metric_value=round(each.num_right / each.num_problems, 4),
        )
        for each in accuracy
    ]
    data = ModelCardData(
        library_name="peft" if saved.adapter else "transformers",
        base_model=saved.base if _is_on_hub(saved.base) else None,
        pipeline_tag="text-generation",
        tags=["latent-reasoning", "lrd-peft"],
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _example(dataset: str) -> str:
    first = dataset.partition("+")[0].strip()
    if not is_generated(first):
        return "Ann has 3 pens. She buys 4 more. How many pens does Ann have?"
    (problem,) = generate_problems(first, split="test", num_problems=1, seed=0)
    return problem.question_text


def _usage(name: str, *, question: str) -> str:
    return (
        "```python\n"
        "from lrd_peft import StudentModel\n\n"
        f"student = StudentModel.from_pretrained({json.dumps(name)})\n"
        f"print(student.generate([{json.dumps(question, ensure_ascii=False)}]))\n"
        "```"
    )


def _base_note(saved: SavedModel) -> str:
    """Say where the base of an adapter is, if PEFT cannot find it by its name."""
    if not saved.adapter or _is_on_hub(saved.base):
        return ""
    if Path(saved.base).expanduser().is_dir():
        return f"The base model is the local folder `{saved.base}`; the adapter needs it."
    teacher = saved.load_options.get("teacher")
    if saved.base.startswith("teacher:"):
        blocks = saved.base.partition(":")[2]
        return (
            f"The base model is {blocks} blocks of `{teacher}`, which only lrd_peft builds. For plain PEFT, save it "
            "first: `StudentModel("
            f'{json.dumps(saved.base)}, teacher={json.dumps(teacher)}).lm.save_pretrained("base")`.'
        )
    return (
        f"The base model `{saved.base}` comes with lrd_peft and is not on the hub. For plain PEFT, save it first: "
        f'`StudentModel({json.dumps(saved.base)}).lm.save_pretrained("base")`.'
    )


def _plain_note(saved: SavedModel) -> str:
    if saved.adapter:
        return (
            "Plain PEFT loads the weights (`PeftModel.from_pretrained(base, folder)`), but then the model does not "
            "think: the thoughts need `lrd_peft`."
        )
    return (
        "Plain transformers loads the weights (`AutoModelForCausalLM.from_pretrained(folder)`), but then the model "
        "does not think: the thoughts need `lrd_peft`."
    )


def _is_on_hub(base: str) -> bool:
    """Return whether a name looks like a hub id, rather than an offline model, a part of one, or a local folder."""
    return base not in OFFLINE_MODELS and not base.startswith("teacher:") and not _is_local(base)


def _is_local(base: str) -> bool:
    return Path(base).expanduser().is_dir() or base.startswith(("/", ".", "~")) or base.count("/") > 1
