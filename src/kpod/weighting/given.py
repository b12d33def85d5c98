"""Weights that need no learning: those a user wrote into the data, and fixed rules to compare learnt ones with."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kpod.lm.encoding import project_spans
from kpod.records import Rationale, TokenizedRationale, WeightSpan
from kpod.records.columns import ById
from kpod.records.errors import DataError

KEYPOINTS = frozenset("0123456789+-*/=$%×÷")
"""Characters of the tokens that the digit rule takes for keypoints."""
REST = 0.3
"""Weight of every other token under the digit rule."""


def uniform_weights(tokens: Sequence[TokenizedRationale]) -> Mapping[str, NDArray[np.float32]]:
    """w_j = 1 for every token of every rationale.

    Args:
        tokens: The rationales.

    Returns:
        Rationale id -> its weights, [tokens].
    """
    return ById.of((rationale.id, np.ones(rationale.num_tokens, dtype=np.float32)) for rationale in tokens)


def weights_in_data(
    rationales: Sequence[Rationale], tokens: Sequence[TokenizedRationale]
) -> Mapping[str, NDArray[np.float32]] | None:
    """The weights that the data brings for every rationale; None where it brings none.

    Args:
        rationales: With `token_weights` as spans of characters.
        tokens: The same rationales in tokens.

    Returns:
        Rationale id -> its weights in [0, 1], [tokens]: of each token the mean over its characters.

    Raises:
        DataError: If only some rationales have weights.
    """
    given = spans_in_data(rationales, [rationale.id for rationale in tokens])
    return ById.of((t.id, project_spans(given[t.id], t.char_spans)) for t in tokens) if given else None


def spans_in_data(rationales: Sequence[Rationale], ids: Iterable[str]) -> dict[str, tuple[WeightSpan, ...]]:
    """The weights that the data brings, by rationale id; empty where it brings none.

    Raises:
        DataError: If one of the rationales that are wanted has none, but others have.
    """
    given = {r.id: r.token_weights for r in rationales if r.token_weights is not None}
    without = [id_ for id_ in ids if id_ not in given] if given else []
    if without:
        raise DataError(f"rationale {without[0]!r} has no token_weights but others have; give all or none")
    return given


def digit_rule_weights(
    tokens: Sequence[TokenizedRationale], texts: Mapping[str, str]
) -> Mapping[str, NDArray[np.float32]]:
    """w_j = 1 for tokens of digits and operators alone, 0.3 for all others: what a rule of thumb would say.

    Args:
        tokens: The rationales.
        texts: Rationale id -> its text.

    Returns:
        Rationale id -> its weights, [tokens].

    Example:
        >>> ids, spans = np.array([7, 8, 9, 5, 2], dtype=np.int32), np.array([(0, 3), (3, 5)], dtype=np.int32)
        >>> tokens = TokenizedRationale("q", ids, (1, 3, 3, 4, 5), (2,), spans)
        >>> digit_rule_weights([tokens], {"q": "So 12"})["q"]
        array([0.3, 1. ], dtype=float32)
    """
    return ById.of((one.id, _by_digit_rule(texts[one.id], one.char_spans.tolist())) for one in tokens)


def _by_digit_rule(text: str, spans: Iterable[Sequence[int]]) -> NDArray[np.float32]:
    return np.array([1.0 if _is_keypoint(text[start:stop]) else REST for start, stop in spans], dtype=np.float32)


@lru_cache(maxsize=2**16)
def _is_keypoint(token: str) -> bool:
    return bool(token.strip()) and set(token.strip()) <= KEYPOINTS


def shuffled_weights(weights: Mapping[str, NDArray[np.float32]], seed: int) -> Mapping[str, NDArray[np.float32]]:
    """The same weights on other tokens of their rationale: what remains of them is their histogram.

    Args:
        weights: Rationale id -> its weights, [tokens].
        seed: Of the permutations.

    Example:
        >>> shuffled_weights({"q": np.array([0.1, 0.9, 0.5], dtype=np.float32)}, seed=0)["q"]
        array([0.5, 0.1, 0.9], dtype=float32)
    """
    rng = np.random.default_rng(seed)
    return ById.of((name, rng.permutation(values)) for name, values in weights.items())


def spans_of(tokens: TokenizedRationale, weights: NDArray[np.float32]) -> tuple[WeightSpan, ...]:
    """Weights of tokens as weights of rising character spans; tokens that share a character share their mean.

    Args:
        tokens: A rationale's.
        weights: One for each rationale token.

    Example:
        >>> ids, spans = np.array([7, 8, 9, 5, 2], dtype=np.int32), np.array([(0, 2), (2, 4)], dtype=np.int32)
        >>> tokens = TokenizedRationale("q", ids, (1, 3, 3, 4, 5), (2,), spans)
        >>> spans_of(tokens, np.array([0.5, 0.25], dtype=np.float32))
        ((0, 2, 0.5), (2, 4, 0.25))
    """
    shared: dict[tuple[int, int], list[float]] = {}
    for start, stop, weight in zip(*tokens.char_spans.T.tolist(), weights.tolist(), strict=True):
        shared.setdefault((start, stop), []).append(weight)
    return tuple((start, stop, sum(values) / len(values)) for (start, stop), values in shared.items())
