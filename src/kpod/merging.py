"""Merge reasoning steps where a rationale has more than a schedule should tell apart."""

from collections.abc import Sequence

from kpod.records import Span


def merge_shortest(steps: Sequence[Span], max_steps: int | None) -> list[Span]:
    """Join the two neighbours that are shortest together until at most `max_steps` are left.

    Args:
        steps: Steps as spans that tile a text; what is measured is their length in characters.
        max_steps: At least 1; None for no limit.

    Returns:
        Spans that tile the same text. Of equally short pairs the first is joined.

    Example:
        >>> merge_shortest([(0, 9), (9, 12), (12, 15), (15, 30)], max_steps=3)
        [(0, 9), (9, 15), (15, 30)]
    """
    merged = list(steps)
    while max_steps is not None and len(merged) > max_steps:
        first = min(range(len(merged) - 1), key=lambda left: merged[left + 1][1] - merged[left][0])
        merged[first : first + 2] = [(merged[first][0], merged[first + 1][1])]
    return merged
