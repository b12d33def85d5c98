"""What a reference model makes of the tokens that the student will write: asked once, before training."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kpod.lm.buckets import cut_to_passes
from kpod.lm.head import chunked_logprobs
from kpod.lm.layout import TextLayout
from kpod.lm.models import LanguageModel, evaluating
from kpod.lm.processes import divided
from kpod.lm.sequences import collate, example_of
from kpod.records import TokenizedRationale
from kpod.records.errors import ConfigError, DataError
from kpod.records.progress import ProgressBar


def check_reference(lm: TextLayout, student: TextLayout) -> None:
    """Refuse a reference model that does not read the student's tokens.

    Raises:
        ConfigError: If its tokenizer is another, or one of the two has an encoder and the other has none.
    """
    alike = lm.tokenizer.get_vocab() == student.tokenizer.get_vocab() and lm.end_id == student.end_id
    if not alike or lm.encoder_decoder != student.encoder_decoder:
        raise ConfigError(
            "training.reference: its tokens are not the student's; name a model with the same tokenizer, such as the "
            "student after it was trained on other data"
        )


def reference_logprobs(
    lm: LanguageModel, tokens: Sequence[TokenizedRationale]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Log P of every token after the question, by rationale id, in the order of `tokens`.

    An encoder reads the question alone: where the student's reads given steps too, the two differ in that.

    Args:
        lm: The reference model.
        tokens: The rationales in tokens of the student, which are the model's own too.

    Yields:
        The id, and log P in nats of rationale, closing, answer and end tokens, float32 [written].

    Raises:
        DataError: If one is not finite.
    """
    lengths = [len(rationale.token_ids) + 1 for rationale in tokens]  # with a decoder's start token
    with evaluating(lm.model), ProgressBar(total=len(tokens), name="reference", unit="rationales") as progress:
        passes = list(cut_to_passes(lengths))
        for part, rows in zip(passes, divided(passes, lambda part: _logprobs(lm, tokens[part])), strict=True):
            some = tokens[part]
            for rationale, found in zip(some, rows, strict=True):
                if not np.isfinite(found).all():
                    raise DataError(
                        f"rationale {rationale.id!r}: its log P under the reference model is not finite; set precision "
                        "to fp32, or check the model's weights for NaN"
                    )
                yield rationale.id, found
            progress.update(len(some))


def _logprobs(lm: LanguageModel, tokens: Sequence[TokenizedRationale]) -> list[NDArray[np.float32]]:
    asked = [one.segment_stops[0] for one in tokens]
    examples = [
        example_of(
            tuple(one.token_ids[:stop].tolist()),
            tuple(one.token_ids[stop:].tolist()),
            np.ones(len(one.token_ids) - stop, dtype=np.float32),
            0,
            encoder_decoder=lm.encoder_decoder,
        )
        for one, stop in zip(tokens, asked, strict=True)
    ]
    batch = {name: tensor.to(lm.device) for name, tensor in collate(examples, lm).items()}
    stops = np.cumsum([len(example.weights) for example in examples])
    return np.split(chunked_logprobs(lm.model, batch).cpu().numpy(), stops[:-1])
