from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.evaluation.accuracy import by_steps, judge, majority, summarise, wilson_interval
from kpod.records import Question
from kpod.records.errors import DataError
from kpod.records.outcomes import Prediction


def prediction(question_id: str, answer: str | None, gold: str = "4", finished: bool = True) -> Prediction:
    return Prediction(question_id, f"The answer is {answer}.", answer, gold, answer == gold, finished)


@pytest.mark.parametrize(
    ("num_correct", "num_questions", "interval"),
    [
        (8, 10, (0.4902, 0.9433)),
        (5, 10, (0.2366, 0.7634)),
        (0, 10, (0.0, 0.2775)),  # z^2 / (n + z^2) = 3.8415 / 13.8415
        (10, 10, (0.7225, 1.0)),
        (1, 1, (0.2065, 1.0)),  # 1 / (1 + 3.8415)
        (30, 100, (0.2189, 0.3958)),
    ],
)
def test_wilson_intervals_worked_by_hand(num_correct, num_questions, interval):
    assert wilson_interval(num_correct, num_questions) == pytest.approx(interval, abs=5e-5)


def test_the_ends_at_nothing_and_everything_correct_are_exact():
    for num_questions in (1, 3, 7, 659, 10**6):
        assert wilson_interval(0, num_questions)[0] == 0.0
        assert wilson_interval(num_questions, num_questions)[1] == 1.0


@given(st.integers(1, 2000), st.data())
def test_an_interval_holds_the_accuracy_and_mirrors_when_right_and_wrong_swap(num_questions, data):
    num_correct = data.draw(st.integers(0, num_questions))
    lower, upper = wilson_interval(num_correct, num_questions)
    assert 0 <= lower <= num_correct / num_questions <= upper <= 1
    assert lower < upper
    mirrored = wilson_interval(num_questions - num_correct, num_questions)
    assert (lower, upper) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


@given(st.integers(1, 500), st.data())
def test_more_confidence_and_fewer_questions_widen_the_interval(num_questions, data):
    num_correct = data.draw(st.integers(0, num_questions))
    lower, upper = wilson_interval(num_correct, num_questions)
    surer = wilson_interval(num_correct, num_questions, confidence=0.99)
    assert surer[0] <= lower < upper <= surer[1]
    larger = wilson_interval(4 * num_correct, 4 * num_questions)
    assert larger[1] - larger[0] < upper - lower


@pytest.mark.parametrize(("num_correct", "num_questions"), [(0, 0), (3, 2), (-1, 2)])
def test_counts_that_do_not_fit_have_no_interval(num_correct, num_questions):
    with pytest.raises(DataError, match=f"{num_correct} correct of {num_questions}"):
        wilson_interval(num_correct, num_questions)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(DataError, match="confidence"):
        wilson_interval(1, 2, confidence)


def test_the_last_answer_is_judged():
    question = Question("q1", "How many?", "12")
    text = "At first the answer is 7. But 7 + 5 = 12. Therefore, the answer is 12."
    judged = judge(question, text, finished=True)
    assert judged == Prediction("q1", text, judged.answer, "12", correct=True, finished=True)
    assert judge(question, "Therefore, the answer is 13.", finished=True).correct is False


def test_a_text_without_an_answer_is_wrong_and_keeps_that_it_was_cut():
    judged = judge(Question("q1", "How many?", "12"), "Let me think", finished=False)
    assert (judged.answer, judged.correct, judged.finished) == (None, False, False)


def test_an_option_letter_is_judged_by_its_question():
    question = Question("q1", "Where?", "B", {"A": "bank", "B": "river"})
    assert judge(question, "So the answer is B.", finished=True).correct
    assert not judge(question, "So the answer is A.", finished=True).correct


def test_a_summary_counts_unanswered_questions_as_wrong():
    predictions = [
        prediction("a", "4"),
        prediction("b", "5"),
        prediction("c", None, finished=False),
        prediction("d", "4"),
    ]
    accuracy = summarise("svamp", predictions)
    assert (accuracy.num_questions, accuracy.num_correct) == (4, 2)
    assert (accuracy.num_unanswered, accuracy.num_unfinished) == (1, 1)
    assert accuracy.value == 0.5
    assert accuracy.interval == wilson_interval(2, 4)


def test_the_last_number_is_counted_apart():
    """Whatever a text states; a gold answer that is no number has none."""
    texts = ["The answer is 4.", "It is 3 and then 4 of them.", "The answer is 4, not 5."]
    numbers = [judge(Question(f"q{n}", "How many?", "4"), text, True) for n, text in enumerate(texts)]
    accuracy = summarise("svamp", numbers)
    assert (accuracy.num_correct, accuracy.num_unanswered, accuracy.by_last_number) == (2, 1, (2, 3))
    words = [judge(Question("w", "Is 4 even?", "yes"), "The answer is yes: 4 is.", True)]
    assert summarise("svamp", [*numbers, *words]).by_last_number == (2, 3)


def test_no_predictions_are_no_accuracy():
    with pytest.raises(DataError, match="'svamp' has no predictions"):
        summarise("svamp", [])


def test_a_question_counts_once():
    with pytest.raises(DataError, match="2 predictions of question 'a'"):
        summarise("svamp", [prediction("a", "4"), prediction("a", "5")])


def said(*answers):
    """Predictions of one question whose gold answer is 4."""
    question = Question("q", "2 + 2?", "4")
    texts = [f"So. The answer is {answer}." if answer else "Hm." for answer in answers]
    return [judge(question, text, True) for text in texts], question


@pytest.mark.parametrize(
    ("answers", "winner", "votes", "correct"),
    [
        (("5", "4", "4.0"), 1, 2, True),
        (("5", "4"), 0, 1, False),
        (("", "4", "5", "5"), 2, 2, False),
        (("", ""), 0, 0, False),
        (("4",), 0, 1, True),
    ],
)
def test_the_majority_by_hand(answers, winner, votes, correct):
    predictions, question = said(*answers)
    found = majority(predictions, question)
    assert (found.text, found.votes, found.correct) == (predictions[winner].text, votes, correct)


def test_accuracy_by_steps_by_hand():
    predictions, _ = said("4", "5", "")
    assert by_steps([*predictions, replace(predictions[0], text="")]) == {0: (1, 1), 1: (0, 1), 2: (1, 2)}
