"""L_k = L_p + alpha L_m (Eq. 5-7), and its value on rationales that nothing was learnt from."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from kpod.lm.models import evaluating
from kpod.lm.processes import divided
from kpod.recipe import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import draw_prefixes
from kpod.weighting.module import WeightGenerator, compute_weights
from kpod.weighting.predictor import check_finite
from kpod.weighting.prefixes import Predictor

NUM_DRAWN = 2
"""Masks drawn for each rationale on which L_k is measured."""


def keypoint_objective(
    answer_nll: Float[Tensor, "rows prefixes"], kept_rate: Float[Tensor, " rows"], alpha: float
) -> Float[Tensor, " rows"]:
    """L_k = L_p + alpha L_m (Eq. 5-7), both divided by n: the mean NLL over prefixes, plus alpha times the kept rate.

    Example:
        >>> keypoint_objective(torch.tensor([[1.0, 3.0]]), torch.tensor([0.5]), alpha=0.5)
        tensor([2.2500])
    """
    return answer_nll.mean(dim=1) + alpha * kept_rate


def held_out_objectives(
    generator: WeightGenerator, predictor: Predictor, tokens: Sequence[TokenizedRationale], config: WeightingConfig
) -> NDArray[np.float64]:
    """L_k of each rationale under masks drawn from its weights; the same chances and prefixes at every call.

    Masks are drawn, not cut at 1/2: what is minimised is the expected L_k, and weights that keep everything look good
    when they are cut.

    Raises:
        WeightingError: If an NLL is not finite.
    """
    rng = np.random.default_rng(0)
    drawn = []
    for one, weights in zip(tokens, compute_weights(generator, tokens).values(), strict=True):
        keep = torch.from_numpy(rng.random((NUM_DRAWN, len(weights))) < weights)
        prefixes = draw_prefixes(one, config.prefixes, rng)
        drawn.append([MaskedRationale(one, row, prefixes) for row in keep])

    def objective(rows: Sequence[MaskedRationale]) -> float:
        nll = predictor(rows)
        check_finite(nll.mean(), [rows[0].tokens], "the held-out L_k")
        kept = torch.stack([row.keep for row in rows]).float().mean(dim=1).to(nll)
        return keypoint_objective(nll, kept, config.mask_loss_weight).mean().item()

    with evaluating(predictor):
        return np.array(list(divided(drawn, objective)))
