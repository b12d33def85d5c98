"""Check the arithmetic that a rationale writes out: a right answer does not make its steps right."""

import ast
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby, pairwise, takewhile
from typing import NamedTuple, TypeAlias

from kpod.teacher.doubts import (
    goes_on_after,
    goes_on_before,
    may_be_rounded,
    may_be_turned,
    may_convert,
    with_thousands,
)

_TOKEN = re.compile(
    r"(?P<number>(?:\d{1,3}(?:(?:,(?:\\!)?|\{,\}|\\,|\\!)\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
    r"|(?P<space>[ \t\u00a0]+|\\?[$€£](?=\s?[\d.])"
    r"|(?<![^\s(=:])\*\*(?=[^\s*])|(?<=[^\s*])\*\*(?=[\s.,;:!?)]|\Z))"  # bold; 2**3 and 2 ** 3 are powers
    r"|(?P<sign>[-+*/×÷−–·]|\\times|\\div|\\cdot)|(?P<open>\()|(?P<close>\))|(?P<equals>=)|(?P<percent>\\?%)"
    r"|(?P<times>x(?=[ \t]{0,3}[(\d$.]))|(?P<other>\\[()\[\]]|[A-Za-z_]+|.|\n)"
)
_PLAIN = {
    "×": "*",
    "·": "*",
    "x": "*",
    "÷": "/",
    "−": "-",
    "–": "-",
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
    "\\%": "%",
}
_SHARE = re.compile(r"\d+/\d+")
_WORD = re.compile(r"\s?[A-Za-z]")
_DOLLAR = re.compile(r"\$ *\Z")
_LINE_START = re.compile(r"(?:\A|\n)[^\S\n]*\Z")
_GROUPING = re.compile(r"[,{}\\!]")
LONGEST = 60
"""Tokens of an expression; longer ones are not checked."""

_Range: TypeAlias = tuple[Fraction, Fraction]
"""The least and the greatest value of numbers that may be rounded."""


class _Token(NamedTuple):
    kind: str
    text: str
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.text)


def wrong_equations(text: str) -> list[str]:
    """The equations between plain numbers in a text that do not hold, as they are written.

    `a op b = c` with any number of operands, brackets, currency and percent signs, and chains of them. A number with
    two decimals or more may be rounded; so may the right side where it has decimals or the left side divides, there
    also by cutting off. What holds variables, powers, functions, ratios, or words between its numbers is not looked
    at, and neither is what means two things: 3/4 = 45 minutes, 100 + 10% = 110, 30 + 30 = 1 hour, 6 + 8 = 2 (mod 12).

    Args:
        text: A rationale.

    Example:
        >>> wrong_equations("3 + 4 = 7, 7 * $1,000 = $7,000, 10 / 3 = 3.33, 0.33 * 15 = 5 and 2 x (3 + 1) = 9.")
        ['2 x (3 + 1) = 9']
    """
    return [shown for shown, holds in checked_equations(text) if not holds]


def checked_equations(text: str) -> Iterator[tuple[str, bool]]:
    """Every equation that can be checked, and whether it holds; in time linear in the text.

    Args:
        text: A rationale.

    Example:
        >>> list(checked_equations("4 trays hold 4 * 6 = 24 cups, and 24 - 5 = 18 are left."))
        [('4 * 6 = 24', True), ('24 - 5 = 18', False)]
    """
    for run in _runs(text):
        for left, right in _sides(run):
            signs = [token for token in left[1:] if token.kind in ("sign", "times")]
            if not signs or max(len(left), len(right)) > LONGEST or _is_share(left, right, text):
                continue
            values, claimed = _value(left), _value(right)
            if values is not None and claimed is not None:
                shown = text[left[0].start : right[-1].stop]
                cents = "$" in text[left[-1].stop : right[-1].start] and "$" not in text[left[0].start : left[-1].stop]
                cents = cents and not _DOLLAR.search(text[max(0, left[0].start - 4) : left[0].start])
                holds = _holds(values, claimed, left, right, cents)
                if holds or not _may_mean_another(text, left, right, values, claimed):
                    yield " ".join(shown.split()), holds


