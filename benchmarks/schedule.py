"""The schedule against brute force, its own certificate, and other selectors: quality, budget tracking, seconds.

    python benchmarks/schedule.py [--json] [--sizes 1000,7473,100000,1000000]

Difficulties are synthetic: five cost laws for single selections; for whole schedules 2 to 9 steps a question with
log-normal difficulties of 0.68 nats on average, as GSM8K has. K = 5 clusters of uneven size. The peers
apricot-select and submodlib-py are measured beside where the extra `peers` is installed; at a million items on five
problems, once.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from peers import LARGEST, Peer, installed

from kpod import SELECTORS, Schedule, ScheduleConfig, make_schedule
from kpod.schedule.selection import Selector, select

NAT = 2.0**30
"""Ticks in a nat."""
LAWS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "uniform": lambda rng, size: rng.uniform(0, 1.4, size),
    "lognormal": lambda rng, size: rng.lognormal(-0.57, 0.6, size),
    "exponential": lambda rng, size: rng.exponential(0.68, size),
    "ties": lambda rng, size: rng.integers(1, 8, size) * (round(NAT / 5) / NAT),
    "pareto": lambda rng, size: 0.01 + 0.1 * rng.pareto(1.1, size),
}
Problem: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], int, float]
"""Costs in ticks, clusters, budget and beta in ticks."""
Solve: TypeAlias = Callable[[Problem], NDArray[np.int64]]
SETTINGS = ((1.0, 0.02), (1.0, 0.1), (12.0, 0.02), (12.0, 0.1))
"""beta in nats, and the budget as a share of all costs."""
NUM_SMALL = 600


def instance(law: str, size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Costs in ticks and clusters."""
    rng = np.random.default_rng([seed, size, sorted(LAWS).index(law)])
    costs = np.rint(LAWS[law](rng, size) * NAT).astype(np.int64)
    share = np.arange(1, 6) ** 1.2
    return costs, rng.choice(5, size, p=share / share.sum())


def optimum(costs: NDArray[np.int64], clusters: NDArray[np.int64], budget: int, beta: float) -> float:
    """The greatest G of all subsets that the budget pays."""
    subsets = np.arange(2 ** len(costs))[:, None] >> np.arange(len(costs)) & 1
    subsets = subsets[subsets @ costs <= budget]
    counts = subsets @ (clusters[:, None] == np.arange(5)).astype(np.int64)
    return float((subsets @ costs + beta * np.sqrt(counts).sum(axis=1)).max())


