"""What methods are made of: what weighs tokens, what orders steps, which loss, which texts, which curriculum.

A part says which phases it needs and which recipe keys it reads. Phases that no part needs are not made, and the keys
of those that are made follow from what the parts say.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from kpod.data.views import View
from kpod.experiment import method_views
from kpod.lm.models import load_layout, load_model
from kpod.recipe import DiversityConfig, Recipe
from kpod.records import Rationale, Schedule, TokenizedRationale
from kpod.records.columns import ById
from kpod.records.errors import ConfigError, DataError, require
from kpod.records.topk import TopK
from kpod.schedule.progressive import linear_schedule, make_schedule, whole_rationales
from kpod.training.curriculum import ENDS_BY_ITSELF, Curriculum
from kpod.training.easiest_first import EasiestFirst
from kpod.training.in_sample import InSample
from kpod.training.internalisation import Internalisation
from kpod.training.objectives import Objective
from kpod.training.own_texts import OwnTexts, Weighs
from kpod.training.self_paced import SelfPaced
from kpod.training.terms import Agreement, CloseToStart, MatchDistribution, Nll, OnOwnTexts
from kpod.training.token_rules import BY_ENTROPY, BY_INFORMATION, BY_PROBABILITY, by_excess
from kpod.weighting import Weigher
from kpod.weighting.given import digit_rule_weights, shuffled_weights, uniform_weights

ByRationale: TypeAlias = Mapping[str, NDArray[np.float32]]
Result = TypeVar("Result", covariant=True)


def _no_weigher() -> Weigher:
    raise DataError("no weigher was kept; kpod weigh writes one where it learns weights")


@dataclass(frozen=True, slots=True)
class Given:
    """What a part works with.

    Attributes:
        tokens: What the student is trained on, in tokens: the rationales, or the method's views of them.
        texts: Rationale id -> its text.
        recipe: Of which a part reads the keys that it declares.
        made: Phase that the part declares -> returns what the phase came to; makes it first where it is missing.
        rationales: What passed the filter.
        counterfactual: Rationales of wrong answers, which are their questions' here.
        weigher: Returns what weighs texts that no one weighed yet, once the learnt weights are made.
    """

    tokens: Sequence[TokenizedRationale]
    texts: Mapping[str, str]
    recipe: Recipe
    made: Mapping[str, Callable[[], Any]]
    rationales: Sequence[Rationale] = ()
    counterfactual: Sequence[Rationale] = ()
    weigher: Callable[[], Weigher] = _no_weigher

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
        check: Raises ConfigError on a recipe that the part does not work with, before anything is made.
    """

    name: str
    run: Callable[[Given], Result]
    needs: frozenset[str] = frozenset()
    reads: tuple[str, ...] = ()
    check: Callable[[Recipe], None] = lambda _: None


Weigh: TypeAlias = Part[ByRationale]
Order: TypeAlias = Part[Schedule]
Loss: TypeAlias = Part[Objective]
Views: TypeAlias = Part[Iterable[View]]
InTraining: TypeAlias = Part[Curriculum]
Writes: TypeAlias = Part[OwnTexts]


def _shares_batches(recipe: Recipe) -> None:
    if recipe.training.tokens_per_batch is not None:
        raise ConfigError(
            "training.tokens_per_batch: the texts of a question share a batch under this method; leave it out"
        )


# -- what the student reads and writes -----------------------------------------------------------------

two_worlds: Views = Part(
    "two_worlds",
    lambda given: method_views.two_worlds(given.rationales, given.counterfactual, given.recipe.data.prompt),
    frozenset({"counterfactual"}),
)
"""Each rationale, and each rationale of a wrong answer, of which the answer alone is trained."""
four_formats: Views = Part(
    "four_formats",
    lambda given: method_views.four_formats(given.rationales, given.recipe.data.prompt, given.recipe.seed),
    reads=("seed",),
)
"""Each rationale and each answer, with and without worked examples before it."""
two_tasks: Views = Part(
    "two_tasks",
    lambda given: method_views.two_tasks(given.rationales, given.recipe.data.prompt),
    check=_shares_batches,
)
"""Two texts of each rationale: one writes the answer alone, the other the rationale alone."""

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


# -- which loss ----------------------------------------------------------------------------------------


def _most_excess(given: Given) -> Objective:
    return Objective(((1.0, Nll(by_excess(given.recipe.training.excess_share))),))


TAUGHT = frozenset({"teacher_logprobs"})
nll: Loss = Part("nll", lambda _: Objective())
"""The weighted NLL (Eq. 15)."""
dft: Loss = Part("dft", lambda _: Objective(((1.0, Nll(BY_PROBABILITY)),)))
"""The NLL of each token times the student's probability of it."""
eaft: Loss = Part("eaft", lambda _: Objective(((1.0, Nll(BY_ENTROPY)),)))
"""The NLL of each token times the student's uncertainty at its place."""
infosft: Loss = Part("infosft", lambda _: Objective(((1.0, Nll(BY_INFORMATION)),)))
"""The NLL of each token times a rule that favours tokens of medium probability."""
most_excess: Loss = Part("most_excess", _most_excess, frozenset({"reference"}), ("training.excess_share",))
"""The NLL of the tokens of a batch that exceeds a reference model's most."""
logit_matching: Loss = Part(
    "0.1 nll + 0.9 matched, renormalised",
    lambda _: Objective(((0.1, Nll()), (0.9, MatchDistribution(renormalised=True)))),
    TAUGHT,
)
"""The NLL, and KL from a teacher's stored top-k probabilities."""
matching: Loss = Part(
    "matched", lambda _: Objective(((0.0, Nll()), (1.0, MatchDistribution(renormalised=False)))), TAUGHT
)
"""KL from a teacher's stored top-k probabilities, as they are; where it has none, the NLL."""
on_own_texts: Loss = Part(
    "on own texts",
    lambda given: Objective(((0.0, Nll()), (1.0, OnOwnTexts(given.recipe.training.on_policy.divergence)))),
    reads=("training.on_policy.divergence",),
)
"""KL from a teacher on the student's own texts; on recorded ones, with which training begins, the NLL."""
close_to_start: Loss = Part("nll + 0.1 close to start", lambda _: Objective(((1.0, Nll()), (0.1, CloseToStart()))))
"""The NLL, and KL of the student from what it was before training."""
agreeing: Loss = Part(
    "nll + 0.1 agreement", lambda _: Objective(((1.0, Nll()), (0.1, Agreement()))), check=_shares_batches
)
"""The NLL of two rationales of each question, and how far their answers' distributions differ."""

