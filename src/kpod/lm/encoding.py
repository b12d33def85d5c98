"""From a question, a rationale with its steps, and an answer to one id sequence. The only place that does it.

Segments and steps are found by character offsets of one tokenisation, never by searching token patterns.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from kpod.config import DataConfig, PromptConfig
from kpod.data.mentions import last_mention
from kpod.data.prompts import Completion, chat_message, completion, plain_prompt
from kpod.errors import DataError
from kpod.lm.layout import TextLayout
from kpod.merging import merge_shortest
from kpod.records import Dropped, Question, Rationale, Span, TokenizedRationale, WeightSpan
from kpod.steps import split_steps, step_stops_of


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: Question, prompt: PromptConfig) -> str:
    """What the student reads before it writes: through its chat template where it has one, else the plain template."""
    if not _is_chat(tokenizer, prompt):
        text = plain_prompt(question, prompt)
    else:
        message = [{"role": "user", "content": chat_message(question, prompt)}]
        text = cast("str", tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    if not prompt.opening:
        return text
    return text + ("" if prompt.opening[0].isspace() else _leading(tokenizer, text)) + prompt.opening


def prompt_ids(layout: TextLayout, question: Question, prompt: PromptConfig) -> tuple[int, ...]:
    """The prompt as ids, behind what special tokens the tokenizer starts a text with; an encoder's ends in `end_id`."""
    text = prompt_text(layout.tokenizer, question, prompt)
    ids = layout.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return (*_start_ids(layout.tokenizer, prompt), *ids, *([layout.end_id] if layout.encoder_decoder else []))


