"""What makes batches of examples: the collator of a model, and the proof that a packed batch mixes nothing up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from kpod.lm.models import LanguageModel, evaluating
from kpod.lm.precision import in_float32
from kpod.lm.sequences import Batch, Example, collate, logprobs
from kpod.records.errors import ConfigError, DataError
from kpod.training.batches import StageBatch, StageExample, name_of
from kpod.training.beside import beside

EXACT, COARSE = 1e-3, 0.5
"""How far log P of any token may differ, in nats: in float32, and in the precision that a model trains in."""


class Collator:
    """Pads examples into a batch for a model, or packs them into one row, and keeps the examples beside it.

    Raises when called:
        DataError: If an example trains nothing; its loss would be 0 / 0. Or if it is no `Example`, as of a stream of
            rows.
    """

    def __init__(self, lm: LanguageModel, *, packed: bool = False) -> None:
        self.packed = packed
        self.lm = replace(lm, model=nn.Identity())  # worker processes get a copy of this object, not of the model

    def __call__(self, examples: Sequence[Any]) -> StageBatch:
        """The batch of these examples."""
        for number, example in enumerate(examples):
            if not isinstance(example, Example):
                raise DataError(
                    f"example {number} of the batch is a {type(example).__name__}; train on a list or datasets.Dataset "
                    "of rows, not on a stream, or on a dataset of kpod.lm.sequences.Example"
                )
            if not len(example.weights):
                raise DataError(f"{name_of(example, number)}: no token of it is trained; drop it")
            self._check_teacher(example, number)
        batch = collate(examples, self.lm, packed=self.packed)
        return {**batch, "beside": beside(examples), "examples": tuple(examples)}

    def _check_teacher(self, example: Example, number: int) -> None:
        """Refuse tokens that the student does not have, which a GPU would only answer with an assertion."""
        teacher = example.teacher if isinstance(example, StageExample) else None
        if teacher is not None and self.lm.vocabulary is not None and teacher.token_ids.max() >= self.lm.vocabulary:
            raise DataError(
                f"{name_of(example, number)}: its teacher names token {teacher.token_ids.max()}, but the student has "
                f"{self.lm.vocabulary}; make the teacher's probabilities again for this student"
            )


def language_model_of(model: Any, processing_class: Any) -> LanguageModel:
    """A transformers model, perhaps wrapped by peft, with its tokenizer, perhaps inside a processor.

    Raises:
        ConfigError: Without a tokenizer, or if it does not fit the model (see `layout_of`).
    """
    if processing_class is None:
        raise ConfigError("KeypointTrainer needs processing_class=tokenizer: it pads batches and is saved along")
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return LanguageModel.of(base, getattr(processing_class, "tokenizer", processing_class))


def collator_of(lm: LanguageModel, packing: bool) -> Collator:
    """The collator of a model.

    Raises:
        ConfigError: If an encoder-decoder model's examples are to be packed.
    """
    if packing and lm.encoder_decoder:
        raise ConfigError("training.packing: an encoder-decoder student's rationales cannot share a row; leave it out")
    return Collator(lm, packed=packing)


def check_packing(
    model: nn.Module, collator: Any, examples: Sequence[Example], device: torch.device, *, sharded: bool
) -> None:
    """Raise ConfigError where the model reads packed examples otherwise than padded ones.

    The proof is in float32 whatever the training's precision, since rounding hides what convolutions and recurrent
    layers let through. A sharded model, and one with flash attention, is asked as it trains too, and coarsely.

    Args:
        model: As wrapped for training.
        collator: Its `Collator`.
        examples: A batch of examples.
        device: Where the model is.
        sharded: Whether no process holds the whole model, so that its weights cannot be widened.
    """
    batches = [
        {name: tensor.to(device) for name, tensor in collate(examples, collator.lm, packed=packed).items()}
        for packed in (True, False)
    ]
    base: Any = getattr(model, "module", model)
    with evaluating(model):
        if sharded or "flash" in str(getattr(base.config, "_attn_implementation", None)):
            _compare(model, batches, COARSE)
        if not sharded:
            with in_float32(model):
                _compare(model, batches, EXACT)


def _compare(model: nn.Module, batches: Sequence[Batch], tolerance: float) -> None:
    packed, padded = (logprobs(model, batch) for batch in batches)
    difference = float((packed - padded).abs().max())
    if not difference <= tolerance:
        raise ConfigError(
            "training.packing: this model lets packed rationales see one another (log P differs by "
            f"{difference:.2g} nats); leave it out"
        )
