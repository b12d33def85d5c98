"""How hard each reasoning step is for the untrained student (Eq. 8)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from kpod.lm.models import LanguageModel
from kpod.lm.surprise import rationale_logprobs
from kpod.records import TokenizedRationale
from kpod.records.errors import DataError


def step_difficulties(
    logprobs: Float[Tensor, " tokens"],
    weights: Float[Tensor, " tokens"],
    step_stops: Sequence[int],
) -> Float[Tensor, " steps"]:
    """How hard each reasoning step of a rationale is for the untrained student (Eq. 8).

    The surprise of a step's tokens, averaged by significance: a hard digit makes a step
    hard, a hard filler word hardly does, and a long step is no harder for being long.

    Args:
        logprobs: log P(r_j | r_<j, x) under the student, in nats; every entry is <= 0.
        weights: Significance w_j of each token (Eq. 3), in [0, 1].
        step_stops: Where each step ends, exclusive and rising, as in `TokenizedRationale`.

    Returns:
        d_k for each step, in nats per token, >= 0. Weights are normalised by a softmax
        within the step, as in the paper, so no token counts over e times another.

    Raises:
        DataError: If the last step does not end at the last token.

    Example:
        >>> from torch import tensor
        >>> step_difficulties(tensor([-1.0, -3.0, -2.0]), tensor([0.5, 0.5, 0.9]), [2, 3])
        tensor([2., 2.])
    """
    if not step_stops or step_stops[-1] != len(logprobs):
        raise DataError(f"steps stop at {step_stops} in a rationale of {len(logprobs)} tokens")
    spans = [slice(start, stop) for start, stop in pairwise((0, *step_stops))]
    return torch.stack([weights[s].softmax(dim=0) @ -logprobs[s] for s in spans])


def assess_difficulties(
    lm: LanguageModel,
    tokens: Sequence[TokenizedRationale],
    weights: Mapping[str, NDArray[np.float32]],
    batch_size: int | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Difficulty of every step of every rationale, under the student as it is before distillation.

    The student reads the question and the whole rationale (an encoder only the question): each token is judged after
    the teacher's own previous tokens, not after the student's. Nothing is sampled; batches do not change the numbers
    beyond rounding. A pass holds `TOKENS_PER_PASS` tokens, or one rationale, and never all its logits at once.

    Args:
        lm: The pre-trained student theta_s0.
        tokens: The rationales.
        weights: Rationale id -> significance w_j of its tokens (Eq. 3), in [0, 1]; `Weights.difficulty`.
        batch_size: Rationales per forward pass, at most; None sets no limit beside the token budget. It changes speed
            and memory only.

    Returns:
        Rationale id -> d_k of its steps, in nats per token, >= 0; in the order of `tokens`.

    Raises:
        DataError: If a rationale has no weights or too few, or its difficulty is not a finite number.
    """
    for rationale in tokens:
        _check_weighed(rationale, weights.get(rationale.id))
    found = dict(_assessed(lm, tokens, weights, batch_size))
    return {rationale.id: found[rationale.id] for rationale in tokens}


def _assessed(
    lm: LanguageModel,
    tokens: Sequence[TokenizedRationale],
    weights: Mapping[str, NDArray[np.float32]],
    batch_size: int | None,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for rationale, surprise in rationale_logprobs(lm, tokens, "difficulty", batch_size):
        yield rationale.id, _finite_difficulties(rationale, surprise, weights[rationale.id])


def _check_weighed(rationale: TokenizedRationale, weights: NDArray[np.float32] | None) -> None:
    if weights is None or len(weights) != rationale.num_tokens:
        have = "no weights" if weights is None else f"{len(weights)} weights"
        raise DataError(
            f"rationale {rationale.id!r} has {rationale.num_tokens} tokens and {have}; weigh it with this tokenizer"
        )


def _finite_difficulties(
    rationale: TokenizedRationale, token_logprobs: Float[Tensor, " tokens"], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    found = step_difficulties(token_logprobs, torch.tensor(weights), rationale.step_stops)
    if not found.isfinite().all():
        raise DataError(
            f"rationale {rationale.id!r}: step difficulties {found.tolist()} are not finite; "
            "load the student in fp32, or check its weights for NaN"
        )
    return found.numpy()
