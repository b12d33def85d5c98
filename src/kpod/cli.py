"""The command line: arguments in, exit code out.

0 done, 1 a failure of the work, 2 a wrong command, recipe or file, 128 + its number where a signal ended it.
"""

import argparse
import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kpod.command_line import command_parser, words
from kpod.errors import ConfigError, DataError, KpodError, TrainingInterruptedError, require
from kpod.recipe import load_recipe

if TYPE_CHECKING:  # the work's imports take seconds; a wrong command or recipe is told at once
    from kpod.config import Recipe
    from kpod.grid import Grid
    from kpod.pipeline import Pipeline

QUESTION_FILES = {".jsonl", ".csv", ".parquet"}
Verb = Callable[["Recipe", argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = command_parser()
    options, overrides = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("httpx", "httpx2"):  # a line per request
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        alone = _check if options.verb == "check" else _apply if getattr(options, "apply", None) else None
        if alone:  # without a recipe, and so without overrides
            if overrides:
                raise ConfigError(f"unexpected argument {overrides[0]!r}")
            return alone(options)
        options.overrides = overrides
        VERBS[options.verb](_recipe(options), options)
    except KpodError as error:
        if options.traceback:
            raise
        print(f"kpod: {error}", file=sys.stderr)
        if isinstance(error, TrainingInterruptedError):
            return 128 + error.signal
        return 2 if isinstance(error, ConfigError | DataError) else 1
    except KeyboardInterrupt:
        if options.traceback:
            raise
        print("kpod: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def _recipe(options: argparse.Namespace) -> "Recipe":
    """The recipe that a command names; of a file of questions to explain, the default one on these questions."""
    if options.verb == "rationales" and options.recipe.suffix in QUESTION_FILES:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", options.recipe.stem)
        return load_recipe(None, ["--data.train", str(options.recipe), "--name", name, *options.overrides])
    return load_recipe(_recipe_file(options.recipe), options.overrides)


def _recipe_file(path: Path) -> Path:
    file = path / "recipe.yaml" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"there is no recipe {file}")
    return file


def _run(recipe: "Recipe", options: argparse.Namespace) -> None:  # noqa: ARG001
    pipeline = _pipeline(recipe)
    folder = pipeline.run().folder
    _print_report(pipeline)
    print(f"student: {folder / 'student'}")


def _rationales(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.explaining import estimate_recipe, explain
    from kpod.report.rationales import estimate_markdown, rationales_markdown

    if options.dry_run:
        print(estimate_markdown(**asdict(estimate_recipe(recipe, options.retry_failed))))
        return
    output = options.output or Path(recipe.runs) / recipe.name / "rationales.jsonl"
    print(rationales_markdown(explain(recipe, output, options.retry_failed)))
    print(f"rationales: {output}; what was dropped, and the report, beside it")


def _weigh(recipe: "Recipe", options: argparse.Namespace) -> None:
    if options.input or options.output:
        raise ConfigError("--input and --output belong to --apply RUN, not to a recipe")
    pipeline = _pipeline(recipe)
    _print_dropped(pipeline)
    num = sum(len(weights) for weights in pipeline.weights.loss.values())
    where = pipeline.folder.path / "weights" if pipeline.method.learns else f"{pipeline.recipe.method} learns none"
    print(f"{num} weights of {len(pipeline.tokens)} rationales: {where}")


def _apply(options: argparse.Namespace) -> int:
    if options.input is None or options.output is None:
        raise ConfigError("--apply needs --input FILE and --output FILE.jsonl")
    from kpod.annotation import annotate

    found = annotate(options.apply, options.input, options.output)
    for reason, num in found.dropped.items():
        print(f"dropped {num}: {reason}")
    print(f"{found.num_written} rationales with weights ({found.num_found} were there before): {options.output}")
    return 0


def _plan(recipe: "Recipe", options: argparse.Namespace) -> None:
    changed = None
    if options.what_if:
        overrides = [*options.overrides, *(f"--{change}" for change in options.what_if)]
        changed = load_recipe(_recipe_file(options.recipe), overrides)
    from kpod.planning import write_plan

    tables, page = write_plan(_pipeline(recipe), changed, ", ".join(options.what_if))
    print(f"{tables}\nfigures: {page}")


def _distill(recipe: "Recipe", options: argparse.Namespace) -> None:  # noqa: ARG001
    pipeline = _pipeline(recipe)
    summary = pipeline.distil()
    print(f"{summary.updates} updates, final loss {summary.final_loss:.4f} nats per token")
    print(f"student: {pipeline.folder.path / 'student'}")


def _evaluate(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.data.datasets import load_questions
    from kpod.evaluation.accuracy import by_steps, summarise
    from kpod.evaluation.given import judge_file
    from kpod.report.tables import accuracy_markdown, steps_markdown

    require(bool(recipe.data.tests), "data.tests", [], "at least one test set")
    if options.predictions:
        test = recipe.data.tests[0]
        found = {test: judge_file(options.predictions, load_questions(test, recipe.data), recipe.data.answer_words)}
    else:
        pipeline = _pipeline(recipe)
        when = _name_of(options.checkpoint) if options.checkpoint else "after"
        found = {test: pipeline.evaluation(when, test)[0] for test in pipeline.evaluate(when, options.checkpoint)}
    print(accuracy_markdown([(None, summarise(test, predictions)) for test, predictions in found.items()]))
    for test, predictions in found.items():
        print(steps_markdown(test, by_steps(predictions)))


def _name_of(checkpoint: str) -> str:
    """What the evaluation of a checkpoint is kept under: its folder's name, and a hash of the whole path."""
    from kpod.artifacts import key_of

    path = Path(checkpoint)
    return f"of-{path.resolve().name}-{key_of(str(path.resolve()) if path.exists() else checkpoint)[:6]}"


def _export_task(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.exporting import export_tasks

    for name, num in export_tasks(_pipeline(recipe), options.output).items():
        print(f"{name}: {num} questions, {options.output / name}.yaml")


def _compare(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.comparison import compare, warn_of_unfinished, write_tables

    grid = grid_of(recipe, options)
    if options.tables:
        grid = grid.with_matched_tokens(options.match_tokens) if options.match_tokens else grid
        warn_of_unfinished(grid)
        print(write_tables(grid))
    else:
        print(compare(grid, options.jobs, options.match_tokens))
    print(f"tables and figures: {grid.folder / 'comparison.md'}, .json and .html")


def grid_of(recipe: "Recipe", options: argparse.Namespace) -> "Grid":
    """The runs of `kpod compare` (a recipe under several methods) or `kpod sweep` (under several values of a key)."""
    from kpod.grid import Grid

    runs = Path(recipe.runs)
    if options.verb == "compare":
        methods = {method: replace(recipe, method=method) for method in options.methods}
        return Grid.of(methods, options.seeds, runs / f"{recipe.name}-compare", options.base)
    key, _, values = options.values.partition("=")
    file, last = _recipe_file(options.recipe), key.rpartition(".")[2]
    variants = {
        f"{last}={value}": load_recipe(file, [*options.overrides, f"--{key}={value}"]) for value in words(values)
    }
    return Grid.of(variants, options.seeds, runs / f"{recipe.name}-sweep-{key}", options.base, swept=key)


def _report(recipe: "Recipe", options: argparse.Namespace) -> None:  # noqa: ARG001
    _print_report(_pipeline(recipe))


def _print_report(pipeline: "Pipeline") -> None:
    from kpod.lm.processes import is_first_process
    from kpod.report.tables import accuracy_markdown
    from kpod.reporting import accuracies, write_report

    if is_first_process():
        page = write_report(pipeline)
        print(accuracy_markdown(accuracies(pipeline)))
        print(f"report: {page}")


def _inspect(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.inspection import inspect_example, table

    heading, rows = inspect_example(_pipeline(recipe), options.id, options.stage, options.given)
    print(heading)
    print(table(rows))


def _pipeline(recipe: "Recipe") -> "Pipeline":
    from kpod.pipeline import Pipeline

    return Pipeline(recipe)


def _print_dropped(pipeline: "Pipeline") -> None:
    for dropped in pipeline.dropped:
        print(f"dropped {dropped.id}: {dropped.reason}")


def _check(options: argparse.Namespace) -> int:
    from kpod.config import ColumnsConfig
    from kpod.data.reader import check_file
    from kpod.report.tables import visible

    columns = ColumnsConfig(options.id, options.question, options.answer, options.rationale, options.choices)
    findings = check_file(options.file, columns)
    for finding in findings:
        whose = f" id {finding.id!r}:" if finding.id else ""
        print(visible(f"{options.file}:{finding.line}: {finding.severity}:{whose} {finding.message}"))
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{options.file}: {errors} errors, {len(findings) - errors} warnings")
    return 2 if errors else 0


VERBS: dict[str, Verb] = {
    "run": _run,
    "rationales": _rationales,
    "weigh": _weigh,
    "plan": _plan,
    "distill": _distill,
    "evaluate": _evaluate,
    "export-task": _export_task,
    "compare": _compare,
    "sweep": _compare,
    "report": _report,
    "inspect": _inspect,
}
