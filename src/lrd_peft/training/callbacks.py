"""Trainer callbacks: the progress line, optimizer restarts, an end when accuracy is level, and on SIGINT or SIGTERM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from lrd_peft.runtime.interrupt import signal_asked, take_up
from lrd_peft.runtime.processes import highest
from lrd_peft.runtime.progress import Progress


class ShowProgress(TrainerCallback):
    """Shows the progress of a training.

    Args:
        label: Label of the progress line.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the progress line."""
        if state.is_world_process_zero:
            self.progress = Progress(self.label, total=state.max_steps, unit="updates", initial=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count an update."""
        if self.progress is not None:
            self.progress.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Show the loss."""
        if self.progress is not None and logs and "loss" in logs:
            self.progress.update(state.global_step, f"loss {float(logs['loss']):.4f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the progress line."""
        if self.progress is not None:
            self.progress.close()


class RestartOptimizer(TrainerCallback):
    """Clears the optimizer's moments at each change of stage, as the curricula do (arXiv 2405.14838, 2412.06769).

    Args:
        stage_at: Returns the stage of an update.
    """

    def __init__(self, stage_at: Callable[[int], int]) -> None:
        self.stage_at = stage_at

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Clear the moments before the first update of a stage."""
        update = state.global_step
        if update and self.stage_at(update) != self.stage_at(update - 1):
            optimizer.state.clear()


class RestartEachEpoch(RestartOptimizer):
    """Clears the optimizer's moments at each epoch, as Coconut's shipped configuration does.

    Args:
        updates_per_epoch: Updates of an epoch.
    """

    def __init__(self, updates_per_epoch: int) -> None:
        super().__init__(lambda update: update // updates_per_epoch)


class StopWhenLevel(TrainerCallback):
    """Ends a training when its validation accuracy no longer rises.

    It counts in the training's own log, so that a resumed training ends after the same update.

    Args:
        patience: Evaluations in a row that are no better than the best one before them.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def is_over(self, state: Any) -> bool:
        """Return whether the accuracies in a trainer's state have been level for long enough."""
        found = [row["eval_accuracy"] for row in state.log_history if "eval_accuracy" in row]
        return bool(found) and len(found) - 1 - found.index(max(found)) >= self.patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if the accuracy has been level for long enough."""
        if self.is_over(state):
            control.should_training_stop = True


class EndOnSignal(TrainerCallback):
    """Ends a training after the update in which a signal arrived.

    Args:
        restore_log_line: Restores the unfinished log line of a resumed training.
    """

    def __init__(self, restore_log_line: Callable[[], None]) -> None:
        self.restore_log_line = restore_log_line

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restore the unfinished log line."""
        self.restore_log_line()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop if any process has received a signal."""
        if number := highest(signal_asked()):
            take_up(number)
            control.should_save = control.should_training_stop = True
