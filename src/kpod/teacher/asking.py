"""Ask a teacher for what has not been answered yet, and make rationales of what has."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from kpod.data.answers import extract_answer, same_answer
from kpod.data.characters import broken_character
from kpod.data.endings import reached_answers
from kpod.recipe import AskConfig
from kpod.records import Dropped, Question, Rationale
from kpod.records.errors import TeacherError
from kpod.teacher.attempts import Attempt
from kpod.teacher.closing import strip_closing
from kpod.teacher.refusals import FIRST_THOUGHTS, ONLY_THOUGHTS, Refusals, advice, answered_forms, is_done
from kpod.teacher.requests import Request, requests_for
from kpod.teacher.store import Store, read_store

log = logging.getLogger(__name__)


@runtime_checkable
class Teacher(Protocol):
    """Whoever answers requests."""

    def ask(self, requests: Sequence[Request], keep: Callable[[Attempt], None]) -> None:
        """Make one or more attempts at every request, in any order, and hand each to `keep` at once.

        A request that no attempt settles stays open and is asked again by the next run.
        """


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking.

    Attributes:
        requests: All that are wanted, question by question, the hinted ones last.
        attempts: Key -> the attempt that counts; of every request.
        questions: Id -> question.
    """

    requests: tuple[Request, ...]
    attempts: Mapping[str, Attempt]
    questions: Mapping[str, Question]


def ask_teacher(
    questions: Sequence[Question], ask: AskConfig, store: Path, *, retry_failed: bool = False, words: Sequence[str] = ()
) -> Asked:
    """Have every question explained `ask.samples` times; what the store holds is not asked again.

    Args:
        questions: Each under an id of its own.
        ask: Who is asked, and how.
        store: The file that keeps every attempt.
        retry_failed: Ask again where an answer was of no use (cut off, filtered, refused, or a refused request).
        words: Further words that introduce an answer (`data.answer_words`).

    Raises:
        TeacherError: If the teacher cannot be asked, refuses every request, writes nothing but thoughts, or leaves
            requests open; what it has answered is in the store.
    """
    requests = requests_for(questions, ask)
    if not retry_failed:
        _check_thoughts(requests, read_store(store), ask, enough=min(FIRST_THOUGHTS, len(requests)))
    attempts = _settle(requests, ask, store, retry_failed)
    _check_thoughts(requests, attempts, ask)
    if ask.hint is True:
        missed = missed_questions(questions, requests, attempts, words)
        hinted = requests_for(missed, ask, hinted=True)
        attempts |= _settle(hinted, ask, store, retry_failed)
        requests += hinted
    return Asked(tuple(requests), attempts, {question.id: question for question in questions})


def open_requests(
    requests: Sequence[Request], store: Path, *, retry_failed: bool = False, reasoning: str = "apart"
) -> list[Request]:
    """Those that no attempt in the store has settled, each key once; `reasoning` as in the recipe."""
    attempts = read_store(store)
    wanted = {request.key: request for request in requests}
    return [r for r in wanted.values() if not is_done(_taken(attempts.get(r.key), reasoning), r, retry_failed)]


def taken_attempts(store: Path, reasoning: str) -> dict[str, Attempt]:
    """The attempts that count in a store, each as the recipe takes it."""
    return {key: _taken(attempt, reasoning) or attempt for key, attempt in read_store(store).items()}


def _taken(attempt: Attempt | None, reasoning: str) -> Attempt | None:
    """An attempt as the recipe takes it: where thoughts are the rationale, those without a text are an answer."""
    if attempt is None or reasoning == "apart" or not attempt.only_thought:
        return attempt
    return replace(attempt, outcome="answered", text=attempt.reasoning)


def _check_thoughts(
    requests: Sequence[Request], attempts: Mapping[str, Attempt], ask: AskConfig, enough: int = 1
) -> None:
    """Raise TeacherError where all that was written stands among the thoughts, and they are not wanted."""
    found = [attempts[request.key] for request in requests if request.key in attempts]
    thoughts = sum(attempt.only_thought for attempt in found)
    if ask.reasoning == "apart" and thoughts >= max(1, enough) and not any(attempt.answered for attempt in found):
        raise TeacherError(ONLY_THOUGHTS)


def _settle(requests: Sequence[Request], ask: AskConfig, path: Path, retry_failed: bool) -> dict[str, Attempt]:
    def missing() -> list[Request]:
        return open_requests(requests, path, retry_failed=retry_failed, reasoning=ask.reasoning)

    if missing():
        with Store(path) as store:  # look again: another run may have asked until the lock was free
            if wanted := missing():
                log.info("asking %s for %d of %d answers", ask.model, len(wanted), len(requests))
                refusals = Refusals(ask, store.append, answered_forms(requests, read_store(path).values()))
                teacher_of(ask, path).ask(wanted, refusals.keep)
                refusals.finish()
    attempts = taken_attempts(path, ask.reasoning)
    left = [request for request in requests if not is_done(attempts.get(request.key), request)]
    if left:
        last = attempts.get(left[0].key)
        why = f", the first of them: {last.outcome}, {last.detail}{advice(last.detail, ask)}" if last else ""
        raise TeacherError(
            f"{len(left)} of {len(requests)} answers are missing{why}; finished answers are kept in {path}: run again"
        )
    return {request.key: attempts[request.key] for request in requests}


