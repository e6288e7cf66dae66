"""Settings of what a run starts from: base models, data, and the shape of the thoughts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import model_validator
from typing_extensions import Self

from lrd_peft.config.choices import (
    Dtype,
    PromptStyle,
    PruneHow,
    Quantization,
    StepsStyle,
    StudentWeights,
    ThoughtProjectionKind,
)
from lrd_peft.config.fields import (
    NO_EFFECT,
    Affects,
    Columns,
    Count,
    CountOrZero,
    FractionBelowOne,
    Group,
    Layers,
    Name,
)


class ModelConfig(Group):
    """Base models of teacher and student, and how they are loaded."""

    teacher: Annotated[Name, Affects("teacher", when=("uses_teacher_model",))] = "tiny-teacher"
    """Teacher: hub id, folder, "smollm2", "tiny-teacher" or "tiny-student"."""
    student: Annotated[Name, Affects("student")] = "tiny-student"
    """Student: same forms as the teacher, or "teacher:N" for a copy of N blocks of the teacher."""
    teacher_revision: Annotated[Name | None, Affects("teacher", when=("uses_teacher_model",))] = None
    """Commit, tag or branch of the teacher on the hub."""
    student_revision: Annotated[Name | None, Affects("student")] = None
    """Commit, tag or branch of the student on the hub."""
    prune_how: Annotated[PruneHow, Affects("student")] = "spread"
    """Blocks that "teacher:N" keeps: evenly spread, the first N, both ends, or the first N-1 and the last."""
    keep_blocks: Annotated[Layers | None, Affects("student")] = None
    """Indices of the blocks that "teacher:N" keeps, from 0 (overrides prune_how)."""
    student_weights: Annotated[StudentWeights, Affects("student")] = "base"
    """Weights that "teacher:N" copies: the teacher's base model, or the trained teacher of phase 1."""
    dtype: Annotated[Dtype, Affects("teacher")] = "float32"
    """Data type of the computation."""
    quantization: Annotated[Quantization | None, Affects("teacher", when=("trains_teacher",))] = None
    """Load the teacher's weights in 4 or 8 bits (needs bitsandbytes and a GPU)."""
    trust_remote_code: Annotated[bool, NO_EFFECT] = False
    """Run code that ships with a model on the hub."""
    attn_implementation: Annotated[Name | None, NO_EFFECT] = None
    """Attention kernel: sdpa, eager, flash_attention_2, ... (default: chosen by transformers)."""

    @property
    def student_depth(self) -> int | None:
        """N if the student is "teacher:N", `None` if it is a model of its own."""
        kind, colon, depth = self.student.partition(":")
        if kind != "teacher" or not colon:
            return None
        if not (depth.isascii() and depth.isdigit()) or int(depth) < 1:
            raise ValueError(f'student is "{self.student}"; in "teacher:N" N must be a whole number above 0')
        return int(depth)

    @model_validator(mode="after")
    def _only_copies_have_trained_weights(self) -> Self:
        if self.student_depth is None and self.student_weights == "trained":
            raise ValueError(
                f'student_weights is "trained", but student is "{self.student}"; only "teacher:N" copies blocks of the '
                "teacher: set student to teacher:N, or student_weights to base"
            )
        return self

    @model_validator(mode="after")
    def _kept_blocks_match_the_depth(self) -> Self:
        kept, depth = self.keep_blocks, self.student_depth
        if kept is None:
            return self
        if depth is None:
            raise ValueError(
                f'keep_blocks selects blocks of "teacher:N", but student is "{self.student}"; '
                f'set student to "teacher:{len(kept)}" or drop keep_blocks'
            )
        if len(kept) != depth:
            raise ValueError(
                f'keep_blocks names {len(kept)} blocks, but student is "{self.student}"; '
                f'name {depth} blocks or set student to "teacher:{len(kept)}"'
            )
        if list(kept) != sorted(kept):
            raise ValueError(f"keep_blocks is {list(kept)}; list the blocks in rising order")
        return self