def small() -> dict[str, float]:
    """Every selector against brute force on N = 8 to 14: share solved exactly, worst and mean ratio."""
    ratios: dict[str, list[float]] = {name: [] for name in SELECTORS}
    for number in range(NUM_SMALL):
        law, size = sorted(LAWS)[number % 5], 8 + number % 7
        beta, share = (0.05, 1.0, 12.0)[number % 3], (0.1, 0.3, 0.6)[number // 3 % 3]
        costs, clusters = instance(law, size, number)
        problem = (costs, clusters, int(costs.sum() * share), beta * NAT)
        best = optimum(*problem)
        for name, selector in SELECTORS.items():
            value = select(*problem, selector=selector).value
            ratios[name].append(value / best if best else 1.0)
    found = {"exact_small": float(np.mean([r >= 1 - 1e-9 for r in ratios["count_prefix_fill"]]))}
    for name, values in ratios.items():
        found |= {f"small_{name}_min": min(values), f"small_{name}_mean": float(np.mean(values))}
    return found


def solvers(size: int) -> dict[str, Solve]:
    """The package's selectors, and the peers that are installed and cope with so many items."""

    def ours(problem: Problem, selector: Selector) -> NDArray[np.int64]:
        return select(*problem, selector=selector).indices

    def theirs(problem: Problem, peer: Peer) -> NDArray[np.int64]:
        costs, clusters, budget, beta = problem
        return peer(costs / NAT, clusters, budget / NAT, beta / NAT)

    found: dict[str, Solve] = {name: partial(ours, selector=selector) for name, selector in SELECTORS.items()}
    peers = {name: peer for name, peer in installed().items() if size <= LARGEST[name]}
    return found | {name: partial(theirs, peer=peer) for name, peer in peers.items()}


def worth(problem: Problem, indices: NDArray[np.int64]) -> float:
    """G of a selection, from its definition."""
    costs, clusters, _, beta = problem
    return float(costs[indices].sum() + beta * np.sqrt(np.bincount(clusters[indices])).sum())


def large(size: int) -> dict[str, float]:
    """Ratio to the certified bound over laws and settings, overspend, and seconds at the log-normal law."""
    problems: list[Problem] = []
    for law in sorted(LAWS):
        costs, clusters = instance(law, size, 0)
        problems += [(costs, clusters, int(costs.sum() * share), beta * NAT) for beta, share in SETTINGS]
    bounds = [select(*problem).upper_bound for problem in problems]
    costs, clusters = instance("lognormal", size, 0)
    timed: Problem = (costs, clusters, int(costs.sum() * 0.1), 12.0 * NAT)
    found: dict[str, float] = {}
    for name, solve in solvers(size).items():
        brief = size > 100_000 and name in LARGEST  # a peer takes minutes for all
        ratios, overspend, seconds = [], 0, []
        for problem, bound in list(zip(problems, bounds, strict=True))[:: len(SETTINGS) if brief else 1]:
            indices = solve(problem)
            ratios.append(worth(problem, indices) / bound)
            overspend = max(overspend, int(problem[0][indices].sum()) - problem[2])
        for _ in range(1 if brief else 5):
            start = time.perf_counter()
            solve(timed)
            seconds.append(time.perf_counter() - start)
        label = f"{name}_{size}"
        found |= {f"{label}_min": min(ratios), f"{label}_mean": float(np.mean(ratios))}
        found |= {f"{label}_s": statistics.median(seconds), f"{label}_overspend_nats": overspend / NAT}
        if name == "count_prefix_fill":
            found[f"gap_{size}_max"] = 1 - min(ratios)
            found[f"gap_{size}_median"] = 1 - statistics.median(ratios)
    return found


def gsm(size: int) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
    """Step difficulties in nats, and clusters."""
    rng = np.random.default_rng(size)
    num_steps = rng.integers(2, 10, size)
    steps = np.split(rng.lognormal(-0.57, 0.6, int(num_steps.sum())), np.cumsum(num_steps)[:-1])
    share = np.arange(1, 6) ** 1.2
    return steps, rng.choice(5, size, p=share / share.sum())


def planned(
    data: tuple[list[NDArray[np.float64]], NDArray[np.int64]], ramp_stages: int, **settings: str
) -> tuple[Schedule, float]:
    """A whole schedule, and the seconds it took."""
    steps, clusters = data
    ids = [str(number) for number in range(len(steps))]
    start = time.perf_counter()
    config = ScheduleConfig(ramp_stages=ramp_stages, **settings)  # type: ignore[arg-type]
    return make_schedule(ids, steps, clusters, config, 2 * ramp_stages), time.perf_counter() - start


def gaps(schedule: Schedule) -> list[float]:
    """(D(t) - sum of h) / B at every stage."""
    total = schedule.stages[-1].budget
    return [(record.budget - record.remaining_difficulty) / total for record in schedule.stages]


def tracking(size: int = 7473) -> dict[str, float]:
    """How closely the schedule follows D(t) for T = 1 to 50; and how far questions jump at T = 10, by pace."""
    data = gsm(size)
    before, at_end = [], []
    for ramp_stages in range(1, 51):
        schedule, _ = planned(data, ramp_stages)
        *ramp, last = gaps(schedule)
        before.append(max(ramp))
        at_end.append(last)
    found = {"tracking_max": max(before), "tracking_T": max(at_end)}
    for pace in ("deadline", "rounds", "literal"):
        schedule, seconds = planned(data, 10, pace=pace)
        jumps = -np.diff(schedule.input_steps, axis=0)[1:]
        found[f"jumps_of_3_{pace}"] = float((jumps.max(axis=0) >= 3).sum())
        found[f"largest_jump_{pace}"] = float(jumps.max())
        found[f"gap_before_T_{pace}"] = max(gaps(schedule)[:-1])
        found[f"schedule_{size}_{pace}_s"] = seconds
    return found


def alone(program: str) -> list[float]:
    """The numbers that a program prints in a process of its own, whose memory is all its."""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return list(map(float, done.stdout.split()))


def planning(size: int = 1_000_000) -> dict[str, float]:
    """Seconds and gigabytes of a whole schedule, the difficulties included."""
    seconds, gigabytes = alone(f"""
import resource
from schedule import gsm, planned
print(planned(gsm({size}), 10)[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
""")
    return {"schedule_1e6_alone_s": seconds, "schedule_1e6_gb": gigabytes}


def clustering(size: int = 1_000_000, features: int = 576) -> dict[str, float]:
    """Seconds and gigabytes of K-means on so many embeddings."""
    seconds, gigabytes = alone(f"""
import resource, time
import numpy as np
from kpod.schedule.clusters import cluster_embeddings
embeddings = np.random.default_rng(0).standard_normal(({size}, {features}), dtype=np.float32)
start = time.perf_counter()
cluster_embeddings(embeddings, 5, 0)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
""")
    return {"kmeans_1e6_s": seconds, "kmeans_1e6_gb": gigabytes, "embeddings_1e6_gb": size * features * 4 / 2**30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", default="1000,7473,100000,1000000")
    options = parser.parse_args()
    figures = small() | tracking()
    for size in map(int, options.sizes.split(",")):
        figures |= large(size)
        exponent = f"1e{len(str(size)) - 1}" if str(size).strip("0") == "1" else str(size)
        if exponent != str(size):
            figures[f"gap_{exponent}_max"] = figures[f"gap_{size}_max"]
        _, figures[f"schedule_{exponent}_s"] = planned(gsm(size), 10)
    figures |= planning() | clustering()
    print(
        json.dumps(figures) if options.json else "\n".join(f"{name:40} {value:.6g}" for name, value in figures.items())
    )


if __name__ == "__main__":
    main()
