"""The plan of an alignment: which teacher layers a student is compared with, where, and what that needs.

`plan_alignment` only reads and checks. `attach_projectors` is the one call that changes the student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrd_peft.config.distill_options import DistillConfig
from lrd_peft.data.problem import Problem
from lrd_peft.distillation import map_layers
from lrd_peft.model.fingerprints import fingerprint_tokenizer
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.store import Store


@dataclass(frozen=True, slots=True)
class AlignmentPlan:
    """How a student is aligned to a teacher.

    Attributes:
        layer_map: Teacher layer -> student layer, as indices into transformers' `hidden_states`.
        positions: Positions that are compared: `thoughts+answer`, `thoughts` or `all`.
        align_to: What a thought is compared with: the teacher's `thoughts`, or its states at the ends of `steps`.
        thoughts_from: Whose thoughts fill the student's slots in training: `student`, `teacher`, `annealed` or
            `refined`.
        refine_passes: Parallel passes of `refined`; 0 for the others.
        num_thoughts: Thoughts of both models.
        student_hidden_size: Width of the student.
        teacher_hidden_size: Width of the teacher.
    """

    layer_map: Mapping[int, int]
    positions: str
    align_to: str
    thoughts_from: str
    refine_passes: int
    num_thoughts: int
    student_hidden_size: int
    teacher_hidden_size: int

    @property
    def projected_layers(self) -> tuple[int, ...]:
        """Teacher layers that need a projector from the student's width to the teacher's."""
        return tuple(self.layer_map) if self.student_hidden_size != self.teacher_hidden_size else ()

    @property
    def reads_thoughts(self) -> bool:
        """Whether training feeds the teacher's thoughts to the student."""
        return self.thoughts_from != "student"


def plan_alignment(
    student: ThinkingModel,
    *,
    teacher: TeacherModel | None = None,
    store: Store | None = None,
    problems: Sequence[Problem],
    config: DistillConfig,
) -> AlignmentPlan:
    """Check that student, teacher or store, and problems fit together, and plan their alignment.

    Nothing is changed and no model runs.

    Args:
        student: Student to align.
        teacher: Teacher that runs during training, or
        store: its hidden states on disk. Give exactly one of the two.
        problems: Training problems, in the order of the store.
        config: What is aligned. Without `distill_layers`, layers 8 to 12 are, where the teacher has them, else its last
            five, or the layers of the store if it does not hold these.

    Returns:
        The plan.

    Raises:
        UserError: If something does not fit. The message names both values and a way out.
    """
    positions, align_to, thoughts_from = config.positions, config.align_to, config.thoughts_from
    if (store is None) == (teacher is None):
        raise UserError("give the trainer a teacher_model or a store, one of the two, unless distill_alpha is 0")
    num_thoughts = student.options.num_thoughts
    if positions == "thoughts" and num_thoughts == 0:
        raise UserError('positions="thoughts" with 0 thoughts leaves nothing to distill; use "thoughts+answer"')
    if align_to == "steps" and (store is None or thoughts_from != "student"):
        raise UserError(
            'align_to="steps" needs a store made with it, no online teacher, and thoughts_from="student": extract '
            'first, or use align_to="thoughts"'
        )
    if store is not None:
        width, blocks = store.spec.hidden_size, store.spec.num_blocks
        tokenizer = store.spec.fingerprints.get("tokenizer", "")
        layers = _chosen_layers(config, blocks, stored=store.spec.layers)
        _check_store(store, num_thoughts, layers=layers, config=config)
    else:
        assert teacher is not None
        if teacher.options.num_thoughts != num_thoughts:
            raise UserError(
                f"the teacher thinks {teacher.options.num_thoughts} thoughts and the student {num_thoughts}; "
                "they must be equal"
            )
        width, blocks = teacher.hidden_size, teacher.num_blocks
        tokenizer = fingerprint_tokenizer(teacher.tokenizer) if positions == "all" else ""
        layers = _chosen_layers(config, blocks, stored=None)
    if positions == "all" and tokenizer != fingerprint_tokenizer(student.tokenizer):
        raise UserError(
            'positions="all" compares tokens one to one, so teacher and student must share one tokenizer, and these '
            'differ: use positions="thoughts+answer"'
        )
    layer_map = map_layers(
        layers, teacher_blocks=blocks, student_blocks=student.num_blocks, student_layers=config.student_layers
    )
    if store is not None:
        _check_same_problems(store, problems)
    return AlignmentPlan(
        layer_map=layer_map,
        positions=positions,
        align_to=align_to,
        thoughts_from=thoughts_from,
        refine_passes=config.num_refine_passes,
        num_thoughts=num_thoughts,
        student_hidden_size=student.hidden_size,
        teacher_hidden_size=width,
    )


def _chosen_layers(config: DistillConfig, num_blocks: int, *, stored: Sequence[int] | None) -> Sequence[int]:
    layers = config.resolved(teacher_blocks=num_blocks).distill_layers
    assert layers is not None
    if config.distill_layers is None and stored is not None and not set(layers) <= set(stored):
        layers = tuple(layer for layer in stored if layer > 0) or tuple(stored)
        config.checked(**config.model_dump() | {"distill_layers": layers})  # student_layers must pair with them, too
    return layers


def attach_projectors(student: StudentModel, plan: AlignmentPlan) -> None:
    """Add to a student the trainable maps that a plan needs; does nothing where the widths are equal.

    The maps are `nn.Linear` modules with weights drawn from torch's global random generator. Maps that the student has
    already are kept.

    Args:
        student: Student to change.
        plan: Plan that was made for it.
    """
    student.attach_projectors(
        tuple(plan.layer_map), teacher_hidden_size=plan.teacher_hidden_size, thoughts=plan.reads_thoughts
    )


def _check_store(store: Store, num_thoughts: int, *, layers: Sequence[int], config: DistillConfig) -> None:
    spec, positions = store.spec, config.positions
    if config.align_to != spec.align_to:
        raise UserError(f'the store is made for align_to "{spec.align_to}", the trainer wants "{config.align_to}"')
    missing = [layer for layer in layers if layer not in spec.layers]
    if missing:
        raise UserError(
            f"the store holds layers {list(spec.layers)} of the teacher; distill_layers also asks for {missing}: "
            "extract again with these layers"
        )
    if config.thoughts_from != "student" and 0 not in spec.layers:
        raise UserError(
            f'thoughts_from="{config.thoughts_from}" needs layer 0 (the thoughts themselves) in the store; '
            f"it holds {list(spec.layers)}"
        )
    if spec.num_thoughts != num_thoughts:
        raise UserError(
            f"the store was made with {spec.num_thoughts} thoughts and the student thinks {num_thoughts}; "
            "they must be equal"
        )
    if positions != spec.positions and not (positions == "thoughts" and spec.positions == "thoughts+answer"):
        raise UserError(f'the store holds positions "{spec.positions}", the trainer wants "{positions}"')


def _check_same_problems(store: Store, problems: Sequence[Problem]) -> None:
    """Check that row i of the store is problem i."""
    if len(store) != len(problems):
        raise UserError(
            f"the store holds {len(store)} problems and train_dataset {len(problems)}: they must be the same, in order"
        )
    for i, problem in enumerate(problems):
        stored = str(store.row(i)["question"])
        if stored != problem.question:
            raise UserError(
                f"the store was made from other problems: its problem {i} begins with {stored[:60]!r}, "
                f"that of train_dataset with {problem.question[:60]!r}"
            )
