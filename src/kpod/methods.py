"""METHODS: one row per line of the paper's tables, and controls that they lack.

A method is what weighs tokens in the loss, what weighs them in the difficulties, and what orders steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kpod.config import DiversityConfig, ScheduleConfig, TrainingConfig
from kpod.lm.models import LanguageModel, mean_input_embeddings
from kpod.records import Schedule, TokenizedRationale
from kpod.schedule.clusters import cluster_questions, glove_embeddings
from kpod.schedule.plan import linear_schedule, make_schedule, whole_rationales
from kpod.weighting.given import digit_rule_weights, shuffled_weights, uniform_weights

ByRationale: TypeAlias = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ToWeigh:
    """What a rule may weigh tokens by.

    Attributes:
        tokens: The rationales in tokens.
        texts: Rationale id -> its text.
        learn: Returns the learnt weights; called only where they are wanted.
        seed: The run's.
    """

    tokens: Sequence[TokenizedRationale]
    texts: Mapping[str, str]
    learn: Callable[[], ByRationale]
    seed: int


Weigh: TypeAlias = Callable[[ToWeigh], ByRationale]
Order: TypeAlias = Callable[[ByRationale, NDArray[np.int64], ScheduleConfig, int], Schedule]


def learned(given: ToWeigh) -> ByRationale:
    """Learnt weights (the paper)."""
    return given.learn()


def uniform(given: ToWeigh) -> ByRationale:
    """Every token weighs 1; nothing is learnt."""
    return uniform_weights(given.tokens)


def shuffled(given: ToWeigh) -> ByRationale:
    """Learnt weights on other tokens of their rationale: their histogram, without knowing where keypoints are."""
    return shuffled_weights(given.learn(), given.seed)


def digit_rule(given: ToWeigh) -> ByRationale:
    """Digits and operators weigh 1, the rest 0.3; nothing is learnt."""
    return digit_rule_weights(given.tokens, given.texts)


def mean_one(given: ToWeigh) -> ByRationale:
    """The mean of a rationale's learnt weights on each of its tokens: less weight than 1, and no keypoints."""
    return {name: np.full_like(weights, weights.mean()) for name, weights in given.learn().items()}


LEARNING: frozenset[Weigh] = frozenset({learned, shuffled, mean_one})
"""Rules that ask for learnt weights."""


def progressive(
    difficulties: ByRationale, clusters: NDArray[np.int64], config: ScheduleConfig, num_epochs: int
) -> Schedule:
    """The progressive schedule of Eq. 9-13."""
    return make_schedule(list(difficulties), list(difficulties.values()), clusters, config, num_epochs)


def progressive_without_diversity(
    difficulties: ByRationale, clusters: NDArray[np.int64], config: ScheduleConfig, num_epochs: int
) -> Schedule:
    """The progressive schedule with beta = 0."""
    return progressive(difficulties, clusters, replace(config, diversity=DiversityConfig(beta=0.0)), num_epochs)


def progressive_at_random(
    difficulties: ByRationale, clusters: NDArray[np.int64], config: ScheduleConfig, num_epochs: int
) -> Schedule:
    """A schedule with the same D(t) whose questions are drawn by chance."""
    return progressive(difficulties, clusters, replace(config, selector="random"), num_epochs)


def progressive_unordered(
    difficulties: ByRationale, clusters: NDArray[np.int64], config: ScheduleConfig, num_epochs: int
) -> Schedule:
    """The suffixes of the progressive schedule, each question's in random order up to stage T."""
    schedule = progressive(difficulties, clusters, config, num_epochs)
    steps, ramp = schedule.input_steps.copy(), slice(schedule.first_stage, schedule.ramp_stages)
    steps[ramp] = np.random.default_rng(0).permuted(steps[ramp], axis=0)
    return replace(schedule, input_steps=steps, stages=(), ordered=False)


def prefix_first(
    difficulties: ByRationale, clusters: NDArray[np.int64], config: ScheduleConfig, num_epochs: int
) -> Schedule:
    """The progressive schedule's numbers of steps, of the rationale's start instead of its end: the wrong direction."""
    return replace(progressive(difficulties, clusters, config, num_epochs), stages=(), trains="prefix")


