"""The part of the tokens' effects that is linear in their embeddings, solved exactly by ridge regression.

A few dozen observations tell that digits matter, not yet what each of them does in its context. Regularised least
squares finds the first reliably; the generator's network is then fitted to what it leaves.
"""

import math
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
) -> tuple[float, float]:
    """The penalty with the smallest error on rationales that are left out one by one; of equal ones the largest.

    Args:
        features: X of each rationale.
        falls: y of each rationale.
        penalties: To choose from, rising.

    Returns:
        The penalty, and the surety that there is anything to find: by how many standard errors a penalty predicts
        rationales that are left out better than one effect for all tokens does. -inf for fewer than two rationales.
    """
    if len(features) < 2:
        return penalties[-1], -math.inf
    errors = torch.stack([left_out_errors(features, falls, penalty) for penalty in penalties])
    gains = left_out_errors([x[:, :1] for x in features], falls, penalties[-1]) - errors
    surety = (gains.mean(dim=1) / (gains.std(dim=1) / math.sqrt(len(features))).clamp_min(1e-300)).max()
    summed = errors.sum(dim=1).tolist()
    best = min(zip(summed, penalties, strict=True), key=lambda found: (found[0], -found[1]))[1]
    return best, float(surety)


def left_out_errors(
    features: Sequence[Float[Tensor, "_ features"]], falls: Sequence[Float[Tensor, " _"]], penalty: float
) -> Float[Tensor, " rationales"]:
    """The mean squared error on each rationale where all others were learnt from.

    This is exact and takes one factorisation: with H = X (X^T X + P)^-1 X^T, the error on the rows g of a rationale
    that is left out is (I - H_gg)^-1 (y_g - X_g b). With a few folds it would depend on how they are drawn.
    """
    moments = _moments(features, falls)
    solved, factor = _solve(moments, penalty), torch.linalg.cholesky(_penalised(moments[0], penalty))
    x, y, sizes = torch.cat(list(features)), torch.cat(list(falls)), [len(rows) for rows in falls]
    halves = torch.split(torch.linalg.solve_triangular(factor, x.T, upper=False), sizes, dim=1)
    errors = []
    for half, left in zip(halves, torch.split(y - x @ solved, sizes), strict=True):
        without = torch.eye(len(left), dtype=left.dtype) - half.T @ half
        errors.append(torch.linalg.solve(without, left).square().mean())
    return torch.stack(errors)


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
