"""The ways to select what advances at a stage: one that uses what is special here, and three to compare with.

Each is handed the items and the cheapest of each cluster in the counts that reach the greatest bonus
(`kpod.schedule.counts`), and returns what it chooses, within the budget; whatever then still fits is added to it.
`ftgp` knows of the objective no more than any submodular function tells, as the paper's solver does.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from kpod.schedule.fill import WHOLE, choose_cores_anew, dearest_first, swap, swap_twice, top_up
from kpod.schedule.knapsack import Knapsack

Mask: TypeAlias = Bool[np.ndarray, " items"]
Selector: TypeAlias = Callable[[Knapsack, Mask, float], Mask]
"""From the items, the cheapest of each cluster and an upper bound of G to the items chosen."""

CLOSE_ENOUGH = 1e-4
"""Relative gap from which on a selection is no longer searched for improvements at random."""
EPSILON = 0.1
"""What FTGP may lose of its factor 1/2; its thresholds fall by a tenth from pass to pass."""


def count_prefix_fill(items: Knapsack, cheapest: Mask, bound: float) -> Mask:
    """The cheapest items in the best counts; then swaps, and for few items new choices, that use up the budget."""
    chosen = cheapest.copy()
    swap(items, chosen)
    swap_twice(items, chosen)
    top_up(items, chosen)
    if len(chosen) > WHOLE and items.value(chosen) >= (1 - CLOSE_ENOUGH) * bound:
        return chosen
    starts = [chosen, dearest_first(items)]
    for start in starts:
        choose_cores_anew(items, start)
        top_up(items, start)
    return max(starts, key=items.value)


def ftgp(items: Knapsack, cheapest: Mask, bound: float) -> Mask:  # noqa: ARG001 (every selector is handed both)
    """Thresholds that fall, and for each item the longest prefix that leaves room for it: the paper's kind of solver.

    A reconstruction from the guarantee of Li, Feldman, Kazemi and Karbasi (2022): pass over the items, add what fits
    and gains at least tau per cost, lower tau by a tenth, again; then try each item on top of the longest prefix of
    what was added. At least (1 - epsilon) / 2 of the optimum, in a number of evaluations linear in that of the items.

    The bound stands in for their estimate of the optimum, of which it is at most three times: the cheapest items
    reach all its bonus, and what fits, dearest first, half the budget.
    """
    file_order = np.argsort(items.index, kind="stable")
    chosen = np.zeros(len(items.cost), dtype=bool)
    counts, left, added = np.zeros(len(items.stops), dtype=np.int64), items.budget, []
    tau, last = bound / (2 * EPSILON**2 * max(items.budget, 1)), bound / (6 * max(items.budget, 1))
    while True:
        open_items = file_order[~chosen[file_order] & (items.cost[file_order] <= left)]
        if not len(open_items):
            break
        promising = open_items[_gain(items, open_items, counts) >= tau * items.cost[open_items]]
        for item in promising.tolist():
            cost, cluster = int(items.cost[item]), int(items.cluster[item])
            # Gains only fall while a pass goes on, so that no other item can have become worth its cost.
            if cost <= left and _gain(items, np.array([item]), counts)[0] >= tau * cost:
                chosen[item] = True
                counts[cluster] += 1
                left -= cost
                added.append(item)
        if tau <= last:
            break
        tau *= 1 - EPSILON
    return _augmented(items, np.array(added, dtype=np.int64))


def _gain(
    items: Knapsack, candidates: Int[np.ndarray, " candidates"], counts: Int[np.ndarray, " clusters"]
) -> Float[np.ndarray, " candidates"]:
    """What each candidate adds to G where so many of each cluster are chosen."""
    bonus = np.sqrt(counts + 1) - np.sqrt(counts)
    gain: Float[np.ndarray, " candidates"] = (
        items.cost[candidates] + items.diversity_weight * bonus[items.cluster[candidates]]
    )
    return gain


def _augmented(items: Knapsack, added: Int[np.ndarray, " added"]) -> Mask:
    """The best of all that was added and of each item on top of the longest prefix of it that leaves room."""
    spent = np.concatenate([[0], np.cumsum(items.cost[added])])
    counts = np.zeros((len(added) + 1, len(items.stops)), dtype=np.int64)
    np.add.at(counts, (np.arange(1, len(added) + 1), items.cluster[added]), 1)
    counts = np.cumsum(counts, axis=0)
    values = spent + items.diversity_weight * np.sqrt(counts).sum(axis=1)
    length = np.searchsorted(spent, items.budget - items.cost, side="right") - 1
    place = np.full(len(items.cost), len(added))
    place[added] = np.arange(len(added))
    held = counts[length, items.cluster]
    bonus = np.sqrt(held + 1) - np.sqrt(held)
    with_item = values[length] + np.where(place < length, 0, items.cost + items.diversity_weight * bonus)
    best = int(np.argmax(with_item))
    chosen = np.zeros(len(items.cost), dtype=bool)
    if len(added) and values[-1] >= with_item[best]:
        chosen[added] = True
        return chosen
    chosen[added[: length[best]]] = True
    chosen[best] = True
    return chosen


def density_greedy(items: Knapsack, cheapest: Mask, bound: float) -> Mask:  # noqa: ARG001
    """Whatever fits and gains most per cost, item by item.

    Inside a cluster that is the cheapest item first, so each item's gain is known beforehand; where one does not
    fit, the dearer ones of its cluster do not either.
    """
    order = np.argsort(-items.bonus_per_cost(), kind="stable")
    chosen = np.zeros(len(items.cost), dtype=bool)
    while len(order):
        rest = _take(items, chosen, order)
        order = rest[items.cluster[rest] != items.cluster[rest[0]]] if len(rest) else rest
    return chosen


def random_fill(items: Knapsack, cheapest: Mask, bound: float, seed: int = 0) -> Mask:  # noqa: ARG001
    """Whatever fits, in an order drawn by chance; the same order at every call with the same seed."""
    order = np.random.default_rng(seed).permutation(len(items.cost))
    chosen = np.zeros(len(items.cost), dtype=bool)
    while len(order):
        rest = _take(items, chosen, order)
        order = rest[items.cost[rest] <= items.left(chosen)]
    return chosen


def _take(items: Knapsack, chosen: Mask, order: Int[np.ndarray, " ordered"]) -> Int[np.ndarray, " rest"]:
    """Choose items in their order up to one that does not fit; returns it and what follows."""
    num_fitting = int(np.searchsorted(np.cumsum(items.cost[order]), items.left(chosen), side="right"))
    chosen[order[:num_fitting]] = True
    return order[num_fitting:]


SELECTORS: Mapping[str, Selector] = {
    "count_prefix_fill": count_prefix_fill,
    "ftgp": ftgp,
    "density_greedy": density_greedy,
    "random": random_fill,
}


def selector_of(name: str, seed: int) -> Selector:
    """One of SELECTORS by its name; the seed is that of the one that draws."""
    return partial(random_fill, seed=seed) if name == "random" else SELECTORS[name]
