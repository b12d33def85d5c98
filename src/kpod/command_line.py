"""The command line's verbs, their arguments, and their `--help` texts."""

import argparse
from pathlib import Path

import kpod

COLUMNS = ("id", "question", "answer", "rationale", "choices")
KEYS = (
    "Any recipe key can be set after a recipe: kpod run RECIPE.yaml --schedule.num_clusters 8. "
    "`kpod explain` lists the keys, and `kpod explain KEY` describes one."
)


def command_parser() -> argparse.ArgumentParser:
    """The parser of `kpod`; words that it does not know are recipe keys."""
    parser = argparse.ArgumentParser(
        "kpod",
        description="Keypoint-based progressive chain-of-thought distillation.",
        epilog=KEYS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kpod {kpod.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, does: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=does, description=does, epilog=KEYS, allow_abbrev=False)
        verb.add_argument("--traceback", action="store_true", help="show where an error came from")
        return verb

    def add_recipe(name: str, does: str) -> argparse.ArgumentParser:
        verb = add(name, does)
        verb.add_argument("recipe", type=Path, help="a recipe file, or a run folder")
        return verb

    add_recipe("run", "every phase in order, skipping what is done, and the report")
    rationales = add("rationales", "questions -> rationales from any teacher, filtered, and a report")
    rationales.add_argument(
        "recipe", type=Path, help="a recipe, a run folder, or a file of questions (with --teacher.ask.model NAME)"
    )
    rationales.add_argument("--output", type=Path, help="a JSONL file; by default in the run folder")
    rationales.add_argument(
        "--dry-run", action="store_true", help="ask nothing; estimate requests, tokens, hours and cost"
    )
    rationales.add_argument("--retry-failed", action="store_true", help="ask again for answers that cannot be used")
    weigh = add("weigh", "rationales -> the significance weight of every rationale token")
    what = weigh.add_mutually_exclusive_group(required=True)
    what.add_argument("recipe", type=Path, nargs="?", help="a recipe file, or a run folder")
    what.add_argument(
        "--apply", type=Path, metavar="RUN", help="weigh new rationales with the weigher that this run learnt"
    )
    weigh.add_argument("--input", type=Path, help="with --apply: a rationale file")
    weigh.add_argument("--output", type=Path, help="with --apply: a JSONL file; resumes after an interruption")
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
    compare.add_argument("--methods", type=words, required=True, metavar="A,B", help="rows of METHODS")
    sweep = add_recipe("sweep", "values of one recipe key -> the same tables")
    sweep.add_argument("values", metavar="KEY=V1,V2", help="such as schedule.initial_fraction=0.1,0.3,0.5")
    for grid in (compare, sweep):
        grid.add_argument("--seeds", type=numbers, default=[0], metavar="0,1,2")
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
    check = add("check", "which rows of a recipe's data or of a data file a run would use, and all errors")
    check.add_argument("target", type=Path, help="a recipe file, a run folder, or a question or rationale file")
    check.add_argument("--all", action="store_true", help="list every finding, not only the first 20 of each kind")
    check.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    explain = add("explain", "a recipe key -> what it does, what it may be, and its default")
    explain.add_argument(
        "key", nargs="?", default="", metavar="KEY", help="a key or a section; by default all sections"
    )
    add("schema", "the JSON schema of recipes, by which editors complete and check them")
    for column in COLUMNS:
        check.add_argument(f"--{column}", metavar="NAME", help=f"name of the {column} column")
    return parser


def words(text: str) -> list[str]:
    """A list that commas divide."""
    return [word.strip() for word in text.split(",")]


def numbers(text: str) -> list[int]:
    """Whole numbers that commas divide."""
    return [int(word) for word in words(text)]
