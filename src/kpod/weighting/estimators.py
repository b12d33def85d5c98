"""Estimators of the gradient of L_k (Eq. 7) with respect to the weights, each from a few masks of one rationale.

`leave_one_out` is the default, the others are there to compare with: benchmarks/RESULTS.md tells what becomes of the
weights. `kpod.weighting.descent` runs them.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from kpod.config import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import draw_prefixes
from kpod.weighting.prefixes import Predictor

Estimate: TypeAlias = tuple[Float[Tensor, ""], float]
"""A loss whose gradient with respect to the weights is the estimate, and the mean NLL under the masks, in nats."""
Estimator: TypeAlias = Callable[
    [Predictor, TokenizedRationale, Float[Tensor, " tokens"], WeightingConfig, np.random.Generator], Estimate
]

GUMBEL_TEMPERATURE = 1.0
STRETCH = (-0.1, 1.1)
"""Hard concrete values are stretched to this range, then cut to [0, 1], so that many are exactly 0 or 1."""
CONCRETE_TEMPERATURE = 2 / 3
TARGET_KEPT_RATE, TARGET_PRESSURE = 0.5, 10.0


def straight_through(
    predictor: Predictor,
    tokens: TokenizedRationale,
    weights: Float[Tensor, " tokens"],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> Estimate:
    """One binary Gumbel mask (Eq. 4): hard in value, with the gradient of its soft version."""
    soft = _concrete(weights, GUMBEL_TEMPERATURE, rng)
    keep = (soft > 0.5).to(soft) - soft.detach() + soft
    nll = predictor([MaskedRationale(tokens, keep, draw_prefixes(tokens, config.prefixes, rng))]).mean()
    return nll + config.mask_loss_weight * keep.mean(), nll.item()


def hard_concrete(
    predictor: Predictor,
    tokens: TokenizedRationale,
    weights: Float[Tensor, " tokens"],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> Estimate:
    """One hard concrete mask (Louizos et al., 2018), pushed to a kept rate of one half in place of alpha L_m."""
    low, high = STRETCH
    keep = (_concrete(weights, CONCRETE_TEMPERATURE, rng) * (high - low) + low).clamp(0, 1)
    nll = predictor([MaskedRationale(tokens, keep, draw_prefixes(tokens, config.prefixes, rng))]).mean()
    kept = torch.sigmoid(torch.logit(weights, eps=1e-6) - CONCRETE_TEMPERATURE * float(np.log(-low / high))).mean()
    return nll + TARGET_PRESSURE * (kept - TARGET_KEPT_RATE).square(), nll.item()


def leave_one_out(
    predictor: Predictor,
    tokens: TokenizedRationale,
    weights: Float[Tensor, " tokens"],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> Estimate:
    """The score function of `masks` sampled masks, each against the others' mean NLL; L_m's gradient is exact."""
    keep = torch.from_numpy(rng.random((config.masks, len(weights)))).to(weights) < weights.detach()
    nll = _answer_nll(predictor, tokens, keep, config, rng)
    advantage = nll - (nll.sum() - nll) / (len(nll) - 1)
    surrogate = (advantage * _log_chance(weights, keep)).mean()
    return surrogate + config.mask_loss_weight * weights.mean(), float(nll.mean())


def antithetic(
    predictor: Predictor,
    tokens: TokenizedRationale,
    weights: Float[Tensor, " tokens"],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> Estimate:
    """The score function of antithetic pairs of masks, integrated over what is common to a pair (Dong et al., 2020)."""
    uniform = torch.from_numpy(rng.random((config.masks // 2, len(weights)))).to(weights)
    keep = torch.cat([uniform < weights.detach(), 1 - uniform < weights.detach()])
    nll = _answer_nll(predictor, tokens, keep, config, rng)
    (first, second), (nll_first, nll_second) = keep.float().chunk(2), nll.chunk(2)
    logits = torch.logit(weights, eps=1e-6)
    differences = (nll_first - nll_second)[:, None] / 2 * (first - second)
    gradient = differences.mean(dim=0) * torch.sigmoid(logits.detach().abs())
    return gradient @ logits + config.mask_loss_weight * weights.mean(), float(nll.mean())


def control_variate(
    predictor: Predictor,
    tokens: TokenizedRationale,
    weights: Float[Tensor, " tokens"],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> Estimate:
    """The score function of what the NLL's linear expansion at the mean mask does not say (Gu et al., 2016)."""
    keep = torch.from_numpy(rng.random((config.masks, len(weights)))).to(weights) < weights.detach()
    mean = weights.detach().clone().requires_grad_()
    prefixes = draw_prefixes(tokens, config.prefixes, rng)
    expected = predictor([MaskedRationale(tokens, mean, prefixes)]).mean()
    (slopes,) = torch.autograd.grad(expected, mean)
    with torch.no_grad():
        nll = predictor([MaskedRationale(tokens, row, prefixes) for row in keep.cpu()]).mean(dim=1)
        left = nll - expected - (keep.float() - mean) @ slopes
    surrogate = (left * _log_chance(weights, keep)).mean() + slopes @ weights
    return surrogate + config.mask_loss_weight * weights.mean(), float(nll.mean())


ESTIMATORS: Mapping[str, Estimator] = {
    "gumbel": straight_through,
    "hard_concrete": hard_concrete,
    "score": leave_one_out,
    "antithetic": antithetic,
    "control_variate": control_variate,
}


@torch.no_grad()
def _answer_nll(
    predictor: Predictor,
    tokens: TokenizedRationale,
    keep: Tensor,
    config: WeightingConfig,
    rng: np.random.Generator,
) -> Float[Tensor, " masks"]:
    """The mean NLL over prefixes under each mask; the same prefixes for all."""
    prefixes = draw_prefixes(tokens, config.prefixes, rng)
    nll: Tensor = predictor([MaskedRationale(tokens, row, prefixes) for row in keep.cpu()])
    return nll.mean(dim=1)


def _concrete(
    weights: Float[Tensor, " tokens"], temperature: float, rng: np.random.Generator
) -> Float[Tensor, " tokens"]:
    """A soft binary mask: sigmoid of logit w plus logistic noise, over a temperature (binary Gumbel softmax)."""
    uniform = torch.from_numpy(rng.uniform(1e-6, 1 - 1e-6, len(weights))).to(weights)
    return torch.sigmoid((torch.logit(weights, eps=1e-6) + torch.logit(uniform)) / temperature)


def _log_chance(weights: Float[Tensor, " tokens"], keep: Tensor) -> Float[Tensor, " masks"]:
    """Logarithm of the chance of each mask under the weights."""
    chances = weights.expand(len(keep), -1)
    return -functional.binary_cross_entropy(chances, keep.to(weights), reduction="none").sum(dim=1)
