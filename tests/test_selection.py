"""The selection of a stage against brute force, its laws, and the traps that catch greedy selectors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from kpod.records.errors import ScheduleError
from kpod.schedule.counts import cheapest
from kpod.schedule.fill import WHOLE, swap, swap_twice, top_up
from kpod.schedule.knapsack import pack
from kpod.schedule.selection import select
from kpod.schedule.selectors import EPSILON, SELECTORS, ftgp
from tiers import tiered

LAWS = ("uniform", "lognormal", "exponential", "ties", "pareto")


def objective(costs, clusters, chosen, beta):
    """G(S), from its definition."""
    counts = {label: sum(clusters[i] == label for i in chosen) for label in set(clusters)}
    return sum(costs[i] for i in chosen) + beta * sum(math.sqrt(n) for n in counts.values())


def optimum(costs, clusters, budget, beta):
    """The greatest G of all 2^N sets that the budget pays."""
    subsets = np.arange(2 ** len(costs))[:, None] >> np.arange(len(costs)) & 1
    subsets = subsets[subsets @ costs <= budget]
    counts = subsets @ (clusters[:, None] == np.unique(clusters)).astype(int)
    return float((subsets @ costs + beta * np.sqrt(counts).sum(axis=1)).max())


def instance(law, size, seed, num_clusters=5, tick=2.0**-30):
    """Costs in ticks after one of five laws, and clusters of uneven size."""
    rng = np.random.default_rng(seed)
    nats = {
        "uniform": lambda: rng.uniform(0, 1.4, size),
        "lognormal": lambda: rng.lognormal(-0.57, 0.6, size),
        "exponential": lambda: rng.exponential(0.68, size),
        "ties": lambda: rng.integers(1, 8, size) / 5,
        "pareto": lambda: 0.01 + 0.1 * rng.pareto(1.1, size),
    }[law]()
    costs = rng.permutation(np.rint(nats * 5) if law == "ties" else np.rint(nats / tick)).astype(np.int64)
    share = np.arange(1, num_clusters + 1) ** 1.2
    return costs, rng.choice(num_clusters, size, p=share / share.sum()), 5.0 if law == "ties" else 1 / tick


@st.composite
def problems(draw, max_size=WHOLE):
    size = draw(st.integers(1, max_size))
    cost = draw(st.sampled_from([st.integers(0, 6), st.integers(0, 1000), st.integers(1, 2**40)]))
    costs = np.array(draw(st.lists(cost, min_size=size, max_size=size)), dtype=np.int64)
    clusters = np.array(draw(st.lists(st.integers(0, 4), min_size=size, max_size=size)), dtype=np.int64)
    budget = draw(st.integers(0, int(costs.sum()) + 1))
    return costs, clusters, budget, draw(st.sampled_from([0.0, 0.05, 1.0, 12.0])) * max(1.0, float(costs.mean()))


@settings(deadline=None, max_examples=60)
@given(problems())
def test_up_to_fourteen_items_are_selected_optimally(problem):
    assert select(*problem).value == pytest.approx(optimum(*problem), rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(problems(max_size=40))
def test_a_selection_is_affordable_maximal_and_worth_what_it_says(problem):
    costs, clusters, budget, beta = problem
    selection = select(*problem)
    chosen = selection.indices.tolist()
    left = budget - sum(costs[chosen].tolist())
    others = set(range(len(costs))) - set(chosen)
    assert chosen == sorted(set(chosen))
    assert left >= 0
    assert all(costs[i] > left for i in others)
    assert selection.value == pytest.approx(objective(costs, clusters, chosen, beta), rel=1e-12)
    assert selection.upper_bound >= selection.value


@settings(deadline=None, max_examples=40)
@given(problems(max_size=14))
def test_the_bound_holds_for_every_set(problem):
    assert select(*problem).upper_bound >= optimum(*problem) * (1 - 1e-12)


@settings(deadline=None, max_examples=40)
@given(problems())
def test_no_set_has_more_bonus_than_the_cheapest_items_in_their_proven_counts(problem):
    costs, clusters, budget, _ = problem
    items = pack(*problem)
    if items.cost.sum() <= budget:
        return
    chosen, bound = cheapest(items)
    subsets = np.arange(2 ** len(costs))[:, None] >> np.arange(len(costs)) & 1
    counts = subsets[subsets @ costs <= budget] @ (clusters[:, None] == np.arange(5)).astype(int)
    assert bound == pytest.approx(np.sqrt(counts).sum(axis=1).max(), rel=1e-12)
    assert np.sqrt(items.counts(chosen)).sum() == pytest.approx(bound, rel=1e-12)
    assert items.left(chosen) >= 0


@pytest.mark.parametrize("first", tiered(range(4), [1, 2, 3]))  # every fourth: of each law, size and share
def test_600_instances_of_8_to_14_items_are_solved_exactly(first: int):
    for number in range(first, 600, 4):
        costs, clusters, nat = instance(LAWS[number % 5], 8 + number % 7, seed=number)
        beta, share = (0.05, 1.0, 12.0)[number % 3], (0.1, 0.3, 0.6)[number // 3 % 3]
        problem = (costs, clusters, int(costs.sum() * share), beta * nat)
        assert select(*problem).value == pytest.approx(optimum(*problem), rel=1e-9), number


def exact(costs, clusters, budget, beta):
    """The greatest G by integer programming: each cluster's square root as its increments, which fall."""
    size, labels = len(costs), np.unique(clusters)
    increments = [
        np.sqrt(np.arange(1, n + 1)) - np.sqrt(np.arange(n)) for n in (clusters == labels[:, None]).sum(axis=1)
    ]
    counted = np.zeros((len(labels), size + sum(map(len, increments))))
    counted[:, :size] = clusters == labels[:, None]
    stop = size
    for row, steps in zip(counted, increments, strict=True):
        row[stop : stop + len(steps)] = -1
        stop += len(steps)
    paid = np.concatenate([costs, np.zeros(stop - size)])
    found = milp(
        -np.concatenate([costs, *(beta * steps for steps in increments)]),
        constraints=[LinearConstraint(counted, 0, 0), LinearConstraint(paid[None], 0, budget)],
        integrality=np.arange(stop) < size,
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    assert found.success
    return -found.fun


@pytest.mark.parametrize("law", tiered(LAWS, ["uniform", "exponential", "lognormal"]))
def test_among_sixty_items_little_is_missing_to_the_optimum_of_an_integer_program(law):
    ratios = []
    for seed in range(3):
        costs, clusters, _ = instance(law, 60, seed, tick=2.0**-10)
        nat = 5.0 if law == "ties" else 2.0**10
        for beta, share in ((0.05, 0.15), (1.0, 0.4), (12.0, 0.05), (12.0, 0.4)):
            problem = (costs, clusters, int(costs.sum() * share), beta * nat)
            best, found = exact(*problem), select(*problem)
            assert found.value <= best * (1 + 1e-9)
            assert found.upper_bound >= best * (1 - 1e-9)
            ratios.append(found.value / best)
    assert min(ratios) > 0.997
    assert np.mean(ratios) > 0.9996


@pytest.mark.parametrize(("size", "gap"), [(1000, 1e-4), (7473, 2e-6)])
@pytest.mark.parametrize("law", LAWS)
def test_many_items_come_within_the_promised_gap_of_the_bound(law, size, gap):
    costs, clusters, nat = instance(law, size, seed=1)
    for beta, share in ((1.0, 0.02), (12.0, 0.1)):
        selection = select(costs, clusters, int(costs.sum() * share), beta * nat)
        assert selection.upper_bound - selection.value <= gap * selection.upper_bound


@pytest.mark.parametrize("filler", [swap, swap_twice, top_up])
@pytest.mark.parametrize("law", LAWS)
def test_no_filler_overspends_or_makes_a_selection_worse(law, filler):
    costs, clusters, nat = instance(law, 60, seed=3)
    items = pack(costs, clusters, int(costs.sum() * 0.2), nat)
    chosen, _ = cheapest(items)
    before = items.value(chosen)
    filler(items, chosen)
    assert items.left(chosen) >= 0
    assert items.value(chosen) >= before


def test_two_swaps_use_up_what_one_cannot():
    # The cheapest two of each cluster leave 3 of the budget; only 10 -> 11 with 20 -> 22 makes it up.
    items = pack(np.array([9, 10, 11, 19, 20, 22]), np.array([0, 0, 0, 1, 1, 1]), 61, 1000.0)
    chosen = np.array([True, True, False, True, True, False])
    swap_twice(items, chosen)
    assert items.left(chosen) == 0
    assert items.counts(chosen).tolist() == [2, 2]


# --- traps that cost greedy selectors most of the value (ratio 0.006 and 0.5) ---


def test_a_tiny_item_does_not_displace_one_that_fills_the_budget():
    assert select(np.array([1, 1000]), np.array([0, 1]), 1000, 0.5).indices.tolist() == [1]


def test_a_tiny_item_does_not_displace_the_second_half_of_the_budget():
    assert select(np.array([1, 500, 500]), np.array([0, 1, 2]), 1000, 0.5).indices.tolist() == [1, 2]


def test_sixteen_small_items_beat_one_large_where_diversity_counts():
    costs = np.array([16] + [1] * 16)
    assert select(costs, np.arange(17) % 5, 16, 12.0).indices.tolist() == list(range(1, 17))


def test_a_tiny_item_does_not_displace_the_large_one_among_many():
    costs = np.array([*range(1, 31), 10_000])
    selection = select(costs, np.arange(31) % 4, 10_000, 0.01)
    assert 30 in selection.indices


# --- the selectors to compare with ---


OTHERS = sorted(set(SELECTORS) - {"count_prefix_fill"})


@pytest.mark.parametrize("name", OTHERS)
@settings(deadline=None, max_examples=40)
@given(problems(max_size=40))
def test_every_selector_is_affordable_maximal_and_under_the_same_bound(name, problem):
    costs, clusters, budget, beta = problem
    selection = select(*problem, selector=SELECTORS[name])
    chosen = selection.indices.tolist()
    left = budget - sum(costs[chosen].tolist())
    assert chosen == sorted(set(chosen))
    assert left >= 0
    assert all(costs[i] > left for i in set(range(len(costs))) - set(chosen))
    assert selection.value == pytest.approx(objective(costs, clusters, chosen, beta), rel=1e-12)
    assert selection.upper_bound == pytest.approx(select(*problem).upper_bound, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(problems(max_size=14))
def test_ftgp_keeps_its_guarantee(problem):
    assert select(*problem, selector=ftgp).value >= (1 - EPSILON) / 2 * optimum(*problem) * (1 - 1e-12)


def test_a_tiny_item_costs_ftgp_half_of_the_value():
    """The instance that shows its factor to be tight: {1, 500} is worth 502, {500, 500} 1001."""
    found = select(np.array([1, 500, 500]), np.array([0, 1, 2]), 1000, 0.5, selector=ftgp)
    assert found.value == pytest.approx(502.0)


@pytest.mark.parametrize("law", LAWS)
def test_the_default_is_never_below_the_others(law):
    for size in (15, 40, 120, 400):
        costs, clusters, nat = instance(law, size, seed=size)
        for beta, share in ((0.05, 0.3), (1.0, 0.1), (12.0, 0.05)):
            problem = (costs, clusters, int(costs.sum() * share), beta * nat)
            best = max(select(*problem, selector=SELECTORS[name]).value for name in OTHERS)
            assert select(*problem).value >= best * (1 - 1e-12)


# --- edge cases ---


def test_no_items_make_an_empty_selection():
    selection = select(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 5, 1.0)
    assert selection.indices.tolist() == []
    assert (selection.value, selection.upper_bound) == (0.0, 0.0)


@pytest.mark.parametrize("budget", [0, 4])
def test_a_budget_below_every_cost_selects_nothing(budget):
    assert select(np.array([5, 7]), np.array([0, 1]), budget, 1.0).indices.tolist() == []


def test_items_without_cost_are_always_selected():
    for beta in (0.0, 1.0):
        costs = np.array([0, 9, 0, 8, 7, 0] * 5)
        chosen = select(costs, np.arange(30) % 3, 20, beta).indices
        assert set(np.flatnonzero(costs == 0)) <= set(chosen)
    assert select(np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64), 0, 1.0).indices.tolist() == [0, 1, 2, 3]


def test_of_equal_items_those_first_in_order_are_selected():
    assert select(np.full(6, 10), np.zeros(6, dtype=np.int64), 35, 1.0).indices.tolist() == [0, 1, 2]
    assert select(np.full(4, 10), np.array([0, 0, 1, 1]), 20, 1.0).indices.tolist() == [0, 2]


def test_without_diversity_the_budget_is_what_counts():
    costs = np.array([7, 11, 13, 17, 19, 23, 29, 31])
    assert costs[select(costs, np.zeros(8, dtype=np.int64), 100, 0.0).indices].sum() == 100


def test_a_budget_that_no_sum_can_reach_does_not_loosen_the_bound():
    # All sums are multiples of 6, so of 40 only 36 can be used.
    selection = select(np.full(20, 6), np.arange(20) % 2, 40, 1.0)
    assert selection.value == selection.upper_bound == pytest.approx(36 + 2 * math.sqrt(3))


def test_as_many_clusters_as_items_are_selected_from():
    costs = np.arange(1, 61)
    selection = select(costs, np.arange(60), 300, 12.0)
    assert costs[selection.indices].sum() == 300
    assert selection.value >= 0.99 * selection.upper_bound


def test_one_item_is_selected_if_it_fits():
    assert select(np.array([3]), np.array([7]), 3, 0.0).indices.tolist() == [0]


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10_000), st.permutations(range(5)))
def test_the_names_of_clusters_and_the_order_of_items_do_not_matter(seed, names):
    costs, clusters, nat = instance("exponential", 50, seed)
    costs = costs * 64 + np.arange(50)  # no ties
    order = np.random.default_rng(seed).permutation(50)
    budget = int(costs.sum() * 0.2)
    expected = select(costs, clusters, budget, 64 * nat).indices
    assert select(costs, np.array(names)[clusters], budget, 64 * nat).indices.tolist() == expected.tolist()
    shuffled = select(costs[order], clusters[order], budget, 64 * nat).indices
    assert sorted(order[shuffled]) == expected.tolist()


@pytest.mark.parametrize(("cost", "budget", "beta"), [(-1, 5, 1.0), (1, -5, 1.0), (1, 5, -1.0)])
def test_negative_costs_budgets_and_weights_are_refused(cost, budget, beta):
    with pytest.raises(ScheduleError, match="must not be negative"):
        select(np.array([cost]), np.array([0]), budget, beta)
