"""Fit the weight generator to what observations say about the tokens' effects."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kpod.recipe import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.weighting.linear_system import Equations, explained_fall, from_falls, observed_fall
from kpod.weighting.module import WeightGenerator, effects_of, scores_of
from kpod.weighting.predictor import Observation
from kpod.weighting.ridge import choose_penalty, solve_ridge

BATCH = 16
HELD_OUT = 0.25
"""Share of the rationales that decide when the fit of the network stops."""
SURE = 2.0
"""Standard errors by which effects must explain rationales that are left out, to be told apart from chance."""
PATIENCE = 10
"""Epochs without a better held-out error before the fit stops."""
MAX_EPOCHS = 100


@dataclass(frozen=True, slots=True)
class Fit:
    """How the generator was fitted.

    Attributes:
        penalties: Of the ridge regressions, chosen by cross-validation, by the names that `fit_linear` gives them.
        epochs: Passes of the network over the observations that were kept; 0 where it explained nothing more.
        explained: Share of the NLL's variance over masks that the effects explain on held-out rationales; at most 1. A
            few rationales with large falls decide it, so that it may be below 0 for effects that rank tokens well.
        surety: By how many standard errors the effects' covariance with the falls of held-out rationales lies above 0,
            each divided by its size. NaN where fewer than two are held out, or nothing is in common.
    """

    penalties: dict[str, float]
    epochs: int
    explained: float
    surety: float

    def facts(self) -> dict[str, float]:
        """All of it by name."""
        return {**self.penalties, "epochs": self.epochs, "explained": self.explained, "surety": self.surety}


def fit_generator(
    generator: WeightGenerator, observations: Sequence[Observation], config: WeightingConfig, rng: np.random.Generator
) -> Fit:
    """Fit the tokens' effects: the linear part by ridge regression, then the network to what that leaves.

    The network is trained up to where held-out rationales are explained best, and kept only if it explains them
    better than the linear part alone by more than two standard errors: chance does not enter the weights. Without it
    the linear part is solved for once more, from all observations.
    """
    names = _held_out([seen.tokens for seen in observations], rng)
    training = [seen for seen in observations if seen.tokens.id not in names] or observations
    held_out = [seen for seen in observations if seen.tokens.id in names]
    penalties = fit_linear(generator, training)
    equations = [from_falls(seen) for seen in training]
    watched = [from_falls(seen) for seen in held_out]
    epochs = _fit_network(generator, equations, watched, config.generator_learning_rate, rng)
    to_nats(generator, training)
    explained, surety = explained_share(generator, held_out), surety_of(generator, watched)
    if not epochs:  # nothing is left to decide, so the held-out rationales may speak too
        penalties = fit_linear(generator, observations)
    to_nats(generator, observations)
    return Fit(penalties, epochs, explained, surety)


def fit_linear(generator: WeightGenerator, observations: Sequence[Observation]) -> dict[str, float]:
    """Set `intercept` and `direction` by ridge regression; returns the penalties that were chosen, by name.

    After a prefix that states the answer, numbers are copied; before it they are made, and the words that say how
    count. Where the effects before it surely explain rationales that are left out, the predictor can calculate. Each
    kind of equation then has a regression and a penalty of its own, since one for both would bury what the words are
    worth, and the effect is their mean over all equations, which Eq. 5 sums over. A predictor that cannot calculate
    answers by chance there, and too few observations tell nothing of it: then all equations are fitted together.
    """
    by_rationale: dict[str, list[Equations]] = {}
    for seen in observations:
        by_rationale.setdefault(seen.tokens.id, []).append(from_falls(seen))
    groups = [
        [
            torch.cat(parts)
            for parts in zip(*((linear_design(generator, s), s.values.double(), s.copied) for s in of), strict=True)
        ]
        for of in by_rationale.values()
    ]
    copied, calculated = (
        [(x[of == kind], y[of == kind]) for x, y, of in groups if (of == kind).any()] for kind in (True, False)
    )
    if copied and calculated and (found := _regression(calculated)).surety > SURE:
        fits = {"penalty_copied": _regression(copied), "penalty_calculated": found}
    else:
        fits = {"penalty": _regression([(x, y) for x, y, _ in groups])}
    num = sum(fit.num_rows for fit in fits.values())
    mean = torch.stack([fit.num_rows * fit.solved for fit in fits.values()]).sum(dim=0) / num
    generator.intercept.copy_(mean[0])
    generator.direction.copy_(mean[1:])
    return {name: fit.penalty for name, fit in fits.items()}


@dataclass(frozen=True)
class _Regression:
    """Effects that some equations of some rationales say, with the penalty and the surety of `choose_penalty`."""

    solved: Float[Tensor, " features"]
    penalty: float
    surety: float
    num_rows: int


def _regression(part: Sequence[tuple[Tensor, Tensor]]) -> _Regression:
    features, values = zip(*part, strict=True)
    penalty, surety = choose_penalty(features, values)
    return _Regression(solve_ridge(features, values, penalty), penalty, surety, sum(map(len, values)))


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
    if len(gain) < 2 or gain.mean() <= SURE * gain.std() / math.sqrt(len(gain)):
        best_epoch, best_state = 0, linear_state
    generator.load_state_dict(best_state)
    return best_epoch


def misfits(generator: WeightGenerator, equations: Sequence[Equations]) -> Float[Tensor, " _"]:
    """Of each rationale's equations the mean of (A phi - y)^2, in units of the rationale's size squared."""
    scores = scores_of(generator, [says.tokens for says in equations])
    errors = [
        (says.coefficients.to(score) @ score - says.values.to(score)).square().mean()
        for says, score in zip(equations, scores, strict=True)
    ]
    return torch.stack(errors)


@torch.no_grad()
def to_nats(generator: WeightGenerator, observations: Sequence[Observation]) -> None:
    """Set `scale` so that the effects explain the observed falls best, in nats; at least a trillionth."""
    scores = scores_of(generator, [seen.tokens for seen in observations])
    told = torch.cat(
        [explained_fall(score, seen).flatten() for seen, score in zip(observations, scores, strict=True)]
    ).double()
    falls = torch.cat([observed_fall(seen).flatten() for seen in observations]).double()
    generator.scale.fill_(((told @ falls) / told.square().sum().clamp_min(1e-300)).clamp_min(1e-12))


@torch.no_grad()
def explained_share(generator: WeightGenerator, observations: Sequence[Observation]) -> float:
    """Share of the NLL's variance over masks that the effects explain; below 0 where they are worse than none."""
    effects = effects_of(generator, [seen.tokens for seen in observations])
    left = [
        observed_fall(seen) - explained_fall(effect, seen) for seen, effect in zip(observations, effects, strict=True)
    ]
    total = sum(float(observed_fall(seen).square().mean()) for seen in observations)
    return 1 - sum(float(rest.square().mean()) for rest in left) / total if total else 0.0


@torch.no_grad()
def surety_of(generator: WeightGenerator, held_out: Sequence[Equations]) -> float:
    """Mean over standard error of what each held-out rationale's told and observed falls have in common."""
    scores = scores_of(generator, [says.tokens for says in held_out])
    common = torch.stack(
        [((says.coefficients @ score.cpu()) * says.values).mean() for says, score in zip(held_out, scores, strict=True)]
    ).double()
    if len(common) < 2:
        return math.nan
    mean, error = float(common.mean()), float(common.std()) / math.sqrt(len(common))
    return mean / error if error else mean * math.inf  # NaN where nothing is in common at all


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
