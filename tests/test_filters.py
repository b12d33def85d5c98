"""Which rationales a filter keeps, and the reasons for the others."""

import random
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.recipe import TeacherConfig
from kpod.records import Dropped, Question, Rationale
from kpod.records.errors import ConfigError
from kpod.teacher.filters import answers_of, filter_rationales
from kpod.teacher.similarity import jaccard, most_diverse, near_duplicates, ngrams

QUESTION = Question("q", "How many?", "1200")
CHOICE = Question("c", "Which?", "B", {"A": "red", "B": "blue"})


def explained(id_: str, reached: str | None, text: str = "Hm.", question=QUESTION, source: str = "gpt") -> Rationale:
    return Rationale(id_, question, text, source, reached)


@pytest.mark.parametrize(
    ("rationale", "reason"),
    [
        (explained("same", "1200"), None),
        (explained("same number", "1,200.0"), None),
        (explained("other", "1201"), "wrong answer"),
        (explained("letter", "B", question=CHOICE), None),
        (explained("other letter", "A", question=CHOICE), "wrong answer"),
        (explained("read off", None, "Then 1000 + 200 = 1200. The answer is 1200."), None),
        (explained("read off, wrong", None, "Then 1000 + 20 = 1020. The answer is 1020."), "wrong answer"),
        (explained("nothing to read", None, "Nobody can say."), "unknown answer"),
        (explained("human", None, "Nobody can say.", source="human"), None),
        (explained("made", None, "Nobody can say.", source="word_problems"), None),
        (explained("human, wrong", "7", source="human"), "wrong answer"),
    ],
    ids=lambda value: value.id if isinstance(value, Rationale) else "",
)
def test_gold_keeps_what_reaches_the_gold_answer(rationale: Rationale, reason: str | None):
    kept, dropped = filter_rationales([rationale], TeacherConfig(filter="gold", max_similarity=None))
    assert kept == ([] if reason else [rationale])
    assert dropped == ([Dropped(rationale.id, reason)] if reason else [])


def test_none_keeps_everything():
    rationales = [explained("a", "7"), explained("b", None, "Nobody can say.")]
    assert filter_rationales(rationales, TeacherConfig(filter="none", max_similarity=None)) == (rationales, [])


def test_the_order_is_kept():
    rationales = [explained(str(i), answer) for i, answer in enumerate(["1200", "7", "1200", None, "1200"])]
    kept, dropped = filter_rationales(rationales, TeacherConfig(filter="gold", max_similarity=None))
    assert [rationale.id for rationale in kept] == ["0", "2", "4"]
    assert [item.id for item in dropped] == ["1", "3"]


def judged(rationales: list[Rationale], **config) -> list[str]:
    """What becomes of each rationale: the answer of its question, or the reason why it is dropped."""
    kept, dropped = filter_rationales(rationales, TeacherConfig(**{"max_similarity": None, **config}))
    said = {rationale.id: rationale.question.answer for rationale in kept} | {item.id: item.reason for item in dropped}
    assert len(kept) + len(dropped) == len(said) == len(rationales)
    return [said[rationale.id] for rationale in rationales]


@pytest.mark.parametrize(
    ("reached", "becomes"),
    [
        (["5", "5", "7"], ["5", "5", "outvoted"]),
        (["5"], ["5"]),
        (["5", "5.0", "$5", "7", "7"], ["5", "5", "5", "outvoted", "outvoted"]),
        (["5", "7"], ["no majority"] * 2),
        (["5", "7", "9"], ["no majority"] * 3),
        (["5", "5", "7", "7", "9"], ["no majority"] * 5),
        ([None, None, "5"], ["unknown answer", "unknown answer", "5"]),
        ([None], ["unknown answer"]),
        (["1200", "7", "7"], ["outvoted", "7", "7"]),  # whatever gold says
        (["Yes", "yes.", "no"], ["yes", "yes", "outvoted"]),
    ],
    ids=str,
)
def test_a_vote_keeps_what_most_rationales_reach(reached, becomes):
    rationales = [explained(str(n), answer) for n, answer in enumerate(reached)]
    assert judged(rationales, filter="vote") == becomes


def test_options_are_voted_on_by_letter_and_none_but_them():
    reached = ["B", "blue", "(b)", "A", "Z", "neither"]
    rationales = [explained(str(n), answer, question=CHOICE) for n, answer in enumerate(reached)]
    assert judged(rationales, filter="vote") == ["B", "B", "B", "outvoted", "unknown answer", "unknown answer"]


