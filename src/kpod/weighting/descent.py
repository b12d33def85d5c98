"""Estimators that descend L_k itself (Eq. 7): the paper's straight-through Gumbel masks, and the score function.

Kept to compare with. `gumbel` trains the generator and the predictor together from the start, as the paper describes;
`score` trains the generator alone, against a predictor that was warmed up under random masks and frozen.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from kpod.config import WeightingConfig
from kpod.errors import WeightingError
from kpod.lm.models import evaluating
from kpod.records import TokenizedRationale
from kpod.weighting.effects import compute_weights, copy_of, padded
from kpod.weighting.masks import draw_batches, draw_prefixes
from kpod.weighting.module import WeightGenerator
from kpod.weighting.prefixes import MaskedRationale, Predictor

GUMBEL_TEMPERATURE = 1.0
NUM_HELD_OUT = 8
"""Rationales on which L_k is watched; at most a quarter of all."""
WATCHED_EVERY = 10
"""Updates between two looks at the held-out L_k."""
PATIENCE = 3
"""Looks without a lower L_k before the descent stops."""


def descend(
    generator: WeightGenerator,
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Train the generator's network, and a predictor that takes gradients with it, on L_k.

    There are at most as many updates as `observations` fill batches of `batch_size`. The descent stops where L_k under
    the weights' hard masks no longer falls on held-out rationales; the generator with the lowest one is kept.

    Returns:
        The update that was kept, its held-out L_k, and NLL, kept rate and spread of the weights at the end, each the
        mean over the last ten updates.

    Raises:
        WeightingError: If the loss is not finite.
    """
    trained = [parameter for parameter in predictor.parameters() if parameter.requires_grad]
    network = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(
        [
            {"params": network, "lr": config.generator_learning_rate},
            {"params": trained, "lr": config.predictor_learning_rate},
        ]
    )
    predictor.train(bool(trained))
    loss_of = straight_through if trained else leave_one_out
    num_held_out = min(NUM_HELD_OUT, len(tokens) // 4)
    order = rng.permutation(len(tokens)).tolist()
    held_out = [tokens[index] for index in order[:num_held_out]]
    batches = draw_batches([tokens[index] for index in order[num_held_out:]], config.batch_size, rng)
    history: list[tuple[float, float, float]] = []
    best = Best(float("inf"), 0, copy_of(generator))
    bar = tqdm(range(1, max(1, config.observations // config.batch_size) + 1), desc=config.estimator, unit=" updates")
    for update in bar:
        batch = next(batches)
        ids, real = padded(batch, generator.table.device)
        rows = [row[: one.num_tokens] for one, row in zip(batch, generator(ids, real), strict=True)]
        parts = [loss_of(predictor, one, row, config, rng) for one, row in zip(batch, rows, strict=True)]
        loss = torch.stack([part for part, _ in parts]).mean()
        if not torch.isfinite(loss):
            names = ", ".join(repr(one.id) for one in batch)
            raise WeightingError(f"update {update}: L_k is {loss.item()} on {names}; lower the learning rates")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_([*network, *trained], 1.0)
        optimizer.step()
        weights = torch.cat([row.detach() for row in rows])
        history.append((float(np.mean([nll for _, nll in parts])), float(weights.mean()), float(weights.std())))
        bar.set_postfix(NLL=f"{history[-1][0]:.2f}", kept=f"{history[-1][1]:.2f}", spread=f"{history[-1][2]:.2f}")
        if held_out and update % WATCHED_EVERY == 0:
            objective = held_out_objective(generator, predictor, held_out, config)
            if objective < best.objective:
                best = Best(objective, update, copy_of(generator))
            if update - best.update >= PATIENCE * WATCHED_EVERY:
                break
    if best.update:
        generator.load_state_dict(best.state)
    last = dict(zip(("nll", "kept", "spread"), np.mean(history[-10:], axis=0).tolist(), strict=True))
    return {"update": float(best.update or len(history)), "objective": best.objective} | last


class Best(NamedTuple):
    """The lowest held-out L_k, after which update it was found, and the generator then."""

    objective: float
    update: int
    state: dict[str, Tensor]


def held_out_objective(
    generator: WeightGenerator, predictor: Predictor, tokens: Sequence[TokenizedRationale], config: WeightingConfig
) -> float:
    """L_k of some rationales under the masks that keep what weighs more than 1/2; the same prefixes at every look."""
    rng = np.random.default_rng(0)
    found = []
    with evaluating(predictor):
        for one, weights in zip(tokens, compute_weights(generator, tokens).values(), strict=True):
            keep = torch.from_numpy(weights > 0.5)
            nll = predictor([MaskedRationale(one, keep, draw_prefixes(one.num_tokens, config.prefixes, rng))])
            kept = keep.float().mean(dim=0, keepdim=True).to(nll)
            found.append(keypoint_objective(nll, kept, config.mask_loss_weight).item())
    return float(np.mean(found))


def keypoint_objective(
    answer_nll: Float[Tensor, "rows prefixes"], kept_rate: Float[Tensor, " rows"], alpha: float
) -> Float[Tensor, " rows"]:
    """L_k = L_p + alpha L_m (Eq. 5-7), both divided by n: the mean NLL over prefixes, plus alpha times the kept rate.

    Example:
        >>> keypoint_objective(torch.tensor([[1.0, 3.0]]), torch.tensor([0.5]), alpha=0.5)
        tensor([2.2500])
    """
    return answer_nll.mean(dim=1) + alpha * kept_rate


def straight_through(
    predictor: Predictor,
    tokens: TokenizedRationale,
    weights: Float[Tensor, " tokens"],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, ""], float]:
    """L_k under one binary Gumbel mask (Eq. 4): hard in value, with the gradient of its soft version; and the NLL."""
    logits = torch.logit(weights, eps=1e-6)
    uniform = torch.from_numpy(rng.uniform(1e-6, 1 - 1e-6, len(weights))).to(weights)
    soft = torch.sigmoid((logits + torch.logit(uniform)) / GUMBEL_TEMPERATURE)
    keep = (soft > 0.5).to(soft) - soft.detach() + soft
    nll = predictor([MaskedRationale(tokens, keep, draw_prefixes(tokens.num_tokens, config.prefixes, rng))]).mean()
    return nll + config.mask_loss_weight * keep.mean(), nll.item()


def leave_one_out(
    predictor: Predictor,
    tokens: TokenizedRationale,
    weights: Float[Tensor, " tokens"],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, ""], float]:
    """A surrogate with the score-function gradient of L_k: `masks` sampled masks, each against the others' mean NLL.

    The gradient of alpha L_m, whose expectation is known, is exact.
    """
    samples = torch.from_numpy(rng.random((config.masks, len(weights)))).to(weights) < weights.detach()
    prefixes = draw_prefixes(tokens.num_tokens, config.prefixes, rng)
    with torch.no_grad():
        nll = predictor([MaskedRationale(tokens, keep.cpu(), prefixes) for keep in samples]).mean(dim=1)
    advantage = nll - (nll.sum() - nll) / (len(nll) - 1)
    log_chance = -torch.nn.functional.binary_cross_entropy(
        weights.expand(len(nll), -1), samples.to(weights), reduction="none"
    ).sum(dim=1)
    surrogate = (advantage.detach() * log_chance).mean()
    return surrogate + config.mask_loss_weight * weights.mean(), float(nll.mean())
