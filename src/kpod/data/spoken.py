"""Numbers in English words: "five", "twenty-five", "two and a half", "three quarters", "a dozen", "minus six"."""

import re
from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL = {word: value for value, word in enumerate(_SMALL.split())}
TENS = {word: value for value, word in zip(range(20, 100, 10), _TENS.split(), strict=True)}
SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "lakh": 10**5,
    "lakhs": 10**5,
    "crore": 10**7,
    "crores": 10**7,
}
ORDINALS = (
    "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
    "seventeenth eighteenth nineteenth twentieth"
)
PARTS = {"half": 2, "quarter": 4} | {ordinal: value for value, ordinal in enumerate(ORDINALS.split(), start=3)}
FINE_PARTS = {"hundredth": 100, "thousandth": 1000}
PLURALS = {"halves": 2} | {f"{part}s": value for part, value in (PARTS | FINE_PARTS).items() if part != "half"}
NUMBER_WORDS = frozenset(SMALL.keys() | TENS.keys() | SCALES.keys())
# After a number these make another one of it; five quarters may be coins.
MORE = NUMBER_WORDS | PLURALS.keys() - {"quarters"}

NEGATIVE = re.compile(r"(?:negative|minus)\s+(?=[a-z])")
SPELLED = re.compile(
    r"(?:(?P<whole>\d{1,9}|[a-z]+)\s+and\s+)?(?:(?P<over>[a-z]+|\d{1,9})(?P<dash>[\s-]))?"
    rf"(?P<under>{'|'.join(sorted(PLURALS | PARTS, key=len, reverse=True))})\b"
    r"(?P<alone>\s+(?:of|an?|the)\b|\W*\Z)?"
)
HALF_OF_MANY = re.compile(r"half (?:a |an )?(dozen|hundred|thousand|million|billion)\b")
SCALE_AFTER = re.compile(r"\s(hundred|thousand|million|billion|trillion|dozen)\b")
WORD = re.compile(r"[a-z]+")


def spoken_number(text: str) -> tuple[Fraction, int] | None:
    """The number that a text begins with in words, and where it ends; None where it begins with none.

    A text in which another number word follows is none: "five six" and "one of the two" are no single number.

    Args:
        text: In lower case.

    Example:
        >>> spoken_number("twenty-five eggs"), spoken_number("two thirds of it"), spoken_number("five six")
        ((Fraction(25, 1), 11), (Fraction(2, 3), 13), None)
    """
    negative = NEGATIVE.match(text)
    start = negative.end() if negative else 0
    found = _half_dozen(text, start) or _fraction(text, start) or _count(text, start)
    if found is None:
        return None
    value, stop = found
    return (-value if negative else value), stop


def _fraction(text: str, start: int) -> tuple[Fraction, int] | None:
    """Half, a third, two thirds of it, three-quarters, 2 and a half hours.

    None for all else: what is counted, as "five quarters", "six fifth graders" or "a third party" are, is no fraction.
    """
    match = SPELLED.match(text, start)
    if not match:
        return None
    whole, over, under = match["whole"], match["over"], match["under"]
    singular = over in ("a", "an", "one") and under in PARTS
    if whole:
        wholes = int(whole) if whole.isdecimal() else SMALL.get(whole, TENS.get(whole))
        parts = 1 if singular else SMALL.get(over or "") if under in PLURALS else None
        if wholes is None or parts is None:
            return None
        value = wholes + Fraction(parts, (PARTS | PLURALS)[under])
        scale = SCALE_AFTER.match(text, match.end("under"))
        return (value * SCALES[scale[1]], scale.end()) if scale else (value, match.end("under"))
    if match["alone"] is None or (under == "quarters" and match["dash"] != "-" and match["alone"].strip() != "of"):
        return None
    if singular or (over is None and under == "half"):
        return Fraction(1, PARTS[under]), match.end()
    if under not in PLURALS or over is None:
        return None
    number = int(over) if over.isdecimal() else SMALL.get(over)
    return (Fraction(number, PLURALS[under]), match.end()) if number is not None else None


def _half_dozen(text: str, start: int) -> tuple[Fraction, int] | None:
    match = HALF_OF_MANY.match(text, start)
    return (Fraction(SCALES[match[1]], 2), match.end()) if match else None


def _count(text: str, start: int) -> tuple[Fraction, int] | None:
    """A whole number: its words follow one another as English has them, or it is none."""
    total = current = 0
    stop, previous = start, ""
    for match in WORD.finditer(text, start):
        word, gap = match[0], text[stop : match.start()]
        following = WORD.match(text, match.end() + 1)
        if gap not in (("",) if stop == start else (" ", "-")):
            break
        if word == "a" and stop == start and following and following[0] in SCALES:
            current = 1
        elif word in SMALL or word in TENS:
            if previous in SMALL or (previous in TENS and (word in TENS or not 0 < SMALL[word] < 10)):
                return None
            current += SMALL.get(word, 0) + TENS.get(word, 0)
        elif word in SCALES and previous:
            scale = SCALES[word]
            current, total = (current * scale, total) if scale <= 100 else (0, total + max(current, 1) * scale)
        elif not (word == "and" and previous in SCALES and following and following[0] in SMALL.keys() | TENS.keys()):
            break
        stop, previous = match.end(), word
    if previous in ("", "a", "and") or _goes_on(text, stop, previous):
        return None
    return Fraction(total + current), stop


def _goes_on(text: str, stop: int, last: str) -> bool:
    """Whether words after a number make another one of it."""
    more = MORE | PARTS.keys() | FINE_PARTS.keys() if last == "one" else MORE
    return not more.isdisjoint(WORD.findall(text, stop))
