"""Texts without LaTeX's and Markdown's markup, and with numbers in plain characters."""

import re
from collections.abc import Callable

TIDY: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))"), ""),
    (re.compile("[\u00a0\u2007\u2009\u202f]"), " "),
    (re.compile(r"[\u200b-\u200d\u2060\ufeff]|\\[,;:! ]|\\(?:left|right|quad)\b|\\[()\[\]]|\^\{?\\circ\}?"), ""),
    (re.compile("\u2212|\\A\\s*[\u2010\u2011\u2013](?=[\\d.$€£])"), "-"),
    # A plain space groups digits where nothing else is likely: "12 000", "1 234 567", not "4 100-page books".
    (
        re.compile(r"(?<![\d.,/])\d{1,3}(?:(?: \d{3})* 000|(?: \d{3}){2,})(?![\d-]|,\d|\s?/)"),
        lambda match: match[0].replace(" ", ""),
    ),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox) ?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dt]frac\b"), r"\\frac"),
    (re.compile(r"(?<![\w*])\*{2,3}|\*{2,3}(?![\w*])"), ""),
    (re.compile(r"\A\s*\$([^$]*[\\^=][^$]*)\$\s*\Z"), r"\1"),
]


def tidy(text: str) -> str:
    r"""A text without the markup around and the odd characters inside its answer.

    Example:
        >>> tidy(r"\(\text{about } 12{,}000\) **kg**"), tidy("\u22125 or 1\u202f234")
        ('about  12,000 kg', '-5 or 1234')
    """
    for pattern, plain in TIDY:
        text = pattern.sub(plain, text)
    return text
