"""A row of any layout as cells under our own names: one draft for a question, or for each of its rationales."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from kpod.data.answers import same_answer
from kpod.data.cells import UnusableError, choices_cell, text_cell
from kpod.data.chats import first_exchange, set_aside, turns_of
from kpod.data.formats import Layout
from kpod.data.options import Choices
from kpod.data.solutions import Solution, behind_hashes, holds_thoughts, read_solution
from kpod.recipe import ColumnsConfig
from kpod.records.errors import DataError

SAID_BESIDE = ("source", "teacher_answer", "token_weights")
"""Columns that describe a rationale, if it has its own column."""
THOUGHTS, STATEMENTS = "thoughts left aside", "rationales that still state their answer"
"""Counts of these names come with the key that changes them."""
UNSTATED = "no stated answer"
"""The reason under which a row without a gold answer is dropped."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A question, or one of its rationales, that is not checked yet.

    Attributes:
        cells: Our names -> cells; a name is missing where the row has no such column.
        sample: `/k` for rationale k of several; else empty.
        fault: Why the draft is left out; None where it is not.
    """

    cells: Mapping[str, Any]
    sample: str = ""
    fault: UnusableError | None = None


def drafts_of(
    values: Mapping[str, Any], layout: Layout, columns: ColumnsConfig, explained: bool, aside: Counter[str]
) -> list[Draft]:
    """The drafts of a row.

    Args:
        values: The row's cells under its own columns.
        layout: Where the parts stand.
        columns: The recipe's names.
        explained: Whether rationales are wanted; else there is one draft, of the question.
        aside: Counts what is left aside, by kind.

    Raises:
        UnusableError: If the row must be left out.
        DataError: If a cell is not what its column holds.
    """
    with _column(layout.question[0]):
        cells = _question_cells(values, layout, columns, aside)
    answer = values.get(layout.answer) if layout.answer else None
    if isinstance(answer, str) and (marked := behind_hashes(answer)):
        answer = marked[1]
        aside["gold answers read behind ####"] += 1
    if layout.answer in values:
        cells["answer"] = answer
    if not layout.solved:
        return _plain(values, cells, layout, columns.thoughts, aside) if explained else [Draft(cells)]
    with _column(layout.rationale):
        drafts = _solved(values, cells, layout, columns.thoughts, aside)
    return drafts if explained else [Draft(drafts[0].cells)]


@contextmanager
def _column(name: str) -> Iterator[None]:
    """Put a column's name before what is wrong with its cell."""
    try:
        yield
    except UnusableError as error:
        raise UnusableError(error.reason, f"{name} {error}") from None
    except DataError as error:
        raise DataError(f"{name} {error}") from None


def _question_cells(
    values: Mapping[str, Any], layout: Layout, columns: ColumnsConfig, aside: Counter[str]
) -> dict[str, Any]:
    cells = {"choices": values[columns.choices]} if columns.choices in values else {}
    parts = [values[column] for column in layout.question if column in values]
    if not parts or layout.question[0] not in values:
        return cells
    turns = turns_of(parts[0])
    if turns is None and layout.rationale in layout.question:
        if parts[0] in (None, "", []):
            raise UnusableError("empty chat", "has no messages")
        raise DataError(
            "is not a list of messages (role and content, or from and value); in a CSV the list must be JSON"
        )
    if turns is not None:
        cells["question"], _ = first_exchange(turns)
        if layout.rationale not in layout.question:
            if sum(turn.role == "user" for turn in turns) > 1:
                raise UnusableError("chat of several turns", "is a chat of several turns; a question can only be one")
            aside.update(set_aside(turns))
    elif len(parts) == 1:
        cells["question"] = parts[0]
    else:
        cells["question"] = "\n\n".join(text_cell(part) for part in parts if not _is_blank(part))
    return cells


def _plain(
    values: Mapping[str, Any], cells: Mapping[str, Any], layout: Layout, thoughts: str, aside: Counter[str]
) -> list[Draft]:
    """Drafts of rationales as they are, except for their thoughts."""
    if layout.rationale not in values:
        return [Draft(cells)]
    given = values[layout.rationale]
    if isinstance(given, list) and all(text is None or isinstance(text, str) for text in given):
        beside = {"source": values["source"]} if "source" in values else {}
        drafts = [Draft({**cells, **beside, "rationale": text}, f"/{k}") for k, text in enumerate(given or [""])]
    else:
        beside = {name: values[name] for name in SAID_BESIDE if name in values}
        drafts = [Draft({**cells, **beside, "rationale": given})]
    return [_without_thoughts(draft, thoughts, aside) for draft in drafts]


