"""What observations say about the tokens' effects phi: linear equations A phi = y, one kind per estimator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kpod.errors import WeightingError
from kpod.records import TokenizedRationale
from kpod.weighting.predictor import Observation


@dataclass(frozen=True)
class Equations:
    """A phi = y, up to noise, for the tokens of one rationale.

    Attributes:
        tokens: The rationale.
        coefficients: A.
        values: y, in nats for `regression`; for `gradient` without a unit.
    """

    tokens: TokenizedRationale
    coefficients: Float[Tensor, "rows tokens"]
    values: Float[Tensor, " rows"]


def from_slopes(observation: Observation) -> Equations:
    """`gradient`: one equation a token, whose effect is the mean of the slopes that were seen while it was hidden.

    A slope is taken where the mask stands in the token's place: a token's embedding carries a pre-norm backbone so far
    that the slope at a kept token is nearly 0, whatever the token is worth. Slopes have heavy tails: signed square
    roots are fitted, brought to a root mean square of 1 in each rationale, so that neither a few tokens nor one
    rationale whose answer is hard to give drown the others. They tell tokens apart; they are no effects in nats, and
    `effects.calibrate` must follow.

    Raises:
        WeightingError: If the observation has no slopes.
    """
    if observation.slopes is None:
        raise WeightingError("weighting.estimator gradient needs observations with slopes")
    hidden = ~observation.keep
    num_hidden = hidden.sum(dim=0)
    means = (observation.slopes * hidden).sum(dim=0) / num_hidden.clamp_min(1)
    seen = num_hidden > 0
    roots = means[seen].sign() * means[seen].abs().sqrt()
    size = roots.square().mean().sqrt().clamp_min(torch.finfo(roots.dtype).tiny)
    return Equations(observation.tokens, torch.eye(len(means))[seen], roots / size)


def from_falls(observation: Observation) -> Equations:
    """`regression`: one equation per mask and prefix, whose fall of the NLL is the sum of the kept tokens' effects.

    Both sides are centred over the masks: how hard the question is says nothing about its tokens.
    """
    coefficients = kept_before(observation.keep, observation.prefixes)
    values = observed_fall(observation)
    return Equations(
        observation.tokens,
        (coefficients - coefficients.mean(dim=0)).flatten(end_dim=1),
        values.flatten(),
    )


EQUATIONS: Mapping[str, Callable[[Observation], Equations]] = {"gradient": from_slopes, "regression": from_falls}


def kept_before(keep: Bool[Tensor, "masks tokens"], prefixes: Sequence[int]) -> Float[Tensor, "masks prefixes tokens"]:
    """1 where a mask keeps a token that stands within a prefix.

    Example:
        >>> kept_before(torch.tensor([[True, False, True]]), (3, 1)).tolist()
        [[[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """
    within = torch.arange(keep.shape[1]) < torch.tensor(prefixes)[:, None]
    return (keep[:, None] & within).float()


def observed_fall(observation: Observation) -> Float[Tensor, "masks prefixes"]:
    """By how much the NLL fell under each mask against the mean over the masks."""
    return observation.answer_nll.mean(dim=0) - observation.answer_nll


def explained_fall(effects: Float[Tensor, " tokens"], observation: Observation) -> Float[Tensor, "masks prefixes"]:
    """By how much it should have fallen: the kept tokens' effects, summed."""
    summed = kept_before(observation.keep, observation.prefixes) @ effects.cpu()
    return summed - summed.mean(dim=0)
