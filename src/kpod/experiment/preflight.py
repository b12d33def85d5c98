"""Which of a recipe's data a run would use, and why it drops the rest, before anything expensive starts."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from kpod.data.datasets import questions_and_notes, training_questions
from kpod.data.rows import SUFFIXES, suffix_of
from kpod.evaluation.read_back import closing_is_read_back, unread_questions
from kpod.experiment.artifacts import save_dropped
from kpod.experiment.forecast import SHOWN_IDS, UNREAD, Forecast, Role, SourceUse, Unused, unused
from kpod.experiment.forecast_table import forecast_text
from kpod.recipe import ColumnsConfig, Recipe
from kpod.records import Dropped, Question, Rationale
from kpod.records.errors import DataError, KpodError
from kpod.steps import unsplit
from kpod.teacher.filters import unverified
from kpod.teacher.gathering import Gathered, num_recorded, recorded

log = logging.getLogger(__name__)


def training_use(recipe: Recipe, gathered: Gathered, learns: bool = True) -> SourceUse:
    """What is trained on of the rationales that were gathered, as long as all of them can be tokenised.

    Args:
        recipe: What the rationales were gathered for.
        gathered: The rationales before and after the filter.
        learns: Whether the recipe's method needs learnt weights.
    """
    use = SourceUse(
        role="train",
        name=_training_name(recipe),
        num_read=len(gathered.kept) + len(gathered.dropped),
        dropped=unused(gathered.dropped, recipe),
        num_unasked=gathered.num_unasked,
        notes=(*gathered.notes, *_training_notes(recipe, gathered, learns)),
    )
    return _with_golds(use, _training_questions(recipe, gathered), recipe)


def question_uses(recipe: Recipe) -> list[SourceUse]:
    """What is asked of every test set and of the validation set; one that cannot be read says so."""
    found = [questions_use(recipe, "test", name, recipe.data.test_limit) for name in recipe.data.tests]
    if (validation := recipe.training.validation) is not None:
        found.append(questions_use(recipe, "validation", validation.questions, validation.limit))
    return found


def questions_use(recipe: Recipe, role: Role, name: str, limit: int | None) -> SourceUse:
    """What is asked of a set of questions: the first so many."""
    try:
        there, dropped, notes = _load(name, recipe)
    except KpodError as error:
        return SourceUse(role=role, name=name, fault=str(error))
    asked = there[:limit]
    key = "training.validation.limit" if role == "validation" else "data.test_limit"
    left = len(there) - len(asked)
    if left:
        notes = (*notes, f"{left:,} more questions are not asked ({key}: {limit})")
    use = SourceUse(
        role=role,
        name=name,
        num_read=len(asked) + len(dropped),
        dropped=unused(dropped, recipe),
        notes=(*notes, *_column_notes(recipe, name)),
    )
    return _with_golds(use, asked, recipe)


def _load(name: str, recipe: Recipe) -> tuple[list[Question], list[Dropped], tuple[str, ...]]:
    """All questions of a source, the rows that fell away, and what was noticed while reading."""
    loaded = questions_and_notes(name, replace(recipe.data, test_limit=None))
    return loaded.questions, loaded.dropped, loaded.notes


def check_before_asking(recipe: Recipe) -> None:
    """Stop, or warn, before a teacher is paid for questions whose gold answers cannot be read.

    Raises:
        DataError: If that holds for most of the training questions, which the gold filter would then drop.
    """
    if recipe.teacher.ask is None or recipe.teacher.filter not in ("gold", "stated"):
        return
    questions = training_questions(recipe.data)
    use = _with_golds(SourceUse("train", recipe.data.train, len(questions)), questions, recipe)
    check(use.errors)
    for warning in use.warnings:
        log.warning("WARNING: %s", warning)


def pays_a_teacher(recipe: Recipe) -> bool:
    """Whether a teacher has yet to answer, and answers cost money or time: a replay's do not."""
    ask = recipe.teacher.ask
    if ask is None or ask.backend == "replay":
        return False
    return recorded(recipe.data, recipe.teacher, Path(recipe.runs)).num_unasked > 0


def announce_tests(recipe: Recipe, tests: Sequence[str]) -> None:
    """`announce` what is asked of these test sets, where nothing else of the recipe's data is used."""
    announce(Forecast(tuple(questions_use(recipe, "test", test, recipe.data.test_limit) for test in tests)), ["test"])


def announce(forecast: Forecast, roles: Sequence[Role], dropped: Path | None = None, aloud: bool = True) -> None:
    """Log what is used of every source, and stop where nothing could come of the work at hand.

    Args:
        forecast: Of the recipe's sources.
        roles: What the work needs; an error of another source is only a warning.
        dropped: The file that lists every dropped rationale, if rationales are among the sources.
        aloud: Whether this process logs.

    Raises:
        DataError: If a source in these roles cannot be used.
    """
    stopping = forecast.errors(*roles)
    if aloud:
        log.info("%s", forecast_text(forecast))
        if dropped is not None and any(source.dropped for source in forecast.sources):
            log.info("every dropped rationale with its reason: %s", dropped)
        for warning in (*forecast.warnings, *(error for error in forecast.errors() if error not in stopping)):
            log.warning("WARNING: %s", warning)
    check(stopping)


