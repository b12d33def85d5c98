"""One recipe's run: each phase of `kpod.experiment.algorithm` made or loaded when asked for, student and accuracy."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpod.experiment import artifacts
from kpod.experiment.algorithm import BROUGHT, PHASES
from kpod.experiment.artifacts import DROPPED
from kpod.experiment.evaluations import AFTER, LAST_UPDATE, Evaluations, held_out_phase, named, of_last_update
from kpod.experiment.forecast import Forecast, Role, unused
from kpod.experiment.keys import Phase, needed, phase_keys
from kpod.experiment.method_views import TaughtViews
from kpod.experiment.methods import METHODS, cluster_questions
from kpod.experiment.parts import ByRationale, Given, Part, Result
from kpod.experiment.phases import do_phase, in_place, say_done
from kpod.experiment.preflight import announce, question_uses, training_use
from kpod.experiment.run_folder import RunFolder, seal
from kpod.experiment.sources import Sources, check_recipes_predictor
from kpod.lm.engines import require_engine
from kpod.lm.models import LanguageModel, hub_name, load_model, model_identity
from kpod.lm.processes import is_first_process, wait_for_all
from kpod.recipe import Recipe, ScheduleConfig, TrainingConfig
from kpod.recipe.loading import dump_recipe
from kpod.records import Dropped, Rationale, Schedule, TokenizedRationale, Weights
from kpod.records.errors import ConfigError, DataError, require
from kpod.records.files import write_text
from kpod.records.outcomes import Accuracy, Prediction, Surprise
from kpod.training import TrainingSummary, averaging, check_arguments, finished, train_student
from kpod.weighting import Weigher, weights_in_data

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

    Args:
        recipe: The whole experiment, from `load_recipe`; `runs/<name>` gets all that is made.

    Raises:
        KpodError: On a wrong recipe or input file, or where a phase fails; what was finished before stays.
    """
    return Pipeline(recipe).run()


