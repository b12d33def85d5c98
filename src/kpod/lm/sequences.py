"""Examples, batches and log-probabilities: the one place with the shift by one.

A model's inputs and labels are aligned here so that `labels[i]` is what the output at position i must predict,
for causal and encoder-decoder models alike; nothing downstream shifts anything.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kpod.lm.models import LanguageModel
from kpod.lm.waits import rows_known
from kpod.records import TokenizedRationale

IGNORED = -100
"""Label of a position that is not trained."""

BESIDE = frozenset({"labels", "weights", "positions", "beside"})
"""What a batch holds for the loss, which no model reads."""

Batch = dict[str, Tensor]
"""input_ids, attention_mask, labels, weights, positions; decoder_input_ids for an encoder-decoder model."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a model reads and what it must write.

    Attributes:
        encoder_ids: What an encoder reads; empty for a causal model.
        token_ids: The causal sequence, or the decoder's target.
        first_trained: Tokens from here to the end are trained; those before are only read.
        weights: Loss weight of every trained token.
    """

    encoder_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    first_trained: int
    weights: NDArray[np.float32]


def example_at(
    tokens: TokenizedRationale,
    weights: NDArray[np.float32],
    input_steps: int,
    *,
    encoder_decoder: bool,
    given: Literal["encoder", "decoder"] = "encoder",
) -> Example:
    """The example of a rationale whose first `input_steps` steps are given (Eq. 15).

    Args:
        tokens: The rationale.
        weights: w_j of every rationale token, [tokens]; closing, answer and end tokens always weigh 1.
        input_steps: c_i(t), 0 to n.
        encoder_decoder: Whether the question goes to an encoder.
        given: Whether an encoder reads the given steps after the question, or the decoder has them as its start.

    Raises:
        DataError: If `input_steps` is not in 0..n.
    """
    num_given = max(tokens.num_input_tokens(input_steps), tokens.num_read)
    num_fixed = len(tokens.token_ids) - tokens.segment_stops[1]
    whole = np.concatenate([weights, np.ones(num_fixed, dtype=np.float32)])
    asked, target = tokens.ids("question"), _written(tokens)
    return example_of(asked, target, whole, num_given, encoder_decoder=encoder_decoder, given=given)


def beginning_at(
    tokens: TokenizedRationale, weights: NDArray[np.float32], left_out: int, *, encoder_decoder: bool
) -> Example:
    """The example of a rationale without its last `left_out` steps, and without its answer where any is left out.

    Its first step is always trained. It is what a schedule of the wrong direction trains, as a control.

    Args:
        tokens: One rationale.
        weights: w_j of its rationale tokens.
        left_out: 0 to n.
        encoder_decoder: Whether the question goes to an encoder.
    """
    asked, target = tokens.ids("question"), _written(tokens)
    whole = np.concatenate([weights, np.ones(len(target) - len(weights), dtype=np.float32)])
    if left_out:
        stop = tokens.step_stops[max(tokens.num_steps - left_out, 1) - 1]
        target, whole = target[:stop], whole[:stop]
    return example_of(asked, target, whole, 0, encoder_decoder=encoder_decoder)


def _written(tokens: TokenizedRationale) -> tuple[int, ...]:
    """All that stands behind the question."""
    return tuple(tokens.token_ids[tokens.segment_stops[0] :].tolist())


def example_of(
    asked: tuple[int, ...],
    target: tuple[int, ...],
    weights: NDArray[np.float32],
    num_given: int,
    *,
    encoder_decoder: bool,
    given: Literal["encoder", "decoder"] = "encoder",
) -> Example:
    """The example of a target whose first `num_given` tokens are given.

    Args:
        asked: What is read before the target; an encoder's input ends in its end token.
        target: What is written, end token included.
        weights: Loss weight of every token of the target.
        num_given: Tokens of the target that are read, not trained.
        encoder_decoder: Whether `asked` goes to an encoder.
        given: Whether an encoder reads the given tokens too, or the decoder has them as its start.
    """
    kept = weights[num_given:]
    if not encoder_decoder:
        return Example((), (*asked, *target), len(asked) + num_given, kept)
    if given == "decoder":
        return Example(asked, target, num_given, kept)
    *before, end = asked
    return Example((*before, *target[:num_given], end), target[num_given:], 0, kept)


def collate(examples: Sequence[Example], lm: LanguageModel, *, packed: bool = False) -> Batch:
    """Pad examples on the right into one batch; padding is masked by length, so the pad id may be any token.

    Packed they stand one behind the other in a single row without padding, for a causal model; positions that start
    anew tell where one ends, and transformers' attention lets none see another.
    """
    starts = [] if lm.decoder_start_id is None else [lm.decoder_start_id]
    inputs = [[*starts, *e.token_ids[:-1]] for e in examples]
    labels = [list(e.token_ids)[1 - len(starts) :] for e in examples]
    for row, example in zip(labels, examples, strict=True):
        num_read = len(row) - len(example.weights)
        row[:num_read] = [IGNORED] * num_read
    weights = [np.pad(e.weights, (len(row) - len(e.weights), 0)) for e, row in zip(examples, labels, strict=True)]
    if packed:
        places = [list(range(len(row))) for row in inputs]
        whole = {"input_ids": _pack(inputs), "labels": _pack(labels), "position_ids": _pack(places)}
        return {**whole, "weights": _pack(weights), "positions": _places(whole["labels"])}
    batch = {"labels": _pad(labels, IGNORED), "weights": _pad(weights, 0)}
    batch["positions"] = _places(batch["labels"])
    read = [list(e.encoder_ids) for e in examples] if starts else inputs
    if starts:
        batch["decoder_input_ids"] = _pad(inputs, lm.pad_id)
    batch["input_ids"] = _pad(read, lm.pad_id)
    batch["attention_mask"] = _pad([[1] * len(row) for row in read], 0)
    return batch


def trained_positions(batch: Batch) -> Bool[Tensor, "batch length"]:
    """Where the batch's labels are trained."""
    return batch["labels"] != IGNORED


