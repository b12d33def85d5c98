"""Views: the texts that a rationale is made into for the student. Most methods have one, some have two or more."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from kpod.data.prompts import Written
from kpod.recipe import PromptConfig
from kpod.records import EXPLAIN, Rationale


@dataclass(frozen=True, slots=True)
class View:
    """What the student reads and writes of one rationale, and what of it is trained.

    Attributes:
        id: Unique; the rationale's own id for the plain view.
        rationale: The rationale, with its question and the answer to write.
        prompt: The words around them.
        task: What it asks of the student. The loss of each task has a mean of its own.
        group: Views with the same group are trained in one batch; empty where nothing ties them together.
        writes: Rationale and answer, or one of the two.
        trains: All that is written, or the answer alone; what stands before the answer is then only read.
        lead: What the prompt begins with, such as worked examples.
    """

    id: str
    rationale: Rationale
    prompt: PromptConfig
    task: str = EXPLAIN
    group: str = ""
    writes: Written = "all"
    trains: Literal["all", "answer"] = "all"
    lead: str = ""

    @property
    def text(self) -> str:
        """The reasoning that is written; empty where the answer stands alone."""
        return "" if self.writes == "answer" else self.rationale.text

    @property
    def answer(self) -> str | None:
        """The answer that is written, if any."""
        return None if self.writes == "rationale" else self.rationale.question.answer


def plain_views(rationales: Iterable[Rationale], prompt: PromptConfig) -> Iterator[View]:
    """Every rationale as the paper trains it: after its question, followed by its answer."""
    return (View(rationale.id, rationale, prompt) for rationale in rationales)
