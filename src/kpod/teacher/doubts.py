r"""What stands around an equation and makes it unsure what is equal to what.

`goes_on_before` and `goes_on_after` tell that the numbers are only a part of what is written (√, \log, 28{,}800 ...).
The other functions tell why an equation that does not hold may still be meant right (2 p.m., 1 hour, 28.800); such an
equation is not called wrong.
"""

import re
from fractions import Fraction

_NEAR = 48
"""How many characters before and after an equation are looked at."""
_SCRIPTS = r"(?:\s?[_^]\s?(?:\{[^{}]{0,12}\}|\w{1,6})|[⁰¹²³⁴-₎\d']{1,4})?"
_SPACING = r"(?:\\[,;:!> ]|\\q?quad|[~&{]|\n)"
_BEFORE = re.compile(
    r"[\w.)\]}%^\\√∛∜∑∏∫±∓⌊⌈°′″/⁄∣‖~]\Z"
    r"|\d,\Z|\d(?::|\s:\s?)\Z|\d[\u2009\u202f]\Z"
    r"|\b(?:of|times|by|over)\s\Z"
    r"|[√∛∜∑∏∫±∓^}][ \t]*\Z"
    rf"|(?:(?<![*_=/+])[+*/×÷·^]|(?<=[\d)])[ ]?[-−])\s*{_SPACING}(?:{_SPACING}|\s)*\Z"
)
_COMMAND = re.compile(rf"\\([A-Za-z]+){_SCRIPTS}\s*\Z")
_SPACING_COMMANDS = re.compile(r"q?quad|implies|(?:[Ll]ong)?[Rr]ightarrow|to|therefore|because|item|iff|left|[Bb]ig+l?")
_NAMED = re.compile(rf"(?<![A-Za-z\\])(?:log|ln|lg|sin|cos|tan|cot|sqrt|cbrt|gcd|lcm|mod|det){_SCRIPTS}\s*\Z")
_APPLIED = re.compile(
    r"(?<![A-Za-z\\'’])(?:sec|csc|arc[a-z]+|sinh|cosh|tanh|exp|root|abs|max|min|hcf|floor|ceil|round|trunc|lim|sum|prod|choose"
    rf"|[b-hj-zA-HJ-Z]){_SCRIPTS}\s*\Z|[)\]½⅓⅔¼¾][ \t]*\Z"
)
_AFTER = re.compile(
    r"[^\s.,;:!?\"'”’)\]}|*_\\$]|\s?:\s?\d|,\d"
    r"|\s?[½⅓⅔¼¾⅕-⅞]|\s?\\[dt]?frac"  # 2 ½
    r"|['’]\d{3}|\\[,! ]\d|,?\\!|\{,\}|[\u2009\u202f]\d|_\{?\d"  # 28'800, and 12_7 in base 7
    r"|\s?\^|\s?\\(?:pi|sqrt|circ|log|ln|cdot|times|div|overline|bar|choose|[pb]?mod|text\{\s*(?:mod|%|percent))"
)

