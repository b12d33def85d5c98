"""Read chats from data sets: lists of messages, as `role`/`content` (OpenAI, TRL) or `from`/`value` (ShareGPT)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from kpod.data.cells import UnusableError, whole_text
from kpod.records.errors import DataError

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("user", "human", "prompter", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "chatbot", "bing", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Who speaks; a name that is not here (`tool`, `observation`) is left aside."""
_ROLE_KEYS, _TEXT_KEYS = ("role", "from"), ("content", "value")
_THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says until the other one speaks.

    Attributes:
        role: `user`, `assistant`, `system` or another name of the file.
        text: Several messages are joined by a blank line. A thought that a message holds apart stands in <think> tags.
    """

    role: str
    text: str


def turns_of(cell: object) -> list[Turn] | None:
    """The turns of a chat; None where a cell is no list of messages. In a CSV the list is JSON.

    Raises:
        DataError: If a message has no text.
        UnusableError: If a text holds a broken character.

    Example:
        >>> turns_of([{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}])
        [Turn(role='user', text='2 + 2?'), Turn(role='assistant', text='4')]
    """
    messages = _messages(cell)
    if messages is None:
        return None
    told = [(_role(message), _text(message)) for message in messages]
    grouped = ((role, [text for _, text in group]) for role, group in groupby(told, key=lambda turn: turn[0]))
    return [Turn(role, "\n\n".join(filter(None, texts))) for role, texts in grouped]


def first_exchange(turns: Sequence[Turn]) -> tuple[str, str | None]:
    """The first user turn, and the assistant's turn after it; None where nobody answers.

    Raises:
        UnusableError: If no user speaks.
    """
    asked = next((number for number, turn in enumerate(turns) if turn.role == "user" and turn.text.strip()), None)
    if asked is None:
        raise UnusableError("no user turn", "has no message from a user")
    replies = (turn.text for turn in turns[asked + 1 :] if turn.role == "assistant")
    return turns[asked].text, next(replies, None)


def set_aside(turns: Sequence[Turn]) -> Mapping[str, int]:
    """How many turns of a chat `first_exchange` leaves aside, by kind."""
    spoken = [turn for turn in turns if turn.role in ("user", "assistant")]
    return {
        "system messages left aside": sum(turn.role == "system" for turn in turns),
        "further turns left aside": max(len(spoken) - 2, 0),
        "messages of tools or others left aside": len(turns)
        - len(spoken)
        - sum(turn.role == "system" for turn in turns),
    }


def _messages(cell: object) -> Sequence[Mapping[str, Any]] | None:
    if isinstance(cell, str) and cell.lstrip().startswith("[{"):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return None
    rows = cell if isinstance(cell, list) else []
    is_chat = bool(rows) and all(isinstance(row, Mapping) and _key(row, _ROLE_KEYS) for row in rows)
    return rows if is_chat else None


def _role(message: Mapping[str, Any]) -> str:
    role = str(message[_key(message, _ROLE_KEYS)]).strip().lower()
    return ROLES.get(role, role)


def _text(message: Mapping[str, Any]) -> str:
    key = _key(message, _TEXT_KEYS)
    content = message[key] if key else None
    if isinstance(content, list):  # parts, as {"type": "text", "text": ...}
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "".join(part for part in parts if isinstance(part, str))
    if content is not None and not isinstance(content, str):
        raise DataError("has a message whose content is not a text")
    thought = next((message[key] for key in _THOUGHT_KEYS if isinstance(message.get(key), str) and message[key]), None)
    said = whole_text(content or "")
    return f"<think>{whole_text(thought)}</think>\n\n{said}" if thought else said


def _key(message: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((key for key in keys if message.get(key) is not None), "")
