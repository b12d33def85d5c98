"""Divergences between whole distributions of a student, by chunks of positions.

The logits of a chunk are made, compared and let go; the backward pass makes them again. So no more of them are kept at
any time than a chunk's.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from kpod.lm.head import Predictions, predictions_of
from kpod.lm.models import evaluating
from kpod.lm.sequences import Batch, Example
from kpod.records import SEGMENTS
from kpod.training.batches import StageExample

ANSWER = SEGMENTS.index("answer")

Compare = Callable[[Float[Tensor, "rows vocabulary"], Float[Tensor, "rows vocabulary"]], Float[Tensor, " rows"]]


def pairs_of(examples: Sequence[Example]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Where the positions stand that predict the answer tokens of two rationales of one group, for each such pair.

    Neighbours in a group make a pair, in the order of the batch. Of answers of unequal length the last tokens are
    compared, as many as the shorter one has: the text of an answer is the same, and a tokenizer may only part it
    otherwise where it begins, after other words.

    Args:
        examples: Those of a batch. Examples without a group pair with none.

    Returns:
        Two arrays of equal length per pair, which count through the batch's trained positions, row by row. The
        position that predicts a token is the one that has it for a label.
    """
    places: dict[str, list[NDArray[np.int64]]] = {}
    start = 0
    for example in examples:
        if isinstance(example, StageExample) and example.group:
            answer = np.flatnonzero(example.segments == ANSWER) + start
            places.setdefault(example.group, []).append(answer)
        start += len(example.weights)
    found = [pair for members in places.values() for pair in pairwise(members)]
    shorter = [min(len(one), len(other)) for one, other in found]
    return [
        (one[len(one) - num :], other[len(other) - num :])
        for (one, other), num in zip(found, shorter, strict=True)
        if num
    ]


def symmetric_kl(
    predictions: Predictions, ours: Int[Tensor, " rows"], theirs: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """KL(p_a || p_b) + KL(p_b || p_a) of pairs of positions, in nats; gradients flow to both.

    Args:
        predictions: At the trained positions of a batch.
        ours: The positions a.
        theirs: The positions b.
    """

    def compare(one: Tensor, other: Tensor) -> Tensor:
        a, b = one.log_softmax(dim=1), other.log_softmax(dim=1)
        return ((a.exp() - b.exp()) * (a - b)).sum(dim=1)

    return _by_chunks(compare, predictions, ours, predictions, theirs)


def kl_to_reference(reference: Predictions, current: Predictions) -> Float[Tensor, " trained"]:
    """KL(reference || current) at every trained position, in nats; gradients flow to `current`.

    Args:
        reference: What a frozen model predicts; see `Reference`.
        current: What the model that is trained predicts, of the same batch.
    """

    def compare(one: Tensor, other: Tensor) -> Tensor:
        target, found = one.detach().log_softmax(dim=1), other.log_softmax(dim=1)
        return functional.kl_div(found, target, reduction="none", log_target=True).sum(dim=1)

    every = torch.arange(len(current.features), device=current.features.device)
    return _by_chunks(compare, reference, every, current, every)


class Reference:
    """A student as it is now, kept while it is trained on.

    Of a peft model it is the model without its adapters, which takes no memory; of any other model a frozen copy.

    Args:
        model: The student before it is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._copy = None if isinstance(model, PeftModel) else deepcopy(model).eval().requires_grad_(False)

    def predictions(self, model: nn.Module, batch: Batch, *, linear_head: bool) -> Predictions:
        """What it predicts at the trained positions of a batch, without gradients or dropout.

        Args:
            model: The student as it is trained, perhaps wrapped.
            batch: As `collate` makes it.
            linear_head: Whether the model `has_linear_head`.
        """
        if self._copy is not None:
            with torch.no_grad():
                return predictions_of(self._copy, batch, linear_head=linear_head)
        base: Any = getattr(model, "module", model)
        with base.disable_adapter(), evaluating(base):
            return predictions_of(base, batch, linear_head=linear_head)


def _by_chunks(
    compare: Compare, one: Predictions, ours: Int[Tensor, " rows"], other: Predictions, theirs: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """What a comparison of two positions' logits comes to, chunk by chunk."""

    def compared(rows: slice) -> Tensor:
        return compare(one.logits(ours[rows]), other.logits(theirs[rows]))

    step = other.rows_per_chunk
    parts = [slice(start, start + step) for start in range(0, len(ours), step)]
    found: list[Tensor] = [checkpoint(compared, rows, use_reentrant=False) for rows in parts]
    return torch.cat(found)
