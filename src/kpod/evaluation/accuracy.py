"""Right or wrong, one generated text at a time; then accuracy with an interval."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from statistics import NormalDist

from kpod.data.answers import extract_answer, last_number, same_answer
from kpod.data.numbers import whole_number
from kpod.records import Question
from kpod.records.errors import DataError
from kpod.records.outcomes import Accuracy, Prediction
from kpod.steps import split_steps


def wilson_interval(num_correct: int, num_questions: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of an accuracy: where the true rate plausibly lies.

    Unlike the textbook +-1.96 standard errors it stays inside [0, 1], and it keeps a width
    where nothing or everything is correct, as happens on small test sets.

    Args:
        num_correct: How many questions were answered correctly.
        num_questions: How many were asked; at least 1.
        confidence: Coverage of the interval, strictly between 0 and 1.

    Returns:
        Lower and upper end, 0 <= lower <= num_correct / num_questions <= upper <= 1.

    Raises:
        DataError: If no question was asked, the counts do not fit, or the confidence is out of range.

    Example:
        >>> lower, upper = wilson_interval(8, 10)
        >>> print(f"{lower:.4f} {upper:.4f}")
        0.4902 0.9433
    """
    if not 0 <= num_correct <= num_questions or num_questions == 0:
        raise DataError(
            f"{num_correct} correct of {num_questions} questions has no interval; ask at least one question"
        )
    if not 0 < confidence < 1:
        raise DataError(f"a confidence of {confidence} is not strictly between 0 and 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    num_wrong = num_questions - num_correct
    centre = num_correct + z**2 / 2
    radius = z * sqrt(num_correct * num_wrong / num_questions + z**2 / 4)
    # The ends at 0 and at n are exact; rounding must not push them past 0 or 1.
    lower = (centre - radius) / (num_questions + z**2) if num_correct else 0.0
    upper = (centre + radius) / (num_questions + z**2) if num_wrong else 1.0
    return lower, upper


def judge(question: Question, text: str, finished: bool, words: Sequence[str] = ()) -> Prediction:
    """Read the answer off a generated text and compare it with the gold answer.

    A text that ran into the length limit is judged like any other: what it says before the
    limit counts, and `finished` keeps the fact for the report.

    Args:
        question: What was asked.
        text: What the model wrote, special tokens removed.
        finished: Whether the model ended the text itself.
        words: Further words that introduce an answer (`data.answer_words`).

    Returns:
        The judged prediction; a text without an answer is wrong.

    Example:
        >>> found = judge(Question("q", "Two and three?", "5"), "2 + 3 = 5. The answer is 5.", finished=True)
        >>> found.answer, found.correct
        ('5', True)
    """
    answer = extract_answer(text, question.choices, words)
    correct = answer is not None and same_answer(answer, question.answer, question.choices)
    return Prediction(
        id=question.id,
        text=text,
        answer=answer,
        gold=question.answer,
        correct=correct,
        finished=finished,
        choices=question.choices,
    )


def judge_again(prediction: Prediction, words: Sequence[str] = ()) -> Prediction:
    """A saved prediction under the rules of today, which may read an answer that they did not read before.

    Args:
        prediction: Its texts are judged. One that does not know what was drawn is returned as it is.
        words: Further words that introduce an answer (`data.answer_words`).

    Example:
        >>> saved = judge(Question("q", "Two and two?", "4"), "So we get 4, not 5.", finished=True)
        >>> saved.correct, judge_again(saved, ["So we get"]).correct
        (False, True)
    """
    if prediction.drawn is None:
        return prediction
    question = Question(prediction.id, "saved", prediction.gold, prediction.choices)
    if not prediction.drawn:
        return judge(question, prediction.text, prediction.finished, words)
    return majority([judge(question, text, finished, words) for text, finished in prediction.drawn], question)


def majority(predictions: Sequence[Prediction], question: Question) -> Prediction:
    """The prediction whose answer most of a question's texts reach (self-consistency), with its votes.

    Args:
        predictions: Of one question; at least one.
        question: What was asked.

    Returns:
        The first text with the winning answer, of equally many votes the answer that came first; the first text, with 0
        votes, where none holds an answer.
    """
    groups: list[list[Prediction]] = []
    for prediction in predictions:
        if prediction.answer is None:
            continue
        alike = (g for g in groups if same_answer(prediction.answer, g[0].answer, question.choices))
        group = next(alike, None)
        if group is None:
            groups.append([prediction])
        else:
            group.append(prediction)
    winner = max(groups, key=len, default=[])
    drawn = tuple((prediction.text, prediction.finished) for prediction in predictions)
    return replace(winner[0] if winner else predictions[0], votes=len(winner), drawn=drawn)


def by_steps(predictions: Sequence[Prediction]) -> dict[int, tuple[int, int]]:
    """Of the texts with so many reasoning steps, how many are right, and how many there are; rising.

    Steps are those that the model wrote, its answer sentence among them: a test set rarely says how many are needed.
    """
    counts: dict[int, tuple[int, int]] = {}
    for prediction in predictions:
        num = len(split_steps(prediction.text)) if prediction.text.strip() else 0
        right, asked = counts.get(num, (0, 0))
        counts[num] = right + prediction.correct, asked + 1
    return dict(sorted(counts.items()))


def summarise(dataset: str, predictions: Sequence[Prediction]) -> Accuracy:
    """Accuracy on one test set, with its Wilson 95 % interval.

    Unanswered questions stay in the denominator and count as wrong.

    Args:
        dataset: Name of the test set.
        predictions: One per question.

    Returns:
        The counts and the interval.

    Raises:
        DataError: If there is no prediction, or a question was predicted twice.

    Example:
        >>> said = [judge(Question(str(k), "Two and three?", "5"), f"The answer is {k}.", True) for k in range(4, 8)]
        >>> found = summarise("test", said)
        >>> found.num_correct, found.value
        (1, 0.25)
    """
    if not predictions:
        raise DataError(f"test set {dataset!r} has no predictions; it needs at least one question")
    question_id, times = Counter(prediction.id for prediction in predictions).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"test set {dataset!r} holds {times} predictions of question {question_id!r}; give each id once"
        )
    num_correct = sum(prediction.correct for prediction in predictions)
    return Accuracy(
        dataset=dataset,
        num_questions=len(predictions),
        num_correct=num_correct,
        num_unanswered=sum(prediction.answer is None for prediction in predictions),
        num_unfinished=sum(not prediction.finished for prediction in predictions),
        interval=wilson_interval(num_correct, len(predictions)),
        by_last_number=_by_last_number(predictions),
    )


def _by_last_number(predictions: Sequence[Prediction]) -> tuple[int, int]:
    numeric = [p for p in predictions if whole_number(p.gold) is not None]
    return sum(same_answer(last_number(p.text), p.gold) for p in numeric), len(numeric)
