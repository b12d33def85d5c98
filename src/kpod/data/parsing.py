"""The rows of any source as entries: the layout is recognised, ids are given, and notes say what is not used."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from kpod.data.cells import UnusableError
from kpod.data.drafts import SAID_BESIDE, STATEMENTS, THOUGHTS, UNSTATED, drafts_of
from kpod.data.entries import DraftCells, Entry, Pending, left_out, listed, readable_id
from kpod.data.findings import Finding, Row
from kpod.data.formats import DEFAULTS, Layout, layout_of
from kpod.data.lines import is_broken
from kpod.recipe import ColumnsConfig
from kpod.records.errors import DataError

CASES = 50
"""How many rows are read to find out what a source's columns hold."""
ID_COLUMNS = (
    "uuid",
    "uid",
    "guid",
    "_id",
    "unique_id",
    "question_id",
    "problem_id",
    "example_id",
    "qid",
    "idx",
    "index",
)
"""Columns that serve as ids without a column `id`, if all their cells are filled and different."""
OUR_COLUMNS = frozenset({"question_id", "attempt", "start", "weigher"})
"""Columns that kpod writes into rationale files for people. No note reports that they are not read."""
REMEDIES = {
    THOUGHTS: "data.columns.thoughts: rationale trains on them instead",
    STATEMENTS: "teacher.strip_closing: true removes the sentence",
}
"""The keys that change how something is read."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the rows of a source hold.

    Attributes:
        items: Entries, and findings where there is none, in the source's order.
        notes: What was recognised, and what is not used, in sentences without an end.
    """

    items: list[Entry | Finding]
    notes: tuple[str, ...]


def first_cases(rows: Iterable[Row | Finding]) -> list[Mapping[str, Any]]:
    """The cells of the first rows, which tell a source's layout."""
    return [row.values for row in islice((row for row in rows if isinstance(row, Row)), CASES)]


def parsed(rows: Iterable[Row | Finding], columns: ColumnsConfig, explained: bool, stem: str) -> Parsed:
    """Read rows of any origin.

    Args:
        rows: The rows, and findings where one cannot be read.
        columns: The recipe's names; only what it does not name is recognised.
        explained: Whether rationales are wanted too.
        stem: Begins the ids of rows that have none, as in `train-00012`.
    """
    rows = iter(rows)
    first = list(islice(rows, CASES))
    cases = first_cases(first)
    return _Reading(layout_of(cases, columns, explained), columns, explained, stem).read(chain(first, rows))


