"""Where a rationale states its answer."""

import re
from collections.abc import Mapping

from kpod.data.numbers import mentions, whole_number


def last_mention(text: str, answer: str, choices: Mapping[str, str] | None = None) -> int | None:
    """The character at which a text states an answer for the last time; None where it never does.

    A number is found by its value, however it is written; an option by its text, or else by its capital letter;
    any other answer as whole words.

    Args:
        text: A rationale.
        answer: The gold answer; of a multiple choice question the option's letter.
        choices: The question's options; None unless multiple choice.

    Example:
        >>> text = "There are 4 + 4 = 8 legs, so 8 * 150 = $1,200 in all."
        >>> text[: last_mention(text, "1200")]
        'There are 4 + 4 = 8 legs, so 8 * 150 = '
        >>> last_mention("People buy there. It is B.", "B", {"A": "bank", "B": "shop"})
        24
    """
    if choices is not None:
        told = _last_words(text, choices[answer])
        return told if told is not None else _last_words(text, answer, exactly=True)
    value = whole_number(answer)
    if value is None:
        return _last_words(text, answer)
    return max((mention.start for mention in mentions(text) if mention.worth == value), default=None)


def _last_words(text: str, words: str, *, exactly: bool = False) -> int | None:
    pattern = re.compile(rf"(?<!\w){re.escape(words.strip())}(?!\w)", 0 if exactly else re.IGNORECASE)
    return max((match.start() for match in pattern.finditer(text)), default=None)
