# ruff: noqa: ARG002 (a callback is given more than it needs)
"""The training's progress, in place of transformers' bar, which writes carriage returns into a log."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kpod.records.progress import ProgressBar


class UpdatesBar(TrainerCallback):
    """Shows the updates that are done and the last logged loss; the first process alone shows them."""

    def __init__(self) -> None:
        self.bar: ProgressBar | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin where the checkpoint stands."""
        if state.is_world_process_zero:
            self.bar = ProgressBar(total=state.max_steps, done=state.global_step, name="training", unit="updates")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the update."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss."""
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix(loss=logs["loss"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the last state."""
        if self.bar is not None:
            self.bar.close()
