"""The part of the tokens' effects that is linear in their embeddings, solved exactly: cross-validated ridge regression.

A few dozen observations tell that digits matter, not yet what each of them does in its context. Regularised least
squares finds the first reliably; the generator's network is then fitted to what it leaves.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

PENALTIES = tuple(float(value) for value in np.logspace(0, 4, 13))
"""Penalties to choose from, rising; for embeddings of about unit length and falls in nats."""
NUM_FOLDS = 5


def solve_ridge(
    features: Sequence[Float[Tensor, "_ features"]], falls: Sequence[Float[Tensor, " _"]], penalty: float
) -> Float[Tensor, " features"]:
    """argmin_b sum |X b - y|^2 + penalty |b_1..|^2; the first feature, the number of kept tokens, is not penalised.

    Args:
        features: X of each rationale, in float64.
        falls: y of each rationale, in nats.
        penalty: Above 0.

    Example:
        >>> x, y = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), torch.tensor([3.0, 1.0]).double()
        >>> solve_ridge([x], [y], penalty=2.0)  # the mean as it is, the difference halved
        tensor([2.0000, 0.5000], dtype=torch.float64)
    """
    return _solve(_moments(features, falls), penalty)


def choose_penalty(
    features: Sequence[Float[Tensor, "_ features"]],
    falls: Sequence[Float[Tensor, " _"]],
    rng: np.random.Generator,
    penalties: Sequence[float] = PENALTIES,
) -> float:
    """The penalty with the smallest held-out error; of equal ones the largest.

    Args:
        features: X of each rationale; a rationale is held out as a whole.
        falls: y of each rationale.
        rng: Draws the five folds.
        penalties: To choose from, rising.
    """
    num = len(features)
    if num < 2:
        return penalties[-1]
    folds = (rng.permutation(num) % min(NUM_FOLDS, num)).tolist()
    errors = dict.fromkeys(penalties, 0.0)
    for fold in set(folds):
        inside = [index for index in range(num) if folds[index] != fold]
        outside = [index for index in range(num) if folds[index] == fold]
        moments = _moments([features[index] for index in inside], [falls[index] for index in inside])
        for penalty in penalties:
            found = _solve(moments, penalty)
            for index in outside:
                errors[penalty] += float((features[index] @ found - falls[index]).square().mean())
    return min(reversed(penalties), key=errors.__getitem__)


def _moments(
    features: Sequence[Float[Tensor, "_ features"]], falls: Sequence[Float[Tensor, " _"]]
) -> tuple[Float[Tensor, "features features"], Float[Tensor, " features"]]:
    """X^T X and X^T y: all that least squares needs of its data."""
    x, y = torch.cat(list(features)), torch.cat(list(falls))
    return x.T @ x, x.T @ y


def _solve(moments: tuple[Tensor, Tensor], penalty: float) -> Float[Tensor, " features"]:
    gram, moment = moments
    ridge = torch.full_like(moment, penalty)
    ridge[0] = 1e-9  # nothing was observed where no mask keeps more tokens than another
    solved: Tensor = torch.linalg.solve(gram + ridge.diag(), moment)
    return solved