def teacher_of(ask: AskConfig, store: Path) -> Teacher:
    """The teacher that a recipe names.

    Raises:
        ConfigError: If its key, file or model is missing.
    """
    if ask.backend == "local":  # each is imported when it is used: this one takes seconds
        from kpod.teacher.local import LocalModel

        return LocalModel(ask)
    if ask.backend == "replay":
        from kpod.teacher.replay import Replay

        return Replay(ask)
    if ask.backend == "batch":
        from kpod.teacher.batch import BatchApi

        return BatchApi(ask, store)
    from kpod.teacher.endpoint import Endpoint

    return Endpoint(ask)


def missed_questions(
    questions: Sequence[Question],
    requests: Sequence[Request],
    attempts: Mapping[str, Attempt],
    words: Sequence[str] = (),
) -> list[Question]:
    """The questions that no whole answer gets right."""
    by_id = {question.id: question for question in questions}
    right = {r.question_id for r in requests if reaches_gold(attempts[r.key], by_id[r.question_id], words)}
    return [question for question in questions if question.id not in right]


def reaches_gold(attempt: Attempt, question: Question, words: Sequence[str] = ()) -> bool:
    """Whether an attempt is a whole text that can be used and reaches the gold answer, read as the filter reads it."""
    gold, choices = question.answer, question.choices
    is_whole = attempt.answered and not broken_character(attempt.text)
    reached = reached_answers(attempt.text, gold, choices, words) if is_whole else ()
    return any(same_answer(answer, gold, choices) for answer in reached)


@dataclass(frozen=True, slots=True)
class Explained:
    """A rationale, and where it comes from.

    Attributes:
        rationale: Without the closing clause.
        key: The request's; the store has the whole text under it, and its log-probabilities.
        start: Where the rationale begins in that text.
    """

    rationale: Rationale
    key: str
    start: int


def explanations(asked: Asked, ask: AskConfig, words: Sequence[str] = ()) -> tuple[list[Explained], list[Dropped]]:
    """Rationales of all whole answers, and the others with a reason.

    An answer that came from another model than the rest, which gateways may fall back to, is dropped as such, unless
    its name holds the asked one. So is one with a broken character (kpod.data.characters), wherever it comes from.

    Args:
        asked: What the teacher said.
        ask: How it was asked; `reasoning` picks thoughts or text as the rationale.
        words: Further words that introduce an answer (`data.answer_words`).
    """
    usual = _usual_model(asked.attempts.values())
    found: list[Explained] = []
    dropped: list[Dropped] = []
    refusals: dict[str, str] = {}
    for request in asked.requests:
        attempt, question = asked.attempts[request.key], asked.questions[request.question_id]
        id_ = rationale_id(request, ask)
        if request.counterfactual:
            question = replace(question, answer=request.counterfactual)
        if not attempt.answered:
            dropped.append(Dropped(id_, _why_not(attempt, refusals)))
        elif attempt.model not in (None, usual) and ask.model.casefold() not in str(attempt.model).casefold():
            model = attempt.model.encode("utf-8", "backslashreplace").decode()  # it may be broken too
            dropped.append(Dropped(id_, f"answered by {model}"))
        elif broken_character(attempt.text) or broken_character(_said(attempt, ask)):
            dropped.append(Dropped(id_, "broken character"))
        elif not (text := strip_closing(_said(attempt, ask), words)):
            dropped.append(Dropped(id_, "nothing but an answer"))
        else:
            answer = extract_answer(attempt.text, question.choices, words)
            source = f"{ask.model}{_how(request)}"
            start = 0 if ask.reasoning == "rationale" else attempt.text.index(text)
            found.append(Explained(Rationale(id_, question, text, source, answer), request.key, start))
    return found, dropped


def _said(attempt: Attempt, ask: AskConfig) -> str:
    return attempt.reasoning if ask.reasoning == "rationale" else attempt.text


def _why_not(attempt: Attempt, refusals: dict[str, str]) -> str:
    """Why an attempt is no rationale; a refusal in the endpoint's words, where numbers alone make no difference."""
    if attempt.only_thought:
        return "only thoughts"
    if attempt.outcome != "bad request" or not attempt.detail:
        return attempt.outcome
    words = " ".join(attempt.detail.split())[:200]
    return refusals.setdefault(re.sub(r"\d+", "0", words), f"bad request ({words})")


def _usual_model(attempts: Iterable[Attempt]) -> str | None:
    names = Counter(attempt.model for attempt in attempts if attempt.answered)
    return names.most_common(1)[0][0] if names else None


def _how(request: Request) -> str:
    """What a rationale's source says of how it was asked for."""
    if request.counterfactual:
        return " (counterfactual)"
    return " (contrastive)" if request.against else " (hinted)" if request.hinted else ""


def rationale_id(request: Request, ask: AskConfig) -> str:
    """The question's id, with /k where it has several requests; those that are hinted in the end are numbered on."""
    if request.counterfactual:
        return f"{request.question_id}/counterfactual"
    before = ask.samples if request.hinted and ask.hint is True else 0
    return (
        request.question_id if ask.samples == 1 and not before else f"{request.question_id}/{request.sample + before}"
    )
