"""What teacher, store, student and problems must agree on before a student is trained. Knows no losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lrd_peft.curriculum import Item, StageCollator, items
from lrd_peft.data.problem import Problem
from lrd_peft.errors import UserError
from lrd_peft.model.facts import context_length, fingerprint_tokenizer
from lrd_peft.model.models import StudentModel, TeacherModel
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.store import Store


def check_pair(
    student: StudentModel,
    teacher: TeacherModel | None,
    store: Store | None,
    *,
    layers: Sequence[int],
    positions: str,
    align_to: str,
    thoughts_from: str,
) -> tuple[int, int]:
    """Return the teacher's width and number of blocks, from the store or from the teacher beside the student.

    Raises:
        UserError: if there is not one of the two, or it does not fit the student or what is asked of it.
    """
    if (store is None) == (teacher is None):
        raise UserError("give the trainer a teacher_model or a store, one of the two, unless distill_alpha is 0")
    if positions == "thoughts" and student.options.num_thoughts == 0:
        raise UserError('positions="thoughts" with 0 thoughts leaves nothing to distil; use "thoughts+answer"')
    if align_to == "steps" and (store is None or thoughts_from != "student"):
        raise UserError(
            'align_to="steps" needs a store made with it, no online teacher, and thoughts_from="student": extract '
            'first, or use align_to="thoughts"'
        )
    if store is not None:
        spec = store.spec
        if align_to != spec.align_to:
            raise UserError(f'the store is made for align_to "{spec.align_to}", the trainer wants "{align_to}"')
        missing = [layer for layer in layers if layer not in spec.layers]
        if missing:
            raise UserError(
                f"the store holds layers {list(spec.layers)} of the teacher; distill_layers asks for "
                f"{missing} as well: extract again with these layers"
            )
        if thoughts_from != "student" and 0 not in spec.layers:
            raise UserError(
                f'thoughts_from="{thoughts_from}" needs layer 0 (the thoughts themselves) in the store; '
                f"it holds {list(spec.layers)}"
            )
        if spec.num_thoughts != student.options.num_thoughts:
            raise UserError(
                f"the store was made with {spec.num_thoughts} thoughts and the student thinks "
                f"{student.options.num_thoughts}; they must be equal"
            )
        if positions != spec.positions and not (positions == "thoughts" and spec.positions == "thoughts+answer"):
            raise UserError(f'the store holds positions "{spec.positions}", the trainer wants "{positions}"')
        width, blocks = spec.hidden_size, int(spec.num_blocks)
        tokenizer = spec.fingerprints.get("tokenizer", "")
    else:
        assert teacher is not None
        if teacher.options.num_thoughts != student.options.num_thoughts:
            raise UserError(
                f"the teacher thinks {teacher.options.num_thoughts} thoughts and the student "
                f"{student.options.num_thoughts}; they must be equal"
            )
        width, blocks = teacher.hidden_size, teacher.num_blocks
        tokenizer = fingerprint_tokenizer(teacher.tokenizer)
    if positions == "all" and tokenizer != fingerprint_tokenizer(student.tokenizer):
        raise UserError(
            'positions="all" needs teacher and student to have one tokenizer (their tokens must align one to one); '
            'these differ: use positions="thoughts+answer"'
        )
    return width, blocks


def last_stage(model: ThinkingModel, *, thoughts_per_step: int = 1, with_steps: bool = False) -> StageCollator:
    """Return what makes a model's batches when all steps are thoughts.

    Raises:
        UserError: if the model's thoughts are no whole number of steps.
    """
    num_thoughts = model.options.num_thoughts
    if thoughts_per_step < 1 or num_thoughts % thoughts_per_step:
        raise UserError(
            f"thoughts_per_step is {thoughts_per_step}, but the student thinks {num_thoughts} thoughts; it must be a "
            "whole part of that number"
        )
    stage = num_thoughts // thoughts_per_step
    return StageCollator(
        model, stage=stage, max_stage=stage, thoughts_per_step=thoughts_per_step, with_steps=with_steps
    )


def fitting(
    collator: StageCollator, problems: Sequence[Problem], *, whose: str, all_stages: bool = False
) -> list[Item]:
    """Encode problems for the last stage, or for all.

    Raises:
        UserError: if some are longer, thoughts included, than the model's context, or a step that a thought must write.
    """
    model = collator.model
    encoded = items(model.encoder.encode_many(problems))
    limit = context_length(unwrap(model.lm).config)
    thoughts = model.options.num_thoughts
    stages = range(collator.stage + 1) if all_stages else (collator.stage,)
    rows_at = [replace(collator, stage=stage).rows(encoded) for stage in stages]
    lengths = [
        max(length for row in rows for length in (row.length, *(len(step.ids) for step in row.steps)))
        for rows in zip(*rows_at, strict=True)
    ]
    num_too_long = 0 if limit is None else sum(length > limit for length in lengths)
    if num_too_long:
        beside = ", or steps that a thought must write," if collator.with_steps else ""
        beside += ", or steps that are written until then," if all_stages else ""
        raise UserError(
            f"{num_too_long} of {len(problems)} problems with their {thoughts} thoughts{beside} are longer than the "
            f"{whose}'s context of {limit} tokens (the longest has {max(lengths)}); leave them out before they reach "
            "the trainer"
        )
    return encoded


def check_same_problems(store: Store, problems: Sequence[Problem]) -> None:
    """Raise a UserError unless row i of the store is problem i."""
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
