"""The sentence that states the answer is cut off a rationale; what reasons is not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.recipe import TeacherConfig
from kpod.records import Dropped, Question, Rationale
from kpod.steps import split_steps
from kpod.teacher import closing
from kpod.teacher.closing import strip_closing
from kpod.teacher.filters import filter_rationales

CASES = [
    ("3 + 4 = 7. Therefore, the answer is 7.", "3 + 4 = 7."),
    ("3 + 4 = 7, so the answer is 7.", "3 + 4 = 7"),
    ("3 + 4 = 7; thus the answer is 7", "3 + 4 = 7"),
    ("3 + 4 = 7 - the answer is 7", "3 + 4 = 7"),
    ("3 + 4 = 7. (The answer is 7.)", "3 + 4 = 7."),
    ("Since 3 + 4 = 7, the answer is 7.", "Since 3 + 4 = 7"),
    ("3 + 4 = 7\n#### 7", "3 + 4 = 7"),
    ("3 + 4 = 7. #### 7", "3 + 4 = 7."),
    ("3 + 4 = 7. Answer: 7", "3 + 4 = 7."),
    ("3 + 4 = 7.\n\n**Answer:** 7", "3 + 4 = 7."),
    ("3 + 4 = 7.\n**Final Answer:** The final answer is 7.", "3 + 4 = 7."),
    ("3 + 4 = 7.\n\nTherefore, the answer is:\n7", "3 + 4 = 7."),
    ("3 + 4 = 7.\nAnswer:\n\n7", "3 + 4 = 7."),
    ("3 + 4 = 7. So \\boxed{7}", "3 + 4 = 7."),
    ("3 + 4 = 7.\n$$\\boxed{7}$$", "3 + 4 = 7."),
    ("3 + 4 = 7.\nThe final answer is: $\\boxed{7}$", "3 + 4 = 7."),
    ("3 + 4 = 7\nTherefore, the final answer is \\(\\boxed{7}\\).", "3 + 4 = 7"),
    ("3 + 4 = 7. We can conclude that the answer is 7.", "3 + 4 = 7."),
    ("He pays 2 * 1.75 = 3.50. So the answer is $3.50.", "He pays 2 * 1.75 = 3.50."),
    ("Mr. Li pays 7. The answer is 7", "Mr. Li pays 7."),
    ("Only ignore makes sense. So the answer is (a).", "Only ignore makes sense."),
    ("He has 7. Thus, the correct answer is (B) seven.", "He has 7."),
    ("Snow is cold. The answer is no.\n\nThe answer is no.", "Snow is cold."),
    ("If the answer is even, 8 works, so the answer is 8.", "If the answer is even, 8 works, so the answer is 8."[:30]),
    # only an answer
    ("The answer is 3.50.", ""),
    ("Answer: 7", ""),
    ("#### 7", ""),
    ("\\boxed{7}", ""),
    ("So the answer to the question is 7.", ""),
    ("The answer is 7.\n\nThe answer is 7.", ""),
    ("", ""),
    # what reasons stays
    ("3 + 4 = 7.", "3 + 4 = 7."),
    ("The total is \\boxed{7}.", "The total is \\boxed{7}."),
    ("It is red. The answer is B. Because it is red.", "It is red. The answer is B. Because it is red."),
    ("The answer is B because it is red.", "The answer is B because it is red."),
    ("He has 3 and gets 4. The answer is 3 + 4 = 7.", "He has 3 and gets 4. The answer is 3 + 4 = 7."),
    ("So the answer is the sum: 3 + 4 = 7. The answer is 7", "So the answer is the sum: 3 + 4 = 7."),
    ("If the answer is 8, then 8 - 3 = 5, which checks.", "If the answer is 8, then 8 - 3 = 5, which checks."),
    ("Since the answer is a whole number, round up.", "Since the answer is a whole number, round up."),
    ("Add the rest to find the answer: the rest is 4.", "Add the rest to find the answer: the rest is 4."),
    ("The answer must be a place with people.", "The answer must be a place with people."),
]


@pytest.mark.parametrize(("text", "reasoning"), CASES)
def test_a_closing_statement_is_cut_and_reasoning_is_not(text: str, reasoning: str):
    assert strip_closing(text) == reasoning


PIECES = [
    "3 + 4 = 7",
    "He has $3.50",
    "Mr. Li",
    "the answer is",
    "Answer:",
    "the answer is 7",
    "#### 7",
    "\\boxed{7}",
    "so",
    "Therefore,",
    "if",
    "because",
    ".",
    ". ",
    "\n",
    "\n\n",
    ": ",
    " ",
    "$",
    "**",
    "(",
    "B",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map(" ".join))
def test_what_is_left_is_a_beginning_and_holds_no_further_closing(text: str):
    once = strip_closing(text)
    assert text.strip().startswith(once)
    assert once == once.strip()
    assert strip_closing(once) == once


@pytest.mark.parametrize(
    "piece", ["The answer is 7. ", "#### 7\n", "\\boxed{", "the answer is ", "the ", " ", "(", "a\n"]
)
def test_a_hostile_text_takes_no_quadratic_time(piece: str):
    start = time.process_time()
    strip_closing("a" + piece * (30_000 // len(piece)) + "the answer is 7")
    assert time.process_time() - start < 10  # well under a second alone; a split per statement took a minute


@pytest.mark.parametrize("piece", ["Step 1: #### 7 ", "answer:\n答. ", "。1.\nThe answer is 7."])
def test_the_steps_of_a_text_are_looked_for_a_few_times_at_most(piece: str, monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(closing, "split_steps", lambda text: calls.append(len(text)) or split_steps(text))
    strip_closing("a " + piece * 200)  # each look bared another statement, to the beginning of the text
    assert len(calls) <= 10


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=30), st.sampled_from(PIECES))
def test_any_string_can_be_stripped(text: str, piece: str):
    assert (text + piece).strip().startswith(strip_closing(text + piece))


def test_the_filter_cuts_the_closing_with_its_weights_and_keeps_the_answer():
    text = "3 + 4 = 7. So the answer is 7."
    weights = ((0, 5, 0.5), (6, 14, 0.25), (14, 20, 1.0))
    given_ = Rationale("a", Question("q", "3 + 4?", "7"), text, "gpt", None, weights)
    (kept,), dropped = filter_rationales([given_], TeacherConfig(strip_closing=True, max_similarity=None))
    assert (kept.text, kept.teacher_answer) == ("3 + 4 = 7.", "7")
    assert kept.token_weights == ((0, 5, 0.5), (6, 10, 0.25))
    assert dropped == []


def test_the_filter_drops_what_holds_an_answer_alone():
    alone = Rationale("a", Question("q", "3 + 4?", "7"), "The answer is 7.", "gpt")
    config = TeacherConfig(strip_closing=True, max_similarity=None)
    assert filter_rationales([alone], config) == ([], [Dropped("a", "nothing but an answer")])
