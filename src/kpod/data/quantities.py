"""Quantities of several parts: "2 hours and 30 minutes", 5'6", "5 dollars and 50 cents"."""

import re
from dataclasses import dataclass
from fractions import Fraction

from kpod.data.numbers import mentions

_KINDS: dict[str, dict[str, int]] = {
    "time": {
        "s sec secs second seconds": 1,
        "min mins minute minutes ′": 60,
        "h hr hrs hour hours": 3600,
        "day days": 86_400,
        "week weeks": 604_800,
    },
    "years": {"month months": 1, "year years yr yrs": 12},
    "feet": {'in inch inches " ″': 1, "ft foot feet ' ′": 12, "yd yard yards": 36, "mi mile miles": 63_360},
    "metres": {
        "mm millimeter millimeters millimetre millimetres": 1,
        "cm centimeter centimeters centimetre centimetres": 10,
        "m meter meters metre metres": 1000,
        "km kilometer kilometers kilometre kilometres": 1_000_000,
    },
    "grams": {"mg": 1, "g gram grams": 1000, "kg kilogram kilograms": 1_000_000},
    "ounces": {"oz ounce ounces": 1, "lb lbs pound pounds": 16},
    "litres": {"ml milliliter milliliters millilitre millilitres": 1, "l liter liters litre litres": 1000},
    "cups": {"cup cups": 1, "pint pints": 2, "quart quarts": 4, "gallon gallons": 16},
    "dollars": {"cent cents c ¢": 1, "dollar dollars $": 100},
    "euros": {"cent cents c": 1, "euro euros €": 100},
    "pounds": {"penny pence p": 1, "pound pounds £": 100},
    "rupees": {"paisa paise": 1, "rupee rupees ₹": 100},
}
KINDS = {kind: {unit: size for units, size in rows.items() for unit in units.split()} for kind, rows in _KINDS.items()}
MONEY = frozenset({"dollars", "euros", "pounds", "rupees"})
HUNDREDTHS = 100

_NUMBER = r"\d+(?:[.,]\d+)*(?!\d)(?:\s\d+/\d+)?"
_NO_UNIT = r"(?:and|or|for|of|in(?=\s\d)|at|per|to|by|on|with|from|than|is|are|every|each|times|plus|minus|out|x)\b"
_MONEY = rf"[$€£₹]\s?{_NUMBER}(?:\s(?:dollars?|euros?|pounds?|rupees?)\b)?"
_PART = rf"(?:{_MONEY}|{_NUMBER}\s?(?:(?!{_NO_UNIT})[^\W\d_]{{1,20}}\b\.?|['\"′″¢]))"
FEET = re.compile(r"\d+['′]\s?\d+")
DOZENS = re.compile(rf"(?P<number>{_NUMBER}) dozens?\b", re.IGNORECASE)
COMPOUND = re.compile(rf"(?<![\w.,/]){_PART}(?:(?:\s?,?\s?(?:and|&)\s|\s?,\s|\s)?{_PART}){{1,3}}", re.IGNORECASE)
PART = re.compile(
    rf"(?P<sign>[$€£₹])?\s?(?P<number>{_NUMBER})\s?(?P<unit>(?!and\b)[^\W\d_]{{1,20}}|['\"′″¢])?", re.IGNORECASE
)
# Statements that work out a number, order or list some, or say no single one, whatever number they begin or end with.
_AMOUNT = r"[$€£]?\d[\d,]*(?:\.\d+)?"
NOT_ONE = re.compile(
    rf"(?:the )?(?:sum|product|difference|quotient) (?:of|between)\b(?=\D*{_AMOUNT}\D+\d)(?!.*(?:=|:|\bis\b))"
    rf"|(?:twice|double|triple|half|(?:\w{{1,8}}[ -])?(?:half|third|quarter|fourth|fifth|tenth)s? of)\s"
    rf"(?:of )?(?:the |a )?{_AMOUNT}(?!.*=)"
    rf"|\d+/\d+ (?:of|in) {_AMOUNT}"
    rf"|{_AMOUNT} (?:\w+ )?(?:more|less|fewer|greater|larger|smaller|older|younger) than {_AMOUNT}"
    rf"|(?:more|less|fewer|greater|larger|smaller) than\b(?!.*=)|\d+ (?:in|of) (?:every )?\d+\Z"
    rf"|\(?[a-h]\)[^()]*\([b-h]\)|\(?1\)[^()]*\s\(?2\)|{_AMOUNT}(?:\s?;\s?{_AMOUNT})+\Z|[^\d\s]{{0,2}}\d+ \d+(?![\d-])"
    rf"|{_AMOUNT} ?(?:foot|feet|ft|hours?|hrs?|minutes?|mins?|dollars?|pounds?|euros?|rupees?|hundred|thousand) \d+\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount in the smallest of its kind's units.

    Attributes:
        kind: What is measured, such as time.
        size: In the kind's smallest unit.
        units: The sizes of the units that it is written in.
    """

    kind: str
    size: Fraction
    units: frozenset[int]

    @property
    def as_money(self) -> Fraction | None:
        """Of money, the amount in whole units; else None."""
        return self.size / HUNDREDTHS if self.kind in MONEY else None


def quantity(text: str) -> Quantity | None:
    """What an amount of one or more parts comes to; None where its units are unknown, of several kinds, or do not fall.

    Dozens are a kind of their own, whatever is counted: "3 dozen eggs" are 36, or 3 dozens.

    Example:
        >>> quantity("2 hours and 30 minutes").size, quantity("5 dollars and 50 cents").as_money
        (Fraction(9000, 1), Fraction(11, 2))
        >>> quantity("2 hours and 3 feet") is None
        True
    """
    dozens = DOZENS.match(text)
    if dozens:
        number = next(mentions(dozens["number"])).value
        return None if number is None else Quantity("dozens", number * 12, frozenset({1, 12}))
    if FEET.fullmatch(text):
        text += "″"  # as inches are often left without their mark
    parts = [*PART.finditer(text)]
    written = [(part["unit"] or part["sign"] or "").rstrip(".") for part in parts]
    units = [unit if unit == "M" else unit.casefold() for unit in written]  # 2.5M is no length
    for kind, sizes in KINDS.items():
        if units and all(unit in sizes for unit in units):
            own = [sizes[unit] for unit in units]
            values = [next(mentions(part["number"])).value for part in parts]
            if own != sorted(set(own), reverse=True) or None in values:
                return None
            return Quantity(
                kind, sum((v * size for v, size in zip(values, own, strict=True) if v), Fraction()), frozenset(own)
            )
    return None


def same_quantity(one: str, other: str, other_value: Fraction | None) -> bool:
    """Whether a quantity of several parts is another one, or a plain number of one of its own units.

    Args:
        one: The quantity.
        other: What it is compared with.
        other_value: The number that `other` is, units aside; None where it is none.
    """
    found, against = quantity(one), quantity(other)
    if found is None:
        return False
    if against is not None:
        return found.kind == against.kind and found.size == against.size
    return other_value is not None and any(other_value * unit == found.size for unit in found.units)
