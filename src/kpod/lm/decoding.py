"""Continuation of prompts: the one place with generation settings and the side that is padded.

Prompts share a batch only where the model proves that this changes nothing: some recurrent models read padding as text,
or mix up the rows.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from kpod.lm.layout import TextLayout
from kpod.lm.models import LanguageModel, evaluating
from kpod.lm.precision import in_float32

SAME_LOGITS = 1e-3
"""How far a batch may move a logit, as a share of the largest one, in float32."""
NUM_PROVEN = 2
"""Tokens that are written for the proof: one from the prompt, one from what the model keeps of it."""
NO_MEMORY = "the device has too little memory to prove in float32 that padding changes nothing"

log = logging.getLogger(__name__)
Company: TypeAlias = Literal["any", "of one length", "none"]
"""Which prompts a prompt may share a batch with."""

_proven: WeakKeyDictionary[nn.Module, Company] = WeakKeyDictionary()


class Continuation(NamedTuple):
    """What a model wrote after a prompt.

    Attributes:
        token_ids: The written tokens, without the end token.
        finished: Whether an end token came within the limit.
    """

    token_ids: tuple[int, ...]
    finished: bool


def continue_greedily(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    processor: LogitsProcessorList | None = None,
) -> list[Continuation]:
    """The most probable next token, again and again, for one batch of prompts.

    Nothing but the end tokens is taken from the model's own generation settings: sampling, beams and repetition
    penalties that a checkpoint brings along would make the accuracy depend on it. The texts are independent: prompts
    are padded by length, on the left for a causal model, so that every text goes on right after its prompt. A model
    that padding or a batch changes gets prompts of one length together, or one at a time. Its first batch decides.

    Args:
        lm: The model; it is put into evaluation mode for the time of the call.
        prompts: Token ids from `kpod.lm.student_prompts.prompt_ids`; none is empty.
        max_new_tokens: Where a text is broken off; prompt and text together must fit the model's context.
        processor: Changes the scores of the next tokens.

    Returns:
        One continuation per prompt, in their order.
    """
    return _continue(lm, prompts, max_new_tokens, processor, do_sample=False)


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
            [prompt for prompt in prompts for _ in range(number)],
            max_new_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=top_p,
        )
    return [drawn[start : start + number] for start in range(0, len(drawn), number)]


def decode(lm: TextLayout, token_ids: Sequence[int]) -> str:
    """The text of tokens, without special ones and outer whitespace."""
    text = lm.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return cast("str", text).strip()


def _continue(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    processor: LogitsProcessorList | None = None,
    **how: Any,
) -> list[Continuation]:
    model = _base(lm)
    ends = end_ids(lm, model.generation_config)
    settings = _settings(lm, ends, max_new_tokens, **how)
    found: dict[int, Continuation] = {}
    for batch in _batches(lm, prompts):
        input_ids, attention_mask = _padded([prompts[index] for index in batch], lm)
        with evaluating(model), _only_settings(model, settings):
            rows = model.generate(
                input_ids, attention_mask=attention_mask, generation_config=settings, logits_processor=processor
            )
        num_read = 1 if lm.encoder_decoder else input_ids.shape[1]
        texts = [until_end(row, ends) for row in rows[:, num_read:].tolist()]
        found |= zip(batch, texts, strict=True)
    return [found[index] for index in range(len(prompts))]


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
    """Which prompts are read together."""
    numbers = list(range(len(prompts)))
    together = company(lm, prompts) if len(prompts) > 1 else "none"
    if together == "any":
        return [numbers]
    if together == "none":
        return [[number] for number in numbers]
    lengths = sorted({len(prompt) for prompt in prompts})
    return [[number for number in numbers if len(prompts[number]) == length] for length in lengths]


# -- the proof that a batch changes nothing ----------------------------------------------------------------


def company(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> Company:
    """Which prompts may share a batch; found out once for each model, in float32 whatever its precision.

    The second half of the longest prompt is read beside the whole, then beside another of its own length, and alone.
    Where that differs, or the model cannot be asked so, one line says it.
    """
    model, longest = _base(lm), max(prompts, key=len)
    if model not in _proven:
        half = longest[len(longest) // 2 :]
        why = _what_changes(lm, longest, half)
        _proven[model] = "of one length" if why else "any"
        if why and why != NO_MEMORY and (worse := _what_changes(lm, half[::-1], half)):
            why, _proven[model] = worse, "none"
        if why:
            how = "one by one" if _proven[model] == "none" else "in batches of one length"
            log.warning("prompts are answered %s: %s", how, why)
    return _proven[model]


def _what_changes(lm: LanguageModel, other: Sequence[int], prompt: Sequence[int]) -> str:
    """What another prompt in its batch does to a prompt's next tokens, in words; empty where it does nothing."""
    model = _base(lm)
    settings = _settings(lm, frozenset(), NUM_PROVEN, output_logits=True, return_dict_in_generate=True)
    try:
        with evaluating(model), in_float32(model), _only_settings(model, settings):
            together, alone = (_next_logits(lm, prompts, settings) for prompts in ([other, prompt], [prompt]))
    except torch.OutOfMemoryError:
        return NO_MEMORY
    except Exception as error:  # whatever the model's own code raises, fewer prompts at a time may work
        return f"a larger batch fails with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    agreed = (together.argmax(dim=-1) == alone.argmax(dim=-1)).cumprod(dim=0).bool()
    read_alike = torch.cat([torch.ones_like(agreed[:1]), agreed[:-1]])  # after another token all may differ
    moved = float((together - alone)[read_alike].abs().max() / alone.abs().max())
    return "" if moved <= SAME_LOGITS else f"a larger batch moves the model's logits by {moved:.2g} of the largest one"


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
