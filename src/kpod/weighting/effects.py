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
from kpod.weighting.ridge import choose_penalty, solve_ridge

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
        penalty: Of the ridge regression, chosen by cross-validation.
        epochs: Passes of the network over the observations that were kept; 0 where it explained nothing more.
        explained: Share of the held-out NLL's variance over masks that the effects explain; at most 1.
        explained_by_embedding: The share that the linear part explains.
    """

    penalty: float
    epochs: int
    explained: float
    explained_by_embedding: float


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


def linear_design(generator: WeightGenerator, observation: Observation) -> Float[Tensor, "falls features"]:
    """X of `ridge`: under each mask and prefix the number of kept tokens and their summed embeddings, centred."""
    ids = torch.tensor(observation.tokens.ids("rationale"), device=generator.table.device)
    embedded = generator.embed(ids)
    tokens = torch.cat([torch.ones_like(embedded[:, :1]), embedded], dim=1).double().cpu()
    ends = torch.tensor(observation.prefixes) - 1
    summed = (observation.keep[:, :, None] * tokens).cumsum(dim=1)[:, ends]
    return (summed - summed.mean(dim=0)).flatten(end_dim=1)


def fit_linear(generator: WeightGenerator, observations: Sequence[Observation], rng: np.random.Generator) -> float:
    """Set `level` and `direction` by ridge regression; returns the penalty that was chosen."""
    by_rationale: dict[str, list[Observation]] = {}
    for seen in observations:
        by_rationale.setdefault(seen.tokens.id, []).append(seen)
    groups = by_rationale.values()
    features = [torch.cat([linear_design(generator, seen) for seen in group]) for group in groups]
    falls = [torch.cat([observed_fall(seen).flatten().double() for seen in group]) for group in groups]
    penalty = choose_penalty(features, falls, rng)
    solved = solve_ridge(features, falls, penalty)
    generator.level.copy_(solved[0])
    generator.direction.copy_(solved[1:])
    return penalty


def fit_generator(
    generator: WeightGenerator, observations: Sequence[Observation], config: WeightingConfig, rng: np.random.Generator
) -> Fit:
    """Fit effects to the observed falls: the linear part by ridge regression, then the network to what that leaves.

    The network is trained up to where held-out rationales are explained best, and kept only if it explains them
    better than the linear part alone by more than two standard errors: chance does not enter the weights. Without it
    the linear part is solved for once more, from all observations.
    At the end `softness` is set to `temperature` times the root mean square of the tokens' margins phi_j - alpha / n:
    whatever the effects' size, the weights neither all saturate nor all stay at 1/2.
    """
    training, held_out = _split(observations, rng)
    penalty = fit_linear(generator, training, rng)
    parameters = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.generator_learning_rate)
    linear = _errors(generator, held_out)
    linear_state = _copy(generator)
    best, best_epoch, best_state = linear, 0, linear_state
    for epoch in range(1, MAX_EPOCHS + 1):
        order = rng.permutation(len(training))
        for start in range(0, len(order), BATCH):
            batch = [training[index] for index in order[start : start + BATCH]]
            loss = misfits(batch, effects_of(generator, [seen.tokens for seen in batch])).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        errors = _errors(generator, held_out)
        if errors.mean() < best.mean():
            best, best_epoch, best_state = errors, epoch, _copy(generator)
        if epoch - best_epoch >= PATIENCE:
            break
    gain = linear - best
    if len(gain) < 2 or gain.mean() <= 2 * gain.std() / math.sqrt(len(gain)):
        best, best_epoch, best_state = linear, 0, linear_state
    generator.load_state_dict(best_state)
    if not best_epoch:  # nothing is left to decide, so the held-out rationales may speak too
        penalty = fit_linear(generator, observations, rng)
    with torch.no_grad():
        effects = effects_of(generator, [seen.tokens for seen in observations])
        margins = torch.cat([effect - generator.alpha / len(effect) for effect in effects])
    generator.softness.fill_(config.temperature * margins.square().mean().sqrt())
    nothing = float(torch.stack([observed_fall(seen).square().mean() for seen in held_out]).mean())
    return Fit(penalty, best_epoch, 1 - float(best.mean()) / nothing, 1 - float(linear.mean()) / nothing)


def misfits(observations: Sequence[Observation], effects: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, " _"]:
    """Of each observation the mean square of what the effects leave unexplained, over masks and prefixes."""
    errors = [
        (explained_fall(effect, seen.keep, seen.prefixes) - observed_fall(seen).to(effect.device)).square().mean()
        for seen, effect in zip(observations, effects, strict=True)
    ]
    return torch.stack(errors)


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
def _errors(generator: WeightGenerator, held_out: Sequence[Observation]) -> Float[Tensor, " _"]:
    return misfits(held_out, effects_of(generator, [seen.tokens for seen in held_out]))


def _copy(generator: WeightGenerator) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in generator.state_dict().items()}
