"""LRDPEFTTrainer: phase 3, a student that learns the task and the teacher's hidden states. Knows no run folders.

    L = alpha L_distill + (1 - alpha) L_task + step_loss_weight L_step        (distillation.py, model/written_steps.py)

The teacher's states come from a store or from the teacher itself (frozen, run beside the student); both give one loss.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from lrd_peft.callbacks import RestartOptimizer
from lrd_peft.data.collate import to_device
from lrd_peft.data.problem import Problem
from lrd_peft.distillation import LatentDistillationLoss, check_alpha, combine
from lrd_peft.errors import UserError, nearest
from lrd_peft.model.models import StudentModel, TeacherModel
from lrd_peft.model.thinking_model import POSITIONS, ThinkingOutput
from lrd_peft.pairing import fitting, last_stage
from lrd_peft.projectors import LinearFit, num_problems_to_fit, spread
from lrd_peft.sampling import Taken, count_steps
from lrd_peft.store import ALIGN_TO, Store
from lrd_peft.teacher_states import TeacherStates
from lrd_peft.training import ThinkingTrainer

THOUGHTS_FROM = ("student", "teacher", "annealed")
ALPHA_SCHEDULES = ("constant", "falling", "rising")
PROJECTOR_INITS = ("random", "least-squares")


class LRDPEFTTrainer(ThinkingTrainer):
    """Distils a teacher's thoughts into a student.

    Args:
        student_model: the student, usually with LoRA adapters; projectors are added to it where the widths differ.
        teacher_model: the teacher to run online; or
        store: its states on disk, in the order of `train_dataset`. Neither is needed when `distill_alpha` is 0.
        train_dataset, eval_dataset: problems.
        train_indices: those of train_dataset to train on, all if None.
        distill_alpha: weight of the distillation loss, in [0, 1].
        alpha_schedule: `constant`; `falling`, times 1 - step / steps; or `rising`, times step / steps.
        distill_layers: the teacher's layers, `hidden_states` convention.
        student_layers: the student's; None maps by relative depth.
        positions: `thoughts+answer`, `thoughts` or `all`.
        align_to: `thoughts`, or `steps`: a store holds the teacher's states at the ends of written steps instead, and
            slots without one have no part in the loss.
        projector_init: how the projectors begin: `random`, or `least-squares`, fitted to what the untrained
            student holds.
        thoughts_from: whose thoughts fill the student's slots in training: its own (`student`), the teacher's, mapped
            to the student's width (`teacher`: one parallel pass), or the teacher's with a probability that falls from
            1 to 0 (`annealed`).
        curriculum: share of the steps over which thoughts replace steps one by one, as in phase 1, from none to all; a
            batch with k thoughts is aligned to the teacher's first k and at the answer position. 0: all from the start.
        step_loss_weight: weight of the steps that the thoughts must write (training.py), 0 for none.
        thoughts_per_step: how many of the student's thoughts stand for one step; matters for these two only.
        args: transformers' training arguments; None makes SPEC.md's defaults (AdamW, 1e-4, batch 4, 3 epochs, 10%
            warm-up).

    Raises:
        UserError: if a value is out of range, or teacher, store and student do not fit together.
    """

    def __init__(
        self,
        *,
        student_model: StudentModel,
        teacher_model: TeacherModel | None = None,
        store: Store | None = None,
        train_dataset: Sequence[Problem],
        eval_dataset: Sequence[Problem] | None = None,
        train_indices: Sequence[int] | None = None,
        distill_alpha: float = 0.1,
        alpha_schedule: str = "constant",
        distill_layers: Sequence[int] = (8, 9, 10, 11, 12),
        student_layers: Sequence[int] | None = None,
        normalize: str = "variance",
        distill_loss: str = "mse",
        positions: str = "thoughts+answer",
        align_to: str = "thoughts",
        projector_init: str = "random",
        thoughts_from: str = "student",
        curriculum: float = 0.0,
        step_loss_weight: float = 0.0,
        thoughts_per_step: int = 1,
        args: TrainingArguments | None = None,
        output_dir: str | Path | None = None,
        label: str = "student",
    ) -> None:
        self.alpha = check_alpha(distill_alpha)
        if not train_dataset:
            raise UserError("train_dataset is empty; there is nothing to train on")
        if train_indices is not None:
            if not train_indices:
                raise UserError("train_indices is empty; there is nothing to train on")
            if wrong := [i for i in train_indices if not 0 <= i < len(train_dataset)]:
                raise UserError(f"train_indices has {wrong[0]}, but train_dataset has {len(train_dataset)} problems")
        for name, value, known in (
            ("thoughts_from", thoughts_from, THOUGHTS_FROM),
            ("positions", positions, POSITIONS),
            ("align_to", align_to, ALIGN_TO),
            ("alpha_schedule", alpha_schedule, ALPHA_SCHEDULES),
            ("projector_init", projector_init, PROJECTOR_INITS),
        ):
            if value not in known:
                raise UserError(f'{name} is "{value}"; it must be one of {", ".join(known)}.{nearest(value, known)}')
        if not 0.0 <= curriculum < 1.0:
            raise UserError(f"curriculum is {curriculum}; it must lie in [0, 1), a share of the optimizer steps")
        if curriculum > 0 and positions == "all":
            raise UserError('a curriculum writes steps that the teacher thinks; use positions="thoughts+answer"')
        self.student = student_model
        self.alpha_schedule, self.thoughts_from, self.curriculum = alpha_schedule, thoughts_from, curriculum
        self.teacher_states: TeacherStates | None = None
        if self.alpha > 0 or thoughts_from != "student":
            self.teacher_states = TeacherStates(
                student_model,
                teacher=teacher_model,
                store=store,
                problems=train_dataset,
                distill_layers=distill_layers,
                student_layers=student_layers,
                positions=positions,
                align_to=align_to,
                thoughts_from=thoughts_from,
            )
        self._positions = positions
        self.criterion = LatentDistillationLoss(tuple(self.layer_map), loss=distill_loss, normalize=normalize)
        collator = last_stage(student_model, thoughts_per_step=thoughts_per_step, with_steps=step_loss_weight > 0)
        chosen = range(len(train_dataset)) if train_indices is None else train_indices
        fit = fitting(collator, [train_dataset[i] for i in chosen], whose="student", all_stages=curriculum > 0)
        super().__init__(
            student_model,
            items=[replace(item, index=i) for item, i in zip(fit, chosen, strict=True)],
            eval_items=fitting(collator, eval_dataset, whose="student") if eval_dataset else None,
            collator=collator,
            args=args or default_arguments(output_dir, evaluate=bool(eval_dataset)),
            label=label,
            step_loss_weight=step_loss_weight,
        )
        self._variance: dict[int, float] | None = None
        self._num_positions: Tensor | int = 0
        if self.teacher_states is not None:
            if teacher_model is not None:
                teacher_model.to(self.args.device)
            self._variance = self.teacher_states.variance(measure=normalize == "variance")
            if projector_init == "least-squares":
                self._fit_projectors(self.teacher_states)
        if curriculum > 0:
            self.add_callback(RestartOptimizer(lambda step: self._collator.stage_at(step)))

    @property
    def layer_map(self) -> dict[int, int]:
        """Teacher layer -> student layer; empty where nothing is aligned."""
        return {} if self.teacher_states is None else self.teacher_states.layer_map

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        *,
        epochs: float | None = None,
        learning_rate: float | None = None,
        **options: Any,
    ) -> Any:
        """Train from a new optimizer; `epochs` and `learning_rate` replace those of the arguments."""
        if epochs is not None:
            self.args.num_train_epochs = epochs
        if learning_rate is not None:
            self.args.learning_rate = learning_rate
        if self.curriculum > 0:
            assert isinstance(self.train_dataset, Taken)
            rise = self.curriculum * count_steps(self.args, len(self.train_dataset))
            self._collator = replace(self._collator, rise_steps=round(rise, 9))  # 0.28 * 25 is a little over 7
            self.data_collator = self._collator
        # A second call would otherwise go on with the first one's optimizer and rate.
        self.optimizer = self.lr_scheduler = None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if self.teacher_states is not None:
            count = sum(self.teacher_states.count(batch) for batch in batch_samples)
            self._num_positions = max(1, count)  # none at all where no problem has written steps
            if self.args.world_size > 1:
                everywhere = self.accelerator.gather(torch.tensor(count, device=device))
                self._num_positions = everywhere.sum().clamp(min=1)  # pyright: ignore
        return super()._get_num_items_in_batch(batch_samples, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if self.teacher_states is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        teacher, thoughts = self.teacher_states.read(inputs)
        output: ThinkingOutput = model(
            **inputs,
            layer_map=self.layer_map,
            positions=self._positions,
            teacher_thoughts=thoughts if self._use_teacher_thoughts() else None,
        )
        teacher, mask = self.teacher_states.match(teacher, inputs, output)
        accumulated = num_items_in_batch is not None
        distill, per_layer = self.criterion(
            output.states,
            teacher,
            mask=mask,
            variance=self._variance,
            num_positions=self._num_positions if accumulated else None,
        )
        task = output.loss_sum / (output.num_labels if num_items_in_batch is None else num_items_in_batch)
        terms = combine(distill, task, alpha=self._scheduled_alpha(), per_layer=per_layer)
        total, more = terms.total, {}
        if self.step_loss_weight > 0:
            more["step_loss"] = self.step_loss(output, inputs, accumulated=accumulated)
            total = total + self.step_loss_weight * more["step_loss"]
        if accumulated:
            more |= {f"distill_layer_{layer}": value for layer, value in terms.per_layer.items()}
            self.note(loss=total, distill=terms.distill, task=terms.task, **more)
        loss = total * (self.accelerator.num_processes if accumulated else 1)
        return (loss, output) if return_outputs else loss

    def _share_done(self) -> float:
        return self.state.global_step / max(1, self.state.max_steps)

    def _scheduled_alpha(self) -> float:
        done = self._share_done()
        return self.alpha * {"constant": 1.0, "falling": 1.0 - done, "rising": done}[self.alpha_schedule]

    def _use_teacher_thoughts(self) -> bool:
        if self.thoughts_from == "annealed":
            return random.Random(f"{self.args.seed}/{self.state.global_step}").random() >= self._share_done()
        return self.thoughts_from == "teacher"

    @torch.no_grad()
    def _fit_projectors(self, teacher_states: TeacherStates) -> None:
        """Begin the projectors as the best linear maps of what the untrained student holds, thinking for itself."""
        own = self.student.projectors
        fits = {layer: LinearFit(cast(nn.Linear, own[str(layer)])) for layer in self.layer_map if str(layer) in own}
        if not fits:
            return
        assert isinstance(self.train_dataset, Taken)
        chosen = spread(self.train_dataset.items, num_problems_to_fit(self.student.hidden_size))
        collator = replace(self._collator, with_steps=False)
        was_training = self.student.training
        self.student.eval()
        for start in range(0, len(chosen), self.args.per_device_train_batch_size):
            batch = collator(chosen[start : start + self.args.per_device_train_batch_size])
            inputs = to_device(batch, self.student.device)
            states, _ = teacher_states.read(inputs)
            output = self.student(
                **inputs, layers=sorted(set(self.layer_map.values())), positions=self._positions, with_loss=False
            )
            states, mask = teacher_states.match(states, inputs, output)
            for layer, fit in fits.items():
                fit.add(output.states[self.layer_map[layer]][mask], states[layer][mask])
        for fit in fits.values():
            fit.solve()
        self.student.train(was_training)


def default_arguments(output_dir: str | Path | None, *, evaluate: bool = False) -> TrainingArguments:
    """Return SPEC.md's hyperparameters: AdamW 1e-4, batch 4, 3 epochs, 10% warm-up."""
    return TrainingArguments(
        output_dir=str(output_dir or tempfile.mkdtemp(prefix="lrd-")),
        per_device_train_batch_size=4,
        num_train_epochs=3,
        learning_rate=1e-4,
        warmup_steps=0.1,
        weight_decay=0.0,
        logging_steps=10,
        save_strategy="no",
        eval_strategy="epoch" if evaluate else "no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
