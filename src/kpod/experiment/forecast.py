"""Which data a run uses, which it drops, and the recipe key that would change that.

This module has records only: `preflight` fills them from a recipe, `forecast_table` prints them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from kpod.recipe import Recipe
from kpod.records import Dropped
from kpod.records.errors import DataError

Role: TypeAlias = Literal["train", "test", "validation", "questions"]
"""What a source is read for; `questions`: a file on its own, without a recipe."""

SHOWN_IDS = 3
UNREAD = "gold answer not read back"
"""The reason for a question whose gold answer cannot be read from the closing sentence that holds it."""
ANOTHER = "take another student"

_TOO_LONG = re.compile(
    r"longer than (?P<context>the student's context of )?(?:data\.max_length )?(?P<limit>\d+) tokens"
)


@dataclass(frozen=True, slots=True)
class Unused:
    """Rows that are left out for one reason.

    Attributes:
        reason: As in `Dropped`.
        number: How many rows; at least 1.
        ids: The first three ids.
        key: The recipe key that would change it, with its value, or another remedy.
    """

    reason: str
    number: int
    ids: tuple[str, ...]
    key: str

    @classmethod
    def of(cls, reason: str, ids: Sequence[str], key: str) -> "Unused":
        """Rows with these ids.

        Example:
            >>> Unused.of("wrong answer", ["a", "b", "c", "d"], "teacher.filter: gold")
            Unused(reason='wrong answer', number=4, ids=('a', 'b', 'c'), key='teacher.filter: gold')
        """
        return cls(reason, len(ids), tuple(ids[:SHOWN_IDS]), key)

    def __str__(self) -> str:
        return f"{self.number:,} {self.reason} ({self.key})"


@dataclass(frozen=True, slots=True)
class SourceUse:
    """What a run uses of one source.

    Attributes:
        role: What the source is read for.
        name: As the recipe names it.
        num_read: Rows read: rationales in the role `train`, otherwise questions.
        dropped: Rows that are left out, by reason, the most frequent reason first.
        num_questions: Distinct questions, whose gold answers are checked.
        unread: Questions whose gold answer cannot be read back: they can never be judged right.
        closing: The closing sentence where not even a plain number can be read back from it; empty where one can.
        num_unasked: Answers that the teacher has not been asked for yet.
        notes: What a user should know about the source, in plain sentences.
        fault: Why the source cannot be read; empty where it can.
    """

    role: Role
    name: str
    num_read: int = 0
    dropped: tuple[Unused, ...] = ()
    num_questions: int = 0
    unread: Unused | None = None
    closing: str = ""
    num_unasked: int = 0
    notes: tuple[str, ...] = ()
    fault: str = ""

    def __post_init__(self) -> None:
        if self.num_kept < 0 or (self.unread is not None and self.unread.number > self.num_questions):
            raise DataError(f"{self.role} {self.name}: more rows are left out than the {self.num_read} that were read")

    @property
    def num_kept(self) -> int:
        """How many rows are used."""
        return self.num_read - sum(item.number for item in self.dropped)

    def also_without(self, dropped: Sequence[Unused]) -> "SourceUse":
        """The same where further rows are left out."""
        return replace(self, dropped=tuple(sorted((*self.dropped, *dropped), key=lambda item: -item.number)))

    @property
    def errors(self) -> tuple[str, ...]:
        """Why no run can use this source, in full sentences; empty where one can."""
        if self.fault:
            return (self.fault,)
        errors = [self._unread_golds(self.unread)] if self.unread is not None and self._most_are_unread else []
        if not self.num_kept and not self.num_unasked:
            reasons = ", ".join(map(str, self.dropped)) or f"{self.name} holds none"
            errors.append(f"no {self._rows} is left to {'train on' if self.role == 'train' else 'ask'}: {reasons}")
        return tuple(errors)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before the run starts, though the run can use the source."""
        warnings = []
        num_dropped = self.num_read - self.num_kept
        if self.num_kept and 2 * num_dropped > self.num_read:
            reasons = ", ".join(map(str, self.dropped))
            warnings.append(f"{num_dropped:,} of {self.num_read:,} {self._rows}s are dropped: {reasons}")
        if self.unread is not None and not self._most_are_unread:
            warnings.append(self._unread_golds(self.unread))
        return tuple(warnings)

    @property
    def _rows(self) -> str:
        return "rationale" if self.role == "train" else "question"

    @property
    def _most_are_unread(self) -> bool:
        return self.unread is not None and 2 * self.unread.number > self.num_questions

    def _unread_golds(self, unread: Unused) -> str:
        if self.closing and self._most_are_unread:
            return (
                f"data.prompt.closing is {self.closing!r}, and no answer can be read back from it, so no text would "
                "ever be judged right: write it as in 'Therefore, the answer is {answer}', or list the words "
                "that introduce the answer in data.answer_words"
            )
        ids = ", ".join(map(repr, unread.ids))
        return (
            f"{self.role} {self.name}: {unread.number:,} of {self.num_questions:,} gold answers cannot be read back "
            f"after data.prompt.closing, so these questions can never be judged right ({ids}): correct the answers, "
            "or name their column in data.columns.answer; if that column holds whole solutions, name it in "
            "data.columns.rationale too"
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run uses of all its sources.

    Attributes:
        sources: The training set first, then the test sets and the validation set.
    """

    sources: tuple[SourceUse, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all sources, each once."""
        return tuple(dict.fromkeys(warning for source in self.sources for warning in source.warnings))

    def errors(self, *roles: Role) -> tuple[str, ...]:
        """Those of the sources in these roles, each once; of all sources where no role is given."""
        found = (error for source in self.sources if not roles or source.role in roles for error in source.errors)
        return tuple(dict.fromkeys(found))

    def to_json(self) -> list[dict[str, Any]]:
        """The sources in plain types that `json.dumps` takes; shares are 0 to 1."""
        return [_source_json(source) for source in self.sources]


def unused(dropped: Iterable[Dropped], recipe: Recipe) -> tuple[Unused, ...]:
    """Count dropped rationales by reason, the most frequent reason first.

    Example:
        >>> unused([Dropped("a", "wrong answer"), Dropped("b", "wrong answer")], Recipe())
        (Unused(reason='wrong answer', number=2, ids=('a', 'b'), key='teacher.filter: gold'),)
    """
    groups: dict[str, list[str]] = {}
    for item in dropped:
        groups.setdefault(item.reason, []).append(item.id)
    found = [Unused.of(reason, ids, remedy(reason, recipe)) for reason, ids in groups.items()]
    return tuple(sorted(found, key=lambda item: -item.number))


def remedy(reason: str, recipe: Recipe) -> str:
    """The recipe key that makes rationales drop for a reason, or what else could be changed.

    Example:
        >>> remedy("longer than 1024 tokens", Recipe())
        'data.max_length: 1024'
        >>> remedy("longer than 512 tokens", Recipe())
        'the student reads at most 512 tokens, whatever data.max_length (1024) allows: take another student'
    """
    if too_long := _TOO_LONG.fullmatch(reason):
        limit, allowed = int(too_long["limit"]), recipe.data.max_length
        if limit < allowed or too_long["context"]:
            return f"the student reads at most {limit} tokens, whatever data.max_length ({allowed}) allows: {ANOTHER}"
        return f"data.max_length: {allowed}"
    teacher = recipe.teacher
    by_filter = f"teacher.filter: {teacher.filter}"
    if "embeddings lack" in reason or reason == "cannot be aligned with its tokens":
        return ANOTHER
    if reason.startswith("answered by "):
        return f"teacher.ask.model: {teacher.ask.model}" if teacher.ask else "teacher.ask.model"
    known = {
        "wrong answer": by_filter,
        "unknown answer": f"data.answer_words, {by_filter}",
        "outvoted": by_filter,
        "no majority": by_filter,
        "wrong equation": "teacher.check_equations: true",
        "near-duplicate": f"teacher.max_similarity: {teacher.max_similarity}",
        "not among the most diverse": f"teacher.per_question: {teacher.per_question}",
        "nothing but an answer": "teacher.ask.prompt.template" if teacher.ask else "teacher.strip_closing: true",
        "empty rationale": "teacher.rationales",
        "no stated answer": "data.columns.answer",
        "no rationale": f"teacher.rationales: {teacher.rationales or 'null'}",
        "unknown question": f"data.train: {recipe.data.train}",
        "prompt and rationale merge into one token": "data.prompt.question",
        "rationale and answer merge into one token": "data.prompt.closing",
        "holds the end token": "delete the student's end token from the text",
        "truncated": f"teacher.ask.max_tokens: {teacher.ask.max_tokens}" if teacher.ask else "teacher.ask.max_tokens",
        "filtered": "teacher.ask.model",
        "refused": "teacher.ask.model",
        "bad request": "teacher.ask",
        "unclear thought": "teacher.ask.model" if teacher.ask else "data.columns.thoughts: whole keeps the text",
        "unfinished thought": "data.columns.thoughts: whole keeps the text",
    }
    return known.get(reason, "correct the row itself")


def _source_json(source: SourceUse) -> dict[str, Any]:
    unread, asked = source.unread, max(source.num_questions, 1)
    return {
        "role": source.role,
        "name": source.name,
        "read": source.num_read,
        "kept": source.num_kept,
        "not_asked": source.num_unasked,
        "dropped": [_unused_json(item, source.num_read) for item in source.dropped],
        "gold_not_read_back": None if unread is None else _unused_json(unread, asked),
        "notes": list(source.notes),
        "warnings": list(source.warnings),
        "errors": list(source.errors),
    }


def _unused_json(item: Unused, of: int) -> dict[str, Any]:
    return {
        "reason": item.reason,
        "count": item.number,
        "share": item.number / of,
        "ids": list(item.ids),
        "key": item.key,
    }
