"""More forms of answers, by kind: what teachers and data sets write, and the value of each or none."""

import time

import pytest

from kpod.data.answers import extract_answer, last_number, normalise_answer, same_answer
from kpod.data.endings import ending_answers, reached_answers
from kpod.data.numbers import mentions
from tiers import tiered

PLACES = {"A": "bank", "B": "library", "C": "store", "D": "mall"}


def read(statement: str) -> str | None:
    return extract_answer(f"They have 41 of 97. The answer is {statement}.")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("neg 18", "-18"),
        ("$\u201318", "-18"),
        ("$2.5M", "2500000"),
        ("$2.5m", "2500000"),
        ("$2.5 B", "2500000000"),
        ("5 lacs", "500000"),
        ("2.5 mn", "2500000"),
        ("5 quadrillion", str(5 * 10**15)),
        ("1.2 times 10^5", "120000"),
        ("1.2X10^5", "120000"),
        ("1.2 \u22c5 10^5", "120000"),
        ("1 234", "1234"),
        ("12 345 km", "12345"),
        ("1 234,56", "1234.56"),
        ("{5}", "5"),
        ("~~5~~ 6", "6"),
        ("= 5", "5"),
        ("approx. 5", "5"),
        ("two and two thirds", "8/3"),
        ("2 and two-thirds", "8/3"),
        ("three and a half million", "3500000"),
        ("five twelfths", "5/12"),
        ("18 or 18.0", "18"),
        ("1) 18", "18"),
        ("18</s>", "18"),
        ("probably 18", "18"),
        ("given by 18", "18"),
        ("Janet makes $18 every day", "18"),
        ("18 for 3 people", "18"),
        ("4 100-page books", "4"),
    ],
)
def test_values(written: str, value: str):
    answer = read(written)
    assert same_answer(answer, value), answer


@pytest.mark.parametrize(
    "written",
    [
        *(
            "the negative of 18",
            "-(18)",
            "18 below zero",
            "18 degrees below zero",
            "18 grand",
            "18 score",
            "x \u2260 18",
        ),
        *("18 ten thousands", "18 millionths", "18 to the 6th", "18 to the third", "sqrt(18)", "sqrt 18", "18 sqrt 3"),
        *("18 root 3", "18C2", "> 18", "< 18", "18' 6\"", "18 foot 6", "18 hours 30", "more than 18", "less than 18"),
        *("18 more than 6", "6 fewer than 18", "twice 18", "double 18", "half of 18", "half 18", "a third of 18"),
        *("two thirds of 18", "1/3 of 18", "the sum of 18 and 9", "18 in 60", "1 in 18", "18 of 60", "18; 20"),
        *("(a) 18 (b) 20", "(b) 20 (c) 18", "1) 18 2) 20", "18 34", "1 hundred 18", "18.(3)", "18.3 repeating"),
        *(r"\frac{18}{1}x", "December 18, 2020", "18,0000", "no longer 18", "18..20", "18 ten-thousands"),
    ],
)
def test_what_is_not_18(written: str):
    for text in (f"The answer is {written}.", f"Answer: {written}", f"<answer>{written}</answer>"):
        answer = extract_answer(text)
        assert answer is None or not any(same_answer(answer, value) for value in ("18", "20", "2020", "2", "6")), answer


@pytest.mark.parametrize(
    "text",
    [
        *("Answer (in dollars): 18", "The answer to part (b) is 18", "The answer to problem 5 is 18"),
        *("The answer in dollars is 18", "The answer (to the nearest dollar) is 18", "The answer's 18"),
        *("The answer rounded to the nearest integer is 18", "Answer 1: 18", "answer := 18", "The answer comes to 18"),
        *('{"answer": 18}', '{"answer": "18"}', "{'answer': 18}", '{"final_answer": 18, "unit": 7}', "#### **18**"),
        *('{"reasoning": "3 of 5", "answer": "$18", "sure": 0.9}', "\nAnswer 18", "\n**Answer** 18", "\nAnswer - 18"),
        *("\nAns 18", "\nAns. 18", "\nFinal answer \u2014 18", r"\boxed{{18}}", "The answer is 18<|im_end|>"),
    ],
)
def test_statements(text: str):
    assert extract_answer(f"She has 41 of 97. {text}") == "18"


