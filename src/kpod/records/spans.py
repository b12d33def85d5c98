"""Half-open ranges of characters or tokens that follow one another without a gap."""

from collections.abc import Sequence
from itertools import pairwise

from kpod.records.errors import DataError


def check_spans_tile(spans: Sequence[tuple[int, int]], length: int, what: str) -> None:
    """Raise DataError unless `spans` are non-empty, adjacent and cover 0 to `length` exactly."""
    edges = [0, *(stop for _, stop in spans)]
    starts = [start for start, _ in spans]
    if edges[:-1] != starts or edges[-1] != length or any(a >= b for a, b in pairwise(edges)):
        raise DataError(f"{what}: spans {list(spans)} do not tile a text of length {length}")
