"""What observations say about the tokens' effects phi: linear equations A phi = y, one per mask and prefix."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kpod.records import TokenizedRationale
from kpod.weighting.predictor import Observation

QUIET = 1.0
"""Nats added to the size of falls: a prefix or rationale whose falls are small is not stretched into noise."""


@dataclass(frozen=True)
class Equations:
    """A phi = y, up to noise, for the tokens of one rationale.

    Attributes:
        tokens: The rationale.
        coefficients: A.
        values: y, in units of the size that falls have after the same prefix.
        copied: Whether the row's prefix states the answer, so that the predictor need only copy it.
    """

    tokens: TokenizedRationale
    coefficients: Float[Tensor, "rows tokens"]
    values: Float[Tensor, " rows"]
    copied: Bool[Tensor, " rows"]


def from_falls(observation: Observation) -> Equations:
    """One equation per mask and prefix: the fall of the NLL is the sum of the kept tokens' effects.

    Both sides are centred over the masks, since how hard the question is says nothing about its tokens. The falls after
    each prefix are divided by their root mean square plus `QUIET`: the whole rationale, after which the answer need
    only be copied, and a few rationales with a hard answer would outweigh all others. A token's effect is its mean over
    the prefixes that hold it: Eq. 5 sums over all prefixes, and a token is worth no less for standing in fewer of them.
    """
    coefficients = kept_before(observation.keep, observation.prefixes)
    falls = observed_fall(observation)
    before = observation.tokens.before_answer
    copied = torch.tensor([before is not None and prefix > before for prefix in observation.prefixes])
    return Equations(
        observation.tokens,
        (coefficients - coefficients.mean(dim=0)).flatten(end_dim=1),
        (falls / (falls.square().mean(dim=0).sqrt() + QUIET)).flatten(),
        copied.repeat(len(observation.keep)),
    )


def kept_before(keep: Bool[Tensor, "masks tokens"], prefixes: Sequence[int]) -> Float[Tensor, "masks prefixes tokens"]:
    """1 where a mask keeps a token that stands within a prefix.

    Example:
        >>> kept_before(torch.tensor([[True, False, True]]), (3, 1)).tolist()
        [[[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """
    within = torch.arange(keep.shape[1]) < torch.tensor(prefixes)[:, None]
    return (keep[:, None] & within).float()


def observed_fall(observation: Observation) -> Float[Tensor, "masks prefixes"]:
    """By how much the NLL fell under each mask against the mean over the masks, in nats."""
    return observation.answer_nll.mean(dim=0) - observation.answer_nll


def explained_fall(effects: Float[Tensor, " tokens"], observation: Observation) -> Float[Tensor, "masks prefixes"]:
    """By how much it should have fallen: the kept tokens' effects, summed."""
    summed = kept_before(observation.keep, observation.prefixes) @ effects.cpu()
    return summed - summed.mean(dim=0)
