"""What we replace in transformers' Trainer: the order of the problems, the checkpoints, and a guard against NaN.

transformers provides the optimizer, schedule, accumulation, mixed precision and distribution. All private methods and
attributes of its Trainer that we rely on stand in this file; `OVERRIDDEN` and `ATTRIBUTES` name them for the test that
looks for them in the installed transformers.

A checkpoint holds the trainable tensors. On SIGINT or SIGTERM a training finishes its update and saves one, even
between two log lines: the sums of the unfinished log line are saved with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from lrd_peft.model.serialization import write_errors
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.processes import gather, is_sharded, num_processes, rank
from lrd_peft.training.callbacks import EndOnSignal, StopWhenLevel
from lrd_peft.training.checkpoints import LogLine, LogPart, last_checkpoint, mark_complete, read_marker
from lrd_peft.training.fsdp import like, load_whole_optimizer_state, own_part, whole, whole_optimizer_state
from lrd_peft.training.loss_log import LossLog
from lrd_peft.training.sampling import (
    ItemDataset,
    LengthBucketSampler,
    ProcessBatches,
    UpdateSampler,
    problems_per_update,
)

_WEIGHTS = "model.safetensors"

# Private methods of transformers' Trainer that are overridden here, with their parameters.
OVERRIDDEN = {
    "_defer_fsdp_gradient_reduction": (),
    "_get_num_items_in_batch": ("batch_samples", "device"),
    "_get_train_sampler": ("train_dataset",),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_save_checkpoint": ("model", "trial"),
    "_save_optimizer_and_scheduler": ("output_dir",),
}
# Attributes without documentation that are read or set here.
ATTRIBUTES = (
    "_globalstep_last_logged",
    "_loss_shifts_labels",
    "_tr_loss",
    "is_distributed_loading_by_transformers",
    "model_accepts_loss_kwargs",
)


class ResumableTrainer(Trainer):
    """transformers' Trainer whose resumed trainings equal uninterrupted ones bit for bit.

    Args:
        options: Arguments of transformers' Trainer. `train_dataset` is an `ItemDataset`.
    """

    # The loss is divided by the counts of the whole accumulated batch.
    loss_is_scaled_for_ga = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        self.add_callback(EndOnSignal(self.restore_log_line))
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        self.losses = LossLog()
        self.resumed: str | None = None

    def count_items(self, batches: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor | int:
        """Count the labels of an accumulated batch, over all processes."""
        raise NotImplementedError

    # Batches

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[tuple[int, int]]:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        assert isinstance(dataset, ItemDataset)
        return UpdateSampler(self._order(dataset), problems_per_update=problems_per_update(self.args))

    def _order(self, dataset: ItemDataset) -> LengthBucketSampler:
        lengths = [item.encoded.num_tokens for item in dataset.items]
        # Cut by update rather than by batch: 1 process x 8 problems takes the same problems as 8 x 1.
        return LengthBucketSampler(lengths, batch_size=problems_per_update(self.args), seed=self.args.seed)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's training batches."""
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        # accelerate's own sharding repeats problems to fill the last batches.
        dataset = self.train_dataset
        assert isinstance(dataset, ItemDataset)
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
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        return self.count_items(batch_samples, device)

    # The guard

    def check_finite(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss).all()):
            self._stop(f"the loss is {loss.item()} at update {self.state.global_step + 1}")

    def _stop(self, reason: str) -> NoReturn:
        last = last_checkpoint(Path(str(self.args.output_dir)), remove=False)
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint had been written yet"
        raise UserError(
            f"{reason}; training stops, {kept}. Lower the learning rate (now {self.args.learning_rate}) or "
            f"max_grad_norm ({self.args.max_grad_norm})"
        )

    def check_weights(self) -> None:
        """Stop before weights are saved that hold NaN or Inf; the loss of their last update may have been finite."""
        model = self.accelerator.unwrap_model(self.model)
        state = trainable_state(model)
        # Each process sees its own shards only; all of them stop, or none.
        bad = gather([name for name, value in state.items() if not bool(torch.isfinite(own_part(value)).all())])
        if bad:
            self._stop(f"{bad[0]} holds NaN or Inf after update {self.state.global_step}")

    # The log

    def restore_log_line(self) -> None:
        """Restore the sums of the log line that was unfinished when the checkpoint was written."""
        marker = read_marker(self.resumed) if self.resumed else None
        line = marker.log_line if marker else None
        if line and len(line.parts) == num_processes():  # another number of processes starts a new line
            part = line.parts[rank()]
            self.losses.load_state(part.sums, first_update=line.first_update, device=self.args.device)
            self._globalstep_last_logged = line.last_logged
            self._tr_loss = torch.tensor(part.loss, device=self.args.device)

    def _log_line(self) -> LogLine | None:
        if not self.losses.sums:
            return None
        self.check_finite(self.losses.total())
        part = LogPart(sums=self.losses.state(), loss=self._tr_loss.item())
        return LogLine(
            parts=tuple(gather([part])),  # of each process
            first_update=self.losses.first_update,
            last_logged=self._globalstep_last_logged,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values, and with the loss the means of its parts since the last line."""
        if "loss" in logs and self.losses.sums:
            sums = self.losses.sums
            if self.args.world_size > 1:  # each process has added up its own part
                self.losses.sums = {name: self.accelerator.reduce(value) for name, value in sums.items()}  # pyright: ignore
            self.check_finite(self.losses.total())
            logs |= self.losses.means(update=self.state.global_step)
            self.losses = LossLog()
        super().log(logs, start_time)

    # Checkpoints

    def has_ended(self, checkpoint: str) -> bool:
        """Load a checkpoint if it is that of the last update, and return whether it is.

        transformers would train one update more where the epochs are a fraction, or the training has stopped early.
        """
        state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
        *_, max_steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
        early = [each for each in self.callback_handler.callbacks if isinstance(each, StopWhenLevel)]
        if state.global_step < max_steps and not any(each.is_over(state) for each in early):
            return False
        self._load_from_checkpoint(checkpoint)
        self.state = state
        return True

    def save_trainable(self, folder: Path) -> None:
        """Write the tensors that are trained, as a checkpoint holds them."""
        assert isinstance(self.model, nn.Module)
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
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)  # pyright: ignore

    @contextlib.contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Generator[None, None, None]:
        # Unreduced gradients of a whole accumulated batch would take the memory that sharding saves.
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
        self.lr_scheduler.load_state_dict(schedule)  # pyright: ignore

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_weights()
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        log_line = self._log_line()
        with write_errors(folder, remove=self.args.should_save):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process has written its random state
            if self.args.should_save:
                update, problems = self.state.global_step, problems_per_update(self.args)
                mark_complete(folder, step=update, problems_per_update=problems, log_line=log_line)
        # A launcher stops all processes when the first one ends: none ends before the checkpoint counts.
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        marker, now = read_marker(resume_from_checkpoint), problems_per_update(self.args)
        then = marker.problems_per_update if marker else None
        if then not in (None, now):
            raise UserError(
                f"{resume_from_checkpoint} was made with {then} problems per update of all processes, now there are "
                f"{now}; start as many processes as then, or delete {Path(resume_from_checkpoint).parent}"
            )
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        state = load_file(os.path.join(resume_from_checkpoint, _WEIGHTS))
        own = dict(trainable_state(target))
        if own.keys() != state.keys():
            raise UserError(f"{resume_from_checkpoint} was made by another training: its tensors have other names")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(like(state[name], parameter))
        self.resumed = resume_from_checkpoint


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that require a gradient by name, a tied one once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
