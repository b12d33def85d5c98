"""Which questions advance: a submodular objective under a knapsack, solved almost exactly (Eq. 12-13).

Maximise G(S) = sum of S's costs + beta * sum_k sqrt(|C_k & S|), where the costs may add up to R. This is the
paper's F without its constant -R, which no choice of S moves. The paper's solver, FTGP, works for any submodular
function; the default here (`kpod.schedule.selectors`) uses what is special. The costs can add up to no more than R, so

    G(S) <= R + beta * (the greatest bonus that R can buy)

bounds every S. Among thousands of questions both terms are nearly reached together: the cheapest items of each
cluster, in the right counts, reach the bonus; swaps that keep the counts then use up R. The bound is returned with
each selection, so that its quality is known and not hoped for.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from kpod.records.errors import ScheduleError
from kpod.schedule.counts import cheapest
from kpod.schedule.fill import top_up
from kpod.schedule.knapsack import pack
from kpod.schedule.selectors import Selector, count_prefix_fill


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected items, and how good they are.

    Attributes:
        indices: The selected items, rising.
        value: G(S), in ticks.
        upper_bound: What no affordable set exceeds, in ticks; >= value.
    """

    indices: NDArray[np.int64]
    value: float
    upper_bound: float


def select(
    costs: Int[np.ndarray, " items"],
    clusters: Int[np.ndarray, " items"],
    budget: int,
    diversity_weight: float,
    selector: Selector = count_prefix_fill,
) -> Selection:
    """Choose the set of greatest value that a budget can pay (Eq. 13).

    Args:
        costs: What each item takes of the budget, in ticks, >= 0; below 2^52 in sum, so that sums are exact.
        clusters: The cluster of each item; any integers.
        budget: R in ticks, >= 0; never overspent.
        diversity_weight: beta in ticks, >= 0.
        selector: One of SELECTORS.

    Returns:
        A set to which no item can be added; items without cost are always in it. By default it is optimal for up to 14
        affordable items; in five clusters it is within 1e-4 of the bound from about 1000 items on, 1e-8 from 100 000.

    Raises:
        ScheduleError: If a cost, the budget or the weight is negative.

    Example:
        >>> select(np.array([1, 9, 5, 5]), np.array([0, 0, 1, 1]), budget=10, diversity_weight=2.0).indices
        array([0, 1])
    """
    if budget < 0 or diversity_weight < 0 or np.any(costs < 0):
        raise ScheduleError(f"costs, budget ({budget}) and diversity weight ({diversity_weight}) must not be negative")
    items = pack(costs, clusters, budget, diversity_weight)
    if items.cost.sum() <= budget:
        value = items.value(np.ones(len(items.cost), dtype=bool))
        return Selection(np.sort(items.index), value, value)
    start, bonus = cheapest(items)
    bound = items.budget + diversity_weight * bonus
    chosen = selector(items, start, bound)
    top_up(items, chosen)
    value = items.value(chosen)
    return Selection(np.sort(items.index[chosen]), value, max(value, bound))
