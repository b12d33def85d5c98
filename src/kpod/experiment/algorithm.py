"""Algorithm 1 from top to bottom: rationales, weights, difficulties, schedule, student.

The file to read first. PHASES says what is made from what, and the functions above it make it. A phase is skipped if
it was made from the same inputs before; a changed recipe key makes the phases again that it touches, and those after.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kpod.experiment import artifacts
from kpod.experiment.keys import Phase
from kpod.experiment.methods import Method
from kpod.experiment.parts import ByRationale, Given, Part, Result
from kpod.experiment.run_folder import RunFolder
from kpod.experiment.sources import Sources
from kpod.lm.encoding import encode_all, encode_views
from kpod.lm.models import LanguageModel, load_layout, load_model
from kpod.lm.student_prompts import unused_template
from kpod.recipe import Recipe, ScheduleConfig
from kpod.records import Dropped, Rationale, TokenizedRationale
from kpod.records.columns import ById, write_by_id
from kpod.records.files import write_text
from kpod.records.topk import TopKById, write_topk
from kpod.schedule.difficulty import assess_difficulties
from kpod.teacher.probabilities import coverage, source_of, teacher_distributions
from kpod.training.reference import check_reference, reference_logprobs
from kpod.weighting import accepted, weigh_rationales, weights_in_data

log = logging.getLogger(__name__)


if TYPE_CHECKING:

    class Run(Protocol):
        """What the phases ask of a run."""

        recipe: Recipe
        method: Method
        folder: RunFolder
        data: Sources

        @property
        def keys(self) -> Mapping[str, str]:
            """Of each phase the hash of all that it is made from."""

        @property
        def sources(self) -> tuple[list[Rationale], list[Dropped]]:
            """The rationales to train on, and those that the filter dropped."""

        @property
        def plain(self) -> Sequence[TokenizedRationale]:
            """Tokenised rationales, each with its question and its answer."""

        @property
        def tokens(self) -> Sequence[TokenizedRationale]:
            """What the student is trained on, in tokens."""

        @property
        def student(self) -> LanguageModel:
            """The student before distillation."""

        def take_student(self) -> LanguageModel:
            """The student before distillation, for a phase that changes it."""

        def given(self, part: Part[Any], tokens: Sequence[TokenizedRationale] | None = None) -> Given:
            """What a part of the method works with."""

        def by(self, part: Part[Result]) -> Result:
            """What a part of the method comes to."""

        def cluster(self, config: ScheduleConfig) -> NDArray[np.int64]:
            """The group of similar questions of every rationale."""

else:
    Run = Any  # a check at run time would ask for every attribute, and so make every phase


def _tokenise(run: Run, folder: Path) -> None:
    log.info("tokenising %d rationales", len(run.sources[0]))
    layout = load_layout(run.recipe.student)
    if note := unused_template(layout, run.recipe.data.prompt):
        log.warning("WARNING: %s", note)
    artifacts.save_tokens(folder, encode_all(layout, run.sources[0], run.recipe.data))
    run.data.check_some_are_kept(artifacts.load_tokens(folder)[1])


def _view(run: Run, folder: Path) -> None:
    views = [view for part in run.method.parts("views") for view in part.run(run.given(part, run.plain))]
    artifacts.save_tokens(folder, encode_views(load_layout(run.recipe.student), views, run.recipe.data, len(views)))


def _ask_probabilities(run: Run, folder: Path) -> None:
    recipe, student = run.recipe, load_layout(run.recipe.student)
    prompt, parts = recipe.data.prompt, _parts(run.folder.place("teacher_logprobs", run.keys["teacher_logprobs"]))
    source = partial(source_of, recipe.teacher, run.data.gathered, student, prompt, recipe.precision)
    rows = teacher_distributions(run.plain, run.sources[0], student, prompt, source, parts)
    write_topk(folder / artifacts.TEACHER_LOGPROBS, rows)
    found = coverage(artifacts.load_teacher_logprobs(folder))
    write_text(folder / artifacts.SUMMARY, json.dumps(asdict(found), indent=2))
    log.info("%s", found)


def _parts(folder: Path) -> Path:
    """What a phase that was killed has done so far."""
    return folder.with_name(f".{folder.name}.parts")


def _learn(run: Run, folder: Path) -> None:
    write_by_id(folder / artifacts.WEIGHTS, "weights", _learnt(run, folder).items())


def _learnt(run: Run, folder: Path) -> ByRationale:
    """Weights from the data where it brings them for every rationale, else by mask learning, which sees no steps.

    Args:
        run: The run.
        folder: Gets what was learnt.
    """
    recipe, rationales = run.recipe, run.sources[0]
    tokens = [replace(rationale, step_stops=(rationale.num_tokens,)) for rationale in run.plain]
    if (given := weights_in_data(rationales, tokens)) is not None:
        return given
    name, precision = recipe.weighting.predictor, recipe.weighting.precision or recipe.precision
    alike = name is None and precision == recipe.precision
    predictor = run.take_student() if alike else load_model(name or recipe.student, precision)
    return weigh_rationales(predictor, rationales, tokens, recipe.weighting, recipe.data.prompt, recipe.seed, folder)


def _cluster(run: Run, folder: Path) -> None:
    artifacts.save_clusters(folder, run.cluster(run.recipe.schedule))


def _assess(run: Run, folder: Path) -> None:
    found = assess_difficulties(run.student, run.plain, run.by(run.method.weigh_steps))
    write_by_id(folder / artifacts.DIFFICULTIES, "difficulties", found.items())


def _order(run: Run, folder: Path) -> None:
    artifacts.save_plan(folder, run.by(run.method.order))


def _refer(run: Run, folder: Path) -> None:
    name, student = run.recipe.training.reference, run.student
    lm = student if name is None else load_model(name, run.recipe.precision)
    check_reference(lm, student)
    write_by_id(folder / artifacts.REFERENCE, "logprobs", reference_logprobs(lm, run.tokens))


def _weights(run: Run, folder: Path) -> ByRationale:
    accepted(run.folder.path / "weights")
    return ById(folder / artifacts.WEIGHTS)


def _teacher_logprobs(_: Run, folder: Path) -> TopKById:
    shutil.rmtree(_parts(folder), ignore_errors=True)
    return artifacts.load_teacher_logprobs(folder)


def _from(load: Callable[[Path], Any]) -> Callable[[Run, Path], Any]:
    return lambda _, folder: load(folder)


_tokens, _difficulties = _from(artifacts.load_tokens), _from(artifacts.load_difficulties)
_clusters, _plan = _from(artifacts.load_clusters), _from(artifacts.load_schedule)
_reference = _from(artifacts.load_reference)


TEXTS = ("student", "data.prompt", "data.max_length")
STEPS = ("data.step_rule", "data.max_steps")
CLUSTERS = ("schedule.num_clusters", "schedule.embeddings", "seed")
TRAINING = ("training", "seed", "precision")
SOURCES = ("teacher", "data.train", "data.train_limit", "data.root", "data.columns", "data.answer_words")
ASKED = ("batch_size", "max_new_tokens", "samples", "temperature")
VALIDATION = ("training.validation", *(f"evaluation.{name}" for name in ASKED), *SOURCES[3:])

PHASES = (
    # line 1: recorded rationales, or a teacher's; what of them the student can read; and that in tokens and steps
    Phase("rationales", sources=SOURCES),
    Phase("texts", needs=("rationales",), reads=TEXTS),
    Phase("tokens", _tokenise, _tokens, needs=("texts",), reads=STEPS),
    # what a method makes of them that trains other texts
    Phase("counterfactual", sources=SOURCES),
    Phase("views", _view, _tokens, needs=("tokens",), parts=("views",)),
    # what a teacher expects at every token, for methods that compare the student's probabilities with it
    Phase("told"),
    Phase(
        "teacher_logprobs",
        _ask_probabilities,
        _teacher_logprobs,
        needs=("texts", "told"),
        reads=("teacher.logprobs",),
        after=("tokens",),
        together=True,
    ),
    # line 2: significance weights (Eq. 2-7), which see no steps
    Phase("weights", _learn, _weights, ("texts",), reads=("weighting", "seed"), after=("tokens",), together=True),
    # line 3: step difficulties (Eq. 8)
    Phase("difficulties", _assess, _difficulties, ("tokens",), ("weigh_steps",), reads=("precision",), together=True),
    # line 4: similar questions, and the schedule (Eq. 9-13)
    Phase("clusters", _cluster, _clusters, needs=("texts",), reads=CLUSTERS, after=("tokens",)),
    Phase("plan", _order, _plan, needs=("tokens", "views"), parts=("order",)),
    # what a reference model makes of the tokens, for losses that compare the student with it
    Phase(
        "reference",
        _refer,
        _reference,
        needs=("tokens", "views"),
        reads=("training.reference", "precision"),
        together=True,
    ),
    # lines 5-11: the student (Eq. 14-15), by `Pipeline.distil`
    Phase("validation", sources=VALIDATION),
    Phase(
        "student",
        needs=("tokens", "views", "plan", "validation"),
        parts=("weigh", "loss", "curriculum", "writes"),
        reads=TRAINING,
    ),
)
"""What is made, by what, and from what. Rows without a function are read and hashed at each start."""
BROUGHT = Phase("weights", _learn, _weights, needs=("texts",), after=("tokens",))
"""Instead of the row above where the data brings the weights: then no key of `weighting` is read."""
