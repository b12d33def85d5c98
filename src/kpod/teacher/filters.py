"""Which rationales are trained on (Algorithm 1, line 1)."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from kpod.config import TeacherConfig
from kpod.data.answers import extract_answer, normalise_answer, same_answer
from kpod.records import Dropped, Rationale
from kpod.teacher.closing import strip_closing
from kpod.teacher.equations import wrong_equations
from kpod.teacher.similarity import most_diverse, near_duplicates

TRUSTED_SOURCES = frozenset({"human", "word_problems"})
"""Rationales written by people or made with their question: where none says what it reaches, it reaches gold."""


def filter_rationales(rationales: Sequence[Rationale], config: TeacherConfig) -> tuple[list[Rationale], list[Dropped]]:
    """Keep the rationales that a configuration allows, in their order; the others come back with a reason.

    By answer first (`filter`), then by arithmetic (`check_equations`), then what is like an earlier one of the same
    question (`max_similarity`), and last all but a few unlike ones (`per_question`): the later rules see what the
    earlier ones have kept.

    Args:
        rationales: As loaded; empty ones are gone already. The answer of one is `teacher_answer`, or is read off the
            text where that is None.
        config: The rules.

    Returns:
        The kept ones, under `vote` with the voted answer as their question's, and the others as `wrong answer`,
        `unknown answer`, `outvoted`, `no majority`, `wrong equation`, `near-duplicate`, `not among the most diverse`
        or `nothing but an answer`. A right answer does not make the steps right.
    """
    kept, dropped = list(rationales), []
    for rule in _rules(config):
        changed = [(rationale, rule_says) for rationale, rule_says in zip(kept, rule(kept), strict=True)]
        dropped += [Dropped(old.id, new) for old, new in changed if isinstance(new, str)]
        kept = [new for _, new in changed if not isinstance(new, str)]
    return kept, dropped


_Rule = Callable[[Sequence[Rationale]], list[Rationale | str]]
"""What becomes of each rationale: it is kept, perhaps changed, or dropped for a reason."""


def _rules(config: TeacherConfig) -> list[_Rule]:
    by_answer: dict[str, list[_Rule]] = {"gold": [_gold], "vote": [_vote], "none": []}
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
        rules.append(lambda given: [without_closing(r) or "nothing but an answer" for r in given])
    return rules


def reached_answer(rationale: Rationale) -> str | None:
    """The answer a rationale reaches, as its teacher says or as its text does; None where neither says."""
    return rationale.teacher_answer or extract_answer(rationale.text, rationale.question.choices)


def without_closing(rationale: Rationale) -> Rationale | None:
    """A rationale without its closing clause, and with the answer that stood there; None where nothing is left."""
    text = strip_closing(rationale.text)
    if not text:
        return None
    spans = rationale.token_weights and tuple(
        (start, min(stop, len(text)), weight) for start, stop, weight in rationale.token_weights if start < len(text)
    )
    return replace(rationale, text=text, teacher_answer=reached_answer(rationale), token_weights=spans)


def _gold(rationales: Sequence[Rationale]) -> list[Rationale | str]:
    return [_reason_to_drop(rationale) or rationale for rationale in rationales]


def _reason_to_drop(rationale: Rationale) -> str | None:
    gold, choices = rationale.question.answer, rationale.question.choices
    if _is_trusted(rationale):
        return None
    reached = reached_answer(rationale)
    if reached is None:
        return "unknown answer"
    return None if same_answer(reached, gold, choices) else "wrong answer"


def _is_trusted(rationale: Rationale) -> bool:
    return rationale.teacher_answer is None and rationale.source in TRUSTED_SOURCES


def _vote(rationales: Sequence[Rationale]) -> list[Rationale | str]:
    """Keep what reaches the answer that more rationales of its question reach than any other."""
    votes: dict[str, Counter[str]] = {}
    answers = []
    for rationale in rationales:
        reached = rationale.question.answer if _is_trusted(rationale) else reached_answer(rationale)
        choices = rationale.question.choices
        answer = None if reached is None else normalise_answer(reached, choices)
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
