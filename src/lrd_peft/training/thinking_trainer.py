"""The one trainer of this package: a thinking model, an objective, and held-out problems to evaluate on."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from lrd_peft.distillation import LossTerms
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.interrupt import until_safe
from lrd_peft.runtime.processes import is_sharded
from lrd_peft.training.callbacks import ShowProgress
from lrd_peft.training.curriculum import Item, StageCollator
from lrd_peft.training.fsdp import put_together, release, shard, views_allowed
from lrd_peft.training.loss_log import LossLog
from lrd_peft.training.objectives import Counts, Objective
from lrd_peft.training.overrides import ResumableTrainer
from lrd_peft.training.sampling import ItemDataset
from lrd_peft.training.validation import accuracy_metrics, answers, task_loss


class ThinkingTrainer(ResumableTrainer):
    """Trains a thinking model on an objective.

    Args:
        model: Model to train; parameters that require a gradient are trained.
        objective: Loss.
        items: Encoded training problems.
        collator: Makes their batches.
        args: transformers' training arguments.
        eval_items: Encoded problems to evaluate on.
        label: Label of the progress line.
        options: Further arguments of transformers' Trainer: `callbacks`, `optimizers`, `compute_metrics`, ...
    """

    def __init__(
        self,
        model: ThinkingModel,
        *,
        objective: Objective,
        items: Sequence[Item],
        collator: StageCollator,
        args: TrainingArguments,
        eval_items: Any = None,
        label: str = "training",
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
        **options: Any,
    ) -> None:
        collator = replace(collator, with_steps=objective.step_loss_weight > 0)
        super().__init__(
            model=model,
            args=args,
            train_dataset=ItemDataset(items),
            eval_dataset=eval_items,
            data_collator=collator,
            callbacks=[ShowProgress(label), *callbacks],
            **options,
        )
        self.objective = objective
        self._counts: Counts = {}

    @property
    def collator(self) -> StageCollator:
        """The collator of the training batches."""
        assert isinstance(self.data_collator, StageCollator)
        return self.data_collator

    @property
    def items(self) -> Sequence[Item]:
        """The training problems."""
        assert isinstance(self.train_dataset, ItemDataset)
        return self.train_dataset.items

    # Batches

    def as_items(self, dataset: Any) -> Sequence[Item]:
        """Return held-out problems as encoded items."""
        return dataset

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return a loader of the batches that the last update of a training would make of held-out problems."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]  # pyright: ignore
        if dataset is None:
            raise UserError("there is no eval_dataset; give the trainer or evaluate() one")
        final = replace(self.collator.fixed(self.collator.stage), with_steps=False)
        batch_size = self.args.eval_batch_size
        return DataLoader(self.as_items(dataset), batch_size=batch_size, collate_fn=final)  # pyright: ignore

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Return the same loader for `predict`."""
        return self.get_eval_dataloader(test_dataset)

    # Loss

    def count_items(self, batches: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor | int:
        """Count what the losses of an accumulated batch are divided by, over all processes; return the labels."""
        counts = self.objective.counts([batch for batch in batches if "fills" not in batch])
        if self.args.world_size > 1:
            own = torch.stack([torch.as_tensor(count, device=device) for count in counts.values()])
            total = self.accelerator.gather(own).reshape(-1, len(counts)).sum(dim=0)  # pyright: ignore
            counts = dict(zip(counts, total, strict=True))
        self._counts = {
            name: count.to(device) if isinstance(count, Tensor) else count for name, count in counts.items()
        }
        return self._counts["labels"]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute a batch's part of the loss of an update, or its own loss where `num_items_in_batch` is None.

        Args:
            model: Model in training.
            inputs: Batch on the model's device.
            return_outputs: Also return the `LossTerms`.
            num_items_in_batch: Number of labels of the accumulated batch, as transformers counts them.

        Returns:
            The scalar loss, and the terms if asked for.
        """
        accumulated = num_items_in_batch is not None
        fills = inputs.pop("fills", False)
        terms = self.objective(model, inputs, self._counts if accumulated else self.objective.counts([inputs]))
        if fills:
            terms = LossTerms(terms.total * 0.0, {name: part * 0.0 for name, part in terms.parts.items()})
        if accumulated:
            self.losses.add(terms, update=self.state.global_step)
        # DDP averages gradients over the processes; the counts are those of all processes already.
        loss = terms.total * (self.accelerator.num_processes if accumulated else 1)
        return (loss, terms) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run forward and backward passes of one batch.

        Raises:
            UserError: If the loss is NaN or Inf. On an accelerator this is checked at each log line only, because
                reading the loss would wait for the device.
        """
        loss = super().training_step(*args, **kwargs)
        release(self.model)
        if loss.device.type == "cpu":
            self.check_finite(loss)
        return loss

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers does.

        On SIGINT or SIGTERM the training saves a checkpoint after the current update and raises `Stopped`; a signal to
        one of several processes ends all of them after the same update.

        Args:
            resume_from_checkpoint: Folder of a checkpoint of this training.
            args: Passed on to transformers' `train`.
            kwargs: Passed on to transformers' `train`.

        Returns:
            transformers' `TrainOutput`, or None if the checkpoint is that of the last update.

        Raises:
            UserError: If the loss or a weight is NaN or Inf, or the checkpoint belongs to another training.
        """
        self.losses, self.resumed = LossLog(), None
        if isinstance(resume_from_checkpoint, str) and self.has_ended(resume_from_checkpoint):
            self.accelerator.wait_for_everyone()  # all have read the checkpoint before one removes it
            return None
        self.objective.begin(self.args.device)
        model = self.model
        with until_safe(), views_allowed():
            if is_sharded():
                assert isinstance(model, ThinkingModel)
                if getattr(self.args, "activation_checkpointing", self.args.gradient_checkpointing):
                    raise UserError(
                        "gradient_checkpointing is on, but the weights are sharded (FSDP); use one of the two"
                    )
                self.model = self.model_wrapped = shard(model, self.args.device, half=self.args.bf16)
                self.is_distributed_loading_by_transformers = True  # keeps Trainer from wrapping it again
            try:
                result = super().train(resume_from_checkpoint, *args, **kwargs)
            except pickle.UnpicklingError as error:
                raise UserError(
                    f"{resume_from_checkpoint} holds pickled objects other than tensors and numbers, which are never "
                    "loaded; it was not written by this trainer: delete that folder"
                ) from error
            self.check_weights()
            if self.is_distributed_loading_by_transformers:
                put_together(self.model, model)
                self.model = self.callback_handler.model = model.to(self.args.device)  # pyright: ignore[reportArgumentType]
                self.optimizer = self.callback_handler.optimizer = None
                self.lr_scheduler = self.callback_handler.lr_scheduler = None
                self.is_distributed_loading_by_transformers = False
            if self.args.world_size > 1:
                # DDP's hooks stay on the parameters as long as the wrapper lives; the next training must not meet them.
                self.model_wrapped = self.model
                self.accelerator.free_memory()
        return result

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure loss and accuracy on held-out problems (see `evaluation_loop`).

        Args:
            eval_dataset: Held-out problems. Default: those of the constructor.
            ignore_keys: Has no effect.
            metric_key_prefix: Prefix of the metrics' names.

        Returns:
            The metrics by name, such as `eval_loss` and `eval_accuracy`.
        """
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Answer problems.

        Args:
            test_dataset: Problems.
            ignore_keys: Has no effect.
            metric_key_prefix: Prefix of the metrics' names.

        Returns:
            The model's answers as `predictions`, the right ones as `label_ids`, and the metrics of `evaluate`.
        """
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Measure the task loss and the accuracy on held-out problems.

        The loss is the mean per labeled token. The accuracy is that of the answers which the model generates; it is
        left out with `TrainingArguments(prediction_loss_only=True)`, and while weights are sharded. `compute_metrics`
        gets the answers as `predictions` (None where none was found) and the right ones as `label_ids`.

        Args:
            dataloader: Loader of `get_eval_dataloader`.
            description: Label of the progress line.
            prediction_loss_only: Has no effect; the training argument of this name decides.
            ignore_keys: Has no effect.
            metric_key_prefix: Prefix of the metrics' names.

        Returns:
            The answers and the metrics `loss`, `accuracy`, `accuracy_low`, `accuracy_high` (Wilson 95% interval) and
            `num_problems`, each with the prefix.
        """
        held_out, final = dataloader.dataset, dataloader.collate_fn
        assert isinstance(held_out, Sequence) and isinstance(final, StageCollator)
        batch_size = self.args.eval_batch_size
        was_training = self.model.training
        self.model.eval()
        loss = task_loss(
            self.model,
            held_out,
            final,
            batch_size=batch_size,
            device=self.args.device,
            autocast=lambda: self.accelerator.autocast(),
            after_batch=lambda: release(self.model),
        )
        metrics: dict[str, Any] = {"loss": loss}
        predictions: Any = None
        gold = [item.encoded.problem.answer for item in held_out]
        if not self.args.prediction_loss_only and not self.is_distributed_loading_by_transformers:
            assert isinstance(self.model, ThinkingModel)
            results = answers(self.model, held_out, self.items, batch_size=batch_size, label=description.lower())
            predictions = [result.predicted for result in results]
            metrics |= accuracy_metrics(results)
            if self.compute_metrics is not None:
                metrics |= self.compute_metrics(EvalPrediction(predictions, gold))  # pyright: ignore
        self.model.train(was_training)
        prefix = f"{metric_key_prefix}_"
        metrics = {name if name.startswith(prefix) else prefix + name: value for name, value in metrics.items()}
        return EvalLoopOutput(predictions, gold, metrics, len(held_out))  # pyright: ignore[reportArgumentType]

    def curve(self) -> list[dict[str, Any]]:
        """Return the log of the training: update, loss and its parts; without times, so that equal runs are equal."""
        kept = ("step", "epoch", "loss", "task", "written", "distill", "step_loss")
        kept += ("learning_rate", "grad_norm", "eval_loss", "eval_accuracy", "eval_thought_distance")
        rows = []
        for row in self.state.log_history:
            chosen = {name: float(row[name]) for name in row if name in kept or name.startswith("distill_layer_")}
            if "loss" in chosen or "eval_loss" in chosen:
                rows.append(chosen)
        return rows

    # Files

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as a folder that `from_pretrained` and PEFT load.

        Args:
            output_dir: Folder; the training's `output_dir` if not given.
            _internal_call: Set by transformers where it writes a checkpoint, which holds trainable tensors only.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        if _internal_call:
            self.save_trainable(folder)
        elif self.args.should_save:
            assert isinstance(self.model, ThinkingModel)
            self.model.save_pretrained(folder)
