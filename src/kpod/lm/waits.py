"""What transformers would ask a GPU about in every forward pass, answered beforehand.

A model that is not given a mask looks at its positions to find out whether texts are packed. The host waits for the
answer until the GPU has done all its work. Whoever made the batch knows it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, masking_utils

from kpod.lm.models import evaluating
from kpod.lm.precision import in_float32

log = logging.getLogger(__name__)

EXACT = 1e-3
"""How far log P of any token may differ, in nats."""
NUM_PROVEN = 64
"""Tokens that prove that a model reads nothing of what follows them."""


@contextmanager
def rows_known(*, packed: bool) -> Iterator[None]:
    """While active, models take it as given whether each row of a batch is one text or several, and seek no padding.

    Args:
        packed: Whether several texts may share a row. Each of them then starts at position 0.
    """
    asked, warned = masking_utils.find_packed_sequence_indices, PreTrainedModel.warn_if_padding_and_no_attention_mask
    masking_utils.find_packed_sequence_indices = _packed if packed else _one_text_a_row
    PreTrainedModel.warn_if_padding_and_no_attention_mask = _warn_of_nothing  # type: ignore[method-assign]
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = asked
        PreTrainedModel.warn_if_padding_and_no_attention_mask = warned  # type: ignore[method-assign]


def reads_nothing_after(model: nn.Module, ids: Int[Tensor, "1 length"]) -> bool:
    """Whether a text's log P is the same with other tokens behind it, although no mask hides them.

    Then padding on the right needs no mask. Attention is faster without one, and nobody has to look for padding in it.
    The proof is in float32, and draws no random numbers.

    Args:
        model: A causal one, perhaps wrapped by DDP.
        ids: A text; some of its tokens suffice.
    """
    text = ids[:, : min(NUM_PROVEN, -(-ids.shape[1] // 2))]  # twice that is no longer than what it is trained on
    devices = [text.device] if text.device.type == "cuda" else []
    try:
        with evaluating(model), in_float32(model), torch.random.fork_rng(devices):
            alone = model(input_ids=text, attention_mask=torch.ones_like(text), use_cache=False).logits
            with rows_known(packed=False):
                longer = model(input_ids=torch.cat([text, text.flip(1)], dim=1), use_cache=False).logits
    except Exception as error:  # a model's own code, or its memory: what cannot be proven is not relied on
        log.info("padding keeps its mask, since the model cannot be read without one (%s)", error)
        return False
    found, wanted = (functional.log_softmax(x[:, : text.shape[1]].float(), dim=-1) for x in (longer, alone))
    return bool((found - wanted).abs().max() <= EXACT)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for what that device has to do before."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


def _warn_of_nothing(*_: object) -> None:
    return None


def _one_text_a_row(position_ids: Tensor) -> None:  # noqa: ARG001 (as transformers calls it)
    return None


def _packed(position_ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """The number of the text that each position belongs to, also where a row has one text."""
    before = position_ids[:, :1] - 1
    numbers: Tensor = (position_ids.diff(prepend=before, dim=-1) != 1).cumsum(-1)
    return numbers
