"""Continuation of prompts: the one place with generation settings and the side that is padded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel

from kpod.lm.layout import TextLayout
from kpod.lm.models import LanguageModel, evaluating


class Continuation(NamedTuple):
    """What a model wrote after a prompt.

    Attributes:
        token_ids: The written tokens, without the end token.
        finished: Whether an end token came within the limit.
    """

    token_ids: tuple[int, ...]
    finished: bool


def continue_greedily(lm: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Continuation]:
    """The most probable next token, again and again, for one batch of prompts.

    Nothing but the end tokens is taken from the model's own generation settings: sampling, beams and repetition
    penalties that a checkpoint brings along would make the accuracy depend on it. The texts are independent: prompts
    are padded by length, on the left for a causal model, so that every text goes on right after its prompt.

    Args:
        lm: The model; it is put into evaluation mode for the time of the call.
        prompts: Token ids from `kpod.lm.encoding.prompt_ids`; none is empty.
        max_new_tokens: Where a text is broken off; prompt and text together must fit the model's context.

    Returns:
        One continuation per prompt, in their order.
    """
    return _continue(lm, prompts, max_new_tokens, do_sample=False)


def continue_sampled(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    number: int,
    temperature: float,
    seed: int,
    top_p: float = 1.0,
) -> list[list[Continuation]]:
    """Several continuations of each prompt, drawn at a temperature.

    Args:
        lm: As for `continue_greedily`, and so `prompts` and `max_new_tokens`.
        prompts: One batch.
        max_new_tokens: Where a text is broken off.
        number: Texts per prompt.
        temperature: Above 0; 1 draws from the model's own probabilities.
        seed: Decides the draws of this batch; other random numbers are left as they are.
        top_p: Draw from the likeliest tokens that have so much of the probability together; 1 from all.
    """
    with torch.random.fork_rng([lm.device] if lm.device.type == "cuda" else []):
        torch.manual_seed(seed)
        drawn = _continue(
            lm,
            prompts,
            max_new_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=top_p,
            num_return_sequences=number,
        )
    return [drawn[start : start + number] for start in range(0, len(drawn), number)]


def decode(lm: TextLayout, token_ids: Sequence[int]) -> str:
    """The text of tokens, without special ones and outer whitespace."""
    text = lm.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return cast("str", text).strip()


def _continue(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, **how: Any
) -> list[Continuation]:
    model: Any = lm.model.get_base_model() if isinstance(lm.model, PeftModel) else lm.model
    ends = end_ids(lm, model.generation_config)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=lm.pad_id,
        eos_token_id=sorted(ends),
        decoder_start_token_id=lm.decoder_start_id,
        **how,
    )
    input_ids, attention_mask = _padded(prompts, lm)
    with evaluating(model), _only_settings(model, settings):
        rows = model.generate(input_ids, attention_mask=attention_mask, generation_config=settings)
    num_read = 1 if lm.encoder_decoder else input_ids.shape[1]
    return [until_end(row, ends) for row in rows[:, num_read:].tolist()]


def _padded(prompts: Sequence[Sequence[int]], lm: LanguageModel) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, [prompts, longest prompt]; padded by length, since the pad id may be any token."""
    side = "right" if lm.encoder_decoder else "left"
    rows = [torch.tensor(ids) for ids in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_value=lm.pad_id, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return ids.to(lm.device), mask.to(lm.device)


def end_ids(layout: TextLayout, settings: GenerationConfig | None) -> frozenset[int]:
    """The tokenizer's end token and those of the model's settings: chat models have one per turn and one per text."""
    own = getattr(settings, "eos_token_id", None)
    return frozenset([layout.end_id, *(own if isinstance(own, list) else [] if own is None else [own])])


@contextmanager
def _only_settings(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """While active, the model has no settings but these: `generate` fills gaps in its argument from the model's own."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def until_end(ids: Sequence[int], ends: frozenset[int]) -> Continuation:
    """Cut at the first end token; what follows it is padding."""
    for position, token in enumerate(ids):
        if token in ends:
            return Continuation(tuple(ids[:position]), finished=True)
    return Continuation(tuple(ids), finished=False)