def test_every_question_has_a_vote_of_its_own_and_people_vote_for_gold():
    other = Question("other", "How many?", "3")
    rationales = [
        explained("a", "5"),
        explained("b", "7", question=other),
        explained("c", "7", question=other),
        explained("human", None, "By hand.", question=Question("third", "How many?", "4"), source="human"),
    ]
    assert judged(rationales, filter="vote") == ["5", "7", "7", "4"]


@given(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=9))
def test_a_vote_is_won_by_more_than_anyone_else(reached: list[str | None]):
    becomes = judged([explained(str(n), answer) for n, answer in enumerate(reached)], filter="vote")
    counts = Counter(answer for answer in reached if answer)
    winners = [answer for answer in counts if counts[answer] == max(counts.values())]
    won = winners[0] if len(winners) == 1 else None
    for answer, said in zip(reached, becomes, strict=True):
        expected = (won if answer == won else "outvoted") if won else "no majority"
        assert said == (expected if answer else "unknown answer")


LONG = "First he has three apples and then he buys four more apples, so 3 + 4 = 7 are there."


def test_near_duplicates_are_dropped_within_a_question_alone():
    again = LONG.replace("First", "first").replace(" so", "  so")
    other = Question("other", "How many?", "1200")
    rationales = [
        explained("first", "1200", LONG),
        explained("again", "1200", again),
        explained("other question", "1200", LONG, question=other),
        explained("unlike", "1200", "Count on from three: four, five, six, seven."),
    ]
    config = TeacherConfig(max_similarity=0.9)
    kept, dropped = filter_rationales(rationales, config)
    assert [rationale.id for rationale in kept] == ["first", "other question", "unlike"]
    assert dropped == [Dropped("again", "near-duplicate")]
    assert filter_rationales(rationales, TeacherConfig(max_similarity=None)) == (rationales, [])


def test_equations_are_checked_only_where_that_is_asked_for():
    rationales = [explained("right", "1200", "3 + 4 = 7."), explained("wrong", "1200", "3 + 4 = 8.")]
    assert judged(rationales, check_equations=True) == ["1200", "wrong equation"]
    assert judged(rationales) == ["1200", "1200"]


def test_later_rules_see_what_earlier_ones_have_kept():
    rationales = [
        explained("wrong answer", "7", LONG),
        explained("wrong equation", "1200", LONG.replace("= 7", "= 8")),
        explained("first", "1200", LONG),  # like the two above, which are gone
        explained("near-duplicate", "1200", LONG + " "),
        explained("like the first", "1200", LONG + " That is all there is to it."),
        explained("unlike", "1200", "Count on from three: four, five, six, seven."),
        explained("nothing but an answer", "1200", "The answer is 1200.", question=CHOICE_LIKE),
    ]
    becomes = judged(rationales, check_equations=True, max_similarity=0.9, per_question=2, strip_closing=True)
    assert becomes == [
        "wrong answer",
        "wrong equation",
        "1200",
        "near-duplicate",
        "not among the most diverse",
        "1200",
        "nothing but an answer",
    ]


CHOICE_LIKE = Question("another", "How many?", "1200")


def test_what_a_rationale_reaches_is_what_its_teacher_says_or_its_text():
    assert answers_of(explained("a", "7", "The answer is 8.")) == ("7",)
    assert answers_of(explained("a", None, "The answer is 8.")) == ("8",)
    assert answers_of(explained("a", None, "It is B, the answer is blue.", question=CHOICE)) == ("B",)
    assert answers_of(explained("a", None, "Nothing is said.")) == ()


@pytest.mark.parametrize("wrong", [{"per_question": 0}, {"max_similarity": 0.0}, {"max_similarity": 1.5}], ids=str)
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match=rf"teacher\.{next(iter(wrong))}"):
        TeacherConfig(**wrong)


WORDS = st.lists(
    st.sampled_from(["he", "has", "3", "+", "4", "=", "7", "apples", ".", ",", "now"]), min_size=1, max_size=12
)
TEXTS = st.lists(WORDS.map(" ".join), max_size=7)


