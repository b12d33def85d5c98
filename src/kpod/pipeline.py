"""Algorithm 1 from top to bottom: rationales, weights, difficulties, schedule, student, accuracy, report.

The file to read first. Each phase is skipped where the run folder already holds it, made from the same inputs; a
changed recipe key redoes the first phase that it touches and those after it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpod import artifacts
from kpod.artifacts import DROPPED, RunFolder
from kpod.config import Recipe, ScheduleConfig
from kpod.data.datasets import load_questions
from kpod.difficulty import assess
from kpod.errors import require
from kpod.evaluation.accuracy import summarise
from kpod.evaluation.generation import answer_questions
from kpod.files import write_text
from kpod.forecast import Forecast, Role, unused
from kpod.keys import evaluation_key, phase_keys
from kpod.lm.encoding import encode_all, unused_template
from kpod.lm.engines import ENGINES, Engine, require_engine
from kpod.lm.models import LanguageModel, load_layout, load_model
from kpod.lm.processes import first_process_first, is_first_process
from kpod.lm.suitability import check_student
from kpod.methods import METHODS, ByRationale, ToWeigh, cluster, unassessed
from kpod.outcomes import Accuracy, Prediction
from kpod.phases import do_phase
from kpod.preflight import (
    announce,
    check_before_asking,
    check_some_are_kept,
    pays_a_teacher,
    question_uses,
    training_use,
)
from kpod.recipe import dump_recipe
from kpod.records import Dropped, Question, Rationale, Schedule, TokenizedRationale, Weights
from kpod.teacher.gathering import Gathered, gather
from kpod.training import TrainingSummary, check_arguments, train_student
from kpod.weighting import accepted, check_predictor, weigh_rationales, weights_in_data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        folder: The run folder.
        accuracies: Per test set the accuracy before training (None where not measured) and after.
        training: What the training did.
    """

    folder: Path
    accuracies: tuple[tuple[Accuracy | None, Accuracy], ...]
    training: TrainingSummary


def run(recipe: Recipe) -> RunResult:
    """Distil as a recipe says: every phase in order, skipping what is already done.

    Raises:
        KpodError: On a wrong recipe or input file, or where a phase fails; what was finished before stays.
    """
    return Pipeline(recipe).run()


def check_recipes_predictor(recipe: Recipe) -> None:
    """Load the model that is to learn a recipe's weights, and stop where it cannot, before anything is paid for.

    Raises:
        ConfigError: As `load_model`, or if it cannot carry adapters.
        WeightingError: If it cannot read embeddings as it reads token ids.
    """
    config = recipe.weighting
    lm = load_model(config.predictor or recipe.student, config.precision or recipe.precision)
    check_predictor(lm, config)


