"""Refused requests count only once others of the same form are answered: if all are refused, the recipe is wrong."""

import re
import threading
from collections.abc import Callable, Iterable, Sequence

from kpod.recipe import AskConfig
from kpod.records.errors import TeacherError
from kpod.teacher.attempts import Attempt
from kpod.teacher.requests import Request

FIRST_REFUSED = 5
"""How many refused requests before any answer stop the run: all others would be refused too."""
FIRST_REFUSED_LATER = 100
"""The same number if earlier runs have answers of the same form: the last questions of a data set may be the ones
that are too long."""
FIRST_THOUGHTS = 3
"""How many answers with only thoughts, before any other answer, stop the run. Each was paid for."""

_ADVICE: Sequence[tuple[str, str]] = (
    (r"max_completion_tokens", "set teacher.ask.length_parameter: max_completion_tokens"),
    (r"\btemperature\b", "set teacher.ask.temperature to a value that it accepts, or to null"),
    (r"\btop_p\b", "set teacher.ask.top_p to a value that it accepts, or to null"),
    (r"\bseed\b", "set teacher.ask.seed: null"),
    (r"\bmax_tokens\b", "set teacher.ask.max_tokens or teacher.ask.length_parameter to a value that it accepts"),
    (r"\b(?:top_)?logprobs\b", "set teacher.ask.logprobs: null"),
    (r"\bstop\b", "set teacher.ask.stop: null"),
    (
        r"(?i)\bsystem\b|roles must alternate|conversation roles",
        "set teacher.ask.prompt.system: null and put its words into teacher.ask.prompt.template",
    ),
    (r"(?i)enable_thinking", "set teacher.ask.extra_body: {enable_thinking: false}"),
    (r"(?i)api[-_]version", "set teacher.ask.extra_query: {api-version: ...}"),
    (r"(?i)https port", "write the server with https:// in teacher.ask.base_url"),
)
"""Words in an endpoint's refusal, and the remedy for each."""

ONLY_THOUGHTS = (
    "the endpoint returns everything that the teacher writes as thoughts (reasoning_content), and no other text; set "
    "teacher.ask.reasoning: rationale to use the thoughts as the rationale (this includes stored answers), or switch "
    "thinking off, as with teacher.ask.extra_body: {chat_template_kwargs: {enable_thinking: false}}; if you change "
    "only the server, add --retry-failed"
)


class Refusals:
    """Stands before a store and holds refused requests back until their form is known to be right.

    Args:
        ask: How the teacher is asked.
        keep: Where attempts go.
        answered: Forms of which earlier runs have answers.

    Example:
        >>> kept = []
        >>> refusals = Refusals(AskConfig("m"), kept.append, set())
        >>> refusals.keep(Attempt("a", "bad request", form="f"))
        >>> len(kept)
        0
        >>> refusals.keep(Attempt("b", "answered", text="42.", form="f"))
        >>> [attempt.key for attempt in kept]
        ['a', 'b']
    """

    def __init__(self, ask: AskConfig, keep: Callable[[Attempt], None], answered: set[str]) -> None:
        self._ask = ask
        self._store = keep
        self._answered_before = answered
        self._answered: set[str] = set()
        self._held: dict[str, list[Attempt]] = {}
        self._thoughts = 0
        self._lock = threading.Lock()

    def keep(self, attempt: Attempt) -> None:
        """Store an attempt, or hold it.

        Raises:
            TeacherError: If the first requests are all refused, or their answers hold thoughts alone.
        """
        with self._lock:
            if attempt.outcome == "bad request" and attempt.form and attempt.form not in self._answered:
                self._hold(attempt)
                return
            if attempt.settled:
                self._learn(attempt)
        self._store(attempt)
        some = self._answered or attempt.form in self._answered_before
        if self._ask.reasoning == "apart" and not some and self._thoughts >= FIRST_THOUGHTS:
            raise TeacherError(ONLY_THOUGHTS)

    def _hold(self, attempt: Attempt) -> None:
        held = self._held.setdefault(attempt.form, [])
        held.append(attempt)
        most = FIRST_REFUSED_LATER if attempt.form in self._answered_before else FIRST_REFUSED
        if len(held) >= most and self._ask.backend == "endpoint":  # a batch is read to its end
            raise TeacherError(self._words(f"the endpoint refused the first {most} requests", held))

    def _learn(self, attempt: Attempt) -> None:
        """Others of its form may be asked as well."""
        if attempt.only_thought:
            self._thoughts += 1
        else:
            self._answered.add(attempt.form)
        for held in self._held.pop(attempt.form, []):
            self._store(held)

    def finish(self) -> None:
        """Store what is held where earlier answers show that its form is right.

        Raises:
            TeacherError: If every request was refused; they are asked again by the next run.
        """
        for form in self._held.keys() & self._answered_before:
            for attempt in self._held.pop(form):
                self._store(attempt)
        for held in self._held.values():
            number = f"the endpoint refused all {len(held)} requests" if len(held) > 1 else "the request was refused"
            raise TeacherError(self._words(number, held))

    def _words(self, start: str, held: Sequence[Attempt]) -> str:
        return f"{start}: {held[-1].detail}{advice(held[-1].detail, self._ask)}; the next run asks again"


def advice(words: str, ask: AskConfig) -> str:
    """What helps against a refusal, by the endpoint's words; empty where they say nothing that is known.

    Example:
        >>> advice("400: Unsupported parameter: 'seed'", AskConfig("m"))
        '; set teacher.ask.seed: null'
    """
    for pattern, helps in _ADVICE:
        if re.search(pattern, words) and pattern != ask.length_parameter:
            return f"; {helps}"
    return ""


def is_done(attempt: Attempt | None, request: Request, retry_failed: bool = False) -> bool:
    """Whether a request need not be asked: it has an answer, or one would be of no use.

    A refused one is asked again when parameters have changed that are not in its key, such as `length_parameter`.
    """
    if attempt is None:
        return False
    if attempt.outcome == "bad request" and request.form and attempt.form != request.form:
        return False
    return attempt.answered if retry_failed else attempt.settled


def answered_forms(requests: Sequence[Request], attempts: Iterable[Attempt]) -> set[str]:
    """Forms under which a store has answers; one of these requests without a form, from earlier versions, is of any."""
    good = [attempt for attempt in attempts if attempt.answered or attempt.outcome == "truncated"]
    keys = {attempt.key for attempt in good if not attempt.form}
    return {attempt.form for attempt in good if attempt.form} | {r.form for r in requests if r.key in keys}
