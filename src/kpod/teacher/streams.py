"""An answer that comes as an event stream, as some endpoints send it unasked: its pieces make a completion."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


def is_stream(text: str, content_type: str = "") -> bool:
    """Whether a reply is an event stream, by its type or by its first line.

    Example:
        >>> is_stream('data: {"choices": []}'), is_stream('{"choices": []}')
        (True, False)
    """
    start = text.lstrip("\ufeff \t\r\n")[:6]
    return start.startswith(("data:", "event:", ":")) or (
        content_type.partition(";")[0].strip().lower() == "text/event-stream" and not start.startswith("{")
    )


def joined(text: str) -> Any:
    r"""The completion that an event stream spells, as it would have come in one piece.

    Args:
        text: The whole stream.

    Returns:
        A completion; or what an event says where it is an error.

    Raises:
        ValueError: If an event is no JSON, or the stream breaks off before its end.

    Example:
        >>> pieces = [{"delta": {"content": "4"}}, {"delta": {"content": "2."}, "finish_reason": "stop"}]
        >>> joined("".join(f"data: {json.dumps({'choices': [piece]})}\n\n" for piece in pieces))["choices"]
        [{'message': {'role': 'assistant', 'content': '42.'}, 'finish_reason': 'stop', 'logprobs': None}]
    """
    body: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}
    tokens: list[Any] = []
    finish: Any = None
    done = False
    for data in _events(text):
        if data == "[DONE]":
            done = True
            break
        event = json.loads(data)
        if not isinstance(event, Mapping):
            continue
        if event.get("error") or event.get("object") == "error":
            return dict(event)
        body |= {name: event[name] for name in ("model", "usage") if event.get(name)}
        choice = _first(event)
        if choice.get("error"):
            return dict(event)
        whole = choice.get("message")
        piece = choice.get("delta") or whole
        if isinstance(piece, Mapping):
            _add(texts, piece, anew=isinstance(whole, Mapping) and piece is whole)
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, Mapping) and isinstance(logprobs.get("content"), list):
            tokens += logprobs["content"]
        finish = choice.get("finish_reason") or finish
    if not (done or finish):
        raise ValueError("the endpoint streams, and the stream breaks off")
    message = {"role": "assistant", **{name: "".join(parts) for name, parts in texts.items()}}
    logprobs = {"content": tokens} if tokens else None
    return {**body, "choices": [{"message": message, "finish_reason": finish, "logprobs": logprobs}]}


def _add(texts: dict[str, list[str]], piece: Mapping[str, Any], anew: bool) -> None:
    """Add a piece's texts; a whole message, with which some streams end, stands for all pieces before it."""
    for name in _TEXTS:
        value = piece.get(name)
        if isinstance(value, list):  # in parts
            said = [part.get("text") for part in value if isinstance(part, Mapping)]
            value = "".join(part for part in said if isinstance(part, str))
        if isinstance(value, str) and value:
            if anew:
                texts[name] = []
            texts.setdefault(name, []).append(value)


def _first(event: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else {}


def _events(text: str) -> Iterator[str]:
    """The data of each event; a line ends in a line feed, with a carriage return or without."""
    data: list[str] = []
    for line in [*text.lstrip("\ufeff").replace("\r\n", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line.strip() and data:
            apart = all(line.startswith(("{", "[DONE]")) for line in data)  # some servers leave out the empty lines
            yield from data if apart else ["\n".join(data)]
            data = []
