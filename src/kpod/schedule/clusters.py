"""Groups of similar questions C_k, over which each stage spreads its selection (Eq. 12)."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from kpod.records.errors import DataError

LARGE = 100_000
"""Above so many questions, K-means runs on so many of them, and the others join the nearest centre."""

CHUNK = 20_000
"""Questions whose embeddings are held at a time while they join a centre."""
WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*")
"""A word or a number, as GloVe's vocabulary spells them once in lower case."""


@runtime_checkable
class Embeddings(Protocol):
    """An array [questions, features], or what makes the rows of one when they are asked for."""

    def __len__(self) -> int:
        """How many questions there are."""

    def __getitem__(self, rows: Any) -> NDArray[np.floating[Any]]:
        """Some rows, by their numbers or as a slice."""


def cluster_embeddings(embeddings: Embeddings, num_clusters: int, seed: int) -> Int[np.ndarray, " questions"]:
    """Group questions by K-means on their mean-centred embeddings.

    Args:
        embeddings: One vector per question, in any unit. An array of up to `LARGE` questions is centred in place.
        num_clusters: K, at least 1. There are fewer clusters where there are fewer distinct vectors.
        seed: Same seed and embeddings, same clusters.

    Returns:
        The cluster of each question, from 0, numbered by first appearance.

    Raises:
        DataError: If an embedding is not finite, or K is below 1.

    Example:
        >>> cluster_embeddings(np.array([[9.0], [1.0], [9.1]]), num_clusters=2, seed=0)
        array([0, 1, 0])
    """
    if num_clusters < 1:
        raise DataError(f"questions cannot form {num_clusters} clusters; set schedule.num_clusters to at least 1")
    num = len(embeddings)
    if not num:
        return np.zeros(0, dtype=np.int64)
    is_large = num > LARGE
    drawn = np.sort(np.random.default_rng(seed).choice(num, LARGE, replace=False)) if is_large else np.arange(num)
    some = _finite(embeddings[drawn if is_large else slice(None)], drawn)
    centre = some.mean(axis=0, dtype=np.float64).astype(some.dtype)
    some -= centre
    # `some` is this function's own: a copy would be as large again.
    kmeans = KMeans(min(num_clusters, len(some)), n_init=4, random_state=seed, copy_x=False)
    with warnings.catch_warnings():
        # Fewer distinct vectors than clusters leave some clusters empty, which harms nothing.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = kmeans.fit_predict(some.astype(np.float32, copy=False))
    if is_large:
        rows = (np.arange(start, min(start + CHUNK, num)) for start in range(0, num, CHUNK))
        parts = (_finite(embeddings[part[0] : part[-1] + 1], part) - centre for part in rows)
        labels = np.concatenate([kmeans.predict(part.astype(np.float32, copy=False)) for part in parts])
    return by_first_appearance(labels)


def _finite(some: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
    broken = np.flatnonzero(~np.isfinite(some.sum(axis=1, dtype=np.float64)))
    if len(broken):
        raise DataError(f"the embeddings of {len(broken)} questions are not finite, first at row {rows[broken[0]]}")
    return some


def by_first_appearance(labels: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """Number labels 0, 1, ... in the order in which they first occur.

    Example:
        >>> by_first_appearance(np.array([7, 2, 7, 5]))
        array([0, 1, 0, 2])
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def glove_embeddings(path: Path, questions: Sequence[str]) -> Float[np.ndarray, "questions features"]:
    """Embed each question as the mean GloVe vector of its words, as the paper does.

    Args:
        path: A GloVe text file: per line a word and its numbers, separated by single blanks.
        questions: Texts; they are read in lower case, and unknown words are skipped.

    Returns:
        float32; a question without a known word is the zero vector.

    Raises:
        DataError: If the file cannot be read, a line of it is malformed, or no question has a known word.
            Numbers are only checked for the words that occur in a question.
    """
    texts = [WORD.findall(question.lower()) for question in questions]
    vectors, num_features = _read_glove(path, {word for words in texts for word in words})
    if any(texts) and not vectors:
        raise DataError(f"{path}: knows no word of any question; is it a GloVe text file?")
    embeddings = np.zeros((len(texts), num_features), dtype=np.float32)
    for row, words in zip(embeddings, texts, strict=True):
        known = [vectors[word] for word in words if word in vectors]
        row[:] = np.mean(known, axis=0) if known else 0
    return embeddings


def _read_glove(path: Path, words: set[str]) -> tuple[Mapping[str, NDArray[np.float32]], int]:
    """The vectors of those `words` that the file knows, and how many numbers a vector has."""
    vectors: dict[str, NDArray[np.float32]] = {}
    num_features = 0
    try:
        # A line ends at "\n" only: GloVe has words such as U+0085 and U+2028.
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                num_features = num_features or line.count(" ")
                # From the right, since some of GloVe's words hold blanks.
                word, *values = line.rstrip("\n").rsplit(" ", num_features)
                if not values or len(values) != num_features:
                    raise DataError(f"{path}:{number}: expected a word and {num_features or 'some'} numbers")
                if word in words:
                    vectors.setdefault(word, _parse(values, f"{path}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as GloVe vectors: {error}") from error
    if not num_features:
        raise DataError(f"{path}: is empty; expected a word and its numbers per line")
    return vectors, num_features


def _parse(values: Sequence[str], where: str) -> NDArray[np.float32]:
    """The numbers of one line; raises DataError unless all are finite."""
    try:
        vector = np.array([float(value) for value in values], dtype=np.float32)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not np.isfinite(vector).all():
        raise DataError(f"{where}: a number is not finite")
    return vector
