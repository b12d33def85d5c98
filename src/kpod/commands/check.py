"""`kpod check`: all errors in a data file, and which rows a run would use; of a recipe, by `rehearsal`.

A file is checked without torch.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kpod.commands.checked import Checked
from kpod.commands.recipe_argument import recipe_file
from kpod.commands.terminal import say
from kpod.data.findings import Finding, Row
from kpod.data.reader import check_file, read_file
from kpod.data.rows import rows_of
from kpod.evaluation.read_back import unread_questions
from kpod.experiment.forecast import Forecast, SourceUse
from kpod.experiment.forecast_table import forecast_text
from kpod.experiment.preflight import questions_use, training_use
from kpod.recipe import Recipe
from kpod.recipe.loading import load_recipe
from kpod.records import Question
from kpod.records.errors import DataError, KpodError
from kpod.teacher.gathering import recorded

SHOWN_FINDINGS = 20
"""Of each kind; the others are counted."""
LONGEST_GOLD = 60
COLUMNS = ("id", "question", "answer", "rationale", "choices")
RECIPE_FILES = {".yaml", ".yml"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    parser.add_argument("target", type=Path, help="a recipe file, a run folder, or a question or rationale file")
    parser.add_argument("--all", action="store_true", help="list every finding, not only the first 20 of each kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    for column in COLUMNS:
        parser.add_argument(f"--{column}", metavar="NAME", help=f"name of the {column} column")


def work(options: argparse.Namespace) -> int:
    """Print what a check finds; the exit code says whether a run would fail."""
    named = [word for column in COLUMNS for word in _column_words(options, column)]
    try:
        checked = _checked(options.target, [*named, *options.overrides])
    except KpodError as error:
        if options.traceback or not options.json:
            raise
        checked = Checked(str(options.target), errors=(str(error),))
    if options.json:
        say(json.dumps(json_of(checked)).replace("\x7f", "\\u007f"))  # printable ASCII alone
    else:
        say(text_of(checked, options.all))
    return 2 if checked.failed else 0


def _checked(target: Path, overrides: list[str]) -> Checked:
    if target.suffix.lower() not in RECIPE_FILES and not target.is_dir():
        return check_data(target, load_recipe(None, overrides))
    recipe = load_recipe(recipe_file(target), overrides)
    from kpod.commands.rehearsal import rehearse  # takes seconds; a wrong recipe is told at once

    return rehearse(recipe, str(target))


def _column_words(options: argparse.Namespace, column: str) -> list[str]:
    name = getattr(options, column)
    return [] if name is None else [f"--data.columns.{column}", name]


def check_data(path: Path, recipe: Recipe) -> Checked:
    """Check a question or rationale file by itself, and forecast what a recipe would train on if it named the file.

    Args:
        path: A data file.
        recipe: Its `data.columns`, `data.prompt` and `teacher` apply.

    Raises:
        DataError: If there is no such file, or its suffix is not a data file's.
    """
    findings = tuple(check_file(path, recipe.data.columns))
    if any(finding.severity == "error" for finding in findings):
        return Checked(str(path), findings=findings)
    recipe = replace(
        recipe,
        data=replace(recipe.data, train=str(path), tests=(str(path),)),
        teacher=replace(recipe.teacher, ask=None, rationales=None),
    )
    use, questions = _use_of(path, recipe)
    unread = [] if use.closing else unread_questions(questions.values(), recipe.data)
    lines = _lines(path, recipe) if unread else {}
    ids: dict[str, str] = {}
    for row, question in questions.items():
        ids.setdefault(question.id, row)
    found = (
        Finding(lines.get(ids[question.id], 0), question.id, _never_right(question), "warning") for question in unread
    )
    findings = tuple(sorted((*findings, *found), key=lambda finding: finding.line))
    return Checked(str(path), Forecast((use,)), findings)


def text_of(checked: Checked, every: bool = False) -> str:
    """A check for a terminal.

    Args:
        checked: What was found.
        every: List every finding, not only the first ones of each kind.
    """
    lines = [*_finding_lines(checked, every)]
    if checked.forecast.sources:
        lines.append(forecast_text(checked.forecast))
    lines += [f"WARNING: {warning}" for warning in checked.all_warnings]
    lines += [f"ERROR: {error}" for error in checked.all_errors]
    of_lines = Counter(finding.severity for finding in checked.findings)
    num_errors = of_lines["error"] + len(checked.all_errors)
    num_warnings = of_lines["warning"] + len(checked.all_warnings)
    return "\n".join([*lines, f"{checked.target}: {num_errors} errors, {num_warnings} warnings"])


def json_of(checked: Checked) -> dict[str, Any]:
    """A check in plain types for `json.dumps`, as docs/check.md describes it."""
    return {
        "target": checked.target,
        "ok": not checked.failed,
        "errors": list(checked.all_errors),
        "warnings": list(checked.all_warnings),
        "sources": checked.forecast.to_json(),
        "findings": [asdict(finding) for finding in checked.findings],
    }


def _use_of(path: Path, recipe: Recipe) -> tuple[SourceUse, Mapping[str, Question]]:
    """What would be used of a file, and its questions by the ids of their rows."""
    try:
        gathered = recorded(recipe.data, recipe.teacher, Path(recipe.runs))
    except DataError:  # no rationales: a file of questions
        use = questions_use(recipe, "questions", str(path), None)
        use = replace(use, notes=(*use.notes, _without_rationales(path, recipe.data.columns.rationale)))
        read = read_file(path, recipe.data.columns, explained=False)
        return use, {entry.id: entry.question for entry in read.entries}
    return training_use(recipe, gathered), {rationale.id: rationale.question for rationale in gathered.found}


def _without_rationales(path: Path, column: str) -> str:
    columns = next(", ".join(row.values) for row in rows_of(path) if isinstance(row, Row))
    return f"read as a file of questions: there are no rationales in a column {column!r} (columns: {columns})"


def _lines(path: Path, recipe: Recipe) -> Mapping[str, int]:
    entries = read_file(path, recipe.data.columns, explained=False).entries
    return {entry.id: entry.line for entry in entries}


def _never_right(question: Question) -> str:
    gold = question.answer if len(question.answer) <= LONGEST_GOLD else f"{question.answer[:LONGEST_GOLD]}…"
    return f"gold answer {gold!r} cannot be read back after data.prompt.closing: this question is never judged right"


def _finding_lines(checked: Checked, every: bool) -> Iterator[str]:
    shown: Counter[str] = Counter()
    for finding in checked.findings:
        kind = _kind(finding)
        shown[kind] += 1
        if every or shown[kind] <= SHOWN_FINDINGS:
            whose = f" id {finding.id!r}:" if finding.id else ""
            yield f"{checked.target}:{finding.line}: {finding.severity}:{whose} {finding.message}"
    for kind, number in shown.items():
        if not every and number > SHOWN_FINDINGS:
            yield f"{checked.target}: ... and {number - SHOWN_FINDINGS:,} more of the kind '{kind} ...' (all: --all)"


def _kind(finding: Finding) -> str:
    """What findings of one kind have in common: the words before the first quotation or number."""
    words = finding.message
    ends = [at for at, char in enumerate(words[:LONGEST_GOLD]) if char in "'\":" or char.isdigit()]
    return f"{finding.severity}: {words[: ends[0] if ends else LONGEST_GOLD].strip()}"
