"""How tables, figures and pages name, order and colour things. The one place where that is decided; knows no records.

Colours are those of Okabe and Ito, which people of every colour vision can tell apart; a marker says the same a second
time, so that a picture can be read in grey print too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OURS = "latent-lora"

BLACK, GREY = "#000000", "#7F7F7F"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """How one method looks everywhere.

    Attributes:
        label: its name in figures and tables.
        description: what it is, in a few words.
        colour: hexadecimal.
        marker: matplotlib's name of the marker.
    """

    label: str
    description: str
    colour: str
    marker: str


# In the order of every table and legend.
METHODS: dict[str, MethodStyle] = {
    "base": MethodStyle("Base", "student, untrained, written steps", BLACK, "o"),
    "base-latent": MethodStyle("Base, thoughts", "student, untrained, thoughts", GREY, "o"),
    "direct": MethodStyle("Direct answer", "student, all weights, answer only", GREY, "v"),
    "teacher-cot": MethodStyle("Teacher, CoT", "teacher, written steps", BLUE, "^"),
    "teacher-latent": MethodStyle("Teacher, latent", "teacher, thoughts", SKY, "^"),
    "full-finetune": MethodStyle("Full fine-tune", "student, all weights, written steps", ORANGE, "s"),
    "standard-distill": MethodStyle("Standard distill", "student, all weights, the teacher's tokens", PURPLE, "D"),
    "distill-lora": MethodStyle("Distill + LoRA", "student, LoRA, the teacher's tokens", GREEN, "P"),
    "icot": MethodStyle("iCoT", "student, steps removed by stage", YELLOW, "s"),
    "codi": MethodStyle("CODI", "student, thoughts, self-distilled", YELLOW, "D"),
    "pccot": MethodStyle("PCCoT", "student, parallel thoughts", YELLOW, "P"),
    "latent-full": MethodStyle("Latent, all weights", "student, all weights, thoughts", VERMILION, "o"),
    "latent-lora-alpha0": MethodStyle("Latent + LoRA, α = 0", "student, LoRA, thoughts, no alignment", VERMILION, "X"),
    OURS: MethodStyle("Latent + LoRA (ours)", "student, LoRA, thoughts", VERMILION, "*"),
}

DATASETS: dict[str, str] = {"gsm8k": "GSM8K", "math": "MATH", "aqua": "AQuA-RAT"}
DATASET_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DATASET_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

FIELDS: dict[str, str] = {
    "distill_alpha": "distillation weight α",
    "lora_r": "LoRA rank r",
    "distill_layers": "teacher layers aligned",
    "student": "student",
    "positions": "positions aligned",
    "normalize": "normalisation of the alignment",
    "thoughts_from": "thoughts fed back in training",
    "max_stage": "thoughts",
}

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.hashsalt": "lrd-peft",
    "svg.fonttype": "path",
}


def method_style(method: str) -> MethodStyle:
    """Return how a method looks; one that is not in the table keeps its name and is grey."""
    return METHODS.get(method, MethodStyle(method, "", GREY, "X"))


def in_order(methods: Iterable[str]) -> list[str]:
    """Return methods in the order of every table; unknown ones last, by name."""
    known = list(METHODS)
    return sorted(set(methods), key=lambda name: (known.index(name) if name in known else len(known), name))


def dataset_label(dataset: str) -> str:
    """Return a data set's name in figures."""
    return DATASETS.get(dataset, dataset)


def field_label(field: str) -> str:
    """Return what a configuration field is called on an axis."""
    return FIELDS.get(field, field.replace("_", " "))
