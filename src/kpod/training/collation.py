"""What makes batches of examples: the collator of a model, and the proof that a packed batch mixes nothing up."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kpod.errors import ConfigError
from kpod.lm.models import LanguageModel, evaluating
from kpod.lm.sequences import Example, collate, logprobs
from kpod.training.batches import Collator


def collator_of(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None, packing: bool
) -> Collator:
    """The collator of a model, perhaps wrapped by peft.

    Raises:
        ConfigError: Without a tokenizer, or where an encoder-decoder model's examples are to be packed.
    """
    if tokenizer is None:
        raise ConfigError("KeypointTrainer needs processing_class=tokenizer: it pads batches and is saved along")
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    lm = LanguageModel.of(cast("PreTrainedModel", base), tokenizer)
    if packing and lm.encoder_decoder:
        raise ConfigError("training.packing: an encoder-decoder student's rationales cannot share a row; leave it out")
    return Collator(lm, packed=packing)


def check_packing(
    model: nn.Module, collator: Any, examples: Sequence[Example], device: torch.device, tolerance: float
) -> None:
    """Raise ConfigError where the model reads packed examples otherwise than padded ones.

    Args:
        model: As wrapped for training.
        collator: Its `Collator`.
        examples: A batch of examples.
        device: Where the model is.
        tolerance: Of the difference of any token's log P, in nats.
    """
    batches = [collate(examples, collator.lm, packed=packed) for packed in (True, False)]
    with evaluating(model):
        packed, padded = (
            logprobs(model, {name: tensor.to(device) for name, tensor in batch.items()}) for batch in batches
        )
    difference = float((packed - padded).abs().max())
    if difference > tolerance:
        raise ConfigError(
            "training.packing: this model lets packed rationales see one another (log P differs by "
            f"{difference:.2g} nats); leave it out"
        )
