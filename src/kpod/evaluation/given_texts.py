"""Texts that were generated elsewhere, judged like the package's own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kpod.data.cells import flag_cell, id_cell, rationale_cell
from kpod.data.findings import Finding
from kpod.data.rows import rows_of
from kpod.evaluation.accuracy import judge
from kpod.records import Question
from kpod.records.errors import DataError
from kpod.records.outcomes import Prediction

T = TypeVar("T")


def judge_file(path: Path, questions: Sequence[Question], words: Sequence[str] = ()) -> list[Prediction]:
    """The predictions of a file, one for every question, in the questions' order.

    Args:
        path: A JSONL, JSON, CSV or Parquet file with the columns `id` (the question's) and `text` (what the model
            wrote, empty where it wrote nothing), and perhaps `finished` (false: the text ran into a limit).
        questions: What was asked.
        words: Further words that introduce an answer (`data.answer_words`).

    Raises:
        DataError: At a row that is wrong, by line; at an id that no question has, or that comes twice; or if a question
            has no text.
    """
    asked = {question.id: question for question in questions}
    found: dict[str, Prediction] = {}
    for row in rows_of(path):
        if isinstance(row, Finding):
            raise DataError(f"{path}:{row.line}: {row.message}")
        where = f"{path}:{row.line}"
        if not {"id", "text"} <= row.values.keys():
            raise DataError(f"{where}: a prediction has the columns id and text, and perhaps finished")
        id_ = _cell(where, "id", id_cell, row.values)
        text = _cell(where, "text", rationale_cell, row.values)
        finished = _cell(where, "finished", flag_cell, row.values) is not False
        if id_ not in asked:
            raise DataError(f"{where}: id {id_!r}: no question has it; the first question is {questions[0].id!r}")
        if id_ in found:
            raise DataError(f"{where}: id {id_!r}: the question is answered twice; give each id once")
        found[id_] = judge(asked[id_], text, finished, words)
    missing = [question.id for question in questions if question.id not in found]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(questions)} questions have no text, the first {missing[0]!r}; give "
            "an empty text where the model wrote none: it counts as wrong"
        )
    return [found[question.id] for question in questions]


def _cell(where: str, column: str, convert: Callable[[object], T], values: Mapping[str, Any]) -> T:
    try:
        return convert(values.get(column))
    except DataError as error:
        raise DataError(f"{where}: `{column}` {error}") from None
