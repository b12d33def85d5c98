"""Which checkpoint becomes the student: the one that answers best between epochs, not the one with the least loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kpod.recipe import ValidationConfig
from kpod.records import Schedule
from kpod.training.metrics import VALIDATION


class BestByAccuracy(TrainerCallback):
    """Asks the student after an epoch, and keeps the checkpoint with the best accuracy; of equals the first.

    What it decides by is in the trainer's state, so a resumed run decides the same.

    Args:
        accuracy: From the student as it is to its accuracy in [0, 1], the same on every process.
        config: After which epochs, and how long it waits for a better one.
        schedule: Before its stage T no waiting counts: the student has not written whole rationales yet.
        updates_per_epoch: Optimiser steps of one epoch; the trainer's state alone does not tell under `max_steps`.
        log: Where an accuracy is written to.
    """

    def __init__(
        self,
        accuracy: Callable[[nn.Module], float],
        config: ValidationConfig,
        schedule: Schedule,
        updates_per_epoch: int,
        log: Callable[[dict[str, float]], None],
    ) -> None:
        self.accuracy = accuracy
        self.config = config
        self.schedule = schedule
        self.updates_per_epoch = updates_per_epoch
        self.log = log

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask, keep the best, and stop where it has been the best for long."""
        epochs, left = divmod(state.global_step, self.updates_per_epoch)
        last = state.global_step == state.max_steps
        if (left or epochs % self.config.every_epochs) and not last:
            return  # a signal ended the epoch, or it is not its turn
        found = self.accuracy(kwargs["model"])
        self.log({VALIDATION: found})
        if self.config.student == "last":
            return
        if state.best_metric is None or found > state.best_metric:
            state.best_metric, state.best_global_step = found, state.global_step
            state.best_model_checkpoint = str(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")
            control.should_save = True
        if self.is_over(state):
            control.should_training_stop = control.should_save = True

    def is_over(self, state: TrainerState) -> bool:
        """Whether `patience` validations since the best one, and since stage T was reached, were no better."""
        if self.config.patience is None or state.best_global_step is None:
            return False
        per_epoch = self.updates_per_epoch
        first_whole = next(
            (e for e in range(state.num_train_epochs) if self.schedule.at_epoch(e) == self.schedule.ramp_stages),
            state.num_train_epochs,
        )
        since = max(state.best_global_step // per_epoch, first_whole)
        every = self.config.every_epochs
        return state.global_step // per_epoch // every - since // every >= self.config.patience
