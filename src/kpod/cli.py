"""The command line: arguments in, exit code out.

0 done, 1 a failure of the work, 2 a wrong command, recipe or file, 128 + its number where a signal ended it.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import kpod
from kpod.command_line import COLUMNS, command_parser, words
from kpod.data.rows import SUFFIXES, suffix_of
from kpod.errors import ConfigError, DataError, KpodError, TrainingInterruptedError, require
from kpod.terminal import READER_GONE, ReaderGoneError, flush, log_to_terminal, print_anything, say

if TYPE_CHECKING:  # the work's imports take seconds; a wrong command or recipe is told at once
    from kpod.checking import Checked
    from kpod.config import Recipe
    from kpod.grid import Grid
    from kpod.pipeline import Pipeline

RECIPE_FILES = {".yaml", ".yml"}
Verb = Callable[["Recipe", argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    print_anything()
    options, overrides = command_parser().parse_known_args(arguments)
    log_to_terminal()
    try:
        code = _command(options, overrides)
        flush()
    except ReaderGoneError:
        return READER_GONE
    return code


def _command(options: argparse.Namespace, overrides: list[str]) -> int:
    try:
        alone = ALONE.get(options.verb) if getattr(options, "apply", True) else None
        options.overrides = overrides
        if alone is not None:
            return alone(options)
        VERBS[options.verb](_recipe(options), options)
    except KpodError as error:
        if options.traceback:
            raise
        say(f"kpod: {error}", error=True)
        if isinstance(error, TrainingInterruptedError):
            return 128 + error.signal
        return 2 if isinstance(error, ConfigError | DataError) else 1
    except OSError as error:  # a full disk, a folder that may not be read
        if options.traceback:
            raise
        say(f"kpod: {error} (--traceback shows where)", error=True)
        return 1
    except KeyboardInterrupt:
        if options.traceback:
            raise
        say("kpod: interrupted; run the same command again to resume", error=True)
        return 130
    return 0


def _recipe(options: argparse.Namespace) -> "Recipe":
    """The recipe that a command names; of a file of questions to explain, the default one on these questions."""
    if options.verb == "rationales" and suffix_of(options.recipe) in SUFFIXES:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", options.recipe.stem)
        return kpod.load_recipe(None, ["--data.train", str(options.recipe), "--name", name, *options.overrides])
    return kpod.load_recipe(_recipe_file(options.recipe), options.overrides)


def _recipe_file(path: Path) -> Path:
    file = path / "recipe.yaml" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"there is no recipe {file}")
    return file


def _run(recipe: "Recipe", options: argparse.Namespace) -> None:  # noqa: ARG001
    pipeline = _pipeline(recipe)
    folder = pipeline.run().folder
    _print_report(pipeline)
    say(f"student: {folder / 'student'}")


def _rationales(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.explaining import estimate_recipe, explain
    from kpod.report.rationales import estimate_markdown, rationales_markdown

    if options.dry_run:
        say(estimate_markdown(**asdict(estimate_recipe(recipe, options.retry_failed))))
        return
    output = options.output or Path(recipe.runs) / recipe.name / "rationales.jsonl"
    say(rationales_markdown(explain(recipe, output, options.retry_failed)))
    say(f"rationales: {output}; what was dropped, and the report, beside it")


def _weigh(recipe: "Recipe", options: argparse.Namespace) -> None:
    if options.input or options.output:
        raise ConfigError("--input and --output belong to --apply RUN, not to a recipe")
    pipeline = _pipeline(recipe)
    pipeline.announce("train")
    num = sum(len(weights) for weights in pipeline.weights.loss.values())
    where = pipeline.folder.path / "weights" if pipeline.method.learns else f"{pipeline.recipe.method} learns none"
    say(f"{num} weights of {len(pipeline.tokens)} rationales: {where}")


def _schema(options: argparse.Namespace) -> int:
    _refuse_keys(options)
    from kpod.config.schema import recipe_schema

    say(json.dumps(recipe_schema(), indent=2))
    return 0


def _explain(options: argparse.Namespace) -> int:
    _refuse_keys(options)
    from kpod.config.schema import explain

    say(explain(options.key))
    return 0


def _refuse_keys(options: argparse.Namespace) -> None:
    if options.overrides:
        raise ConfigError(f"unexpected argument {options.overrides[0]!r}")


def _apply(options: argparse.Namespace) -> int:
    _refuse_keys(options)
    if options.input is None or options.output is None:
        raise ConfigError("--apply needs --input FILE and --output FILE.jsonl")
    from kpod.annotation import annotate

    found = annotate(options.apply, options.input, options.output)
    for reason, num in found.dropped.items():
        say(f"dropped {num}: {reason}")
    say(f"{found.num_written} rationales with weights ({found.num_found} were there before): {options.output}")
    return 0


def _plan(recipe: "Recipe", options: argparse.Namespace) -> None:
    changed = None
    if options.what_if:
        overrides = [*options.overrides, *(f"--{change}" for change in options.what_if)]
        changed = kpod.load_recipe(_recipe_file(options.recipe), overrides)
    from kpod.planning import write_plan

    pipeline = _pipeline(recipe)
    pipeline.announce("train")
    tables, page = write_plan(pipeline, changed, ", ".join(options.what_if))
    say(f"{tables}\nfigures: {page}")


def _distill(recipe: "Recipe", options: argparse.Namespace) -> None:  # noqa: ARG001
    pipeline = _pipeline(recipe)
    pipeline.announce("train", "validation")
    summary = pipeline.distil()
    say(f"{summary.updates} updates, final loss {summary.final_loss:.4f} nats per token")
    say(f"student: {pipeline.folder.path / 'student'}")


def _evaluate(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.data.datasets import load_questions
    from kpod.evaluation.accuracy import by_steps, summarise
    from kpod.evaluation.given import judge_file
    from kpod.preflight import announce_tests
    from kpod.report.tables import accuracy_markdown, steps_markdown

    require(bool(recipe.data.tests), "data.tests", [], "at least one test set")
    if options.predictions:
        test, *others = recipe.data.tests
        announce_tests(recipe, [test])
        if others:
            say(f"the predictions are of {test}; not evaluated: {', '.join(others)}", error=True)
        questions = load_questions(test, recipe.data)
        found = {test: judge_file(options.predictions, questions, recipe.data.answer_words)}
    else:
        pipeline = _pipeline(recipe)
        announce_tests(recipe, recipe.data.tests)
        when = _name_of(options.checkpoint) if options.checkpoint else "after"
        found = {test: pipeline.evaluation(when, test)[0] for test in pipeline.evaluate(when, options.checkpoint)}
    say(accuracy_markdown([(None, summarise(test, predictions)) for test, predictions in found.items()]))
    for test, predictions in found.items():
        say(steps_markdown(test, by_steps(predictions)))


def _name_of(checkpoint: str) -> str:
    """What the evaluation of a checkpoint is kept under: its folder's name, and a hash of the whole path."""
    from kpod.artifacts import key_of

    path = Path(checkpoint)
    return f"of-{path.resolve().name}-{key_of(str(path.resolve()) if path.exists() else checkpoint)[:6]}"


