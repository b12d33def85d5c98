"""Estimators that descend L_k itself (Eq. 7): the paper's straight-through Gumbel masks, and the score function.

Kept to compare with. `gumbel` trains the generator and the predictor together from the start, as the paper describes;
`score` trains the generator alone, against a predictor that was warmed up under random masks and frozen.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from kpod.config import WeightingConfig
from kpod.errors import WeightingError
from kpod.records import TokenizedRationale
from kpod.weighting.effects import padded
from kpod.weighting.masks import draw_batches, draw_prefixes
from kpod.weighting.module import WeightGenerator
from kpod.weighting.prefixes import MaskedRationale, Predictor

GUMBEL_TEMPERATURE = 1.0


def descend(
    generator: WeightGenerator,
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Train the generator's network, and a predictor that takes gradients with it, on L_k.

    There are as many updates as `observations` fill batches of `batch_size`.

    Returns:
        NLL, kept rate and spread of the weights, each the mean over the last ten updates.

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
    batches = draw_batches(tokens, config.batch_size, rng)
    history: list[tuple[float, float, float]] = []
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
    return dict(zip(("nll", "kept", "spread"), np.mean(history[-10:], axis=0).tolist(), strict=True))


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
