r"""Read question and rationale files, and say by line and id what is wrong with them.

One parser serves both uses: reading raises at the first error, `check_file` lists them all.

| column | what it may hold |
|---|---|
| `id` | text or a whole number; unique, or doubled with the same content (then it is read once) |
| `question`, `answer` | text or a number; 3 and 3.0 are read as "3", and a gold answer `... #### 8` as "8" |
| `choices` | an object letter -> text, a list of texts, or `{"label": [..], "text": [..]}`; may be missing |
| `rationale` | text, or a list of texts; empty or null where the teacher wrote none, which is dropped and counted |
| `source`, `teacher_answer` | text, a number (`teacher_answer`), or null; may be missing |
| `token_weights` | a list of `[start, stop, weight]`: rising characters of `rationale`, in [0, 1]; may be missing |

`ColumnsConfig` renames the first five; columns that it does not name are recognised if a data set has
one of `kpod.data.formats.FORMATS`. Further columns are not used, and a note says so. Rows without ids are numbered.
In CSV, `choices` and `token_weights` are JSON. Outer whitespace is stripped from every text, and `token_weights` move
along.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kpod.data.answers import same_answer
from kpod.data.entries import Entry
from kpod.data.findings import Finding, Row
from kpod.data.formats import DEFAULTS, layout_of
from kpod.data.parsing import first_cases, parsed
from kpod.data.rows import rows_of, suffix_of
from kpod.recipe import ColumnsConfig
from kpod.records import Dropped, Question, Rationale
from kpod.records.errors import DataError

EMPTY = "empty rationale"
"""The reason under which a rationale without text is dropped."""

_CUT_OFF = re.compile(
    r"([,([{+*/×÷=<-]|\b(the|an?|of|to|and|or|is|are|was|were|in|for|with|that|so|by|at|on|than|then|from|which))$"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source holds.

    Attributes:
        entries: Its rows, in its order.
        dropped: Rows that cannot be used, with reasons; one without a readable id is called `line 17`.
        notes: What was recognised and what is not used, in plain English.
    """

    entries: list[Entry]
    dropped: list[Dropped]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What is wrong with a file.

    Attributes:
        findings: Errors and warnings, in its order. Errors in the same words are one finding.
        notes: As in `Reading`.
    """

    findings: list[Finding]
    notes: tuple[str, ...]


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL, JSON, CSV or Parquet file, in its order.

    Args:
        path: The file, perhaps gzipped.

    Raises:
        DataError: At the first row that is wrong, as `file:line: id ...: what is wrong and what to do`; or if no row is
            left.
    """
    return [entry.question for entry in read_file(path, explained=False).entries]


def read_rationales(path: Path, columns: ColumnsConfig = DEFAULTS) -> tuple[list[Rationale], list[Dropped]]:
    """The rationales of a JSONL, JSON, CSV or Parquet file in its order, and the rows that are dropped.

    Args:
        path: The file, perhaps gzipped.
        columns: Names of its columns; those of published formats are recognised without them.

    Raises:
        DataError: As `read_questions`; a file without a rationale column is an error, an empty rationale is not.
    """
    reading = read_file(path, columns, explained=True)
    rationales = [entry.rationale for entry in reading.entries if entry.rationale]
    empty = [Dropped(entry.id, EMPTY) for entry in reading.entries if not entry.rationale]
    return rationales, [*reading.dropped, *empty]


def read_file(path: Path, columns: ColumnsConfig = DEFAULTS, *, explained: bool) -> Reading:
    """All rows of a file; `explained` asks for rationales too.

    Raises:
        DataError: As `read_questions`.
    """
    return read_entries(rows_of(path), str(path), columns, explained, stem_of(path))


