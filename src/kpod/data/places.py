"""Where a value, or words, stand in a text, whatever they mean there."""

import re
from collections.abc import Iterator
from fractions import Fraction

from kpod.data.answers import are_close
from kpod.data.numbers import FULL_HOUR, NUMERAL, Mention, mentions, numeral_value
from kpod.data.quantities import COMPOUND, quantity
from kpod.data.spoken import NUMBER_WORDS, ORDINALS, SMALL, TENS, spoken_number
from kpod.records import Span

_PARTS = "|".join(["hal(?:f|ves)", "quarters?", *(rf"{word}s?" for word in ORDINALS.split())])
_WORD = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_GAP = r"(?:[ -]|\s+and\s+(?:an?\s+)?|\s+)"
SPOKEN = re.compile(
    rf"(?<![\w-])(?:(?:negative|minus)\s+)?(?:(?:half\s)?an?\s+)?(?:{_WORD}|{_PARTS})(?:{_GAP}(?:{_WORD}|{_PARTS}))*(?!\w)",
    re.IGNORECASE,
)
WORD = re.compile(r"[a-z]+")
# "1{,}200", "1\,200" and "1 200": thousands that a numeral does not hold together.
SPACED = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:\{,\}|,?\\[,!]|[ \u00a0\u2007\u2009\u202f])\d{3}){1,6}(?![\d,])(?:\.\d+)?"
)
DOZENS = re.compile(r"(\d{1,9}|[A-Za-z]{3,9})\s+dozens?\b", re.IGNORECASE)
HUNDREDTHS = re.compile(r"[$€£]?(\d{1,9}(?:\.\d{1,9})?)\s?(?:%|percent\b|per cent\b|cents?\b|¢)", re.IGNORECASE)
NOTHING = re.compile(r"\b(?:none|nothing|no(?:\s[\w'’]{1,20}){1,4}\s(?:left|remain\w*))\b", re.IGNORECASE)
# "2. Add them", "(2) Add", "Step 2": a number that counts the steps states nothing.
STEP_NUMBER = re.compile(
    r"(?:^[^\S\n]{0,8}(?:[-*#>]{1,6}[^\S\n]{0,3})?\(?(\d{1,2})[.):]\*{0,2}(?=[^\S\n]+\S))"
    r"|\b(?:step|part|case|equation)\s?#?\(?(\d{1,2}|[a-z]{3,5})\b",
    re.MULTILINE | re.IGNORECASE,
)
CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")


def number_places(text: str, value: Fraction) -> list[Span]:
    """Where a number stands in a text, in digits or words, with its sign and currency; in the text's order.

    Numbers in a larger expression count (the 8 and the 5 of 8 / 5), and so do thousands however they are grouped,
    scales, fractions, dozens, shares and cents of a number that is not whole, and "none" for zero. Numbers that count
    steps ("2.", "Step 2") do not, nor does a quotient that is not worked out (10/2 for 5), 9:45, or 5 million for 5.

    Args:
        text: Of plain characters.
        value: The number.

    Example:
        >>> text = "Step 1: 12 of a dozen, $12.00, twelve - 120 and 24/2"
        >>> [text[start:stop] for start, stop in number_places(text, Fraction(12))]
        ['12', 'a dozen', '$12.00', 'twelve']
    """
    counting = {match.start(group) for match in STEP_NUMBER.finditer(text) for group in (1, 2) if match[group]}
    found = {*_in_digits(text, value), *_in_words(text, value), *_otherwise(text, value)}
    return sorted(span for span in found if span[0] not in counting)


def word_places(text: str, words: str, *, exactly: bool = False) -> list[Span]:
    """Where words stand in a text as whole words, with any white space between them.

    Args:
        text: To search.
        words: What is searched, in any case.
        exactly: In this case only.
    """
    parts = words.split()
    if not parts:
        return []
    before = r"(?<!\w)" if _has_borders(parts[0][0]) else ""
    after = r"(?!\w)" if _has_borders(parts[-1][-1]) else ""
    pattern = before + r"\s{1,9}".join(map(re.escape, parts)) + after
    return [match.span() for match in re.finditer(pattern, text, 0 if exactly else re.IGNORECASE)]


