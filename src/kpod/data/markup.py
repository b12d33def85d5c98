"""Texts without LaTeX's and Markdown's markup, and with numbers in plain characters."""

import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache

TIDY: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))"), ""),
    (re.compile("[\u00a0\u2007\u2009\u202f]"), " "),
    # "\\ " ends a row of a matrix, "\ " is a space.
    (
        re.compile(
            r"[\u200b-\u200d\u2060\ufeff]|(?<!\\)\\[,;:!> ]|\\(?:left|right|quad|displaystyle)(?![A-Za-z])"
            r"|(?<!\\)\\[()\[\]]|\^\s?\{?\\circ\}?|\\(?:degree|degrees)(?![A-Za-z])"
        ),
        "",
    ),
    (re.compile("[\u2212\ufe63]|\\A\\s*[\u2010\u2011\u2013](?=[\\d.$€£])"), "-"),
    (re.compile(r"\A[-$€£]{0,2}\d{1,3}(?: \d{3})+(?![\d-]|\s?/)"), lambda match: match[0].replace(" ", "")),
    # A plain space groups digits where nothing else is likely: "12 000", "1 234 567", not "4 100-page books".
    (
        re.compile(r"(?<![\d.,/])\d{1,3}(?:(?: \d{3})* 000|(?: \d{3}){2,})(?![\d-]|,\d|\s?/)"),
        lambda match: match[0].replace(" ", ""),
    ),
    (re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|mbox|operatorname) ?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"(?<=\S) {2,8}(?=\S)"), " "),
    (re.compile(r"\\{1,2}([$%#&])"), r"\1"),
    (re.compile(r"</?[A-Za-z]{1,10} ?/?>|<\|[^|<>\s]{1,30}\|>|~~[^~\n]{1,80}~~"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (
        re.compile(r"\\frac\s?(\{[^{}]*\}|\d)\s?(\{[^{}]*\}|\d)"),
        lambda match: rf"\frac{_braced(match[1])}{_braced(match[2])}",
    ),
    (re.compile(r"(?<![\w*])\*{2,3}|\*{2,3}(?![\w*]|-\d)"), ""),
    (re.compile(r"\A\s*\${1,2}([^$]+)\${1,2}\s*\Z"), r"\1"),
    (re.compile(r"\$\$\s*\Z"), ""),
]


def tidy(text: str) -> str:
    r"""A text without the markup around and the odd characters inside its answer.

    Example:
        >>> tidy(r"\(\text{about } 12{,}000\) **kg**"), tidy("\u22125 or 1\u202f234"), tidy(r"\dfrac59")
        ('about 12,000 kg', '-5 or 1234', '\\frac{5}{9}')
    """
    for pattern, plain in TIDY:
        text = pattern.sub(plain, text)
    return text


def plain_characters(text: str) -> str:
    """A text with the digits and marks of any script as ASCII's; no character is added or lost.

    Digits of every script become 0 to 9, full-width letters and marks their plain forms, and other writings of the
    fraction slash and of the Arabic separators a slash, a comma and a point. An ideographic full stop stays.

    Example:
        >>> plain_characters("Ａ：１８，１⁄２")
        'A:18,1/2'
    """
    return text if text.isascii() else text.translate(_plain())


@cache
def _plain() -> Mapping[int, str]:
    digits = {
        code: str(unicodedata.decimal(chr(code)))
        for code in range(0x80, sys.maxunicode + 1)
        if unicodedata.category(chr(code)) == "Nd"
    }
    wide = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    marks = {
        "⁄": "/",
        "∕": "/",
        "٫": ".",
        "٬": ",",
        "、": ",",
        "\u3000": " ",
        "％": "%",
        "﹣": "-",
        "【": "[",
        "】": "]",
    }
    return wide | digits | {ord(mark): plain for mark, plain in marks.items()}


def _braced(argument: str) -> str:
    return argument if argument.startswith("{") else f"{{{argument}}}"