# -- who writes what is trained ---------------------------------------------------------------------------


def _check_own_texts(recipe: Recipe) -> None:
    if recipe.teacher.logprobs is None:
        raise ConfigError(
            "teacher.logprobs: this method asks a local teacher about the student's own texts; name it, such as "
            "teacher.logprobs: {model: FOLDER}"
        )
    if recipe.training.tokens_per_batch is not None:
        raise ConfigError("training.tokens_per_batch: the student's own texts have no length yet; leave it out")


def _own_texts(given: Given, weigh: Weighs | None = None) -> OwnTexts:
    taught, how = given.recipe.teacher.logprobs, given.recipe.training.on_policy
    if taught is None:  # `_check_own_texts` was not asked
        raise ConfigError("teacher.logprobs is null; it must name a model")
    return OwnTexts(
        load_model(taught.model, taught.precision or given.recipe.precision),
        starts_after=how.starts_after,
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        top_k=taught.top_k,
        weigh=weigh,
    )


def _weighed_own_texts(given: Given) -> OwnTexts:
    _ = given.weights  # which leaves the weigher behind
    weigher = given.weigher()
    own = load_layout(given.recipe.student).tokenizer.get_vocab()
    if weigher.layout.tokenizer.get_vocab() != own:
        raise ConfigError(
            "weighting.predictor: on the student's own texts a weigher must know the student's tokens; leave it out, "
            "or name a model with the student's tokenizer"
        )
    return _own_texts(given, weigher.weigh_ids)


WRITING = ("teacher.logprobs", "training.on_policy")
own_texts: Writes = Part("own_texts", _own_texts, reads=WRITING, check=_check_own_texts)
"""The student, after a time of recorded rationales; a teacher says what it expects at every token."""
weighed_own_texts: Writes = Part("weighed_own_texts", _weighed_own_texts, LEARNT, WRITING, _check_own_texts)
"""The same, with the weights that the run's weigher gives the student's own tokens."""

# -- what goes by what happens while the student is trained ----------------------------------------------


def _no_batches_by_tokens(recipe: Recipe) -> None:
    if recipe.training.tokens_per_batch is not None:
        raise ConfigError("training.tokens_per_batch: the method chooses the batches' rationales; leave it out")


def _ramp(recipe: Recipe) -> int:
    """T in epochs: half of them, or as the recipe says where every stage is an epoch."""
    return recipe.schedule.ramp_stages or max(1, recipe.training.num_train_epochs // 2)


def _easiest_first(given: Given) -> Curriculum:
    """The share of `EasiestFirst`, geometric too, but from C_0 / B to 1 in T epochs; scores are as old as the epoch."""
    share = given.recipe.schedule.initial_fraction
    growth = (1 / share) ** (1 / _ramp(given.recipe))
    return EasiestFirst(share, growth, epochs_per_growth=1, epochs_per_refresh=1)


def _check_easiest_first(recipe: Recipe) -> None:
    _no_batches_by_tokens(recipe)
    share = recipe.schedule.initial_fraction
    require(share > 0, "schedule.initial_fraction", share, "above 0: it is the share of rationales to start with")


def _in_sample(given: Given) -> Curriculum:
    validation = given.recipe.training.validation
    patience = None if validation is None else validation.patience
    return InSample() if patience is None else InSample(patience=patience)


def _check_in_sample(recipe: Recipe) -> None:
    _no_batches_by_tokens(recipe)
    if recipe.training.average is not None:
        raise ConfigError(ENDS_BY_ITSELF)
    if recipe.training.validation is None:
        raise ConfigError(
            "training.validation: the method goes by the accuracy between epochs; name its questions, such as "
            "training.validation: {questions: FILE}"
        )


adaptive_share: InTraining = Part("adaptive_share", lambda _: EasiestFirst(), check=_no_batches_by_tokens)
"""A growing share of the rationales with the least loss, with the constants of CurML."""
easiest_first: InTraining = Part(
    "easiest_first",
    _easiest_first,
    reads=("schedule.initial_fraction", "schedule.ramp_stages", "training.num_train_epochs"),
    check=_check_easiest_first,
)
"""The same in KPOD's time: all rationales by stage T, and scores that are refreshed at each epoch."""
self_paced: InTraining = Part("self_paced", lambda _: SelfPaced())
"""Loss weights times the student's confidence under its own dropout."""
in_sample: InTraining = Part("in_sample", _in_sample, check=_check_in_sample)
"""The first tokens are given; fewer whenever a validation finds no new best. The key of validation has its patience."""
internalised: InTraining = Part("internalised", lambda _: Internalisation(), check=_no_batches_by_tokens)
"""The first tokens of the rationale are left out; more and more, until none is written."""
