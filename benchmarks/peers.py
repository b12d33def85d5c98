"""General packages for submodular selection on the schedule's problem: an optional extra, `pip install -e .[peers]`.

Both maximise sums of square roots of features. G is one: a feature of its own for each item, the square of its cost,
and a feature for each cluster, beta squared. apricot needs them as a matrix of N columns and more, hence few items.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, hstack

Peer: TypeAlias = Callable[[NDArray[np.float64], NDArray[np.int64], float, float], NDArray[np.int64]]
"""From costs in nats, clusters, budget in nats and beta to the items selected."""

LARGEST = {"apricot_lazy": 1000, "submodlib_lazy": 1_000_000}
"""More items are not asked of a package: apricot would take hours."""


def apricot_lazy(
    costs: NDArray[np.float64], clusters: NDArray[np.int64], budget: float, beta: float
) -> NDArray[np.int64]:
    """Lazy greedy by gain per cost."""
    from apricot import FeatureBasedSelection

    members = csr_array((np.full(len(costs), beta**2), (np.arange(len(costs)), clusters)))
    features = hstack([eye_array(len(costs)).multiply(costs[:, None] ** 2), members]).toarray()
    selector = FeatureBasedSelection(budget, concave_func="sqrt", optimizer="lazy")
    return np.asarray(selector.fit(features, sample_cost=costs).ranking, dtype=np.int64)


def submodlib_lazy(
    costs: NDArray[np.float64], clusters: NDArray[np.int64], budget: float, beta: float
) -> NDArray[np.int64]:
    """Lazy greedy by gain per cost, in C++; its Python class would rescale the features."""
    from submodlib_cpp import FeatureBased

    size, num_clusters = len(costs), int(clusters.max()) + 1
    features = [
        [(item, cost**2), (size + cluster, beta**2)]
        for item, (cost, cluster) in enumerate(zip(costs.tolist(), clusters.tolist(), strict=True))
    ]
    function = FeatureBased(size, FeatureBased.squareRoot, features, size + num_clusters, [1.0] * (size + num_clusters))
    found = function.maximize("LazyGreedy", budget, False, False, 0.1, False, False, costs.tolist(), True)
    return np.array([item for item, _ in found], dtype=np.int64)


def installed() -> Mapping[str, Peer]:
    """The peers that can be imported."""
    known: dict[str, tuple[str, Peer]] = {
        "apricot_lazy": ("apricot", apricot_lazy),
        "submodlib_lazy": ("submodlib_cpp", submodlib_lazy),
    }
    return {name: peer for name, (module, peer) in known.items() if find_spec(module)}
