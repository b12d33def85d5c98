"""What the page's script searches: all questions with what was answered, all rationales with their token weights.

They stand inside the page as compact JSON, deflated and written in base64. So no text of a model's can end the script
element that holds it, and a page of a thousand questions stays below a megabyte.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby, islice
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple
from zlib import compress

from markupsafe import Markup

from kpod.commands.pages.tables import TokenView
from kpod.records import Schedule
from kpod.records.errors import DataError
from kpod.records.outcomes import PairedDifference, Prediction
from kpod.records.shown import visible

ROWS = 1000
"""Questions or rationales in one script element. The page stays responsive between two of them."""
SCRIPT = Path(__file__).with_name("browser.js").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Answered:
    """A question of a test set, and what each side answered.

    Attributes:
        test: The test set.
        id: The question's id.
        question: Its text, or empty where it is unknown.
        predictions: One per side, such as before and after training; None where a side was not asked.
    """

    test: str
    id: str
    question: str
    predictions: tuple[Prediction | None, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A rationale with the weight of each token, as in the paper's Figure 2.

    Attributes:
        id: The rationale's id.
        question: What it explains.
        tokens: The rationale's tokens, as `kpod.commands.pages.tables.weighed_tokens` gives them.
        answer: The gold answer of the question.
        difficulties: d_k of each step, in nats per token; empty where the method has none.
        stages: The stage that first trains each step; empty where every step is trained from the start.
    """

    id: str
    question: str
    tokens: tuple[TokenView, ...]
    answer: str = ""
    difficulties: tuple[float, ...] = ()
    stages: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for text, weight, _ in self.tokens:
            if not 0 <= weight <= 1:
                raise DataError(f"rationale {self.id!r}: token {text!r} has weight {weight}; it must be in [0, 1]")
        for what, values in (("difficulties", self.difficulties), ("first stages", self.stages)):
            if values and len(values) != self.num_steps:
                raise DataError(f"rationale {self.id!r}: {len(values)} {what} for {self.num_steps} steps")

    @property
    def num_steps(self) -> int:
        """Number n of reasoning steps."""
        return self.tokens[-1][2] if self.tokens else 0


@dataclass(frozen=True, slots=True)
class Explained:
    """A rationale, and how each side weighs it; None for a side that does not train it."""

    id: str
    sides: tuple[HeatMap | None, ...]


class Paired(NamedTuple):
    """The questions of a test set by which of two sides answered them correctly.

    Attributes:
        test: The test set.
        both: Answered correctly by both sides.
        gained: By the second side alone.
        lost: By the first side alone.
        neither: By neither.
        difference: Accuracy of the second side minus that of the first.
    """

    test: str
    both: int
    gained: int
    lost: int
    neither: int
    difference: PairedDifference


@dataclass(frozen=True, slots=True)
class Browsed:
    """All that the script of a page searches.

    Attributes:
        sides: What the two answers to a question are called, such as before and after.
        runs: Whose weights stand in the rationales, one name per side.
        questions: Of all test sets.
        rationales: All that are trained on.
        num_left_out: Rationales that are trained on and not in the page, which would grow too large.
    """

    sides: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    questions: tuple[Answered, ...] = ()
    rationales: tuple[Explained, ...] = ()
    num_left_out: int = 0

    @property
    def tests(self) -> tuple[str, ...]:
        """The test sets, in the order of their questions."""
        return tuple(dict.fromkeys(one.test for one in self.questions))

    @property
    def has_stages(self) -> bool:
        """Whether a side has steps that are not trained from the start."""
        return any(side is not None and side.stages for one in self.rationales for side in one.sides)

    def facts(self) -> dict[str, Any]:
        """What the script must know beside the rows: names of sides and runs, and what differs between rows."""
        sides, runs = (list(map(visible, names)) for names in (self.sides, self.runs))
        return {"question": sides, "rationale": runs, "tests": len(self.tests), "stages": self.has_stages}

    def packed(self, kind: str) -> Iterator[str]:
        """The texts of the script elements that hold the questions or the rationales.

        Args:
            kind: `question` or `rationale`.
        """
        rows = map(_question_row, self.questions) if kind == "question" else map(_rationale_row, self.rationales)
        return packed(rows)


def first_stages(schedule: Schedule, column: int, num_steps: int) -> tuple[int, ...]:
    """The stage in which each step of a rationale is first trained, and so generated by the student.

    Args:
        schedule: Which steps are given at each stage.
        column: The rationale's place in the schedule.
        num_steps: n of the rationale.

    Example:
        >>> import numpy as np
        >>> first_stages(Schedule(("r",), np.array([[2], [2], [1], [0]])), column=0, num_steps=3)
        (3, 2, 1)
    """
    start = min(schedule.first_stage, schedule.ramp_stages)
    trained = [num_steps - int(given) for given in schedule.input_steps[start:, column]]
    from_end = schedule.trains == "suffix"
    found = []
    for step in range(num_steps):
        needed = num_steps - step if from_end else step + 1
        found.append(start + next(stage for stage, number in enumerate(trained) if number >= needed))
    return tuple(found)


def packed(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Rows of plain types as base64 of deflated JSON, `ROWS` rows in a text.

    Example:
        >>> from base64 import b64decode
        >>> from zlib import decompress
        >>> [decompress(b64decode(text)) for text in packed([["</script>", 1]])]
        [b'[["</script>",1]]']
    """
    left = iter(rows)
    while part := list(islice(left, ROWS)):
        text = json.dumps(part, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        yield b64encode(compress(text.encode(), 9)).decode("ascii")


def script() -> Markup:
    """The page's script, as it stands in the page."""
    return Markup(SCRIPT)  # noqa: S704  # a file of the package


def script_hash() -> str:
    """What the page's content security policy allows to run: the script of this package, and no other."""
    return "sha256-" + b64encode(sha256(SCRIPT.encode()).digest()).decode("ascii")


def _question_row(one: Answered) -> list[Any]:
    said = next(prediction for prediction in one.predictions if prediction is not None)
    choices = [[visible(name), visible(text)] for name, text in (said.choices or {}).items()]
    sides = [_said(prediction) if prediction else 0 for prediction in one.predictions]
    return [visible(one.test), visible(one.id), visible(one.question), visible(said.gold), choices, sides]


def _said(prediction: Prediction) -> list[Any]:
    answer = None if prediction.answer is None else visible(prediction.answer)
    return [visible(prediction.text), answer, int(prediction.correct), int(prediction.finished), prediction.votes]


def _rationale_row(one: Explained) -> list[Any]:
    known = next(side for side in one.sides if side is not None)
    sides = [_weighed(side) if side else 0 for side in one.sides]
    return [visible(one.id), visible(known.question), visible(known.answer), sides]


def _weighed(side: HeatMap) -> list[Any]:
    """Text, length of each token in UTF-16 units, weights in hundredths, tokens of each step, difficulties, stages."""
    texts = [visible(text) for text, _, _ in side.tokens]
    weights = [round(100 * weight) for _, weight, _ in side.tokens]
    steps = [len(list(tokens)) for _, tokens in groupby(side.tokens, key=lambda token: token[2])]
    difficulties = [round(value, 3) if isfinite(value) else None for value in side.difficulties]
    lengths = [len(text.encode("utf-16-le")) // 2 for text in texts]
    return ["".join(texts), lengths, weights, steps, difficulties, list(side.stages)]
