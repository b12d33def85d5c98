from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kpod.lm.buckets import POOL, TOKENS_PER_PASS, batches_by_tokens, bucketed_order, cut_to_passes

LENGTHS = st.lists(st.integers(1, 500), max_size=200)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 99))
def test_every_example_comes_once_and_the_seed_decides_the_order(lengths: list[int], size: int, seed: int):
    order = bucketed_order(lengths, size, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert order.tolist() == bucketed_order(lengths, size, np.random.default_rng(seed)).tolist()


@given(st.lists(st.integers(1, 500), max_size=72), st.integers(9, 20))
def test_within_one_pool_the_batches_part_the_sorted_lengths(lengths: list[int], size: int):
    assert len(lengths) <= POOL * size
    order = bucketed_order(lengths, size, np.random.default_rng(0))
    batches = [[lengths[i] for i in order[start : start + size]] for start in range(0, len(order), size)]
    longest_first = sorted(batches, key=max, reverse=True)
    assert [length for batch in longest_first for length in sorted(batch, reverse=True)] == sorted(lengths)[::-1]


def test_padding_falls_and_the_batches_still_come_in_random_order():
    rng = np.random.default_rng(0)
    lengths = rng.integers(60, 190, 400)

    def longest(order: np.ndarray) -> np.ndarray:
        return lengths[order].reshape(-1, 8).max(axis=1)

    bucketed = longest(bucketed_order(lengths.tolist(), 8, rng))
    assert bucketed.sum() < 0.8 * longest(rng.permutation(400)).sum()
    assert abs(np.corrcoef(bucketed, np.arange(50))[0, 1]) < 0.3
    assert not np.array_equal(np.sort(bucketed)[::-1], bucketed)


@given(st.lists(st.integers(1, 500), max_size=100), st.integers(1, 2000))
def test_batches_by_tokens_hold_every_example_once_and_no_more_tokens_than_allowed(lengths: list[int], tokens: int):
    batches = batches_by_tokens(lengths, tokens)
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= tokens
    for one, following in pairwise(batches):  # none could take the next one's first
        assert lengths[one[0]] * (len(one) + 1) > tokens or lengths[one[0]] > tokens
        assert lengths[one[-1]] >= lengths[following[0]]


@given(st.lists(st.integers(1, 6000), max_size=60), st.none() | st.integers(1, 9))
def test_passes_tile_the_examples_and_hold_the_budget_or_one(lengths: list[int], most: int | None):
    parts = cut_to_passes(lengths, most)
    assert [length for part in parts for length in lengths[part]] == lengths
    for part in parts:
        held = lengths[part]
        assert len(held) == 1 or len(held) * max(held) <= TOKENS_PER_PASS
        assert len(held) <= (most or len(held))
    for one, after in pairwise(parts):  # none is cut without need
        together = lengths[one.start : after.start + 1]
        assert len(together) * max(together) > TOKENS_PER_PASS or len(together) > (most or len(together))
