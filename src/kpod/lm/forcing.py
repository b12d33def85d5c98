"""Teacher forcing: what a model expects at each place of a text that is given."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kpod.lm.buckets import cut_to_passes
from kpod.lm.head import logits_by_chunk
from kpod.lm.models import LanguageModel, evaluating
from kpod.lm.sequences import at_trained, collate, example_of
from kpod.lm.vocabularies import Translation


class Expected(NamedTuple):
    """What a model expects at each place of a text, after all before.

    Attributes:
        token_ids: The most probable tokens, the likeliest first, int32 [written, k]; 0 where there are fewer.
        logprobs: Their log P in nats, float16 [written, k]; -inf where there are fewer.
        own: Log P of the token that stands there, float32 [written].
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float16]
    own: NDArray[np.float32]


def expected(
    lm: LanguageModel,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    k: int,
    translation: Translation | None = None,
) -> Iterator[Expected]:
    """The k most probable tokens at every place of texts, in passes of `TOKENS_PER_PASS` tokens; nothing is generated.

    The logits of one chunk of positions are held at a time, never those of a whole batch.

    Args:
        lm: The model, causal or encoder-decoder.
        texts: Of each the ids that are read before it, and its own. Neighbours of like length need little padding.
        k: How many.
        translation: Gives the tokens of another model. `own` stays as it is.

    Yields:
        What is expected, text by text.
    """
    lengths = [len(asked) + len(written) + 1 for asked, written in texts]  # with a decoder's start token
    for part in cut_to_passes(lengths):
        with evaluating(lm.model):
            found = _of_batch(lm, texts[part], k, translation)
        stops = np.cumsum([len(written) for _, written in texts[part]])[:-1]
        yield from map(Expected, *(np.split(column, stops) for column in found))


def _of_batch(
    lm: LanguageModel,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    k: int,
    translation: Translation | None,
) -> Expected:
    """What is expected at all places of a batch, one after the other."""
    examples = [
        example_of(
            tuple(asked), tuple(written), np.ones(len(written), np.float32), 0, encoder_decoder=lm.encoder_decoder
        )
        for asked, written in texts
    ]
    batch = {name: tensor.to(lm.device) for name, tensor in collate(examples, lm).items()}
    labels = at_trained(batch, "labels")
    num = len(labels)
    ids, logprobs = np.zeros((num, k), np.int32), np.full((num, k), -np.inf, np.float16)
    own = np.empty(num, np.float32)
    for part, logits in logits_by_chunk(lm.model, batch):
        all_of_it = logits.log_softmax(dim=-1)
        own[part] = all_of_it.gather(1, labels[part, None])[:, 0].cpu().numpy()
        if translation is not None:
            all_of_it = translation.of(all_of_it)
        best = all_of_it.topk(min(k, all_of_it.shape[1]), dim=-1)
        found = best.values.to(torch.float16).cpu().numpy()
        logprobs[part, : found.shape[1]] = found
        ids[part, : found.shape[1]] = np.where(np.isfinite(found), best.indices.cpu().numpy(), 0)
    return Expected(ids, logprobs, own)
