"""The data sets that have a name: where they are, their splits, kinds of answers and licenses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lrd_peft.config.choices import AnswerKind
from lrd_peft.data.row_parsing import RowSchema

_TRAIN_TEST = {"train": "train", "test": "test"}
_ALL = {"train": "train", "validation": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A public data set.

    Attributes:
        name: Short name.
        hub_id: Id on the hub; "" if it is not there.
        splits: Our split -> split on the hub.
        answers: Kind of its answers.
        license: License, as its authors or its page on the hub state it.
        schema: Schema of its rows; None if several forms are in use, which are told apart by their columns.
        subsets: Configurations on the hub. Several are interleaved, so that a limit includes all of them.
        folders: Further names that its folder or files may have under `data_dir`.
        note: What a user should know.
        aliases: Ids of copies on the hub.
    """

    name: str
    hub_id: str
    splits: Mapping[str, str]
    answers: AnswerKind
    license: str
    schema: RowSchema | None = None
    subsets: tuple[str | None, ...] = (None,)
    folders: tuple[str, ...] = ()
    note: str = ""
    aliases: tuple[str, ...] = field(default_factory=tuple)

    @property
    def local_names(self) -> tuple[str, ...]:
        """Names that its folder, or the beginning of its files' names, may have."""
        base = self.hub_id.partition("/")[2]
        found = (self.name, self.name.replace("-", "_"), self.name.replace("-", ""), base, base.lower(), *self.folders)
        return tuple(dict.fromkeys(name for name in found if name))

    @property
    def stated_kind(self) -> AnswerKind | None:
        """Kind that its problems name, where their answers alone do not tell it."""
        return self.answers if self.answers in ("text", "boolean") else None


_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_ENTRIES = (
    CatalogEntry("gsm8k", "openai/gsm8k", _TRAIN_TEST, "numeric", "MIT", "gsm8k", ("main",)),
    CatalogEntry(
        "gsm8k-aug",
        "whynlp/gsm8k-aug",
        _ALL,
        "numeric",
        "MIT (iCoT)",
        aliases=("zen-E/GSM8k-Aug",),
        note="steps are equations",
    ),
    CatalogEntry(
        "gsm8k-aug-nl",
        "whynlp/gsm8k-aug-nl",
        _ALL,
        "numeric",
        "MIT (iCoT)",
        aliases=("zen-E/GSM8k-Aug-NL",),
        note="steps are sentences",
    ),
    CatalogEntry(
        "gsm-hard",
        "reasoning-machines/gsm-hard",
        {"test": "train"},
        "numeric",
        "MIT",
        folders=("gsmhard", "gsmhardv2"),
        note="no steps; its code is not read",
    ),
    CatalogEntry("svamp", "ChilleD/SVAMP", _TRAIN_TEST, "numeric", "MIT", note="steps are one equation"),
    CatalogEntry(
        "multiarith",
        "ChilleD/MultiArith",
        _TRAIN_TEST,
        "numeric",
        "not stated",
        note="no steps",
        folders=("MultiArith",),
    ),
    CatalogEntry("asdiv", "EleutherAI/asdiv", {"test": "validation"}, "numeric", "CC BY-NC 4.0"),
    CatalogEntry("mawps", "MU-NLPC/Calc-mawps", _ALL, "numeric", "MIT", note="steps are one equation"),
    CatalogEntry(
        "math", "EleutherAI/hendrycks_math", _TRAIN_TEST, "math", "MIT", "math", _MATH_SUBJECTS, folders=("MATH",)
    ),
    CatalogEntry(
        "math-500",
        "HuggingFaceH4/MATH-500",
        {"test": "test"},
        "math",
        "MIT",
        "math",
        folders=("math500",),
        note="500 of MATH's test problems",
    ),
    CatalogEntry("aqua", "deepmind/aqua_rat", _ALL, "option", "Apache-2.0", "aqua", ("raw",), folders=("AQuA",)),
    CatalogEntry(
        "prosqa",
        "",
        _ALL,
        "text",
        "MIT",
        note="from facebookresearch/coconut on GitHub",
    ),
    CatalogEntry(
        "prontoqa",
        "",
        _ALL,
        "boolean",
        "not stated",
        note="from asaparov/prontoqa on GitHub",
    ),
    CatalogEntry("strategyqa", "ChilleD/StrategyQA", _TRAIN_TEST, "boolean", "MIT", note="steps are its facts"),
    CatalogEntry(
        "commonsenseqa",
        "tau/commonsense_qa",
        {"train": "train", "test": "validation"},
        "option",
        "MIT",
        note="no steps; test is its validation split",
    ),
)
CATALOG: dict[str, CatalogEntry] = {
    name: entry for entry in _ENTRIES for name in (entry.name, entry.hub_id, *entry.aliases) if name
}
"""Data sets by short name and by hub id."""
NAMES = tuple(entry.name for entry in _ENTRIES)
"""Short names of the data sets."""
