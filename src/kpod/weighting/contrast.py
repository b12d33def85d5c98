"""Hold the mean and the spread of the weights: what a token's effect means to the student's loss.

Effects rank tokens; how far the weights of keypoints and fillers stand apart is a choice. The price of a kept token
moves the mean of all weights, the softness of the sigmoid their spread. Neither changes the order of the tokens. All
rationales share both, so that a token of one effect weighs the same everywhere.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from kpod.records import TokenizedRationale
from kpod.weighting.module import WeightGenerator, effects_of

SOFTEST, HARDEST = 1e3, 1e-9
"""Softness, in mean absolute deviations of the effects: all weights are the same, or nearly all are 0 or 1."""
NUM_TRIED = 49
"""Softnesses between these two, a factor of 1.8 apart, between which the one that gives the spread is looked for."""
AS_NEAR = 1e-4
"""Where no softness gives the spread, how much farther from it than the nearest one a softer one may stay."""


@torch.no_grad()
def hold(
    generator: WeightGenerator, tokens: Sequence[TokenizedRationale], kept_rate: float | None, spread: float
) -> None:
    """Set the generator's price and softness so that the weights of some rationales have this mean and spread.

    Where no softness gives the spread, since the effects take few values or the weights have no room beside their
    mean, the softest of those that come nearest to it is taken. Where all tokens have the same effect, they have the
    same weight.

    Args:
        generator: Its effects are known.
        tokens: The rationales.
        kept_rate: Mean of all weights; None: alpha / n stays the price.
        spread: Standard deviation of all weights.
    """
    effects = [row.double().cpu().numpy() for row in effects_of(generator, tokens)]
    together = np.concatenate(effects)
    size = float(np.abs(together - np.median(together)).mean())
    if size < 1e-9 * max(1.0, float(np.abs(together).max())):
        softness, price = 1.0, float(together.mean()) - np.log((kept_rate or 0.5) / (1 - (kept_rate or 0.5)))
    elif kept_rate is not None:
        softness = _softness(lambda soft: _held(together, soft, kept_rate)[1].std() - spread, size)
        price = _held(together, softness, kept_rate)[0]
    else:
        margins = np.concatenate([row - generator.alpha / len(row) for row in effects])
        softness, price = _softness(lambda soft: expit(margins / soft).std() - spread, size), 0.0
    generator.softness.fill_(softness)
    generator.price.fill_(price)


def _softness(excess: Callable[[float], float], size: float) -> float:
    """The largest softness at which the excess of the spread is 0, or at which it is as near to that as it can be.

    A held mean lets the spread grow as the softness falls. With the price alpha / n it may shrink again, when all
    weights go to one end together.

    A softness much below the gaps between effects adds nothing to the spread, but makes the weights of tokens at the
    price depend on the last bits of their effects.
    """
    ladder: list[float] = (size * np.geomspace(SOFTEST, HARDEST, NUM_TRIED)).tolist()
    if excess(ladder[0]) >= 0:
        return ladder[0]
    found: list[float] = []
    for softer, softness in pairwise(ladder):
        found.append(excess(softness))
        if found[-1] >= 0:
            ends = np.log(softness), np.log(softer)
            return float(np.exp(brentq(lambda at: excess(float(np.exp(at))), *ends)))
    return ladder[1 + int(np.argmax(np.array(found) >= max(found) - AS_NEAR))]


def _held(effects: NDArray[np.float64], softness: float, rate: float) -> tuple[float, NDArray[np.float64]]:
    """The price at which the weights' mean is the rate, and these weights."""
    ends = effects.min() - 40 * softness, effects.max() + 40 * softness
    price = brentq(lambda at: expit((effects - at) / softness).mean() - rate, *ends, xtol=1e-12 * softness)
    return price, expit((effects - price) / softness)
