"""From a question, a rationale with its steps, and an answer to one id sequence. The only place that does it.

Segments and steps are found by character offsets of one tokenisation, never by searching token patterns.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from kpod.data.mentions import first_statement
from kpod.data.prompts import Completion, completion
from kpod.data.views import View, plain_views
from kpod.lm.alignment import token_spans
from kpod.lm.layout import TextLayout
from kpod.lm.student_prompts import asked_ids, leading, prompt_start, prompt_texts
from kpod.lm.templates import open_thought
from kpod.recipe import DataConfig, PromptConfig
from kpod.records import Dropped, Rationale, Span, TokenizedRationale, WeightSpan
from kpod.records.columns import parts
from kpod.records.errors import DataError
from kpod.records.progress import ProgressBar
from kpod.steps import split_steps, step_stops_of
from kpod.steps.merging import merge_shortest

log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

UNALIGNED = "cannot be aligned with its tokens"
BATCH, CHARACTERS = 512, 2**20
"""Rationales, and characters of them, that go through the tokenizer together, at most."""


def encode(
    layout: TextLayout,
    rationale: Rationale,
    step_spans: Sequence[Span],
    prompt: PromptConfig,
    max_length: int,
) -> TokenizedRationale | Dropped:
    """One rationale as `encode_batch` encodes it, and where it first states its answer."""
    (found,) = encode_batch(layout, [rationale], [step_spans], prompt, max_length)
    return found if isinstance(found, Dropped) else with_statement(rationale, found)


def with_statement(rationale: Rationale, tokens: TokenizedRationale) -> TokenizedRationale:
    """A tokenised rationale with `before_answer`: the tokens that hold no character of its answer's first statement.

    To find the statement takes longer than all else in `encode`, and only the learning of weights asks for it.
    """
    question = rationale.question
    at = first_statement(rationale.text, question.answer, question.choices, question.question)
    before = None if at is None else int(np.count_nonzero(tokens.char_spans[:, 1] <= at)) or None
    return replace(tokens, before_answer=before)


def encode_batch(
    layout: TextLayout,
    rationales: Sequence[Rationale],
    step_spans: Sequence[Sequence[Span]],
    prompt: PromptConfig,
    max_length: int,
) -> list[TokenizedRationale | Dropped]:
    """Tokenise `question | rationale | closing | answer | end` and mark where every part and step stops.

    A causal model's prompt and target are tokenised as one text, an encoder-decoder model's apart. The space that
    parts a plain prompt from the rationale is written by the student, so it counts to the rationale. What becomes of
    one rationale does not depend on the others.

    Args:
        layout: The tokenizer and its special ids; a LanguageModel is one.
        rationales: The rationales with their questions.
        step_spans: Of each the character spans that tile it, from `kpod.steps.split_steps`.
        prompt: The words around them.
        max_length: Longest sequence in tokens, prompt included; the model's own context is a limit beside it.

    Returns:
        Of each its sequence. Or Dropped where it is too long (nothing is ever cut), where tokens merge across the
        borders of prompt, rationale and answer, so that the student would be trained on other ids than it is asked,
        where a token that ends texts stands inside, or where characters cannot be found again in the tokens.

    Raises:
        ConfigError: As `prompt_text`.
    """
    texts = _tokenised(layout, list(plain_views(rationales, prompt)))
    return [_encoded(layout, text, spans, max_length) for text, spans in zip(texts, step_spans, strict=True)]


def encode_all(
    layout: TextLayout, rationales: Sequence[Rationale], data: DataConfig
) -> Iterator[TokenizedRationale | Dropped]:
    """Every rationale in its plain view, as `encode_views` does it."""
    return encode_views(layout, plain_views(rationales, data.prompt), data, len(rationales))


def encode_views(
    layout: TextLayout, views: Iterable[View], data: DataConfig, number: int
) -> Iterator[TokenizedRationale | Dropped]:
    """Split rationales into steps and encode their views, one result for each; a bar shows how far it is.

    The next batch is tokenised in a thread, outside of Python's lock, while the steps of this one are found.

    Args:
        layout: The tokenizer and its special ids; a LanguageModel is one.
        views: What is encoded, one view after the other.
        data: The recipe's `data`: step rule, most steps, and longest sequence in tokens.
        number: How many views there are.
    """
    batches = parts(views, lambda view: len(view.rationale.text), BATCH, CHARACTERS)
    with ProgressBar(total=number, name="tokens", unit="rationales") as progress:
        for texts in _ahead(lambda batch: _tokenised(layout, batch), batches):
            for text in texts:
                steps = split_steps(text.view.text, data.step_rule) if text.view.text else []
                yield _encoded(layout, text, merge_shortest(steps, data.max_steps), data.max_length)
            progress.update(len(texts))


def _ahead(work: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """What work makes of each item; the next one is made while one is used."""
    with ThreadPoolExecutor(1) as worker:
        waiting: Future[_Made] | None = None
        for item in items:
            following = worker.submit(work, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


@dataclass(frozen=True, slots=True)
class _Text:
    """A view with what the tokenizer makes of it.

    Attributes:
        view: The view.
        before: The prompt, where it stands in one text with the target; empty for an encoder-decoder model.
        target: What is written.
        asked: The ids of the prompt alone, as `prompt_ids` says.
        num_start: How many of these the tokenizer starts any text with.
        ids: Those of both; None where no tokenizer takes the text, since it has half of a surrogate pair.
        offsets: The characters of `ids`.
    """

    view: View
    before: str
    target: Completion
    asked: list[int]
    num_start: int
    ids: list[int] | None
    offsets: list[Span]


def _tokenised(layout: TextLayout, views: Sequence[View]) -> list[_Text]:
    """Views through the tokenizer, all together."""
    tokenizer = layout.tokenizer
    prompts = _prompts(tokenizer, views)
    befores = ["" if layout.encoder_decoder else read for read in prompts]
    targets = [
        completion(
            view.text, view.answer, closing_its_thought(read, view.text, view.prompt), leading(tokenizer, before)
        )
        for view, read, before in zip(views, prompts, befores, strict=True)
    ]
    wholes = [before + target.text for before, target in zip(befores, targets, strict=True)]
    sound = [_is_unicode(read + whole) for read, whole in zip(prompts, wholes, strict=True)]
    starts = {view.prompt: prompt_start(tokenizer, view.prompt) for view in views}
    asked = iter(asked_ids(layout, list(compress(prompts, sound))))
    read = _with_offsets(tokenizer, list(compress(wholes, sound)))
    return [
        _Text(view, before, target, [*starts[view.prompt], *next(asked)], len(starts[view.prompt]), *next(read))
        if is_sound
        else _Text(view, before, target, [], 0, None, [])
        for view, before, target, is_sound in zip(views, befores, targets, sound, strict=True)
    ]


def _prompts(tokenizer: PreTrainedTokenizerBase, views: Sequence[View]) -> list[str]:
    """What the student reads before it writes, of each view; those with the same words around them together."""
    found: dict[int, str] = {}
    by_prompt: dict[PromptConfig, list[int]] = {}
    for number, view in enumerate(views):
        by_prompt.setdefault(view.prompt, []).append(number)
    for prompt, numbers in by_prompt.items():
        questions = [views[number].rationale.question for number in numbers]
        leads = [views[number].lead for number in numbers]
        found |= zip(numbers, prompt_texts(tokenizer, questions, prompt, leads), strict=True)
    return [found[number] for number in range(len(views))]


def _is_unicode(text: str) -> bool:
    """Whether the text has no half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_offsets(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Iterator[tuple[list[int], list[Span]]]:
    """Of each text its ids and their offsets."""
    if not texts:
        return iter(())
    found = tokenizer(
        texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    return zip(found["input_ids"], found["offset_mapping"], strict=True)


def _encoded(
    layout: TextLayout, text: _Text, step_spans: Sequence[Span], max_length: int
) -> TokenizedRationale | Dropped:
    view, target, asked, border = text.view, text.target, text.asked, len(text.before)
    if text.ids is None:
        return Dropped(view.id, UNALIGNED)
    try:
        spans = token_spans(text.offsets, text.before + target.text, view.id, border)
    except DataError as error:
        log.debug("%s", error)
        return Dropped(view.id, UNALIGNED)
    num_prompt = int(np.count_nonzero(spans[:, 1] <= border))
    if border and text.ids[:num_prompt] != asked[text.num_start :]:
        return Dropped(view.id, "prompt and rationale merge into one token")
    written = text.ids[num_prompt:]
    if reason := _unfit(layout, asked, written, max_length):
        return Dropped(view.id, reason)
    spans = np.maximum(spans[num_prompt:] - border, 0)
    stops = _part_stops(spans, target)
    if stops is None:
        return Dropped(view.id, "rationale and answer merge into one token")
    if not asked or bool(stops[0]) != bool(view.text):
        return Dropped(view.id, UNALIGNED)
    chars = _rationale_chars(spans[: stops[0]], target.rationale_offset, len(view.text))
    num_asked, num_all = len(asked), len(asked) + len(written) + 1
    return TokenizedRationale(
        id=view.id,
        token_ids=np.array([*asked, *written, layout.end_id], dtype=np.int32),
        segment_stops=(num_asked, num_asked + stops[0], num_asked + stops[1], num_asked + stops[2], num_all),
        step_stops=step_stops_of(step_spans, chars) if view.text else (),
        char_spans=chars,
        task=view.task,
        group=view.group,
        num_read=stops[1] if view.trains == "answer" else 0,
    )


def encode_rationales(
    layout: TextLayout, rationales: Sequence[Rationale], data: DataConfig
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
    results = list(encode_all(layout, rationales, data))
    tokens = [with_statement(one, r) for one, r in zip(rationales, results, strict=True) if not isinstance(r, Dropped)]
    return tokens, [r for r in results if isinstance(r, Dropped)]


def project_spans(spans: Sequence[WeightSpan], char_spans: Sequence[Span] | NDArray[np.int32]) -> NDArray[np.float32]:
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


def closing_its_thought(read: str, rationale: str, prompt: PromptConfig) -> PromptConfig:
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


def _part_stops(spans: NDArray[np.int32], target: Completion) -> tuple[int, int, int] | None:
    """Number of tokens until rationale, closing and answer stop; None where one token holds rationale and answer.

    A token across a border belongs to the rationale or to the answer rather than to the fixed words: both are scored.
    """
    starts, stops = spans.T
    rationale_stop = int(np.count_nonzero(starts < target.rationale[1]))
    closing_stop = max(rationale_stop, int(np.count_nonzero(stops <= target.closing[1])))
    answer_stop = int(np.count_nonzero(starts < target.answer[1]))
    is_apart = closing_stop < answer_stop or target.answer[0] == target.answer[1]
    return (rationale_stop, closing_stop, answer_stop) if is_apart else None


def _rationale_chars(spans: NDArray[np.int32], offset: int, length: int) -> NDArray[np.int32]:
    """The spans in characters of the rationale's text; leading space counts to its first character."""
    chars: NDArray[np.int32] = np.minimum(np.maximum(spans - offset, np.array((0, 1), dtype=np.int32)), length)
    return chars
