"""METHODS: one row per line of the paper's tables, and controls that they lack.

A method is made of parts: what weighs tokens in the loss, what weighs them in the difficulties, and what orders steps.
A part says which phases it needs and which recipe keys it reads. Phases that no part needs are not made, and the keys
of those that are made follow from what the parts say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from kpod.lm.models import LanguageModel, mean_input_embeddings
from kpod.recipe import DiversityConfig, Recipe, ScheduleConfig, TrainingConfig
from kpod.records import Schedule, TokenizedRationale
from kpod.records.columns import ById
from kpod.records.topk import TopK
from kpod.schedule.clusters import cluster_embeddings, glove_embeddings
from kpod.schedule.progressive import linear_schedule, make_schedule, whole_rationales
from kpod.weighting.given import digit_rule_weights, shuffled_weights, uniform_weights

ByRationale: TypeAlias = Mapping[str, NDArray[np.float32]]
Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True, slots=True)
class Given:
    """What a part works with.

    Attributes:
        tokens: The rationales in tokens.
        texts: Rationale id -> its text.
        recipe: Of which a part reads the keys that it declares.
        made: Phase that the part declares -> returns what the phase came to; makes it first where it is missing.
    """

    tokens: Sequence[TokenizedRationale]
    texts: Mapping[str, str]
    recipe: Recipe
    made: Mapping[str, Callable[[], Any]]

    @property
    def weights(self) -> ByRationale:
        """Learnt weights of the rationale tokens."""
        found: ByRationale = self.made["weights"]()
        return found

    @property
    def difficulties(self) -> ByRationale:
        """d_k of every step, in nats."""
        found: ByRationale = self.made["difficulties"]()
        return found

    @property
    def teacher_logprobs(self) -> Mapping[str, TopK]:
        """By rationale, a teacher's distribution at every token that the student writes."""
        found: Mapping[str, TopK] = self.made["teacher_logprobs"]()
        return found

    @property
    def clusters(self) -> NDArray[np.int64]:
        """The group of similar questions that each rationale's question is in."""
        found: NDArray[np.int64] = self.made["clusters"]()
        return found


@dataclass(frozen=True, slots=True)
class Part(Generic[Result]):
    """A function that a method is made of, and what it needs beside the rationales and their tokens.

    Attributes:
        name: Phases that use the part are hashed by it: a part that comes to something else needs another name.
        run: The function.
        needs: The phases that it asks for, by name; `Given` hands out no others.
        reads: The recipe keys that change its result, or sections of keys.
    """

    name: str
    run: Callable[[Given], Result]
    needs: frozenset[str] = frozenset()
    reads: tuple[str, ...] = ()


Weigh: TypeAlias = Part[ByRationale]
Order: TypeAlias = Part[Schedule]

# -- what weighs tokens --------------------------------------------------------------------------------

LEARNT = frozenset({"weights"})


def _digit_rule(given: Given) -> ByRationale:
    return digit_rule_weights(given.tokens, given.texts)


def _shuffled(given: Given) -> ByRationale:
    return shuffled_weights(given.weights, given.recipe.seed)


def _mean_one(given: Given) -> ByRationale:
    return ById.of((name, np.full_like(weights, weights.mean())) for name, weights in given.weights.items())


learned: Weigh = Part("learned", lambda given: given.weights, LEARNT)
"""Learnt weights (the paper)."""
uniform: Weigh = Part("uniform", lambda given: uniform_weights(given.tokens))
"""Every token weighs 1; nothing is learnt."""
shuffled: Weigh = Part("shuffled", _shuffled, LEARNT, ("seed",))
"""Learnt weights on other tokens of their rationale: their histogram, without knowing where keypoints are."""
digit_rule: Weigh = Part("digit_rule", _digit_rule)
"""Digits and operators weigh 1, the rest 0.3; nothing is learnt."""
mean_one: Weigh = Part("mean_one", _mean_one, LEARNT)
"""The mean of a rationale's learnt weights on each of its tokens: less weight than 1, and no keypoints."""

# -- what a teacher expects ----------------------------------------------------------------------------

TAUGHT = frozenset({"teacher_logprobs"})

taught: Part[Mapping[str, TopK]] = Part("taught", lambda given: given.teacher_logprobs, TAUGHT)
"""A teacher's top-k distributions, for losses that compare the student's with them."""

# -- what orders steps ---------------------------------------------------------------------------------

