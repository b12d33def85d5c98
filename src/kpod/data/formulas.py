r"""Formulas: what is mathematics and no plain number, and whether two formulas mean the same.

math-verify compares them. Only formulas of bounded size and kind go to it, because its time limits work in the main
thread alone. It reads no base, so that numbers such as 52_8 are compared as they are written.
"""

import logging
import re
from collections.abc import Callable
from functools import cache

LONGEST_FORMULA = 120
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|sqrt|max|min|gcd|lcm|mod|in|or|and|pi|text|frac"
WORD = re.compile(rf"(?<![\\A-Za-z])(?!(?:{_FUNCTIONS})(?![A-Za-z]))[^\W\d_]{{2,}}")
SIGN = re.compile(r"[\\^_=+*/×÷√∛π∞±∪∩≤≥<>|{}\[\]²³⁰-⁹!]|(?<=[\w)])\s?[-−]\s?[\w(]|[(\[][^()\[\]]*,[^()\[\]]*[)\]]")
TUPLE = re.compile(r"[(\[]\s?[^()\[\]]*,[^()\[\]]*[)\]]")

_COMMANDS = (
    "frac|sqrt|pi|cdot|times|div|pm|mp|infty|cup|cap|in|begin|end|pmatrix|bmatrix|sin|cos|tan|cot|sec|csc|log|ln|theta"
    "|alpha|beta|le|leq|ge|geq|lt|gt|ldots|dots|circ|lfloor|rfloor|emptyset|setminus|mathbb|overline"
)
# Maths of one-letter variables, without what makes sympy's work unbounded: powers of powers or of brackets, and
# products of many brackets; its parser takes seconds for a few nested ones.
MATHS = re.compile(
    rf"(?:\\(?:{_COMMANDS})(?![A-Za-z])|\{{[pb]matrix\}}|\\[{{}}]|\\\\|(?<![A-Za-z])[A-Za-z](?![A-Za-z])"
    r"|[\d\s.,+\-*/^(){}\[\]=<>|&!;])+"
)
HARD_MATHS = re.compile(
    r"[-+*/^=]\Z|\d\)\s\d|\.[.(]|[)}]\s*\^(?!\{?[23]\}?(?![\w^{]))|\^(?!\{?-?\w\}?(?![\w^{])|\{-?\d{1,2}\})|\d{20}|(?:\([^(]*){4}|(?:\^[^^]*){6}"
    r"|(?:\{[^{]*){12}|\d{3}!|!\s*!|\)\s*!"
)
PLAIN_TO_TEX = {
    "√": r"\sqrt",
    "π": r"\pi ",
    "∞": r"\infty ",
    "±": r"\pm ",
    "×": r"\times ",
    "÷": "/",
    "·": r"\cdot ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "−": "-",
    "θ": r"\theta ",
    "²": "^{2}",
    "³": "^{3}",
}
NAMED = re.compile(r"(?:[A-Za-z]|[A-Za-z]\([A-Za-z]\))\s?(?:=|\\in(?![A-Za-z]))\s?(?P<value>[^=]+)\Z")
REPEATING = re.compile(r"(?<![\d.])(\d{1,9})\.(\d{0,9})\\overline\{(\d{1,9})\}")
ROOT = re.compile(r"√\s?(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))|\bsqrt\s?\(([^()]*)\)")


def is_formula(core: str) -> bool:
    r"""Whether an answer is mathematics: signs and letters of a formula, and no words.

    Example:
        >>> [is_formula(core) for core in ("2k+2", "(15,-29)", "x^3+3x-6", "52_8", "18 apples", "a bank", "New York")]
        [True, True, True, True, False, False, False]
    """
    return bool(SIGN.search(core)) and not WORD.search(re.sub(r"\\[A-Za-z]+(?:\{[pb]?matrix\})?", " ", core))


def same_formula(one: str, other: str) -> bool:
    """Whether two formulas mean the same; False for texts, and for formulas too large to be tried."""
    one, other = _tex(one), _tex(other)
    if "_" in one + other:
        return _bare(one) == _bare(other) and is_formula(one)
    if (SIGN.search(one) or ":" in one) and _bare(one) == _bare(other):
        return True
    one, other = _alike(one, other)
    if not all(_is_bounded(formula) for formula in (one, other)):
        return False
    if not any(re.search(r"[\\^+*/()\[,!-]", formula) for formula in (one, other)):
        return False
    parse, verify = _math_verify()
    gold, given = (parse(f"${formula}$", parsing_timeout=None) for formula in (one, other))
    # Each way round: verify simplifies the gold answer's side more, as an assignment to its value.
    return bool(gold and given) and any(verify(*pair, timeout_seconds=None) for pair in ((gold, given), (given, gold)))


def _alike(one: str, other: str) -> tuple[str, str]:
    """Two formulas, the one less a name that it gives its value (y = 2x + 3); empty where they cannot be the same."""
    named = [NAMED.match(formula) for formula in (one, other)]
    if (named[0] is None) != (named[1] is None):
        one, other = ((match["value"] if match else text) for match, text in zip(named, (one, other), strict=True))
    if ("=" in one) != ("=" in other):
        return "", ""  # an equation is no value
    # A point or an interval is no list of values, and a matrix is no number, though math-verify takes them for such.
    pairs = {bool(TUPLE.fullmatch(formula)) for formula in (one, other) if "," in formula}
    matrices = {"matrix" in formula for formula in (one, other)}
    return ("", "") if len(pairs) > 1 or len(matrices) > 1 else (one, other)


def _tex(formula: str) -> str:
    """Unicode's signs as LaTeX's, and a list of "and" as one of commas."""
    formula = ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3]}}}", formula.strip())
    formula = REPEATING.sub(_repeating, formula)
    for plain, tex in PLAIN_TO_TEX.items():
        formula = formula.replace(plain, tex)
    return re.sub(r"(?<=[\d)}])\s?,?\s(?:and|&)\s(?=[-\d(\\])", ", ", formula)


def _repeating(match: re.Match[str]) -> str:
    """A decimal that repeats for ever as a fraction; math-verify leaves the repeating part out."""
    whole, start, again = match[1], match[2], match[3]
    over = int(whole + start + again) - int(whole + start)
    return rf"\frac{{{over}}}{{{'9' * len(again) + '0' * len(start)}}}"


def _bare(formula: str) -> str:
    """A formula without spaces, and without braces that hold one character or a number."""
    return re.sub(r"\{(\w|\d+)\}", r"\1", re.sub(r"\s", "", formula))


def _is_bounded(formula: str) -> bool:
    return len(formula) <= LONGEST_FORMULA and bool(MATHS.fullmatch(formula)) and not HARD_MATHS.search(formula)


@cache
def _math_verify() -> tuple[Callable[..., list[object]], Callable[..., bool]]:
    """math-verify's parse and verify: imported when first needed, as that takes a second."""
    import math_verify

    for module in ("parser", "grader"):
        # It warns at every call without a time limit; what bounds the work here is HARD_MATHS.
        logging.getLogger(f"math_verify.{module}").addFilter(lambda record: "Timeout is disabled" not in record.msg)
    return math_verify.parse, math_verify.verify