class _Reading:
    """The rows of one source on their way to entries, and what is counted on it."""

    def __init__(self, layout: Layout, columns: ColumnsConfig, explained: bool, stem: str) -> None:
        self.layout, self.columns, self.explained, self.stem = layout, columns, explained, stem
        self.aside: Counter[str] = Counter()
        self.present: dict[str, None] = {}
        self.last_present: list[str] = []
        self.id_names: list[str] = []
        self.has_broken_name = False
        self.labels = {
            "question": layout.question[0],
            "answer": layout.answer or layout.rationale,
            "rationale": layout.rationale,
            "choices": columns.choices,
        }

    def read(self, rows: Iterable[Row | Finding]) -> Parsed:
        pending = (row if isinstance(row, Finding) else self._pending(row) for row in rows)
        head = [*_up_to_first_row(pending)]
        key: str | None = self.columns.id
        if key == DEFAULTS.id and head and isinstance(head[-1], Pending) and _is_blank(head[-1].ids.get(key)):
            head += pending  # where the ids are depends on all rows
            key = self._id_column([item for item in head if isinstance(item, Pending)])
        items = list(self._items(chain(head, pending), key))
        return Parsed(self._judged(items), tuple(self._notes(items, key)))

    def _pending(self, row: Row) -> Pending | Finding:
        present = list(row.values)
        if present != self.last_present:
            wanted = {self.columns.id.casefold(), *ID_COLUMNS}
            self.last_present = present
            self.id_names = [name for name in present if name.casefold() in wanted]
            self.has_broken_name = is_broken("".join(present))
            if not self.has_broken_name:
                self.present.update(dict.fromkeys(present))
        ids = {name: row.values[name] for name in self.id_names}
        try:
            if self.has_broken_name:
                raise UnusableError("broken character", "a column's name holds a byte that is not UTF-8")
            drafts = drafts_of(row.values, self.layout, self.columns, self.explained, self.aside)
        except UnusableError as error:
            return left_out(row.line, readable_id(ids.get(self.columns.id)), error)
        except DataError as error:
            return Finding(row.line, readable_id(ids.get(self.columns.id)), str(error))
        return Pending(row.line, self.last_present, ids, drafts)

    def _id_column(self, rows: Sequence[Pending]) -> str | None:
        """The column that holds the ids where the first row has none under its usual name; None: rows are numbered."""
        named = DEFAULTS.id
        if named in rows[0].ids and not all(_is_blank(row.ids.get(named)) for row in rows):
            return named
        names = {name.casefold(): name for name in rows[0].ids}
        for candidate in (names[name] for name in (DEFAULTS.id, *ID_COLUMNS) if name in names):
            ids = [readable_id(row.ids.get(candidate)) for row in rows]
            if all(ids) and len(set(ids)) == len(ids):
                return candidate
        return None

    def _items(self, pending: Iterable[Pending | Finding], key: str | None) -> Iterator[Entry | Finding]:
        """Each draft as an entry or as findings; a doubled row and a repeated missing column are told once."""
        seen: dict[str, Entry] = {}
        told: set[str] = set()
        for number, row in enumerate(pending):
            if isinstance(row, Finding):
                yield row
                continue
            if key is None and not _is_blank(row.ids.get(self.columns.id)):
                yield Finding(row.line, "", "has an id, but earlier rows have none: give every row an id, or none")
                continue
            for draft in row.drafts:
                cells = DraftCells(draft, self.labels, self.columns.id if key is None else key)
                entry = cells.entry(row, f"{self.stem}-{number:05d}" if key is None else None, self.explained)
                yield from cells.findings(row, told)
                if entry and (first := seen.setdefault(entry.id, entry)) is not entry:
                    yield _doubled(first, entry)
                elif entry:
                    yield entry

    def _judged(self, items: list[Entry | Finding]) -> list[Entry | Finding]:
        """The items, and an error where they hold nothing to use."""
        if not items:
            return [Finding(0, "", "the file holds no rows")]
        findings = [item for item in items if isinstance(item, Finding)]
        if len(findings) < len(items) or any(item.severity == "error" for item in findings):
            return items
        reasons = Counter(item.dropped for item in findings if item.dropped)
        if set(reasons) == {UNSTATED}:
            return [Finding(0, "", self._without_gold())]
        told = ", ".join(f"{reason} ({number})" for reason, number in reasons.most_common())
        return [*items, Finding(0, "", f"no row is left; all were dropped: {told}. The first: {findings[0].message}")]

    def _without_gold(self) -> str:
        form = self.layout.format
        whose = f"the columns are those of {form.name} ({', '.join(form.needs)}), but " if form else ""
        if self.aside["further turns left aside"]:
            whose = f"only the first reply of each chat is read; {whose}"
        return (
            f'{whose}no text under {self.layout.rationale} states an answer that can be read, such as "#### 8", '
            f'"\\boxed{{8}}" or "the answer is 8". Add a column with the gold answers and name it, here "gold":\n'
            "  data:\n    columns:\n      answer: gold"
        )

    def _notes(self, items: Sequence[Entry | Finding], key: str | None) -> Iterator[str]:
        layout = self.layout
        if layout.format:
            gold = layout.answer or layout.rationale
            asked = [name for name in layout.question if name in self.present]
            parts = [f"question from {' and '.join(asked)}"]
            if self.explained and gold == layout.rationale:
                parts.append(f"rationale and gold answer from {gold}")
            else:
                parts += [f"rationale from {layout.rationale}"] * self.explained + [f"gold answer from {gold}"]
            yield f"read as {layout.format.name}: {', '.join(parts)}"
        numbered = [item.id for item in items if isinstance(item, Entry)] if key is None else []
        if numbered:
            yield f"the rows have no ids and are numbered, from {numbered[0]} to {numbered[-1]}"
        elif key is not None and key != self.columns.id:
            yield f"ids are taken from {key}"
        if not layout.format and not layout.answer:
            yield f"rationale and gold answer are both read from {layout.rationale}"
        used = self._used(key)
        unused = [name for name in self.present if name not in used]
        if unused:
            yield f"unused columns: {listed(unused)}"
        for what, number in self.aside.items():
            remedy = REMEDIES.get(what)
            if number and (remedy is None or self.explained):
                yield f"{what}: {number}" + (f"; {remedy}" if remedy else "")
        again = sum(isinstance(item, Finding) and not item.dropped and item.severity == "warning" for item in items)
        if again:
            yield f"repeated rows that are read once: {again}"

    def _used(self, key: str | None) -> set[str | None]:
        layout = self.layout
        used = {key, *layout.question, layout.answer, layout.rationale, self.columns.choices}
        if not self.explained or not layout.format or layout.format.told_by:
            used |= set(SAID_BESIDE)
        if not layout.format:
            used |= OUR_COLUMNS
        return used | {"teacher_answer"}


def _up_to_first_row(pending: Iterable[Pending | Finding]) -> Iterator[Pending | Finding]:
    for item in pending:
        yield item
        if isinstance(item, Pending):
            return


def _is_blank(cell: object) -> bool:
    return cell is None or cell == ""


def _doubled(first: Entry, again: Entry) -> Finding:
    if again == first:
        return Finding(again.line, again.id, f"the same row as line {first.line}; it is read once", "warning")
    return Finding(again.line, again.id, f"line {first.line} has the same id with different content: make ids unique")
