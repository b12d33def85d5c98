"""Read question and rationale files, and say by line and id what is wrong with them.

One parser serves both uses: reading raises at the first error, `check_file` lists them all.

| column | what it may hold |
|---|---|
| `id` | text or a whole number; unique, or doubled with the same content (then it is read once) |
| `question`, `answer` | text or a number; 3 and 3.0 are read as "3" |
| `choices` | an object letter -> text, a list of texts, or `{"label": [..], "text": [..]}`; may be missing |
| `rationale` | text; empty or null where the teacher wrote none, which is dropped and counted |
| `source`, `teacher_answer` | text, a number (`teacher_answer`), or null; may be missing |
| `token_weights` | a list of `[start, stop, weight]`: rising characters of `rationale`, in [0, 1]; may be missing |

Further columns are ignored. `ColumnsConfig` renames the first five. In CSV, `choices` and `token_weights` are JSON.
Outer whitespace is stripped from every text, and `token_weights` move along.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from kpod.config import ColumnsConfig
from kpod.data.answers import same_answer
from kpod.data.cells import choices_cell, id_cell, rationale_cell, text_cell, weights_cell
from kpod.data.rows import Finding, Row, rows_of
from kpod.errors import DataError
from kpod.records import Dropped, Question, Rationale

DEFAULT_COLUMNS = ColumnsConfig()
EMPTY = "empty rationale"
"""The reason under which a rationale without text is dropped."""

_CUT_OFF = re.compile(
    r"([,([{+*/×÷=<-]|\b(the|an?|of|to|and|or|is|are|was|were|in|for|with|that|so|by|at|on|than|then|from|which))$"
)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a file, read.

    Attributes:
        line: As in `Row`; two entries are equal wherever they stand.
        id: The row's id: the question's, with /k added where a question has several rationales.
        question: The question, under its own id.
        rationale: None where the row has none, or an empty one.
    """

    line: int = field(compare=False)
    id: str
    question: Question
    rationale: Rationale | None = None


def read_questions(path: Path, columns: ColumnsConfig = DEFAULT_COLUMNS) -> list[Question]:
    """The questions of a JSONL, CSV or Parquet file, in its order.

    Raises:
        DataError: At the first row that is wrong, as `file:line: id ...: what is wrong and what to do`.
    """
    return [entry.question for entry in read_entries(rows_of(path), str(path), columns, explained=False)]


def read_rationales(path: Path, columns: ColumnsConfig = DEFAULT_COLUMNS) -> tuple[list[Rationale], list[Dropped]]:
    """The rationales of a JSONL, CSV or Parquet file in its order, and the rows whose rationale is empty.

    Raises:
        DataError: As `read_questions`; a file without a rationale column is an error, an empty rationale is not.
    """
    entries = read_entries(rows_of(path), str(path), columns, explained=True)
    rationales = [entry.rationale for entry in entries if entry.rationale]
    return rationales, [Dropped(entry.id, EMPTY) for entry in entries if not entry.rationale]


def check_file(path: Path, columns: ColumnsConfig = DEFAULT_COLUMNS) -> list[Finding]:
    """Everything that is wrong with a question or rationale file, in its order.

    A file whose first readable row has the rationale column is checked as a rationale file. It then also gets
    warnings: an empty rationale, one that reaches another answer than the gold one, one that breaks off.

    Raises:
        DataError: If there is no such file, or its suffix is not a data file's.
    """
    rows = list(rows_of(path))
    first = next((row for row in rows if isinstance(row, Row)), None)
    explained = first is not None and columns.rationale in first.values
    items = list(_parsed(rows, columns, explained))
    if explained and not any(isinstance(item, Entry) and item.rationale for item in items):
        explained = False  # a file of questions with an unused column, not one of empty rationales
    checked = (_checked(item) if explained and isinstance(item, Entry) else item for item in items)
    return [item for item in checked if isinstance(item, Finding)]


def read_entries(rows: Iterable[Row | Finding], where: str, columns: ColumnsConfig, explained: bool) -> list[Entry]:
    """Read rows of any origin; `where` names it in errors, `explained` asks for the rationale column too.

    Raises:
        DataError: At the first error.
    """
    entries = []
    for item in _parsed(rows, columns, explained):
        if isinstance(item, Entry):
            entries.append(item)
        elif item.severity == "error":
            place = f"{where}:{item.line}" if item.line else where
            raise DataError(f"{place}: {f'id {item.id!r}: ' if item.id else ''}{item.message}")
    return _with_question_ids(entries) if explained else entries


