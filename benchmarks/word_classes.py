"""Classes of a rationale's words and tokens: what a judge of token weights needs to know of them.

A word gives its class to each of its tokens. Classes are read off the words alone: "times" is an operation also in
"three times a week".
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kpod import TokenizedRationale, split_steps
from kpod.data.spoken import FINE_PARTS, NUMBER_WORDS, PARTS, PLURALS
from kpod.records import Span
from kpod.steps import step_stops_of
from kpod.weighting import KEYPOINTS

WordClass: TypeAlias = Literal["operation", "number", "operator", "quantity", "comparison", "other", "punctuation"]

_OPERATIONS = (
    "add adds added adding addition additions subtract subtracts subtracted subtracting subtraction subtractions "
    "multiply multiplies multiplied multiplying multiplication multiplications divide divides divided dividing "
    "division divisions plus minus times sum sums summed summing product products twice half halves halved halving"
)
_QUANTITIES = (
    "first second once thrice single double doubles doubled doubling triple triples tripled tripling quadruple pair "
    "pairs couple dozens hundreds thousands millions none both"
)
_COMPARISONS = (
    "more less fewer than left remain remains remained remaining remainder rest each every per total totals totaled "
    "altogether all together combined combine difference differences different equal equals equally same most least "
    "greater greatest larger largest smaller smallest bigger biggest higher highest lower lowest longer longest "
    "shorter shortest older oldest younger youngest taller heavier lighter faster slower cheaper extra additional "
    "another increase increases increased increasing decrease decreases decreased decreasing compare compared enough "
    "only exceed exceeds"
)
OPERATIONS = frozenset(_OPERATIONS.split())
_SPOKEN = NUMBER_WORDS | PARTS.keys() | PLURALS.keys() | FINE_PARTS.keys()
QUANTITIES = (_SPOKEN | frozenset(_QUANTITIES.split())) - OPERATIONS
COMPARISONS = frozenset(_COMPARISONS.split())
CLASSES: dict[WordClass, frozenset[str]] = {
    "operation": OPERATIONS,
    "quantity": QUANTITIES,
    "comparison": COMPARISONS,
}
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*(?:(?:st|nd|rd|th)\b)?")


def class_of_word(word: str) -> WordClass:
    """The class of a word of letters; one with a hyphen has the first class that one of its parts has.

    An x alone is an operator, whether it multiplies or is an unknown: it is no word that others are held against.

    Example:
        >>> [class_of_word(word) for word in ("Adding", "twenty-five", "left", "apples", "half-price", "x")]
        ['operation', 'quantity', 'comparison', 'other', 'operation', 'operator']
    """
    if word in ("x", "X"):
        return "operator"
    parts = {word.casefold(), *word.casefold().split("-")}
    return next((name for name, words in CLASSES.items() if parts & words), "other")


def words(text: str) -> list[tuple[Span, WordClass]]:
    """The words of letters in a text, with their classes."""
    return [(match.span(), class_of_word(match[0])) for match in WORD.finditer(text)]


def num_operation_words(texts: Sequence[str]) -> int:
    """How many operation words stand in some texts."""
    return sum(name == "operation" for text in texts for _, name in words(text))


def classes_of_characters(text: str) -> list[WordClass | None]:
    """The class of every character; None for white space."""
    found: list[WordClass | None] = [
        None if char.isspace() else "operator" if char in KEYPOINTS else "punctuation" for char in text
    ]
    for match in NUMBER.finditer(text):
        found[slice(*match.span())] = ["number"] * len(match[0])
    for (start, stop), name in words(text):
        if found[start] != "number":  # the letters of "3rd"
            found[start:stop] = [name] * (stop - start)
    return found


def token_classes(char_spans: Sequence[Span], text: str) -> list[WordClass | None]:
    """The class of every token: that of most of its visible characters, of the first where they are as many.

    Args:
        char_spans: As in `TokenizedRationale`.
        text: The rationale.

    Returns:
        One class per token; None for a token of white space.

    Example:
        >>> token_classes([(0, 3), (3, 5), (5, 7), (7, 9), (9, 10)], "Add 3 + 4.")
        ['operation', 'number', 'operator', 'number', 'punctuation']
    """
    by_character = classes_of_characters(text)
    found: list[WordClass | None] = []
    for start, stop in char_spans:
        counts = Counter(name for name in by_character[start:stop] if name is not None)
        found.append(counts.most_common(1)[0][0] if counts else None)
    return found


def first_step_size(char_spans: Sequence[Span], text: str) -> int:
    """How many tokens the first reasoning step holds, under the rule `sentence`."""
    return step_stops_of(split_steps(text), char_spans)[0]


def in_first_step(tokens: TokenizedRationale) -> NDArray[np.bool_]:
    """Which tokens belong to the first reasoning step, as the rationale was split."""
    return np.arange(tokens.num_tokens) < tokens.step_stops[0]
