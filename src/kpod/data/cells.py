"""What one cell of a data file may hold. Each function converts a cell, or raises DataError on why it cannot.

The messages go on after the column's name: `answer` + ` is empty`.
"""

import ast
import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from types import NoneType
from typing import Any

from kpod.records import WeightSpan
from kpod.records.errors import DataError


class UnusableError(DataError):
    """A row that is left out, while the rest of its file is read.

    Attributes:
        reason: As in `Dropped`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def text_cell(cell: object) -> str:
    """Text that is not blank, stripped, or a number as text.

    Example:
        >>> text_cell(" 3 apples"), text_cell(3), text_cell(3.0), text_cell(0.5)
        ('3 apples', '3', '3', '0.5')
    """
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return _number_text(cell)
    text = whole_text(cell).strip()
    if not text:
        raise DataError("is empty: fill it in or delete the row")
    return text


def answer_cell(cell: object) -> str:
    """A gold answer: text or a number, true or false as yes or no, or a list that holds one answer.

    Example:
        >>> answer_cell(True), answer_cell(["24"]), answer_cell(8.0)
        ('yes', '24', '8')
    """
    if isinstance(cell, list):
        if len(cell) != 1:
            raise DataError(f"is a list of {len(cell)}; wanted one answer")
        return answer_cell(cell[0])
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return text_cell(cell)


def letter_of(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the option that a gold answer names, by letter or by its whole text; None where it names none.

    Example:
        >>> [letter_of(answer, {"A": "red", "B": "blue"}) for answer in ("B", "(b)", "Blue", "green")]
        ['B', 'B', 'B', None]
    """
    if answer in choices:
        return answer
    letter, said = answer.strip("()[].: ").casefold(), _folded(answer)
    named = {key for key, text in choices.items() if key.casefold() == letter or _folded(text) == said}
    return named.pop() if len(named) == 1 else None


def id_cell(cell: object) -> str:
    """An id: text as it stands, or a whole number."""
    if isinstance(cell, float):
        raise DataError(f"is {cell}; ids are texts or whole numbers")
    text_cell(cell)
    return str(cell)


def flag_cell(cell: object) -> bool | None:
    """True or false, in a CSV as a word; None where it is left blank.

    Example:
        >>> flag_cell("False"), flag_cell(True), flag_cell("")
        (False, True, None)
    """
    if cell is None or isinstance(cell, bool):
        return cell
    found = {"true": True, "false": False, "": None}
    if not isinstance(cell, str) or cell.strip().casefold() not in found:
        raise DataError(f"is {cell!r}; wanted true or false")
    return found[cell.strip().casefold()]


def rationale_cell(cell: object) -> str:
    """A rationale as it stands; null is an empty one, as teachers leave them."""
    return "" if cell is None else whole_text(cell)


def choices_cell(cell: object) -> dict[str, str] | None:
    """Options as letter -> text; None where there are none.

    A letter whose text is null is left out: a Parquet struct has every letter in every row.

    Example:
        >>> choices_cell(["red", "blue"])
        {'A': 'red', 'B': 'blue'}
        >>> choices_cell({"label": ["A", "B"], "text": ["red", "blue"]})
        {'A': 'red', 'B': 'blue'}
        >>> choices_cell("['A) red', 'B) blue']")
        {'A': 'red', 'B': 'blue'}
    """
    value = _from_json(cell)
    if isinstance(value, Mapping) and set(value) == {"label", "text"} and isinstance(value["label"], Sequence):
        pairs = _lettered(value["label"], value["text"])
    elif isinstance(value, Mapping):
        pairs = [(letter, text) for letter, text in value.items() if text is not None]
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        pairs = [_labelled(item) for item in value]
    elif isinstance(value, list):
        pairs = _without_letters(_lettered(string.ascii_uppercase[: len(value)], value))
    else:
        raise DataError(f"is {_kind(value)}; wanted an object letter -> text or a list of texts")
    try:
        options = [(text_cell(letter), text_cell(text)) for letter, text in pairs]
        if len(dict(options)) < len(options):
            raise DataError("has the letter of another one")
        return dict(options) or None
    except UnusableError:
        raise
    except DataError as error:
        raise DataError(f"has an option that {error}") from None