def _parsed(rows: Iterable[Row | Finding], columns: ColumnsConfig, explained: bool) -> Iterator[Entry | Finding]:
    """Each row as an entry, or as findings; a doubled row and a repeated missing column are told once."""
    seen: dict[str, Entry] = {}
    told: set[str] = set()
    empty = True
    for row in rows:
        empty = False
        if isinstance(row, Finding):
            yield row
            continue
        cells = _Cells(row.values, columns)
        entry = cells.entry(row.line, explained)
        yield from (Finding(row.line, cells.id, fault) for fault in cells.faults)
        yield from (Finding(row.line, cells.id, fault) for fault in cells.missing if fault not in told)
        told.update(cells.missing)
        if entry and (first := seen.setdefault(entry.id, entry)) is not entry:
            yield _doubled(first, entry)
        elif entry:
            yield entry
    if empty:
        yield Finding(0, "", "the file holds no rows")


def _doubled(first: Entry, again: Entry) -> Finding:
    if again == first:
        return Finding(again.line, again.id, f"the same row as line {first.line}; it is read once", "warning")
    return Finding(again.line, again.id, f"line {first.line} has this id with other content: make ids unique")


class _Cells:
    """The cells of one row, taken one by one; what is wrong with them gathers in `faults` and `missing`."""

    def __init__(self, values: Mapping[str, Any], columns: ColumnsConfig) -> None:
        self.values = values
        self.columns = columns
        self.id = ""
        self.faults: list[str] = []
        self.missing: list[str] = []

    def entry(self, line: int, explained: bool) -> Entry | None:
        """The whole row, or None if anything is wrong with it."""
        self.id = self._required("id", id_cell) or ""
        question = self._question()
        rationale = self._rationale(question) if explained else None
        if question is None or self.faults or self.missing:
            return None
        return Entry(line, self.id, question, rationale)

    def _question(self) -> Question | None:
        question = self._required("question", text_cell)
        answer = self._required("answer", text_cell)
        choices = self._optional(self.columns.choices, choices_cell)
        if choices and answer and answer not in choices:
            self.faults.append(
                f"answer {answer!r} is none of the choices: write one of the letters {', '.join(choices)}"
            )
        elif self.id and question and answer:
            return Question(self.id, question, answer, choices)
        return None

    def _rationale(self, question: Question | None) -> Rationale | None:
        raw = self._required("rationale", rationale_cell) or ""
        source = self._optional("source", text_cell) or "unknown"
        teacher_answer = self._optional("teacher_answer", text_cell)
        weights = self._optional("token_weights", lambda cell: weights_cell(cell, raw))
        if question is None or not raw.strip() or self.faults:
            return None
        return Rationale(self.id, question, raw.strip(), source, teacher_answer, weights)

    def _required(self, name: str, convert: Callable[[Any], _T]) -> _T | None:
        column = getattr(self.columns, name)
        if column not in self.values:
            self.missing.append(_missing(name, column, list(self.values)))
            return None
        return self._converted(column, convert)

    def _optional(self, column: str, convert: Callable[[Any], _T]) -> _T | None:
        blank = self.values.get(column) in (None, "")  # CSV has no null
        return None if blank else self._converted(column, convert)

    def _converted(self, column: str, convert: Callable[[Any], _T]) -> _T | None:
        try:
            return convert(self.values[column])
        except DataError as error:
            self.faults.append(f"{column} {error}")
            return None


def _missing(name: str, column: str, present: list[str]) -> str:
    near = difflib.get_close_matches(column, present, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    remedy = f"name it under data.columns.{name}"
    if name == "rationale":
        remedy += ", or name a file or teacher that has rationales under teacher.rationales"
    return f"no column {column!r} among {', '.join(present) or 'none at all'}{guess}: {remedy}"


def _with_question_ids(entries: list[Entry]) -> list[Entry]:
    """Give the questions of `q/0`, `q/1`, ... the id q, unless these rows ask different questions.

    The exception keeps apart questions whose own ids look like that, such as train/0, train/1.
    """
    asked: dict[str, set[str]] = {}
    for entry in entries:
        asked.setdefault(_base(entry.id), set()).add(entry.question.question)
    return [_renamed(entry) if len(asked[_base(entry.id)]) == 1 else entry for entry in entries]


def _base(id_: str) -> str:
    return re.sub(r"(?<=.)/\d+\Z", "", id_, flags=re.DOTALL)


def _renamed(entry: Entry) -> Entry:
    question = replace(entry.question, id=_base(entry.id))
    return replace(entry, question=question, rationale=entry.rationale and replace(entry.rationale, question=question))


def _checked(entry: Entry) -> Entry | Finding:
    """The entry, or a warning about it."""
    warning = _warning(entry)
    return Finding(entry.line, entry.id, warning, "warning") if warning else entry


def _warning(entry: Entry) -> str | None:
    """What a user should know about a rationale that can be read; the first of several."""
    rationale, question = entry.rationale, entry.question
    if rationale is None:
        return "empty rationale: it is dropped"
    reached = rationale.teacher_answer
    if reached and not same_answer(reached, question.answer, question.choices):
        return f"reaches {reached!r}, not the gold answer {question.answer!r}: teacher.filter gold drops it"
    if _CUT_OFF.search(rationale.text):
        return f"breaks off at {rationale.text[-30:]!r}: allow the teacher more tokens"
    return None
