"""Fit the weight generator to what observations say about the tokens' effects, and read weights off it."""

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
from kpod.errors import WeightingError
from kpod.lm.buckets import cut_to_passes
from kpod.records import TokenizedRationale
from kpod.weighting.equations import EQUATIONS, Equations, explained_fall, kept_before, observed_fall
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
    """How the generator was fitted.

    Attributes:
        penalty: Of the ridge regression, chosen by cross-validation.
        epochs: Passes of the network over the observations that were kept; 0 where it explained nothing more.
        explained: Share of the NLL's variance over masks that the effects explain on held-out rationales; at most 1.
    """

    penalty: float
    epochs: int
    explained: float


def fit_generator(
    generator: WeightGenerator, observations: Sequence[Observation], config: WeightingConfig, rng: np.random.Generator
) -> Fit:
    """Fit the tokens' effects: the linear part by ridge regression, then the network to what that leaves.

    The network is trained up to where held-out rationales are explained best, and kept only if it explains them
    better than the linear part alone by more than two standard errors: chance does not enter the weights. Without it
    the linear part is solved for once more, from all observations.
    At the end `softness` is set to `temperature` times the root mean square of the tokens' margins phi_j - alpha / n:
    whatever the effects' size, the weights neither all saturate nor all stay at 1/2.

    Raises:
        WeightingError: If the answers contradict what the slopes say; see `calibrate`.
    """
    everything = [EQUATIONS[config.estimator](seen) for seen in observations]
    generator.scale.fill_(torch.cat([says.values for says in everything]).square().mean().sqrt().clamp_min(1e-12))
    names = _held_out([seen.tokens for seen in observations], rng)
    training = [says for says in everything if says.tokens.id not in names] or everything
    held_out = [says for says in everything if says.tokens.id in names]
    penalty = fit_linear(generator, training, rng)
    epochs = _fit_network(generator, training, held_out, config.generator_learning_rate, rng)
    if config.estimator == "gradient":
        calibrate(generator, [seen for seen in observations if seen.tokens.id not in names] or observations)
    explained = explained_share(generator, [seen for seen in observations if seen.tokens.id in names])
    if not epochs:  # nothing is left to decide, so the held-out rationales may speak too
        penalty = fit_linear(generator, everything, rng)
    if config.estimator == "gradient":
        calibrate(generator, observations)
    with torch.no_grad():
        effects = effects_of(generator, [seen.tokens for seen in observations])
        margins = torch.cat([effect - generator.alpha / len(effect) for effect in effects])
    generator.softness.fill_(config.temperature * margins.square().mean().sqrt())
    return Fit(penalty, epochs, explained)


def fit_linear(generator: WeightGenerator, equations: Sequence[Equations], rng: np.random.Generator) -> float:
    """Set `intercept` and `direction` by ridge regression; returns the penalty that was chosen."""
    by_rationale: dict[str, list[Equations]] = {}
    for says in equations:
        by_rationale.setdefault(says.tokens.id, []).append(says)
    scale = generator.scale.cpu()
    features = [torch.cat([linear_design(generator, says) for says in group]) for group in by_rationale.values()]
    values = [torch.cat([(says.values / scale).double() for says in group]) for group in by_rationale.values()]
    penalty = choose_penalty(features, values, rng)
    solved = solve_ridge(features, values, penalty)
    generator.intercept.copy_(solved[0])
    generator.direction.copy_(solved[1:])
    return penalty


def linear_design(generator: WeightGenerator, equations: Equations) -> Float[Tensor, "rows features"]:
    """X of `ridge`: A times each token's 1 and embedding."""
    embedded = generator.embed(torch.tensor(equations.tokens.ids("rationale"), device=generator.table.device))
    tokens = torch.cat([torch.ones_like(embedded[:, :1]), embedded], dim=1)
    return equations.coefficients.double() @ tokens.double().cpu()


