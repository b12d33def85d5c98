"""A JSONL, JSON, CSV or Parquet file as rows with their lines, or as findings where a line cannot be read.

`kpod.data.reader` knows what the columns mean.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpod.data.csv_tables import csv_rows
from kpod.data.findings import Finding, Row
from kpod.data.lines import GZIP, UnreadableFileError, text_lines
from kpod.records.errors import DataError

if TYPE_CHECKING:
    from pyarrow import RecordBatch

_BLANK = " \t\r\n"
"""JSON's whitespace."""
_JSON = json.JSONDecoder(strict=False)
"""Control characters within texts are checked per cell."""
_UNREADABLE = "\udcff"
"""Stands for a Parquet text that is not UTF-8."""
_TORN = "; this last line has no line break, so it is probably incomplete: delete it"


def rows_of(path: Path) -> Iterator[Row | Finding]:
    """The rows of a file in their order; the suffix tells the format.

    Raises:
        DataError: If there is no such file, or its suffix is none of SUFFIXES.
    """
    read = SUFFIXES.get(suffix_of(path))
    if read is None:
        raise DataError(f"{path}: a data file must end in {SUFFIX_NAMES}")
    if not path.is_file():
        raise DataError(f"{path}: no such file (looked from the folder {Path.cwd()})")
    return read(path)


def suffix_of(path: Path) -> str:
    """What tells a file's format, in lower case.

    Example:
        >>> suffix_of(Path("train.v2.JSONL")), suffix_of(Path("train.jsonl.gz"))
        ('.jsonl', '.jsonl.gz')
    """
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + suffix if suffix == GZIP else suffix


def _jsonl_rows(path: Path) -> Iterator[Row | Finding]:
    try:
        for line, text in enumerate(text_lines(path), start=1):
            start = text.strip(_BLANK)
            if line == 1 and (start.startswith("[") or start == "{"):  # an array or long object under another name
                yield from _json_rows(path)
                return
            yield from _jsonl_row(line, text)
    except UnreadableFileError as error:
        yield Finding(0, "", str(error))


def _jsonl_row(line: int, text: str) -> Iterator[Row | Finding]:
    try:
        if text.strip(_BLANK):
            yield Row(line, _json_object(text.strip(_BLANK)))
    except DataError as error:
        yield Finding(line, "", f"{error}{'' if text.endswith(chr(10)) else _TORN}")


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise _no_json(text, error) from None
    if not isinstance(value, dict):
        raise DataError(f"{text[:40]!r} is not a JSON object: write one JSON object per line")
    return value


def _no_json(text: str, error: Exception) -> DataError:
    if "\x00" in text:
        return DataError("NUL bytes, as after a crash: delete this line or restore the file")
    if isinstance(error, json.JSONDecodeError):
        return DataError(f"not valid JSON ({error.msg} at character {error.colno})")
    return DataError(
        f"JSON that cannot be read ({error})"
    )  # an integer of thousands of digits; brackets nested as deep


def _json_rows(path: Path) -> Iterator[Row | Finding]:
    """The rows of an array, of the one list of an object, or of JSONL under another name."""
    try:
        text = "".join(text_lines(path))
    except UnreadableFileError as error:
        yield Finding(0, "", str(error))
        return
    start = _next(text, 0)
    if text.startswith("[", start):
        yield from _array_rows(text, start)
    elif text.startswith("{", start):
        yield from _object_rows(text, start)
    elif text[start:]:
        yield Finding(1, "", f"{text[start : start + 40]!r} is neither a JSON array of rows nor a JSON object")