def linear(
    difficulties: ByRationale,
    clusters: NDArray[np.int64],  # noqa: ARG001
    config: ScheduleConfig,
    num_epochs: int,
) -> Schedule:
    """Every question's given steps fall evenly."""
    num_steps = np.array([len(steps) for steps in difficulties.values()], dtype=np.int64)
    return linear_schedule(list(difficulties), num_steps, config, num_epochs)


def whole(
    difficulties: ByRationale,
    clusters: NDArray[np.int64],  # noqa: ARG001
    config: ScheduleConfig,  # noqa: ARG001
    num_epochs: int,  # noqa: ARG001
) -> Schedule:
    """Whole rationales from the first epoch."""
    return whole_rationales(list(difficulties))


COUNTING: frozenset[Order] = frozenset({linear, whole})
"""Orders that read of the difficulties only how many there are."""


def unassessed(tokens: Sequence[TokenizedRationale]) -> ByRationale:
    """A zero for every step, where the order only counts steps and a pass of the student over them would be wasted."""
    return {rationale.id: np.zeros(rationale.num_steps, dtype=np.float32) for rationale in tokens}


def cluster(lm: LanguageModel, questions: Sequence[str], config: ScheduleConfig, seed: int) -> NDArray[np.int64]:
    """Groups of similar questions (C_k of Eq. 12), by the student's input embeddings or by GloVe vectors."""
    if config.embeddings != "student":
        embeddings = glove_embeddings(Path(config.embeddings), questions)
    else:
        ids = [lm.tokenizer(question, add_special_tokens=False).input_ids for question in questions]
        embeddings = mean_input_embeddings(lm, ids).numpy()
    return cluster_questions(embeddings, config.num_clusters, seed)


@dataclass(frozen=True, slots=True)
class Method:
    """One way to distil.

    Attributes:
        label: How the paper's tables call it.
        weigh: What weighs the tokens in the loss (Eq. 15).
        weigh_steps: What weighs them in the step difficulties (Eq. 8).
        order: What orders the steps.
        weight_normalisation: What becomes of the loss weights while training; None: as the recipe says.
    """

    label: str
    weigh: Weigh
    weigh_steps: Weigh
    order: Order
    weight_normalisation: Literal["none", "mean"] | None = None

    @property
    def learns(self) -> bool:
        """Whether it needs learnt weights."""
        return not LEARNING.isdisjoint({self.weigh, self.weigh_steps})

    @property
    def assesses(self) -> bool:
        """Whether its order depends on the step difficulties."""
        return self.order not in COUNTING

    def training(self, config: TrainingConfig) -> TrainingConfig:
        """A recipe's training under this method."""
        how = self.weight_normalisation
        return config if how is None else replace(config, weight_normalisation=how)


METHODS: Mapping[str, Method] = {
    "kpod": Method("KPOD", learned, learned, progressive),
    "kpod-wo-sig": Method("KPOD w.o. sig", uniform, uniform, progressive),
    "kpod-wo-sig-dif": Method("KPOD w.o. sig-dif", learned, uniform, progressive),
    "kpod-wo-prog": Method("KPOD w.o. prog", learned, learned, whole),
    "kpod-wo-div": Method("KPOD w.o. div", learned, learned, progressive_without_diversity),
    "kpod-random": Method("KPOD, random schedule", learned, learned, progressive_at_random),
    "kpod-linear": Method("KPOD, linear schedule", learned, learned, linear),
    "kpod-unordered": Method("KPOD, suffixes in random order", learned, learned, progressive_unordered),
    "kpod-prefix": Method("KPOD, first steps first", learned, learned, prefix_first),
    "kpod-shuffled": Method("KPOD, weights shuffled", shuffled, learned, progressive),
    "kpod-rule": Method("KPOD, weights by the digit rule", digit_rule, digit_rule, progressive),
    "kpod-mean": Method("KPOD, each rationale's mean weight", mean_one, learned, progressive),
    "kpod-normalised": Method("KPOD, weights of mean 1", learned, learned, progressive, weight_normalisation="mean"),
    "scotd": Method("SCoTD", uniform, uniform, whole),
    "scotd-shuffled": Method("SCoTD, weights shuffled", shuffled, uniform, whole),
    "scotd-rule": Method("SCoTD, weights by the digit rule", digit_rule, uniform, whole),
}
