"""Learn the significance weights (Eq. 2-7): warm the predictor up under random masks, freeze it, train the generator.

Why not Eq. 4 as it stands: trained together with the predictor through straight-through Gumbel masks, the
generator masks digits first, before the predictor can read them, and the weights invert or collapse. Here the
predictor meets random masks first. Then the generator descends the same objective, L_k = L_p + alpha L_m (Eq. 7), by
an unbiased estimate of its gradient (`kpod.weighting.estimators`); or it is fitted to what random masks tell about
each token's effect on the answer's NLL (`kpod.weighting.equations`), and w is the soft minimiser of L_k for those.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from kpod.config import WeightingConfig
from kpod.errors import WeightingError
from kpod.lm.models import LanguageModel, merged
from kpod.records import TokenizedRationale
from kpod.weighting.descent import descend, keypoint_objective
from kpod.weighting.effects import compute_weights, fit_generator
from kpod.weighting.estimators import ESTIMATORS
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import draw_prefixes
from kpod.weighting.module import WeightGenerator
from kpod.weighting.predictor import observe, warm_up, with_adapters
from kpod.weighting.prefixes import Predictor
from kpod.weighting.ridge import PENALTIES

log = logging.getLogger(__name__)

NEARLY_ALIKE = 0.02
"""Spread of the weights below which they hardly tell tokens apart."""
NUM_JUDGED = 8
"""Rationales on which the learnt weights are judged by L_k at the end."""


@dataclass(frozen=True)
class Weighing:
    """What was learnt.

    Attributes:
        generator: Trained.
        weights: Rationale id -> w_j of its tokens, float32 in (0, 1).
        warmup_nll: The answer's mean NLL at each update of the predictor's warm-up, in nats.
        facts: How the generator was fitted, by the names of `Fit` or of the last `Progress` of a descent.
        objective: L_k (Eq. 7) of a few rationales, in nats: `learnt` where exactly the tokens with w_j > 1/2 are
            kept, `random` where as many others are, `all` where every token is.
    """

    generator: WeightGenerator
    weights: dict[str, NDArray[np.float32]]
    warmup_nll: tuple[float, ...]
    facts: dict[str, float]
    objective: dict[str, float]


def learn_weights(
    lm: LanguageModel, tokens: Sequence[TokenizedRationale], config: WeightingConfig, seed: int
) -> Weighing:
    """Learn and compute w for every rationale token.

    Args:
        lm: The predictor's backbone, with its own tokenizer; changed in place.
        tokens: The rationales to weigh, and to learn from.
        config: The recipe's `weighting`.
        seed: Of masks, prefixes, order and initial parameters.

    Raises:
        WeightingError: If an NLL is not finite, if the weights collapsed to all kept or all masked, or if their masks
            are worse than random ones.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    backbone = cast("PreTrainedModel", lm.model)
    table = cast("Tensor", backbone.get_input_embeddings().weight).detach().clone()
    predictor = with_adapters(lm, config)
    generator = WeightGenerator(table, config.mask_loss_weight, config.kept_rate).to(lm.device)
    nll: tuple[float, ...] = ()
    if config.estimator == "gumbel":
        facts = _descend(generator, predictor, tokens, config, rng)
        frozen = predictor.frozen(merged)
    else:
        nll = tuple(warm_up(predictor, tokens, config, rng))
        frozen = predictor.frozen(merged)
        facts = _fit(generator, frozen, tokens, config, rng)
    weights = compute_weights(generator, tokens)
    check_collapse(weights)
    objective, excess = judge(frozen, tokens, weights, config, rng)
    check_objective(objective, excess)
    return Weighing(generator, weights, nll, facts, objective)


def _fit(
    generator: WeightGenerator,
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Fit the generator to what a frozen predictor does under masks, by the recipe's estimator."""
    if config.estimator in ESTIMATORS:
        return _descend(generator, predictor, tokens, config, rng)
    fit = fit_generator(generator, observe(predictor, tokens, config, rng), config, rng)
    if fit.penalty == PENALTIES[-1] and not fit.epochs:
        log.warning(
            "the observations tell no token from another, so the weights are nearly all alike; "
            "raise weighting.warmup_updates and weighting.observations"
        )
    return asdict(fit)


def _descend(
    generator: WeightGenerator,
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> dict[str, float]:
    *_, last = descend(generator, predictor, tokens, config, rng)
    return {name: float(value) for name, value in asdict(last).items()}


@torch.no_grad()
def judge(
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    weights: Mapping[str, NDArray[np.float32]],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """L_k of the learnt weights as hard masks, beside that of masks which know nothing; see `Weighing.objective`.

    Returns:
        The three means; and by how much the learnt masks exceed the random ones, one number per judged rationale.
    """
    found: dict[str, list[float]] = {"learnt": [], "random": [], "all": []}
    for index in rng.choice(len(tokens), min(NUM_JUDGED, len(tokens)), replace=False):
        rationale = tokens[index]
        learnt = torch.from_numpy(weights[rationale.id] > 0.5)
        masks = (learnt, learnt[torch.from_numpy(rng.permutation(len(learnt)))], torch.ones_like(learnt))
        prefixes = draw_prefixes(rationale, config.prefixes, rng)
        nll = predictor([MaskedRationale(rationale, keep, prefixes) for keep in masks])
        kept = torch.stack([keep.float().mean() for keep in masks]).to(nll.device)
        for name, value in zip(found, keypoint_objective(nll, kept, config.mask_loss_weight).tolist(), strict=True):
            found[name].append(value)
    excess = np.array(found["learnt"]) - np.array(found["random"])
    return {name: float(np.mean(values)) for name, values in found.items()}, excess


def check_objective(objective: Mapping[str, float], excess: NDArray[np.float64]) -> None:
    """Raise WeightingError where the learnt masks are worse than random ones by more than two standard errors."""
    if len(excess) > 1 and excess.mean() > 2 * excess.std(ddof=1) / np.sqrt(len(excess)):
        raise WeightingError(
            f"the weights mask what matters: L_k is {objective['learnt']:.2f} under the learnt masks and "
            f"{objective['random']:.2f} under random ones that keep as many tokens; raise weighting.warmup_updates"
        )


def check_collapse(weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise WeightingError where weights are all alike, and warn where nearly: they say nothing about the tokens."""
    together = np.concatenate(list(weights.values()))
    kept, spread = float(together.mean()), float(together.std())
    if spread < 1e-3 or not 0.02 < kept < 0.995:
        raise WeightingError(
            f"the weights collapsed: mean {kept:.3f}, spread {spread:.1e}; raise weighting.warmup_updates and "
            "weighting.observations, or change weighting.mask_loss_weight (lower keeps more)"
        )
    if spread < NEARLY_ALIKE:
        log.warning(
            "the weights are nearly all alike (mean %.2f, spread %.3f); %s weighting.mask_loss_weight",
            kept,
            spread,
            "raise" if kept > 0.5 else "lower",
        )
