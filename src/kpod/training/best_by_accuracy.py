# ruff: noqa: ARG002 (a callback is given more than it needs)
"""Which checkpoint becomes the student: the one that answers best between epochs, not the one with the least loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kpod.recipe import ValidationConfig
from kpod.records import Schedule
from kpod.training.curriculum_trainer import CurriculumTrainer
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
        trainer: The trainer under a curriculum, which hears every accuracy and may rule otherwise.
    """

    def __init__(
        self,
        accuracy: Callable[[nn.Module], float],
        config: ValidationConfig,
        schedule: Schedule,
        updates_per_epoch: int,
        log: Callable[[dict[str, float]], None],
        trainer: CurriculumTrainer | None = None,
    ) -> None:
        self.accuracy = accuracy
        self.config = config
        self.schedule = schedule
        self.updates_per_epoch = updates_per_epoch
        self.log = log
        self.trainer = trainer
        self._saves_later = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put off a checkpoint until the accuracy that is due after this update is known, and saved with it.

        A run that is killed while it asks would go on from the checkpoint and never ask.
        """
        due = self._epochs_at(state.global_step)[1] == 0 or state.global_step == state.max_steps
        if control.should_save and due:
            self._saves_later, control.should_save = True, False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask, keep the best, and stop where it has been the best for long."""
        control.should_save, self._saves_later = control.should_save or self._saves_later, False
        epochs, left = self._epochs_at(state.global_step)
        last = state.global_step == state.max_steps
        if (left or epochs % self.config.every_epochs) and not last:
            return  # a signal ended the epoch, or it is not its turn
        found = self.accuracy(kwargs["model"])
        should_log = control.should_log
        self.log({VALIDATION: found})
        control.should_log = should_log  # the loss of the epoch too, which transformers takes for logged
        if self.trainer is not None:
            self.trainer.curriculum.see(found)
        if self._may_choose(state) and (state.best_metric is None or found > state.best_metric):
            state.best_metric, state.best_global_step = found, state.global_step
            state.best_model_checkpoint = str(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")
            control.should_save = True
        if self.is_over(state):
            control.should_training_stop = control.should_save = True

    def is_over(self, state: TrainerState) -> bool:
        """Whether `patience` validations since the best one, and since stage T was reached, were no better."""
        if self.trainer is not None and self.trainer.curriculum.over is not None:
            return self.trainer.curriculum.over
        if self.config.patience is None or state.best_global_step is None:
            return False
        since = max(self._epochs_at(state.best_global_step)[0], self._first_whole(state.num_train_epochs))
        every = self.config.every_epochs
        return self._epochs_at(state.global_step)[0] // every - since // every >= self.config.patience

    def _epochs_at(self, update: int) -> tuple[int, int]:
        """Epochs before an update, and updates of its own epoch."""
        return divmod(update, self.updates_per_epoch) if self.trainer is None else self.trainer.epochs_at(update)

    def _may_choose(self, state: TrainerState) -> bool:
        if self.config.student == "last":
            return False
        return self.trainer is None or self.trainer.curriculum.may_choose(self.trainer.moment(state.global_step - 1))

    def _first_whole(self, num_epochs: int) -> int:
        """The first epoch in which everything is trained."""
        if self.trainer is not None:
            return self.trainer.curriculum.whole_from(num_epochs)
        epochs = (epoch for epoch in range(num_epochs) if self.schedule.at_epoch(epoch) == self.schedule.ramp_stages)
        return next(epochs, num_epochs)
