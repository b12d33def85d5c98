"""METHODS: one row per line of the paper's tables, and controls that they lack.

A method is what weighs tokens and what orders steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kpod.config import DiversityConfig, ScheduleConfig
from kpod.lm.models import LanguageModel, mean_input_embeddings
from kpod.records import Schedule, TokenizedRationale, Weights
from kpod.schedule.clusters import cluster_questions, glove_embeddings
from kpod.schedule.plan import linear_schedule, make_schedule, whole_rationales
from kpod.weighting.given import uniform_weights

ByRationale: TypeAlias = Mapping[str, NDArray[np.float32]]
Learn: TypeAlias = Callable[[], ByRationale]
Weigh: TypeAlias = Callable[[Sequence[TokenizedRationale], Learn], Weights]
Order: TypeAlias = Callable[[ByRationale, NDArray[np.int64], ScheduleConfig, int], Schedule]


def learned(tokens: Sequence[TokenizedRationale], learn: Learn) -> Weights:  # noqa: ARG001
    """Learnt weights in the loss and in the difficulty (the paper)."""
    weights = learn()
    return Weights(loss=weights, difficulty=weights)


def learned_for_loss(tokens: Sequence[TokenizedRationale], learn: Learn) -> Weights:
    """Learnt weights in the loss; a step's difficulty is its tokens' plain mean."""
    return Weights(loss=learn(), difficulty=uniform_weights(tokens))


def uniform(tokens: Sequence[TokenizedRationale], learn: Learn) -> Weights:  # noqa: ARG001
    """Every token weighs 1; nothing is learnt."""
    weights = uniform_weights(tokens)
    return Weights(loss=weights, difficulty=weights)


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
        weigh: What weighs the tokens.
        order: What orders the steps.
    """

    label: str
    weigh: Weigh
    order: Order


METHODS: Mapping[str, Method] = {
    "kpod": Method("KPOD", learned, progressive),
    "kpod-wo-sig": Method("KPOD w.o. sig", uniform, progressive),
    "kpod-wo-sig-dif": Method("KPOD w.o. sig-dif", learned_for_loss, progressive),
    "kpod-wo-prog": Method("KPOD w.o. prog", learned, whole),
    "kpod-wo-div": Method("KPOD w.o. div", learned, progressive_without_diversity),
    "kpod-random": Method("KPOD, random schedule", learned, progressive_at_random),
    "kpod-linear": Method("KPOD, linear schedule", learned, linear),
    "scotd": Method("SCoTD", uniform, whole),
}
