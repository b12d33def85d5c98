"""Near duplicates and the most diverse few, against their definitions."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from kpod.teacher.similarity import jaccard, most_diverse, near_duplicates, ngrams

PIECES = st.lists(st.sampled_from(list("abcd3+=.")), max_size=8).map(" ".join)
TEXTS = st.lists(PIECES, min_size=1, max_size=12)


def doubled_by_definition(texts: list[str], limit: float) -> list[int]:
    kept: list[int] = []
    for position in range(len(texts)):
        grams = ngrams(texts[position])
        others = [ngrams(texts[other]) for other in kept]
        if not any(grams == other or jaccard(grams, other) > limit for other in others):
            kept.append(position)
    return [position for position in range(len(texts)) if position not in kept]


def diverse_by_definition(texts: list[str], number: int) -> list[int]:
    grams = [ngrams(text) for text in texts]
    _, *chosen = min((jaccard(grams[i], grams[j]), i, j) for i, j in combinations(range(len(texts)), 2))
    while len(chosen) < number:
        left = [position for position in range(len(texts)) if position not in chosen]
        chosen.append(min(left, key=lambda position: max(jaccard(grams[position], grams[c]) for c in chosen)))
    return sorted(chosen)


@given(TEXTS, st.floats(0, 1))
def test_near_duplicates_are_those_of_the_definition(texts: list[str], limit: float):
    assert near_duplicates(texts, limit) == doubled_by_definition(texts, limit)


@given(TEXTS, st.integers(1, 12))
def test_the_most_diverse_are_those_of_the_definition(texts: list[str], number: int):
    expected = list(range(len(texts))) if number >= len(texts) else [0]
    if 1 < number < len(texts):
        expected = diverse_by_definition(texts, number)
    assert most_diverse(texts, number) == expected


@given(st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=9), min_size=2, max_size=5))
def test_any_strings_are_compared(texts: list[str]):
    assert set(near_duplicates([*texts, *texts], 1.0)) >= set(range(len(texts), 2 * len(texts)))
    assert len(most_diverse(texts, 2)) == 2


def test_hundreds_of_samples_of_one_question_are_compared_in_a_moment():
    texts = [f"He has {n} + {n + 1} = {2 * n + 1} apples and {'a ' * (n % 7)}" for n in range(150)]
    assert near_duplicates(texts, 1.0) == []
    assert len(most_diverse(texts, 100)) == 100