ASSESSED = frozenset({"difficulties", "clusters"})
PACE = (
    "schedule.ramp_stages",
    "schedule.stages",
    "schedule.first_stage",
    "schedule.initial_fraction",
    "schedule.min_output_steps",
    "training.num_train_epochs",
)
"""What every order with stages reads."""
BUDGET = (*PACE, "schedule.growth_exponent", "schedule.stride", "schedule.pace")


def _progressive(given: Given, **changes: Any) -> Schedule:
    """The progressive schedule of Eq. 9-13, under a recipe's schedule with changes."""
    recipe, difficulties = given.recipe, given.difficulties
    return make_schedule(
        list(difficulties),
        list(difficulties.values()),
        given.clusters,
        replace(recipe.schedule, **changes),
        recipe.training.num_train_epochs,
        recipe.seed,
    )


def _without_diversity(given: Given) -> Schedule:
    return _progressive(given, diversity=DiversityConfig(beta=0.0))


def _at_random(given: Given) -> Schedule:
    return _progressive(given, selector="random")


def _unordered(given: Given) -> Schedule:
    schedule = _progressive(given)
    steps, ramp = schedule.input_steps.copy(), slice(schedule.first_stage, schedule.ramp_stages)
    steps[ramp] = np.random.default_rng(given.recipe.seed).permuted(steps[ramp], axis=0)
    return replace(schedule, input_steps=steps, stages=(), ordered=False)


def _prefix_first(given: Given) -> Schedule:
    return replace(_progressive(given), stages=(), trains="prefix")


def _linear(given: Given) -> Schedule:
    num_steps = np.array([rationale.num_steps for rationale in given.tokens], dtype=np.int64)
    ids, recipe = [rationale.id for rationale in given.tokens], given.recipe
    return linear_schedule(ids, num_steps, recipe.schedule, recipe.training.num_train_epochs)


SELECTION = (*BUDGET, "schedule.selector", "schedule.diversity")
progressive: Order = Part("progressive", _progressive, ASSESSED, SELECTION)
"""The progressive schedule of Eq. 9-13."""
progressive_without_diversity: Order = Part(
    "progressive_without_diversity", _without_diversity, ASSESSED, (*BUDGET, "schedule.selector")
)
"""The progressive schedule with beta = 0."""
progressive_at_random: Order = Part(
    "progressive_at_random", _at_random, ASSESSED, (*BUDGET, "schedule.diversity", "seed")
)
"""A schedule with the same D(t) whose questions are drawn by chance."""
progressive_unordered: Order = Part("progressive_unordered", _unordered, ASSESSED, (*SELECTION, "seed"))
"""The suffixes of the progressive schedule, each question's in random order up to stage T."""
prefix_first: Order = Part("prefix_first", _prefix_first, ASSESSED, SELECTION)
"""The progressive schedule's numbers of steps, of the rationale's start instead of its end: the wrong direction."""
linear: Order = Part("linear", _linear, reads=PACE)
"""Every question's given steps fall evenly."""
whole: Order = Part("whole", lambda given: whole_rationales([rationale.id for rationale in given.tokens]))
"""Whole rationales from the first epoch."""


def cluster_questions(
    lm: LanguageModel, questions: Sequence[str], config: ScheduleConfig, seed: int
) -> NDArray[np.int64]:
    """Groups of similar questions (C_k of Eq. 12), by the student's input embeddings or by GloVe vectors.

    Args:
        lm: The student before distillation.
        questions: Their texts.
        config: The recipe's `schedule`, which says how many groups and what is compared.
        seed: Of K-means.

    Returns:
        The group of each question, from 0, numbered by first appearance, [questions].

    Raises:
        DataError: If an embedding is not finite, or the GloVe file is wrong.
    """
    by_student = config.embeddings == "student"
    embeddings = _Embedded(lm, questions) if by_student else glove_embeddings(Path(config.embeddings), questions)
    return cluster_embeddings(embeddings, config.num_clusters, seed)


@dataclass(frozen=True, slots=True)
class _Embedded:
    """The embeddings of questions by a student, made when they are asked for: of a million they fill gigabytes."""

    lm: LanguageModel
    questions: Sequence[str]

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        some = self.questions[rows] if isinstance(rows, slice) else [self.questions[row] for row in rows]
        ids = self.lm.tokenizer(list(some), add_special_tokens=False, return_attention_mask=False).input_ids
        found: NDArray[np.float32] = mean_input_embeddings(self.lm, ids).numpy()
        return found


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
        """Whether it needs learnt weights; difficulties that its order does not ask for need none."""
        assesses = "difficulties" in self.order.needs
        return "weights" in self.weigh.needs | (self.weigh_steps.needs if assesses else frozenset())

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
