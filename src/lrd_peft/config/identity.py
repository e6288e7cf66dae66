"""Which fields change the result of which phase, so that an artifact is reused or refused. Knows names only.

Each phase builds on the one before, so its identity holds that one's fields too. A method that skips a phase is not
told apart by that phase's fields. Fields that change where, how fast or how visibly a run works (output_dir, device,
num_threads, report_to, ...) belong to no phase.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from lrd_peft.methods import METHODS

Phase = Literal["teacher", "store", "student", "evaluation"]
PHASES: tuple[Phase, ...] = get_args(Phase)

_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_targets")

OWN_FIELDS: dict[Phase, tuple[str, ...]] = {
    "teacher": (
        *("teacher", "teacher_revision", "dtype", "quantization"),
        *("dataset", "data_dir", "num_train_problems", "num_validation_problems"),
        *("steps_style", "prompt_style", "max_length"),
        *("thoughts_per_step", "max_stage", "thought_projection", "thought_passes", "thought_markers"),
        *("teacher_tuning", "epochs_stage0", "epochs_per_stage", "epochs_last_stage", "uniform_prob"),
        *("teacher_step_loss_weight", "teacher_learning_rate", "teacher_batch_size", "teacher_seed"),
        # both trainings have these
        *("warmup_steps", "weight_decay", "max_grad_norm", "lr_scheduler"),
    ),
    "store": ("positions", "align_to", "store_dtype", "store_layers"),
    "student": (
        *("method", "student", "student_revision", "prune_how", "keep_blocks", "student_weights"),
        *("num_student_problems", "distill_alpha", "alpha_schedule", "distill_layers", "student_layers"),
        *("normalize", "distill_loss", "projector_init", "thoughts_from", "student_curriculum"),
        *("step_loss_weight", "token_alpha", "temperature", "codi_weight"),
        *("learning_rate", "batch_size", "gradient_accumulation_steps", "epochs", "max_steps", "max_seconds"),
        *_LORA,
        "seed",
    ),
    "evaluation": (
        *("methods", "eval_datasets", "num_eval_problems", "eval_split", "eval_batch_size", "max_new_tokens"),
    ),
}

NO_RESULT = (
    *("trust_remote_code", "attn_implementation", "shard_bytes", "output_dir", "device", "num_threads"),
    *("report_to", "run_name", "logging_steps", "save_steps"),
)

# Fields that came when artifacts and records were there already, with the value that does as was done before. It stands
# for a field that a record lacks, and has no part in a fingerprint.
LATER: dict[str, Any] = {
    "align_to": "thoughts",
    "teacher_step_loss_weight": 0.0,
    "step_loss_weight": 0.0,
    "num_student_problems": None,
    "alpha_schedule": "constant",
    "projector_init": "random",
    "student_curriculum": 0.0,
    "max_steps": None,
}


# Fields that count only for some methods.
_OF_LOSS = {
    "latent": (
        *("distill_alpha", "alpha_schedule", "distill_layers", "student_layers", "normalize", "distill_loss"),
        *("projector_init", "thoughts_from", "student_curriculum", "step_loss_weight"),
    ),
    "tokens": ("token_alpha", "temperature"),
    "self": ("codi_weight",),
}
_OF_TEACHER = (
    *("quantization", "num_validation_problems", "teacher_tuning", "epochs_stage0", "uniform_prob"),
    *("teacher_learning_rate", "teacher_batch_size"),
)
_OF_LATER_STAGES = ("epochs_per_stage", "epochs_last_stage", "teacher_step_loss_weight")
_OF_STUDENT_TRAINING = (
    *("num_student_problems", "learning_rate", "batch_size", "gradient_accumulation_steps"),
    *("epochs", "max_steps", "max_seconds"),
)
_OF_ANY_TRAINING = ("warmup_steps", "weight_decay", "max_grad_norm", "lr_scheduler")


def has_use_for(method: str, field: str) -> bool:
    """Return whether a field of some loss is one of this method's; any other field is."""
    losses = {loss for loss, names in _OF_LOSS.items() if field in names}
    return not losses or method not in METHODS or METHODS[method].loss in losses