def check_some_are_kept(recipe: Recipe, gathered: Gathered, unfit: Sequence[Dropped], listed: Path) -> None:
    """List the dropped rationales in a file and raise DataError, with the reasons, where nothing is left to train on.

    Args:
        recipe: What the rationales were gathered for.
        gathered: The rationales before and after the filter.
        unfit: Those that passed the filter and could not be tokenised.
        listed: The file.
    """
    if len(gathered.kept) > len(unfit):
        return
    save_dropped(listed, [*gathered.dropped, *unfit])
    *errors, last = training_use(recipe, gathered).also_without(unused(unfit, recipe)).errors
    check([*errors, f"{last}; each is listed in {listed}"])


def check(errors: Sequence[str]) -> None:
    """Raise DataError with the errors, if there are any."""
    if errors:
        raise DataError("\n".join(errors))


def attempt(work: Callable[[], object], errors: list[str]) -> None:
    """Do one of several checks; what it raises joins the errors, and the next check can still be done."""
    try:
        work()
    except KpodError as error:
        errors.append(str(error))


def _training_name(recipe: Recipe) -> str:
    train, teacher = recipe.data.train, recipe.teacher
    by = teacher.rationales or (teacher.ask and teacher.ask.model)
    return f"{train}, rationales by {by}" if by else train


def _training_questions(recipe: Recipe, gathered: Gathered) -> Iterable[Question]:
    """The questions whose answers the student may learn."""
    if recipe.teacher.filter == "vote":  # it learns the answer that won, and gold is not looked at
        return (rationale.question for rationale in gathered.kept)
    if gathered.asked is not None:
        return gathered.asked.questions.values()
    return (rationale.question for rationale in gathered.found)


def _with_golds(use: SourceUse, questions: Iterable[Question], recipe: Recipe) -> SourceUse:
    distinct = {question.id: question for question in questions}
    unread = unread_questions(distinct.values(), recipe.data)
    if not unread:
        return replace(use, num_questions=len(distinct))
    closing = "" if closing_is_read_back(recipe.data) else recipe.data.prompt.closing
    key = "data.prompt.closing, data.answer_words" if closing else "data.columns.answer, data.prompt.closing"
    told = Unused.of(UNREAD, [question.id for question in unread], key)
    return replace(use, num_questions=len(distinct), unread=told, closing=closing)


def _training_notes(recipe: Recipe, gathered: Gathered, learns: bool) -> list[str]:
    notes = [*_limit_notes(recipe, gathered), *_text_notes(recipe, gathered)]
    if recipe.teacher.rationales is None:
        notes += _column_notes(recipe, recipe.data.train)
    if any(rationale.token_weights is not None for rationale in gathered.kept):
        from_data = "the keys of weighting are not used: the weights are read from the column token_weights"
        unwanted = f"the column token_weights is not used: the method {recipe.method} needs no learnt weights"
        notes.append(from_data if learns else unwanted)
    return notes


def _text_notes(recipe: Recipe, gathered: Gathered) -> list[str]:
    """What could not be told of the kept texts."""
    notes = []
    if recipe.teacher.filter == "stated" and (unread := unverified(gathered.kept, recipe.data.answer_words)):
        notes.append(
            f"{_counted(unread)} state no answer that can be read; they are kept unverified (teacher.filter: stated)"
        )
    if whole := [rationale for rationale in gathered.kept if unsplit(rationale.text)]:
        notes.append(f"{_counted(whole)} are long but have only one step; data.step_rule: line may split them")
    return notes


def _counted(rationales: Sequence[Rationale]) -> str:
    ids = ", ".join(rationale.id for rationale in rationales[:SHOWN_IDS])
    return f"{len(rationales):,} rationales ({ids}{', ...' if len(rationales) > SHOWN_IDS else ''})"


def _limit_notes(recipe: Recipe, gathered: Gathered) -> list[str]:
    """How much of the training set `data.train_limit` leaves out."""
    data, limit = recipe.data, recipe.data.train_limit
    if limit is None:
        return []
    whole = replace(data, train_limit=None)
    if recipe.teacher.ask is not None:
        left, what = len(training_questions(whole)) - limit, "questions"
    else:
        num_there = num_recorded(whole, recipe.teacher)
        left, what = num_there - len(gathered.kept) - len(gathered.dropped), "rationales"
    return [f"{left:,} more {what} are not used (data.train_limit: {limit})"] if left > 0 else []


def _column_notes(recipe: Recipe, name: str) -> list[str]:
    """That renamed columns do not apply to a built-in set."""
    renamed = recipe.data.columns != ColumnsConfig()
    if not renamed or name.startswith("hub:") or suffix_of(Path(name)) in SUFFIXES:
        return []
    return ["data.columns is not used: a built-in set has the default columns"]
