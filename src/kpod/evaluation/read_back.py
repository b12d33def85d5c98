"""Whether the answers of a data set can be read back from the sentence that a student learns to state them in."""

from collections.abc import Iterable

from kpod.evaluation.accuracy import judge
from kpod.recipe import DataConfig
from kpod.records import Question

_PROBE = Question("probe", "What is 6 * 7?", "42")


def unread_questions(questions: Iterable[Question], data: DataConfig) -> list[Question]:
    """The questions that would be judged wrong even if a student stated their gold answer as it was taught to.

    Args:
        questions: With their gold answers; each distinct answer is judged once.
        data: Its `prompt.closing` is the sentence.

    Example:
        >>> asked = [Question("a", "2 + 2?", "4"), Question("b", "2 + 6?", "of course")]
        >>> [question.id for question in unread_questions(asked, DataConfig())]
        []
    """
    known: dict[object, bool] = {}
    unread = []
    for question in questions:
        key = question.answer, question.choices and tuple(question.choices.items())
        if key not in known:
            known[key] = is_read_back(question, data)
        if not known[key]:
            unread.append(question)
    return unread


def closing_is_read_back(data: DataConfig) -> bool:
    """Whether a plain number can be read back from the closing sentence.

    Example:
        >>> closing_is_read_back(DataConfig())
        True
    """
    return is_read_back(_PROBE, data)


def is_read_back(question: Question, data: DataConfig) -> bool:
    """Whether a text that states a question's gold answer in the closing sentence is judged right."""
    stated = data.prompt.closing.strip().replace("{answer}", question.answer)
    return judge(question, stated, finished=True, words=data.answer_words).correct
