"""What optimiser steps found: decided on the device, and read one update late, so that the host never waits for it."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kpod.lm.sequences import Example
from kpod.training.batches import StageExample
from kpod.training.guards import failed_update
from kpod.training.loss import measures
from kpod.training.metrics import Metrics
from kpod.training.objectives import Found


class Arriving:
    """Numbers on their way from a device. Reading them waits for them alone, not for what the device got to do since.

    Example:
        >>> Arriving(torch.tensor([1.0, 2.0])).read()
        [1.0, 2.0]
    """

    def __init__(self, numbers: Float[Tensor, " numbers"]) -> None:
        on_card = numbers.device.type == "cuda"
        self._numbers = numbers.to("cpu", non_blocking=on_card)
        self._sent = torch.cuda.Event() if on_card else None  # type: ignore[no-untyped-call]
        if self._sent:
            self._sent.record()

    def read(self) -> list[float]:
        """The numbers."""
        if self._sent:
            self._sent.synchronize()
        return list(self._numbers.tolist())


class _Checked(NamedTuple):
    """An update before its step: number from 1, epochs done, the loss of every batch, and the norm of the gradient."""

    number: int
    epoch: float | int | None
    values: Float[Tensor, " batches_and_norm"]


class Updates:
    """Collects what the batches of an update found, and keeps an update that is not finite from being made.

    Args:
        folder: Gets `failed_batch.json`.
        rank: Number of the process, or None where there is one.
        total: The sum of a tensor over all processes.
    """

    def __init__(self, folder: Path, rank: int | None, total: Callable[[Tensor], Tensor]) -> None:
        self.folder = folder
        self.rank = rank
        self.total = total
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self._examples: list[Sequence[Example]] = []
        self._checked: _Checked | None = None
        self._fault: Tensor | None = None

    def begin(self) -> None:
        """Forget what a training that was broken off has left, before another one begins."""
        self._batches, self._examples, self._checked, self._fault = [], [], None, None

    def add(self, found: Found, parts: Float[Tensor, "3 trained"], examples: Sequence[Example]) -> None:
        """Note what a batch of the update found; nothing is asked of the device."""
        self._batches.append((found.loss.detach(), found.logprobs, parts))
        self._examples.append(examples)

    def check(self, norm: Tensor | float | None, optimizer: Any, number: int, epoch: float | int | None) -> None:
        """Leave out the update, and all after it, if a batch's loss or the gradient's norm is not finite.

        A fused optimiser does so on the device, which nobody waits for. Others are not stepped before the answer is
        there: that waits once for the update.

        Args:
            norm: None where it is not to be looked at.
            optimizer: What takes the step, or None if that must not be left to it.
            number: Of the update, from 1.
            epoch: Epochs done so far.

        Raises:
            TrainingError: If it is not finite and the optimiser cannot leave it out.
        """
        losses = [loss for loss, _, _ in self._batches]
        norm = losses[0].new_zeros(()) if norm is None else torch.as_tensor(norm, device=losses[0].device)
        values = torch.stack([*losses, norm.float()])
        self._checked = _Checked(number, epoch, values)
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            self._refuse(values.tolist(), self._checked, self._examples)
            return
        fault = self.total((values * 0).sum())  # 0, or NaN from the first update that is not finite
        self._fault = fault if self._fault is None else self._fault + fault
        optimizer.found_inf = self._fault.isnan().float()

    def take(self) -> Callable[[], Metrics]:
        """What the update measured, over all its batches and processes; then counts from zero.

        Returns:
            Reads it, which had best happen after the next update was begun. Raises TrainingError where loss or gradient
            was not finite.
        """
        checked, every = self._checked, self._examples
        if checked is None:
            raise AssertionError("an update is checked before it is measured")
        logprobs, parts = (torch.cat(some, dim=-1) for some in list(zip(*self._batches, strict=True))[1:])
        sums = self.total(measures(checked.values[:-1], logprobs, parts))
        arriving = Arriving(torch.cat([sums, checked.values]))
        self._batches, self._examples, self._checked = [], [], None

        def read() -> Metrics:
            loss, tokens, num_rationale, num_answer, rationale, answer, *values = arriving.read()
            self._refuse(values, checked, every)
            first = every[0][0]
            return {
                "stage": first.stage if isinstance(first, StageExample) else None,
                "loss": loss,
                "rationale_loss": rationale / num_rationale if num_rationale else None,
                "answer_loss": answer / num_answer if num_answer else None,
                "trained_tokens": int(tokens),
            }

        return read

    def _refuse(self, values: Sequence[float], update: _Checked, every: Sequence[Sequence[Example]]) -> None:
        """Raise a TrainingError on the batch whose loss is not finite, or on all batches for a gradient that is not."""
        *losses, norm = values
        for loss, examples in zip(losses, every, strict=True):
            if not math.isfinite(loss):
                raise self._failure(f"the loss is {loss}", update, examples)
        if not math.isfinite(norm):
            everything = [example for examples in every for example in examples]
            elsewhere = "" if self.rank is None else ", perhaps because of another process's batch"
            raise self._failure(f"the norm of the gradient is {norm}{elsewhere}", update, everything)

    def _failure(self, what: str, update: _Checked, examples: Sequence[Example]) -> Exception:
        self.begin()  # the trainer may be asked to train again
        return failed_update(self.folder, update.number, update.epoch, self.rank, what, examples)
