"""Answers as public bug reports of judges have them, each with its right value; the kinds are in test_answer_kinds."""

import pytest

from kpod.data.answers import extract_answer, same_answer
from kpod.evaluation.accuracy import judge
from kpod.records import Question
from kpod.teacher.equations import wrong_equations

OPTIONS = {"A": "bank", "B": "library", "C": "store", "D": "mall"}

READ = [
    ("The answer is negative 18.", {"-18"}),
    ("The answer is minus 18.", {"-18"}),
    ("The answer is 2.5k.", {"2500"}),
    ("The answer is 3 dozen eggs.", {"3 dozen eggs"}),
    ("The answer is 5 hundred.", {"500"}),
    ("The answer is 3,5 km.", {"3.5"}),
    ("The answer is 1.234,50 €.", {"1234.5"}),
    ("The answer is 12,34,567 rupees.", {"1234567"}),
    ("The answer is 1'234.", {"1234"}),
    ("The answer is 1.5 x 10^3.", {"1500"}),
    ("The answer is 10³.", {"1000"}),
    ("The answer is √2.", {"√2"}),
    ("The answer is 2π.", {"2π"}),
    ("The answer is 5!.", {"5!"}),
    ("The answer is 18 ± 2.", {None, "18 ± 2"}),
    ("The answer is 5 remainder 2.", {"5 remainder 2"}),
    ("The answer is 1⁄2.", {"0.5"}),
    ("The answer is 2 hours and 30 minutes.", {"2 hours and 30 minutes"}),
    ("The answer is 5 feet 6 inches.", {"5 feet 6 inches"}),
    ("The answer is 5 dollars and 50 cents.", {"5.5"}),
    ("The answer is $18 - $20.", {None}),
    (r"\boxed{2k+2}", {"2k+2"}),
    (r"\boxed{x^3+3x-6}", {"x^3+3x-6"}),
    (r"\boxed{(15,-29)}", {"(15,-29)"}),
    (r"\boxed{52_8}", {"52_8"}),
    (r"\boxed{2^{10}}", {"1024"}),
    (r"\boxed{15x - 80}", {"15x - 80"}),
    (r"\boxed{y=2x+3}", {"y=2x+3"}),
    ("<answer>18</answer>", {"18"}),
    ("### Final Answer\n\n18", {"18"}),
    (r"\boxed 18", {"18"}),
    (r"\fbox{18}", {"18"}),
    ("Answer：18", {"18"}),
    ("**Final Answer:** $$ \\text{ANSWER: } \\$460 $$", {"460"}),
    ("The answer is 72, in total, so the farmer earns that much.", {"72"}),
    ("Die Antwort lautet 5.", {"5"}),
    ("答案是 5。", {"5"}),
]


@pytest.mark.parametrize(("text", "answers"), READ)
def test_an_answer_is_read_as_what_it_is(text: str, answers: set[str | None]):
    assert extract_answer(text) in answers


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is either A or B.", None),
        ("The answer is either C or D.", None),
        ("The answer is both A and B.", None),
        ("Answer: [B]", "B"),
        ("The answer is （B）.", "B"),
        ("The answer is Ｂ.", "B"),
        ("<answer>B</answer>", "B"),
        ("The correct option is B.", "B"),
        ("The answer is B because a car moves.", "B"),
        ("The answer is B. Note that A is a common distractor.", "B"),
        ("Answer seems to be A.\n\nAnswer: B", "B"),
        (r"\boxed{\langle H\rangle \ll \Delta E} ... **Answer: D**", "D"),
        ("ANSWER: None of the above", None),
        ("ANSWER: Don't know", None),
    ],
)
def test_an_option_is_read_or_none(text: str, letter: str | None):
    assert extract_answer(text, OPTIONS) == letter


def test_values_that_are_the_same_and_values_that_are_not():
    gold = Question("q", "?", "5x-7y+11z+4=0")
    assert not judge(gold, r"\boxed{5x-7y+11z-4=0}", finished=True).correct
    assert judge(gold, r"\boxed{5x-7y+11z+4=0}", finished=True).correct
    assert not same_answer("3.89e-10", "3.90e-10")
    assert not same_answer("0.00005", "0")
    assert all(same_answer("18", unit) for unit in ("18 Äpfel", "18 кг", "18 个"))
    assert same_answer("11 5/6", "71/6")
    assert same_answer("2.5", r"2\frac{1}{2}")
    assert not same_answer("2 2/3", "2")
    assert not same_answer("4 10/3", "10")


@pytest.mark.parametrize(
    "text", ["√(81/16) = 9/4", r"\log_y (5 \cdot 9) = 2", r"2 \cdot 120 \cdot 120 \cdot 1 = 28,\!800"]
)
def test_an_equation_is_not_called_wrong_for_a_part_of_it(text: str):
    assert wrong_equations(text) == []
