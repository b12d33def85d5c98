"""A CSV file as rows: which character separates its cells, and its header.

The separator is `,`, `;`, a tab or `|`. A first line `sep=;`, as Excel writes it, names it.
Otherwise it is found from the header.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from kpod.data.findings import Finding, Row
from kpod.data.lines import UnreadableFileError, is_broken, text_lines
from kpod.records.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
LONGEST_CELL = 2**31 - 1
"""Characters; the csv module's own limit of 131 072 is less than a long rationale."""

_NAMED = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_SAMPLE = 64
"""How many lines are read to find the separator."""


def csv_rows(path: Path) -> Iterator[Row | Finding]:
    """The rows of a CSV or TSV file under its header."""
    csv.field_size_limit(LONGEST_CELL)
    header: list[str] = []
    start = 1
    try:
        lines, separator, skipped = _with_separator(path)
        table = csv.reader(lines, delimiter=separator, strict=True)
        for cells in table:
            if not any(map(str.strip, cells)):
                pass  # a blank line, or one of separators alone, as spreadsheets leave them at the end
            elif not header:
                header = _header(cells)
            elif len(cells) != len(header):
                remedy = f"put texts that contain the separator {separator!r} in quotes"
                yield Finding(start, "", f"{len(cells)} cells under {len(header)} columns: {remedy}")
            else:
                yield Row(start, dict(zip(header, cells, strict=True)))
            start = table.line_num + 1 + skipped
    except UnreadableFileError as error:
        yield Finding(0, "", str(error))
    except DataError as error:
        yield Finding(start, "", str(error))
    except csv.Error as error:
        # Once a quote is open that should not be, every later line would be misread: stop here.
        yield Finding(start, "", f"not valid CSV ({error}); the rest was not read")


def _with_separator(path: Path) -> tuple[Iterable[str], str, int]:
    """The lines of a file, the character between its cells, and how many lines were taken off its beginning."""
    lines = text_lines(path)
    sample = list(islice(lines, _SAMPLE))
    if len(sample) == 1 and "\r" in sample[0].rstrip("\r\n"):
        sample = [f"{line}\n" for line in sample[0].split("\r")]  # lines end as on old Macs
    named = _NAMED.fullmatch(sample[0]) if sample else None
    if named:
        return chain(sample[1:], lines), named[1], 1
    preferred = ("\t", *SEPARATORS) if ".tsv" in path.suffixes else SEPARATORS
    return chain(sample, lines), separator_of(sample, preferred), 0


def separator_of(lines: Sequence[str], candidates: Sequence[str] = SEPARATORS) -> str:
    """The character that separates the cells of a table, by its header and the shape of its first rows.

    It is the one that cuts the header into the most names free of other candidates. Where it makes two of it, it must
    cut half of the rows too, so that one column named `a;b` stays one.

    Args:
        lines: The table's first ones.
        candidates: What may separate cells; of equal ones the first is taken.

    Example:
        >>> separator_of(["id;question;answer", '1;"2, 3 or 4?";2'])
        ';'
        >>> separator_of(['id,"a;b;c;d",answer', "1,2,3"]), separator_of(["a;b", "1", "2"])
        (',', ',')
    """
    best, most = candidates[0], 0
    for candidate in candidates:
        header, rows = _table(lines, candidate)
        cut = sum(len(row) > 1 for row in rows)
        if len(header) > 2 or 2 * cut >= len(rows):
            clean = sum(not any(other in name for other in SEPARATORS) for name in header)
            if clean > most and len(header) > 1:
                best, most = candidate, clean
    return best


def _table(lines: Sequence[str], separator: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows, as far as they can be read."""
    rows: list[list[str]] = []
    with suppress(csv.Error):  # of a separator that is none, or a text that goes on after the sample
        rows.extend(filter(None, csv.reader(lines, delimiter=separator, strict=True)))
    return (rows[0], rows[1:]) if rows else ([], [])


def _header(cells: list[str]) -> list[str]:
    names = [name.strip() for name in cells]
    if is_broken("".join(names)):
        raise DataError("the header holds bytes that are not UTF-8: save the file as UTF-8")
    doubled = sorted(name for name, number in Counter(names).items() if number > 1 and name)
    if doubled:
        raise DataError(f"two columns are called {doubled[0]!r}: rename one")
    return names