def weights_cell(cell: object, rationale: str) -> tuple[WeightSpan, ...]:
    """Significance weights as spans of the stripped rationale; what covers stripped whitespace alone goes.

    Example:
        >>> weights_cell([[0, 4, 0.5], [4, 5, 1]], "  24.")
        ((0, 2, 0.5), (2, 3, 1.0))
    """
    value = _from_json(cell)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"is {_kind(value)}; wanted a list of [start, stop, weight]")
    spans = [_weight_span(item, len(rationale)) for item in value]
    for (_, stop, _), (start, after, _) in pairwise(spans):
        if start < stop:
            raise DataError(
                f"has the span [{start}, {after}) where the one before it only ends at {stop}: let them rise"
            )
    offset = len(rationale) - len(rationale.lstrip())
    length = len(rationale.strip())
    moved = [(max(start - offset, 0), min(stop - offset, length), weight) for start, stop, weight in spans]
    return tuple((start, stop, weight) for start, stop, weight in moved if start < stop)


def _weight_span(item: Any, length: int) -> WeightSpan:
    match item:
        case [int() | float() as start, int() | float() as stop, int() | float() as weight]:
            whole = start == int(start) and stop == int(stop)  # a Parquet list holds floats alone
            if whole and 0 <= start < stop <= length and 0 <= weight <= 1:
                return int(start), int(stop), float(weight)
    raise DataError(
        f"has {item!r}; wanted [start, stop, weight] with 0 <= start < stop <= {length}, the rationale's length, "
        "and a weight between 0 and 1"
    )


def _lettered(letters: Sequence[Any], texts: Any) -> list[tuple[Any, Any]]:
    if not isinstance(texts, Sequence) or isinstance(texts, str) or len(letters) != len(texts):
        raise DataError("does not have one text per letter (a plain list can have 26)")
    return list(zip(letters, texts, strict=True))


def _labelled(option: Mapping[str, Any]) -> tuple[Any, Any]:
    """An option as ARC and CommonsenseQA publish it."""
    if set(option) != {"label", "text"}:
        raise DataError(f"has an option with the keys {', '.join(map(str, option))}; wanted label and text")
    return option["label"], option["text"]


def _without_letters(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Options without the letters that stand before all of their texts, as in "A) red"."""
    found = [isinstance(text, str) and re.match(rf"\s*\(?{letter}[).:]\s*(?=\S)", text) for letter, text in pairs]
    if not all(found):
        return pairs
    return [(letter, text[match.end() :]) for (letter, text), match in zip(pairs, found, strict=True) if match]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _from_json(cell: object) -> Any:
    """A structured cell; CSV holds it as JSON text, or as pandas writes a list."""
    if not isinstance(cell, str):
        return cell
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = read(cell)
            if read is json.loads or isinstance(value, list | dict):
                return value
    raise DataError(f"is the text {cell[:40]!r}; as a text it must be JSON")


def whole_text(cell: object) -> str:
    """Text as it stands.

    Raises:
        DataError: If the cell holds something else.
        UnusableError: If the text holds half a character, as a broken file or answer leaves it, or a NUL.
    """
    if not isinstance(cell, str):
        raise DataError(f"is {_kind(cell)}; wanted text")
    if "\x00" in cell:
        raise UnusableError("NUL character", "holds a NUL character")
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        what = _broken(cell[error.start])
        raise UnusableError("broken character", f"holds {what} at {error.start}") from None
    return cell


def _broken(char: str) -> str:
    """What a lone surrogate stands for: one of a byte that is not UTF-8 begins with U+DC."""
    if not "\udc80" <= char <= "\udcff":
        return f"half a character ({char!r})"
    byte = ord(char) - 0xDC00
    letter = bytes([byte]).decode("latin-1")
    return f"the byte 0x{byte:X}, which is not UTF-8 ({letter!r} in Latin-1: save the file as UTF-8),"


def _kind(value: object) -> str:
    """What a value is called in JSON."""
    names = {
        NoneType: "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _number_text(number: int | float) -> str:
    if not math.isfinite(number):
        raise DataError(f"is {number}; wanted a finite number or text")
    return str(int(number)) if number == int(number) else repr(number)