class Pipeline:
    """The phases of one recipe, each made or loaded when it is first asked for.

    Args:
        recipe: The whole experiment.

    Raises:
        ConfigError: If the method or a training argument does not exist; nothing has been written then.
    """

    def __init__(self, recipe: Recipe) -> None:
        require(recipe.method in METHODS, "method", recipe.method, f"one of {', '.join(METHODS)}")
        check_arguments(recipe.training)
        self.recipe, self.method = recipe, METHODS[recipe.method]
        self.folder = RunFolder(Path(recipe.runs) / recipe.name)

    def run(self) -> RunResult:
        """Every phase in order; see `run`."""
        require_engine(self.recipe.evaluation.engine)
        self.announce("train", "test", "validation")
        before = self._evaluate_before() if self.recipe.evaluation.before else {}
        summary = self.distil()
        accuracies = tuple((before.get(name), after) for name, after in self.evaluate("after").items())
        return RunResult(self.folder.path, accuracies, summary)

    def _evaluate_before(self) -> dict[str, Accuracy]:
        """Ask the untrained student, but first see that nothing later will refuse it."""
        learnt = self.folder.has("weights", self.keys["weights"]) or weights_in_data(self.sources[0], self.tokens)
        if self.method.learns and not learnt:
            check_recipes_predictor(self.recipe)
        return self.evaluate("before")

    # -- line 1: rationales from the teacher, and their tokens ---------------------------------------

    def announce(self, *roles: Role) -> None:
        """Say what is used of the data, and stop where a source in these roles cannot be used, before work starts."""
        forecast = self._before_tokens if self._before_tokens.errors(*roles) else self.forecast
        announce(forecast, roles, self.folder.path / DROPPED, aloud=is_first_process())

    @cached_property
    def forecast(self) -> Forecast:
        """What is used of every source, after all that drops rationales."""
        training, *others = self._before_tokens.sources
        return Forecast((training.also_without(unused(self.encoded[1], self.recipe)), *others))

    @cached_property
    def _before_tokens(self) -> Forecast:
        use = training_use(self.recipe, self._gathered, learns=self.method.learns)
        return Forecast((use, *question_uses(self.recipe)))

    @property
    def sources(self) -> tuple[list[Rationale], list[Dropped]]:
        """The rationales to train on, and those that the filter dropped."""
        return self._gathered.kept, self._gathered.dropped

    @cached_property
    def _gathered(self) -> Gathered:
        """The rationales, read again each time, so that changed data is noticed."""
        with first_process_first():  # which asks the teacher, where one is asked
            self.folder.check_writable()
            check_student(self.recipe.student, self.recipe.data.prompt, self.recipe.training.lora)
            check_before_asking(self.recipe)
            if self.method.learns and pays_a_teacher(self.recipe):
                check_recipes_predictor(self.recipe)
            gathered = gather(self.recipe.data, self.recipe.teacher, Path(self.recipe.runs))
        check_some_are_kept(self.recipe, gathered, (), self.folder.path / DROPPED)
        if is_first_process():
            write_text(self.folder.path / "recipe.yaml", dump_recipe(self.recipe))
            artifacts.write_jsonl(self.folder.path / "rationales.jsonl", map(artifacts.rationale_row, gathered.kept))
        return gathered

    @cached_property
    def encoded(self) -> tuple[list[TokenizedRationale], list[Dropped]]:
        """Tokenised rationales, and those that do not fit."""

        def make(folder: Path) -> None:
            log.info("tokenising %d rationales", len(self.sources[0]))
            layout = load_layout(self.recipe.student)
            if note := unused_template(layout, self.recipe.data.prompt):
                log.warning("WARNING: %s", note)
            tokens, unfit = encode_all(layout, self.sources[0], self.recipe.data)
            check_some_are_kept(self.recipe, self._gathered, unfit, self.folder.path / DROPPED)
            artifacts.save_tokens(folder, tokens, unfit)

        do_phase(self.folder, "tokens", self.keys["tokens"], make)
        tokens, unfit = artifacts.load_tokens(self.folder.path / "tokens")
        if is_first_process():
            artifacts.save_dropped(self.folder.path / DROPPED, [*self.sources[1], *unfit])
        return tokens, unfit

    @property
    def tokens(self) -> list[TokenizedRationale]:
        """Tokenised rationales."""
        return self.encoded[0]

    @property
    def dropped(self) -> list[Dropped]:
        """Every rationale that is not trained on, with its reason."""
        return [*self.sources[1], *self.encoded[1]]

    # -- line 2: significance weights (Eq. 2-7) --------------------------------------------------------

    @cached_property
    def weights(self) -> Weights:
        """What each rationale token weighs under the method, in the loss and in the difficulties."""
        texts = {rationale.id: rationale.text for rationale in self.sources[0]}
        given = ToWeigh(self.tokens, texts, lambda: self._learnt, self.recipe.seed)
        return Weights(loss=self.method.weigh(given), difficulty=self.method.weigh_steps(given))

    @cached_property
    def _learnt(self) -> ByRationale:
        """Learnt significance weights of every rationale token; methods differ in what they make of them."""

        def make(folder: Path) -> None:
            artifacts.save_by_rationale(folder / artifacts.WEIGHTS, "weights", self._learn(folder))

        do_phase(self.folder, "weights", self.keys["weights"], make)
        return artifacts.load_by_rationale(accepted(self.folder.path / "weights") / artifacts.WEIGHTS)

    def _learn(self, folder: Path) -> ByRationale:
        """Weights from the data where it brings them for every rationale, else by mask learning."""
        rationales, recipe = self.sources[0], self.recipe
        if (given := weights_in_data(rationales, self.tokens)) is not None:
            return given
        name, precision = recipe.weighting.predictor, recipe.weighting.precision or recipe.precision
        alike = name is None and precision == recipe.precision
        predictor = self._take_student() if alike else load_model(name or recipe.student, precision)
        return weigh_rationales(
            predictor, rationales, self.tokens, recipe.weighting, recipe.data.prompt, recipe.seed, folder
        )

    # -- lines 3-4: step difficulties (Eq. 8) and schedule (Eq. 9-13) ---------------------------------

    @cached_property
    def difficulties(self) -> ByRationale:
        """d_k of every step, in nats."""

        def make(folder: Path) -> None:
            found = assess(self.student, self.tokens, self.weights.difficulty)
            artifacts.save_by_rationale(folder / artifacts.DIFFICULTIES, "difficulties", found)

        do_phase(self.folder, "difficulties", self.keys["difficulties"], make)
        return artifacts.load_by_rationale(self.folder.path / "difficulties" / artifacts.DIFFICULTIES)

    @cached_property
    def schedule(self) -> Schedule:
        """How many steps each rationale is given at each stage."""
        difficulties = self.difficulties if self.method.assesses else unassessed(self.tokens)

        def make(folder: Path) -> None:
            clusters = self.cluster(self.recipe.schedule)
            epochs = self.recipe.training.num_train_epochs
            schedule = self.method.order(difficulties, clusters, self.recipe.schedule, epochs)
            artifacts.save_plan(folder, schedule, clusters)

        do_phase(self.folder, "plan", self.keys["plan"], make)
        return artifacts.load_schedule(self.folder.path / "plan")

    def cluster(self, config: ScheduleConfig) -> NDArray[np.int64]:
        """Groups of similar questions: one number per tokenised rationale."""
        questions = {r.id: r.question.question for r in self.sources[0]}
        return cluster(self.student, [questions[t.id] for t in self.tokens], config, self.recipe.seed)

    # -- lines 5-11: the student (Eq. 14-15) -----------------------------------------------------------

    def distil(self) -> TrainingSummary:
        """Train the student on its schedule, or go on where training stopped."""
        tokens, weights, schedule = self.tokens, self.weights, self.schedule
        with first_process_first():
            kept = self.folder.claim_student(self.keys["student"], dump_recipe(self.recipe))
        if kept is not None:
            log.warning("the recipe or its data changed: the student so far is kept as %s", kept)
        return train_student(
            self._take_student(),
            tokens,
            weights.loss,
            schedule,
            self.method.training(self.recipe.training),
            seed=self.recipe.seed,
            output_dir=self.folder.path / "student",
            precision=self.recipe.precision,
            fingerprint=self.keys["student"],
            base_model=self.recipe.student,
            validate=lambda lm: summarise("validation", self._answer(lm, self._validation)).value,
        )

    @cached_property
    def _validation(self) -> list[Question]:
        """The questions that choose the checkpoint; none where the last one is taken."""
        config, data = self.recipe.training.validation, self.recipe.data
        return load_questions(config.questions, replace(data, test_limit=config.limit)) if config else []

    def _answer(self, lm: Engine, questions: Sequence[Question], *kept: Any) -> list[Prediction]:
        data = self.recipe.data
        return answer_questions(lm, questions, data.prompt, self.recipe.evaluation, *kept, words=data.answer_words)

    # -- accuracy --------------------------------------------------------------------------------------

    def evaluate(self, when: str, checkpoint: str | None = None) -> dict[str, Accuracy]:
        """Accuracy on every test set.

        Args:
            when: `before` (the student as it was), `after`, or a name for another checkpoint.
            checkpoint: A model folder or name; by default the student that `when` stands for.
        """
        name = checkpoint or (self.recipe.student if when == "before" else str(self.folder.path / "student"))
        loaded = cache(lambda: ENGINES[self.recipe.evaluation.engine](name, self.recipe.precision))
        return {test: self._evaluate_on(test, when, name, loaded) for test in self.recipe.data.tests}

    def _evaluate_on(self, test: str, when: str, name: str, loaded: Callable[[], Engine]) -> Accuracy:
        questions, phase = load_questions(test, self.recipe.data), artifacts.evaluation_phase(when, test)
        key = evaluation_key(self.recipe, name, questions)
        partial = artifacts.PartialEvaluation.of(self.folder, phase, key)

        def make(folder: Path) -> None:
            predictions = self._answer(loaded(), questions, partial.read(), partial.append)
            artifacts.save_evaluation(folder, predictions, summarise(test, predictions))

        do_phase(self.folder, phase, key, make)
        partial.path.unlink(missing_ok=True)
        return self.evaluation(when, test)[1]

    def evaluation(self, when: str, test: str) -> tuple[list[Prediction], Accuracy]:
        """Predictions and accuracy that `evaluate` saved."""
        return artifacts.load_evaluation(self.folder.path / artifacts.evaluation_phase(when, test))

    # -- what was made from what -----------------------------------------------------------------------

    @cached_property
    def student(self) -> LanguageModel:
        """The student before distillation."""
        return load_model(self.recipe.student, self.recipe.precision)

    def _take_student(self) -> LanguageModel:
        """The student before distillation, for a phase that changes it; the next to ask for it loads it anew."""
        student = self.student
        del self.student
        return student

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """Of each phase the hash of all it is made from."""
        return phase_keys(self.recipe, self.sources[0], self._validation)
