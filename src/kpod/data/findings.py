"""What comes out of a data file: its rows, and what is found wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


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
        dropped: The reason under which the row is left out, as in `Dropped`; None where it is not.
    """

    line: int
    id: str
    message: str
    severity: Literal["error", "warning"] = "error"
    dropped: str | None = None
