"""Which rationales are trained on (Algorithm 1, line 1)."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from kpod.data.answers import extract_answer, normalise_answer, same_answer
from kpod.data.endings import reached_answers
from kpod.recipe import TeacherConfig
from kpod.records import Dropped, Rationale
from kpod.teacher.closing import strip_closing
from kpod.teacher.equations import wrong_equations
from kpod.teacher.similarity import most_diverse, near_duplicates

TRUSTED_SOURCES = frozenset({"human", "word_problems"})
"""Rationales written by people or made with their question: where none says what it reaches, it reaches gold."""


def filter_rationales(
    rationales: Sequence[Rationale], config: TeacherConfig, words: Sequence[str] = ()
) -> tuple[list[Rationale], list[Dropped]]:
    """Keep the rationales that a configuration allows, in their order; the others come back with a reason.

    By answer first (`filter`), then by arithmetic (`check_equations`), then what is like an earlier one of the same
    question (`max_similarity`), and last all but a few unlike ones (`per_question`): the later rules see what the
    earlier ones have kept.

    Args:
        rationales: As loaded; empty ones are gone already. The answer of one is `teacher_answer`, or, where that is
            None, what its text states or comes to in the end (`kpod.data.endings.reached_answers`).
        config: The rules.
        words: Further words that introduce an answer (`data.answer_words`).

    Returns:
        The kept ones, under `vote` with the voted answer as their question's, and the others as `wrong answer`,
        `unknown answer`, `outvoted`, `no majority`, `wrong equation`, `near-duplicate`, `not among the most diverse`
        or `nothing but an answer`. A right answer does not make the steps right.

    Example:
        >>> from kpod.records import Question
        >>> question = Question("q", "Two and three?", "5")
        >>> told = [Rationale(f"q/{k}", question, text) for k, text in enumerate(["2 + 3 = 5.", "2 + 3 = 6."])]
        >>> kept, dropped = filter_rationales(told, TeacherConfig())
        >>> [rationale.id for rationale in kept], dropped
        (['q/0'], [Dropped(id='q/1', reason='wrong answer')])
    """
    kept, dropped = list(rationales), []
    for rule in _rules(config, tuple(words)):
        changed = [(rationale, rule_says) for rationale, rule_says in zip(kept, rule(kept), strict=True)]
        dropped += [Dropped(old.id, new) for old, new in changed if isinstance(new, str)]
        kept = [new for _, new in changed if not isinstance(new, str)]
    return kept, dropped


_Rule = Callable[[Sequence[Rationale]], list[Rationale | str]]
"""What becomes of each rationale: it is kept, perhaps changed, or dropped for a reason."""


def _rules(config: TeacherConfig, words: tuple[str, ...]) -> list[_Rule]:
    by_answer: dict[str, list[_Rule]] = {
        "gold": [partial(_judged, words=words, keep_unread=False)],
        "stated": [partial(_judged, words=words, keep_unread=True)],
        "vote": [partial(_vote, words=words)],
        "none": [],
    }
    rules = by_answer[config.filter]
    if config.check_equations:
        rules.append(lambda given: ["wrong equation" if wrong_equations(r.text) else r for r in given])
    if (similarity := config.max_similarity) is not None:
        rules.append(
            _by_question(
                lambda texts: set(range(len(texts))) - set(near_duplicates(texts, similarity)), "near-duplicate"
            )
        )
    if (number := config.per_question) is not None:
        rules.append(_by_question(lambda texts: set(most_diverse(texts, number)), "not among the most diverse"))
    if config.strip_closing:
        rules.append(lambda given: [without_closing(r, words) or "nothing but an answer" for r in given])
    return rules


def answers_of(rationale: Rationale, words: Sequence[str] = ()) -> tuple[str, ...]:
    """What a rationale reaches: as its teacher says, or else as its text does, the likeliest first; empty if unread."""
    if rationale.teacher_answer:
        return (rationale.teacher_answer,)
    return reached_answers(rationale.text, rationale.question.answer, rationale.question.choices, words)


def reaches_gold(rationale: Rationale, words: Sequence[str] = ()) -> bool:
    """Whether one of the answers that a rationale may be said to reach is the gold one."""
    gold, choices = rationale.question.answer, rationale.question.choices
    return any(same_answer(answer, gold, choices) for answer in answers_of(rationale, words))


def unverified(rationales: Sequence[Rationale], words: Sequence[str] = ()) -> list[Rationale]:
    """Those of which nothing says what they reach: under `teacher.filter: stated` they are kept all the same."""
    return [r for r in rationales if not _is_trusted(r) and not answers_of(r, words)]


def without_closing(rationale: Rationale, words: Sequence[str] = ()) -> Rationale | None:
    """A rationale without its closing clause, and with the answer that stood there; None where nothing is left."""
    text = strip_closing(rationale.text, words)
    if not text:
        return None
    spans = rationale.token_weights and tuple(
        (start, min(stop, len(text)), weight) for start, stop, weight in rationale.token_weights if start < len(text)
    )
    stated = rationale.teacher_answer or extract_answer(rationale.text, rationale.question.choices, words)
    if (text, stated) == (rationale.text, rationale.teacher_answer):
        return rationale
    return replace(rationale, text=text, teacher_answer=stated, token_weights=spans)


def _judged(rationales: Sequence[Rationale], *, words: tuple[str, ...], keep_unread: bool) -> list[Rationale | str]:
    """Keep what reaches the gold answer, and perhaps what cannot be read."""
    return [_reason_to_drop(rationale, words, keep_unread) or rationale for rationale in rationales]


def _reason_to_drop(rationale: Rationale, words: tuple[str, ...], keep_unread: bool) -> str | None:
    if _is_trusted(rationale):
        return None
    reached = answers_of(rationale, words)
    if any(same_answer(answer, rationale.question.answer, rationale.question.choices) for answer in reached):
        return None
    if reached:
        return "wrong answer"
    return None if keep_unread else "unknown answer"


def _is_trusted(rationale: Rationale) -> bool:
    return rationale.teacher_answer is None and rationale.source in TRUSTED_SOURCES


def _vote(rationales: Sequence[Rationale], *, words: tuple[str, ...]) -> list[Rationale | str]:
    """Keep what reaches the answer that more rationales of its question reach than any other."""
    votes: dict[str, Counter[str]] = {}
    answers = []
    for rationale in rationales:
        found = (rationale.question.answer,) if _is_trusted(rationale) else answers_of(rationale, words)
        choices = rationale.question.choices
        answer = normalise_answer(found[0], choices) if found else None
        answer = answer if choices is None or answer in choices else None
        answers.append(answer)
        votes.setdefault(rationale.question.id, Counter()).update([answer] if answer else [])

    def judged(rationale: Rationale, answer: str | None) -> Rationale | str:
        ranking = votes[rationale.question.id].most_common(2)
        if not answer:
            return "unknown answer"
        if len(ranking) == 2 and ranking[0][1] == ranking[1][1]:
            return "no majority"
        if answer != ranking[0][0]:
            return "outvoted"
        return replace(rationale, question=replace(rationale.question, answer=answer))

    return [judged(rationale, answer) for rationale, answer in zip(rationales, answers, strict=True)]


def _by_question(choose: Callable[[Sequence[str]], set[int]], reason: str) -> _Rule:
    """A rule that keeps some of each question's texts."""

    def rule(rationales: Sequence[Rationale]) -> list[Rationale | str]:
        positions: dict[str, list[int]] = {}
        for position, rationale in enumerate(rationales):
            positions.setdefault(rationale.question.id, []).append(position)
        kept = {
            of_question[chosen]
            for of_question in positions.values()
            for chosen in choose([rationales[position].text for position in of_question])
        }
        return [r if position in kept else reason for position, r in enumerate(rationales)]

    return rule
