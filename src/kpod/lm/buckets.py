"""Batches of like length, which hold little padding, and the one token budget of passes without a recipe key."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOKENS_PER_PASS = 4096
"""Tokens of all rows of a forward pass, padding included, unless one row alone has more.

It bounds the memory of every pass without gradients and of every pass of the weights' predictor. The batches of the
student's training have recipe keys of their own.
"""
POOL = 8
"""Batches that are drawn together and sorted by length; fewer pad more, more make batches less random."""


def batches_by_tokens(lengths: Sequence[int], tokens: int) -> list[NDArray[np.int64]]:
    """Batches of like length that hold at most so many tokens, padding included; longer examples are alone.

    Args:
        lengths: Tokens of every example.
        tokens: Longest length times number of examples, at most.

    Returns:
        Indices into `lengths`, each once, from the longest examples to the shortest.

    Example:
        >>> [batch.tolist() for batch in batches_by_tokens([5, 9, 4, 30, 4], tokens=18)]
        [[3], [1, 0], [2, 4]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        stop = start + max(1, tokens // lengths[order[start]])
        batches.append(order[start:stop])
        start = stop
    return batches


def cut_to_passes(lengths: Sequence[int], most: int | None = None) -> list[slice]:
    """Cut examples in their order into passes of at most `TOKENS_PER_PASS` tokens, padding included.

    Args:
        lengths: Tokens of every example. A longer example is alone.
        most: Examples in a pass, at most; None sets no limit.

    Returns:
        Slices that tile the examples.

    Example:
        >>> cut_to_passes([1000, 2000, 1500, 5000, 1])
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    slices, start, longest = [], 0, 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        num = index - start + 1
        if num > 1 and (num * longest > TOKENS_PER_PASS or (most is not None and num > most)):
            slices.append(slice(start, index))
            start, longest = index, length
    return [*slices, slice(start, len(lengths))] if lengths else []


def bucketed_order(lengths: Sequence[int], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """All examples in a random order that is cut into batches of like length.

    The examples are shuffled, cut into pools of 8 batches, sorted within each pool, and the batches shuffled. On
    rationales of two to five steps a batch of 8 is a quarter smaller than one of random lengths.

    Args:
        lengths: Tokens of every example.
        size: Examples per optimiser step, those of accumulated batches and other processes included.
        rng: Draws the order.

    Returns:
        Indices into `lengths`, each once, [examples]. Every `size` of them make a batch; only the last may be smaller.

    Example:
        >>> bucketed_order([5, 9, 5, 9, 5], 2, np.random.default_rng(0)).tolist()
        [3, 1, 2, 4, 0]
    """
    tokens = np.asarray(lengths)
    order = rng.permutation(len(tokens))
    batches = []
    for start in range(0, len(order), POOL * size):
        pool = order[start : start + POOL * size]
        pool = pool[np.argsort(-tokens[pool], kind="stable")]
        batches += [pool[first : first + size] for first in range(0, len(pool), size)]
    whole = len(order) // size
    turn = [*rng.permutation(whole), *range(whole, len(batches))]
    return np.concatenate([batches[index] for index in turn]) if batches else order