def _fit_network(
    generator: WeightGenerator,
    training: Sequence[Equations],
    held_out: Sequence[Equations],
    learning_rate: float,
    rng: np.random.Generator,
) -> int:
    """Train attention and MLP on what the linear part leaves; returns the epochs kept, 0 for none."""
    parameters = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    linear, linear_state = _held_out_misfits(generator, held_out), copy_of(generator)
    best, best_epoch, best_state = linear, 0, linear_state
    for epoch in range(1, MAX_EPOCHS + 1):
        order = rng.permutation(len(training))
        for start in range(0, len(order), BATCH):
            loss = misfits(generator, [training[index] for index in order[start : start + BATCH]]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        errors = _held_out_misfits(generator, held_out)
        if errors.mean() < best.mean():
            best, best_epoch, best_state = errors, epoch, copy_of(generator)
        if epoch - best_epoch >= PATIENCE:
            break
    gain = linear - best
    if len(gain) < 2 or gain.mean() <= 2 * gain.std() / math.sqrt(len(gain)):
        best_epoch, best_state = 0, linear_state
    generator.load_state_dict(best_state)
    return best_epoch


def misfits(generator: WeightGenerator, equations: Sequence[Equations]) -> Float[Tensor, " _"]:
    """Of each rationale's equations the mean of (A phi - y)^2, in units of `scale` squared."""
    scores = scores_of(generator, [says.tokens for says in equations])
    errors = [
        (says.coefficients.to(score) @ score - says.values.to(score) / generator.scale).square().mean()
        for says, score in zip(equations, scores, strict=True)
    ]
    return torch.stack(errors)


@torch.no_grad()
def calibrate(generator: WeightGenerator, observations: Sequence[Observation]) -> None:
    """Set `level` and `scale` so that phi = level + scale * score explains the observed falls best, in nats.

    Slopes are local: they rank tokens, and say how much more one is worth than another, in a unit of their own. The
    masks' effect on the answers, which is not local, sets the unit and what any token is worth: two numbers.

    Raises:
        WeightingError: If the scale is not positive: the answers contradict the slopes.
    """
    scores = scores_of(generator, [seen.tokens for seen in observations])
    features, falls = [], []
    for seen, score in zip(observations, scores, strict=True):
        kept = kept_before(seen.keep, seen.prefixes)
        summed = torch.stack([kept.sum(dim=-1), kept @ score.cpu()], dim=-1).double()
        features.append((summed - summed.mean(dim=0)).flatten(end_dim=1))
        falls.append(observed_fall(seen).flatten().double())
    level, scale = torch.linalg.lstsq(torch.cat(features), torch.cat(falls)[:, None], driver="gelsd").solution[:, 0]
    if not scale > 0:
        raise WeightingError(
            f"the masks' effect on the answers contradicts their slopes (scale {scale.item():.2g}): the predictor has "
            "not learnt to answer from masked rationales; raise weighting.warmup_updates and weighting.observations"
        )
    generator.level.copy_(level)
    generator.scale.copy_(scale)


@torch.no_grad()
def explained_share(generator: WeightGenerator, observations: Sequence[Observation]) -> float:
    """Share of the NLL's variance over masks that the effects explain; below 0 where they are worse than none."""
    effects = effects_of(generator, [seen.tokens for seen in observations])
    left = [
        observed_fall(seen) - explained_fall(effect, seen) for seen, effect in zip(observations, effects, strict=True)
    ]
    total = sum(float(observed_fall(seen).square().mean()) for seen in observations)
    return 1 - sum(float(rest.square().mean()) for rest in left) / total


def scores_of(generator: WeightGenerator, tokens: Sequence[TokenizedRationale]) -> list[Float[Tensor, " _"]]:
    """The score of every token of some rationales: its effect in the generator's own unit.

    Without gradients the rationales go through in passes of at most `TOKENS_PER_PASS` tokens.
    """
    lengths = [rationale.num_tokens for rationale in tokens]
    found = []
    for part in [slice(None)] if torch.is_grad_enabled() else cut_to_passes(lengths):
        rows = generator.scores(*padded(tokens[part], generator.table.device))
        found += [row[:length] for row, length in zip(rows, lengths[part], strict=True)]
    return found


def effects_of(generator: WeightGenerator, tokens: Sequence[TokenizedRationale]) -> list[Float[Tensor, " _"]]:
    """phi_j of every token of some rationales, in nats."""
    return [generator.level + generator.scale * score for score in scores_of(generator, tokens)]


@torch.inference_mode()
def compute_weights(
    generator: WeightGenerator, tokens: Sequence[TokenizedRationale], batch_size: int = 64
) -> dict[str, NDArray[np.float32]]:
    """The weight w_j of every rationale token, computed once and without sampling.

    Args:
        generator: Trained.
        tokens: The rationales.
        batch_size: Rationales per pass, at most; a pass also holds at most `TOKENS_PER_PASS` tokens, or one rationale.
    """
    weights = {}
    for part in cut_to_passes([rationale.num_tokens for rationale in tokens], batch_size):
        batch = tokens[part]
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


def _held_out(tokens: Sequence[TokenizedRationale], rng: np.random.Generator) -> set[str]:
    """Ids of the rationales that are held out, wherever they were observed."""
    names = sorted({rationale.id for rationale in tokens})
    return set(rng.permutation(names)[: max(1, round(HELD_OUT * len(names)))].tolist())


@torch.no_grad()
def _held_out_misfits(generator: WeightGenerator, held_out: Sequence[Equations]) -> Float[Tensor, " _"]:
    return misfits(generator, held_out)


def copy_of(generator: WeightGenerator) -> dict[str, Tensor]:
    """The generator's state, to come back to."""
    return {name: tensor.clone() for name, tensor in generator.state_dict().items()}
