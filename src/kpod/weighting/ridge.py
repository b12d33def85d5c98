"""The part of the tokens' effects that is linear in their embeddings, solved exactly by ridge regression.

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
    penalties: Sequence[float] = PENALTIES,
) -> float:
    """The penalty with the smallest error on rationales that are left out one by one; of equal ones the largest.

    This is exact and takes one factorisation a penalty: with H = X (X^T X + P)^-1 X^T, the error on the rows g of a
    rationale that is left out is (I - H_gg)^-1 (y_g - X_g b). With a few folds the penalty would depend on their draw.

    Args:
        features: X of each rationale.
        falls: y of each rationale.
        penalties: To choose from, rising.
    """
    if len(features) < 2:
        return penalties[-1]
    moments, left_out = _moments(features, falls), []
    for penalty in penalties:
        solved, factor = _solve(moments, penalty), torch.linalg.cholesky(_penalised(moments[0], penalty))
        error = 0.0
        for x, y in zip(features, falls, strict=True):
            half = torch.linalg.solve_triangular(factor, x.T, upper=False)
            kept = torch.eye(len(y), dtype=y.dtype) - half.T @ half
            error += float(torch.linalg.solve(kept, y - x @ solved).square().mean())
        left_out.append(error)
    return min(zip(left_out, penalties, strict=True), key=lambda found: (found[0], -found[1]))[1]


def _moments(
    features: Sequence[Float[Tensor, "_ features"]], falls: Sequence[Float[Tensor, " _"]]
) -> tuple[Float[Tensor, "features features"], Float[Tensor, " features"]]:
    """X^T X and X^T y: all that least squares needs of its data."""
    x, y = torch.cat(list(features)), torch.cat(list(falls))
    return x.T @ x, x.T @ y


def _solve(moments: tuple[Tensor, Tensor], penalty: float) -> Float[Tensor, " features"]:
    gram, moment = moments
    solved: Tensor = torch.linalg.solve(_penalised(gram, penalty), moment)
    return solved


def _penalised(gram: Float[Tensor, "features features"], penalty: float) -> Float[Tensor, "features features"]:
    ridge = gram.new_full(gram.shape[:1], penalty)
    ridge[0] = 1e-9  # nothing was observed where no mask keeps more tokens than another
    return gram + ridge.diag()
