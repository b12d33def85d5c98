"""What the numbers in a text are worth: money, thousands, fractions, powers of ten, units and small words."""

import re
from decimal import Decimal
from fractions import Fraction
from unicodedata import numeric

LONGEST_NUMBER = 100
VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
NUMBER = re.compile(
    rf"(?<![\w)])(?<!\d[.,:])(?P<sign>[-+](?=[\d.$€£¥₹{VULGAR}]))?(?:(?:[$€£¥₹]|Rs\.?)\s?)?"
    rf"(?P<inner>-(?=[\d.{VULGAR}]))?"
    r"(?:(?P<whole>\d{1,9})\s(?=\d+/\d))?"
    rf"(?P<number>(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+|\s?[{VULGAR}])?|\.\d+|[{VULGAR}])"
    r"(?P<power>[eE][-+]?\d{1,3}(?!\w))?"
    r"(?:\s?/\s?(?P<under>\d+)(?!/))?(?!\d|[.:]\d|,\d{3})(?:\s(?P<scale>thousand|million|billion|trillion)\b)?"
)
FRACTION = re.compile(r"(?P<sign>-?)\\frac\{(?P<over>-?\d{1,30})\}\{(?P<under>\d{1,30})\}")
# What may follow a number: units, but no second number, operator or variable.
UNITS = re.compile(r"(?![xyzni]\b|\s?-\s?[a-z]\b)[\sA-Za-zµ%°²³$€£/.,;:!?\"'’()\]-]*")
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
NUMBER_WORDS = {
    word: value for value, word in enumerate([*WORDS.split(), "seventeen", "eighteen", "nineteen", "twenty"])
}
ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth"
PARTS = {"half": 2, "quarter": 4} | {ordinal: value for value, ordinal in enumerate(ORDINALS.split(), start=3)}
PLURALS = {"halves": 2} | {f"{part}s": value for part, value in PARTS.items() if part != "half"}
# After a first number word these make another number of it; five quarters may be coins.
MORE = NUMBER_WORDS.keys() | SCALES.keys() | PLURALS.keys() - {"quarters"} | {"hundred", "hundredths", "thousandths"}
SPELLED = re.compile(
    r"(?:(?P<whole>\d{1,9}|[a-z]+)\s+and\s+)?(?:(?P<over>[a-z]+)(?P<dash>[\s-]))?"
    rf"(?P<under>{'|'.join(PLURALS | PARTS)})\b(?P<alone>\s+(?:of|an?|the)\b|\W*\Z)?"
)


def whole_number(core: str) -> Fraction | None:
    """The number that a whole answer is, units aside: digits, a fraction, or words, up to twenty or for a fraction."""
    fraction = FRACTION.fullmatch(core)
    if fraction:
        value = Fraction(int(fraction["over"]), int(fraction["under"])) if int(fraction["under"]) else None
        return -value if value is not None and fraction["sign"] else value
    spelled = _spelled_fraction(core.casefold())
    if spelled is not None:
        return spelled
    match = NUMBER.match(core)
    if match:
        return number_value(match) if UNITS.fullmatch(core, match.end()) else None
    first, *others = re.findall(r"[^\W\d_]+", core.casefold()) or [""]
    more = MORE | PARTS.keys() if first == "one" else MORE
    if not UNITS.fullmatch(core) or not more.isdisjoint(others):
        return None
    return Fraction(NUMBER_WORDS[first]) if first in NUMBER_WORDS else None


def _spelled_fraction(core: str) -> Fraction | None:
    """What "half", "a third", "two thirds of it", "three-quarters" or "2 and a half hours" is worth.

    None for all else: what is counted, as "five quarters", "six fifth graders" or "a third party" are, is no fraction.
    """
    match = SPELLED.match(core)
    if not match or not UNITS.fullmatch(core, match.end()):
        return None
    whole, over, under = match["whole"], match["over"], match["under"]
    singular = over in ("a", "an", "one") and under in PARTS
    if whole:
        wholes = int(whole) if whole.isdecimal() else NUMBER_WORDS.get(whole)
        return wholes + Fraction(1, PARTS[under]) if singular and wholes is not None else None
    if match["alone"] is None or (under == "quarters" and match["dash"] != "-" and match["alone"].strip() != "of"):
        return None
    if singular or (over is None and under == "half"):
        return Fraction(1, PARTS[under])
    return Fraction(NUMBER_WORDS[over], PLURALS[under]) if over in NUMBER_WORDS and under in PLURALS else None


def number_value(match: re.Match[str]) -> Fraction | None:
    """What a match of NUMBER is worth; None for a division by zero and where it is too long to be an answer."""
    if len(match.group()) > LONGEST_NUMBER or int(match["under"] or 1) == 0:
        return None
    number = match["number"].replace(",", "")
    part = Fraction(numeric(number[-1])).limit_denominator(10) if number[-1] in VULGAR else 0
    digits = number[:-1].rstrip() or "0" if part else number
    value = (Fraction(digits + (match["power"] or "")) + part) / int(match["under"] or 1)
    value = (value + int(match["whole"] or 0)) * SCALES.get(match["scale"], 1)
    return -value if "-" in (match["sign"], match["inner"]) else value


def plain_digits(value: Fraction) -> str:
    """A number in plain decimal digits: no exponent, no trailing zeros, 28 significant digits where it never ends."""
    if value.denominator == 1:
        return str(value.numerator)
    return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "f")
