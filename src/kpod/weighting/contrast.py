"""Hold the mean and the spread of the weights: what a token's effect means to the student's loss.

Effects rank tokens; how far the weights of keypoints and fillers stand apart is a choice. The price of a kept token
moves the mean of all weights, the softness of the sigmoid their spread. Neither changes the order of the tokens. All
rationales share both, so that a token of one effect weighs the same everywhere.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from kpod.records import TokenizedRationale
from kpod.weighting.module import WeightGenerator, effects_of

SOFTEST, HARDEST = 1e3, 1e-3
"""Softness, in standard deviations of the effects: all weights are the same, or all are 0 or 1."""


@torch.no_grad()
def hold(
    generator: WeightGenerator, tokens: Sequence[TokenizedRationale], kept_rate: float | None, spread: float
) -> None:
    """Set the generator's price and softness so that the weights of some rationales have this mean and spread.

    Where the effects take so few values that no softness gives the spread, the nearest one is taken. Where all tokens
    have the same effect, so do the weights: nothing is told apart.

    Args:
        generator: Its effects are known.
        tokens: The rationales.
        kept_rate: Mean of all weights; None: alpha / n stays the price.
        spread: Standard deviation of all weights.
    """
    effects = [row.double().cpu().numpy() for row in effects_of(generator, tokens)]
    together = np.concatenate(effects)
    size = float(together.std())
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
    """The softness at which the excess of the spread is 0; the nearest end where it is 0 nowhere."""
    if excess(HARDEST * size) <= 0:
        return HARDEST * size
    if excess(SOFTEST * size) >= 0:
        return SOFTEST * size
    return float(np.exp(brentq(lambda at: excess(float(np.exp(at))), np.log(HARDEST * size), np.log(SOFTEST * size))))


def _held(effects: NDArray[np.float64], softness: float, rate: float) -> tuple[float, NDArray[np.float64]]:
    """The price at which the weights' mean is the rate, and these weights."""
    ends = effects.min() - 40 * softness, effects.max() + 40 * softness
    price = brentq(lambda at: expit((effects - at) / softness).mean() - rate, *ends, xtol=1e-12 * softness)
    return price, expit((effects - price) / softness)
