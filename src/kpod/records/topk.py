"""A teacher's most probable tokens at every place of what a student writes, and their Arrow file."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpod.records.columns import MOST_NUMBERS, ROWS, RowsById, list_array, parts, write_batches
from kpod.records.errors import DataError

MASS_TOLERANCE = 0.02
"""How far above 1 the sum of a row's probabilities may come: each log-probability is rounded to 11 bits."""

_SCHEMA = pa.schema(
    {"id": pa.string(), "k": pa.int32(), "token_ids": pa.list_(pa.int32()), "logprobs": pa.list_(pa.float16())}
)


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """A teacher's distribution over the student's tokens, at each place of what the student writes after a question.

    Row j stands for token j of rationale, closing, answer and end: what the teacher expects there after all before.

    Attributes:
        token_ids: The student's tokens, the likeliest first, int32 [written, k]; 0 where there is no entry.
        logprobs: Their log P under the teacher in nats, float16 [written, k]; -inf where there is no entry. The rest of
            the probability is on tokens that are not listed, or on tokens that the student does not have.

    Raises:
        DataError: If the two do not match, a row has no entry or is not sorted, or its probabilities exceed 1.

    Example:
        >>> certain = TopK.one_hot(np.array([7, 5], dtype=np.int32), k=2)
        >>> certain.logprobs.tolist(), certain.num_one_hot
        ([[0.0, -inf], [0.0, -inf]], 2)
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float16]

    def __post_init__(self) -> None:
        ids, logs = self.token_ids, self.logprobs
        if ids.ndim != 2 or ids.shape != logs.shape or ids.shape[1] < 1:
            raise DataError(f"top-k tokens of shape {ids.shape} with log-probabilities of shape {logs.shape}")
        if ids.dtype != np.int32 or logs.dtype != np.float16 or (ids < 0).any():
            raise DataError("top-k tokens must be int32 and at least 0, their log-probabilities float16")
        if not (np.isfinite(logs[:, 0]).all() and (logs <= 0).all() and (logs[:, :-1] >= logs[:, 1:]).all()):
            raise DataError(
                "log-probabilities must be at most 0, the largest first, with one entry or more in each row"
            )
        if (self.mass > 1 + MASS_TOLERANCE).any():
            raise DataError(f"the probabilities of a row sum up to {self.mass.max():.3f}")

    @classmethod
    def one_hot(cls, written: NDArray[np.int32], k: int) -> "TopK":
        """All probability on the student's own tokens: the target of plain fine-tuning.

        Args:
            written: The tokens, [written].
            k: Entries of a row.
        """
        ids, logs = np.zeros((len(written), k), np.int32), np.full((len(written), k), -np.inf, np.float16)
        ids[:, 0], logs[:, 0] = written, 0
        return cls(ids, logs)

    @property
    def mass(self) -> NDArray[np.float32]:
        """The probability that each row's entries have together, [written]."""
        total: NDArray[np.float32] = np.exp(self.logprobs.astype(np.float32)).sum(axis=1)
        return total

    @property
    def num_one_hot(self) -> int:
        """Rows with all probability on one token."""
        return int(np.count_nonzero((self.logprobs[:, 0] == 0) & ~np.isfinite(self.logprobs[:, 1:]).any(axis=1)))


class TopKById(RowsById[TopK]):
    """The distributions of every rationale by its id; what `write_topk` wrote, mapped into memory."""

    @staticmethod
    def item(row: Sequence[Any]) -> TopK:
        """The record."""
        _, k, ids, logs = row
        return TopK(ids.reshape(-1, k), logs.reshape(-1, k))


def write_topk(path: Path, rows: Iterable[tuple[str, TopK]]) -> None:
    """Write the distributions of every rationale as they come, under its id, for `TopKById` to read.

    An entry takes 6 bytes, so a token with 64 of them takes 384.
    """
    write_batches(path, _SCHEMA, _batches(rows))


def _batches(rows: Iterable[tuple[str, TopK]]) -> Iterator[pa.RecordBatch]:
    for part in parts(rows, lambda row: row[1].token_ids.size, ROWS, MOST_NUMBERS):
        ids = pa.array([id_ for id_, _ in part], pa.string())
        widths = pa.array([one.token_ids.shape[1] for _, one in part], pa.int32())
        tokens = list_array([one.token_ids.ravel() for _, one in part], np.int32)
        logprobs = list_array([one.logprobs.ravel() for _, one in part], np.float16)
        yield pa.record_batch([ids, widths, tokens, logprobs], schema=_SCHEMA)