def _may_mean_another(
    text: str, left: Sequence[_Token], right: Sequence[_Token], values: _Range, claimed: _Range
) -> bool:
    """Whether an equation that does not hold may hold as its writer meant it."""
    stop = right[-1].stop
    if may_be_turned(text, left[0].start, stop) or may_convert(text, stop, *values, claimed[0]):
        return True
    if may_be_rounded(text, stop, right[-1].text, min(abs(values[0] - claimed[0]), abs(values[1] - claimed[1]))):
        return True
    other, others = ([token._replace(text=with_thousands(token.text)) for token in side] for side in (left, right))
    value, values_ = _value(other), _value(others)
    return value is not None and values_ is not None and _holds(value, values_, other, others, False)


def _is_share(left: Sequence[_Token], right: Sequence[_Token], text: str) -> bool:
    """Whether the left side is a share of something, as in 3/4 = 45 minutes."""
    written = text[left[0].start : left[-1].stop]
    return bool(_SHARE.fullmatch(written) and _WORD.match(text, right[-1].stop))


def _runs(text: str) -> Iterator[list[_Token]]:
    """Stretches of a text that hold nothing but numbers and signs, less the sides that words or letters touch."""
    tokens = [_Token(str(match.lastgroup), match.group(), match.start()) for match in _TOKEN.finditer(text)]
    for is_other, group in groupby(tokens, lambda token: token.kind == "other"):
        run = [token for token in group if token.kind != "space"] if not is_other else []
        if not any(token.kind == "equals" for token in run):
            continue
        marked = _without_list_mark(run) if _LINE_START.search(text[max(0, run[0].start - 12) : run[0].start]) else run
        if marked is run and _is_touched(run, text):
            run = run[[token.kind for token in run].index("equals") + 1 :]
        else:
            run = marked[1:] if marked[0].kind == "equals" else marked
        if run and (run[-1].kind in ("sign", "times") or goes_on_after(text, run[-1].stop)):
            rest = [position for position, token in enumerate(run) if token.kind == "equals"]
            run = run[: rest[-1]] if rest else []
        yield run


def _without_list_mark(run: list[_Token]) -> list[_Token]:
    """A line without the bullet or the "1)" at its start."""
    kinds = [token.kind for token in run[:4]]
    for marks in (["sign"], ["number", "close"], ["open", "number", "close"]):
        if kinds[: len(marks)] == marks and run[len(marks)].start > run[len(marks) - 1].stop:
            return run[len(marks) :] if run[0].text in "-*−–" or marks != ["sign"] else run
    return run


def _is_touched(run: Sequence[_Token], text: str) -> bool:
    """Whether the first side goes on to the left, in what could not be read."""
    start = run[0].start
    first = list(takewhile(lambda token: token.kind != "equals", run))
    is_factor = bool(first) and first[0].kind == "open" and not _around(first, "open")
    mixed = [token.text for token in run[1:2]] == ["/"] and text.endswith("and ", 0, start)  # 2 and 1/3
    return run[0].kind in ("sign", "times", "percent") or mixed or goes_on_before(text, start, is_factor=is_factor)


def _sides(run: Sequence[_Token]) -> Iterator[tuple[list[_Token], list[_Token]]]:
    """Neighbouring sides of a chain of equations, none empty, without brackets around the chain."""
    sides: list[list[_Token]] = [[]]
    for token in run:
        if token.kind == "equals":
            sides.append([])
        else:
            sides[-1].append(token)
    sides[0] = sides[0][_around(sides[0], "open") :]
    sides[-1] = sides[-1][: len(sides[-1]) - _around(sides[-1][::-1], "close")]
    yield from ((left, right) for left, right in pairwise(sides) if left and right)


def _around(side: Sequence[_Token], kind: str) -> int:
    """How many brackets at the start of a side have no partner in it."""
    brackets = [token.kind == kind for token in side if token.kind in ("open", "close")]
    leading = next((position for position, token in enumerate(side) if token.kind != kind), len(side))
    return max(0, min(leading, 2 * sum(brackets) - len(brackets)))


def _holds(left: _Range, right: _Range, written: Sequence[_Token], claimed: Sequence[_Token], cents: bool) -> bool:
    percent = claimed[-1].kind == "percent"
    decimals = len(claimed[0].text.partition(".")[2])
    divided = any(_PLAIN.get(token.text, token.text) == "/" for token in written)
    alone = len(claimed) == 1 + percent and (decimals or divided)
    slack = Fraction(1, 10**decimals * (100 if percent else 1)) if alone else Fraction(0)
    scales = [Fraction(1)]
    if percent or cents:  # 0.25 * 100 = 25 % and 15 / 60 = 25 % are both written, and so is 50 * 3 = $1.50
        scales.append(Fraction(1, 100))
    if not percent and _all_percent(written):  # 100% - 20% = 80
        scales.append(Fraction(100))
    for scale in scales:
        least, greatest = left[0] * scale, left[1] * scale
        if least <= right[1] and right[0] <= greatest:
            return True
        if least - slack < right[1] and right[0] < greatest + slack:
            return True
    return False


