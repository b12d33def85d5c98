"""Learn the significance weights (Eq. 2-7): warm the predictor up under random masks, freeze it, find the effects.

Why not Eq. 4 as it stands: trained together with the predictor through straight-through Gumbel masks, the
generator masks digits first, before the predictor can read them, and the weights invert or collapse. Here the
predictor meets random masks first. Then each token's effect on the answer's NLL is estimated in rounds, under random
masks that keep the keypoints found so far more often (`kpod.weighting.rounds`), and w is the soft minimiser of
L_k = L_p + alpha L_m (Eq. 7) for these effects, at a mean and a spread that are held (`kpod.weighting.contrast`).
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from kpod.lm.models import LanguageModel, merged
from kpod.recipe import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.weighting.contrast import hold
from kpod.weighting.descent import descend
from kpod.weighting.effects import fit_generator
from kpod.weighting.module import WeightGenerator, compute_weights
from kpod.weighting.predictor import Observation, warm_up, with_adapters
from kpod.weighting.proof import Proof, prove
from kpod.weighting.rounds import Round, observe_in_rounds
from kpod.weighting.verdict import Verdict, judge, verdict_on_fit, verdict_on_objective, verdict_on_spread

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weighing:
    """What was learnt.

    Attributes:
        generator: Trained.
        weights: Rationale id -> w_j of its tokens, float32 in (0, 1).
        warmup_nll: The answer's mean NLL at each update of the predictor's warm-up, in nats.
        facts: How the generator was fitted, by the names of `Fit` or of the last `Progress` of a descent.
        rounds: The held-out L_k and the weights' movement after each round; empty after a descent.
        objective: L_k (Eq. 7) of a few rationales, in nats: `learnt` where exactly the tokens with w_j > 1/2 are
            kept, `random` where as many others are, `all` where every token is.
        proof: How the predictor was asked, and why.
        verdict: What speaks against the weights. Weights that were refused are here all the same.
    """

    generator: WeightGenerator
    weights: dict[str, NDArray[np.float32]]
    warmup_nll: tuple[float, ...]
    facts: dict[str, float]
    rounds: tuple[Round, ...]
    objective: dict[str, float]
    proof: Proof
    verdict: Verdict


def learn_weights(
    lm: LanguageModel, tokens: Sequence[TokenizedRationale], config: WeightingConfig, seed: int
) -> Weighing:
    """Learn and compute w for every rationale token.

    Args:
        lm: The predictor's backbone, with its own tokenizer; changed in place.
        tokens: The rationales to weigh, and to learn from.
        config: The recipe's `weighting`.
        seed: Of masks, prefixes, order and initial parameters.

    Returns:
        The weights with a verdict on them. It refuses those that collapsed to all kept or all masked, and those whose
        masks are clearly worse than random ones.

    Raises:
        WeightingError: If the model cannot be a predictor, before anything is learnt; or if an NLL is not finite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    backbone = cast("PreTrainedModel", lm.model)
    table = cast("Tensor", backbone.get_input_embeddings().weight).detach().clone()
    predictor = with_adapters(lm, config)
    proof = prove(predictor, tokens, config, seed)
    by_rounds = config.estimator == "regression"
    held = by_rounds and config.kept_rate is not None
    generator = WeightGenerator(table, config.mask_loss_weight, held=held).to(lm.device)
    nll: tuple[float, ...] = ()
    rounds: tuple[Round, ...] = ()
    verdict = Verdict()
    if by_rounds:
        nll = tuple(warm_up(predictor, tokens, config, rng))
        frozen = predictor.frozen(merged)
        observations: list[Observation] = []
        rounds = tuple(observe_in_rounds(generator, frozen, tokens, config, rng, observations))
        fit = fit_generator(generator, observations, config, rng)
        hold(generator, tokens, config.kept_rate, config.spread)
        facts, verdict = fit.facts(), verdict_on_fit(fit, rounds)
    else:
        *_, last = descend(generator, predictor, tokens, config, rng)
        facts = {name: float(value) for name, value in asdict(last).items()}
        frozen = predictor.frozen(merged)
    weights = compute_weights(generator, tokens)
    objective, excess = judge(frozen, tokens, weights, config, rng)
    verdict += verdict_on_spread(weights) + verdict_on_objective(objective, excess)
    for warning in verdict.warnings:
        log.warning("%s", warning)
    return Weighing(generator, weights, nll, facts, rounds, objective, proof, verdict)
