"""Which of a question's options an answer names."""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TypeAlias

from kpod.data.numbers import NUMERAL, mentions, whole_number

Choices: TypeAlias = Mapping[str, str]
"""Option letter -> text."""

ROMAN = re.compile(r"[ivx]+")
BECAUSE = re.compile(r"\b(?:because|since|rather than|instead of|as opposed to)\b")
JOINED = r"(?i:option|choice|letter|or|and|either|both|between|neither|nor|maybe|possibly|perhaps)"


def named_options(core: str, choices: Choices, core_of: Callable[[str], str], tolerance: Fraction) -> set[str]:
    """The options that an answer names: by letter, or else by their whole text, or else by their number.

    Args:
        core: The answer without markup and punctuation around it.
        choices: The question's options.
        core_of: Takes an option's text to the same form.
        tolerance: How far a number may lie from an option's.

    Returns:
        No option where none is named, several where several are ("either A or B").
    """
    keys = {key.casefold(): key for key in choices}
    bare_core = core.strip("[](){}.:<>「」『』《》〔〕 ").casefold()
    if bare_core in keys:
        return {keys[bare_core]}
    texts = {key: folded(core_of(text)) for key, text in choices.items()}
    exact = {key for key, text in texts.items() if text == folded(core)}
    exact = exact or {key for key, text in texts.items() if _close(text) == _close(folded(core))}
    if len(exact) == 1:
        return exact
    head = BECAUSE.split(core, maxsplit=1)[0]
    letter = "|".join(map(re.escape, sorted(keys, key=len, reverse=True)))
    opens = re.match(rf"[(\[]?\s?((?i:{letter}))\s?[)\]]?\s?[.:,–-]?\s+(?=\S)", core)
    if opens and folded(core[opens.end() :]) == texts[keys[opens[1].casefold()]]:
        return {keys[opens[1].casefold()]}  # whatever other letters the option's own text names
    # A bare letter must open the statement or follow "or": "a" is also an article, and A may be a name's initial.
    bare = rf"(?:\A|\b{JOINED}\s[\"'“*]?|[/,;&和或与]\s?)((?i:{letter}))(?![\w'’])"
    pattern = rf"[(\[]\s?((?i:{letter}))\s?[)\]]|{bare}(?:(?<![AaIi])|(?!\s+(?!or\b|and\b|nor\b)[A-Za-z]))"
    stated = re.split(r"\b(?:not|neither)\b", head, maxsplit=1)[0]
    letters = {keys.get((match[1] or match[2]).casefold(), "") for match in re.finditer(pattern, stated)} - {""}
    denies = any(re.search(r"\b(?:not|neither)\b", text) for text in texts.values())
    return letters or _by_text(head if denies else stated, texts) or _by_number(head, choices, core_of, tolerance)


def _close(text: str) -> str:
    """A text without spaces: "3 : 4" as "3:4"."""
    return "".join(text.split())


def folded(text: str) -> str:
    """A text in lower case, with single spaces."""
    return " ".join(text.casefold().split())


def _by_text(head: str, texts: Mapping[str, str]) -> set[str]:
    said = folded(head)
    words = {
        key: text
        for key, text in texts.items()
        if len(text) > 1 and not ROMAN.fullmatch(text) and not NUMERAL.match(text.lstrip("-$€£"))
    }
    found = {key: text for key, text in words.items() if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", said)}
    return {key for key, text in found.items() if not any(text != other and text in other for other in found.values())}


def _by_number(head: str, choices: Choices, core_of: Callable[[str], str], tolerance: Fraction) -> set[str]:
    said = [mention.value for mention in mentions(head) if mention.value is not None]
    whole = whole_number(head)
    said = [whole] if whole is not None else said
    values = {key: whole_number(core_of(text)) for key, text in choices.items()}
    return {
        key for key, value in values.items() if value is not None and any(abs(value - v) <= tolerance for v in said)
    }
