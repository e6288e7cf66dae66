"""LRDPEFTTrainer: trains a student on the task and on its teacher's hidden states.

    L = alpha L_distill + (1 - alpha) L_task + step_loss_weight L_step

The teacher's states come from a store, or from the frozen teacher, which then runs during training. Both give the same
loss.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from lrd_peft.config.methods import check_stages, rising_plan
from lrd_peft.data.rows import as_problems
from lrd_peft.lora import create_lora_model
from lrd_peft.model.loop import unwrap
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.processes import is_sharded
from lrd_peft.store import Store
from lrd_peft.training.alignment import AlignmentPlan, attach_projectors, plan_alignment
from lrd_peft.training.callbacks import RestartOptimizer
from lrd_peft.training.curriculum import Item, encode_items, last_stage
from lrd_peft.training.objectives import LatentObjective, Objective, TaskObjective
from lrd_peft.training.projector_fit import fit_projectors
from lrd_peft.training.sampling import count_updates
from lrd_peft.training.teacher_states import TeacherStates
from lrd_peft.training.thinking_trainer import ThinkingTrainer
from lrd_peft.training.training_arguments import check_supported, default_arguments, distillation_options

logger = logging.getLogger(__name__)

# Training problems whose refined thoughts are compared with sequential ones.
_NUM_COMPARED = 256

Model = TypeVar("Model", bound=ThinkingModel)


class LRDPEFTTrainer(ThinkingTrainer):
    """Distills a teacher's latent reasoning into a student. A transformers `Trainer`.

    The constructor checks that everything fits; it runs no model and adds nothing to the student but `peft_config`'s
    adapters. `train` attaches the projectors that different widths need, measures the teacher's variance, fits the
    projectors if asked to, and then trains.

    Args:
        student_model: The student, usually with LoRA adapters: a `StudentModel`, a model name or folder, or a
            transformers or PEFT model (then `processing_class` is needed).
        teacher_model: The teacher, in the same forms. It runs during training and is frozen then. Or
        store: its hidden states on disk, in the order of `train_dataset`. With `distill_alpha=0` neither is needed.
        train_dataset: Problems, dicts, a `datasets.Dataset` or a data frame (see `lrd_peft.data.rows.as_problems`).
        eval_dataset: Held-out problems in the same forms, or several sets of them by name.
        train_indices: Indices of the problems in `train_dataset` to train on. Default: all.
        columns: Field of a problem -> column of the data, for example `{"question": "query"}`.
        args: `LRDPEFTConfig`, or plain `TrainingArguments`. Default: `LRDPEFTConfig()`, with an evaluation after each
            epoch if there is an `eval_dataset`.
        processing_class: Tokenizer of a student or teacher given as a transformers model. A model given by name keeps
            its own tokenizer.
        peft_config: PEFT's configuration of adapters to add to the student.
        callbacks: transformers callbacks.
        optimizers: Optimizer and schedule to use instead of those of `args`.
        compute_metrics: Function of an `EvalPrediction` whose `predictions` are the student's answers and whose
            `label_ids` are the right ones.
        distillation: Options of `LRDPEFTConfig` by name, such as `distill_alpha=0.1` and `distill_layers=[8, 12]`. They
            take precedence over those of `args`.

    Raises:
        UserError: If a value is out of range, an argument is not supported, or teacher, store, student and problems do
            not fit together.

    Example:
        >>> from lrd_peft import LRDPEFTConfig, LRDPEFTTrainer, load_problems
        >>> trainer = LRDPEFTTrainer(
        ...     student_model="tiny-student",
        ...     teacher_model="tiny-teacher",
        ...     train_dataset=load_problems("gsm-mini", split="train", limit=8),
        ...     peft_config=LoraConfig(r=4, target_modules="all-linear"),
        ...     args=LRDPEFTConfig(output_dir="out", max_steps=1, use_cpu=True),
        ...     distill_alpha=0.1,
        ... )
        >>> trainer.train().global_step
        1
    """

    def __init__(
        self,
        *,
        student_model: StudentModel | PreTrainedModel | PeftModel | str,
        teacher_model: TeacherModel | PreTrainedModel | PeftModel | str | None = None,
        store: Store | None = None,
        train_dataset: Any,
        eval_dataset: Any = None,
        train_indices: Sequence[int] | None = None,
        columns: Mapping[str, str] | None = None,
        args: TrainingArguments | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: LoraConfig | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
        optimizers: tuple[Any, Any] = (None, None),
        compute_metrics: Any = None,
        **distillation: Any,
    ) -> None:
        args = copy.copy(args) if args is not None else default_arguments(evaluate=eval_dataset is not None)
        args.remove_unused_columns = False
        check_supported(args)
        self.distillation, rows = distillation_options(args, distillation)
        config = self.distillation
        self._columns = columns
        problems = as_problems(train_dataset, columns=columns)
        chosen = _check_indices(train_indices, len(problems))
        teacher = None if teacher_model is None else _as_model(TeacherModel, teacher_model, processing_class)
        num_thoughts = store.spec.num_thoughts if store is not None else teacher and teacher.options.num_thoughts
        student = _as_model(StudentModel, student_model, processing_class, num_thoughts=num_thoughts)
        if peft_config is not None:
            _adapt(student, peft_config)
        self.student = student
        self.plan: AlignmentPlan | None = None
        objective: Objective = TaskObjective(step_loss_weight=config.step_loss_weight)
        if config.reads_states:
            self.plan = plan_alignment(student, teacher=teacher, store=store, problems=problems, config=config)
            if config.distill_layers is None:
                logger.info("aligning layers of the teacher -> of the student: %s", dict(self.plan.layer_map))
            objective = LatentObjective(
                TeacherStates(self.plan, teacher=teacher, store=store, problems=problems),
                alpha=config.distill_alpha,
                alpha_schedule=config.alpha_schedule,
                normalize=config.normalize,
                distill_loss=config.distill_loss,
                step_loss_weight=config.step_loss_weight,
                progress=lambda: (self.state.global_step, self.state.max_steps),
                seed=args.seed,
            )
        collator = last_stage(student, thoughts_per_step=rows.thoughts_per_step, with_steps=config.step_loss_weight > 0)
        try:
            check_stages("student_curriculum", config.student_curriculum, last=collator.stage)
        except ValueError as error:
            raise UserError(str(error)) from error
        uniform_prob = rows.uniform_prob if config.has_curriculum else 0.0
        items = encode_items(collator, [problems[i] for i in chosen], whose="student", all_stages=config.has_curriculum)
        self._held_out_collator = collator
        super().__init__(
            student,
            objective=objective,
            items=[replace(item, index=i) for item, i in zip(items, chosen, strict=True)],
            collator=replace(collator, uniform_prob=uniform_prob, seed=args.seed),
            args=args,
            eval_items=self._encode_held_out(eval_dataset),
            label="student",
            callbacks=callbacks,
            optimizers=optimizers,
            compute_metrics=compute_metrics,
        )
        self._optimizers = optimizers
        self._is_prepared = False
        if optimizers[0] is not None:
            self._check_optimizer()
        if config.has_curriculum:
            self.add_callback(RestartOptimizer(lambda update: self.collator.scheduled_stage(update)))

    @property
    def layer_map(self) -> dict[int, int]:
        """Teacher layer -> student layer; empty where nothing is aligned."""
        return {} if self.plan is None else dict(self.plan.layer_map)

    def prepare(self, *, fit: bool = True) -> None:
        """Do what a training needs before its first update; `train` calls this, and only the first call has an effect.

        The student gets the projectors that it lacks, drawn from the training's seed; an online teacher is frozen and
        moved to the training's device; its variance is measured where the loss divides by it and the store does not
        have it; projectors are fitted with `projector_init="least-squares"`.

        Args:
            fit: Fit the projectors; not needed where a checkpoint replaces them.
        """
        if self._is_prepared:
            return
        self._is_prepared = True
        if self.plan is None:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.args.seed)
            attach_projectors(self.student, self.plan)
        assert isinstance(self.objective, LatentObjective)
        self.objective.begin(self.args.device)
        if fit and self.distillation.projector_init == "least-squares":
            fit_projectors(
                self.student,
                self.objective.states,
                self.items,
                self._held_out_collator,
                batch_size=self.args.per_device_train_batch_size,
            )

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        *args: Any,
        epochs: float | None = None,
        learning_rate: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Train with a new optimizer.

        Args:
            resume_from_checkpoint: Folder of a checkpoint of this training.
            args: Passed on to transformers' `train`.
            epochs: Epochs of this call, instead of those of the arguments.
            learning_rate: Peak learning rate of this call, instead of that of the arguments.
            kwargs: Passed on to transformers' `train`.

        Returns:
            transformers' `TrainOutput`, or None if the checkpoint is that of the last update.
        """
        given = self.args
        self.args = copy.copy(given)
        if epochs is not None:
            self.args.num_train_epochs, self.args.max_steps = epochs, -1
        if learning_rate is not None:
            self.args.learning_rate = learning_rate
        if self.distillation.has_curriculum:
            plan = rising_plan(
                self.collator.stage, self.collator.thoughts_per_step, self.distillation.student_curriculum
            )
            updates = count_updates(self.args, len(self.items))
            self.data_collator = replace(self.collator, **plan.in_updates(updates))
        # A second call would continue with the optimizer and the learning rate of the first.
        self.optimizer, self.lr_scheduler = self._optimizers
        try:
            self.prepare(fit=not resume_from_checkpoint)
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.args = given

    def as_items(self, dataset: Any) -> Sequence[Item]:
        """Encode held-out problems in any form that the constructor takes."""
        if isinstance(dataset, list) and all(isinstance(item, Item) for item in dataset):
            return dataset
        problems = as_problems(dataset, columns=self._columns)
        if not problems:
            raise UserError("eval_dataset is empty; there is nothing to evaluate on")
        return encode_items(replace(self._held_out_collator, with_steps=False), problems, whose="student")

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Measure what `ThinkingTrainer` measures, and `thought_distance` where thoughts are refined in training.

        That is how far the refined thoughts of some training problems are from the student's sequential ones (see
        `relative_distance`). Left out before the training, and while weights are sharded.
        """
        result = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        refines = self._is_prepared and self.plan is not None and self.plan.refine_passes > 0
        if refines and not is_sharded():
            assert isinstance(self.objective, LatentObjective)
            was_training = self.student.training
            distance = self.objective.states.distance_of_refined(
                self.student.eval(),
                self.items[:_NUM_COMPARED],
                self._held_out_collator,
                batch_size=self.args.eval_batch_size,
            )
            self.student.train(was_training)
            assert result.metrics is not None
            result.metrics[f"{metric_key_prefix}_thought_distance"] = distance
        return result

    def push_to_hub(self, *_: Any, **__: Any) -> Any:
        """Refuse: the student uploads itself."""
        raise UserError("call trainer.student.push_to_hub(...): it uploads a student that from_pretrained loads")

    def _encode_held_out(self, dataset: Any) -> Any:
        if dataset is None:
            return None
        if isinstance(dataset, Mapping) and not hasattr(dataset, "to_dict"):
            return {name: self.as_items(each) for name, each in dataset.items()}
        return self.as_items(dataset)

    def _check_optimizer(self) -> None:
        missing = [layer for layer in self.layer_map if str(layer) not in self.student.projectors]
        if self.plan is not None and self.plan.projected_layers and missing:
            raise UserError(
                "the optimizer was made before the student had its projectors; call "
                "attach_projectors(student, plan_alignment(...)) (lrd_peft.training.alignment) first, or leave out "
                "optimizers"
            )


def _check_indices(indices: Sequence[int] | None, num_problems: int) -> Sequence[int]:
    if num_problems == 0:
        raise UserError("train_dataset is empty; there is nothing to train on")
    if indices is None:
        return range(num_problems)
    if not indices:
        raise UserError("train_indices is empty; there is nothing to train on")
    if wrong := [i for i in indices if not 0 <= i < num_problems]:
        raise UserError(f"train_indices has {wrong[0]}, but train_dataset has {num_problems} problems")
    return indices


def _as_model(
    kind: type[Model], model: Any, tokenizer: PreTrainedTokenizerBase | None, *, num_thoughts: int | None = None
) -> Model:
    """Return a model of ours for a name, a folder, or a transformers or PEFT model."""
    if isinstance(model, kind):
        return model
    if isinstance(model, ThinkingModel):
        raise UserError(f"a {kind.__name__} is needed here, not a {type(model).__name__}")
    options = None if num_thoughts is None else ThinkingOptions(num_thoughts=num_thoughts)
    if isinstance(model, PeftModel):
        wrapped = kind(unwrap(model), tokenizer=tokenizer, options=options)
        wrapped.lm = model
        return wrapped
    if isinstance(model, str | Path):  # It brings its own tokenizer; `tokenizer` is for the other model.
        loaded = kind.from_pretrained(model)
        if options is not None and not loaded.is_saved:
            loaded.options = options
        return loaded
    return kind(model, tokenizer=tokenizer, options=options)


def _adapt(student: StudentModel, config: LoraConfig) -> None:
    if student.has_adapters:
        raise UserError("student_model has adapters already; leave out peft_config, or give a model without adapters")
    create_lora_model(student, peft_config=config)
