"""How many items of each cluster give the greatest bonus sum_k sqrt(n_k) that a budget can buy, with proof."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from kpod.schedule.knapsack import Knapsack

MAX_LISTED = 1_500_000
"""How many numbers a list of counts may hold, clusters times lines; a tenth of a second's work."""


def cheapest(items: Knapsack) -> tuple[Bool[np.ndarray, " items"], float]:
    """Take the cheapest items of each cluster, as many as give the greatest bonus; and bound the bonus of any set.

    Bonus per cost falls inside a cluster. So taking items in that order while they fit, and a fraction of the
    first that does not, is optimal where fractions are allowed (Dantzig). Whole counts m fall short of it by
    exactly rate * (budget left) + sum_k loss_k(m_k): `rate` is the bonus per cost of the item cut, and the losses
    are never negative. The best of all counts within a small shortfall is found; if it falls short by no more, it is
    the optimum, else the shortfall is raised, until there are too many to look at.

    Returns:
        The items taken, and the bound: their own bonus where it is proven to be the best.
    """
    bonus_per_cost = items.bonus_per_cost()
    order = np.argsort(-bonus_per_cost, kind="stable")
    num_fitting = int(np.searchsorted(np.cumsum(items.cost[order]), items.budget, side="right"))
    fitting = np.zeros(len(order), dtype=bool)
    fitting[order[:num_fitting]] = True
    rate, counts = bonus_per_cost[order[num_fitting]], items.counts(fitting)
    prices, losses = _prices_and_losses(items, counts, rate)
    shortfall_of_fitting = rate * items.left(fitting)
    relaxed = bound = np.sqrt(counts).sum() + shortfall_of_fitting
    for shortfall in shortfall_of_fitting * 4.0 ** np.arange(-9, 1):
        best = _best_within(prices, losses, items.budget, shortfall)
        if best is None:
            break
        counts, bonus = best, float(np.sqrt(best).sum())
        bound = max(bonus, relaxed - shortfall)
        if bound == bonus:
            break
    return items.rank <= counts[items.cluster], float(bound)


def _prices_and_losses(
    items: Knapsack, counts: Int[np.ndarray, " clusters"], rate: float
) -> tuple[list[Int[np.ndarray, " _"]], list[Float[np.ndarray, " _"]]]:
    """What the m cheapest items of each cluster cost, and how much bonus is lost by taking m, for every m."""
    prices = [np.concatenate([[0], np.cumsum(items.cost[span])]) for span in items.spans]
    merits = [np.sqrt(np.arange(len(price))) - rate * price for price in prices]
    return prices, [np.maximum(merit[count] - merit, 0) for merit, count in zip(merits, counts, strict=True)]


def _best_within(
    prices: Sequence[Int[np.ndarray, " _"]], losses: Sequence[Float[np.ndarray, " _"]], budget: int, shortfall: float
) -> Int[np.ndarray, " clusters"] | None:
    """The counts of greatest bonus that the budget pays, among all whose losses sum to no more than `shortfall`.

    Two halves of the clusters are listed apart. To each line of the one belongs the best of those lines of the other
    that what it leaves of the budget can pay: of lines sorted by cost, the best so far.

    Returns:
        One count per cluster; None if a half has too many lines.
    """
    middle = len(prices) // 2
    first = _counts_within(prices[:middle], losses[:middle], budget, shortfall)
    second = _counts_within(prices[middle:], losses[middle:], budget, shortfall)
    if first is None or second is None:
        return None
    (counts, cost), (others, costs) = first, second
    order = np.argsort(costs, kind="stable")
    bonus, bonuses = np.sqrt(counts).sum(axis=1), np.sqrt(others).sum(axis=1)[order]
    best_so_far = np.maximum.accumulate(bonuses)
    last = np.searchsorted(costs[order], budget - cost, side="right") - 1
    line = int(np.argmax(np.where(last >= 0, bonus + best_so_far[last], -np.inf)))
    other = order[np.argmax(bonuses[: last[line] + 1])]
    return np.concatenate([counts[line], others[other]])


def _counts_within(
    prices: Sequence[Int[np.ndarray, " _"]], losses: Sequence[Float[np.ndarray, " _"]], budget: int, shortfall: float
) -> tuple[Int[np.ndarray, "listed clusters"], Int[np.ndarray, " listed"]] | None:
    """List all counts that the budget pays and whose losses sum to no more than `shortfall`, and their cost.

    Returns:
        None if there are too many.
    """
    listed, cost, loss = np.zeros((1, 0), dtype=np.int64), np.zeros(1, dtype=np.int64), np.zeros(1)
    for price_of, loss_of in zip(prices, losses, strict=True):
        near = np.flatnonzero(loss_of <= shortfall)[::-1]  # most first: a tie goes to the earlier cluster
        if len(listed) * len(near) * len(prices) > MAX_LISTED:
            return None
        cost = np.add.outer(cost, price_of[near]).ravel()
        loss = np.add.outer(loss, loss_of[near]).ravel()
        listed = np.column_stack([np.repeat(listed, len(near), axis=0), np.tile(near, len(listed))])
        promising = (cost <= budget) & (loss <= shortfall)
        listed, cost, loss = listed[promising], cost[promising], loss[promising]
    return listed, cost
