# ruff: noqa: ARG002 (a callback is given more than it needs)
"""What can stop a training: signals, memory, the disk, a loss that is not finite. Each says what to do about it."""

import json
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kpod.lm.sequences import Example
from kpod.records.errors import TrainingError
from kpod.records.files import write_text
from kpod.records.signals import handled
from kpod.training.batches import name_of

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL = 1.0
GIB = 2**30


class StopOnSignal(TrainerCallback):
    """Ends training after the update in which a signal comes, with a checkpoint to go on from.

    Args:
        agree: The greatest of a number over all processes; asked after every update, on every process.

    Attributes:
        received: The signal, 0 before one came.
    """

    def __init__(self, agree: Callable[[int], int]) -> None:
        self.agree = agree
        self.received = 0
        self._heard_at: float | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the first SIGTERM or SIGINT; a second one, a second or more later, does what it always did.

        Sooner it is the same one: launchers pass on what the whole group of processes was sent.
        """

        def note(number: int, _: FrameType | None) -> None:
            if self._heard_at is None:
                self._heard_at = time.monotonic()
                self.received = self.received or number
                log.warning("%s: saving a checkpoint after this update", signal.Signals(number).name)
            elif time.monotonic() - self._heard_at > SAME_SIGNAL:
                restore()
                signal.raise_signal(number)

        with handled(note, *SIGNALS) as restore:
            yield

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop everywhere where a signal came anywhere."""
        self.received = self.agree(self.received)
        if self.received:
            control.should_save = control.should_training_stop = True


@contextmanager
def explained_memory(arguments: TrainingArguments) -> Iterator[None]:
    """Turn running out of memory into a TrainingError that says what to lower for the same effective batch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        size, accumulated = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
        advice = "set training.activation_checkpointing: true, train adapters (training.lora), or lower data.max_length"
        if size > 1:
            advice = (
                f"for the same updates set training.per_device_train_batch_size: {-(-size // 2)} and "
                f"training.gradient_accumulation_steps: {2 * accumulated}; or {advice}"
            )
        raise TrainingError(f"out of memory: {advice}. What was trained so far is kept") from error


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def check_disk(
    folder: Path, model: nn.Module, arguments: TrainingArguments, num_updates: int, averaged: int = 0
) -> None:
    """Say before training whether the disk holds the checkpoints to come and the student.

    Counted are float32 weights, two moments for every trained parameter, and one checkpoint more than are kept: the
    oldest goes when the newest is whole. A mean of weights, of so many numbers, adds itself to each checkpoint and a
    student to the first.

    Raises:
        TrainingError: If it does not.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = trained if hasattr(model, "peft_config") else sum(p.numel() for p in model.parameters())
    found = len(list(folder.glob("checkpoint-*")))
    num = max(0, _num_kept(arguments, num_updates) + 1 - found)
    needed = 4 * (num * (weights + 2 * trained + averaged) + weights + averaged)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise TrainingError(
            f"{existing} has {free / GIB:.1f} GiB left, and training needs about {needed / GIB:.1f} GiB for {num} "
            "checkpoints and the student; free some space, lower training.save_total_limit, or set runs to another disk"
        )


def _num_kept(arguments: TrainingArguments, num_updates: int) -> int:
    """Checkpoints that are kept at once."""
    strategy = str(getattr(arguments.save_strategy, "value", arguments.save_strategy))
    if strategy == "no":
        return -1  # and none is written
    saves = int(arguments.num_train_epochs) if strategy == "epoch" else num_updates // max(1, int(arguments.save_steps))
    return min(saves, arguments.save_total_limit or saves)


def failed_update(
    folder: Path, update: int, epoch: float | int | None, rank: int | None, what: str, examples: Sequence[Example]
) -> TrainingError:
    """Save the examples of an update that cannot be made, and name them in an error.

    Args:
        folder: Where checkpoints are; gets `failed_batch.json`.
        update: Number of the optimiser step, from 1.
        epoch: Epochs done so far.
        rank: Number of the process, or None where there is one.
        what: The fault.
        examples: What the loss or gradient is made from.
    """
    path = folder / f"failed_batch{'' if rank is None else f'-{rank}'}.json"
    rows = [{**asdict(example), "name": name_of(example, number)} for number, example in enumerate(examples)]
    saved = {"update": update, "epoch": epoch, "fault": what, "examples": rows}
    write_text(path, json.dumps(saved, default=lambda array: array.tolist()))
    names = ", ".join(row["name"] for row in rows)
    return TrainingError(
        f"update {update}: {what} on {names}; the batch is saved in {path}. "
        "Checkpoints before it are sound: lower training.learning_rate, or drop these rationales"
    )
