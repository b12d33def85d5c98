"""From a question, a rationale with its steps, and an answer to one id sequence. The only place that does it.

Segments and steps are found by character offsets of one tokenisation, never by searching token patterns.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from kpod.data.mentions import first_statement
from kpod.data.prompts import Completion, chat_message, completion, plain_prompt
from kpod.lm.alignment import tiling_offsets
from kpod.lm.layout import TextLayout
from kpod.lm.templates import open_thought, render_chat
from kpod.recipe import DataConfig, PromptConfig
from kpod.records import Dropped, Question, Rationale, Span, TokenizedRationale, WeightSpan
from kpod.records.errors import ConfigError, DataError
from kpod.steps import split_steps, step_stops_of
from kpod.steps.merging import merge_shortest

log = logging.getLogger(__name__)

UNALIGNED = "cannot be aligned with its tokens"


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: Question, prompt: PromptConfig) -> str:
    """What the student reads before it writes: through its chat template where it has one, else the plain template.

    Raises:
        ConfigError: If the chat template fails, or opens a thought that `prompt.opening` opens again.
    """
    if not _is_chat(tokenizer, prompt):
        text = plain_prompt(question, prompt)
    else:
        message = [{"role": "user", "content": chat_message(question, prompt)}]
        advice = "set data.prompt.chat: false for the plain prompt"
        text = render_chat(tokenizer, message, prompt.date, name="data.prompt", advice=advice)
    if not prompt.opening:
        return text
    if open_thought(text) and open_thought(prompt.opening):
        raise ConfigError(
            f"data.prompt.opening is {prompt.opening!r}, but the prompt already ends in {text[-20:]!r}, which opens "
            "the student's thought; leave data.prompt.opening out"
        )
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

    Raises:
        ConfigError: If the chat template refuses the messages.
    """
    tokenizer = layout.tokenizer
    if tokenizer.chat_template:
        has_system = any(message["role"] == "system" for message in messages)
        advice = (
            "set teacher.ask.prompt.system to null and put its words into teacher.ask.prompt.template"
            if has_system
            else "ask another model"
        )
        text = render_chat(tokenizer, messages, PromptConfig.date, name="teacher.ask.prompt", advice=advice)
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
        prompt, rationale and answer, so that the student would be trained on other ids than it is asked, where a
        token that ends texts stands inside, or where characters cannot be found again in the tokens.

    Raises:
        ConfigError: As `prompt_text`.
    """
    tokenizer, question = layout.tokenizer, rationale.question
    read = prompt_text(tokenizer, question, prompt)
    before = "" if layout.encoder_decoder else read
    closing = _closing_its_thought(read, rationale.text, prompt)
    target = completion(rationale.text, question.answer, closing, _leading(tokenizer, before))
    text = before + target.text
    if not _is_unicode(read + text):
        return Dropped(rationale.id, UNALIGNED)
    asked = prompt_ids(layout, question, prompt)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    try:
        spans = tiling_offsets(encoding["offset_mapping"], text, rationale.id, len(before))
    except DataError as error:
        log.debug("%s", error)
        return Dropped(rationale.id, UNALIGNED)
    num_prompt = sum(stop <= len(before) for _, stop in spans)
    if before and (*_start_ids(tokenizer, prompt), *encoding.input_ids[:num_prompt]) != asked:
        return Dropped(rationale.id, "prompt and rationale merge into one token")
    written = tuple(encoding.input_ids[num_prompt:])
    if reason := _unfit(layout, asked, written, max_length):
        return Dropped(rationale.id, reason)
    spans = [(max(start - len(before), 0), stop - len(before)) for start, stop in spans[num_prompt:]]
    stops = _part_stops(spans, target)
    if stops is None:
        return Dropped(rationale.id, "rationale and answer merge into one token")
    if not (asked and stops[0]):
        return Dropped(rationale.id, UNALIGNED)
    chars = _rationale_chars(spans[: stops[0]], target.rationale_offset, len(rationale.text))
    num_asked, num_all = len(asked), len(asked) + len(written) + 1
    return TokenizedRationale(
        id=rationale.id,
        token_ids=(*asked, *written, layout.end_id),
        segment_stops=(num_asked, num_asked + stops[0], num_asked + stops[1], num_asked + stops[2], num_all),
        step_stops=step_stops_of(step_spans, chars),
        char_spans=chars,
        before_answer=_before_answer(rationale, chars),
    )


def encode_rationales(
    layout: TextLayout, rationales: Iterable[Rationale], data: DataConfig
) -> tuple[list[TokenizedRationale], list[Dropped]]:
    """Rationales in the tokens and steps of a student; also those that cannot be, with reasons.

    Args:
        layout: The student's tokenizer and special ids; a LanguageModel is one.
        rationales: As `filter_rationales` keeps them.
        data: The recipe's `data`: step rule, most steps, longest sequence in tokens, and the words around.

    Returns:
        The tokenised rationales in their order, then the dropped ones; see `encode`. Nothing is ever cut.

    Raises:
        ConfigError: If the chat template fails; see `prompt_text`.
    """
    results = [
        encode(
            layout, r, merge_shortest(split_steps(r.text, data.step_rule), data.max_steps), data.prompt, data.max_length
        )
        for r in rationales
    ]
    tokens = [r for r in results if isinstance(r, TokenizedRationale)]
    return tokens, [r for r in results if isinstance(r, Dropped)]


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


def _closing_its_thought(read: str, rationale: str, prompt: PromptConfig) -> PromptConfig:
    """The prompt's settings, with a closing that ends the thought which the prompt opens and nothing else closes."""
    tag = open_thought(read)
    if not tag or tag in rationale or tag in prompt.closing:
        return prompt
    return replace(prompt, closing=f"\n{tag}\n\n{prompt.closing.lstrip()}")


def _unfit(layout: TextLayout, asked: Sequence[int], written: Sequence[int], max_length: int) -> str | None:
    """Why the model cannot be trained on these ids, if it cannot."""
    if layout.end_id in written:
        return "holds the end token"
    if layout.vocabulary and max(*asked, *written, 0) >= layout.vocabulary:
        return f"holds a token that the student's {layout.vocabulary} embeddings lack"
    length = len(asked) + len(written) + 1
    if layout.context and length > layout.context < max_length:
        return f"longer than the student's context of {layout.context} tokens"
    return f"longer than data.max_length {max_length} tokens" if length > max_length else None


def _is_unicode(text: str) -> bool:
    """Whether the text has no half of a surrogate pair, which no tokenizer takes."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


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


def _before_answer(rationale: Rationale, spans: Sequence[Span]) -> int | None:
    """Number of tokens that hold no character of the answer's first statement, nor of anything behind it."""
    question = rationale.question
    at = first_statement(rationale.text, question.answer, question.choices, question.question)
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
