"""Names, order, colors and markers of methods and data sets in tables, figures and pages.

Every method has a color and a marker of its own, so that figures can be read with any color vision and in grayscale.
Text methods use open markers, dashed lines and hatching; latent methods are filled and solid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OURS = "latent-lora"

BLACK, GREY = "#000000", "#7F7F7F"
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """Appearance of one method in every figure.

    Attributes:
        label: name in figures and tables.
        description: what it is, in a few words.
        color: hexadecimal.
        marker: matplotlib's marker: its name, or corners, style and angle.
        latent: answers after thoughts; if false, after written steps.
    """

    label: str
    description: str
    color: str
    marker: str | tuple[int, int, int]
    latent: bool = False

    @property
    def look(self) -> dict[str, Any]:
        """Return matplotlib's arguments for a line with markers."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markerfacecolor": self.color if self.latent else "white",
            "markeredgecolor": self.color,
            "linestyle": "-" if self.latent else (0, (4, 1.5)),
        }

    @property
    def points(self) -> dict[str, Any]:
        """Return matplotlib's arguments for markers without a line."""
        return {**self.look, "linestyle": "none"}

    @property
    def bar(self) -> dict[str, Any]:
        """Return matplotlib's arguments for a bar."""
        face = {"facecolor": self.color} if self.latent else {"facecolor": "white", "hatch": "////"}
        return face | {"edgecolor": self.color}


def _latent(label: str, description: str, color: str, marker: str | tuple[int, int, int]) -> MethodStyle:
    return MethodStyle(label, description, color, marker, latent=True)


# In the order of every table and legend: text methods, then latent methods.
METHOD_STYLES: dict[str, MethodStyle] = {
    "base": MethodStyle("Base", "student, untrained, written steps", BLACK, "o"),
    "teacher-cot": MethodStyle("Teacher, CoT", "teacher, written steps", BLUE, "^"),
    "direct": MethodStyle("Direct answer", "student, all weights, answer only", GREY, "v"),
    "icot": MethodStyle("iCoT", "student, steps removed by stage", "#882255", "<"),
    "full-finetune": MethodStyle("Full fine-tune", "student, all weights, written steps", ORANGE, "s"),
    "standard-distill": MethodStyle("Standard distill", "student, all weights, the teacher's tokens", PURPLE, "D"),
    "distill-lora": MethodStyle("Distill + LoRA", "student, LoRA, the teacher's tokens", GREEN, "P"),
    "base-latent": _latent("Base, thoughts", "student, untrained, thoughts", "#44546A", "h"),
    "teacher-latent": _latent("Teacher, latent", "teacher, thoughts", SKY, ">"),
    "coconut": _latent("Coconut", "student, thoughts from the curriculum", "#117733", (4, 1, 0)),
    "coconut-lora": _latent("Coconut + LoRA", "student, LoRA, thoughts from the curriculum", "#6FBF8B", "H"),
    "pause": _latent("Pause tokens", "student, LoRA, pause tokens", "#44AA99", (5, 0, 0)),
    "codi": _latent("CODI", "student, thoughts, self-distilled", "#332288", "d"),
    "codi-full": _latent("CODI, all weights", "student, all weights, thoughts, self-distilled", "#8A7CC8", (6, 1, 0)),
    "pccot": _latent("PCCoT", "student, parallel thoughts", "#999933", "p"),
    "pccot-full": _latent("PCCoT, all weights", "student, all weights, parallel thoughts", "#C9C96B", (7, 1, 0)),
    "latent-full": _latent("Latent, all weights", "student, all weights, thoughts", "#8C4A20", "8"),
    "latent-lora-alpha0": _latent("Latent + LoRA, α = 0", "student, LoRA, thoughts, no alignment", "#F2A48A", "X"),
    OURS: _latent("Latent + LoRA (ours)", "student, LoRA, thoughts", VERMILION, "*"),
}
# Methods of the figures that have room for five: a teacher of each kind, and students with and without steps.
FOCUS = ("teacher-cot", "direct", "distill-lora", "teacher-latent", OURS)

DATASETS: dict[str, str] = {"gsm8k": "GSM8K", "math": "MATH", "aqua": "AQuA-RAT"}
_CHANCE: dict[str, float] = {"aqua": 0.2, "aqua-mini": 0.2, "graph-mini": 0.5, "graph-mini-deep": 0.5}
DATASET_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DATASET_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

FIELDS: dict[str, str] = {
    "distill_alpha": "distillation weight α",
    "lora_r": "LoRA rank r",
    "distill_layers": "aligned teacher layers",
    "student": "student",
    "positions": "aligned positions",
    "normalize": "normalization of the alignment",
    "align_to": "alignment target",
    "thoughts_from": "thoughts fed back in training",
    "max_stage": "thoughts",
    "num_student_problems": "training problems of each set",
    "learning_rate": "learning rate of the student",
    "epochs": "epochs",
    "step_loss_weight": "step loss weight",
    "teacher_step_loss_weight": "step loss weight of the teacher",
}

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.hashsalt": "lrd-peft",
    "svg.fonttype": "path",
}


def method_style(method: str) -> MethodStyle:
    """Return the appearance of a method; an unknown one keeps its name and is gray."""
    return METHOD_STYLES.get(method, MethodStyle(method, "", GREY, "X"))


def in_order(methods: Iterable[str]) -> list[str]:
    """Return methods in the order of every table; unknown ones last, by name."""
    known = list(METHOD_STYLES)
    return sorted(set(methods), key=lambda name: (known.index(name) if name in known else len(known), name))


def focus(methods: Iterable[str]) -> list[str]:
    """Return at most five methods for figures with little room, in order: those of `FOCUS`, then others."""
    ordered = in_order(methods)
    chosen = [method for method in FOCUS if method in ordered]
    others = [method for method in ordered if method not in chosen]
    return in_order([*chosen, *others][: len(FOCUS)])


def dataset_label(dataset: str) -> str:
    """Return a data set's name in figures."""
    return DATASETS.get(dataset, dataset)


def chance(dataset: str) -> float | None:
    """Return the accuracy of guessing, where the question names the choices. Settings after a colon do not matter."""
    return _CHANCE.get(dataset.partition(":")[0])


def field_label(field: str) -> str:
    """Return the name of a configuration field on an axis."""
    return FIELDS.get(field, field.replace("_", " "))
