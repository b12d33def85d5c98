"""Random masks m (Eq. 4) and prefixes (Eq. 5)."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

LOWEST_KEPT_RATE = 0.1


def draw_prefixes(num_tokens: int, num_prefixes: int, rng: np.random.Generator) -> tuple[int, ...]:
    """K prefix lengths: the whole rationale, and others drawn uniformly (all different while there are enough)."""
    others = rng.choice(np.arange(1, num_tokens + 1), num_prefixes - 1, replace=num_prefixes > num_tokens)
    return (num_tokens, *(int(length) for length in others))


def random_masks(num_tokens: int, num_masks: int, rng: np.random.Generator) -> Bool[Tensor, "masks tokens"]:
    """Antithetic pairs of random masks: each at its own kept rate, its partner keeps exactly the other tokens."""
    rates = rng.uniform(LOWEST_KEPT_RATE, 1 - LOWEST_KEPT_RATE, size=(num_masks // 2, 1))
    keep = rng.random((num_masks // 2, num_tokens)) < rates
    return torch.from_numpy(np.concatenate([keep, ~keep]))
