"""The records that travel between phases. Each is frozen and valid from birth; later code trusts it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kpod.records.errors import DataError, ScheduleError

Span: TypeAlias = tuple[int, int]
"""A half-open range, of characters or of tokens."""

WeightSpan: TypeAlias = tuple[int, int, float]
"""Characters start to stop (exclusive) of a rationale, and their significance weight in [0, 1]."""

SEGMENTS = ("question", "rationale", "closing", "answer", "end")
"""The parts of a tokenised rationale, in their order. `closing` are the fixed words around the answer."""


EXPLAIN = "explain"
"""The task of a plain view: write the rationale, then the answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question x with its gold answer y.

    Attributes:
        id: Unique within its data set.
        question: The text, without options.
        answer: A number, an option letter, yes/no, or free text.
        choices: Option letter -> text; None unless multiple choice.
    """

    id: str
    question: str
    answer: str
    choices: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name in ("id", "question", "answer"):
            if not getattr(self, name).strip():
                raise DataError(f"question {self.id!r}: empty {name}")
        if self.choices is not None and self.answer not in self.choices:
            raise DataError(
                f"question {self.id!r}: answer {self.answer!r} is none of its choices {sorted(self.choices)}"
            )


@dataclass(frozen=True, slots=True)
class Rationale:
    """A rationale r that a teacher wrote for a question.

    Attributes:
        id: Unique; the question's id, with /k added where a question has several rationales.
        question: What it explains.
        text: The reasoning without the closing "the answer is"; never blank.
        source: Who wrote it.
        teacher_answer: The answer the rationale reaches, or None where unknown.
        token_weights: Weights given by the user as character spans of `text`, or None.
    """

    id: str
    question: Question
    text: str
    source: str = "unknown"
    teacher_answer: str | None = None
    token_weights: tuple[WeightSpan, ...] | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError(f"rationale {self.id!r} is empty")
        for start, stop, weight in self.token_weights or ():
            if not (0 <= start < stop <= len(self.text) and 0 <= weight <= 1):
                raise DataError(f"rationale {self.id!r}: bad weight span ({start}, {stop}, {weight})")


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedRationale:
    """One id sequence `question | rationale | closing | answer | end`, and where its parts and steps stop.

    Made by `kpod.lm.encoding` alone, and mostly a view on a row of `kpod.records.columns.Tokens`. For an
    encoder-decoder model `question` is what the encoder reads and the rest is the decoder's target; a causal model
    reads all of it in one piece. It is the text of a `kpod.data.views.View`, mostly of the plain one, which writes
    rationale and answer and trains both.

    Attributes:
        id: The rationale's id.
        token_ids: The whole sequence, int32.
        segment_stops: Where each of SEGMENTS stops, exclusive; the last equals len(token_ids).
            `closing` and `end` may be empty, and the rationale or the answer where the view does not write it.
        step_stops: Where each step stops, exclusive and rising, counted in rationale tokens;
            the last equals the number of rationale tokens. Empty without a rationale.
        char_spans: Per rationale token its characters in the rationale's text, int32 [tokens, 2]; they rise, and
            several tokens of one character share its span.
        before_answer: How many rationale tokens stand before the answer where it is first stated as a result; None
            where it never is, or within the first token, or where `with_statement` did not look.
        task: What the view asks of the student. The loss of each task has a mean of its own.
        group: Views with the same group are trained in one batch; empty where nothing ties them together.
        num_read: How many tokens after the question are only read, never trained, at every stage.
    """

    id: str
    token_ids: NDArray[np.int32]
    segment_stops: tuple[int, int, int, int, int]
    step_stops: tuple[int, ...]
    char_spans: NDArray[np.int32]
    before_answer: int | None = None
    task: str = EXPLAIN
    group: str = ""
    num_read: int = 0

    def __post_init__(self) -> None:
        question, rationale, closing, answer, end = self.segment_stops
        is_written = rationale > question or answer > closing
        if not (0 < question <= rationale <= closing <= answer <= end == len(self.token_ids) and is_written):
            raise DataError(f"rationale {self.id!r}: segments stop at {self.segment_stops}, ids {len(self.token_ids)}")
        if not 0 <= self.num_read < end - question:
            raise DataError(f"rationale {self.id!r}: {self.num_read} of {end - question} written tokens are only read")
        rising = all(start < stop for start, stop in pairwise((0, *self.step_stops)))
        if not (rising and (self.step_stops or (0,))[-1] == self.num_tokens):
            raise DataError(f"rationale {self.id!r}: steps {self.step_stops} do not tile {self.num_tokens} tokens")
        if self.char_spans.shape != (self.num_tokens, 2):
            raise DataError(f"rationale {self.id!r}: {len(self.char_spans)} spans for {self.num_tokens} tokens")
        if self.before_answer is not None and not 0 < self.before_answer < self.num_tokens:
            raise DataError(
                f"rationale {self.id!r}: the answer cannot stand behind {self.before_answer} of "
                f"{self.num_tokens} tokens"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenizedRationale):
            return NotImplemented
        return self._small == other._small and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ("token_ids", "char_spans")
        )

    def __hash__(self) -> int:
        return hash(self._small)

    @property
    def _small(self) -> tuple[object, ...]:
        return (
            self.id,
            self.segment_stops,
            self.step_stops,
            self.before_answer,
            self.task,
            self.group,
            self.num_read,
        )

    @property
    def num_tokens(self) -> int:
        """Number of rationale tokens."""
        return self.segment_stops[1] - self.segment_stops[0]

    @property
    def num_steps(self) -> int:
        """Number n of reasoning steps; 0 without a rationale."""
        return len(self.step_stops)

    def segment(self, name: str) -> slice:
        """The token range of one of SEGMENTS."""
        index = SEGMENTS.index(name)
        return slice(self.segment_stops[index - 1] if index else 0, self.segment_stops[index])

    def ids(self, name: str) -> tuple[int, ...]:
        """The token ids of one of SEGMENTS."""
        return tuple(self.token_ids[self.segment(name)].tolist())

    def num_input_tokens(self, input_steps: int) -> int:
        """How many rationale tokens the first `input_steps` steps hold; raises DataError out of 0..n."""
        if not 0 <= input_steps <= self.num_steps:
            raise DataError(f"rationale {self.id!r} has {self.num_steps} steps; {input_steps} cannot be given")
        return self.step_stops[input_steps - 1] if input_steps else 0


@dataclass(frozen=True, slots=True)
class Weights:
    """Significance weights w_j of every rationale token, and where they are used.

    Attributes:
        loss: Rationale id -> one float32 in [0, 1] per rationale token, for the student's loss (Eq. 15).
        difficulty: The same, for the step difficulties (Eq. 8). An ablation lets the two differ.
    """

    loss: Mapping[str, NDArray[np.float32]]
    difficulty: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        for use in (self.loss, self.difficulty):
            for key, weights in use.items():
                if not (weights.ndim == 1 and np.all(weights >= 0) and np.all(weights <= 1)):
                    raise DataError(f"rationale {key!r}: weights must be one axis of numbers in [0, 1]")


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What happened when a stage was entered; difficulties and budgets in nats, summed over all questions.

    Attributes:
        stage: t, from 0 (the start, filled to C_0) to T.
        budget: D(t) (Eq. 10).
        remaining_difficulty: sum of h_i(t) once the stage is filled (Eq. 9).
        value: beta-weighted objective G(S) = dH(S) + beta * bonus, summed over the stage's rounds.
        upper_bound: Certified upper bound on `value`, summed likewise.
        selected: How many questions S(t) holds.
        clusters_touched: How many clusters have a question in S(t).
    """

    stage: int
    budget: float
    remaining_difficulty: float
    value: float
    upper_bound: float
    selected: int
    clusters_touched: int

    @property
    def gap(self) -> float:
        """Certified relative gap to the optimum, in [0, 1]."""
        return (self.upper_bound - self.value) / self.upper_bound if self.upper_bound > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many steps each question is given at each stage: the integer matrix c[stage, question].

    Attributes:
        ids: Rationale ids, one per column.
        input_steps: c_i(t), [T + 1, questions], in the narrowest type that holds them, and possibly mapped from a file;
            row 0 is the start, the last row is all zero.
        stages: One record per row, or empty where no selection was made (whole rationales).
        diversity_weight: beta as used; `relative_diversity` is the same without a unit.
        relative_diversity: beta * sum_k sqrt(|C_k|) / B.
        first_stage: The stage that training starts with: 1 as in Algorithm 1, or 0 to train on C_0 too.
        ramp_epochs: Epochs that stages up to T share evenly; None: an epoch each.
        trains: What a stage trains: the steps after the given ones, or, against the paper, as many steps of the start.
        ordered: Whether given steps never grow; a control has them in any order.
    """

    ids: tuple[str, ...]
    input_steps: NDArray[np.integer[Any]]
    stages: tuple[StageRecord, ...] = ()
    diversity_weight: float = 0.0
    relative_diversity: float = 0.0
    first_stage: int = 1
    ramp_epochs: float | None = None
    trains: Literal["suffix", "prefix"] = "suffix"
    ordered: bool = True

    def __post_init__(self) -> None:
        steps = self.input_steps
        if steps.ndim != 2 or steps.shape[0] < 1 or steps.shape[1] != len(self.ids):
            raise ScheduleError(f"input_steps has shape {steps.shape} for {len(self.ids)} questions")
        grows = self.ordered and np.any(steps[1:] > steps[:-1])
        if np.any(steps < 0) or grows or np.any(steps[-1] != 0):
            raise ScheduleError("given steps must never grow, never be negative, and end at 0")

    @property
    def ramp_stages(self) -> int:
        """T: from this stage on every rationale is trained whole."""
        return len(self.input_steps) - 1

    def at_epoch(self, epochs: Fraction | int) -> int:
        """The stage after so many epochs, whole or broken; exact, so that a resumed run meets the same stages.

        Example:
            >>> schedule = Schedule(("q",), np.array([[3], [2], [1], [0]]), ramp_epochs=0.5)
            >>> [schedule.at_epoch(Fraction(sixths, 6)) for sixths in range(5)]
            [1, 2, 3, 3, 3]
        """
        stages = Fraction(epochs)
        if self.ramp_epochs is not None:
            stages *= (self.ramp_stages + 1 - self.first_stage) / Fraction(self.ramp_epochs)
        return min(math.floor(stages) + self.first_stage, self.ramp_stages)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A rationale that is not trained on, and why: a short reason that can be counted, such as `wrong answer`."""

    id: str
    reason: str
