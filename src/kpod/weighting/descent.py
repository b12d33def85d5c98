"""The paper's reading of Eq. 4-7: generator and predictor trained together, by straight-through Gumbel masks.

It is kept to compare with. Here the generator masks digits first, before the predictor can read them, and the weights
turn upside down or collapse (benchmarks/RESULTS.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from kpod.recipe import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.records.errors import WeightingError
from kpod.records.progress import ProgressBar
from kpod.weighting.effects import copy_of
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import draw_batches, draw_prefixes
from kpod.weighting.module import WeightGenerator, padded
from kpod.weighting.objective import held_out_objectives
from kpod.weighting.prefixes import Predictor

GUMBEL_TEMPERATURE = 1.0
NUM_HELD_OUT = 8
"""Rationales on which L_k is watched; at most a quarter of all."""
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


def straight_through(
    predictor: Predictor,
    tokens: TokenizedRationale,
    weights: Float[Tensor, " tokens"],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, ""], float]:
    """L_k (Eq. 7) under one binary Gumbel mask (Eq. 4), and the mean NLL over prefixes in it, in nats.

    The mask is hard in value and has the gradient of its soft version.
    """
    uniform = torch.from_numpy(rng.uniform(1e-6, 1 - 1e-6, len(weights))).to(weights)
    soft = torch.sigmoid((torch.logit(weights, eps=1e-6) + torch.logit(uniform)) / GUMBEL_TEMPERATURE)
    keep = (soft > 0.5).to(soft) - soft.detach() + soft
    nll = predictor([MaskedRationale(tokens, keep, draw_prefixes(tokens, config.prefixes, rng))]).mean()
    return nll + config.mask_loss_weight * keep.mean(), nll.item()


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
    num_held_out = min(NUM_HELD_OUT, len(tokens) // 4)
    order = rng.permutation(len(tokens)).tolist()
    held_out = [tokens[index] for index in order[:num_held_out]]
    batches = draw_batches([tokens[index] for index in order[num_held_out:]], config.batch_size, rng)
    best, best_update, best_state = float("inf"), 0, copy_of(generator)
    num = max(1, config.observations // config.batch_size)
    bar = ProgressBar(range(1, num + 1), name="gumbel", unit="updates")
    for update in bar:
        batch = next(batches)
        ids, real = padded(batch, generator.table.device)
        rows = [row[: one.num_tokens] for one, row in zip(batch, generator(ids, real), strict=True)]
        parts = [straight_through(predictor, one, row, config, rng) for one, row in zip(batch, rows, strict=True)]
        loss = torch.stack([part for part, _ in parts]).mean()
        if not torch.isfinite(loss):
            names = ", ".join(repr(one.id) for one in batch)
            raise WeightingError(f"update {update}: L_k is {loss.item()} on {names}; lower the learning rates")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_([*network, *trained], 1.0)
        optimizer.step()
        if held_out and (update % WATCHED_EVERY == 0 or update == num):
            objective = float(held_out_objectives(generator, predictor, held_out, config).mean())
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
