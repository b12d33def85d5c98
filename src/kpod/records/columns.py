"""Rationales' numbers as columns of Arrow files: written batch by batch, mapped into memory, read a row at a time.

What grows with the number of rationales stands in such columns rather than in Python objects. The operating system
brings in what is read of a file, and takes it away where memory is short.
"""

import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import index as whole
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpod.records import TokenizedRationale
from kpod.records.errors import DataError

ROWS = 4096
"""Rows of a record batch: what is held of a file while it is written, or read from its start to its end."""
MOST_NUMBERS = 2**22
"""Tokens of a record batch, unless one row alone has more."""

_TOKENS = pa.schema(
    {
        "id": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "segment_stops": pa.list_(pa.int32()),
        "step_stops": pa.list_(pa.int32()),
        "char_spans": pa.list_(pa.int32()),
        "task": pa.string(),
        "group": pa.string(),
        "num_read": pa.int32(),
    }
)
_LISTS = ("token_ids", "segment_stops", "step_stops", "char_spans")

ByRow = Iterable[tuple[str, NDArray[np.float32]]]
Item = TypeVar("Item")


class Tokens(Sequence[TokenizedRationale]):
    """The tokenised rationales of a file; an item is a view on its row, a slice is another such sequence.

    Args:
        path: What `write_tokens` wrote.

    Raises:
        DataError: If it is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._rows = mapped_rows(path)
        self._numbers = range(len(self._rows))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> TokenizedRationale: ...

    @overload
    def __getitem__(self, index: slice) -> "Tokens": ...

    def __getitem__(self, index: int | slice) -> "TokenizedRationale | Tokens":
        if not isinstance(index, slice):
            return _view(self._rows[self._numbers[whole(index)]])
        part = Tokens.__new__(Tokens)
        part._rows, part._numbers = self._rows, self._numbers[index]
        return part

    def __iter__(self) -> Iterator[TokenizedRationale]:
        return map(_view, self._rows.passed(self._numbers))


class RowsById(Mapping[str, Item]):
    """What an Arrow file holds of every rationale, by its id; in one order, without an object for each.

    A kind of it says what a row becomes.

    Args:
        path: The file.

    Raises:
        DataError: If it is no Arrow file.
    """

    def __init__(self, path: Path) -> None:
        self._rows = mapped_rows(path)

    @staticmethod
    def item(row: Sequence[Any]) -> Item:
        """What a row becomes: its cells, the id first."""
        raise NotImplementedError

    @cached_property
    def _places(self) -> dict[str, int]:
        return {id_: place for place, id_ in enumerate(self)}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return self._rows.ids()

    def __contains__(self, id_: object) -> bool:
        return id_ in self._places

    def __getitem__(self, id_: str) -> Item:
        return self.item(self._rows[self._places[id_]])


class ById(RowsById[NDArray[np.float32]]):
    """Numbers of every rationale by its id, such as weights of its tokens; what `write_by_id` wrote.

    Example:
        >>> found = ById.of([("a", np.ones(2, dtype=np.float32)), ("b", np.zeros(1, dtype=np.float32))])
        >>> found["b"], list(found), len(found)
        (array([0.], dtype=float32), ['a', 'b'], 2)
    """

    @classmethod
    def of(cls, rows: ByRow) -> "ById":
        """Numbers that stand in no file."""
        found = cls.__new__(cls)
        found._rows = Rows(list(_number_batches(rows, "numbers")))
        return found

    @staticmethod
    def item(row: Sequence[Any]) -> NDArray[np.float32]:
        """The numbers."""
        numbers: NDArray[np.float32] = row[1]
        return numbers


def write_tokens(path: Path, tokens: Iterable[TokenizedRationale]) -> None:
    """Write tokenised rationales as they come, for `Tokens` to read; without `before_answer`."""
    write_batches(
        path,
        _TOKENS,
        (_token_batch(part) for part in parts(tokens, lambda one: len(one.token_ids), ROWS, MOST_NUMBERS)),
    )


def write_by_id(path: Path, name: str, rows: ByRow) -> None:
    """Write the numbers of every rationale as they come, under its id, for `ById` to read."""
    write_batches(path, _number_schema(name), _number_batches(rows, name))


class Rows(Sequence[list[Any]]):
    """The rows of record batches, found by their number: texts and arrays.

    Args:
        batches: One schema's.
        mapped: The file that they are read from, and its map.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch], mapped: tuple[Path, mmap.mmap] | None = None) -> None:
        self._batches, self._mapped = batches, mapped
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)]).tolist()
        self._columns = [[_cells(array) for array in batch.columns] for batch in batches]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process maps the file itself."""
        return (mapped_rows, (self._mapped[0],)) if self._mapped else (Rows, (self._batches,))

    def __getitem__(self, number: Any) -> Any:
        batch = bisect_right(self._starts, number) - 1
        return [cell(number - self._starts[batch]) for cell in self._columns[batch]]

    def ids(self) -> Iterator[str]:
        """The first column."""
        return chain.from_iterable(batch.column(0).to_pylist() for batch in self._batches)

    def passed(self, numbers: Iterable[int]) -> Iterator[list[Any]]:
        """Rows one after the other, with no more of the file in memory than a batch of it."""
        for count, number in enumerate(numbers, start=1):
            yield self[number]
            if count % ROWS == 0:
                self._let_go()
        self._let_go()

    def _let_go(self) -> None:
        """Take what was read out of this process's memory; it is read again where it is asked for again."""
        if self._mapped and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped[1].madvise(mmap.MADV_DONTNEED)