@pytest.mark.parametrize(
    "text",
    [
        *("The answer is 18. Actually, it's 20.", "The answer is 18, no, 20.", "The answer is 18, I mean 20."),
        *("The answer is 18, sorry, 20.", r"\boxed{18} or \boxed{20}", r"$\boxed{18}$ or $\boxed{20}$"),
    ],
)
def test_what_is_taken_back_or_left_open_is_no_answer(text: str):
    assert extract_answer(text) is None


def test_boxes_in_a_row_are_one_list():
    assert same_answer(extract_answer(r"\boxed{18}, \boxed{20} and \boxed{-1}"), "18, 20, -1")
    assert same_answer(extract_answer(r"First \boxed{18}. Then \boxed{20}"), "20")


@pytest.mark.parametrize(
    ("statement", "letter"),
    [
        *(("A & B", None), ("A or maybe B", None), ("B \u548c C", None), ("B; C", None), ('"B" or "C"', None)),
        *(("a B", None), ("not a bank", None), ("B and not A", "B"), ("B, not A", "B"), ("B; not C", "B")),
        *(("\u300cB\u300d", "B"), ("\u300aB\u300b", "B"), ("probably B", "B"), ("I think B", "B"), ("a bank", "A")),
    ],
)
def test_options(statement: str, letter: str | None):
    assert extract_answer(f"The answer is {statement}.", PLACES) == letter


def test_options_that_hold_numbers_and_numerals():
    numerals = {"A": "I", "B": "II", "C": "3 : 4", "D": "1/2", "E": "5 km"}
    read = {"I": "A", "II": "B", "I and II": None, "3:4": "C", r"\frac12": "D", "5km": "E", "3/4": None}
    assert {said: extract_answer(f"The answer is {said}.", numerals) for said in read} == read


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        *(("x=3", "3", True), ("x=3", "y=3", False), ("x=3", "x=-3", False), ("x+4=0", "0", False)),
        *((r"0.\overline{3}", "1/3", True), (r"0.1\overline{6}", "1/6", True), (r"0.\overline{3}", "0", False)),
        *(("3:4", "3/4", False), ("3:4", "3 : 4", True), ("3:4", "4:3", False), ("5+", "5", False)),
        *(("2.5M", "2.5", False), ("7 am", "7 pm", False), ("7 p.m.", "7 pm", True), ("7 pm", "7", True)),
        *((r"3 \text{ R } 2", "3", False), (r"2 \text{ hours } 30 \text{ minutes}", "2.5", True)),
        *((r"5 \text{ and } 6", "6, 5", True), (r"5 \text{ and } 6", "5", False)),
    ],
)
def test_golds_of_mathematics(one: str, other: str, same: bool):
    assert same_answer(one, other) == same_answer(other, one) == same


REPEATED = [
    "1",
    "1,",
    "1 000 ",
    "3!",
    "answer is ",
    "answer to ",
    "answer (",
    r"\boxed{",
    "#### ",
    "\n",
    " ",
    "(a) ",
    "1) ",
]
REPEATED += [
    "<answer>",
    '"answer": ',
    "~~a",
    "<|",
    "</",
    "twenty ",
    "two and ",
    "half of ",
    "5 ft ",
    "x=",
    r"\frac{1}",
    "**",
]


def seconds(repeated: str, length: int) -> float:
    text = f"The answer is {repeated * (length // len(repeated))}"
    start = time.process_time()
    for function in (extract_answer, last_number, normalise_answer):
        function(text)
    same_answer(text, f"{text}1")
    extract_answer(text, PLACES)
    ending_answers(text, "1")
    reached_answers(text, "1")
    sum(1 for _ in mentions(text))
    return time.process_time() - start


@pytest.mark.parametrize("repeated", tiered(REPEATED, ["1 000 ", "3!", "1) ", "5 ft ", r"\frac{1}"]))
def test_the_time_is_linear_in_the_length(repeated: str):
    lengths = 5_000, 20_000
    # Four times as long may take ten times as long; quadratic work takes sixteen times. Thrice, as machines are shared.
    assert any(seconds(repeated, lengths[1]) <= 10 * seconds(repeated, lengths[0]) + 0.05 for _ in range(3))
