"""Groups of similar questions C_k, over which each stage spreads its selection (Eq. 12)."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from kpod.records.errors import DataError

LARGE = 100_000
"""Above so many questions K-means runs on mini-batches."""

WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*")
"""A word or a number, as GloVe's vocabulary spells them once in lower case."""


def cluster_embeddings(
    embeddings: Float[np.ndarray, "questions features"], num_clusters: int, seed: int
) -> Int[np.ndarray, " questions"]:
    """Group questions by K-means on their mean-centred embeddings.

    Args:
        embeddings: One vector per question, in any unit. They are centred in place: a second copy of a million is
            more memory than all else here.
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
    broken = np.flatnonzero(~np.isfinite(embeddings.sum(axis=1, dtype=np.float64)))
    if len(broken):
        raise DataError(f"the embeddings of {len(broken)} questions are not finite, first at row {broken[0]}")
    if not len(embeddings):
        return np.zeros(0, dtype=np.int64)
    embeddings -= embeddings.mean(axis=0, dtype=np.float64).astype(embeddings.dtype)
    algorithm = MiniBatchKMeans if len(embeddings) > LARGE else KMeans
    kmeans = algorithm(min(num_clusters, len(embeddings)), n_init=4, random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct vectors than clusters leave some clusters empty, which harms nothing.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return by_first_appearance(kmeans.fit_predict(embeddings.astype(np.float32, copy=False)))


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
