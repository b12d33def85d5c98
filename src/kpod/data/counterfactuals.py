"""Wrong answers that could be right: what a teacher explains, or argues against, beside the gold answer (SCOTT)."""

import math
import random
from collections.abc import Iterable, Sequence
from fractions import Fraction

from kpod.data.answers import are_close, normalise_answer, same_answer
from kpod.data.numbers import plain_digits, whole_number
from kpod.records import Question
from kpod.records.errors import DataError

DRAWS = 256
"""Other questions that are looked at for one answer."""


def counterfactual_answer(question: Question, others: Sequence[Question], seed: int) -> str:
    """A wrong answer to a question, of the kind of its right one; the same for the same question, others and seed.

    - One of several options: another option, drawn evenly.
    - Yes or no, true or false: the other one.
    - A number: the answer of another question of its sign with as many digits before the point, whole if it is.
      Of 256 questions that are drawn the first such answer counts, else the one whose size is nearest, else the right
      answer plus 1.
    - Any other text: the answer of another question that is such a text too, the first of 256 that are drawn.

    Args:
        question: Its gold answer is the right one.
        others: The training questions; the question itself may be among them.
        seed: Of what is drawn.

    Returns:
        The answer: an option's letter, a word, a number in plain digits, or a text as it stands.

    Raises:
        DataError: If no other answer is found: one option only, or no other question with a text for an answer.

    Example:
        >>> dozens = [Question(f"q{n}", "How many?", answer) for n, answer in enumerate(("18", "7", "31", "250", "no"))]
        >>> [counterfactual_answer(question, dozens, seed=0) for question in dozens]
        ['31', '18', '18', '31', 'yes']
    """
    rng, gold, choices = random.Random(f"{seed} {question.id}"), question.answer, question.choices
    if choices is not None:
        wrong = [letter for letter in choices if letter != gold]
        if not wrong:
            raise DataError(f"question {question.id!r} has one option only, so it has no wrong answer")
        return rng.choice(wrong)
    answer = normalise_answer(gold)
    if answer in _FLIPPED:
        word = gold.strip().casefold()
        return _like(gold, _FLIPPED[word if word in _FLIPPED else answer])
    drawn = (others[rng.randrange(len(others))] for _ in range(DRAWS if others else 0))
    answers = (other.answer for other in drawn if other.choices is None)
    number = whole_number(answer)
    if number is not None:
        return plain_digits(_number(number, answers))
    texts = (other for other in answers if _is_text(other) and not same_answer(other, gold))
    if (found := next(texts, None)) is None:
        raise DataError(f"question {question.id!r}: no other question has a text for an answer, so it has no wrong one")
    return found


_FLIPPED = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


def _like(gold: str, flipped: str) -> str:
    """A word in the case of another."""
    word = gold.strip()
    return flipped.upper() if word.isupper() else flipped.capitalize() if word[:1].isupper() else flipped


def _number(gold: Fraction, answers: Iterable[str]) -> Fraction:
    """The first number among the answers that is like the right one; else the nearest in size."""
    others: list[Fraction] = []
    for answer in answers:
        number = whole_number(normalise_answer(answer))
        if number is None or are_close(number, gold):
            continue
        if _kind(number) == _kind(gold):
            return number
        others.append(number)
    return min(others, key=lambda number: abs(_size(number) - _size(gold)), default=gold + 1)


def _kind(number: Fraction) -> tuple[int, bool, bool]:
    """Its digits before the point, whether it is whole, and its sign."""
    return len(str(abs(math.trunc(number)))), number.denominator == 1, number < 0


def _size(number: Fraction) -> float:
    """Grows with the number's digits, and sets numbers of two signs apart."""
    size = math.log1p(float(min(abs(number), Fraction(10**300))))
    return -size if number < 0 else size


def _is_text(answer: str) -> bool:
    core = normalise_answer(answer)
    return core not in _FLIPPED and whole_number(core) is None