def mapped_rows(path: Path) -> Rows:
    """The rows of an Arrow file, which stays on the disk; raises DataError if it is no such file."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(mapped))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an Arrow file ({error}); delete its folder and run again") from None
    return Rows([reader.get_batch(number) for number in range(reader.num_record_batches)], (path, mapped))


def _cells(array: pa.Array) -> Callable[[int], Any]:
    """What gives the cell of a row: a slice of all numbers for a list, without a copy."""
    if not isinstance(array, pa.ListArray):
        return lambda number: array[number].as_py()
    stops, numbers = array.offsets.to_numpy(), array.values.to_numpy(zero_copy_only=True)
    return lambda number: numbers[stops[number] : stops[number + 1]]


def _view(row: Sequence[Any]) -> TokenizedRationale:
    id_, token_ids, segment_stops, step_stops, char_spans, task, group, num_read = row
    segments, steps = tuple(segment_stops.tolist()), tuple(step_stops.tolist())
    return TokenizedRationale(
        id_, token_ids, segments, steps, char_spans.reshape(-1, 2), task=task, group=group, num_read=num_read
    )


def _token_batch(tokens: Sequence[TokenizedRationale]) -> pa.RecordBatch:
    columns = [
        list_array([np.ravel(getattr(one, field.name)) for one in tokens], np.int32)
        if field.name in _LISTS
        else pa.array([getattr(one, field.name) for one in tokens], field.type)
        for field in _TOKENS
    ]
    return pa.record_batch(columns, schema=_TOKENS)


def _number_schema(name: str) -> pa.Schema:
    return pa.schema({"id": pa.string(), name: pa.list_(pa.float32())})


def _number_batches(rows: ByRow, name: str) -> Iterator[pa.RecordBatch]:
    for part in parts(rows, lambda row: len(row[1]), ROWS, MOST_NUMBERS):
        columns = [pa.array([id_ for id_, _ in part], pa.string()), list_array([row for _, row in part], np.float32)]
        yield pa.record_batch(columns, schema=_number_schema(name))


def list_array(rows: Sequence[NDArray[Any]], kind: type[np.number[Any]]) -> pa.ListArray:
    """A column of lists of numbers, one list for each row."""
    stops = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(stops), pa.array(np.concatenate(rows).astype(kind, copy=False)))


def parts(items: Iterable[Item], size: Callable[[Item], int], most: int, largest: int) -> Iterator[list[Item]]:
    """Items in their order, up to `most` together that are no larger than `largest`, unless one alone is.

    Example:
        >>> list(parts(["a", "bb", "ccc", "d"], len, most=2, largest=4))
        [['a', 'bb'], ['ccc', 'd']]
    """
    part: list[Item] = []
    total = 0
    for item in items:
        total += size(item)
        if part and (len(part) == most or total > largest):
            yield part
            part, total = [], size(item)
        part.append(item)
    if part:
        yield part


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write record batches of one schema as they come."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
