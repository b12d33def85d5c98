"""The student's loss (Eq. 15), and its parts."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

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
    return weights.new_full((), len(weights)) if normaliser == "tokens" else weights.sum()


@torch.no_grad()
def measures(
    losses: Float[Tensor, " batches"], logps: Float[Tensor, " trained"], parts: Float[Tensor, "3 trained"]
) -> Float[Tensor, "6"]:
    """Loss; numbers of trained, rationale and answer tokens; NLL of rationale tokens and of answer tokens."""
    return torch.cat([losses.sum()[None], parts.sum(dim=1), -(parts[1:] * logps).sum(dim=1)])
