"""Algorithm 1, line 1: the rationales to train on, recorded or asked for, and why others are not."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kpod.data.datasets import has_own_rationales, load_rationales, training_questions
from kpod.recipe import AskConfig, DataConfig, TeacherConfig
from kpod.records import Dropped, Rationale
from kpod.teacher.asking import (
    Asked,
    Explained,
    ask_teacher,
    explanations,
    missed_questions,
    open_requests,
    rationale_id,
    taken_attempts,
)
from kpod.teacher.filters import filter_rationales
from kpod.teacher.requests import requests_for

log = logging.getLogger(__name__)

STORE = "teacher.jsonl"


@dataclass(frozen=True, slots=True)
class Gathered:
    """The rationales of a recipe.

    Attributes:
        found: All, before the filter.
        kept: What is trained on.
        dropped: What is not, with reasons.
        asked: What the teacher said; None where nobody was asked.
        places: Rationale id -> where it stands in the store; empty where nobody was asked.
        notes: What was noticed while reading, in plain sentences, such as the columns that are not used.
        num_unasked: Answers that the store does not hold yet; 0 unless `recorded` gathered them.
        counterfactual: Rationales of a wrong answer, which is their question's here; in none of the lists above.
    """

    found: list[Rationale]
    kept: list[Rationale]
    dropped: list[Dropped]
    asked: Asked | None = None
    places: Mapping[str, Explained] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    num_unasked: int = 0
    counterfactual: tuple[Rationale, ...] = ()


def gather_rationales(data: DataConfig, teacher: TeacherConfig, runs: Path, *, retry_failed: bool = False) -> Gathered:
    """Load the recorded rationales, or ask the teacher, and filter.

    Args:
        data: The questions, and rationales beside them.
        teacher: Whose rationales, and which of them.
        runs: The folder of all runs, which share what a teacher has answered.
        retry_failed: As `ask_teacher`.

    Raises:
        DataError: If a source is wrong.
        TeacherError: If the teacher cannot be asked, or leaves requests open.
    """
    if teacher.ask is None:
        return _read(data, teacher)
    store = store_of(teacher.ask, runs)
    words = data.answer_words
    asked = ask_teacher(training_questions(data), teacher.ask, store, retry_failed=retry_failed, words=words)
    return _explained(asked, teacher.ask, teacher, words)


def recorded(data: DataConfig, teacher: TeacherConfig, runs: Path) -> Gathered:
    """As `gather_rationales`, but nobody is asked: only the answers that the store holds already are used.

    Raises:
        DataError: If a source is wrong.
    """
    if teacher.ask is None:
        return _read(data, teacher)
    questions, ask, store = training_questions(data), teacher.ask, store_of(teacher.ask, runs)
    attempts = taken_attempts(store, ask.reasoning)
    requests = requests_for(questions, ask)
    left = {request.key for request in open_requests(requests, store, reasoning=ask.reasoning)}
    there = [request for request in requests if request.key not in left]
    if ask.hint is True and not left:  # which questions are missed is known once all are answered
        missed = missed_questions(questions, requests, attempts, data.answer_words)
        hinted = requests_for(missed, ask, hinted=True)
        left = {request.key for request in open_requests(hinted, store, reasoning=ask.reasoning)}
        there += [request for request in hinted if request.key not in left]
    answered = {request.key: attempts[request.key] for request in there}
    asked = Asked(tuple(there), answered, {question.id: question for question in questions})
    return replace(_explained(asked, ask, teacher, data.answer_words), num_unasked=len(left))


def num_recorded(data: DataConfig, teacher: TeacherConfig) -> int:
    """How many rationales `gather_rationales` would read where nobody is asked, before any filter.

    Raises:
        DataError: If a source is wrong.
    """
    loaded = load_rationales(data, teacher)
    return len(loaded.rationales) + len(loaded.dropped)


def recorded_beside(data: DataConfig, teacher: TeacherConfig, source: str) -> list[Rationale]:
    """All recorded rationales of another source that pass the filter; nobody is asked.

    Args:
        data: How files are read.
        teacher: The filter; of a built-in set, whose rationales.
        source: Named as `data.train`. A source that brings rationales of its own is read alone.

    Raises:
        DataError: If the source is wrong.
    """
    own = source == data.train or not has_own_rationales(source)
    how = replace(teacher, ask=None, logprobs=None, rationales=teacher.rationales if own else None)
    return _read(replace(data, train=source, train_limit=None), how).kept


def _read(data: DataConfig, teacher: TeacherConfig) -> Gathered:
    """The recorded rationales."""
    loaded = load_rationales(data, teacher)
    kept, dropped = _filtered(loaded.rationales, loaded.dropped, teacher, data.answer_words)
    return Gathered(loaded.rationales, kept, dropped, notes=loaded.notes)


def _explained(asked: Asked, ask: AskConfig, teacher: TeacherConfig, words: Sequence[str]) -> Gathered:
    """What a teacher has answered."""
    explained, fallen = explanations(asked, ask, words)
    places = {place.rationale.id: place for place in explained}
    wrong = {rationale_id(request, ask) for request in asked.requests if request.counterfactual}
    found = [place.rationale for place in explained if place.rationale.id not in wrong]
    kept, dropped = _filtered(found, [one for one in fallen if one.id not in wrong], teacher, words)
    counterfactual = _counterfactual([places[id_].rationale for id_ in places if id_ in wrong], teacher, words)
    if wrong:
        log.info("%d of %d counterfactual rationales are kept", len(counterfactual), len(wrong))
    return Gathered(found, kept, dropped, asked, places, counterfactual=counterfactual)


def _counterfactual(found: Sequence[Rationale], teacher: TeacherConfig, words: Sequence[str]) -> tuple[Rationale, ...]:
    """Those that come to the wrong answer which they explain; of a vote there is none, with one for each question."""
    how = replace(teacher, filter="gold") if teacher.filter == "vote" else teacher
    return tuple(filter_rationales(found, how, words)[0])


def store_of(ask: AskConfig, runs: Path) -> Path:
    """The file that keeps every attempt."""
    return Path(ask.store) if ask.store else runs / STORE


def _filtered(
    read: Sequence[Rationale], fallen: Sequence[Dropped], teacher: TeacherConfig, words: Sequence[str]
) -> tuple[list[Rationale], list[Dropped]]:
    kept, dropped = filter_rationales(read, teacher, words)
    return kept, [*fallen, *dropped]
