"""How texts and shares are shown to people."""

from unicodedata import category

JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    """The same text with every character that hides or reorders others written out, such as ⟨U+202E⟩.

    Control and format characters, line separators and lone surrogates can disguise what a
    rationale says, or move the cursor of a terminal. Line breaks, tabs and the joiners that
    spelling and emoji need stay.

    Example:
        >>> visible("1\u202e2")
        '1⟨U+202E⟩2'
    """
    hidden = {char for char in set(text) if category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n", "\t", *JOINERS}
    return text.translate({ord(char): f"⟨U+{ord(char):04X}⟩" for char in hidden})


def duration(seconds: float) -> str:
    """How long something takes, in the two largest units.

    Example:
        >>> duration(4.2), duration(125.0), duration(3720.0)
        ('4 s', '2 min 5 s', '1 h 2 min')
    """
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"


def percent(rate: float) -> str:
    """A rate from 0 to 1 as a percentage with one decimal."""
    return f"{100 * rate:.1f} %"
