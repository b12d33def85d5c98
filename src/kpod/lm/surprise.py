"""What a model expects of rationales that are there: log P of their tokens, each after all tokens before it."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from jaxtyping import Float
from torch import Tensor

from kpod.lm.buckets import cut_to_passes
from kpod.lm.head import chunked_logprobs
from kpod.lm.models import LanguageModel, evaluating
from kpod.lm.processes import divided
from kpod.lm.sequences import collate, example_at
from kpod.records import TokenizedRationale
from kpod.records.progress import ProgressBar


def rationale_logprobs(
    lm: LanguageModel, tokens: Sequence[TokenizedRationale], what: str, batch_size: int | None = None
) -> Iterator[tuple[TokenizedRationale, Float[Tensor, " tokens"]]]:
    """Log P of each rationale's tokens, in nats, without those of its closing, answer and end.

    Longest rationales come first: neighbours need little padding, and memory fails early if ever. Several processes
    share the passes, and each gets all numbers.

    Args:
        lm: The model; it reads the question and the whole rationale, an encoder the question alone.
        tokens: The rationales.
        what: Names the progress bar.
        batch_size: Rationales per forward pass, at most; None sets no limit beside the token budget.
    """
    lengths = np.array([len(rationale.token_ids) + 1 for rationale in tokens])  # with a decoder's start token
    longest_first = np.argsort(-lengths, kind="stable")
    orders = [longest_first[part].tolist() for part in cut_to_passes(lengths[longest_first].tolist(), batch_size)]
    batches = [[tokens[index] for index in order] for order in orders]
    with evaluating(lm.model), ProgressBar(total=len(tokens), name=what, unit="rationales") as progress:
        for batch, found in zip(batches, divided(batches, lambda batch: _logprobs(lm, batch)), strict=True):
            yield from zip(batch, found, strict=True)
            progress.update(len(batch))


def _logprobs(lm: LanguageModel, tokens: Sequence[TokenizedRationale]) -> list[Float[Tensor, " tokens"]]:
    examples = [
        example_at(r, np.ones(r.num_tokens, dtype=np.float32), 0, encoder_decoder=lm.encoder_decoder) for r in tokens
    ]
    batch = {name: tensor.to(lm.device) for name, tensor in collate(examples, lm).items()}
    found = chunked_logprobs(lm.model, batch).cpu()
    starts = accumulate((len(example.weights) for example in examples[:-1]), initial=0)
    return [found[start : start + r.num_tokens] for start, r in zip(starts, tokens, strict=True)]
