"""What the numbers in a text are worth, together with everything that touches them.

A number that a sign, a scale, a power, a fraction or a separator belongs to is read whole; one that is part of
something else (2π, √2, 5 squared, x + 3, 52_8, 9:45) is worth nothing by itself, so that it is never read as another
value.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from unicodedata import numeric

from kpod.data.scales import SCALES
from kpod.data.spoken import NUMBER_WORDS, spoken_number

LONGEST_NUMBER = 100
LARGEST_POWER = 300
"""Digits that a power may have to be worked out."""
VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
PLAIN_SUPERSCRIPTS = str.maketrans(SUPERSCRIPTS, "0123456789-")

NUMERAL = re.compile(rf"\d+(?:[.,:'’_]\d+)*|(?<!Rs)\.\d+|[{VULGAR}]")
# How the digits of a numeral are grouped, and which mark, if any, starts its decimals; the first that fits counts.
GROUPINGS = (
    (re.compile(r"(?:\d+|\d{1,3}(?:_\d{3})+|\d{1,3}(?:['’]\d{3})+)(?:\.\d+)?|\.\d+"), "."),  # 1234.5, 1'234.5
    (re.compile(r"(?!0,)\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?"), "."),  # 1,234.5, 12,34,567
    (
        re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d+,(?!\d{2}00\Z)\d+"),
        ",",
    ),  # 1.234,5, 1.234.567, 3,5
)
FULL_HOUR = re.compile(r"(\d{1,2}):00")
POINTS_GROUP = re.compile(r"(?!0\.)\d{1,3}(?:\.\d{3})+")

_SCALE = "|".join(map(re.escape, sorted(SCALES.keys() - {"k", "K"}, key=len, reverse=True)))
_CURRENCY = r"(?:(?:US|CA|AU|C|A|R)?[$€£¥₹₩₽₺₴]|Rs\.?|USD|EUR|GBP|INR)"
_MINUS = "minus|menos|moins|минус|负|負|マイナス|ลบ|মাইনাস|మైనస్|hasi"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)"
)
_POWER = rf"\^|\*\*|[{SUPERSCRIPTS}]"

BEFORE = re.compile(
    r"(?:(?:(?:\A|[=≈:(,\[{]\s{0,2})(?P<far>[-+])\s|(?<![\w)\]}%])(?P<near>[-+](?!\s))"
    r"|(?P<word>(?<![^\W_])neg(?:ative|\.)?\s{1,2}"
    rf"|(?:\A|[=≈:(,]\s{{0,2}}|\b(?:is|was|be|to|of|by|equals)\s)(?i:{_MINUS})\s{{0,2}}))\s?)?"
    rf"(?:(?<![A-Za-z])(?P<money>{_CURRENCY})\s?(?P<inner>[-\u2013\u2014])?)?\Z"
)
AFTER = re.compile(
    rf"(?:\s?(?P<vulgar>[{VULGAR}])|\sand\s(?:a|one)\s(?P<half>half|quarter|third)\b"
    r"|(?:\s(?:and\s)?(?=\d)|\s?(?=\\))(?:(?P<over>\d{1,9})/(?P<parts>\d{1,9})"
    r"|\\frac\{(?P<over_tex>\d{1,9})\}\{(?P<parts_tex>\d{1,9})\})(?![\d/]))?"
    r"(?P<power>[eE][-+]?\d{1,3}(?!\w))?"
    rf"(?:\s?(?:[xX×*·⋅]|times|\\times|\\cdot)\s?(?P<ten>10)(?=\s?(?:{_POWER})))?"
    r"(?:\s?(?:\^|\*\*)\s?(?:\{(?P<braced>-?\d{1,4})\}|(?P<raised>-?\d{1,4})(?![\w.]))"
    rf"|(?P<super>[{SUPERSCRIPTS}]{{1,4}}))?"
    r"(?:\s?/\s?(?P<under>\d+)(?!/|\d|[.,:]\d))?"
    rf"(?P<scales>(?:\s?(?:{_SCALE})(?![^\W\d_])){{1,2}}|[kK](?![^\W\d_])|)"
)
MONEY_SCALE = re.compile(r"\s?([MB]|(?<=\d)[mb])(?![^\W\d_])")
MILLIONS = {"m": 10**6, "b": 10**9}  # $2.5M

# Units that may stand behind a number without a space; other Latin letters there are a variable's.
_ATTACHED = (
    r"(?:st|nd|rd|th|[mck]?m|[mk]?g|[mc]?[lL]|[mk]?W|k?Wh|[kMG]?Hz|[KMGT]B|lbs?|oz|ft|in|yds?|mi|hrs?|h|mins?|s|secs?"
    r"|mph|kmh?|kph|[CFKVAJN](?!\d)|[cp]|cents?|[ap]\.?m|px|pts?|sq)(?![A-Za-z])"
)
# A letter alone behind a space is a variable, unless it is a usual unit or the article.
_VARIABLE = r"(?:[xyzn]|(?![gmshlpcCFKLVWANJ])[A-Za-z](?!\s[a-z]))(?![^\W\d_]|[.'’])"
_PARTS = (
    r"(?:halves|thirds|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen"
    r"|nineteen|twentie|hundred|thousand|million|billion)ths?)"
)
_TO_THE = r"to the (?:power|-?\d+(?:st|nd|rd|th)?|second|third|\w{3,8}th)\b"
TOUCHED_AFTER = re.compile(
    rf"(?!{_ATTACHED}|[A-Z][a-z'’])[A-Za-z_]|\s?(?:[±∓√∛π∞]|°\s?\d|\\[A-Za-z])|!(?=[.,;=+*/^)!}}]|\s?[=+*/^])"
    r"|['’′]\s\d|\.\(\d|[\u0300-\u036f]"
    r"|\s?[-+*/^×÷·:]\s?(?:[\d(√π$\[{]|\\[A-Za-z]|[A-Za-z](?![^\W\d_'’]))"
    rf"|\s{_VARIABLE}|\((?=[A-Za-z]\)|[A-Za-z]?\s?[-+]|\d)|\s?(?:%|per\s?cent)\s(?:of|off)\s[$€£]?\d"
    r"|[\s-](?:squared|cubed|factorial|remainder|rem|plus|minus|times(?=\s[\d(])|over(?=\s\d)|out of(?=\s\d)"
    r"|divided|multiplied"
    rf"|(?:square\s|cube\s)?root(?=\sof|\s\d|\()|sqrt|repeating|recurring|(?:ten|hundred)[\s-](?:thousands?|millions?)"
    rf"|{_TO_THE}|below zero|degrees below|(?:score|grand)(?!\s\w)"
    rf"|(?:in )?base|mod|modulo|choose|point(?=\s\w)|pi|mil|dozens?|{_PARTS})\b|\s[Rr]\s?\d"
    rf"|(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH}\b"
)
TOUCHED_BEFORE = re.compile(
    r"[-+*/^]\s?\(\s?\Z|(?<![-=])[<>≠≥≤]\s?\Z|(?<![a-z]{3})[A-Za-z]\Z|[_^√∛∜π±∓]\s?\Z|\\[A-Za-z]+\s?[\{\[]?\Z|[\d)\]}%!²³]\s?[-+*/^×÷·:]\s?\Z"
    r"|(?<![^\W\d_])[A-Za-z]\s?[-+*/^×÷·]\s?\Z"
    r"|\b(?:root|sqrt|negative of|log|ln|sin|cos|tan|cot|sec|csc|factorial|logarithm)(?:\sof)?\s?\(?\s?\Z"
    r"|\b(?:plus|minus|times|divided by|multiplied by|over|remainder|power of|base|mod|point)\s\Z"
    rf"|\b{_MONTH}\.?\s(?:\d{{1,2}}(?:st|nd|rd|th)?,?\s)?\Z"
)
NUMBER_BEFORE = re.compile(r"[\d)]\s\Z")
# What may follow a number: units of any script, but no second number, operator or variable.
UNITS = re.compile(r"(?:[^\d\\^_{}=+*×÷<>√π∞±~|≈]|(?<=[A-Za-z])\^\s?(?:[23]|\{[23]\}))*")
NO_UNITS = re.compile(
    r"\b(?:squared|cubed|factorial|remainder|plus|minus|divided|multiplied|(?:in )?base|mod|modulo|choose"
    rf"|{_TO_THE}|below zero|degrees below|repeating|recurring|(?:score|grand)\Z|pi|mil|dozens?"
    rf"|out of|or (?:{'|'.join(sorted(NUMBER_WORDS))}))\b|(?:\s|\A)[-–—]\s?[A-Za-z](?![A-Za-z])"
)
FRACTION = re.compile(r"(?P<sign>-?)\s?(?:(?P<whole>\d{1,9})\s?)?\\frac\{(?P<over>-?\d{1,30})\}\{(?P<under>\d{1,30})\}")


@dataclass(frozen=True, slots=True)
class Mention:
    """A number in a text.

    Attributes:
        start: Where it starts, with its sign and currency.
        stop: Where it ends, with its power, fraction and scale.
        worth: What it would be worth by itself; None where it cannot be read.
        is_part: Whether it is part of something else, such as an expression.
    """

    start: int
    stop: int
    worth: Fraction | None
    is_part: bool = False

    @property
    def value(self) -> Fraction | None:
        """What the text says with it; None where it is part of something else, or cannot be read."""
        return None if self.is_part else self.worth


def mentions(text: str, *, comma: bool = False) -> Iterator[Mention]:
    """The numbers in a text of plain characters, in their order.

    Args:
        text: Read by `kpod.data.markup.tidy`.
        comma: Whether the text's language writes decimals with a comma, so that 1.234 is a thousand and more.

    Example:
        >>> [str(mention.value) for mention in mentions("2.5 thousand, 1.234,50 or 10^3, but 2x")]
        ['2500', '2469/2', '1000', 'None']
    """
    stop = 0
    for numeral in NUMERAL.finditer(text):
        if numeral.start() >= stop:
            mention = _mention(text, numeral, comma)
            stop = mention.stop
            yield mention


def whole_number(core: str, *, comma: bool = False) -> Fraction | None:
    """The number that a whole answer is, units aside: digits, a fraction, or English words.

    Example:
        >>> [str(whole_number(core)) for core in ("18 кг", "twenty-five eggs", "2 1/2", "5 squared", "4 adults or 5")]
        ['18', '25', '5/2', 'None', 'None']
    """
    fraction = FRACTION.match(core)
    if fraction and is_unit(core, fraction.end()) and not TOUCHED_AFTER.match(core, fraction.end()):
        return _fraction_value(fraction)
    spoken = spoken_number(core.casefold()) if core[:1].isalpha() or " " in core[:12] else None
    if spoken and is_unit(core, spoken[1]):
        return spoken[0]
    first = next(mentions(core, comma=comma), None)
    if first is None or first.start != 0 or first.value is None:
        return None
    return first.value if is_unit(core, first.stop) else None


def is_unit(core: str, start: int) -> bool:
    """Whether nothing but units stands in an answer from here on."""
    return bool(UNITS.fullmatch(core, start)) and not NO_UNITS.search(core, start)


def plain_digits(value: Fraction) -> str:
    """A number in plain decimal digits: no exponent, no trailing zeros, 28 significant digits where it never ends."""
    if value.denominator == 1:
        return str(value.numerator)
    return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "f")


def _mention(text: str, numeral: re.Match[str], comma: bool) -> Mention:
    before = _found(BEFORE.search(text, max(0, numeral.start() - 24), numeral.start()))
    after = _found(AFTER.match(text, numeral.end()))
    value = numeral_value(numeral[0], comma)
    worth = None if value is None else _worth(value, after)
    sign = "-" if before["word"] else before["far"] or before["near"]
    if worth is not None and (sign == "-") != bool(before["inner"]):
        worth = -worth
    is_scaled = after["scales"] != "k" or bool(before["money"]) or "." in numeral[0]
    stop, money_scale = after.end(), MONEY_SCALE.match(text, after.end()) if before["money"] else None
    if money_scale and worth is not None:
        worth, stop = worth * MILLIONS[money_scale[1].lower()], money_scale.end()
    return Mention(
        before.start(), stop, worth, not is_scaled or _is_touched(text, before.start(), stop, bool(before["near"]))
    )


def _found(match: re.Match[str] | None) -> re.Match[str]:
    """The match of a pattern that may be empty, and so is always found."""
    if match is None:
        raise ValueError("a pattern that may be empty was not found")
    return match


def _is_touched(text: str, start: int, stop: int, is_signed: bool) -> bool:
    """Whether a number is part of something else, by what stands beside it."""
    window = max(0, start - 24)
    if TOUCHED_AFTER.match(text, stop) or TOUCHED_BEFORE.search(text, window, start):
        return True
    return is_signed and bool(NUMBER_BEFORE.search(text, window, start))


def numeral_value(numeral: str, comma: bool = False) -> Fraction | None:
    """What a match of NUMERAL is worth by itself; None where it cannot be read, as of 9:45."""
    if len(numeral) > LONGEST_NUMBER:
        return None
    if numeral in VULGAR:
        return Fraction(numeric(numeral)).limit_denominator(10)
    if hour := FULL_HOUR.fullmatch(numeral):
        return Fraction(hour[1])
    if comma and POINTS_GROUP.fullmatch(numeral):
        return Fraction(numeral.replace(".", ""))
    for grouping, mark in GROUPINGS:
        if grouping.fullmatch(numeral):
            whole, _, decimals = numeral.partition(mark)
            digits = re.sub(r"\D", "", whole)
            return Fraction(f"{digits or 0}.{decimals or 0}")
    return None


def _worth(value: Fraction, after: re.Match[str]) -> Fraction | None:
    """A numeral with its fraction, power and scale; None for a division by zero and for what is too large."""
    if after["vulgar"]:
        value += Fraction(numeric(after["vulgar"])).limit_denominator(10)
    elif after["half"]:
        value += Fraction(1, {"half": 2, "quarter": 4, "third": 3}[after["half"]])
    over, parts = after["over"] or after["over_tex"], after["parts"] or after["parts_tex"]
    if over:
        if int(parts) == 0:
            return None
        value += Fraction(int(over), int(parts))
    if after["power"]:
        value *= Fraction(f"1{after['power']}")
    exponent = after["braced"] or after["raised"] or (after["super"] or "").translate(PLAIN_SUPERSCRIPTS)
    if exponent:
        raised = _raised(Fraction(10) if after["ten"] else value, exponent)
        if raised is None:
            return None
        value = value * raised if after["ten"] else raised
    if after["under"]:
        if int(after["under"][:LONGEST_NUMBER]) == 0 or len(after["under"]) > LONGEST_NUMBER:
            return None
        value /= int(after["under"])
    for scale in re.findall(rf"{_SCALE}|[kK]", after["scales"]):
        value *= SCALES[scale]
    return value


def _raised(base: Fraction, exponent: str) -> Fraction | None:
    if not re.fullmatch(r"-?\d+", exponent) or (base == 0 and exponent.startswith("-")):
        return None
    power = int(exponent)
    digits = len(str(base.numerator)) + len(str(base.denominator))
    return base**power if digits * abs(power) <= LARGEST_POWER else None


def _fraction_value(match: re.Match[str]) -> Fraction | None:
    if int(match["under"]) == 0:
        return None
    value = int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"]))
    return -value if match["sign"] else value
