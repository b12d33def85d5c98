"""Estimate the tokens' effects in rounds, under random masks, until nothing changes.

Two things hide what a word is worth. Where the numbers beside it are hidden, no word helps. So tokens that weigh much
after a round are kept more often in the next. Where everything beside it is kept, no word is needed, since the equation
says the same. So all other tokens stay hidden half of the time, and a token's copies are hidden together
(`balanced_masks`). Observations of all rounds are fitted together, so that their noise averages out and the weights
come to rest.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from kpod.lm.processes import agreed, divided
from kpod.recipe import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.records.progress import ProgressBar
from kpod.weighting.contrast import hold
from kpod.weighting.effects import fit_linear, to_nats
from kpod.weighting.masks import balanced_masks, draw_batches, draw_prefixes
from kpod.weighting.module import WeightGenerator, compute_weights
from kpod.weighting.objective import held_out_objectives
from kpod.weighting.predictor import Observation, observe
from kpod.weighting.prefixes import Predictor

ROUNDS = 8
"""Rounds at most; `weighting.observations` are shared among them."""
LEAST = 8
"""Observations of a round, at least: to measure L_k after each takes as long as about eight of them."""
FIRST_CHANCE = 0.6
"""Chance of a token to be kept in the first round, which knows nothing of any."""
CERTAIN, CERTAIN_CHANCE, OTHER_CHANCE = 0.9, 0.9, 0.5
"""In later rounds tokens that weigh more than the first of these are kept with the second chance, others with the
third."""
NUM_HELD_OUT = 12
"""Rationales on which L_k is measured after each round, at most a quarter of all."""
NUM_PROBED = 64
"""Rationales whose weights are compared from round to round."""
STILL = 0.04
"""Weights rest when they change by no more than this from one round to the next, on average; their spread is 0.25."""
ROUNDS_AT_REST = 2
"""How many rounds in a row must leave everything at rest."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Round:
    """Where learning stands after a round.

    Attributes:
        observed: How many rationales were observed so far.
        objective: L_k of the held-out rationales under masks drawn from their weights, in nats.
        fall: By how much the round lowered it, the mean over these rationales; None after the first round.
        error: Standard error of that mean.
        moved: Mean absolute change of the probed weights against the round before; None after the first round.
        agreement: Rank correlation of the probed weights with those of the round before; None after the first round,
            or where all of them are the same.
    """

    observed: int
    objective: float
    fall: float | None = None
    error: float | None = None
    moved: float | None = None
    agreement: float | None = None

    def __str__(self) -> str:
        """Both curves at this point, for the log."""
        told = f"{self.observed} rationales observed, held-out L_k {self.objective:.3f}"
        if self.moved is None:
            return told
        ranks = "" if self.agreement is None else f" (rank correlation {self.agreement:.2f})"
        return f"{told}, {self.fall:.3f} +- {self.error:.3f} less; weights moved by {self.moved:.3f}{ranks}"

    @property
    def at_rest(self) -> bool:
        """Whether the round neither lowered L_k by more than two standard errors nor moved the weights."""
        if self.moved is None or self.fall is None or self.error is None:
            return False
        return self.moved <= STILL and self.fall <= 2 * self.error


def came_to_rest(rounds: Sequence[Round]) -> bool:
    """Whether the last rounds left L_k and the weights where they were."""
    return len(rounds) >= ROUNDS_AT_REST and all(one.at_rest for one in rounds[-ROUNDS_AT_REST:])


def observe_in_rounds(
    generator: WeightGenerator,
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    config: WeightingConfig,
    rng: np.random.Generator,
    observations: list[Observation],
) -> Iterator[Round]:
    """Observe and fit in rounds; yields after each. It ends at rest, or when `config.observations` are used up.

    Args:
        generator: Gets its linear part, price and softness after each round.
        predictor: Frozen.
        tokens: The rationales; some of them are held out to measure L_k.
        config: The recipe's `weighting`.
        rng: Draws rationales, masks and prefixes.
        observations: Gets every observation.

    Raises:
        WeightingError: If an NLL is not finite.
    """
    predictor.eval()
    order = [tokens[index] for index in rng.permutation(len(tokens))]
    num_held_out = min(NUM_HELD_OUT, len(order) // 4)
    held_out, learnt_from, probe = order[:num_held_out], order[num_held_out:], order[-NUM_PROBED:]
    queue = draw_batches(learnt_from, 1, rng)
    size = max(LEAST, -(-config.observations // ROUNDS))
    objectives = weights = None
    done: list[Round] = []
    bar = ProgressBar(total=config.observations, name="observations", unit="rationales")
    while len(observations) < config.observations:
        batch = [next(queue)[0] for _ in range(min(size, config.observations - len(observations)))]
        chances = _chances(generator, batch, first=weights is None)
        masked = [
            (one, balanced_masks(one, chances[one.id], config.masks, rng), draw_prefixes(one, config.prefixes, rng))
            for one in batch
        ]
        for observed in divided(masked, lambda drawn: observe(predictor, *drawn)):
            observations.append(observed)
            bar.update()
        fit_linear(generator, observations)
        to_nats(generator, observations)
        hold(generator, tokens, config.kept_rate, config.spread)
        _agree(generator)
        before, objectives = objectives, held_out_objectives(generator, predictor, held_out or order, config)
        former, weights = weights, np.concatenate(list(compute_weights(generator, probe).values()))
        now = agreed(_compared(len(observations), objectives, before, weights, former))
        bar.set_postfix({"L_k": f"{now.objective:.2f}", "moved": "-" if now.moved is None else f"{now.moved:.3f}"})
        log.info("weights: %s", now)
        yield now
        done.append(now)
        if came_to_rest(done):
            break
    bar.close()


def _agree(generator: WeightGenerator) -> None:
    """Give every process what the first one fitted: cards round differently, and all must draw and end alike."""
    for value in (generator.direction, generator.intercept, generator.scale, generator.price, generator.softness):
        value.copy_(agreed(value.detach().cpu()))


def _chances(
    generator: WeightGenerator, batch: Sequence[TokenizedRationale], *, first: bool
) -> dict[str, NDArray[np.float32]]:
    """With which chance each token of a batch is kept while it is observed."""
    if first:
        return {one.id: np.full(one.num_tokens, FIRST_CHANCE, dtype=np.float32) for one in batch}
    found = compute_weights(generator, batch)
    return {name: np.where(w > CERTAIN, CERTAIN_CHANCE, OTHER_CHANCE).astype(np.float32) for name, w in found.items()}


def _compared(
    observed: int,
    objectives: NDArray[np.float64],
    before: NDArray[np.float64] | None,
    weights: NDArray[np.float32],
    former: NDArray[np.float32] | None,
) -> Round:
    if before is None or former is None:
        return Round(observed, float(objectives.mean()))
    falls = before - objectives
    error = float(falls.std(ddof=1) / np.sqrt(len(falls))) if len(falls) > 1 else 0.0
    told_apart = np.ptp(weights) > 0 and np.ptp(former) > 0
    agreement = float(spearmanr(weights, former).statistic) if told_apart else None
    moved = float(np.abs(weights - former).mean())
    return Round(observed, float(objectives.mean()), float(falls.mean()), error, moved, agreement)
