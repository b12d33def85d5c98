# ruff: noqa: ARG002 (a callback is given more than it needs)
"""metrics.jsonl: one line per update, and the same lines whether or not the run was interrupted."""

import json
from collections.abc import Callable, Sequence
from functools import partial
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
        take: Called on every process, after every update. It returns what reads what the update measured, which is
            done one update late, or before a checkpoint counts it.
    """

    def __init__(self, path: Path, take: Callable[[], Callable[[], Metrics]]) -> None:
        self.path = path
        self.take = take
        self._waiting: list[tuple[Metrics, Callable[[], Metrics]]] = []
        self._unlogged: list[Metrics] = []
        self._learning_rate = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines up to the update that training goes on from."""
        self._waiting.clear()
        self._unlogged.clear()
        if state.is_world_process_zero:
            kept = read_metrics(self.path, state.global_step)
            logged = max((line["step"] for line in state.log_history if "loss" in line), default=0)
            self._unlogged += [line for line in kept if "loss" in line and line["step"] > logged]
            write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in kept))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate before the scheduler moves it."""
        self._learning_rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the line of the update before, and both where training may end here."""
        self._waiting.append((_moment(state), partial(self._line, self.take(), self._learning_rate)))
        ends = control.should_save or control.should_training_stop or control.should_epoch_stop
        self.flush(state, but=0 if ends else 1)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the epoch's lines through to the disk."""
        self.flush(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write a validation's accuracy; losses are written update by update."""
        if VALIDATION in kwargs["logs"]:
            accuracy = kwargs["logs"][VALIDATION]
            self._waiting.append((_moment(state), lambda: {VALIDATION: accuracy}))
            self.flush(state)

    def flush(self, state: TrainerState, *, but: int = 0) -> None:
        """Write the lines that wait.

        Args:
            state: Of the training.
            but: How many of the last ones go on waiting; with none the file is written through to the disk.

        Raises:
            TrainingError: If loss or gradient of an update was not finite.
        """
        self._write(state, but)
        if not but and state.is_world_process_zero and self.path.exists():
            flush_to_disk(self.path)

    def since_last_log(self, state: TrainerState) -> dict[str, float | int]:
        """What was measured since it was last asked for, as `means_of` makes one line of it.

        Raises:
            TrainingError: As `flush`.
        """
        self._write(state)
        found, self._unlogged = means_of(self._unlogged), []
        return found

    def _write(self, state: TrainerState, but: int = 0) -> None:
        while len(self._waiting) > but:
            moment, read = self._waiting.pop(0)
            values = read()
            if "loss" in values:
                self._unlogged.append(values)
            if state.is_world_process_zero:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(f"{json.dumps({**moment, **values})}\n")

    @staticmethod
    def _line(read: Callable[[], Metrics], learning_rate: float) -> Metrics:
        return {**read(), "learning_rate": learning_rate}


def _moment(state: TrainerState) -> Metrics:
    return {"step": state.global_step, "epoch": state.epoch}


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
