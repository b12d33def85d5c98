"""Algorithm 1, line 1: the rationales to train on, recorded or asked for, and why others are not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kpod.config import AskConfig, DataConfig, TeacherConfig
from kpod.data.datasets import load_rationales, training_questions
from kpod.errors import DataError
from kpod.records import Dropped, Rationale
from kpod.teacher.asking import Asked, Explained, ask_teacher, explanations
from kpod.teacher.filters import filter_rationales

STORE = "teacher.jsonl"


@dataclass(frozen=True, slots=True)
class Gathered:
    """The rationales of a recipe.

    Attributes:
        found: All, before the filter.
        kept: What is trained on.
        dropped: What is not, with reasons.
        asked: What the teacher said; None where nobody was asked.
        places: Rationale id -> where it stands in the store; empty where nobody was asked.
    """

    found: list[Rationale]
    kept: list[Rationale]
    dropped: list[Dropped]
    asked: Asked | None = None
    places: Mapping[str, Explained] = field(default_factory=dict)


def check_some_are_kept(gathered: Gathered) -> None:
    """Raise DataError, with the reasons, where nothing is left to train on."""
    if not gathered.kept:
        reasons = Counter(item.reason for item in gathered.dropped).most_common()
        told = ", ".join(f"{reason} ({number})" for reason, number in reasons)
        raise DataError(f"no rationale is left to train on: {told}; see the keys of teacher, such as teacher.filter")


def gather(data: DataConfig, teacher: TeacherConfig, runs: Path, *, retry_failed: bool = False) -> Gathered:
    """Load the recorded rationales, or ask the teacher, and filter.

    Args:
        data: The questions, and rationales beside them.
        teacher: Whose rationales, and which of them.
        runs: The folder of all runs, which share what a teacher has answered.
        retry_failed: As `ask_teacher`.

    Raises:
        DataError: If a source is wrong.
        TeacherError: If the teacher cannot be asked, or leaves requests open.
    """
    if teacher.ask is None:
        loaded = load_rationales(data, teacher)
        kept, dropped = _filtered(loaded.rationales, loaded.dropped, teacher, data.answer_words)
        return Gathered(loaded.rationales, kept, dropped)
    store = store_of(teacher.ask, runs)
    words = data.answer_words
    asked = ask_teacher(training_questions(data), teacher.ask, store, retry_failed=retry_failed, words=words)
    explained, fallen = explanations(asked, teacher.ask, words)
    places = {place.rationale.id: place for place in explained}
    found = [place.rationale for place in explained]
    return Gathered(found, *_filtered(found, fallen, teacher, words), asked, places)


def store_of(ask: AskConfig, runs: Path) -> Path:
    """The file that keeps every attempt."""
    return Path(ask.store) if ask.store else runs / STORE


def _filtered(
    read: Sequence[Rationale], fallen: Sequence[Dropped], teacher: TeacherConfig, words: Sequence[str]
) -> tuple[list[Rationale], list[Dropped]]:
    kept, dropped = filter_rationales(read, teacher, words)
    return kept, [*fallen, *dropped]
