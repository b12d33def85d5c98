"""Random masks m (Eq. 4), prefixes (Eq. 5), and batches of rationales: all that is drawn while weights are learnt."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from kpod.lm.buckets import bucketed_order
from kpod.records import TokenizedRationale

LOWEST_KEPT_RATE = 0.1


def draw_prefixes(num_tokens: int, num_prefixes: int, rng: np.random.Generator) -> tuple[int, ...]:
    """K prefix lengths: the whole rationale, and shorter ones drawn uniformly, all different while there are enough."""
    lengths = np.arange(1, max(num_tokens, 2))
    others = rng.choice(lengths, num_prefixes - 1, replace=num_prefixes - 1 > len(lengths))
    return (num_tokens, *(int(length) for length in others))


def random_mask(num_tokens: int, rng: np.random.Generator) -> Bool[Tensor, " tokens"]:
    """A random mask at a kept rate drawn from 0.1 to 1."""
    return torch.from_numpy(rng.random(num_tokens) < rng.uniform(LOWEST_KEPT_RATE, 1))


def antithetic_masks(num_tokens: int, num_masks: int, rng: np.random.Generator) -> Bool[Tensor, "masks tokens"]:
    """Pairs of random masks: each at its own kept rate (0.1 to 0.9), its partner keeps exactly the other tokens."""
    rates = rng.uniform(LOWEST_KEPT_RATE, 1 - LOWEST_KEPT_RATE, size=(num_masks // 2, 1))
    keep = rng.random((num_masks // 2, num_tokens)) < rates
    return torch.from_numpy(np.concatenate([keep, ~keep]))


def draw_batches(
    tokens: Sequence[TokenizedRationale], size: int, rng: np.random.Generator
) -> Iterator[list[TokenizedRationale]]:
    """Endless batches of like length; every rationale once before any comes again."""
    lengths = [len(rationale.token_ids) for rationale in tokens]
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += bucketed_order(lengths, size, rng).tolist()
        yield [tokens[index] for index in queue[:size]]
        del queue[:size]
