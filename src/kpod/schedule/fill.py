"""Use up what a selection leaves of its budget: swaps for many items, all subsets for few.

Every function improves `chosen`, a mask over the items of a knapsack, in place, and never overspends.
"""

from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int

from kpod.schedule.knapsack import Knapsack

NUM_SWAPS = 100_000
"""How many swaps are paired with one another: their 10^10 pairs leave next to nothing of a budget."""
NUM_PAIRS = 64
"""How many of the best pairs are tried for one whose swaps do not share an item."""
CORE, WHOLE = 12, 14
"""How many items are chosen anew at a time by trying all 2^12 subsets; so many and no more are chosen all at once."""
NUM_CORES = 24
"""How many random cores are chosen anew, one after the other."""


def swap(items: Knapsack, chosen: Bool[np.ndarray, " items"]) -> None:
    """Make the one swap of a chosen item for another, of whatever cluster, that raises G most, if any does."""
    counts, left = items.counts(chosen), items.left(chosen)
    inside = np.flatnonzero(chosen)
    lost = (np.sqrt(counts) - np.sqrt(np.maximum(counts - 1, 0)))[items.cluster[inside]]
    best, give, take = 0.0, 0, 0
    for cluster, span in enumerate(items.spans):
        outside = span.start + np.flatnonzero(~chosen[span])
        # The dearest item of this cluster that each chosen one could make room for.
        position = np.searchsorted(items.cost[outside], items.cost[inside] + left, side="right") - 1
        can = np.flatnonzero(position >= 0)
        if not len(can):
            continue
        won = np.sqrt(counts[cluster] + 1) - np.sqrt(counts[cluster])
        bonus = np.where(items.cluster[inside[can]] == cluster, 0, won - lost[can])
        gain = items.cost[outside[position[can]]] - items.cost[inside[can]] + items.diversity_weight * bonus
        winner = np.argmax(gain)
        if gain[winner] > best:
            best, give, take = float(gain[winner]), inside[can[winner]], outside[position[can[winner]]]
    if best > 0:
        chosen[give], chosen[take] = False, True


def swap_twice(items: Knapsack, chosen: Bool[np.ndarray, " items"]) -> None:
    """Make the two swaps inside clusters that use up most of the budget left; they leave the bonus as it is."""
    give, take = _swaps_inside_clusters(items, chosen)
    change = items.cost[take] - items.cost[give]
    order = np.argsort(change, kind="stable")
    give, take, change = give[order], take[order], change[order]
    partner = np.searchsorted(change, items.left(chosen) - change, side="right") - 1
    total = np.where(partner >= 0, change + change[partner], 0)
    for first in np.argsort(-total, kind="stable")[:NUM_PAIRS]:
        pair = [first, partner[first]]
        if total[first] <= 0:
            return
        if len(set(give[pair])) == len(set(take[pair])) == 2:
            chosen[give[pair]], chosen[take[pair]] = False, True
            return


def _swaps_inside_clusters(
    items: Knapsack, chosen: Bool[np.ndarray, " items"]
) -> tuple[Int[np.ndarray, " swaps"], Int[np.ndarray, " swaps"]]:
    """Pair the dearest chosen with the cheapest other items of each cluster: these differ least, up or down."""
    reach = int(np.sqrt(NUM_SWAPS / len(items.stops)))
    give, take = [], []
    for span in items.spans:
        inside = span.start + np.flatnonzero(chosen[span])[-reach:]
        outside = span.start + np.flatnonzero(~chosen[span])[:reach]
        give.append(np.repeat(inside, len(outside)))
        take.append(np.tile(outside, len(inside)))
    return np.concatenate(give), np.concatenate(take)


def top_up(items: Knapsack, chosen: Bool[np.ndarray, " items"]) -> None:
    """Add what fits, cheapest first, until nothing more does."""
    outside = np.flatnonzero(~chosen)
    outside = outside[np.argsort(items.cost[outside], kind="stable")]
    chosen[outside[np.cumsum(items.cost[outside]) <= items.left(chosen)]] = True


def dearest_first(items: Knapsack) -> Bool[np.ndarray, " items"]:
    """Choose whatever still fits, the dearest first: a start for where a few items are most of the budget."""
    chosen, left = np.zeros(len(items.cost), dtype=bool), items.budget
    for item in np.argsort(-items.cost, kind="stable"):
        if items.cost[item] <= left:
            chosen[item] = True
            left -= int(items.cost[item])
    return chosen


def choose_cores_anew(items: Knapsack, chosen: Bool[np.ndarray, " items"]) -> None:
    """Choose the best subset of a few random items with the others left as they are, many times.

    With no more than WHOLE items, this finds the optimum.
    """
    rng = np.random.default_rng(0)
    size = len(chosen) if len(chosen) <= WHOLE else CORE
    for _ in range(NUM_CORES if size < len(chosen) else 1):
        core = _draw_core(chosen, size, rng)
        chosen[core] = False
        # Costs as float64, for speed: sums below 2^52 are exact.
        cost = _subsets(size) @ items.cost[core]
        fitting = np.flatnonzero(cost <= items.left(chosen))
        touched, cluster = np.unique(items.cluster[core], return_inverse=True)
        counts = _subsets(size)[fitting] @ np.eye(len(touched))[cluster]
        bonus = np.sqrt(items.counts(chosen)[touched] + counts).sum(axis=1)
        best = fitting[np.argmax(cost[fitting] + items.diversity_weight * bonus)]
        chosen[core] = _subsets(size)[best] == 1


def _draw_core(chosen: Bool[np.ndarray, " items"], size: int, rng: np.random.Generator) -> Int[np.ndarray, " size"]:
    """Random items, half of them chosen ones and half others as far as there are enough of each; rising."""
    inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    num_inside = min(len(inside), max(size // 2, size - len(outside)))
    drawn = [rng.choice(inside, num_inside, replace=False), rng.choice(outside, size - num_inside, replace=False)]
    return np.sort(np.concatenate(drawn))


@cache
def _subsets(size: int) -> Float[np.ndarray, "subsets size"]:
    """All subsets of `size` items, one a row, as 0 and 1."""
    return (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(np.float64)