def check_file(path: Path, columns: ColumnsConfig = DEFAULTS) -> list[Finding]:
    """Everything that is wrong with a question or rationale file, in its order.

    A file with a rationale column, by name or recognised, is checked as a rationale file. It then also gets warnings:
    an empty rationale, one that reaches another answer than the gold one, one that breaks off.

    Raises:
        DataError: If there is no such file, or its suffix is not a data file's.
    """
    return checked_file(path, columns).findings


def checked_file(path: Path, columns: ColumnsConfig = DEFAULTS) -> CheckedFile:
    """As `check_file`, with what the file's reader has to say beside.

    Raises:
        DataError: As `check_file`.
    """
    cases = first_cases(rows_of(path))
    explained = bool(cases) and layout_of(cases, columns, explained=True).rationale in cases[0]
    read = parsed(rows_of(path), columns, explained, stem_of(path))
    if explained and not any(isinstance(item, Entry) and item.rationale for item in read.items):
        explained = False  # a file of questions with an unused column, not one of empty rationales
    checked = (_checked(item) if explained and isinstance(item, Entry) else item for item in read.items)
    return CheckedFile(_once_a_kind([item for item in checked if isinstance(item, Finding)]), read.notes)


def read_entries(
    rows: Iterable[Row | Finding], where: str, columns: ColumnsConfig, explained: bool, stem: str
) -> Reading:
    """Read rows of any origin.

    Args:
        rows: The rows.
        where: Names their source in errors and notes.
        columns: The recipe's names.
        explained: Whether rationales are wanted too.
        stem: Begins the ids of rows that have none.

    Raises:
        DataError: At the first error.
    """
    read = parsed(rows, columns, explained, stem)
    findings = [item for item in read.items if isinstance(item, Finding)]
    for item in findings:
        if item.severity == "error":
            place = f"{where}:{item.line}" if item.line else where
            raise DataError(f"{place}: {f'id {item.id!r}: ' if item.id else ''}{item.message}")
    entries = [item for item in read.items if isinstance(item, Entry)]
    dropped = [Dropped(item.id or f"line {item.line}", item.dropped) for item in findings if item.dropped]
    notes = tuple(f"{where}: {note}" for note in read.notes)
    return Reading(_with_question_ids(entries) if explained else entries, dropped, notes)


def stem_of(path: Path) -> str:
    """A file's name without what tells its format, for the ids of its rows.

    Example:
        >>> stem_of(Path("data/train.jsonl.gz"))
        'train'
    """
    return path.name[: -len(suffix_of(path))] or path.name


def _with_question_ids(entries: list[Entry]) -> list[Entry]:
    """Give the questions of `q/0`, `q/1`, ... the id q, unless these rows ask different questions.

    The exception keeps apart questions whose own ids look like that, such as train/0, train/1.
    """
    asked: dict[str, str] = {}
    several: set[str] = set()
    for entry in entries:
        if asked.setdefault(base_id(entry.id), entry.question.question) != entry.question.question:
            several.add(base_id(entry.id))
    return [entry if base_id(entry.id) in several else _renamed(entry) for entry in entries]


def base_id(id_: str) -> str:
    """The id of a rationale's question: without /k."""
    return re.sub(r"(?<=.)/\d+\Z", "", id_, flags=re.DOTALL)


def _renamed(entry: Entry) -> Entry:
    if entry.question.id == base_id(entry.id):
        return entry
    question = replace(entry.question, id=base_id(entry.id))
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


def _once_a_kind(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, with one in the place of errors in the same words."""
    lines: dict[str, list[int]] = {}
    for finding in findings:
        if finding.severity == "error":
            lines.setdefault(finding.message, []).append(finding.line)
    told = []
    for finding in findings:
        alike = lines.get(finding.message, []) if finding.severity == "error" else []
        if len(alike) > 1:
            more = ", ".join(map(str, alike[1:4])) + (", ..." if len(alike) > 4 else "")
            told.append(replace(finding, message=f"{finding.message} ({len(alike) - 1} more such: lines {more})"))
            alike.clear()
        elif alike or finding.severity != "error":
            told.append(finding)
    return told