def _array_rows(text: str, start: int) -> Iterator[Row | Finding]:
    """One element after the other, so that the rows need not be held at once."""
    position, line, counted = _next(text, start + 1), 1, 0
    while not text.startswith("]", position):
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = _JSON.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            cut_off = "; the array has no end, so it is probably cut off" if text.rstrip(_BLANK)[-1:] != "]" else ""
            yield Finding(getattr(error, "lineno", line), "", f"{_no_json('', error)}{cut_off}; the rest was not read")
            return
        if isinstance(value, dict):
            yield Row(line, value)
        else:
            yield Finding(line, "", f"{str(value)[:40]!r} is not an object: write an array of JSON objects")
        position = _next(text, position)
        if text.startswith(",", position):
            position = _next(text, position + 1)
        elif not text.startswith("]", position):
            yield Finding(line, "", "no comma and no ] after this row; the rest was not read")
            return
    if _next(text, position + 1) < len(text):
        yield Finding(line, "", "text after the end of the array: delete it")


def _object_rows(text: str, start: int) -> Iterator[Row | Finding]:
    """The rows of JSONL, or of one object."""
    try:
        value, stop = _JSON.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        yield Finding(getattr(error, "lineno", 1), "", f"{_no_json('', error)}; the rest was not read")
        return
    if _next(text, stop) == len(text):
        yield from _rows_within(value)
    elif "\n" in text[start:stop]:
        yield Finding(1, "", "several objects over several lines: write an array of them, or one object per line")
    else:
        for line, raw in enumerate(text.split("\n"), start=1):
            yield from _jsonl_row(line, f"{raw}\n")


def _rows_within(value: dict[str, Any]) -> Iterator[Row | Finding]:
    """The rows of the one list of an object; the object itself where it is a row."""
    lists = {name: rows for name, rows in value.items() if _are_rows(rows)}
    if len(lists) == 1:
        yield from (Row(number, row) for number, row in enumerate(next(iter(lists.values())), start=1))
    elif lists:
        yield Finding(0, "", f"the object holds several lists of rows ({', '.join(lists)}): save only one of them")
    elif value and all(isinstance(cell, list | dict) for cell in value.values()) and not _is_chat(value):
        yield Finding(0, "", "the object holds columns, not rows: save an array of rows (pandas: orient='records')")
    else:
        yield Row(1, value)


def _are_rows(value: object) -> bool:
    rows = value if isinstance(value, list) else []
    return bool(rows) and all(isinstance(row, dict) and not _is_message(row) for row in rows)


def _is_chat(value: Mapping[str, Any]) -> bool:
    return any(isinstance(cell, list) and cell and all(map(_is_message, cell)) for cell in value.values())


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


def _next(text: str, position: int) -> int:
    """The first position from here on that is not blank."""
    while text[position : position + 1] and text[position] in _BLANK:
        position += 1
    return position


def _parquet_rows(path: Path) -> Iterator[Row | Finding]:
    from pyarrow import ArrowException  # half a second that `import kpod` need not wait for
    from pyarrow.parquet import ParquetFile

    line = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches():
                for values in _values_of(batch):
                    line += 1
                    yield Row(line, values)
    except (ArrowException, OSError) as error:
        yield Finding(line + 1, "", f"not a valid Parquet file ({error}): write the file again")


def _values_of(batch: "RecordBatch") -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except UnicodeDecodeError:  # a text of one row is not UTF-8
        columns = {
            name: [_cell_of(cell) for cell in column] for name, column in zip(batch.schema.names, batch, strict=True)
        }
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return rows


def _cell_of(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return _UNREADABLE


_FORMATS: Mapping[str, Callable[[Path], Iterator[Row | Finding]]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": csv_rows,
    ".ndjson": _jsonl_rows,
    ".tsv": csv_rows,
}
SUFFIXES: Mapping[str, Callable[[Path], Iterator[Row | Finding]]] = {
    **_FORMATS,
    ".parquet": _parquet_rows,
    **{f"{suffix}{GZIP}": read for suffix, read in _FORMATS.items()},
}
SUFFIX_NAMES = ".jsonl, .json, .csv, .tsv or .parquet"
"""The suffixes that a message lists; a text file may also be gzipped."""
