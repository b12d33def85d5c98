r"""The formats of published data sets, recognised by their columns: FORMATS has one row for each.

A file with our own columns, or with those that `data.columns` names, has none of these formats. A column that a recipe
names in `data.columns` takes precedence over a format's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from kpod.data.solutions import behind_hashes
from kpod.recipe import ColumnsConfig

DEFAULTS = ColumnsConfig()


@dataclass(frozen=True, slots=True)
class Format:
    """A form in which people publish questions and solutions.

    Attributes:
        name: What people call it.
        needs: The columns that tell it. Case does not count.
        question: The columns of the question, joined by a blank line. A list of messages counts with its first user
            turn.
        solution: The columns that may hold the rationale, or rationale and gold in one text. A list of messages counts
            with the assistant's first turn; a list of texts is several rationales of one question.
        answer: The columns that may hold the gold answer; without one, it is read off the solution.
        told_by: What holds for half of the cells of `solution`, where columns alone do not tell the format.
    """

    name: str
    needs: tuple[str, ...]
    question: tuple[str, ...]
    solution: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    told_by: Callable[[str], bool] | None = None


def _is_marked(text: str) -> bool:
    marked = behind_hashes(text)
    return bool(marked and marked[0])


GOLD = ("answer", "final_answer", "expected_answer", "ground_truth", "gold")
REASONING = ("cot", "chain_of_thought", "reasoning", "explanation", "thinking", "response", "generation", "output")
FORMATS: Sequence[Format] = (
    Format("OpenR1-Math", ("problem", "generations"), ("problem",), ("generations",), GOLD),
    Format("OpenMathInstruct", ("problem", "generated_solution"), ("problem",), ("generated_solution",), GOLD),
    Format("OpenMathInstruct", ("question", "generated_solution"), ("question",), ("generated_solution",), GOLD),
    Format("OpenThoughts", ("problem", "deepseek_solution"), ("problem",), ("deepseek_solution",), GOLD),
    Format("MATH and NuminaMath", ("problem", "solution"), ("problem",), ("solution",), GOLD),
    Format("question and solution", ("question", "solution"), ("question",), ("solution",), GOLD),
    Format("DeepMath", ("question", "final_answer", "r1_solution_1"), ("question",), ("r1_solution_1",), GOLD),
    Format("CoT Collection", ("source", "target", "rationale"), ("source",), ("rationale",), ("target",)),
    *(
        Format(f"question, {column} and answer", ("question", "answer", column), ("question",), (column,), GOLD)
        for column in REASONING
    ),
    Format("GSM8K", ("question", "answer"), ("question",), ("answer",), told_by=_is_marked),
    Format("OpenThoughts", ("conversations", "system"), ("conversations",), ("conversations",), GOLD),
    Format("ShareGPT", ("conversations",), ("conversations",), ("conversations",), GOLD),
    Format("ShareGPT", ("conversation",), ("conversation",), ("conversation",), GOLD),
    Format("chat messages", ("messages",), ("messages",), ("messages",), GOLD),
    Format("Alpaca", ("instruction", "output"), ("instruction", "input"), ("output",), GOLD),
    Format("Dolly", ("instruction", "response"), ("instruction", "context"), ("response",), GOLD),
    Format("MetaMathQA", ("query", "response"), ("query",), ("response",), GOLD),
    Format("prompt and completion", ("prompt", "completion"), ("prompt",), ("completion",), GOLD),
    Format("preference pairs", ("prompt", "chosen", "rejected"), ("prompt",), ("chosen",), GOLD),
    Format("prompt and response", ("prompt", "response"), ("prompt",), ("response",), GOLD),
    Format("question and response", ("question", "response"), ("question",), ("response",), GOLD),
    Format("input and target", ("input", "target"), ("input",), ("target",), GOLD),
    Format("input and output", ("input", "output"), ("input",), ("output",), GOLD),
    Format("ARC and CommonsenseQA", ("question", "choices", "answerKey"), ("question",), answer=("answerKey",)),
    Format("SVAMP", ("Body", "Question", "Answer"), ("Body", "Question"), answer=("Answer",)),
    Format("MultiArith", ("question", "final_ans"), ("question",), answer=("final_ans",)),
    Format("question and answer", ("question", "answer"), ("question",), answer=("answer",)),
    *(Format(f"{column} and answer", (column, "answer"), (column,), answer=GOLD) for column in ("problem", "prompt")),
)
"""The first that fits counts, so what tells more stands first."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a row stand in one file.

    Attributes:
        question: The columns of the question.
        answer: The column of the gold answer; None: it is read off the rationale's text.
        rationale: The column of the rationales.
        format: The format that was recognised; None where the file has our columns or those that the recipe names.
        solved: Whether the rationale's column holds solutions, which are taken apart, or rationales as they are.
    """

    question: tuple[str, ...]
    answer: str | None
    rationale: str
    format: Format | None = None
    solved: bool = False


def layout_of(cases: Sequence[Mapping[str, Any]], columns: ColumnsConfig, explained: bool) -> Layout:
    """Where question, gold and rationale stand.

    Args:
        cases: The first rows of a file.
        columns: The recipe's names.
        explained: Whether rationales are wanted.
    """
    present: Mapping[str, Any] = cases[0] if cases else {}
    one_text = columns.answer == columns.rationale  # the recipe says that one column holds both
    own = Layout((columns.question,), None if one_text else columns.answer, columns.rationale, solved=one_text)
    asked = columns.question in present and columns.answer in present
    if asked and not one_text and columns.rationale in present:
        return own
    all_names = dict.fromkeys(chain.from_iterable(cases))  # a row of JSON may leave out what is blank
    names = {name.casefold(): name for name in all_names} | {name: name for name in all_names}
    found = next((form for form in FORMATS if _fits(form, cases, names)), None)
    if found is None:
        return own
    layout = _overlaid(found, names, columns)
    solves = bool(found.told_by) or (bool(found.solution) and (explained or layout.answer is None))
    return layout if solves or not asked or one_text else own


def _fits(form: Format, cases: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> bool:
    if not all(_named(column, names) for column in form.needs):
        return False
    if form.told_by is None:
        return True
    cells = [case.get(_named(form.solution[0], names)) for case in cases]
    return 2 * sum(isinstance(cell, str) and form.told_by(cell) for cell in cells) >= len(cells)


def _overlaid(form: Format, names: Mapping[str, str], columns: ColumnsConfig) -> Layout:
    """A format's columns, and over them those that the recipe names or that have our names."""
    solutions, golds = (
        [name for column in wanted if (name := _named(column, names))] for wanted in (form.solution, form.answer)
    )
    question = [_named(column, names) or column for column in form.question]
    if columns.question != DEFAULTS.question:
        question = [columns.question]
    rationale = _named(columns.rationale, names) or columns.rationale
    if rationale not in names and rationale == DEFAULTS.rationale and solutions:
        rationale = solutions[0]
    gold = columns.answer if columns.answer != DEFAULTS.answer else next(iter(golds), None)
    gold = None if gold == rationale else gold
    return Layout(tuple(question), gold, rationale, form, solved=gold is None or rationale in solutions)


def _named(column: str, names: Mapping[str, str]) -> str:
    """A column as the file spells it; empty where it has none."""
    return names.get(column) or names.get(column.casefold(), "")
