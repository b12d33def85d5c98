"""Characters that no text should hold: halves of a surrogate pair, and control characters."""

import re

_BROKEN = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def broken_character(text: str) -> str | None:
    r"""The first broken character of a text; None where there is none.

    A lone surrogate cannot be written to a file. A control character is no part of any script: it mostly is what a
    wrong escape left of a LaTeX command (\f of \frac, \b of \boxed). Tab, line feed and carriage return are fine.

    Returns:
        Its code, such as U+D83D.

    Example:
        >>> broken_character("A\x00B"), broken_character("A\tB\n"), broken_character("\ud83d")
        ('U+0000', None, 'U+D83D')
    """
    found = _BROKEN.search(text)
    return f"U+{ord(found.group()):04X}" if found else None