def _export_task(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.exporting import export_tasks
    from kpod.preflight import announce_tests

    announce_tests(recipe, recipe.data.tests)
    for name, num in export_tasks(_pipeline(recipe), options.output).items():
        say(f"{name}: {num} questions, {options.output / name}.yaml")


def _compare(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.comparison import compare, warn_of_unfinished, write_tables

    grid = grid_of(recipe, options)
    if options.tables:
        grid = grid.with_matched_tokens(options.match_tokens) if options.match_tokens else grid
        warn_of_unfinished(grid)
        say(write_tables(grid))
    else:
        say(compare(grid, options.jobs, options.match_tokens))
    say(f"tables and figures: {grid.folder / 'comparison.md'}, .json and .html")


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
        f"{last}={value}": kpod.load_recipe(file, [*options.overrides, f"--{key}={value}"]) for value in words(values)
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
        say(accuracy_markdown(accuracies(pipeline)))
        say(f"report: {page}")


def _inspect(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.inspection import inspect_example, table

    heading, rows = inspect_example(_pipeline(recipe), options.id, options.stage, options.given)
    say(heading)
    say(table(rows))


def _pipeline(recipe: "Recipe") -> "Pipeline":
    from kpod.pipeline import Pipeline

    return Pipeline(recipe)


def _check(options: argparse.Namespace) -> int:
    from kpod.checking import Checked, json_of, text_of

    named = [word for column in COLUMNS for word in _column_words(options, column)]
    try:
        checked = _checked(options, [*named, *options.overrides])
    except KpodError as error:
        if options.traceback or not options.json:
            raise
        checked = Checked(str(options.target), errors=(str(error),))
    if options.json:
        say(json.dumps(json_of(checked)).replace("\x7f", "\\u007f"))  # printable ASCII alone
    else:
        say(text_of(checked, options.all))
    return 2 if checked.failed else 0


def _checked(options: argparse.Namespace, overrides: list[str]) -> "Checked":
    if options.target.suffix.lower() in RECIPE_FILES or options.target.is_dir():
        recipe = kpod.load_recipe(_recipe_file(options.target), overrides)
        from kpod.rehearsal import rehearse

        return rehearse(recipe, str(options.target))
    from kpod.checking import check_data

    return check_data(options.target, kpod.load_recipe(None, overrides))


def _column_words(options: argparse.Namespace, column: str) -> list[str]:
    name = getattr(options, column)
    return [] if name is None else [f"--data.columns.{column}", name]


ALONE: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": _check,
    "weigh": _apply,
    "schema": _schema,
    "explain": _explain,
}
"""What reads no recipe, or reads it in its own way; `kpod weigh` only with --apply."""

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
