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


def whole_number(core: str) -> Fraction | None:
    """The number that a whole answer is, units aside: digits, a fraction, or a word up to twenty."""
    fraction = FRACTION.fullmatch(core)
    if fraction:
        value = Fraction(int(fraction["over"]), int(fraction["under"])) if int(fraction["under"]) else None
        return -value if value is not None and fraction["sign"] else value
    match = NUMBER.match(core)
    if match:
        return number_value(match) if UNITS.fullmatch(core, match.end()) else None
    first, *others = re.findall(r"[^\W\d_]+", core.casefold()) or [""]
    if not UNITS.fullmatch(core) or any(word in NUMBER_WORDS or word in SCALES or word == "hundred" for word in others):
        return None
    return Fraction(NUMBER_WORDS[first]) if first in NUMBER_WORDS else None


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
