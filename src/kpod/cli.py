"""The command line: arguments in, exit code out.

0 done, 1 a failure of the work, 2 a wrong command, recipe or file, 128 + its number where a signal ended it.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import kpod
from kpod.errors import ConfigError, DataError, KpodError, TrainingInterruptedError
from kpod.recipe import load_recipe

if TYPE_CHECKING:  # the work's imports take seconds; a wrong command or recipe is told at once
    from kpod.config import Recipe
    from kpod.pipeline import Pipeline

Verb = Callable[["Recipe", argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        alone = _check if options.verb == "check" else _apply if getattr(options, "apply", None) else None
        if alone:  # without a recipe, and so without overrides
            if overrides:
                raise ConfigError(f"unexpected argument {overrides[0]!r}")
            return alone(options)
        options.overrides = overrides
        VERBS[options.verb](load_recipe(_recipe_file(options.recipe), overrides), options)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "kpod",
        description="Keypoint-based progressive chain-of-thought distillation.",
        epilog="Any recipe key can be set behind a recipe: kpod run RECIPE.yaml --schedule.num_clusters 8",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kpod {kpod.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, does: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=does, description=does, allow_abbrev=False)
        verb.add_argument("--traceback", action="store_true", help="show where an error came from")
        return verb

    def add_recipe(name: str, does: str) -> argparse.ArgumentParser:
        verb = add(name, does)
        verb.add_argument("recipe", type=Path, help="a recipe file, or a run folder")
        return verb

    add_recipe("run", "every phase in order, skipping what is done, and the report")
    weigh = add("weigh", "rationales -> the significance weight of every rationale token")
    what = weigh.add_mutually_exclusive_group(required=True)
    what.add_argument("recipe", type=Path, nargs="?", help="a recipe file, or a run folder")
    what.add_argument("--apply", type=Path, metavar="RUN", help="weigh new rationales by what this run has learnt")
    weigh.add_argument("--input", type=Path, help="with --apply: a rationale file")
    weigh.add_argument("--output", type=Path, help="with --apply: a JSONL file; goes on where it was stopped")
    plan = add_recipe("plan", "weights -> step difficulties, clusters and the schedule")
    plan.add_argument(
        "--what-if", action="append", default=[], metavar="KEY=VALUE", help="compare with another schedule, untrained"
    )
    add_recipe("distill", "schedule -> the student")
    evaluate = add_recipe("evaluate", "student and questions -> predictions and accuracy")
    whose = evaluate.add_mutually_exclusive_group()
    whose.add_argument("--checkpoint", help="a model folder or name instead of the run's student")
    whose.add_argument("--predictions", type=Path, help="a file of texts from elsewhere, for the first test set")
    export = add_recipe("export-task", "test sets -> tasks of lm-evaluation-harness, judged by kpod")
    export.add_argument("--output", type=Path, required=True, help="a folder for YAML, rows and judge")
    compare = add_recipe("compare", "methods and seeds of one recipe -> tables with intervals, from runs side by side")
    compare.add_argument("--methods", type=_words, required=True, metavar="A,B", help="rows of METHODS")
    sweep = add_recipe("sweep", "values of one recipe key -> the same tables")
    sweep.add_argument("values", metavar="KEY=V1,V2", help="such as schedule.initial_fraction=0.1,0.3,0.5")
    for grid in (compare, sweep):
        grid.add_argument("--seeds", type=_numbers, default=[0], metavar="0,1,2")
        grid.add_argument("--base", help="what the others are compared with; by default the first")
        grid.add_argument(
            "--match-tokens", metavar="NAME", help="the base once more, with as many trained tokens as this"
        )
        what = grid.add_mutually_exclusive_group()
        what.add_argument("--jobs", type=int, default=1, help="runs at a time")
        what.add_argument("--tables", action="store_true", help="run nothing; tables of the saved predictions")
    add_recipe("report", "a run folder -> one HTML page")
    inspect = add_recipe("inspect", "one example as the student sees it at a stage, token by token")
    inspect.add_argument("--id", required=True, help="the rationale's id")
    which = inspect.add_mutually_exclusive_group()
    which.add_argument("--stage", type=int, help="a stage of the schedule")
    which.add_argument("--given", type=int, help="a number of given steps")
    check = add("check", "a data or rationale file: everything that is wrong with it, by line and id")
    check.add_argument("file", type=Path)
    for column in ("id", "question", "answer", "rationale", "choices"):
        check.add_argument(f"--{column}", default=column, help=f"name of the {column} column")
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


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
        words = [*options.overrides, *(f"--{change}" for change in options.what_if)]
        changed = load_recipe(_recipe_file(options.recipe), words)
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

    if options.predictions:
        test = recipe.data.tests[0]
        found = {test: judge_file(options.predictions, load_questions(test, recipe.data))}
    else:
        pipeline = _pipeline(recipe)
        when = f"of-{Path(options.checkpoint).resolve().name}" if options.checkpoint else "after"
        found = {test: pipeline.evaluation(when, test)[0] for test in pipeline.evaluate(when, options.checkpoint)}
    print(accuracy_markdown([(None, summarise(test, predictions)) for test, predictions in found.items()]))
    for test, predictions in found.items():
        print(steps_markdown(test, by_steps(predictions)))


def _export_task(recipe: "Recipe", options: argparse.Namespace) -> None:
    from kpod.exporting import export_tasks

    for name, num in export_tasks(_pipeline(recipe), options.output).items():
        print(f"{name}: {num} questions, {options.output / name}.yaml")


def _compare(recipe: "Recipe", options: argparse.Namespace) -> None:
    _print_comparison(
        {method: replace(recipe, method=method) for method in options.methods}, recipe, options, "compare"
    )


def _sweep(recipe: "Recipe", options: argparse.Namespace) -> None:
    key, _, values = options.values.partition("=")
    file, last = _recipe_file(options.recipe), key.rpartition(".")[2]
    variants = {
        f"{last}={value}": load_recipe(file, [*options.overrides, f"--{key}={value}"]) for value in _words(values)
    }
    _print_comparison(variants, recipe, options, f"sweep-{last}")


def _print_comparison(
    variants: "dict[str, Recipe]", recipe: "Recipe", options: argparse.Namespace, suffix: str
) -> None:
    from kpod.comparison import Grid, compare, write_tables

    grid = Grid.of(variants, options.seeds, Path(recipe.runs) / f"{recipe.name}-{suffix}", options.base)
    if options.tables:
        print(write_tables(grid.with_matched_tokens(options.match_tokens) if options.match_tokens else grid))
    else:
        print(compare(grid, options.jobs, options.match_tokens))
    print(f"tables and figures: {grid.folder / 'comparison.md'}, comparison.json")


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
    "weigh": _weigh,
    "plan": _plan,
    "distill": _distill,
    "evaluate": _evaluate,
    "export-task": _export_task,
    "compare": _compare,
    "sweep": _sweep,
    "report": _report,
    "inspect": _inspect,
}
