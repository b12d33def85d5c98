"""The records of what a student answered and expected: one answer, one test set, two methods, one rationale."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kpod.records.errors import DataError


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model wrote for one test question, and how it was judged.

    Attributes:
        id: The question's id.
        text: The generated text, special tokens removed.
        answer: The answer read off `text`, or None where none was found.
        gold: The gold answer.
        correct: Whether they are the same answer.
        finished: Whether the model ended the text itself (an end token), not the length limit.
        votes: Where several texts were drawn: how many of them reach this answer, the one most reached.
        choices: The question's options, or None where it has none.
        drawn: Where several texts were drawn: each, and whether the model ended it itself. None where that is unknown,
            as in files of earlier versions; such a prediction is never judged again.
    """

    id: str
    text: str
    answer: str | None
    gold: str
    correct: bool
    finished: bool
    votes: int | None = None
    choices: Mapping[str, str] | None = None
    drawn: tuple[tuple[str, bool], ...] | None = ()


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy on one test set; rates are 0 to 1.

    Attributes:
        dataset: Name of the test set.
        num_questions: How many were asked; at least 1.
        num_correct: How many were answered correctly.
        num_unanswered: How many texts hold no answer (counted as wrong).
        num_unfinished: How many texts ran into the length limit.
        interval: Wilson 95 % interval of the accuracy.
        by_last_number: The flexible reading: in how many texts the last number is the gold answer, whatever they state,
            and how many gold answers are numbers; None where this was not counted.
    """

    dataset: str
    num_questions: int
    num_correct: int
    num_unanswered: int
    num_unfinished: int
    interval: tuple[float, float]
    by_last_number: tuple[int, int] | None = None

    @property
    def value(self) -> float:
        """The share of correct answers."""
        return self.num_correct / self.num_questions


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much more often one method is right than another; or how much higher another measure of it is.

    Attributes:
        difference: Difference of the means over seeds; of accuracies, in [-1, 1].
        interval: Bootstrap 95 % interval over questions, which are resampled, each with all its seeds: what these
            students would do on other questions.
        by_seed: The difference under each seed.
        seed_interval: Student's t 95 % interval over seeds: what other seeds' students would do on these questions;
            None for a single seed.
        p_value: Of no difference, two-sided: McNemar's exact test; over several seeds, what it generalises to, the
            signs of the questions' differences flipped at random.
    """

    difference: float
    interval: tuple[float, float]
    by_seed: tuple[float, ...]
    seed_interval: tuple[float, float] | None
    p_value: float

    @property
    def verdict(self) -> Literal["helps", "harms", "open"]:
        """Whether both intervals lie on the same side of 0; open where one holds 0, and under a single seed.

        Example:
            >>> PairedDifference(0.03, (0.01, 0.05), (0.02, 0.04), (-0.1, 0.16), 0.01).verdict
            'open'
        """
        intervals = (self.interval, self.seed_interval or (-1.0, 1.0))
        if all(low > 0 for low, _ in intervals):
            return "helps"
        return "harms" if all(high < 0 for _, high in intervals) else "open"


@dataclass(frozen=True, slots=True)
class Surprise:
    """How surprised a model is by one rationale.

    Attributes:
        id: The rationale's.
        parts: Part of the rationale -> its number of tokens, above 0, and their summed NLL in nats. `all` is there, the
            classes of `kpod.evaluation.held_out` as far as there are such tokens, and `step 1`, `step 2` and so on.
    """

    id: str
    parts: Mapping[str, tuple[int, float]]

    def __post_init__(self) -> None:
        if "all" not in self.parts or not all(number > 0 for number, _ in self.parts.values()):
            raise DataError(f"rationale {self.id!r}: no tokens to measure the NLL of")


@dataclass(frozen=True, slots=True)
class MeanNll:
    """The NLL of a part of all rationales.

    Attributes:
        part: As in `Surprise`.
        value: Nats per token: all nats by all tokens.
        error: Its standard error over rationales; None for a single one.
        num_rationales: Rationales that have such tokens.
    """

    part: str
    value: float
    error: float | None
    num_rationales: int