def trained_places(batch: Batch) -> Int[Tensor, " trained"]:
    """Where the trained labels stand, counted through the whole batch, row by row.

    `collate` brings them along. For another batch a GPU has to be asked, which waits until it has done all its work.
    """
    return batch["positions"] if "positions" in batch else _places(batch["labels"])


def at_trained(batch: Batch, name: Literal["labels", "weights"]) -> Tensor:
    """The labels or weights of the trained positions, row by row, [trained]."""
    return batch[name].take(trained_places(batch))


def logprobs(model: nn.Module, batch: Batch) -> Float[Tensor, " trained"]:
    """The log P of every trained label, row by row, in nats (<= 0) and float32."""
    labels = at_trained(batch, "labels")
    return -functional.cross_entropy(trained_logits(model, batch).float(), labels, reduction="none")


def trained_logits(model: nn.Module, batch: Batch) -> Float[Tensor, "trained vocabulary"]:
    """The logits of every trained position, row by row.

    The vocabulary projection runs on trained positions only, inside the model's own forward pass, so that wrappers
    (peft, DDP, FSDP) see one call and models that scale or cap their logits do so themselves.
    """
    with _head_only_at(model, trained_places(batch)):
        logits: Tensor = run(model, batch).logits
    return logits


def run(model: nn.Module, batch: Batch) -> Any:
    """What a model returns for a batch of `collate`."""
    with rows_known(packed="position_ids" in batch):
        return model(**inputs_of(batch), use_cache=False)


def inputs_of(batch: Batch) -> Batch:
    """What a model's forward pass is given of a batch."""
    return {name: tensor for name, tensor in batch.items() if name not in BESIDE}


def output_embedding(model: nn.Module) -> nn.Module:
    """The layer that turns features into logits, of a model that DDP or its like may have wrapped."""
    unwrapped: Any = getattr(model, "module", model)
    head: nn.Module = unwrapped.get_output_embeddings()
    return head


@contextmanager
def _head_only_at(model: nn.Module, places: Int[Tensor, " trained"]) -> Iterator[None]:
    """While active, the output embedding projects only these positions; logits come out as [positions, vocabulary]."""
    handle = output_embedding(model).register_forward_pre_hook(
        lambda _, args: (args[0].flatten(0, 1).index_select(0, places), *args[1:])
    )
    try:
        yield
    finally:
        handle.remove()


def _places(labels: Int[Tensor, "batch length"]) -> Int[Tensor, " trained"]:
    return (labels != IGNORED).flatten().nonzero()[:, 0]


def _pack(rows: Sequence[list[int]] | Sequence[NDArray[np.float32]]) -> Tensor:
    return torch.cat([torch.as_tensor(row) for row in rows])[None]


def _pad(rows: Sequence[list[int]] | Sequence[NDArray[np.float32]], value: int) -> Tensor:
    tensors = [torch.as_tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