def needed_teacher(values: Mapping[str, Any]) -> Literal["none", "cot", "latent"]:
    """Return which trained teacher the method goes back to: to learn from it, or to begin with its blocks."""
    row = METHODS[values["method"]]
    if row.needs == "teacher/latent" or (row.needs == "store" and values["align_to"] == "thoughts"):
        return "latent"
    begins_with = "none" if values["student_weights"] == "base" else row.begins_with
    if row.needs in ("teacher/cot", "store"):
        # The teacher that thinks is made from the one that writes.
        return "latent" if begins_with == "latent" else "cot"
    return begins_with


def needed_phases(values: Mapping[str, Any]) -> tuple[Phase, ...]:
    """Return the phases that a configuration's method goes through, in order."""
    row = METHODS[values["method"]]
    skipped: set[Phase] = set()
    if needed_teacher(values) == "none":
        skipped |= {"teacher"}
    if row.needs != "store":
        skipped |= {"store"}
    if row.trains == "nothing":
        skipped |= {"student"}
    return tuple(phase for phase in PHASES if phase not in skipped)


def _without_effect(values: Mapping[str, Any]) -> set[str]:
    """Return the fields that do nothing with the method of these values."""
    row = METHODS[values["method"]]
    unused = {name for loss, names in _OF_LOSS.items() if loss != row.loss for name in names}
    if values["max_stage"] == 0:
        unused |= {"teacher_step_loss_weight", "step_loss_weight", "student_curriculum"}
    teacher = needed_teacher(values)
    if teacher == "none":
        unused |= {*_OF_TEACHER, *_OF_LATER_STAGES}
        if not values["student"].startswith("teacher:"):
            unused |= {"teacher", "teacher_revision"}
    if teacher == "cot":
        unused |= set(_OF_LATER_STAGES)
    if row.needs != "store":
        unused |= set(OWN_FIELDS["store"])
    if values["distill_alpha"] == 0:
        unused |= {"alpha_schedule", "projector_init"}
    if values["max_steps"] is not None:
        unused |= {"epochs"}
    if row.trains == "nothing":
        unused |= {*_OF_STUDENT_TRAINING, "seed"}
        if teacher == "none":
            unused |= set(_OF_ANY_TRAINING)
    tunes_teacher = teacher != "none" and values["teacher_tuning"] != "full"
    if row.trains != "lora" and not tunes_teacher:
        unused |= set(_LORA)
    return unused


def phase_fields(values: Mapping[str, Any], phase: Phase) -> dict[str, Any]:
    """Return the values that decide what the phase produces, with those of the phases before it.

    Fields that do nothing with the method are left out. Values that mean the same are made the same: store_layers
    become what the store really holds, epochs_last_stage becomes epochs_per_stage, teacher_seed becomes seed,
    eval_datasets the parts of dataset.
    """
    names = [name for earlier in PHASES[: PHASES.index(phase) + 1] for name in OWN_FIELDS[earlier]]
    if values["teacher_tuning"] != "full":
        names += [name for name in _LORA if name not in names]
    unused = _without_effect(values)
    fields = {name: values[name] for name in names if name not in unused}
    if "epochs_last_stage" in fields and fields["epochs_last_stage"] is None:
        fields["epochs_last_stage"] = values["epochs_per_stage"]
    if "store_layers" in fields:
        fields["store_layers"] = stored_layers(values)
    if fields.get("num_student_problems") == values["num_train_problems"]:
        fields.pop("num_student_problems", None)
    if fields["teacher_seed"] is None:
        fields["teacher_seed"] = values["seed"]
    if "eval_datasets" in fields and values["eval_datasets"] is None:
        fields["eval_datasets"] = tuple(part.strip() for part in values["dataset"].split("+"))
    return fields


def stored_layers(values: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the teacher layers that the store holds, in rising order: layer 0, the thoughts, if they are fed in."""
    thoughts = () if values["thoughts_from"] == "student" else (0,)
    return tuple(sorted({*(values["store_layers"] or values["distill_layers"]), *thoughts}))


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for these fields and values, in whatever order."""
    counted = {name: value for name, value in fields.items() if name not in LATER or value != LATER[name]}
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return `(field, value in a, value in b)` where they differ; a field that one lacks has `None` there.

    Lists and tuples with the same elements are the same: JSON knows no tuples.
    """

    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    names = [*a, *(name for name in b if name not in a)]
    return [(name, a.get(name), b.get(name)) for name in names if plain(a.get(name)) != plain(b.get(name))]
