# ruff: noqa: ARG002 (a callback is given more than it needs)
"""metrics.jsonl: one line per update, and the same lines whether or not the run was interrupted."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kpod.records.files import flush_to_disk, whole_lines, write_text

METRICS = "metrics.jsonl"
VALIDATION = "validation_accuracy"

Metrics = dict[str, float | int | None]


class MetricsFile(TrainerCallback):
    """Appends a line after every update; on resuming cuts off the lines after the checkpoint.

    Args:
        path: The file.
        take: Returns what the update measured; called on every process, after every update.
    """

    def __init__(self, path: Path, take: Callable[[], Metrics]) -> None:
        self.path = path
        self.take = take
        self._learning_rate = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines up to the update that training goes on from."""
        if state.is_world_process_zero:
            kept = read_metrics(self.path, state.global_step)
            write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in kept))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate before the scheduler moves it."""
        self._learning_rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the update's line, and through to the disk before a checkpoint can count it."""
        measured = self.take()
        self._append(state, {**measured, "learning_rate": self._learning_rate})
        if control.should_save or control.should_training_stop:
            self._flush(state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the epoch's lines through to the disk."""
        self._flush(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write a validation's accuracy; losses are written update by update."""
        if VALIDATION in kwargs["logs"]:
            self._append(state, {VALIDATION: kwargs["logs"][VALIDATION]})
            self._flush(state)

    def _append(self, state: TrainerState, values: Metrics) -> None:
        if not state.is_world_process_zero:
            return
        line = {"step": state.global_step, "epoch": state.epoch, **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")

    def _flush(self, state: TrainerState) -> None:
        if state.is_world_process_zero and self.path.exists():
            flush_to_disk(self.path)


def means_of(updates: Sequence[Metrics]) -> dict[str, float | int]:
    """One line for several updates: the last one's stage, all trained tokens, and of each loss the updates' mean.

    Example:
        >>> means_of([{"stage": 1, "trained_tokens": 5, "loss": 3.0}, {"stage": 2, "trained_tokens": 7, "loss": 2.0}])
        {'trained_tokens': 12, 'stage': 2, 'loss': 2.5}
    """
    found: dict[str, float | int] = {"trained_tokens": sum(update["trained_tokens"] or 0 for update in updates)}
    if updates and (stage := updates[-1]["stage"]) is not None:
        found["stage"] = stage
    for name in ("loss", "rationale_loss", "answer_loss"):
        if values := [value for update in updates if (value := update.get(name)) is not None]:
            found[name] = fmean(values)
    return found


def read_updates(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file that tell of an update."""
    return [line for line in read_metrics(path) if "loss" in line]


def read_metrics(path: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """The lines of a metrics file, up to an update or all; a torn last line, left by a kill, does not count."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in whole_lines(path)]
    return [line for line in lines if last_step is None or line["step"] <= last_step]
