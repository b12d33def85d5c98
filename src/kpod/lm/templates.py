"""Chat templates: render them the same every day, test them before they are trusted, and find open thoughts."""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from kpod.lm.trial import check_template
from kpod.records.errors import ConfigError

FAULTS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What an expression in a template may raise."""

_THOUGHT = r"(?:thinking|think|thoughts?|reasoning|reason|reflection|scratchpad)"
THOUGHTS = (
    (re.compile(rf"<((?:[\w.-]+:)?{_THOUGHT})>", re.IGNORECASE), "</{}>"),
    (re.compile(rf"\[({_THOUGHT})\]", re.IGNORECASE), "[/{}]"),
    (re.compile(rf"◁({_THOUGHT})▷", re.IGNORECASE), "◁/{}▷"),
    (re.compile(rf"<\|({_THOUGHT})\|>", re.IGNORECASE), "<|/{}|>"),
    (re.compile(rf"<\|begin_of_({_THOUGHT})\|>"), "<|end_of_{}|>"),
    (re.compile(rf"<\|START_({_THOUGHT})\|>", re.IGNORECASE), "<|END_{}|>"),
)
"""Tags that open a thought, and the form of the tag that ends it."""
LONGEST_TAG = 64

PROBE = "What is 6 times 7?"
_CLOCK = threading.RLock()


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, object]],
    date: str,
    *,
    name: str,
    advice: str,
    generates: bool = True,
) -> str:
    """One conversation as `render_chats` renders it."""
    return render_chats(tokenizer, [messages], date, name=name, advice=advice, generates=generates)[0]


def render_chats(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Mapping[str, object]]],
    date: str,
    *,
    name: str,
    advice: str,
    generates: bool = True,
) -> list[str]:
    """Conversations as the tokenizer's chat template writes them, on a given day.

    The first conversation of each kind is rendered in a process of its own before: see `kpod.lm.trial`.

    Args:
        tokenizer: One with a chat template.
        conversations: Of each the messages with `role` and `content`.
        date: YYYY-MM-DD; what the template takes for today (its `strftime_now`).
        name: The recipe's key, or whatever else an error starts with.
        advice: What to do where the template fails.
        generates: Whether the words that start an answer are added.

    Raises:
        ConfigError: If the template fails, refuses the messages, or takes too much time or memory.
    """
    if not conversations:
        return []
    given = cast("list[list[dict[str, str]]]", [list(map(dict, messages)) for messages in conversations])
    try:
        template = tokenizer.get_chat_template()
        for roles in {tuple(str(message.get("role")) for message in messages) for messages in conversations}:
            _check(tokenizer, template, roles, generates)
        with _clock_at(template, datetime.fromisoformat(date)):
            return cast(
                "list[str]", tokenizer.apply_chat_template(given, add_generation_prompt=generates, tokenize=False)
            )
    except FAULTS as error:
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        raise ConfigError(
            f"{name}: the chat template of {tokenizer.name_or_path!r} refuses the messages: {kind}{error}; {advice}"
        ) from error


def open_thought(text: str) -> str | None:
    r"""The tag that ends the thought which a text ends in; None where it does not end in one that is open.

    Example:
        >>> open_thought("User: 2 + 2? Assistant: <think>\n")
        '</think>'
        >>> open_thought("Assistant: <think>\n\n</think>\n\n") is None
        True
    """
    end = text[-LONGEST_TAG - 16 :].rstrip()[-LONGEST_TAG:]
    for opens, closes in THOUGHTS:
        for match in opens.finditer(end):
            if match.end() == len(end):
                return closes.format(match[1])
    return None


def _check(tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...], generates: bool) -> None:
    """Refuse a template that breaks a limit on a short conversation of these roles."""
    if fault := _fault(template, roles, json.dumps(tokenizer.special_tokens_map, default=str), generates):
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path!r} {fault}; get the student from a trusted source, or "
            "correct its chat_template.jinja"
        )


@lru_cache(maxsize=64)
def _fault(template: str, roles: tuple[str, ...], special_tokens: str, generates: bool) -> str | None:
    messages = [{"role": role, "content": PROBE} for role in roles]
    values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": generates}
    return check_template(template, json.loads(special_tokens) | values)


@contextmanager
def _clock_at(template: str, day: datetime) -> Iterator[None]:
    """While active, the template takes this for today; transformers gives every template the real clock."""
    names: Any = _compile_jinja_template(template).globals
    with _CLOCK:
        names["strftime_now"] = day.strftime
        try:
            yield
        finally:
            del names["strftime_now"]
