"""Which recorded rationales are trained on (Algorithm 1, line 1)."""

from collections.abc import Sequence
from typing import Literal

from kpod.data.answers import extract_answer, same_answer
from kpod.records import Dropped, Rationale

TRUSTED_SOURCES = frozenset({"human", "word_problems"})
"""Rationales written by people or made with their question: where none says what it reaches, it reaches gold."""


def filter_rationales(
    rationales: Sequence[Rationale], rule: Literal["gold", "none"]
) -> tuple[list[Rationale], list[Dropped]]:
    """Keep the rationales that a rule allows, in their order; the others come back with a reason.

    Args:
        rationales: As loaded; empty ones are gone already.
        rule: `gold` keeps a rationale whose answer equals the gold answer. The answer is `teacher_answer`, or is
            read off the text where that is None. `none` keeps all.

    Returns:
        The kept ones, and the others as `wrong answer` or `unknown answer`. A right answer does not make the
        steps right; nothing here looks at those.
    """
    if rule == "none":
        return list(rationales), []
    reasons = [_reason_to_drop(rationale) for rationale in rationales]
    judged = list(zip(rationales, reasons, strict=True))
    kept = [rationale for rationale, reason in judged if reason is None]
    return kept, [Dropped(rationale.id, reason) for rationale, reason in judged if reason is not None]


def _reason_to_drop(rationale: Rationale) -> str | None:
    gold, choices = rationale.question.answer, rationale.question.choices
    if rationale.teacher_answer is None and rationale.source in TRUSTED_SOURCES:
        return None
    reached = rationale.teacher_answer or extract_answer(rationale.text, choices)
    if reached is None:
        return "unknown answer"
    return None if same_answer(reached, gold, choices) else "wrong answer"
