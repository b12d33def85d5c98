"""Merge reasoning steps where a rationale has more than a schedule should tell apart."""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

from kpod.records import Span


def merge_shortest(steps: Sequence[Span], max_steps: int | None) -> list[Span]:
    """Join the two neighbours that are shortest together until at most `max_steps` are left.

    Takes a time of n log n in the number of steps.

    Args:
        steps: Steps as spans that tile a text; what is measured is their length in characters.
        max_steps: At least 1; None for no limit.

    Returns:
        Spans that tile the same text. Of equally short pairs the first is joined.

    Example:
        >>> merge_shortest([(0, 9), (9, 12), (12, 15), (15, 30)], max_steps=3)
        [(0, 9), (9, 15), (15, 30)]
    """
    num_joins = len(steps) - max_steps if max_steps is not None else 0
    if num_joins <= 0:
        return list(steps)
    # A step is known by where it stands in `steps`; -1 and len(steps) stand for the ends.
    previous, following = list(range(-1, len(steps) - 1)), list(range(1, len(steps) + 1))
    stops = [stop for _, stop in steps]
    pairs = [(other[1] - one[0], left) for left, (one, other) in enumerate(pairwise(steps))]
    heapify(pairs)
    while num_joins:
        length, left = heappop(pairs)
        right = following[left] if stops[left] >= 0 else len(steps)
        if right == len(steps) or stops[right] - steps[left][0] != length:
            continue  # one of the two has been joined since
        stops[left], stops[right] = stops[right], -1
        following[left] = after = following[right]
        if after < len(steps):
            previous[after] = left
            heappush(pairs, (stops[after] - steps[left][0], left))
        if (before := previous[left]) >= 0:
            heappush(pairs, (stops[left] - steps[before][0], before))
        num_joins -= 1
    return [(start, stop) for (start, _), stop in zip(steps, stops, strict=True) if stop >= 0]