_MODIFIED = re.compile(
    r"\b(?:than|twice|thrice|double|triple|half|quarter|negative|minus|plus|modulo|squared|cubed|root)\s\Z",
    re.IGNORECASE,
)
_TURNED = re.compile(
    r"[!?]|\s*(?:\(?\s*\\?[pb]?mod(?:ulo)?\b|[ap]\.?m\b|o['’]clock|per ?cent"
    r"|\(?(?:in |to )?(?:base \d|binary|octal|hex)"
    r"|,?\s?rem\b|,?\s?remainder|r ?\d)"
    r"|\s+and\s+(?:an?\b|one\b|half\b|\d+/\d|[½⅓⅔¼¾]|\\frac)"  # 2 and 1/2
    r"|\s(?![aAI]\b)[A-Za-z]\b(?!['’.&-])",  # 10 x
    re.IGNORECASE,
)
_ROUNDED = re.compile(r"\s*[(,]?\s?(?:which is |or )?(?:approx|about|roughly|round|to the nearest|almost|nearly)")
# So many of a smaller unit are one of this; negative: so many of this are one of a larger unit.
_UNITS = {
    r"hours?|hrs?|h": (60, 3600, -24),
    r"minutes?|mins?": (60, -60, -1440),
    r"seconds?|secs?": (-60, -3600),
    r"days?": (24, 1440, -7, -30, -365),
    r"weeks?": (7, -4, -52),
    r"months?": (30, 4, -12),
    r"years?": (12, 52, 365),
    r"decades?": (10,),
    r"centur\w+": (100,),
    r"k[gm]|kilo\w+|lit(?:er|re)s?|l|gigabytes?|[mg]b": (1000, 1024),
    r"cm|centimet\w+": (10, -100),
    r"mm|millimet\w+": (-10, -1000),
    r"ml|millilit\w+|m?g|(?:milli)?grams?": (1000, -1000),
    r"m|met(?:er|re)s?": (100, 1000, -1000),
    r"tons?|tonnes?": (1000, 2000),
    r"dozens?": (12,),
    r"pairs?": (2,),
    r"inch(?:es)?": (-12, -36),
    r"feet|foot|ft": (12, -3, -5280),
    r"yards?|yds?": (3, 36, -1760),
    r"miles?": (1760, 5280),
    r"pounds?|lbs?": (16, -2000),
    r"ounces?|oz": (-16,),
    r"gallons?": (4, 8, 16, 128),
    r"quarts?|pints?|cups?": (2, 4, -2, -4, -8, -16),
    r"dollars?|hundred": (100,),
    r"cents?|percentage": (-100,),
    r"thousand": (1000,),
    r"million": (10**6,),
    r"billion": (10**9,),
}
_UNIT = re.compile(
    r"[ -]?(?:\\text\{\s*)?(?:" + "|".join(f"({names})" for names in _UNITS) + r")\b(?!-)", re.IGNORECASE
)
_FACTORS = list(_UNITS.values())
_THOUSANDS = re.compile(r"\d{1,3}(?:\.\d{3})+")


def goes_on_before(text: str, start: int, *, is_factor: bool) -> bool:
    r"""Whether what starts here is only the end of a longer expression, or the argument of a function.

    Args:
        text: The text that holds the equation.
        start: Where the equation starts.
        is_factor: Whether it starts with a bracket that closes before the sign of equality.

    Example:
        >>> goes_on_before("√(81/16) = 9/4", 1, is_factor=True), goes_on_before("So (3 + 4) = 7", 3, is_factor=True)
        (True, False)
    """
    before = text[max(0, start - _NEAR) : start]
    command = _COMMAND.search(before)
    if command and not _SPACING_COMMANDS.fullmatch(command[1]):
        return True
    return bool(_BEFORE.search(before) or _NAMED.search(before) or (is_factor and _APPLIED.search(before)))


def goes_on_after(text: str, stop: int) -> bool:
    """Whether what stops here is only the beginning of a longer number or expression."""
    return bool(_AFTER.match(text[stop : stop + _NEAR]))


def may_be_turned(text: str, start: int, stop: int) -> bool:
    """Whether a word or sign changes the value of either side: twice 3 + 4, 2 (mod 5), 3 p.m., 3!."""
    before = text[max(0, start - _NEAR) : start]
    return bool(_MODIFIED.search(before) or _TURNED.match(text[stop : stop + _NEAR]))


def may_be_rounded(text: str, stop: int, written: str, distance: Fraction) -> bool:
    """Whether a number is said to be rounded, and is no further off than its last digit but zeros."""
    whole, _, decimals = written.replace(",", "").partition(".")
    last = Fraction(1, 10 ** len(decimals)) if decimals else Fraction(10 ** (len(whole) - len(whole.rstrip("0"))))
    return distance < last and bool(_ROUNDED.match(text[stop : stop + _NEAR]))


def may_convert(text: str, stop: int, least: Fraction, greatest: Fraction, claimed: Fraction) -> bool:
    """Whether a unit follows, and the two sides differ by one of its factors: 30 + 30 = 1 hour."""
    unit = _UNIT.match(text[stop : stop + _NEAR])
    factors = _FACTORS[unit.lastindex - 1] if unit and unit.lastindex else ()
    scales = (Fraction(factor) if factor > 0 else Fraction(1, -factor) for factor in factors)
    return any(least <= claimed * scale <= greatest for scale in scales)


def with_thousands(written: str) -> str:
    """A number whose dots separate thousands, as in German.

    Example:
        >>> with_thousands("28.800"), with_thousands("28.80")
        ('28800', '28.80')
    """
    return written.replace(".", "") if _THOUSANDS.fullmatch(written) else written
