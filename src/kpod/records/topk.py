"""A teacher's most probable tokens at every place of what a student writes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kpod.records.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """A teacher's distribution over the student's tokens, at each place of what the student writes after a question.

    Row j stands for token j of rationale, closing, answer and end: what the teacher expects there after all before.

    Attributes:
        token_ids: The student's tokens, int32 [written, k]; 0 where there is no entry.
        logprobs: Their log P under the teacher in nats, float16 [written, k]; -inf where there is no entry.

    Raises:
        DataError: If the two do not match, or a token is negative.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float16]

    def __post_init__(self) -> None:
        ids, logs = self.token_ids, self.logprobs
        if ids.ndim != 2 or ids.shape != logs.shape or ids.shape[1] < 1:
            raise DataError(f"top-k tokens of shape {ids.shape} with log-probabilities of shape {logs.shape}")
        if ids.dtype != np.int32 or logs.dtype != np.float16 or (ids < 0).any():
            raise DataError("top-k tokens must be int32 and at least 0, their log-probabilities float16")