@given(WORDS.map(" ".join), WORDS.map(" ".join))
def test_similarity_is_symmetric_and_one_for_equal_texts_alone(one: str, other: str):
    similarity = jaccard(ngrams(one), ngrams(other))
    assert similarity == jaccard(ngrams(other), ngrams(one))
    assert 0 <= similarity <= 1
    assert (similarity == 1) == (ngrams(one) == ngrams(other))
    assert jaccard(ngrams(one), ngrams(f" {one.upper()}  ")) == 1


def test_similarity_by_hand():
    assert ngrams("3 + 4 = 7.5") == {("3", "+", "4"), ("+", "4", "="), ("4", "=", "7.5")}
    assert ngrams("Two words") == {("two", "words")}
    assert jaccard(ngrams("a b c d"), ngrams("a b c e")) == pytest.approx(1 / 3)


@given(TEXTS, st.floats(0.05, 1))
def test_what_is_left_holds_no_near_duplicates_and_what_is_dropped_is_one(texts: list[str], limit: float):
    doubled = near_duplicates(texts, limit)
    grams = [ngrams(text) for text in texts]
    left = [n for n in range(len(texts)) if n not in doubled]
    for n in range(len(texts)):
        alike = any(grams[n] == grams[k] or jaccard(grams[n], grams[k]) > limit for k in left if k < n)
        assert alike == (n in doubled)


def greedily(texts: list[str], number: int) -> list[int]:
    """The rule by its definition: the least alike pair, then whatever is least like the likest chosen one."""
    alike = [[jaccard(ngrams(one), ngrams(other)) for other in texts] for one in texts]
    if number == 1 or len(texts) <= 1:
        return [0][: len(texts)]
    pairs = sorted(combinations(range(len(texts)), 2), key=lambda pair: alike[pair[0]][pair[1]])
    chosen = list(pairs[0])
    while len(chosen) < min(number, len(texts)):
        left = [n for n in range(len(texts)) if n not in chosen]
        chosen.append(sorted(left, key=lambda n: max(alike[n][k] for k in chosen))[0])
    return sorted(chosen)


@given(TEXTS, st.integers(1, 8))
def test_the_most_diverse_are_chosen_by_the_greedy_rule(texts: list[str], number: int):
    chosen = most_diverse(texts, number)
    assert len(chosen) == min(number, len(texts))
    assert chosen == (list(range(len(texts))) if number >= len(texts) else greedily(texts, number))


@given(st.lists(WORDS.map(" ".join), min_size=3, max_size=7))
def test_two_that_are_chosen_are_the_least_alike_of_all(texts: list[str]):
    grams = [ngrams(text) for text in texts]
    one, other = most_diverse(texts, 2)
    assert jaccard(grams[one], grams[other]) == min(jaccard(*pair) for pair in combinations(grams, 2))


def test_three_that_are_chosen_are_nearly_as_unlike_as_three_can_be():
    """The greedy choice against the best of all: where the likest pair is as unlike as can be."""
    rng = random.Random(0)
    words = ["he", "has", "3", "+", "4", "=", "7", "apples", ".", ",", "now", "then", "so", "we", "count"]

    def spread(texts: list[str], chosen: tuple[int, ...] | list[int]) -> float:
        return 1 - max(jaccard(ngrams(texts[i]), ngrams(texts[k])) for i, k in combinations(chosen, 2))

    greedy = best = 0.0
    for _ in range(60):
        start = [rng.choice(words) for _ in range(12)]
        texts = [" ".join(start[: rng.randrange(4, 12)] + rng.choices(words, k=4)) for _ in range(7)]
        greedy += spread(texts, most_diverse(texts, 3))
        best += max(spread(texts, chosen) for chosen in combinations(range(7), 3))
    assert best * 0.9 < greedy <= best + 1e-9


def test_the_filter_keeps_a_few_unlike_ones_of_each_question():
    texts = [LONG, LONG + " So it is.", "Count on from three: four, five, six, seven."]
    rationales = [
        explained(f"{question.id}{n}", question.answer, text, question=question)
        for question in (QUESTION, CHOICE)
        for n, text in enumerate(texts)
    ]
    kept, _ = filter_rationales(rationales, TeacherConfig(max_similarity=None, per_question=2))
    chosen = most_diverse(texts, 2)
    assert [rationale.id for rationale in kept] == [f"{id_}{n}" for id_ in ("q", "c") for n in chosen]
