"""Descend L_k itself (Eq. 7), by one of the gradient estimators of `kpod.weighting.estimators`.

`gumbel` trains the generator and the predictor together from the start, as the paper describes; the others train the
generator alone, against a predictor that was warmed up under random masks and frozen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from kpod.weighting.estimators import ESTIMATORS
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import draw_batches, draw_prefixes
from kpod.weighting.module import WeightGenerator
from kpod.weighting.prefixes import Predictor

NUM_HELD_OUT = 8
"""Rationales on which L_k is watched; at most a quarter of all."""
NUM_DRAWN = 2
"""Masks drawn for each of them."""
WATCHED_EVERY = 10
"""Updates between two looks at the held-out L_k; the last update gets one too."""
PATIENCE = 3
"""Looks without a lower L_k before the descent stops."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a descent stands.

    Attributes:
        update: Number of this update.
        nll: The batch's mean NLL under its masks, in nats.
        kept: Mean weight of the batch's tokens.
        spread: Standard deviation of these weights.
        best_update: The update after which the held-out L_k was lowest; 0 before the first look.
        objective: That lowest L_k.
    """

    update: int
    nll: float
    kept: float
    spread: float
    best_update: int
    objective: float


def descend(
    generator: WeightGenerator,
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> Iterator[Progress]:
    """Train the generator's network, and a predictor that takes gradients with it, on L_k; yields after each update.

    There are at most as many updates as `observations` fill batches of `batch_size`. The descent stops where L_k no
    longer falls on held-out rationales; at the end the generator with the lowest is put back.

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
    estimate = ESTIMATORS[config.estimator]
    num_held_out = min(NUM_HELD_OUT, len(tokens) // 4)
    order = rng.permutation(len(tokens)).tolist()
    held_out = [tokens[index] for index in order[:num_held_out]]
    batches = draw_batches([tokens[index] for index in order[num_held_out:]], config.batch_size, rng)
    best, best_update, best_state = float("inf"), 0, copy_of(generator)
    num = max(1, config.observations // config.batch_size)
    bar = tqdm(range(1, num + 1), desc=config.estimator, unit=" updates")
    for update in bar:
        batch = next(batches)
        ids, real = padded(batch, generator.table.device)
        rows = [row[: one.num_tokens] for one, row in zip(batch, generator(ids, real), strict=True)]
        parts = [estimate(predictor, one, row, config, rng) for one, row in zip(batch, rows, strict=True)]
        loss = torch.stack([part for part, _ in parts]).mean()
        if not torch.isfinite(loss):
            names = ", ".join(repr(one.id) for one in batch)
            raise WeightingError(f"update {update}: L_k is {loss.item()} on {names}; lower the learning rates")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_([*network, *trained], 1.0)
        optimizer.step()
        if held_out and (update % WATCHED_EVERY == 0 or update == num):
            objective = held_out_objective(generator, predictor, held_out, config)
            if objective < best:
                best, best_update, best_state = objective, update, copy_of(generator)
        weights = torch.cat([row.detach() for row in rows])
        nll = float(np.mean([nll for _, nll in parts]))
        now = Progress(update, nll, float(weights.mean()), float(weights.std()), best_update, best)
        bar.set_postfix(NLL=f"{now.nll:.2f}", kept=f"{now.kept:.2f}", spread=f"{now.spread:.2f}")
        yield now
        if held_out and update - best_update >= PATIENCE * WATCHED_EVERY:
            break
    if best_update:
        generator.load_state_dict(best_state)


def held_out_objective(
    generator: WeightGenerator, predictor: Predictor, tokens: Sequence[TokenizedRationale], config: WeightingConfig
) -> float:
    """L_k of some rationales under masks drawn from their weights; the same chances and prefixes at every look.

    Drawn, not cut at 1/2: what is minimised is the expected L_k, and weights that keep everything look well when cut.
    """
    rng = np.random.default_rng(0)
    found = []
    with evaluating(predictor):
        for one, weights in zip(tokens, compute_weights(generator, tokens).values(), strict=True):
            keep = torch.from_numpy(rng.random((NUM_DRAWN, len(weights))) < weights)
            prefixes = draw_prefixes(one, config.prefixes, rng)
            nll = predictor([MaskedRationale(one, row, prefixes) for row in keep])
            kept = keep.float().mean(dim=1).to(nll)
            found.append(keypoint_objective(nll, kept, config.mask_loss_weight).mean().item())
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
