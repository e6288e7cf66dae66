"""How tables, figures and pages name, order and colour things. The one place where that is decided; knows no records.

Colours are those of Okabe and Ito, and two of Tol's, which people of every colour vision can tell apart; a marker says
the same a second time, so that a picture can be read in grey print too. What thinks is filled and solid, what writes is
open and dashed, or hatched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OURS = "latent-lora"

BLACK, GREY = "#000000", "#7F7F7F"
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
WINE, INDIGO = "#882255", "#332288"


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """How one method looks everywhere.

    Attributes:
        label: its name in figures and tables.
        description: what it is, in a few words.
        colour: hexadecimal.
        marker: matplotlib's name of the marker.
        thinks: answers in thoughts; else it writes.
    """

    label: str
    description: str
    colour: str
    marker: str
    thinks: bool = False

    @property
    def look(self) -> dict[str, Any]:
        """matplotlib's arguments for a line with markers."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markerfacecolor": self.colour if self.thinks else "white",
            "markeredgecolor": self.colour,
            "linestyle": "-" if self.thinks else (0, (4, 1.5)),
        }

    @property
    def points(self) -> dict[str, Any]:
        """matplotlib's arguments for markers without a line."""
        return {**self.look, "linestyle": "none"}

    @property
    def bar(self) -> dict[str, Any]:
        """matplotlib's arguments for a bar."""
        face = {"facecolor": self.colour} if self.thinks else {"facecolor": "white", "hatch": "////"}
        return face | {"edgecolor": self.colour}


def _thinks(label: str, description: str, colour: str, marker: str) -> MethodStyle:
    return MethodStyle(label, description, colour, marker, thinks=True)


# In the order of every table and legend: those that write, then those that think.
METHODS: dict[str, MethodStyle] = {
    "base": MethodStyle("Base", "student, untrained, written steps", BLACK, "o"),
    "teacher-cot": MethodStyle("Teacher, CoT", "teacher, written steps", BLUE, "^"),
    "direct": MethodStyle("Direct answer", "student, all weights, answer only", GREY, "v"),
    "icot": MethodStyle("iCoT", "student, steps removed by stage", WINE, "<"),
    "full-finetune": MethodStyle("Full fine-tune", "student, all weights, written steps", ORANGE, "s"),
    "standard-distill": MethodStyle("Standard distill", "student, all weights, the teacher's tokens", PURPLE, "D"),
    "distill-lora": MethodStyle("Distill + LoRA", "student, LoRA, the teacher's tokens", GREEN, "P"),
    "base-latent": _thinks("Base, thoughts", "student, untrained, thoughts", BLACK, "o"),
    "teacher-latent": _thinks("Teacher, latent", "teacher, thoughts", BLUE, "^"),
    "codi": _thinks("CODI", "student, thoughts, self-distilled", INDIGO, "D"),
    "pccot": _thinks("PCCoT", "student, parallel thoughts", GREEN, "P"),
    "latent-full": _thinks("Latent, all weights", "student, all weights, thoughts", ORANGE, "s"),
    "latent-lora-alpha0": _thinks("Latent + LoRA, α = 0", "student, LoRA, thoughts, no alignment", SKY, "X"),
    OURS: _thinks("Latent + LoRA (ours)", "student, LoRA, thoughts", VERMILION, "*"),
}
# More lines than these in one panel cannot be followed.
MOST_TOGETHER = 7

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
    "align_to": "what thoughts are aligned to",
    "thoughts_from": "thoughts fed back in training",
    "max_stage": "thoughts",
    "num_student_problems": "student's problems of each set",
    "learning_rate": "learning rate of the student",
    "teacher_step_loss_weight": "step loss weight of the teacher",
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


def in_groups(methods: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return (title, methods in their order) for panels of their own: one without a title, or too many in two.

    The two are those that write and those that think.
    """
    ordered = in_order(methods)
    if len(ordered) <= MOST_TOGETHER:
        return [("", ordered)]
    thinking = [method for method in ordered if method_style(method).thinks]
    writing = [method for method in ordered if method not in thinking]
    return [(title, group) for title, group in (("write", writing), ("think", thinking)) if group]


def dataset_label(dataset: str) -> str:
    """Return a data set's name in figures."""
    return DATASETS.get(dataset, dataset)


def field_label(field: str) -> str:
    """Return what a configuration field is called on an axis."""
    return FIELDS.get(field, field.replace("_", " "))
