"""The named choices of the configuration, declared once for flags, YAML files and the Python API."""

from __future__ import annotations

from typing import Any, Literal, get_args

from lrd_peft.runtime.errors import UserError, nearest

# Models
Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["4bit", "8bit"]
PruneHow = Literal["spread", "first", "drop-middle", "drop-deep"]
StudentWeights = Literal["base", "trained"]
ThoughtProjectionKind = Literal["none", "linear", "mlp"]

# Data
ForceMarker = Literal["thoughts", "all", "never"]
EvalSplit = Literal["test", "validation", "train"]
StepsStyle = Literal["text", "equations"]
PromptStyle = Literal["plain", "chat"]
AnswerKind = Literal["numeric", "math", "option", "text", "boolean"]
ProblemField = Literal["question", "steps", "answer", "options", "subject", "num_steps", "id"]

# Training
TeacherTuning = Literal["full", "lora", "qlora"]
RemovalSide = Literal["left", "right"]
OptimizerReset = Literal["stage", "epoch"]
LearningRateSchedule = Literal["linear", "cosine", "constant"]
Tracker = Literal["none", "wandb", "tensorboard", "trackio"]

# Distillation
Positions = Literal["thoughts+answer", "thoughts", "all"]
AlignTo = Literal["thoughts", "steps"]
AlphaSchedule = Literal["constant", "falling", "rising"]
Normalization = Literal["variance", "none"]
DistillLoss = Literal["mse", "cosine", "smooth-l1"]
SelfDistance = Literal["smooth-l1", "l1", "l2"]
SelfScale = Literal["problem", "batch", "none"]
ProjectorInit = Literal["random", "least-squares"]
StepDecoderKind = Literal["own", "auxiliary"]
DecoderForm = Literal["curriculum", "both-paths"]
ThoughtsFrom = Literal["student", "teacher", "annealed", "refined"]


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Check a value from Python against the choices that a `Literal` declares.

    Args:
        name: Name of the option, for the message.
        value: Value to check.
        choices: A `Literal` type such as `Positions`.

    Raises:
        UserError: If the value is not one of the choices. The message lists them and suggests the nearest.
    """
    known = get_args(choices)
    if value not in known:
        hint = nearest(str(value), known)
        raise UserError(f'{name} is "{value}"; it must be one of {", ".join(known)}.{hint}')
