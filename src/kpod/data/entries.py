"""Turn drafts into questions and rationales: check each cell, and report faults by line and id."""

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kpod.data.cells import (
    UnusableError,
    answer_cell,
    choices_cell,
    id_cell,
    letter_of,
    rationale_cell,
    text_cell,
    weights_cell,
)
from kpod.data.drafts import Draft
from kpod.data.findings import Finding
from kpod.records import Question, Rationale
from kpod.records.errors import DataError

MOST_NAMES = 12
"""Column names that a message lists."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One question, or one rationale of it, as a row has it.

    Attributes:
        line: As in `Row`; two entries are equal wherever they stand.
        id: The entry's id: the question's, with /k added where a question has several rationales.
        question: The question, under its own id.
        rationale: None where the row has none, or an empty one.
        is_numbered: Whether the id is the row's number, because the source has no ids.
    """

    line: int = field(compare=False)
    id: str
    question: Question
    rationale: Rationale | None = None
    is_numbered: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Pending:
    """A row whose id is still to be given, which may depend on all rows.

    Attributes:
        line: As in `Row`.
        present: Its columns.
        ids: Cells that may be its id.
        drafts: What it holds.
    """

    line: int
    present: Sequence[str]
    ids: Mapping[str, Any]
    drafts: list[Draft]


class DraftCells:
    """The cells of one draft, taken one by one; what is wrong with them gathers in `faults` and `missing`."""

    def __init__(self, draft: Draft, labels: Mapping[str, str], key: str) -> None:
        self.draft, self.labels, self.key = draft, labels, key
        self.id = ""
        self.faults: list[str] = []
        self.missing: list[str] = []
        self.left_out = draft.fault

    def entry(self, row: Pending, numbered: str | None, explained: bool) -> Entry | None:
        """The whole draft, or None if anything is wrong with it."""
        if numbered is not None:
            self.id = numbered + self.draft.sample
        elif self.key in row.ids:
            id_ = self._converted(self.key, row.ids[self.key], id_cell)
            self.id = f"{id_}{self.draft.sample}" if id_ else ""
        else:
            self.missing.append("id")
        question = self._question()
        rationale = self._rationale(question) if explained else None
        if question is None or self.faults or self.missing or self.left_out:
            return None
        return Entry(row.line, self.id, question, rationale, numbered is not None)

    def findings(self, row: Pending, told: set[str]) -> Iterator[Finding]:
        """What is wrong; a missing column only where it is not in `told` yet."""
        yield from (Finding(row.line, self.id, fault) for fault in self.faults)
        for name in self.missing:
            if name not in told:
                told.add(name)
                yield Finding(row.line, self.id, _missing(name, self.labels.get(name, self.key), row.present))
        if self.left_out and not self.faults and not self.missing:
            yield left_out(row.line, self.id, self.left_out)

    def _question(self) -> Question | None:
        question = self._required("question", text_cell)
        given = self._required("answer", answer_cell)
        choices = self._optional("choices", choices_cell)
        answer = letter_of(given, choices) if given and choices else given
        if given and answer is None:
            remedy = f"write one of the letters {', '.join(choices or ())}"
            self.faults.append(f"{self.labels['answer']} {given!r} is none of the choices: {remedy}")
        elif self.id and question and answer:
            return Question(self.id, question, answer, choices)
        return None

    def _rationale(self, question: Question | None) -> Rationale | None:
        raw = self._required("rationale", rationale_cell) or ""
        source = sys.intern(self._optional("source", text_cell) or "unknown")  # few texts, each of many rows
        teacher_answer = self._optional("teacher_answer", text_cell)
        weights = self._optional("token_weights", lambda cell: weights_cell(cell, raw))
        if question is None or not raw.strip() or self.faults:
            return None
        return Rationale(self.id, question, raw.strip(), source, teacher_answer, weights)

    def _required(self, name: str, convert: Callable[[Any], _T]) -> _T | None:
        if name not in self.draft.cells:
            if not self.draft.fault:
                self.missing.append(name)
            return None
        return self._converted(self.labels[name], self.draft.cells[name], convert)

    def _optional(self, name: str, convert: Callable[[Any], _T]) -> _T | None:
        cell = self.draft.cells.get(name)
        return None if cell in (None, "") else self._converted(self.labels.get(name, name), cell, convert)

    def _converted(self, column: str, cell: Any, convert: Callable[[Any], _T]) -> _T | None:
        try:
            return convert(cell)
        except UnusableError as error:
            self.left_out = self.left_out or UnusableError(error.reason, f"{column} {error}")
        except DataError as error:
            self.faults.append(f"{column} {error}")
        return None


def left_out(line: int, id_: str, error: UnusableError) -> Finding:
    """The warning that a row is dropped."""
    return Finding(line, id_, f"{error}: the row is dropped until you correct it", "warning", error.reason)


def readable_id(cell: object) -> str:
    """An id as text; empty where the cell holds none."""
    try:
        return id_cell(cell)
    except DataError:
        return ""


def _missing(name: str, column: str, present: Sequence[str]) -> str:
    near = difflib.get_close_matches(column, present, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    remedy = f"name it under data.columns.{name}"
    if name == "rationale":
        remedy += (
            ", or name the answer column there if it holds whole solutions, or name a rationale file or teacher in "
            "teacher.rationales"
        )
    return f"no column {column!r} among {listed(present) or 'none at all'}{guess}: {remedy}"


def listed(names: Sequence[str]) -> str:
    """The first names of many, without characters that a terminal would act on or cannot write."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    shown = (name if name.strip() and name.isprintable() else ascii(name) for name in names[:MOST_NAMES])
    return ", ".join(shown) + more
