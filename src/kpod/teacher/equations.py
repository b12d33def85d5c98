"""Check the arithmetic that a rationale writes out: a right answer does not make its steps right."""

import ast
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby, pairwise
from typing import NamedTuple, TypeAlias

_TOKEN = re.compile(
    r"(?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)|(?P<sign>[-+*/×÷−–·]|\\times|\\div|\\cdot)|(?P<open>\()"
    r"|(?P<close>\))|(?P<equals>=)|(?P<percent>\\?%)|(?P<space>[ \t\u00a0]+|\\?[$€£](?=\s?[\d.]))"
    r"|(?P<times>x(?=[ \t]?[(\d$.]))|(?P<other>[A-Za-z_]+|.|\n)"
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
_TOUCHES = re.compile(r"[\w.)\]}%^\\]\Z|\d\s?:\s?\Z|\b(?:of|times|by|over)\s\Z")
_TOUCHED = re.compile(r"[^\s.,;:!?\"'”’)\]}|*_\\$]|\s?:\s?\d")
LONGEST = 60
"""Tokens of an expression; longer ones are not checked."""

_Range: TypeAlias = tuple[Fraction, Fraction]
"""The least and the greatest value of numbers that may be rounded."""


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def wrong_equations(text: str) -> list[str]:
    """The equations between plain numbers in a text that do not hold, as they are written.

    `a op b = c` with any number of operands, brackets, currency and percent signs, and chains of them. A number with
    two decimals or more may be rounded; so may the right side where it has decimals or the left side divides, there
    also by cutting off. What holds variables, powers, ratios, or words between its numbers is not looked at.

    Args:
        text: A rationale.

    Example:
        >>> wrong_equations("3 + 4 = 7, 7 * $1,000 = $7,000, 10 / 3 = 3.33, 0.33 * 15 = 5 and 2 x (3 + 1) = 9.")
        ['2 x (3 + 1) = 9']
    """
    return [shown for shown, holds in checked_equations(text) if not holds]


def checked_equations(text: str) -> Iterator[tuple[str, bool]]:
    """Every equation that can be checked, and whether it holds; in time linear in the text."""
    for run in _runs(text):
        for left, right in _sides(run):
            signs = [token for token in left[1:] if token.kind in ("sign", "times")]
            stop = left[-1].start + len(left[-1].text)
            share = [token.text for token in signs] == ["/"] and " " not in text[
                left[0].start : stop
            ]  # 3/4 = 45 minutes
            if not signs or share or max(len(left), len(right)) > LONGEST:
                continue
            values, claimed = _value(left), _value(right)
            if values is not None and claimed is not None:
                stop = right[-1].start + len(right[-1].text)
                yield " ".join(text[left[0].start : stop].split()), _holds(values, claimed, left, right)


def _runs(text: str) -> Iterator[list[_Token]]:
    """Stretches of a text that hold nothing but numbers and signs, less the sides that words or letters touch."""
    tokens = [_Token(str(match.lastgroup), match.group(), match.start()) for match in _TOKEN.finditer(text)]
    for is_other, group in groupby(tokens, lambda token: token.kind == "other"):
        run = [token for token in group if token.kind != "space"] if not is_other else []
        if not any(token.kind == "equals" for token in run):
            continue
        start, stop = run[0].start, run[-1].start + len(run[-1].text)
        line = text.rfind("\n", 0, start) + 1
        bullet = run[0].text in "-*−–" and not text[line:start].strip() and text[start + 1 : start + 2] == " "
        run = run[1:] if bullet else run
        equals = [position for position, token in enumerate(run) if token.kind == "equals"]
        before, after = text[max(0, start - 12) : start], text[stop : stop + 3]
        mixed = [token.text for token in run[1:2]] == ["/"] and before.endswith("and ")  # 2 and 1/3
        if not bullet and (run[0].kind in ("sign", "times", "percent") or mixed or _TOUCHES.search(before)):
            run = run[equals[0] + 1 :]
        elif run[0].kind == "equals":
            run = run[1:]
        if run and (run[-1].kind in ("sign", "times") or _TOUCHED.match(after)):
            rest = [position for position, token in enumerate(run) if token.kind == "equals"]
            run = run[: rest[-1]] if rest else []
        yield run


def _sides(run: Sequence[_Token]) -> Iterator[tuple[list[_Token], list[_Token]]]:
    """Neighbouring sides of a chain of equations, none empty."""
    sides: list[list[_Token]] = [[]]
    for token in run:
        if token.kind == "equals":
            sides.append([])
        else:
            sides[-1].append(token)
    yield from ((left, right) for left, right in pairwise(sides) if left and right)


def _holds(left: _Range, right: _Range, written: Sequence[_Token], claimed: Sequence[_Token]) -> bool:
    percent = claimed[-1].kind == "percent"  # 0.25 * 100 = 25 % and 15 / 60 = 25 % are both written
    decimals = len(claimed[0].text.partition(".")[2])
    divided = any(_PLAIN.get(token.text, token.text) == "/" for token in written)
    alone = len(claimed) == 1 + percent and (decimals or divided)
    slack = Fraction(1, 10**decimals * (100 if percent else 1)) if alone else Fraction(0)
    for scale in (1, Fraction(1, 100)) if percent else (1,):
        least, greatest = left[0] * scale, left[1] * scale
        if least <= right[1] and right[0] <= greatest:
            return True
        if least - slack < right[1] and right[0] < greatest + slack:
            return True
    return False


def _value(tokens: Sequence[_Token]) -> _Range | None:
    """The value of an expression; None where it is not one, or divides by zero."""
    parts = [_PLAIN.get(token.text, token.text).replace(",", "") for token in tokens]
    for position, (one, other) in enumerate(pairwise(tokens)):
        if one.kind == other.kind == "number":  # 1 1/2
            mixed = [token.text for token in tokens[position + 2 : position + 3]] == ["/"]
            parts[position] += "+" if mixed else "?"
    source = "".join(re.sub(r"\A0+(?=\d)", "", re.sub(r"\A\.", "0.", part)) for part in parts).replace("%", "/100")
    try:
        return _folded(ast.parse(source, mode="eval").body, source)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _folded(node: ast.expr, source: str) -> _Range:
    """Exact arithmetic with ranges, of sums, differences, products and quotients alone."""
    if isinstance(node, ast.Constant):
        written = ast.get_source_segment(source, node) or ""
        decimals = len(written.partition(".")[2])
        slack = Fraction(1, 2 * 10**decimals) if decimals >= 2 else Fraction(0)
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