class DataConfig(Group):
    """Problems to train on, and how they are turned into text."""

    dataset: Annotated[Name, Affects("teacher")] = "gsm-mini"
    """Data set: gsm-mini, graph-mini, gsm8k, svamp, ..., a hub id, a file or a folder; "a+b" joins two."""
    data_dir: Annotated[Name | None, Affects("teacher")] = None
    """Folder with local copies of the named data sets, used instead of the hub."""
    columns: Annotated[Columns | None, Affects("teacher", added=None)] = None
    """Columns of files and hub ids: question=query answer=response; "body+question" joins two (default: recognized)."""
    num_train_problems: Annotated[Count | None, Affects("teacher")] = None
    """Maximum training problems per data set (default: all)."""
    num_validation_problems: Annotated[
        CountOrZero, Affects("teacher", when=("trains_teacher",)), Affects("student", when=("stops_early",))
    ] = 200
    """Problems per data set that are held out of the training split, for the teacher and for eval_steps."""
    steps_style: Annotated[StepsStyle, Affects("teacher")] = "text"
    """Form of the reasoning steps: full sentences, or equations only where the data set marks them."""
    prompt_style: Annotated[PromptStyle, Affects("teacher")] = "plain"
    """Form of the prompt: plain text or the tokenizer's chat template."""
    question_end: Annotated[str, Affects("teacher", added="\n")] = "\n"
    """Text after a plain question."""
    step_end: Annotated[str, Affects("teacher", added="\n")] = "\n"
    """Text after each written step."""
    answer_marker: Annotated[Name, Affects("teacher", added="### ")] = "### "
    """Text between the thoughts or the steps and the answer."""
    answer_prefix: Annotated[str, Affects("teacher", added="")] = ""
    """Text before the answer that is tokenized with it, such as the space of " 18"."""
    max_length: Annotated[Count | None, Affects("teacher")] = None
    """Maximum tokens per problem; longer ones are skipped and counted (default: the model's context)."""

    @property
    def prompt(self) -> dict[str, str]:
        """Form of the text around questions, steps and answers, by the names of the settings."""
        names = ("prompt_style", "question_end", "step_end", "answer_marker", "answer_prefix")
        return {name: getattr(self, name) for name in names}

    @property
    def column_names(self) -> dict[str, str]:
        """Field of a problem -> column, as `columns` names them."""
        pairs = (pair.partition("=") for pair in self.columns or ())
        return {field: column for field, _, column in pairs}

    @property
    def joined_names(self) -> tuple[str, ...]:
        """Names that `dataset` joins by `+`."""
        return tuple(part.strip() for part in self.dataset.split("+"))

    @property
    def dataset_parts(self) -> tuple[str, ...]:
        """Data sets to load: `joined_names`, except for an existing file with a + in its name."""
        return (self.dataset,) if Path(self.dataset).exists() else self.joined_names

    @model_validator(mode="after")
    def _no_name_is_empty(self) -> Self:
        if not all(self.joined_names):
            raise ValueError(f'dataset is "{self.dataset}"; it must be a name, or names joined by +')
        return self


class ThinkingConfig(Group):
    """Continuous thoughts: how many, and how they are computed."""

    thoughts_per_step: Annotated[Count, Affects("teacher")] = 1
    """Thoughts that replace one reasoning step."""
    max_stage: Annotated[CountOrZero, Affects("teacher")] = 4
    """Last stage of the curriculum: number of steps that are replaced by thoughts."""
    thought_projection: Annotated[ThoughtProjectionKind, Affects("teacher")] = "none"
    """Projection between a hidden state and the thought that is fed back."""
    projection_width: Annotated[Count | None, Affects("teacher", added=None)] = None
    """Width of the hidden layer of thought_projection mlp (default: the model's)."""
    projection_dropout: Annotated[FractionBelowOne, Affects("teacher", added=0.0)] = 0.0
    """Dropout in front of thought_projection."""
    thought_passes: Annotated[Count | None, Affects("teacher")] = None
    """Refine all thoughts in parallel in this many Jacobi passes (default: one thought after another)."""
    thought_placeholder: Annotated[bool, Affects("teacher", when=("has_markers",), added=False)] = False
    """Start thought_passes from the states of a pass with the token <latent> in every slot, as PCCoT's code does."""
    thought_markers: Annotated[bool, Affects("teacher", value="thinking.markers")] = False
    """Put the markers <bot> and <eot> around the thoughts."""

    stage0_markers: Annotated[bool, Affects("teacher", when=("has_markers",), added=False)] = False
    """Put the markers into rows without thoughts too, as Coconut's code does at stage 0."""
    marker_init: Annotated[Name | None, Affects("teacher", when=("has_markers",), added=None)] = None
    """Text of one token whose embedding new markers start from, such as Coconut's "<<" (default: mean of all)."""
    extra_stage: Annotated[
        bool,
        Affects("teacher", when=("trains_latent_teacher", "has_thoughts"), added=False),
        Affects("student", when=("follows_curriculum",), added=False),
    ] = False
    """Keep the steps beyond max_stage in its stage, and remove them in a further one, as Coconut's code does."""

    thoughts_fit_steps: Annotated[
        bool,
        Affects("teacher", when=("trains_latent_teacher", "has_thoughts"), added=False),
        Affects("student", when=("follows_curriculum",), added=False),
    ] = False
    """Train a problem with fewer steps than max_stage with thoughts for its own steps only, at the last stage."""

    @model_validator(mode="after")
    def _a_projection_has_its_options(self) -> Self:
        if self.projection_width is not None and self.thought_projection != "mlp":
            raise ValueError(
                f"projection_width is {self.projection_width}, but thought_projection is {self.thought_projection}; "
                "set thought_projection to mlp"
            )
        if self.projection_dropout > 0 and self.thought_projection == "none":
            raise ValueError(
                f"projection_dropout is {self.projection_dropout}, but thought_projection is none; set "
                "thought_projection to linear or mlp"
            )
        return self

    @model_validator(mode="after")
    def _markers_of_stage_0_are_markers(self) -> Self:
        if self.stage0_markers and not self.thought_markers:
            raise ValueError("stage0_markers is true, but thought_markers is false; set thought_markers to true")
        return self

    @model_validator(mode="after")
    def _a_placeholder_is_between_markers(self) -> Self:
        if self.thought_placeholder and not self.thought_markers:
            raise ValueError("thought_placeholder is true, but thought_markers is false; set thought_markers to true")
        return self

    @property
    def last_stage(self) -> int:
        """Number of the stage at which no step is written."""
        return self.max_stage + (self.extra_stage and self.max_stage > 0)

    @property
    def markers(self) -> bool | str:
        """Whether there are markers, and how they are trained: artifacts with labeled <eot> are not reused."""
        return "<eot> unlabeled" if self.thought_markers else False

    @property
    def num_thoughts(self) -> int:
        """Thoughts of a problem at the last stage."""
        return self.max_stage * self.thoughts_per_step
