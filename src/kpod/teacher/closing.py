"""The sentence that states the answer, at the end of what a teacher wrote: a student's prompt brings its own."""

import re
from collections.abc import Sequence

from kpod.data.markup import plain_characters
from kpod.data.statements import LONGEST_STATEMENT, anchors
from kpod.records import Span
from kpod.steps import split_steps

_LEAD_IN = re.compile(
    r"(?:[\s,;:*_#$\\({\[-]|\b(?:so|therefore|thus|hence|and|then|finally|which means|this means|in conclusion|that|we"
    r"|the|our|my|your|final|correct|right|best|get|have|conclude|can|now|know|see|say|it follows)\b)*\Z",
    re.IGNORECASE,
)
_LONGEST_LEAD_IN = 200
_MOST_LOOKS = 10
_MOST_STATEMENTS = 1000
# What leads to an answer in another language, or to a user's own words, is not known: a step's few words do.
_ENGLISH = re.compile(r"answer|option|choice|statement|\bans\b|[#\\<\[]", re.IGNORECASE)
_ANY_LEAD_IN = re.compile(r"\A\D{0,60}\Z")
_SUPPOSED = re.compile(
    r"\b(?:if|since|because|when|whether|unless|once|to (?:find|get|calculate|obtain|reach))\s+(?:\w+\s+){0,3}\Z",
    re.IGNORECASE,
)
_REASONED = re.compile(r"\b(?:because|since)\s+\w|\d[\s)%]{0,3}[-+*/×÷−][\s($]{0,3}\d[^=\n]{0,80}=", re.IGNORECASE)
_NOTHING_MORE = re.compile(r"[\s:*_$\\(\[]*\Z")
_WORD = re.compile(r"\w")
_EDGE = " \t\r\n,;:*_#$\\({[-"


def strip_closing(text: str, words: Sequence[str] = ()) -> str:
    """A rationale without the sentence, or the clause, at its end that states the answer.

    Only the last step is looked at, again and again: an answer that is stated before further reasoning stays where it
    is. So does one whose sentence is a step itself: "the answer is 3 + 4 = 7", "the answer is B because ...", "if the
    answer is 7, then ...". Empty where the text does nothing but state an answer. Takes a time linear in the text; one
    that goes on to state answers after the tenth look, or the thousandth statement of a step, keeps what is left.

    Args:
        text: What a teacher wrote.
        words: Further words that introduce an answer (`data.answer_words`).

    Example:
        >>> strip_closing("3 + 4 = 7. Therefore, the answer is 7.")
        '3 + 4 = 7.'
        >>> strip_closing("Since 3 + 4 = 7, the answer is 7."), strip_closing("#### 7")
        ('Since 3 + 4 = 7', '')
    """
    text = text.strip()
    kept = plain_characters(text)  # as long as the text
    for _ in range(_MOST_LOOKS):  # a shorter text may be split into other steps
        longer, kept = kept, _shortened(kept, words) if kept else ""
        if kept == longer:
            break
    return text[: len(kept)]


def _shortened(text: str, words: Sequence[str]) -> str:
    """The text without the statements that its last steps make."""
    for start, stop in reversed(_steps(text, words)):
        kept = _kept_of(text, start, stop, words)
        if _WORD.search(text, start, kept):
            return text[:kept].rstrip()
    return ""


def _steps(text: str, words: Sequence[str]) -> list[Span]:
    """The steps of a text; "the answer is:" and the answer below it are one."""
    steps = split_steps(text)
    if len(steps) > 1 and steps[-1][1] - steps[-1][0] <= LONGEST_STATEMENT:
        (start, middle), (_, stop) = steps[-2:]
        if any(_NOTHING_MORE.match(text, match.end(), middle) for match in anchors(text, words, start, middle)[-1:]):
            return [*steps[:-2], (start, stop)]
    return steps


def _kept_of(text: str, start: int, stop: int, words: Sequence[str]) -> int:
    """Where a step ends without the statements at its end."""
    found = anchors(text, words, start, stop)[-_MOST_STATEMENTS:]
    word = _WORD.search(text, start, stop)
    for position, stated in reversed(list(enumerate(found))):
        if stated["boxed"] and any(not earlier["boxed"] for earlier in found[max(0, position - 1) : position]):
            continue  # "the answer is $\\boxed{7}$" is one statement
        tail = max(start, stated.start() - _LONGEST_LEAD_IN)
        before, limit = text[tail : stated.start()], min(stop, stated.end() + LONGEST_STATEMENT)
        if _SUPPOSED.search(before) or _REASONED.search(text, stated.end(), limit):
            return stop
        known = _LEAD_IN if _ENGLISH.search(stated[0]) or tail > start else _ANY_LEAD_IN
        lead_in = known.search(before)
        kept = tail + len(before[: lead_in.start() if lead_in else None].rstrip(_EDGE))
        if stated["boxed"] and word and word.start() < kept:
            return stop  # "The total is \\boxed{7}": the sentence is needed
        stop = kept
    return stop
