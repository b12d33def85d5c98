"""Paired differences, by hand and by the tests that they generalise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ttest_1samp

from kpod.evaluation.accuracy import wilson_interval
from kpod.evaluation.pairing import accuracy_interval, holm, paired_difference, seeds_to_settle
from kpod.records.errors import DataError


def answers(*rows: str) -> np.ndarray:
    return np.array([[mark == "1" for mark in row] for row in rows], dtype=bool)


def test_mcnemar_by_hand():
    """6 questions only the first has right, 1 only the second: p = 2 (C(7,0) + C(7,1)) / 2^7 = 0.125."""
    found = paired_difference(answers("1111110" + "11"), answers("0000001" + "11"))
    assert found.difference == pytest.approx(5 / 9)
    assert found.p_value == pytest.approx(0.125)
    assert found.interval[0] < 5 / 9 < found.interval[1]


def test_over_seeds_whole_questions_are_paired():
    """The same difference on every question is no chance: with 8 questions two of 2^8 signs are as extreme."""
    one, other = answers("11111111", "00000000"), answers("00000000", "00000000")
    found = paired_difference(one, other)
    assert (found.difference, found.interval) == (0.5, (0.5, 0.5))
    assert found.p_value == pytest.approx(2 / 2**8)


def test_methods_alike_differ_by_nothing():
    found = paired_difference(answers("101", "101"), answers("101", "101"))
    assert (found.difference, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert (found.by_seed, found.seed_interval) == ((0.0, 0.0), (0.0, 0.0))


def test_over_seeds_by_hand():
    """Differences of 0, 1/4 and 1/2: mean 1/4, s.d. 1/4, and 4.303 standard errors either way with 2 degrees."""
    found = paired_difference(answers("1000", "1100", "1110"), answers("1000", "1000", "1000"))
    assert found.by_seed == (0.0, 0.25, 0.5)
    assert found.seed_interval == pytest.approx(
        (0.25 - 4.3027 * 0.25 / 3**0.5, 0.25 + 4.3027 * 0.25 / 3**0.5), abs=1e-4
    )


def test_seeds_that_cancel_out_are_told_apart_from_seeds_that_agree():
    """One question lost and won by turns: no difference, and still the seeds differ."""
    found = paired_difference(answers("1000", "0000"), answers("0000", "1000"))
    assert (found.difference, found.by_seed) == (0.0, (0.25, -0.25))
    assert found.seed_interval == pytest.approx((-0.25 * 12.706, 0.25 * 12.706), abs=1e-3)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_single_question_says_nothing_of_others(seeds):
    found = paired_difference(answers(*["1"] * seeds), answers(*["0"] * seeds))
    assert (found.difference, found.interval, found.p_value) == (1.0, (-1.0, 1.0), 1.0)


def test_a_single_seed_says_nothing_of_others():
    assert paired_difference(answers("101"), answers("100")).seed_interval is None


@given(arrays(bool, (2, 12)), arrays(bool, (2, 12)))
def test_the_other_way_round_is_the_negative(one, other):
    there, back = paired_difference(one, other), paired_difference(other, one)
    assert there.difference == pytest.approx(-back.difference)
    assert there.interval == pytest.approx(tuple(-end for end in reversed(back.interval)), abs=0.02)
    assert there.interval[0] - 1e-9 <= there.difference <= there.interval[1] + 1e-9
    assert 0 < there.p_value <= 1


def test_another_number_of_questions_or_seeds_is_refused():
    with pytest.raises(DataError, match="asked 3 questions under 1 seeds and 2 questions under 1 seeds"):
        paired_difference(answers("101"), answers("10"))
    with pytest.raises(DataError, match="3 questions under 2 seeds"):
        paired_difference(answers("101"), answers("101", "101"))
    with pytest.raises(DataError, match="asked 0 questions"):
        paired_difference(answers(""), answers(""))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values):
    corrected = holm(p_values)
    for p, after in zip(p_values, corrected, strict=True):
        assert p <= after <= min(1, p * len(p_values)) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)


def test_holm_of_nothing_is_nothing():
    assert holm([]) == []


def test_one_seed_has_wilsons_interval() -> None:
    assert accuracy_interval(answers("1101")) == wilson_interval(3, 4)


@pytest.mark.parametrize("mark", ["1", "0"])
def test_where_all_answers_are_alike_the_questions_count_once(mark: str) -> None:
    assert accuracy_interval(answers(mark * 20, mark * 20, mark * 20)) == wilson_interval(20 * int(mark), 20)


def test_a_seed_that_repeats_another_adds_nothing_but_the_seeds_own_noise() -> None:
    """Three copies of one seed: the interval is that of its questions, and never that of three times as many."""
    one = np.random.default_rng(0).random(200) < 0.4
    low, high = accuracy_interval(np.stack([one] * 3))
    wilson = wilson_interval(int(one.sum()), 200)
    assert (low, high) == pytest.approx(wilson, abs=0.01)


def test_the_interval_covers_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 methods with easy and hard questions and lucky and unlucky seeds, about 190 have it right."""
    monkeypatch.setattr("kpod.evaluation.pairing.NUM_RESAMPLES", 499)
    rng = np.random.default_rng(0)

    def draw(seeds: int, questions: int) -> np.ndarray:
        logits = -0.4 + rng.normal(0, 0.3, (seeds, 1)) + rng.normal(0, 2, (1, questions))
        return rng.random((seeds, questions)) < 1 / (1 + np.exp(-logits))

    accuracy = draw(2000, 2000).mean()
    intervals = [accuracy_interval(draw(5, 100)) for _ in range(200)]
    assert 180 <= sum(low <= accuracy <= high for low, high in intervals) <= 200


# -- how many seeds would settle it --------------------------------------------------------------------


def test_the_number_of_seeds_is_that_of_the_textbook() -> None:
    """A one-sample t-test of d = difference / s.d.: 34 for d = 0.5, 15 for 0.8, 10 for 1, 199 for 0.2 (Cohen, 1988)."""
    for d, wanted in ((0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)):
        half = 0.02 / d / 2**0.5  # two values so far on either side of 0 have the s.d. 0.02 / d
        assert seeds_to_settle([half, -half]) == wanted


def test_with_so_many_seeds_four_of_five_studies_find_it_and_with_fewer_do_not() -> None:
    """By simulation: seeds drawn from a normal with the spread that was seen, two points off 0."""
    by_seed = [0.04, 0.01, -0.02, 0.03]
    number = seeds_to_settle(by_seed)
    assert number is not None
    rng, found = np.random.default_rng(0), {}
    for seeds in (number, number - 3):
        drawn = rng.normal(0.02, np.std(by_seed, ddof=1), (20_000, seeds))
        found[seeds] = float(np.mean(ttest_1samp(drawn, 0, axis=1).pvalue < 0.05))
    assert found[number] == pytest.approx(0.8, abs=0.03)
    assert found[number] >= 0.79 > found[number - 3]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(0.005, 0.2))
def test_more_spread_needs_no_fewer_seeds_and_a_larger_difference_no_more(
    by_seed: list[float], difference: float
) -> None:
    number = seeds_to_settle(by_seed, difference)
    wider, larger = seeds_to_settle([2 * one for one in by_seed], difference), seeds_to_settle(by_seed, 2 * difference)
    assert number is not None
    assert wider is not None
    assert larger is not None
    assert 2 <= larger <= number <= wider


@pytest.mark.parametrize("by_seed", [[], [0.5]])
def test_fewer_than_two_seeds_show_no_spread(by_seed: list[float]) -> None:
    assert seeds_to_settle(by_seed) is None
