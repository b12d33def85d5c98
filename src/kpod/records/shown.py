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


def percent(rate: float) -> str:
    """A rate from 0 to 1 as a percentage with one decimal."""
    return f"{100 * rate:.1f} %"
