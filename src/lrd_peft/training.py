"""What every training of a thinking model shares: batches, checkpoints, the guard against NaN. Knows no teacher.

Built on transformers' Trainer: optimizer, schedule, accumulation, mixed precision and distribution are its own; weights
that are spread over processes are sharding.py's.
A checkpoint holds the trainable tensors only; which ones count is checkpoints.py's. A training that is asked to end
(interrupt.py) finishes its optimizer step and saves one, between two log lines too: the sums of the line that is under
way go with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from lrd_peft.callbacks import EndOnSignal, ShowProgress
from lrd_peft.checkpoints import last_checkpoint, mark_complete, read_marker
from lrd_peft.curriculum import Item, StageCollator
from lrd_peft.data.collate import IGNORED
from lrd_peft.errors import UserError
from lrd_peft.interrupt import until_safe
from lrd_peft.model.saving import write_errors
from lrd_peft.model.thinking_model import ThinkingModel, ThinkingOutput
from lrd_peft.processes import gather, is_sharded, num_processes, rank
from lrd_peft.sampling import LengthBucketSampler, ProcessBatches, StepSampler, Taken, problems_per_step
from lrd_peft.sharding import (
    like,
    load_whole_optimizer_state,
    own_part,
    put_together,
    release,
    shard,
    whole,
    whole_optimizer_state,
)

_WEIGHTS = "model.safetensors"


class ThinkingTrainer(Trainer):
    """Trains a thinking model on the task loss: cross-entropy, mean over the labelled tokens of an optimizer step.

    With a `step_loss_weight` the loss has one more term, the mean cross-entropy of the tokens of replaced steps, each
    step written from its last thought (written_steps.py); the collator is then asked for them.

    Args:
        model: the model; what requires a gradient is trained.
        items: encoded problems.
        collator: makes their batches at one stage.
        args: transformers' arguments.
        label: what the progress line calls this training.
        step_loss_weight: weight of that term, at least 0.

    Raises:
        UserError: if the weight is negative.
    """

    # Ours are divided by the counts of the whole accumulated batch.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: ThinkingModel,
        *,
        items: Sequence[Item],
        collator: StageCollator,
        args: TrainingArguments,
        eval_items: Sequence[Item] | None = None,
        label: str = "training",
        step_loss_weight: float = 0.0,
    ) -> None:
        if not step_loss_weight >= 0:
            raise UserError(f"step_loss_weight is {step_loss_weight}; it must be 0 (no such term) or above")
        self.step_loss_weight = step_loss_weight
        if step_loss_weight > 0:
            collator = replace(collator, with_steps=True)
        super().__init__(
            model=model,
            args=args,
            train_dataset=Taken(items),
            eval_dataset=eval_items,  # pyright: ignore[reportArgumentType]
            data_collator=collator,  # pyright: ignore[reportArgumentType]
            callbacks=[ShowProgress(label)],
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(EndOnSignal(self.take_up_log_line))
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        self._collator = collator
        self._sums: dict[str, Tensor] = {}
        self._first_noted = 0
        self._resumed: str | None = None
        self._num_step_labels: Tensor | int = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[tuple[int, int]]:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        assert isinstance(dataset, Taken)
        return StepSampler(self._order(dataset), problems_per_step=problems_per_step(self.args))

    def _order(self, dataset: Taken) -> LengthBucketSampler:
        lengths = [item.encoded.num_tokens for item in dataset.items]
        # The problems of an optimizer step, however it is accumulated and shared out: 1 x 8 takes the same as 8 x 1.
        return LengthBucketSampler(lengths, batch_size=problems_per_step(self.args), seed=self.args.seed)

    def get_train_dataloader(self) -> DataLoader[Any]:
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        # accelerate's own sharding fills the last batches up with problems that the epoch has had already.
        dataset = self.train_dataset
        assert isinstance(dataset, Taken)
        batches = ProcessBatches(
            self._order(dataset),
            batch_size=self.args.train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            rank=self.args.process_index,
            num_processes=self.args.world_size,
        )
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self._collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Make batches as the last optimizer step takes them, without the steps that thoughts must write."""
        self.data_collator = replace(self._collator, rise_steps=0, with_steps=False)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = self._collator

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if self.step_loss_weight > 0:
            self._num_step_labels = self._count_labels(batch_samples, "step_labels", device)
        return self._count_labels(batch_samples, "labels", device)

    def _count_labels(self, batch_samples: list[Any], name: str, device: torch.device) -> Tensor | int:
        """Return how many labels an optimizer step has under a name, in all its batches and processes."""
        num_labels = sum(batch[name].ne(IGNORED).sum() for batch in batch_samples if name in batch)
        if self.args.world_size > 1:  # one of the processes may have none
            num_labels = self.accelerator.gather(torch.as_tensor(num_labels, device=device)).sum()  # pyright: ignore
        return num_labels.to(device) if torch.is_tensor(num_labels) else num_labels

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        output = model(**inputs)
        loss = output.loss_sum / (output.num_labels if num_items_in_batch is None else num_items_in_batch)
        if self.step_loss_weight > 0:
            step_loss = self.step_loss(output, inputs, accumulated=num_items_in_batch is not None)
            self.note(task=loss, step_loss=step_loss)
            loss = loss + self.step_loss_weight * step_loss
        self.note(loss=loss)
        loss = loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def step_loss(self, output: ThinkingOutput, inputs: Mapping[str, Any], *, accumulated: bool) -> Tensor:
        """Return the mean cross-entropy of the tokens that thoughts must write, 0 where a batch has none.

        Args:
            accumulated: the mean is over the tokens of the whole optimizer step, not of this batch.
        """
        if output.step_loss_sum is None:
            return torch.zeros_like(output.loss_sum)
        return output.step_loss_sum / (
            self._num_step_labels if accumulated else inputs["step_labels"].ne(IGNORED).sum()
        )

    def note(self, **terms: Tensor) -> None:
        """Add to the running sums of the loss's parts; nothing is read from the device before the next log."""
        if not self._sums:
            self._first_noted = self.state.global_step
        for name, value in terms.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        release(self.model)
        # On an accelerator this would wait for the device at each micro-batch; there the sums are checked at each log.
        if loss.device.type == "cpu":
            self._check_finite(loss)
        return loss

    def _check_finite(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss).all()):
            self._stop(f"the loss is {loss.item()} at step {self.state.global_step + 1}")

    def _check_sums(self) -> None:
        self._check_finite(torch.stack([value.float() for value in self._sums.values()]).sum())

    def _stop(self, reason: str) -> NoReturn:
        last = last_checkpoint(Path(str(self.args.output_dir)), remove=False)
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint had been written yet"
        raise UserError(
            f"{reason}; training stops, {kept}. Lower the learning rate (now {self.args.learning_rate}) or "
            f"max_grad_norm ({self.args.max_grad_norm})"
        )

    def _check_weights(self) -> None:
        """Stop before weights are kept that a last bad gradient has spoilt after a finite loss."""
        model = self.accelerator.unwrap_model(self.model)
        state = trainable_state(model)
        # Of shards each process sees its own; all stop, or none.
        bad = gather([name for name, value in state.items() if not bool(torch.isfinite(own_part(value)).all())])
        if bad:
            self._stop(f"{bad[0]} holds NaN or Inf after step {self.state.global_step}")

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers does; where a signal asks for it, save and raise `Stopped` after the step.

        A signal that one of several processes gets ends them all, after the same step.

        Raises:
            UserError: if the loss or a weight is NaN or Inf, or the checkpoint is not one of this training.
        """
        self._sums, self._resumed = {}, None
        if isinstance(resume_from_checkpoint, str) and self._has_ended(resume_from_checkpoint):
            self.accelerator.wait_for_everyone()  # all have read the checkpoint before one removes it
            return None
        model = self.model
        with until_safe():
            if is_sharded():
                assert isinstance(model, ThinkingModel)
                self.model = self.model_wrapped = shard(model, self.args.device, half=self.args.bf16)
                self.is_distributed_loading_by_transformers = True  # nothing more is to be wrapped around it
            try:
                result = super().train(resume_from_checkpoint, *args, **kwargs)
            except pickle.UnpicklingError as error:
                raise UserError(
                    f"{resume_from_checkpoint} holds more than tensors and numbers, and such a file is not opened: "
                    "it is none of ours; delete that folder"
                ) from error
            self._check_weights()
            if self.is_distributed_loading_by_transformers:
                put_together(self.model, model)
                self.model = self.callback_handler.model = model.to(self.args.device)  # pyright: ignore[reportArgumentType]
                self.optimizer = self.callback_handler.optimizer = None
                self.lr_scheduler = self.callback_handler.lr_scheduler = None
                self.is_distributed_loading_by_transformers = False
            if self.args.world_size > 1:
                # DDP's hooks stay on the parameters as long as it lives: the next training must not meet them.
                self.model_wrapped = self.model
                self.accelerator.free_memory()
        return result

    def _has_ended(self, checkpoint: str) -> bool:
        """Load a checkpoint of the last step; transformers would take one step more where epochs are a fraction."""
        state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
        *_, max_steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
        if state.global_step < max_steps:
            return False
        self._load_from_checkpoint(checkpoint)
        self.state = state
        return True

    def take_up_log_line(self) -> None:
        """Go on with the sums of the log line that was under way when the checkpoint was written."""
        line = read_marker(self._resumed).get("log_line") if self._resumed else None
        if line and len(line["parts"]) == num_processes():  # another number of processes begins a line anew
            part = line["parts"][rank()]
            self._sums = {
                name: torch.tensor(value, dtype=getattr(torch, dtype), device=self.args.device)
                for name, (value, dtype) in part["sums"].items()
            }
            self._first_noted = line["first_noted"]
            self._globalstep_last_logged = line["last_logged"]
            self._tr_loss = torch.tensor(part["loss"], device=self.args.device)

    def _log_line(self) -> dict[str, Any] | None:
        if not self._sums:
            return None
        self._check_sums()
        sums = {name: [value.item(), str(value.dtype).split(".")[1]] for name, value in self._sums.items()}
        return {
            "parts": gather([{"sums": sums, "loss": self._tr_loss.item()}]),  # of each process
            "first_noted": self._first_noted,
            "last_logged": self._globalstep_last_logged,
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._sums:
            steps = max(1, self.state.global_step - self._first_noted)
            if self.args.world_size > 1:  # each process has noted its part
                self._sums = {name: self.accelerator.reduce(value) for name, value in self._sums.items()}  # pyright: ignore
            self._check_sums()
            logs |= {name: (value / steps).item() for name, value in self._sums.items() if name != "loss"}
            self._sums = {}
        super().log(logs, start_time)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            prepared: Any = self._prepare_inputs(inputs)
            output = model(**prepared)
        release(self.model)
        return output.loss_sum / output.num_labels, None, None

    def curve(self) -> list[dict[str, Any]]:
        """Return the log of the training: step, loss and its parts; without clocks, so that equal runs are equal."""
        kept = ("step", "epoch", "loss", "task", "written", "distill", "step_loss")
        kept += ("learning_rate", "grad_norm", "eval_loss")
        rows = []
        for row in self.state.log_history:
            chosen = {name: float(row[name]) for name in row if name in kept or name.startswith("distill_layer_")}
            if "loss" in chosen or "eval_loss" in chosen:
                rows.append(chosen)
        return rows

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        state = {name: whole(value) for name, value in trainable_state(self.model).items()}
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(state, folder / _WEIGHTS)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded():
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.lr_scheduler is not None
        state = whole_optimizer_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    @contextlib.contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Generator[None, None, None]:
        # Whole gradients that wait for the last batch of a step would take the memory that is to be spared.
        yield

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert self.lr_scheduler is not None
        state, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True, mmap=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        load_whole_optimizer_state(self.optimizer, state)
        self.lr_scheduler.load_state_dict(schedule)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._check_weights()
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        log_line = self._log_line()
        with write_errors(folder, remove=self.args.should_save):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process has written its random state
            if self.args.should_save:
                step, problems = self.state.global_step, problems_per_step(self.args)
                mark_complete(folder, step=step, problems_per_step=problems, log_line=log_line)
        # A launcher that sees one process end stops the others: none ends before the checkpoint counts.
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        then, now = read_marker(resume_from_checkpoint).get("problems_per_step"), problems_per_step(self.args)
        if then not in (None, now):
            raise UserError(
                f"{resume_from_checkpoint} was made with {then} problems in an optimizer step of all processes, now "
                f"there are {now}; start as many processes as then, or delete {Path(resume_from_checkpoint).parent}"
            )
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        state = load_file(os.path.join(resume_from_checkpoint, _WEIGHTS))
        own = dict(trainable_state(target))
        if own.keys() != state.keys():
            raise UserError(f"{resume_from_checkpoint} was made by another training: its tensors have other names")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(like(state[name], parameter))
        self._resumed = resume_from_checkpoint


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that require a gradient, a tied one once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
