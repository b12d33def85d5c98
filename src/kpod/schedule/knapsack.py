"""The problem that a stage poses: items with costs and clusters, a budget, and the objective G (Eq. 12)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from kpod.schedule.clusters import by_first_appearance


@dataclass(frozen=True, slots=True)
class Knapsack:
    """The items that a budget can pay one by one, sorted by cluster, then cost, then index.

    The order of items and of clusters follows from the costs, so neither renumbered clusters nor shuffled
    questions change what is selected, unless costs tie.

    Attributes:
        index: Where each item stood before sorting.
        cost: Costs in ticks, >= 0, rising inside a cluster.
        cluster: The cluster of each item, from 0, without a gap.
        stops: Where each cluster ends, exclusive.
        budget: R in ticks, rounded down to a multiple of the costs' common divisor: no sum can lie between.
        diversity_weight: beta in ticks.
    """

    index: NDArray[np.int64]
    cost: NDArray[np.int64]
    cluster: NDArray[np.int64]
    stops: NDArray[np.int64]
    budget: int
    diversity_weight: float

    @property
    def starts(self) -> Int[np.ndarray, " clusters"]:
        """Where each cluster begins."""
        return np.concatenate([[0], self.stops[:-1]])

    @property
    def spans(self) -> list[slice]:
        """The items of each cluster."""
        return [slice(start, stop) for start, stop in zip(self.starts, self.stops, strict=True)]

    @property
    def rank(self) -> Int[np.ndarray, " items"]:
        """The place of each item among those of its cluster, from 1, the cheapest first."""
        rank: NDArray[np.int64] = 1 + np.arange(len(self.cost)) - self.starts[self.cluster]
        return rank

    def bonus_per_cost(self) -> Float[np.ndarray, " items"]:
        """What each item adds to its cluster's square root when all cheaper ones are chosen, per tick; it falls."""
        rank = self.rank
        bonus = 1 / (np.sqrt(rank) + np.sqrt(rank - 1))  # sqrt(j) - sqrt(j - 1), without cancellation
        per_cost: NDArray[np.float64] = np.full(len(rank), np.inf)
        np.divide(bonus, self.cost, out=per_cost, where=self.cost > 0)
        return per_cost

    def counts(self, chosen: Bool[np.ndarray, " items"]) -> Int[np.ndarray, " clusters"]:
        """How many items of each cluster are chosen."""
        return np.bincount(self.cluster[chosen], minlength=len(self.stops))

    def left(self, chosen: Bool[np.ndarray, " items"]) -> int:
        """What the chosen items leave of the budget."""
        return self.budget - int(self.cost[chosen].sum())

    def value(self, chosen: Bool[np.ndarray, " items"]) -> float:
        """G of the chosen items: the sum of their costs, and beta times the square roots of their counts."""
        return float(self.cost[chosen].sum() + self.diversity_weight * np.sqrt(self.counts(chosen)).sum())


def pack(
    costs: Int[np.ndarray, " items"], clusters: Int[np.ndarray, " items"], budget: int, diversity_weight: float
) -> Knapsack:
    """Drop the items dearer than the budget and sort the others."""
    affordable = np.flatnonzero(costs <= budget)
    by_cost = affordable[np.argsort(costs[affordable], kind="stable")]
    labels = by_first_appearance(clusters[by_cost])
    by_cluster = np.argsort(
        labels.astype(np.min_scalar_type(labels.max(initial=0))), kind="stable"
    )  # few bits sort faster
    index = by_cost[by_cluster]
    cost = costs[index].astype(np.int64)
    divisor = int(np.gcd.reduce(cost)) or 1
    stops = np.cumsum(np.bincount(labels))
    return Knapsack(index, cost, labels[by_cluster], stops, budget - budget % divisor, diversity_weight)
