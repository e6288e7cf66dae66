"""The auxiliary decoders of a run's step losses: copies of the base models that last as long as a training."""

from __future__ import annotations

import logging

from lrd_peft.config import RunConfig
from lrd_peft.data.encoding import Encoded
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.step_decoder import StepDecoder
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.from_config import load_options, start_student
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.training.curriculum import Item, items
from lrd_peft.training.decoded_steps import DecodedSteps

logger = logging.getLogger(__name__)


def add_student_decoder(config: RunConfig, run: RunPaths, student: StudentModel) -> None:
    """Give a student its decoder, if the configuration asks for one: the model that it starts from, all trained."""
    if config.decodes_student_steps:
        base = start_student(config, run, ThinkingOptions(), method=config.student.method, dtype="float32")
        _attach(config, student, base, both_paths=config.method.objective == "self")


def add_teacher_decoder(config: RunConfig, teacher: TeacherModel) -> None:
    """Give a teacher its decoder for one stage, if the configuration asks for one."""
    if config.decodes_teacher_steps:
        options = {**load_options(config, student=False), "dtype": "float32"}
        options.pop("quantization", None)
        _attach(config, teacher, TeacherModel(config.model.teacher, **options), both_paths=False)


def new_decoder(config: RunConfig, base: ThinkingModel, *, both_paths: bool) -> StepDecoder:
    """Return a decoder around the LM of a model that nothing else uses."""
    thinking = config.thinking
    if both_paths:
        return StepDecoder(base.lm, form="both-paths", num_groups=thinking.num_thoughts + 1)
    return StepDecoder(
        base.lm, form="curriculum", num_groups=thinking.max_stage, thoughts_per_group=thinking.thoughts_per_step
    )


def _attach(config: RunConfig, model: ThinkingModel, base: ThinkingModel, *, both_paths: bool) -> None:
    decoder = new_decoder(config, base, both_paths=both_paths).to(model.device)
    model.step_decoder = decoder
    count = sum(parameter.numel() for parameter in decoder.parameters() if parameter.requires_grad)
    logger.info(f"auxiliary decoder: {count} parameters are trained beside the model and dropped afterwards")


def decoded_steps(model: ThinkingModel, *, weight: float) -> DecodedSteps | None:
    """Return the step loss of a model's decoder; None without one."""
    return None if model.step_decoder is None else DecodedSteps(model.step_decoder, weight=weight)


def with_targets(config: RunConfig, model: ThinkingModel, encoded: list[Encoded] | tuple[Encoded, ...]) -> list[Item]:
    """Number the problems of a training, with what the model's decoder must write if it has one."""
    if model.step_decoder is None:
        return items(encoded)
    drops = model.step_decoder.form == "both-paths" and config.both_paths.drop_last_step
    return items(model.encoder.with_step_targets(encoded, most=model.step_decoder.num_groups, drop_last_step=drops))
