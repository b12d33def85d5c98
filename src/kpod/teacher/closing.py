"""The sentence that states the answer, at the end of what a teacher wrote: a student's prompt brings its own."""

import re

from kpod.data.answers import ANCHOR
from kpod.steps import split_steps

_LEAD_IN = re.compile(
    r"(?:[\s,;:*_#$\\({\[-]|\b(?:so|therefore|thus|hence|and|then|finally|which means|this means|in conclusion|that|we"
    r"|the|our|my|your|final|correct|right|best|get|have|conclude)\b)*\Z",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w")


def strip_closing(text: str) -> str:
    """A rationale without the sentence, or the clause, at its end that states the answer.

    Only the last step is looked at, again and again: an answer that is stated before further reasoning stays where it
    is. Empty where the text does nothing but state an answer.

    Args:
        text: What a teacher wrote.

    Example:
        >>> strip_closing("3 + 4 = 7. Therefore, the answer is 7.")
        '3 + 4 = 7.'
        >>> strip_closing("Since 3 + 4 = 7, the answer is 7."), strip_closing("#### 7")
        ('Since 3 + 4 = 7', '')
    """
    text = text.strip()
    while text:
        start = split_steps(text)[-1][0]
        stated = ANCHOR.search(text, start)
        if stated is None:
            return text
        before = text[start : stated.start()]
        reasoning = before[: _lead_in(before)].rstrip(" \t\r\n,;:*_#$\\({[-")
        if stated["boxed"] and _WORD.search(reasoning):
            return text  # "The total is \boxed{7}": the sentence is needed
        text = (text[:start] + (reasoning if _WORD.search(reasoning) else "")).rstrip()
        if _WORD.search(reasoning):
            return text
    return text


def _lead_in(before: str) -> int:
    """Where the words begin that only introduce the answer."""
    match = _LEAD_IN.search(before)
    return match.start() if match else len(before)
