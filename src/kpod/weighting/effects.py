"""From observed answers to effects: the least-squares fit of the weight generator, and the objective it serves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kpod.config import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.weighting.module import WeightGenerator
from kpod.weighting.predictor import Observation

BATCH = 16
HELD_OUT = 0.25
"""Share of the rationales that decide when the fit stops."""
PATIENCE = 10
"""Epochs without a better held-out error before the fit stops."""
MAX_EPOCHS = 100


@dataclass(frozen=True, slots=True)
class Fit:
    """How well effects explain what masks do to held-out answers.

    Attributes:
        epochs: Passes over the observations that were kept.
        explained: Share of the held-out NLL's variance over masks that the effects explain; at most 1.
        explained_by_count: The share that the mere number of kept tokens explains.
    """

    epochs: int
    explained: float
    explained_by_count: float


def keypoint_objective(
    answer_nll: Float[Tensor, "rows prefixes"], kept_rate: Float[Tensor, " rows"], alpha: float
) -> Float[Tensor, " rows"]:
    """L_k = L_p + alpha L_m (Eq. 5-7), both divided by n: the mean NLL over prefixes, plus alpha times the kept rate.

    Example:
        >>> keypoint_objective(torch.tensor([[1.0, 3.0]]), torch.tensor([0.5]), alpha=0.5)
        tensor([2.2500])
    """
    return answer_nll.mean(dim=1) + alpha * kept_rate


def explained_fall(
    effects: Float[Tensor, " tokens"], keep: Bool[Tensor, "masks tokens"], prefixes: Sequence[int]
) -> Float[Tensor, "masks prefixes"]:
    """By how much the NLL should fall under each mask against the mean mask: the kept tokens' effects, summed."""
    ends = torch.tensor(prefixes, device=effects.device) - 1
    summed = (keep.to(effects) * effects).cumsum(dim=1)[:, ends]
    return summed - summed.mean(dim=0)


def observed_fall(observation: Observation) -> Float[Tensor, "masks prefixes"]:
    """By how much the NLL fell. The mean over the masks, which tells how hard the question is, is taken out."""
    return observation.answer_nll.mean(dim=0) - observation.answer_nll


def mean_effect(observations: Sequence[Observation]) -> float:
    """The effect that any token has if all have the same: least squares on the number of kept tokens."""
    products = squares = 0.0
    for seen in observations:
        counts = explained_fall(torch.ones(seen.tokens.num_tokens), seen.keep, seen.prefixes)
        products += float((counts * observed_fall(seen)).sum())
        squares += float(counts.square().sum())
    return products / squares if squares > 0 else 0.0


def fit_generator(
    generator: WeightGenerator, observations: Sequence[Observation], config: WeightingConfig, rng: np.random.Generator
) -> Fit:
    """Fit effects to the observed falls for an epoch or more, up to where held-out rationales are explained best.

    The mean effect is solved for first: gradient descent would spend its first epochs on it, and lift every token.
    At the end `softness` is set to `temperature` times the root mean square of the tokens' margins phi_j - alpha / n:
    whatever the effects' size, the weights neither all saturate nor all stay at 1/2.
    """
    training, held_out = _split(observations, rng)
    generator.level.fill_(mean_effect(training))
    parameters = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.generator_learning_rate)
    best, best_epoch, best_state = math.inf, 0, _copy(generator)
    for epoch in range(1, MAX_EPOCHS + 1):
        order = rng.permutation(len(training))
        for start in range(0, len(order), BATCH):
            batch = [training[index] for index in order[start : start + BATCH]]
            loss = misfit(batch, effects_of(generator, [seen.tokens for seen in batch]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        error = _judge(generator, held_out)
        if error < best:
            best, best_epoch, best_state = error, epoch, _copy(generator)
        if epoch - best_epoch >= PATIENCE:
            break
    generator.load_state_dict(best_state)
    with torch.no_grad():
        effects = effects_of(generator, [seen.tokens for seen in observations])
        margins = torch.cat([effect - generator.alpha / len(effect) for effect in effects])
    generator.softness.fill_(config.temperature * margins.square().mean().sqrt())
    nothing, level = (
        float(misfit(held_out, [torch.full((seen.tokens.num_tokens,), value) for seen in held_out]))
        for value in (0.0, float(generator.level))
    )
    return Fit(best_epoch, 1 - best / nothing, 1 - level / nothing)


def misfit(observations: Sequence[Observation], effects: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, ""]:
    """Mean square of what the effects leave unexplained, over masks and prefixes, in square nats."""
    errors = [
        (explained_fall(effect, seen.keep, seen.prefixes) - observed_fall(seen).to(effect.device)).square().mean()
        for seen, effect in zip(observations, effects, strict=True)
    ]
    return torch.stack(errors).mean()


def effects_of(generator: WeightGenerator, tokens: Sequence[TokenizedRationale]) -> list[Float[Tensor, " _"]]:
    """phi_j of every token of some rationales."""
    rows = generator.effects(*padded(tokens, generator.table.device))
    return [row[: rationale.num_tokens] for rationale, row in zip(tokens, rows, strict=True)]


@torch.inference_mode()
def compute_weights(
    generator: WeightGenerator, tokens: Sequence[TokenizedRationale], batch_size: int = 64
) -> dict[str, NDArray[np.float32]]:
    """The weight w_j of every rationale token, computed once and without sampling."""
    weights = {}
    for start in range(0, len(tokens), batch_size):
        batch = tokens[start : start + batch_size]
        for rationale, row in zip(batch, generator(*padded(batch, generator.table.device)), strict=True):
            weights[rationale.id] = row[: rationale.num_tokens].cpu().numpy()
    return weights


def padded(
    tokens: Sequence[TokenizedRationale], device: torch.device
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Rationale ids padded on the right, and where they are real."""
    ids = [torch.tensor(rationale.ids("rationale")) for rationale in tokens]
    real = [torch.ones(len(row), dtype=torch.bool) for row in ids]
    return pad_sequence(ids, batch_first=True).to(device), pad_sequence(real, batch_first=True).to(device)


def _split(
    observations: Sequence[Observation], rng: np.random.Generator
) -> tuple[list[Observation], list[Observation]]:
    """Training and held-out observations; no rationale is in both, unless there is one rationale only."""
    names = sorted({seen.tokens.id for seen in observations})
    held_out = set(rng.permutation(names)[: max(1, round(HELD_OUT * len(names)))].tolist())
    training = [seen for seen in observations if seen.tokens.id not in held_out]
    return training or list(observations), [seen for seen in observations if seen.tokens.id in held_out]


@torch.no_grad()
def _judge(generator: WeightGenerator, held_out: Sequence[Observation]) -> float:
    return float(misfit(held_out, effects_of(generator, [seen.tokens for seen in held_out])))


def _copy(generator: WeightGenerator) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in generator.state_dict().items()}
