"""What keeping a token does to the answer's NLL, what it costs, and the weight that follows (Eq. 3, 5-7)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def keypoint_objective(
    answer_nll: Float[Tensor, "rows prefixes"], kept_rate: Float[Tensor, " rows"], alpha: float
) -> Float[Tensor, " rows"]:
    """L_k = L_p + alpha L_m (Eq. 5-7), both divided by n: the mean NLL over prefixes, plus alpha times the kept rate.

    Example:
        >>> keypoint_objective(torch.tensor([[1.0, 3.0]]), torch.tensor([0.5]), alpha=0.5)
        tensor([2.2500])
    """
    return answer_nll.mean(dim=1) + alpha * kept_rate


def effects_of(logits: Float[Tensor, " tokens"], alpha: float, temperature: float) -> Float[Tensor, " tokens"]:
    """phi_j, by how many nats keeping token j lowers the answer's NLL, for a generator's logits.

    Keeping a token pays where phi_j exceeds its price alpha / n in L_k (Eq. 7, divided by n). The weight
    w_j = sigmoid((phi_j n / alpha - 1) / temperature) is that decision, softened; this is its inverse.

    Example:
        >>> effects_of(torch.tensor([0.0, 2.0]), alpha=0.5, temperature=1.0)
        tensor([0.2500, 0.7500])
    """
    return (alpha / len(logits)) * (1 + temperature * logits)


def regression_loss(
    effects: Float[Tensor, " tokens"],
    keep: Bool[Tensor, "masks tokens"],
    prefixes: Sequence[int],
    answer_nll: Float[Tensor, "masks prefixes"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """How badly the effects explain the answer's NLL under random masks, and the variance there was to explain.

    For every prefix, the sum of the effects of its kept tokens should rise and fall against the NLL; both are taken
    about their mean over the masks, which removes how hard the question is.

    Returns:
        Mean squared error and mean square, both over masks and prefixes, in square nats.
    """
    ends = torch.tensor(prefixes, device=effects.device) - 1
    explained = (keep.to(effects) * effects).cumsum(dim=1)[:, ends]
    fall = answer_nll.mean(dim=0) - answer_nll
    return ((explained - explained.mean(dim=0)) - fall).square().mean(), fall.square().mean()
