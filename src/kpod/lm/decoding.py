"""Continuation of prompts: the one place with generation settings and the side that is padded.

Prompts of different lengths share a batch only where the model proves that padding changes nothing: some recurrent
models read it as text.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel

from kpod.lm.layout import TextLayout
from kpod.lm.models import LanguageModel, evaluating
from kpod.lm.precision import in_float32

SAME_LOGITS = 1e-3
"""How far padding may move a logit, as a share of the largest one, in float32."""
NUM_PROVEN = 2
"""Tokens that are written for the proof: one from the prompt, one from what the model keeps of it."""

log = logging.getLogger(__name__)
_proven: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether padding changes nothing, by model."""


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
    are padded by length, on the left for a causal model, so that every text goes on right after its prompt. A model
    that padding changes gets prompts of equal length together. Which it is, is found out at its first batch.

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
    """The continuations of every prompt, one behind the other: `num_return_sequences` of each."""
    model = _base(lm)
    ends = end_ids(lm, model.generation_config)
    settings = _settings(lm, ends, max_new_tokens, **how)
    found: dict[int, list[Continuation]] = {}
    for batch in _batches(lm, prompts):
        input_ids, attention_mask = _padded([prompts[index] for index in batch], lm)
        with evaluating(model), _only_settings(model, settings):
            rows = model.generate(input_ids, attention_mask=attention_mask, generation_config=settings)
        num_read = 1 if lm.encoder_decoder else input_ids.shape[1]
        texts = [until_end(row, ends) for row in rows[:, num_read:].tolist()]
        number = len(texts) // len(batch)
        found |= {index: texts[place * number : (place + 1) * number] for place, index in enumerate(batch)}
    return [text for index in range(len(prompts)) for text in found[index]]


def _base(lm: LanguageModel) -> Any:
    return lm.model.get_base_model() if isinstance(lm.model, PeftModel) else lm.model


def _settings(lm: LanguageModel, ends: frozenset[int], max_new_tokens: int, **how: Any) -> GenerationConfig:
    return GenerationConfig(  # type: ignore[no-untyped-call]
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=lm.pad_id,
        eos_token_id=sorted(ends) or None,
        decoder_start_token_id=lm.decoder_start_id,
        **how,
    )


def _batches(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Which prompts are padded together: all of them, or those of one length where padding changes what is said."""
    lengths = [len(prompt) for prompt in prompts]
    if len(set(lengths)) == 1 or _padding_is_harmless(lm, prompts):
        return [list(range(len(prompts)))]
    return [[index for index, found in enumerate(lengths) if found == length] for length in sorted(set(lengths))]


# -- the proof that padding changes nothing ----------------------------------------------------------------


def _padding_is_harmless(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether a model says the same after a prompt with padding and without; found out once for each model.

    Asked are the longest prompt and its second half, together and the half alone, in float32 whatever the model's
    precision. Where they differ, or the model cannot be asked so, one line says it.
    """
    model = _base(lm)
    if model not in _proven:
        longest = max(prompts, key=len)
        try:
            why = _what_padding_changes(lm, longest, longest[len(longest) // 2 :])
        except torch.OutOfMemoryError:
            why = "the device has too little memory to prove in float32 that padding changes nothing"
        except Exception as error:  # whatever the model's own code raises, prompts of equal length need no proof
            why = f"with padding it fails with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        _proven[model] = not why
        if why:
            log.warning("prompts are answered in batches of equal length: %s", why)
    return _proven[model]


def _what_padding_changes(lm: LanguageModel, longest: Sequence[int], shorter: Sequence[int]) -> str:
    """By how much a prompt's padding moves the logits of the next tokens, in words; empty where it does not."""
    model = _base(lm)
    settings = _settings(lm, frozenset(), NUM_PROVEN, output_logits=True, return_dict_in_generate=True)
    with evaluating(model), in_float32(model), _only_settings(model, settings):
        padded, alone = (_next_logits(lm, prompts, settings) for prompts in ([longest, shorter], [shorter]))
    same_so_far = [True, *(padded[:-1].argmax(dim=-1) == alone[:-1].argmax(dim=-1)).cumprod(dim=0).bool().tolist()]
    moved = float((padded - alone)[same_so_far].abs().max() / alone.abs().max())
    return "" if moved <= SAME_LOGITS else f"padding moves the model's logits by {moved:.2g} of the largest one"


def _next_logits(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], settings: GenerationConfig
) -> Float[Tensor, "written vocabulary"]:
    """The logits of the tokens that are written after the last of some prompts."""
    input_ids, attention_mask = _padded(prompts, lm)
    written = _base(lm).generate(input_ids, attention_mask=attention_mask, generation_config=settings)
    return torch.stack([logits[-1].float() for logits in written.logits])


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