def chat_ids(layout: TextLayout, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Messages as a chat model reads them before it answers; without a chat template, their texts one below the other.

    Args:
        layout: The tokenizer and its special ids.
        messages: Each with `role` and `content`.
    """
    tokenizer = layout.tokenizer
    if tokenizer.chat_template:
        conversation = [dict(message) for message in messages]
        text = cast("str", tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))
        start: tuple[int, ...] = ()
    else:
        text, start = "\n\n".join(message["content"] for message in messages), start_ids(tokenizer)
    return [*start, *tokenizer(text, add_special_tokens=False, verbose=False).input_ids]


def encode(
    layout: TextLayout,
    rationale: Rationale,
    step_spans: Sequence[Span],
    prompt: PromptConfig,
    max_length: int,
) -> TokenizedRationale | Dropped:
    """Tokenise `question | rationale | closing | answer | end` and mark where every part and step stops.

    A causal model's prompt and target are tokenised as one text, an encoder-decoder model's apart. The space that
    parts a plain prompt from the rationale is written by the student, so it counts to the rationale.

    Args:
        layout: The tokenizer and its special ids; a LanguageModel is one.
        rationale: The rationale with its question.
        step_spans: Character spans that tile the rationale, from `kpod.steps.split_steps`.
        prompt: The words around it.
        max_length: Longest sequence in tokens, prompt included; the model's own context is a limit beside it.

    Returns:
        The sequence. Or Dropped where it is too long (nothing is ever cut), where tokens merge across the borders of
        prompt, rationale and answer, so that the student would be trained on other ids than it is asked, or where a
        token that ends texts stands inside.

    Raises:
        DataError: If the tokenizer's offsets do not tile the text.
    """
    asked = prompt_ids(layout, rationale.question, prompt)
    before = "" if layout.encoder_decoder else prompt_text(layout.tokenizer, rationale.question, prompt)
    target = completion(rationale.text, rationale.question.answer, prompt, _leading(layout.tokenizer, before))
    text = before + target.text
    encoding = layout.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = tiling_offsets(encoding["offset_mapping"], text, rationale.id)
    num_prompt = sum(stop <= len(before) for _, stop in spans)
    if before and (*_start_ids(layout.tokenizer, prompt), *encoding.input_ids[:num_prompt]) != asked:
        return Dropped(rationale.id, "prompt and rationale merge into one token")
    written = tuple(encoding.input_ids[num_prompt:])
    if layout.end_id in written:
        return Dropped(rationale.id, "holds the end token")
    limit = min(max_length, layout.context or max_length)
    if len(asked) + len(written) + 1 > limit:
        return Dropped(rationale.id, f"longer than {limit} tokens")
    spans = [(max(start - len(before), 0), stop - len(before)) for start, stop in spans[num_prompt:]]
    stops = _part_stops(spans, target)
    if stops is None:
        return Dropped(rationale.id, "rationale and answer merge into one token")
    chars = _rationale_chars(spans[: stops[0]], target.rationale_offset, len(rationale.text))
    num_asked, num_all = len(asked), len(asked) + len(written) + 1
    return TokenizedRationale(
        id=rationale.id,
        token_ids=(*asked, *written, layout.end_id),
        segment_stops=(num_asked, num_asked + stops[0], num_asked + stops[1], num_asked + stops[2], num_all),
        step_stops=step_stops_of(step_spans, chars),
        char_spans=chars,
        answer_at=_answer_at(rationale, chars),
    )


def encode_all(
    layout: TextLayout, rationales: Iterable[Rationale], data: DataConfig
) -> tuple[list[TokenizedRationale], list[Dropped]]:
    """Split rationales into steps and `encode` them; also those that could not be, with reasons."""
    results = [
        encode(
            layout, r, merge_shortest(split_steps(r.text, data.step_rule), data.max_steps), data.prompt, data.max_length
        )
        for r in rationales
    ]
    tokens = [r for r in results if isinstance(r, TokenizedRationale)]
    return tokens, [r for r in results if isinstance(r, Dropped)]


def tiling_offsets(offsets: Sequence[Span], text: str, name: str) -> list[Span]:
    """Character spans of the tokens, closed up so that together they cover the text.

    Tokenizers leave the space before a word out of its span, or not; here it always belongs to the word. Several
    byte-level tokens of one character share its span.

    Raises:
        DataError: If a span is empty or runs backwards, or characters that can be seen are in no span.

    Example:
        >>> tiling_offsets([(0, 3), (4, 5), (4, 5)], "Two é", "q1")
        [(0, 3), (3, 5), (3, 5)]
    """
    spans: list[Span] = []
    last_start = reached = 0
    for start, stop in offsets:
        if not last_start <= start < stop or stop < reached or _visible(text[reached:start]):
            raise DataError(
                f"rationale {name!r}: the tokenizer's offsets {(start, stop)} do not follow character {reached}; "
                "use a tokenizer with correct offsets (fast tokenizers of some models return empty ones)"
            )
        spans.append((reached, stop) if stop > reached else spans[-1])
        last_start, reached = start, stop
    if _visible(text[reached:]):
        raise DataError(f"rationale {name!r}: the tokenizer's offsets miss its text after character {reached}")
    return spans


def project_spans(spans: Sequence[WeightSpan], char_spans: Sequence[Span]) -> NDArray[np.float32]:
    """Weights of character spans as weights of tokens: the mean over a token's characters.

    Characters in no span weigh 0; where spans overlap the later one counts.

    Args:
        spans: Start, stop (exclusive) and weight.
        char_spans: Characters of each token, as in `TokenizedRationale.char_spans`.

    Example:
        >>> project_spans([(0, 3, 0.5)], [(0, 2), (2, 4)])
        array([0.5 , 0.25], dtype=float32)
    """
    by_character = np.zeros(char_spans[-1][1], dtype=np.float64)
    for start, stop, weight in spans:
        by_character[start:stop] = weight
    return np.array([by_character[start:stop].mean() for start, stop in char_spans], dtype=np.float32)


def _visible(text: str) -> bool:
    """Whether the text holds more than spaces, control and format characters, which some tokenizers leave out."""
    return not all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


def _part_stops(spans: Sequence[Span], target: Completion) -> tuple[int, int, int] | None:
    """Number of tokens until rationale, closing and answer stop; None where one token holds rationale and answer.

    A token across a border belongs to the rationale or to the answer rather than to the fixed words: both are scored.
    """
    rationale_stop = sum(start < target.rationale[1] for start, _ in spans)
    closing_stop = max(rationale_stop, sum(stop <= target.closing[1] for _, stop in spans))
    answer_stop = sum(start < target.answer[1] for start, _ in spans)
    return (rationale_stop, closing_stop, answer_stop) if closing_stop < answer_stop else None


def _rationale_chars(spans: Sequence[Span], offset: int, length: int) -> tuple[Span, ...]:
    """The spans in characters of the rationale's text; leading space counts to its first character."""
    return tuple((max(start - offset, 0), min(max(stop - offset, 1), length)) for start, stop in spans)


def _answer_at(rationale: Rationale, spans: Sequence[Span]) -> int | None:
    """Number of tokens before the last mention of the answer."""
    at = last_mention(rationale.text, rationale.question.answer, rationale.question.choices)
    return None if at is None else sum(stop <= at for _, stop in spans) or None


def unused_template(layout: TextLayout, prompt: PromptConfig) -> str:
    """A sentence where a user has changed only the question template that the student does not read; else empty."""
    used, unused = (
        ("chat_question", "question") if _is_chat(layout.tokenizer, prompt) else ("question", "chat_question")
    )
    changed = [name for name in (used, unused) if getattr(prompt, name) != getattr(PromptConfig(), name)]
    if changed != [unused]:
        return ""
    why = "has a chat template" if layout.tokenizer.chat_template else "has no chat template"
    why = "is asked without its chat template (data.prompt.chat)" if not prompt.chat else why
    return f"data.prompt.{unused} is not used: the student {why}, and data.prompt.{used} is what it reads"


def _is_chat(tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig) -> bool:
    return bool(prompt.chat and tokenizer.chat_template)


def _leading(tokenizer: PreTrainedTokenizerBase, before: str) -> str:
    """A space between prompt and rationale, unless the prompt is empty or ends in whitespace or a special token."""
    joined = not before or before[-1].isspace() or before.endswith(tuple(tokenizer.get_added_vocab()))
    return "" if joined else " "


def _start_ids(tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig) -> tuple[int, ...]:
    return () if _is_chat(tokenizer, prompt) else start_ids(tokenizer)


def start_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Special tokens that the tokenizer puts before a plain text; a chat template writes its own."""
    bos = tokenizer.bos_token_id
    return () if bos is None or bos not in tokenizer("").input_ids[:1] else (bos,)
