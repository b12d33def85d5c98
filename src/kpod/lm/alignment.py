"""Find every token's characters: turn a tokenizer's offsets, which may have gaps, into spans that cover the text."""

import unicodedata
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from kpod.records import Span
from kpod.records.errors import DataError


def token_spans(offsets: Sequence[Span], text: str, name: str, border: int = 0) -> NDArray[np.int32]:
    """What `tiling_offsets` returns, as an array [tokens, 2]: all at once where every token has characters.

    Args:
        offsets: As for `tiling_offsets`, and so the others.
        text: What was tokenised.
        name: How an error calls the text.
        border: Where a prompt ends in the text.

    Raises:
        DataError: As `tiling_offsets`.
    """
    found = np.fromiter(chain.from_iterable(offsets), dtype=np.int32, count=2 * len(offsets)).reshape(-1, 2)
    starts, stops = found[:, 0], found[:, 1]
    before = np.zeros_like(stops)
    before[1:] = stops[:-1]
    rising = (starts < stops).all() and (starts[:-1] <= starts[1:]).all() and (before <= stops).all()
    gaps = np.flatnonzero(starts > before)
    between = zip(before[gaps].tolist(), starts[gaps].tolist(), strict=True)
    end = text[stops[-1] :] if len(stops) else "?"
    if not (rising and all(text[a:b].isspace() for a, b in between) and (not end or end.isspace())):
        return np.array(tiling_offsets(offsets, text, name, border), dtype=np.int32)
    if (before == stops).any():  # tokens of one character share its span
        before = before[np.maximum.accumulate(np.where(stops > before, np.arange(len(stops)), 0))]
    found[:, 0] = before
    return found


def tiling_offsets(offsets: Sequence[Span], text: str, name: str, border: int = 0) -> list[Span]:
    """Character spans of the tokens, closed up so that together they cover the text.

    Tokenizers leave the space before a word out of its span, or not; here it always belongs to the word. What a
    tokenizer drops or composes with the letter before it (combining marks, zero-width joiners, control characters)
    belongs to the token before. Several byte-level tokens of one character share its span, and a token of no character,
    such as the mark that starts a first word, shares the span of the next.

    Args:
        offsets: Start and stop (exclusive) of every token, in characters of `text`.
        text: What was tokenised.
        name: How an error calls the text.
        border: Where a prompt ends in the text. No token before it takes characters after it.

    Raises:
        DataError: If a span runs backwards, or characters that can be seen are in no span.

    Example:
        >>> tiling_offsets([(0, 3), (4, 5), (4, 5)], "Two é", "q1")
        [(0, 3), (3, 5), (3, 5)]
    """
    spans: list[Span] = []
    empty = last_start = reached = 0
    for start, stop in offsets:
        if not last_start <= start <= stop or stop < reached or not _left_out(text, reached, start):
            raise DataError(
                f"rationale {name!r}: the tokenizer's offsets {(start, stop)} do not follow character {reached}; "
                "use a tokenizer with correct offsets (fast tokenizers of some models return empty ones)"
            )
        last_start = start
        if stop == reached and start == stop:
            empty += 1
            continue
        if start > reached:
            reached = _give_to_last(spans, text, reached, start, border)
        spans += (1 + empty) * [(reached, stop) if stop > reached else spans[-1]]
        empty, reached = 0, max(reached, stop)
    if not spans or not _left_out(text, reached, len(text)):
        raise DataError(f"rationale {name!r}: the tokenizer's offsets miss its text after character {reached}")
    _give_to_last(spans, text, reached, len(text), border)
    return spans + empty * spans[-1:]


def _left_out(text: str, start: int, stop: int) -> bool:
    """Whether a tokenizer may leave these characters out: none can be seen, or they compose with the one before."""
    rest = "".join(char for char in text[start:stop] if not _is_invisible(char))
    if not rest or not start:
        return not rest
    letter = text[start - 1]
    return len(unicodedata.normalize("NFKC", letter + rest)) <= len(unicodedata.normalize("NFKC", letter))


def _is_invisible(char: str) -> bool:
    """Spaces, control and format characters, and marks, which stand on a letter."""
    return char.isspace() or unicodedata.category(char) in ("Cc", "Cf", "Mn", "Mc", "Me")


def _give_to_last(spans: list[Span], text: str, reached: int, start: int, border: int) -> int:
    """Lengthen the last token by the characters up to the next space, and return where it now stops."""
    stop = reached
    limit = min(start, border) if reached <= border else start
    while spans and stop < limit and not text[stop].isspace():
        stop += 1
    if stop > reached:
        for index in range(len(spans) - 1, -1, -1):
            if spans[index][1] != reached:
                break
            spans[index] = (spans[index][0], stop)
    return stop