def _without_thoughts(draft: Draft, thoughts: str, aside: Counter[str]) -> Draft:
    """The draft of a rationale whose thoughts are set apart, unless they are wanted or the text has weights."""
    text, weights = draft.cells["rationale"], draft.cells.get("token_weights")
    if thoughts == "whole" or not isinstance(text, str) or not holds_thoughts(text):
        return draft
    if not _is_blank(weights):
        aside["rationales with thought tags that are kept, because they have token_weights"] += 1
        return draft
    solution = _read(text, _choices(draft.cells), thoughts)
    if isinstance(solution, UnusableError):
        return replace(draft, fault=solution)
    aside[THOUGHTS if solution.set_aside else "rationales that are read from thought tags"] += 1
    given = draft.cells.get("teacher_answer")
    reached = {"teacher_answer": solution.answer if _is_blank(given) else given}
    return replace(draft, cells={**draft.cells, **reached, "rationale": solution.rationale})


def _solved(
    values: Mapping[str, Any], cells: dict[str, Any], layout: Layout, thoughts: str, aside: Counter[str]
) -> list[Draft]:
    """Drafts of solutions, taken apart; none of them has a rationale where the row has no solution."""
    if layout.rationale not in values and "answer" not in cells:
        return [Draft(cells)]
    texts, several = _texts(values, layout, aside)
    solutions = [_read(text, _choices(cells), thoughts) for text in texts]
    if _is_blank(cells.get("answer")):
        cells["answer"] = _stated(solutions)
    else:
        gold = str(cells["answer"])
        solutions = [_reasoned(text, solution, gold) for text, solution in zip(texts, solutions, strict=True)]
    if layout.rationale not in values:
        return [Draft(cells)]
    if "source" in values and (layout.format is None or layout.format.told_by):
        cells["source"] = values["source"]
    given = values.get("teacher_answer")
    drafts = []
    for k, solution in enumerate(solutions or [Solution("", None)]):
        sample = f"/{k}" if several else ""
        if isinstance(solution, UnusableError):
            drafts.append(Draft(cells, sample, solution))
            continue
        aside[THOUGHTS] += solution.set_aside
        aside[STATEMENTS] += solution.states_it
        reached = {"teacher_answer": solution.answer if _is_blank(given) else given}
        drafts.append(Draft({**cells, **reached, "rationale": solution.rationale}, sample))
    return drafts


def _texts(values: Mapping[str, Any], layout: Layout, aside: Counter[str]) -> tuple[list[Any], bool]:
    """The texts of the rationale's column, and whether it holds a list of them."""
    cell = _from_json(values.get(layout.rationale))
    turns = turns_of(cell)
    if turns is not None:
        aside.update(set_aside(turns))
        if layout.rationale in layout.question:
            return [first_exchange(turns)[1]], False
        return [next((turn.text for turn in turns if turn.role == "assistant"), None)], False
    if isinstance(cell, list):
        return cell, True
    return [cell], False


def _from_json(cell: Any) -> Any:
    """A list of texts that a CSV holds as JSON."""
    if isinstance(cell, str) and cell.startswith('["'):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _stated(solutions: Sequence[Solution | UnusableError]) -> str:
    """The answer that the first of them states; raises UnusableError where none does."""
    stated = [solution.answer for solution in solutions if isinstance(solution, Solution) and solution.answer]
    if stated:
        return stated[0]
    faults = [solution for solution in solutions if isinstance(solution, UnusableError)]
    raise next(iter(faults), UnusableError(UNSTATED, "states no answer that can be read"))


def _read(text: Any, choices: Choices | None, thoughts: str) -> Solution | UnusableError:
    if _is_blank(text):
        return Solution("", None)
    try:
        return read_solution(text_cell(text), choices, thoughts)
    except UnusableError as error:
        return error


def _reasoned(text: Any, solution: Solution | UnusableError, gold: str) -> Solution | UnusableError:
    """The solution; where it seems to be an answer alone, but not the gold one, its few words are the rationale."""
    if isinstance(solution, UnusableError) or solution.rationale or solution.answer is None:
        return solution
    return solution if same_answer(solution.answer, gold) else Solution(str(text), None)


def _choices(cells: Mapping[str, Any]) -> Choices | None:
    cell = cells.get("choices")
    try:
        return None if _is_blank(cell) else choices_cell(cell)
    except DataError:
        return None  # the cell itself is checked later


def _is_blank(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())
