"""Read an endpoint's answer, which may be anything: a completion, a proxy's page, half a text, nothing."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from kpod.data.thoughts import part_thoughts
from kpod.records import Span
from kpod.teacher.attempts import Attempt, Outcome, TokenLogprob

FAILED_FINISHES: Mapping[str, Outcome] = {
    "length": "truncated",
    "max_tokens": "truncated",
    "model_length": "truncated",
    "model_context_window_exceeded": "truncated",
    "content_filter": "filtered",
    "safety": "filtered",
    "recitation": "filtered",
    "sensitive": "filtered",
    "refusal": "refused",
    "error": "server error",
    "abort": "server error",
    "network_error": "server error",
    "insufficient_system_resource": "server error",
}
"""Reasons to stop that leave no whole text."""
IMPOSSIBLE = -9999.0
"""The least log-probability that is told."""
_SHOW = reprlib.Repr()
_SHOW.maxstring = _SHOW.maxother = 200


def attempt_of(key: str, body: object, seconds: float = 0.0) -> Attempt:
    """What a chat completion says.

    Args:
        key: The request's.
        body: The endpoint's answer as parsed JSON, of whatever type.
        seconds: How long it took.

    Returns:
        `answered` where there is a whole text; `no completion` where the body is none, `empty` where it holds no text,
        `unclear thought` where the tags around its thoughts do not pair up, or why the text is not whole.

    Example:
        >>> body = {"choices": [{"message": {"content": "<think>6 * 7</think>42."}, "finish_reason": "stop"}]}
        >>> attempt = attempt_of("k", body)
        >>> attempt.outcome, attempt.reasoning, attempt.text
        ('answered', '6 * 7', '42.')
    """
    choice = _first_choice(body)
    message = choice.get("message") if choice else None
    if not isinstance(body, Mapping) or choice is None or not isinstance(message, Mapping):
        return Attempt(key, "no completion", seconds=seconds, detail=_shown(body))
    written, refusal = _text(message.get("content")), _text(message.get("refusal"))
    finish = _text(choice.get("finish_reason"))
    parted = part_thoughts(written)
    text = parted.text
    told = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    told = told or _text(message.get("content"), "thinking")
    # Gemini's endpoint names the filter behind a colon
    outcome: Outcome = FAILED_FINISHES.get(finish.lower().partition(":")[0], "answered")
    if outcome == "answered" and refusal and not text.strip():
        outcome = "refused"
    elif outcome == "answered" and not text.strip():
        outcome = "empty"
    elif outcome == "answered" and not parted.is_clear:
        outcome = "unclear thought"
    usage = body.get("usage") if isinstance(body.get("usage"), Mapping) else {}
    said = outcome in ("answered", "truncated", "unclear thought")
    return Attempt(
        key,
        outcome,
        text=text if said else "",
        reasoning=told or parted.thought,
        finish_reason=finish or None,
        model=_text(body.get("model")) or None,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        seconds=round(seconds, 3),
        detail=refusal or (f"the answer ends with finish_reason {finish!r}" if outcome == "server error" else ""),
        logprobs=_logprobs(choice.get("logprobs"), written, parted.spans) if said else None,
    )


def _first_choice(body: object) -> Mapping[str, Any] | None:
    choices = body.get("choices") if isinstance(body, Mapping) else None
    first = choices[0] if isinstance(choices, Sequence) and choices else None
    return first if isinstance(first, Mapping) else None


def _logprobs(given: object, written: str, kept: Sequence[Span]) -> tuple[TokenLogprob, ...] | None:
    """Log-probabilities of the tokens of a text; None where there are none, or they spell another.

    Args:
        given: As the endpoint sent them.
        written: What the tokens spell.
        kept: Where it holds the text. Tokens of a thought before the text are left out; a text that a thought
            interrupts is not what was predicted token by token, so it has none.
    """
    tokens = given.get("content") if isinstance(given, Mapping) else None
    if not isinstance(tokens, Sequence) or not tokens or len(kept) != 1:
        return None
    offset, end = kept[0]
    try:
        spans = _spans([_bytes(token) for token in tokens], written)
        read = [
            TokenLogprob(
                (max(start - offset, 0), min(stop, end) - offset),
                _logprob(token["logprob"]),
                {str(other["token"]): _logprob(other["logprob"]) for other in token.get("top_logprobs") or ()},
            )
            for token, (start, stop) in zip(tokens, spans or (), strict=True)
            # The last token of a thought may hold the text's first characters; an end token has none.
            if (start >= offset or stop > offset) and (start < end or start == stop == len(written) == end)
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return tuple(read)


def _logprob(value: Any) -> float:
    """At most 0, and finite: some servers write -9999 for what is impossible, others null or -Infinity."""
    number = IMPOSSIBLE if value is None else float(value)
    if math.isnan(number):
        raise ValueError("no log-probability")
    return min(max(number, IMPOSSIBLE), 0.0)


def _bytes(token: Mapping[str, Any]) -> bytes:
    """A token as bytes: tokens may be parts of a character, whose text is then no part of the whole text."""
    raw = token.get("bytes")
    return bytes(raw) if isinstance(raw, list) else str(token["token"]).encode()


def _spans(tokens: Sequence[bytes], written: str) -> list[Span] | None:
    """Each token's characters; None unless the tokens, but for an end token, spell the text."""
    content = written.encode()
    stops, reached = [], 0
    for token in tokens:
        if not content.startswith(token, reached):
            break
        reached += len(token)
        stops.append(reached)
    if reached < len(content) or len(tokens) - len(stops) > 1:
        return None
    characters = [position for position, char in enumerate(written) for _ in char.encode()] + [len(written)]
    starts = [0, *stops[:-1]]
    spans = [
        (characters[start], max(characters[stop - 1] + 1, characters[start]) if stop > start else characters[start])
        for start, stop in zip(starts, stops, strict=True)
    ]
    return [*spans, *[(len(written), len(written))] * (len(tokens) - len(stops))]


def _text(value: object, kind: str = "text") -> str:
    """A text, also one in parts (`[{"type": "text", "text": ...}]`), of which those of a kind are joined."""
    if isinstance(value, str):
        return value if kind == "text" else ""
    parts = value if isinstance(value, list) else []
    inner = [part.get(kind) for part in parts if isinstance(part, Mapping)]
    return "".join(part if isinstance(part, str) else _text(part) for part in inner)


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _shown(body: object) -> str:
    return f"the endpoint sent no completion but {_SHOW.repr(body)[:200]}"
