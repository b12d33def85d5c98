"""The arithmetic that a rationale writes out: what is checked, what holds, and what is left alone."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.teacher.equations import checked_equations, wrong_equations

RIGHT = [
    "3 + 4 = 7",
    "3+4=7",
    "10 / 3 = 3.33",
    "10/3=3.33",
    "10 / 3 = 3",  # cut off
    "11 / 3 = 4",  # rounded up: buses
    "0.33 * 15 = 5",
    "3.14 * 2 = 6.3",
    "- 16 × 6 = 96",  # a bullet
    "* 16 × 6 = 96",
    "1) 3 + 4 = 7",
    "(1) 3 + 4 = 7",
    "1. 3 + 4 = 7",
    "Step 1: 3 + 4 = 7",
    "**3 + 4 = 7**",
    "3 + 4 = **7**",
    r"\(3 + 4 = 7\)",
    r"\[3 + 4 = 7\]",
    "She has both (12 + 8 = 20).",
    "((12 + 8) * 2 = 40)",
    "x = 3 + 4 = 7",
    "25% * 80 = 20",
    "80 * 25% = 20",
    "5 / 20 = 25%",
    "0.25 * 100 = 25%",
    "100% - 20% = 80%",
    "100% - 20% = 80",
    "100% / 25% = 4",
    "10% + 20% = 30%",
    "$5 + $7 = $12",
    r"\$5 + \$7 = \$12",
    "€5 + €6 = €11",
    "4 x $.50 = $2",
    "50 * 3 = $1.50",  # cents
    "1,000 + 2,000 = 3,000",
    "10 − 4 = 6",
    "10 – 4 = 6",
    "5 - 8 = -3",
    r"20 \times 4 = 80",
    r"20 \div 4 = 5",
    "20 ÷ 4 = 5",
    "20 x 4 = 80",
    "20x4=80 cm",
    "1 1/2 + 1 = 2 1/2",
    "14 * 1 1/2 = 21",
    "5 - 1 1/2 = 3 1/2",
    "100 / 3 = 33 1/3",
    "50 / 1/2 = 100",
    "1/3 + 1/3 = 2/3",
    "3 + 4 * 2 = 11",
    "3 + 4 = 7 = 7",
    "17 / 5 = 3 remainder 2",
    "1.5 + 0.6666666666666667 = 2.1666666666666665",
]
WRONG = [
    "3 + 4 = 8",
    "3+4=8",
    "3 + 4 = 8 apples",
    "So 3 + 4 = 8, then",
    "10/3=4.33",
    "10 / 3 = 3.5",
    "11 / 3 = 5",
    "2*3 = 6 + 4 = 10",  # a chain: 6 is not 10
    "- 16 × 6 = 95",
    "1) 3 + 4 = 8",
    "Step 1: 3 + 4 = 8",
    "**3 + 4 = 8**",
    "3 + 4 = **8**",
    r"\(3 + 4 = 8\)",
    "both (12 + 8 = 21)",
    "A = 3 * 4 = 13",
    "5 / 20 = 26%",
    "100% - 20% = 70%",
    "$5 + $7 = $13",
    "50 * 3 = $1.60",
    "1,000 + 2,000 = 4,000",
    "10 − 4 = 7",
    "20 ÷ 4 = 6",
    r"20 \times 4 = 81",
    "1 1/2 + 1 = 3 1/2",
    "3 + 4 * 2 = 14",
    "460 - 899 = 439",
    "4 * 3.5 = 15",
    "2.5 * 2 = 5.1",
]
UNCHECKED = [
    "2x - 3 = 15",
    "2x-3=15",
    "3/4 = 45 minutes",
    "1/2 = 50 people",
    "25% of 80 = 20",
    "half of 3 + 4 = 5",
    "4:(4+11)=4:15",
    "2^3 = 8",
    "2^3 + 1 = 10",
    "2**3 = 9",
    "2 ** 3 = 9",
    "5² = 26",
    "5! = 119",
    "8 / 0 = 5",
    "3(4 + 1) = 16",
    "3 apples + 4 apples = 8 apples",
    "100 - 30% = 70",
    "100 + 10% = 110",
    "-3 + 5 = 3",
    "20 = 12 + 9",
    "0900 - 0130 = 0730",
    "13,2000 / 60 = 220",
    "2,3 + 4 = 8",
    "1.5 + 6 = 7,5",
    "17 000 / 5 = 3400",
    "72 72 / 18 = 4",
    "|3 - 4| = 1",
    "f(3 + 4) = 8",
    r"\frac{20}{4} = 6",
    "12+9=20cm",
    "3 + 4 ≈ 8",
    "3 + 4 =",
    "= 8",
    "",
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_holds_is_checked_and_right(text: str):
    checked = list(checked_equations(text))
    assert checked
    assert all(holds for _, holds in checked)


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_hold_is_wrong(text: str):
    assert wrong_equations(text)


@pytest.mark.parametrize("text", UNCHECKED)
def test_what_cannot_be_read_for_certain_is_left_alone(text: str):
    assert list(checked_equations(text)) == []


def test_equations_are_given_as_they_are_written():
    text = "First 3 + 4 = 8 apples, then $2 x  3 = $6.\nLast 10 - 4 = 5."
    assert wrong_equations(text) == ["3 + 4 = 8", "10 - 4 = 5"]
    assert [shown for shown, _ in checked_equations(text)] == ["3 + 4 = 8", "2 x 3 = $6", "10 - 4 = 5"]


PLAIN = st.integers(0, 99_999).flatmap(lambda number: st.sampled_from([str(number), f"{number:,}"]))


def chained(operands: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Two to four operands with +, - or * between them."""
    more = st.lists(st.tuples(st.sampled_from("+-*"), operands), min_size=1, max_size=3)
    return st.builds(
        lambda first, rest, space: first + "".join(f"{space}{sign}{space}{part}" for sign, part in rest),
        operands,
        more,
        st.sampled_from([" ", ""]),
    )


EXPRESSIONS = chained(PLAIN | chained(PLAIN).map("({})".format))


@given(EXPRESSIONS, st.integers(1, 1000), st.sampled_from(["{}", "So {}.", "**{}**", "That is ({}), so", "- {}"]))
def test_integer_arithmetic_is_right_with_its_value_and_wrong_with_another(expression: str, error: int, around: str):
    value = eval(expression.replace(",", ""))
    assert list(checked_equations(around.format(f"{expression} = {value}"))) == [(f"{expression} = {value}", True)]
    wrong = f"{expression} = {value + error}"
    assert wrong_equations(around.format(wrong)) == [wrong]


@given(st.text("0123456789 +-*/().,=%$x:^!\n\\a½", max_size=60))
def test_any_text_can_be_checked(text: str):
    list(checked_equations(text))


HOSTILE = ["1 + 1 + ", "((((", "(1 + ", "1 + 1 = ", "= ", "1 1 ", "-", "2.", "1,111", "\\", "$ ", "**", "a\n", "9", " "]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_text_of_100_kb_takes_a_time_linear_in_it(piece: str):
    start = time.process_time()
    list(checked_equations(piece * (100_000 // len(piece)) + "= 3"))
    assert time.process_time() - start < 20  # a second or less alone; quadratic would take minutes
