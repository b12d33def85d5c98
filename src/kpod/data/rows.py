"""A JSONL, CSV or Parquet file as rows with their lines, or as findings where a line cannot be read.

What the columns mean is the business of `kpod.data.reader`.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kpod.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it stands in a file.

    Attributes:
        line: Where it starts, from 1; the row's number, from 1, where a source has no lines (Parquet, Hub).
        values: Column -> value.
    """

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a file.

    Attributes:
        line: As in `Row`; 0 means the file as a whole.
        id: The record's id; empty where it could not be read.
        message: What is wrong and what to do about it.
        severity: An error stops reading; a warning does not.
    """

    line: int
    id: str
    message: str
    severity: Literal["error", "warning"] = "error"


def rows_of(path: Path) -> Iterator[Row | Finding]:
    """The rows of a file in their order; the suffix tells the format.

    Raises:
        DataError: If there is no such file, or its suffix is none of SUFFIXES.
    """
    read = SUFFIXES.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: a data file must end in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file (looked from the folder {Path.cwd()})")
    return read(path)


def _jsonl_rows(path: Path) -> Iterator[Row | Finding]:
    # Binary lines end at "\n" only; text mode and str.splitlines would also cut at "\r" or U+2028 inside a text.
    with path.open("rb") as lines:
        for line, raw in enumerate(lines, start=1):
            try:
                text = _decoded(raw, first=line == 1).strip(" \t\r\n")  # the whitespace of JSON
                if text:
                    yield Row(line, _json_object(text))
            except DataError as error:
                torn = "" if raw.endswith(b"\n") else "; this last line has no end, so it is probably torn: delete it"
                yield Finding(line, "", f"{error}{torn}")


def _csv_rows(path: Path) -> Iterator[Row | Finding]:
    header: list[str] = []
    start = 1
    with path.open("rb") as lines:
        table = csv.reader((_decoded(raw, first=i == 0) for i, raw in enumerate(lines)), strict=True)
        try:
            for cells in table:
                if cells and not header:
                    header = _csv_header(cells)
                elif cells and len(cells) != len(header):
                    yield Finding(start, "", f"{len(cells)} cells under {len(header)} columns: quote texts with commas")
                elif cells:
                    yield Row(start, dict(zip(header, cells, strict=True)))
                start = table.line_num + 1
        except (csv.Error, DataError) as error:
            # Once a quote is open that should not be, every later line would be misread: stop here.
            yield Finding(start, "", f"no valid CSV ({error}); what follows was not read")


def _csv_header(cells: list[str]) -> list[str]:
    doubled = sorted({name for name in cells if cells.count(name) > 1})
    if doubled:
        raise DataError(f"two columns are called {doubled[0]!r}: rename one")
    return cells


def _parquet_rows(path: Path) -> Iterator[Row | Finding]:
    from pyarrow import ArrowException  # half a second that `import kpod` need not wait for
    from pyarrow.parquet import ParquetFile

    line = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches():
                for values in batch.to_pylist():
                    line += 1
                    yield Row(line, values)
    except (ArrowException, OSError) as error:
        yield Finding(line + 1, "", f"no valid Parquet ({error}): write the file anew")


SUFFIXES: Mapping[str, Callable[[Path], Iterator[Row | Finding]]] = {
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}


def _decoded(raw: bytes, first: bool) -> str:
    """A line as text, without the byte order mark that some editors write before the first."""
    if b"\x00" in raw:
        raise DataError("NUL bytes, as a crash leaves them: delete this line or restore the file")
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} of the line is no UTF-8: save the file as UTF-8") from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"no valid JSON ({error.msg} at character {error.colno})") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; brackets nested as deep
        raise DataError(f"no readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{text[:40]!r} is no object: write one JSON object a line")
    return value
