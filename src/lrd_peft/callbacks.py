"""What a training does between its steps: shows how far it is, begins a stage, ends when asked to. Knows no losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from lrd_peft.interrupt import signal_asked, take_up
from lrd_peft.processes import highest
from lrd_peft.progress import Progress


class ShowProgress(TrainerCallback):
    """Shows progress."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress = Progress(self.label, total=state.max_steps, unit="steps", initial=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress is not None:
            self.progress.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if self.progress is not None and logs and "loss" in logs:
            self.progress.update(state.global_step, f"loss {float(logs['loss']):.4f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress is not None:
            self.progress.close()


class RestartOptimizer(TrainerCallback):
    """Forgets the optimizer's moments where the stage changes, as the curricula do (arXiv 2405.14838, 2412.06769)."""

    def __init__(self, stage_at: Callable[[int], int]) -> None:
        self.stage_at = stage_at

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        step = state.global_step
        if step and self.stage_at(step) != self.stage_at(step - 1):
            optimizer.state.clear()


class EndOnSignal(TrainerCallback):
    """Ends the training after the step in which a signal came, and takes up the log line of the one before."""

    def __init__(self, take_up_log_line: Callable[[], None]) -> None:
        self.take_up_log_line = take_up_log_line

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.take_up_log_line()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if number := highest(signal_asked()):
            take_up(number)
            control.should_save = control.should_training_stop = True
