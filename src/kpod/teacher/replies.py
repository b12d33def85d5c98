"""Read an endpoint's answer, which may be anything: a completion, a proxy's page, half a text, nothing."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kpod.records import Span
from kpod.teacher.attempts import Attempt, Outcome, TokenLogprob

_THOUGHT = re.compile(r"\A\s*(?:<think(?:ing)?>)?(?P<thought>.*)</think(?:ing)?>", re.DOTALL)
_OPEN_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>")

FAILED_FINISHES: Mapping[str, Outcome] = {
    "length": "truncated",
    "max_tokens": "truncated",
    "content_filter": "filtered",
    "safety": "filtered",
}
"""Reasons to stop that leave no whole text."""


def attempt_of(key: str, body: object, seconds: float = 0.0) -> Attempt:
    """What a chat completion says.

    Args:
        key: The request's.
        body: The endpoint's answer as parsed JSON, of whatever type.
        seconds: How long it took.

    Returns:
        `answered` where there is a whole text; `no completion` where the body is none, `empty` where it holds no text,
        or why the text is not whole.

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
    written, refusal, finish = _text(message.get("content")), _text(message.get("refusal")), choice.get("finish_reason")
    thought, text = _without_thought(written)
    told = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    outcome: Outcome = FAILED_FINISHES.get(str(finish).lower(), "answered")
    if outcome == "answered" and refusal and not text.strip():
        outcome = "refused"
    elif outcome == "answered" and not text.strip():
        outcome = "empty"
    usage = body.get("usage") if isinstance(body.get("usage"), Mapping) else {}
    return Attempt(
        key,
        outcome,
        text=text,
        reasoning=told or thought,
        finish_reason=None if finish is None else str(finish),
        model=_text(body.get("model")) or None,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        seconds=round(seconds, 3),
        detail=refusal,
        logprobs=_logprobs(choice.get("logprobs"), written, len(written) - len(text)),
    )


def _first_choice(body: object) -> Mapping[str, Any] | None:
    choices = body.get("choices") if isinstance(body, Mapping) else None
    first = choices[0] if isinstance(choices, Sequence) and choices else None
    return first if isinstance(first, Mapping) else None


def _without_thought(written: str) -> tuple[str, str]:
    """What stands in a <think> block, which a template may have opened or a limit left open, and what follows it."""
    closed = _THOUGHT.match(written)
    if closed:
        return closed["thought"].strip(), written[closed.end() :].lstrip()
    return (_OPEN_THOUGHT.sub("", written).strip(), "") if _OPEN_THOUGHT.match(written) else ("", written)


def _logprobs(given: object, written: str, offset: int) -> tuple[TokenLogprob, ...] | None:
    """Log-probabilities of the tokens of `written[offset:]`; None where there are none, or they spell another text."""
    tokens = given.get("content") if isinstance(given, Mapping) else None
    if not isinstance(tokens, Sequence) or not tokens:
        return None
    try:
        spans = _spans([_bytes(token) for token in tokens], written)
        read = [
            TokenLogprob(
                (start - offset, stop - offset),
                min(float(token["logprob"]), 0.0),
                {str(other["token"]): float(other["logprob"]) for other in token.get("top_logprobs") or ()},
            )
            for token, (start, stop) in zip(tokens, spans or (), strict=True)
            if start >= offset
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return tuple(read)


def _bytes(token: Mapping[str, Any]) -> bytes:
    """A token as bytes: tokens may be parts of a character, whose text is then no part of the whole text."""
    return bytes(token["bytes"]) if token.get("bytes") is not None else str(token["token"]).encode()


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


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _shown(body: object) -> str:
    return f"the endpoint sent no completion but {str(body)[:200]!r}"