def _has_borders(character: str) -> bool:
    """Whether a character's script sets words apart by spaces, so that a word's ends can be told."""
    return character < "\u0e00" or "\u1e00" <= character < "\u2e80"


def _same(one: Fraction, other: Fraction) -> bool:
    """Whether two numbers are the same answer."""
    return one == other or ((one.denominator != 1 or other.denominator != 1) and are_close(one, other))


def _in_digits(text: str, value: Fraction) -> Iterator[Span]:
    found = [*mentions(text)]
    for mention in found:
        if mention.worth is not None and _same(mention.worth, value) and not _is_division(text, mention, value):
            yield mention.start, mention.stop
    position = 0
    for numeral in NUMERAL.finditer(text):
        while position + 1 < len(found) and found[position + 1].start <= numeral.start():
            position += 1
        if _stands_alone(text, numeral, found[position]):
            is_first = NUMERAL.search(text, found[position].start) if found[position].start < numeral.start() else None
            start = found[position].start if is_first and is_first.start() == numeral.start() else numeral.start()
            yield from ((start, numeral.end()) for worth in _worths(numeral[0]) if _same(worth, value))


def _is_division(text: str, mention: Mention, value: Fraction) -> bool:
    """Whether the value would have to be worked out: 10/2 for 5, or 3/4 before "= 0.75"."""
    written = text[mention.start : mention.stop]
    is_fraction = "/" in written or "frac" in written
    return is_fraction and (value.denominator == 1 or bool(re.match(r"\s?[=≈]", text[mention.stop : mention.stop + 2])))


def _stands_alone(text: str, numeral: re.Match[str], mention: Mention) -> bool:
    """Whether a numeral is not merely a part of a number with another value: -5, 5 million, 5 1/2."""
    if numeral.start() >= mention.stop:
        return True
    if mention.value is not None and mention.value < 0:
        return False
    rest = text[numeral.end() : mention.stop].strip()
    return not re.match(r"[^\W\d]|[¼-¾⅐-⅞]|and\b|\d{1,9}/", rest) or rest.startswith(("x", "times"))


def _worths(numeral: str) -> Iterator[Fraction]:
    """What a numeral may be worth, or each of its parts where they are joined by signs: 3:4, 3,5,7."""
    whole = numeral_value(numeral)
    if whole is not None:
        yield whole
    is_list = "," in numeral and not re.fullmatch(r"\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d+)?", numeral)
    if (":" in numeral and not CLOCK.fullmatch(numeral) and not FULL_HOUR.fullmatch(numeral)) or is_list:
        parts = (numeral_value(part) for part in re.split(r"[:,]", numeral))
        yield from (part for part in parts if part is not None)


def _in_words(text: str, value: Fraction) -> Iterator[Span]:
    for match in SPOKEN.finditer(text):
        said = match[0].lower()
        spoken = spoken_number(" ".join(said.split()))
        if spoken:
            if _same(spoken[0], value):
                yield match.span()
            continue
        for word in WORD.finditer(said):
            worth = SMALL.get(word[0], TENS.get(word[0]))
            if worth is not None and worth == value:
                yield match.start() + word.start(), match.start() + word.end()


def _otherwise(text: str, value: Fraction) -> Iterator[Span]:
    """As dozens, as shares or cents, as money in two units, with thousands set apart, or as nothing."""
    if value == 0:
        yield from (match.span() for match in NOTHING.finditer(text))
    for match in SPACED.finditer(text):
        if numeral_value(re.sub(r"[^\d.]", "", match[0])) == value:
            yield match.span()
    for match in DOZENS.finditer(text):
        number = Fraction(match[1]) if match[1].isdigit() else SMALL.get(match[1].lower())
        if number is not None and number * 12 == value:
            yield match.span()
    if value.denominator != 1:
        yield from (m.span() for m in HUNDREDTHS.finditer(text) if _same(Fraction(m[1]) / 100, value))
    for match in COMPOUND.finditer(text):
        amount = quantity(match[0])
        if amount and amount.as_money is not None and _same(amount.as_money, value):
            yield match.span()
