"""Random masks m (Eq. 4), prefixes (Eq. 5), and batches of rationales: all that is drawn while weights are learnt."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from kpod.lm.buckets import bucketed_order
from kpod.records import TokenizedRationale

WARMUP_KEPT_RATES = (0.5, 1.0)
"""A predictor learns what an operator is for only where the numbers beside it are seen."""


def draw_prefixes(tokens: TokenizedRationale, num_prefixes: int, rng: np.random.Generator) -> tuple[int, ...]:
    """K prefix lengths: the whole rationale, the prefix that ends before the answer is first stated, and others.

    After the whole rationale a predictor need only copy the answer; before its first statement it must calculate, so
    this prefix shows what operators are worth. The others are drawn one from each of as many equal strata of the
    lengths that are left, of the first stratum only from those before the statement; all are different while there are
    enough. So with K >= 3 the predictor must calculate from a shorter prefix too, where there is one.

    Args:
        tokens: The rationale; one that never states its answer, or at once, has one more of the others.
        num_prefixes: K, at least 1.
        rng: Draws the others.
    """
    length, before = tokens.num_tokens, tokens.before_answer
    chosen = [length, *([before] if before is not None else [])][:num_prefixes]
    left = np.setdiff1d(np.arange(1, length), chosen)
    num = num_prefixes - len(chosen)
    if num > len(left):
        others = [*left, *rng.choice([*left, length], num - len(left))]
    else:
        strata = np.array_split(left, num) if num else []
        if strata and before is not None and before > 1:
            strata[0] = strata[0][strata[0] < before]
        others = [rng.choice(stratum) for stratum in strata]
    return (*chosen, *map(int, others))


def random_mask(num_tokens: int, rng: np.random.Generator) -> Bool[Tensor, " tokens"]:
    """A random mask for the warm-up, at a kept rate of its own."""
    return torch.from_numpy(rng.random(num_tokens) < rng.uniform(*WARMUP_KEPT_RATES))


def balanced_masks(
    tokens: TokenizedRationale, chances: NDArray[np.float32], num_masks: int, rng: np.random.Generator
) -> Bool[Tensor, "masks tokens"]:
    """Masks to observe the effects of tokens under: all occurrences of a token are kept, or all are hidden.

    Rationales repeat themselves: "add 5 and 3: 5 + 3". Hiding one of two copies hides nothing, so that each copy alone
    seems worthless. A token is kept in floor(M c) of M masks or in one more, c being the chance of its first
    occurrence: so few masks say most about it when it is now kept and now hidden. Which masks is drawn for each token.

    Args:
        tokens: The rationale.
        chances: How likely each token is kept.
        num_masks: M.
        rng: Draws.
    """
    _, first, kind = np.unique(tokens.ids("rationale"), return_index=True, return_inverse=True)
    order = np.argsort(rng.random((num_masks, len(first))), axis=0)
    keep = (order + rng.random(len(first))) / num_masks < chances[first]
    return torch.from_numpy(keep[:, kind])


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
