"""Weights that need no learning: uniform ones, and those a user wrote into the data as character spans."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kpod.records import TokenizedRationale, WeightSpan


def uniform_weights(tokens: Sequence[TokenizedRationale]) -> dict[str, NDArray[np.float32]]:
    """w_j = 1 for every token of every rationale."""
    return {rationale.id: np.ones(rationale.num_tokens, dtype=np.float32) for rationale in tokens}


def project_spans(spans: Sequence[WeightSpan], tokens: TokenizedRationale) -> NDArray[np.float32]:
    """Weights of character spans as weights of tokens: the mean over a token's characters.

    Characters in no span weigh 0; where spans overlap the later one counts.

    Example:
        >>> tokens = TokenizedRationale("q", (7, 8, 9, 5, 2), (1, 3, 3, 4, 5), (2,), ((0, 2), (2, 4)))
        >>> project_spans([(0, 3, 0.5)], tokens)
        array([0.5 , 0.25], dtype=float32)
    """
    by_character = np.zeros(tokens.char_spans[-1][1], dtype=np.float64)
    for start, stop, weight in spans:
        by_character[start:stop] = weight
    return np.array([by_character[start:stop].mean() for start, stop in tokens.char_spans], dtype=np.float32)
