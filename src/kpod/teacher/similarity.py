"""How alike two rationales of a question are, and which few of many are most unlike (MCC-KD, section 3.1)."""

import re
from collections.abc import Sequence
from itertools import combinations

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]")
NGRAM = 3


def ngrams(text: str) -> frozenset[tuple[str, ...]]:
    """The sets of NGRAM neighbouring words, numbers and signs of a text; the whole text where it has fewer."""
    words = tuple(_WORD.findall(text.casefold()))
    return frozenset(words[i : i + NGRAM] for i in range(max(1, len(words) - NGRAM + 1)))


def jaccard(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    """|A & B| / |A | B|, in [0, 1].

    Example:
        >>> jaccard(ngrams("He has 3 + 4 = 7 apples"), ngrams("she has 3 + 4 = 7 apples"))
        0.7142857142857143
    """
    return len(one & other) / len(one | other)


def near_duplicates(texts: Sequence[str], max_similarity: float) -> list[int]:
    """Positions of the texts that are more alike to an earlier, kept one than allowed.

    Example:
        >>> near_duplicates(["He has 3 + 4 = 7.", "They have 7.", "he has 3 + 4 = 7 ."], 0.9)
        [2]
    """
    kept: dict[frozenset[tuple[str, ...]], int] = {}  # each with its size, which bounds the similarity
    doubled = []
    for position, grams in enumerate(map(ngrams, texts)):
        size = len(grams)
        if grams in kept or any(
            min(size, other_size) > max_similarity * max(size, other_size) and jaccard(grams, other) > max_similarity
            for other, other_size in kept.items()
        ):
            doubled.append(position)
        else:
            kept[grams] = size
    return doubled


def most_diverse(texts: Sequence[str], number: int) -> list[int]:
    """Positions, rising, of so many texts that are most unlike one another, chosen greedily.

    First the pair with the smallest Jaccard similarity, then again and again the text whose greatest similarity to the
    chosen ones is smallest; ties go to the earlier text. Of one text the first is taken.

    Example:
        >>> most_diverse(["3 + 4 = 7", "3 + 4 = 7 .", "count on from four : five six seven"], 2)
        [0, 2]
    """
    if number >= len(texts):
        return list(range(len(texts)))
    if number == 1:
        return [0]
    grams = [ngrams(text) for text in texts]
    _, *chosen = min((jaccard(grams[i], grams[j]), i, j) for i, j in combinations(range(len(texts)), 2))
    nearest = [max(jaccard(one, grams[other]) for other in chosen) for one in grams]
    while len(chosen) < number:
        added = min(set(range(len(texts))) - set(chosen), key=lambda position: (nearest[position], position))
        chosen.append(added)
        nearest = [max(value, jaccard(one, grams[added])) for value, one in zip(nearest, grams, strict=True)]
    return sorted(chosen)