def _all_percent(side: Sequence[_Token]) -> bool:
    followed = [other.kind == "percent" for one, other in pairwise([*side, side[-1]]) if one.kind == "number"]
    return all(followed)


def _value(tokens: Sequence[_Token]) -> _Range | None:
    """The value of an expression; None where it is not one, may mean two things, or divides by zero."""
    try:
        source = _source(tokens)
        return _folded(ast.parse(source, mode="eval").body, source)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _source(tokens: Sequence[_Token]) -> str:
    """An expression in Python's signs; raises ValueError where it is none."""
    parts: list[str] = []
    position = 0
    while position < len(tokens):
        token, rest = tokens[position], tokens[position + 1 :]
        taken = 1
        part = _PLAIN.get(token.text, token.text)
        if token.kind == "number":
            part = _number(token)
            before = tokens[position - 1] if position else None
            if rest and rest[0].kind == "percent":
                if before and before.text in ("+", "-", "−", "–") and not _all_percent(tokens):
                    raise ValueError("100 + 10% is 110 to some")
                part, taken = f"({part}/100)", 2
            elif rest and rest[0].kind == "number":  # 1 1/2
                if not (token.text.isdigit() and _is_proper_fraction(rest)):
                    raise ValueError("two numbers side by side")
                part, taken = f"({part}+{_number(rest[0])}/{_number(rest[2])})", 4
            elif before and _PLAIN.get(before.text, before.text) == "/" and _is_fraction(before, token, rest):
                part, taken = f"({part}/{_number(rest[1])})", 3  # 6 / 1/2
        elif token.kind == "percent":
            part = "/100"
        parts.append(part)
        position += taken
    return "".join(parts)


def _is_fraction(before: _Token, token: _Token, rest: Sequence[_Token]) -> bool:
    """Whether a number is the upper one of a fraction, whose three parts stand closer together than what is before."""
    close = [token, *rest[:2]]
    if [t.kind for t in close] != ["number", "sign", "number"] or rest[0].text != "/":
        return False
    return before.stop < token.start and all(one.stop == other.start for one, other in pairwise(close))


def _is_proper_fraction(tokens: Sequence[_Token]) -> bool:
    """Whether 1/2 stands at the start; 4/2 would be a number of its own."""
    if len(tokens) < 3 or tokens[1].text != "/" or not (tokens[0].text.isdigit() and tokens[2].text.isdigit()):
        return False
    return tokens[0].text[0] != "0" and int(tokens[0].text[:20]) < int(tokens[2].text[:20])


def _number(token: _Token) -> str:
    plain = _GROUPING.sub("", token.text)
    return f"0{plain}" if plain.startswith(".") else plain


def _folded(node: ast.expr, source: str) -> _Range:
    """Exact arithmetic with ranges, of sums, differences, products and quotients alone."""
    if isinstance(node, ast.Constant):
        written = ast.get_source_segment(source, node) or ""
        decimals = len(written.partition(".")[2])
        ulps = 10 if decimals >= 10 else 1  # a computer's noise: 1.5 + 0.6666666666666667
        slack = Fraction(ulps, 2 * 10**decimals) if decimals >= 2 else Fraction(0)
        return Fraction(written) - slack, Fraction(written) + slack
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        least, greatest = _folded(node.operand, source)
        return -greatest, -least
    if not isinstance(node, ast.BinOp):
        raise ValueError("not arithmetic")
    (a, b), (c, d) = _folded(node.left, source), _folded(node.right, source)
    if isinstance(node.op, ast.Add):
        return a + c, b + d
    if isinstance(node.op, ast.Sub):
        return a - d, b - c
    if isinstance(node.op, ast.Div):
        if c <= 0 <= d:
            raise ZeroDivisionError
        c, d = 1 / d, 1 / c
    elif not isinstance(node.op, ast.Mult):
        raise ValueError("not arithmetic")
    products = (a * c, a * d, b * c, b * d)
    return min(products), max(products)
