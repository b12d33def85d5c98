"""The student's loss (Eq. 15), and its parts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor

from kpod.lm.sequences import Example
from kpod.records import SEGMENTS
from kpod.training.batches import StageExample

RATIONALE, ANSWER = SEGMENTS.index("rationale"), SEGMENTS.index("answer")

Normaliser = Literal["tokens", "weights"]


def keypoint_loss(
    logprobs: Float[Tensor, "*trained"], weights: Float[Tensor, "*trained"], normaliser: Float[Tensor, ""] | float | int
) -> Float[Tensor, ""]:
    """A batch's share of the loss of an optimiser step (Eq. 15).

    The paper sums over tokens; here the sum is divided by one number for the whole optimiser step, so the step is
    the same however its examples are cut into accumulated batches and spread over processes.

    Args:
        logprobs: log P of every trained token of the batch, in nats, <= 0.
        weights: w_j of rationale tokens, 1 for closing, answer and end tokens.
        normaliser: What `size` says of all batches of the step, on all processes, together.

    Returns:
        Nats per token (or per unit of weight); the shares of a step's batches add up to its loss.

    Example:
        >>> from torch import tensor
        >>> keypoint_loss(tensor([-1.0, -2.0]), tensor([0.5, 1.0]), 2)
        tensor(1.2500)
    """
    return -(weights * logprobs).sum() / normaliser  # under autocast `@` would round both to bfloat16


def size(weights: Float[Tensor, " trained"], normaliser: Normaliser) -> Float[Tensor, ""]:
    """How much a batch adds to the normaliser: its number of trained tokens, or their summed weights.

    Example:
        >>> from torch import tensor
        >>> size(tensor([0.5, 1.0]), "tokens"), size(tensor([0.5, 1.0]), "weights")
        (tensor(2.), tensor(1.5000))
    """
    return weights.new_tensor(len(weights)) if normaliser == "tokens" else weights.sum()


def segments_of(examples: Sequence[Example]) -> Int8[Tensor, " trained"]:
    """Of every trained token of a batch the index into SEGMENTS of its part; 0 where the parts are unknown."""
    parts = [e.segments if isinstance(e, StageExample) else np.zeros(len(e.weights), np.int8) for e in examples]
    return torch.from_numpy(np.concatenate(parts))


def tasks_of(examples: Sequence[Example]) -> Int64[Tensor, " trained"]:
    """Of every trained token of a batch the task of its example; 0 where an example has none."""
    tasks = torch.tensor([e.task if isinstance(e, StageExample) else 0 for e in examples])
    return tasks.repeat_interleave(torch.tensor([len(e.weights) for e in examples]))


@torch.no_grad()
def measures(
    loss: Float[Tensor, ""], logps: Float[Tensor, " trained"], segments: Int8[Tensor, " trained"]
) -> Float[Tensor, "6"]:
    """Loss, trained tokens, then NLL and number of rationale tokens and of answer tokens."""
    measures = [loss, logps.new_tensor(len(logps))]
    for part in (RATIONALE, ANSWER):
        inside = segments == part
        measures += [-torch.where(inside, logps, 0).sum(), inside.sum()]
    return torch.stack([measure.float() for measure in measures])