class Pipeline:
    """The phases of one recipe; each is made or loaded when it is first asked for.

    Args:
        recipe: The whole experiment.

    Raises:
        ConfigError: If the method or a training argument does not exist, or they do not go together; nothing has been
            written then.
    """

    def __init__(self, recipe: Recipe) -> None:
        require(recipe.method in METHODS, "method", recipe.method, f"one of {', '.join(METHODS)}")
        check_arguments(recipe.training)
        self.method = METHODS[recipe.method]
        self.recipe = recipe = self.method.recipe(recipe)
        for part in self.method.all_parts:
            part.check(recipe)
        if "teacher_logprobs" in {phase.name for phase in needed(PHASES, self.method)}:
            recipe.teacher.check_probabilities()
        self.folder = RunFolder(Path(recipe.runs) / recipe.name)
        self.data = Sources(recipe, self.folder)
        self.evaluations, *self._beside = (
            Evaluations(asked, self.folder, self.data, task) for task, asked in self.method.asking(recipe)
        )
        self._loaded: dict[str, Any] = {}

    def made(self, name: str) -> Any:
        """What a phase came to. It and the phases before it that it needs are made in their order, where missing."""
        for phase in needed(self.phases, self.method, name):
            if phase.make is not None and phase.name not in self._loaded:
                make, key = partial(phase.make, self), self.keys[phase.name]
                place = do_phase(self.folder, phase.name, key, make, together=phase.together)
                self._loaded[phase.name] = phase.load(self, place)
        return self._loaded[name]

    def given(self, part: Part[Any], tokens: Sequence[TokenizedRationale] | None = None) -> Given:
        """What a part of the method works with: the phases that it declares and no others.

        Args:
            part: The part.
            tokens: Instead of what the student is trained on.
        """
        rationales = self.sources[0]
        texts = {rationale.id: rationale.text for rationale in rationales}
        made = {name: partial(self.made, name) for name in part.needs}
        tokens = self.tokens if tokens is None else tokens
        weigher = partial(Weigher.load, self.folder.path / "weights" / "weigher")
        return Given(tokens, texts, self.recipe, made, rationales, self.data.gathered.counterfactual, weigher)

    def by(self, part: Part[Result]) -> Result:
        """What a part of the method comes to."""
        return part.run(self.given(part))

    @cached_property
    def phases(self) -> Sequence[Phase]:
        """The rows of PHASES that the method needs."""
        rows = [BROUGHT if phase.name == "weights" and self.data.bring_weights else phase for phase in PHASES]
        return needed(rows, self.method)

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """Of each phase that the method needs the hash of all that it is made from."""
        return phase_keys(self.phases, self.recipe, self.data.keys)

    def run(self) -> RunResult:
        """Every phase in order; see `run`."""
        require_engine(self.recipe.evaluation.engine)
        self.announce("train", "test", "validation")
        before = self._evaluate_before() if self.recipe.evaluation.before else {}
        summary = self.distil()
        found = [(before.get(name), after) for name, after in self.evaluate(AFTER).items()]
        if LAST_UPDATE in self.evaluated:
            last = self.evaluate(LAST_UPDATE).items()
            found += [(None, replace(accuracy, dataset=named(test, LAST_UPDATE))) for test, accuracy in last]
        return RunResult(self.folder.path, tuple(found), summary)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """When the trained student is evaluated: `after`, and where weights are averaged at the last update too."""
        return (AFTER,) if self.recipe.training.average is None else (AFTER, LAST_UPDATE)

    def _evaluate_before(self) -> dict[str, Accuracy]:
        """Ask the untrained student, but first see that nothing later will refuse it."""
        learnt = not self.method.learns or self.folder.has("weights", self.keys["weights"])
        if not learnt and weights_in_data(self.sources[0], self.plain) is None:
            check_recipes_predictor(self.recipe)
        return self.evaluate("before")

    # -- line 1: rationales from the teacher, and their tokens ---------------------------------------

    def announce(self, *roles: Role) -> None:
        """Say what is used of the data, and stop where a source in these roles cannot be used, before work starts."""
        forecast = self._before_tokens if self._before_tokens.errors(*roles) else self.forecast
        announce(forecast, roles, self.folder.path / DROPPED, aloud=is_first_process())
        if "test" in roles:
            _ = self.data.held_out  # read before training, so that a wrong source is told in time

    @cached_property
    def forecast(self) -> Forecast:
        """What is used of every source, after all that drops rationales."""
        training, *others = self._before_tokens.sources
        return Forecast((training.also_without(unused(self.encoded[1], self.recipe)), *others))

    @cached_property
    def _before_tokens(self) -> Forecast:
        use = training_use(self.recipe, self.data.gathered, learns=self.method.learns)
        return Forecast((use, *question_uses(self.recipe)))

    @property
    def sources(self) -> tuple[list[Rationale], list[Dropped]]:
        """The rationales to train on, and those that the filter dropped."""
        return self.data.gathered.kept, self.data.gathered.dropped

    @cached_property
    def encoded(self) -> tuple[Sequence[TokenizedRationale], list[Dropped]]:
        """Tokenised rationales, and those that do not fit."""
        tokens, unfit = self.made("tokens")
        if is_first_process():
            artifacts.save_dropped(self.folder.path / DROPPED, [*self.sources[1], *unfit])
        return tokens, unfit

    @property
    def plain(self) -> Sequence[TokenizedRationale]:
        """Tokenised rationales, each with its question and its answer."""
        return self.encoded[0]

    @property
    def tokens(self) -> Sequence[TokenizedRationale]:
        """What the student is trained on: the rationales, or the method's views of them."""
        return self.plain if self.method.views is None else self.made("views")[0]

    @property
    def dropped(self) -> list[Dropped]:
        """Every rationale or view that is not trained on, with its reason."""
        unfit = [] if self.method.views is None else self.made("views")[1]
        return [*self.sources[1], *self.encoded[1], *unfit]

    # -- line 2: significance weights (Eq. 2-7) --------------------------------------------------------

    @cached_property
    def weights(self) -> Weights:
        """What each rationale token weighs in the loss, and in the difficulties if the method has any."""
        assesses = "difficulties" in self.method.order.needs
        difficulty = self.by(self.method.weigh_steps) if assesses else {}
        return Weights(loss=self.by(self.method.weigh), difficulty=difficulty)

    # -- lines 3-4: step difficulties (Eq. 8) and schedule (Eq. 9-13) ---------------------------------

    @property
    def difficulties(self) -> ByRationale:
        """d_k of every step, in nats, where the method needs them."""
        found: ByRationale = self.made("difficulties")
        return found

    @property
    def schedule(self) -> Schedule:
        """How many steps each rationale is given at each stage."""
        found: Schedule = self.made("plan")
        return found

    def cluster(self, config: ScheduleConfig) -> NDArray[np.int64]:
        """Groups of similar questions: one number per tokenised rationale."""
        questions = {r.id: r.question.question for r in self.sources[0]}
        return cluster_questions(self.student, [questions[t.id] for t in self.plain], config, self.recipe.seed)

    # -- lines 5-11: the student (Eq. 14-15) -----------------------------------------------------------

    def distil(self) -> TrainingSummary:
        """Train the student on its schedule, or go on where training stopped."""
        tokens, weights, schedule, key = self.tokens, self.by(self.method.weigh), self.schedule, self.keys["student"]
        with in_place(self.folder, "student", key) as place:
            if self.folder.has("student", key) and (found := finished(place, key)) is not None:
                log.info("student: already done")
                return found
            started = time.monotonic()
            if is_first_process():
                write_text(place / "recipe.yaml", dump_recipe(self.recipe))
            summary = train_student(
                self.take_student(),
                tokens,
                weights,
                schedule,
                self._named(self.method.training(self.recipe.training)),
                seed=self.recipe.seed,
                output_dir=place,
                precision=self.recipe.precision,
                fingerprint=key,
                base_model=hub_name(self.recipe.student),
                validate=self.evaluations.accuracy_on_validation,
                tensorboard=self.folder.path / "tensorboard" / key,
                **self._trained_on(),
            )
            if is_first_process():
                seal(place, key)
                say_done("student", started)
        wait_for_all()
        return summary

    def _named(self, config: TrainingConfig) -> TrainingConfig:
        """A recipe's training, which trackers show under the run's name."""
        return replace(config, arguments={"run_name": self.recipe.name, **config.arguments})

    def _trained_on(self) -> dict[str, Any]:
        """The method's loss and what it needs, as arguments of `train_student`."""
        objective, shares = self.by(self.method.loss), self.method.shares
        found: dict[str, Any] = {"objective": objective, "task_shares": tuple(shares.values())}
        for need, phase in (("teacher", "teacher_logprobs"), ("reference", "reference")):
            if need in objective.needs:
                found[need] = self.made(phase)
        if "teacher" in found and self.method.views is not None:
            found["teacher"] = TaughtViews(self.tokens, self.plain, found["teacher"])
        if "groups" in objective.needs:
            found["groups"] = {one.id: one.question.id for one in self.sources[0]}
        if self.method.views is not None:
            numbers = {task: number for number, task in enumerate(shares)}
            tasks, groups = {}, {}
            for one in self.tokens:
                tasks[one.id], groups[one.id] = numbers[one.task], one.group
            found |= {"tasks": tasks} | ({"groups": groups} if any(groups.values()) else {})
        for name, field in (("curriculum", "curriculum"), ("own_texts", "writes")):
            for part in self.method.parts(field):
                found[name] = self.by(part)
        return found

    # -- accuracy --------------------------------------------------------------------------------------

    def evaluate(self, when: str, checkpoint: str | None = None) -> dict[str, Accuracy]:
        """Accuracy on every test set.

        Args:
            when: `before` (the student as it was), one of `evaluated`, or a name for another checkpoint.
            checkpoint: A model folder or name; by default the student that `when` stands for.

        Raises:
            ConfigError: If the model cannot be loaded, or no student was trained from this recipe.
        """
        if checkpoint is not None or when == "before":
            name = checkpoint or self.recipe.student
            return self._ask(when, model_identity(name), name)
        key = self.keys["student"]
        if not self.folder.has("student", key):
            raise ConfigError(
                f"{self.folder.path / 'student'} cannot be loaded: no student was trained from this recipe as it is. "
                "Train one with kpod run or kpod distill, or name a model's folder with --checkpoint"
            )
        place = self.folder.place("student", key)
        return self._ask(
            when, self._identity(when), str(place / averaging.LAST_UPDATE if when == LAST_UPDATE else place)
        )

    def _identity(self, when: str) -> str:
        """What tells this recipe's student, as it is `when`, from others."""
        if when == "before":
            return model_identity(self.recipe.student)
        key = self.keys["student"]
        return of_last_update(key) if when == LAST_UPDATE else key

    def own_evaluation(self, when: str, test: str) -> tuple[list[Prediction], Accuracy]:
        """What `evaluate` saved of this recipe's own student, as it is `when` (`before`, or one of `evaluated`).

        Raises:
            DataError: If nothing was saved, or it is of a student that another recipe trained, or was asked otherwise.
        """
        found = self.evaluation(when, test)
        self._check_own(artifacts.evaluation_phase(when, test), self.evaluations.key(self._identity(when), test))
        return found

    def own_surprises(self, when: str) -> list[Surprise]:
        """What was measured of held-out rationales under this recipe's own student, as it is `when`.

        Raises:
            DataError: As `own_evaluation`.
        """
        found = self.evaluations.measured(when)
        self._check_own(held_out_phase(when), self.evaluations.held_out_key(self._identity(when)))
        return found

    def _check_own(self, phase: str, key: str) -> None:
        if self.folder.key(phase) != key:
            raise DataError(
                f"{self.folder.path / phase} is not of the student of this recipe as it is now: run kpod evaluate with "
                "it, or change the recipe back"
            )

    def _ask(self, when: str, identity: str, name: str) -> dict[str, Accuracy]:
        """The accuracy that counts; what the method asks for beside it is kept under `<when>-<task>`."""
        for others in self._beside:
            for test, accuracy in others.evaluate(f"{when}-{others.task}", identity, name).items():
                log.info("%s, asked to %s: %d of %d", test, others.task, accuracy.num_correct, accuracy.num_questions)
        self.evaluations.measure(when, identity, name)
        return self.evaluations.evaluate(when, identity, name)

    def evaluation(self, when: str, test: str) -> tuple[list[Prediction], Accuracy]:
        """What `evaluate` saved; see `Evaluations.saved`."""
        return self.evaluations.saved(when, test)

    # -- what was made from what -----------------------------------------------------------------------

    @cached_property
    def student(self) -> LanguageModel:
        """The student before distillation."""
        return load_model(self.recipe.student, self.recipe.precision)

    def take_student(self) -> LanguageModel:
        """The student before distillation, for a phase that changes it; the next to ask for it loads it anew."""
        student = self.student
        del self.student
        return student
