"""The command line: arguments in, exit code out. Every verb has a module of its name, with its arguments and its work.

0 done, 1 a failure of the work, 2 a wrong command, recipe or file, 128 + its number where a signal ended it.
"""

import argparse
import sys
from collections.abc import Container, Sequence
from importlib import import_module
from types import ModuleType

import kpod
from kpod.commands.terminal import READER_GONE, ReaderGoneError, flush, log_to_terminal, print_anything, say
from kpod.records.errors import ConfigError, DataError, KpodError, TrainingInterruptedError

VERBS = {
    "run": "runs every phase that is not done, then writes the report",
    "rationales": "asks a teacher for rationales of your questions, and filters them",
    "weigh": "learns the significance weight of every rationale token",
    "plan": "finds step difficulties, clusters and the schedule",
    "distill": "trains the student",
    "evaluate": "answers the test questions and measures accuracy",
    "export-task": "writes test sets as tasks of lm-evaluation-harness",
    "compare": "runs several methods and seeds of one recipe, and compares them",
    "sweep": "runs several values of one recipe key, and compares them",
    "report": "writes a run, or two beside one another, as one HTML page",
    "push": "uploads a run's student to the Hugging Face Hub, with a model card",
    "inspect": "shows one example token by token, as the student sees it at a stage",
    "check": "says which rows of a recipe's data or of a file a run would use, and lists all errors",
    "explain": "says what a recipe key does, what its default is, and what a change makes again",
    "schema": "prints the JSON Schema of recipes, with which editors complete and check them",
    "completion": "prints a script with which bash, zsh or tcsh completes commands, files and recipe keys",
}
"""What each command does. Its module is imported when it is named, so `kpod --help` waits for none."""

KEYS = (
    "You can set any recipe key after a recipe: kpod run RECIPE.yaml --schedule.num_clusters 8. "
    "`kpod explain` lists the keys. `kpod explain KEY` describes one."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    print_anything()
    options = parsed(sys.argv[1:] if arguments is None else arguments)
    log_to_terminal()
    try:
        code = _command(options)
        flush()
    except ReaderGoneError:
        return READER_GONE
    return code


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command; words that its parser does not know are recipe keys, in `overrides`."""
    options, overrides = parser_with(words).parse_known_args(words)
    options.overrides = overrides
    return options


def parser_with(named: Container[str]) -> argparse.ArgumentParser:
    """The parser of all verbs; those that are named get their arguments, for which their modules are imported."""
    parser = argparse.ArgumentParser(
        "kpod",
        description="Keypoint-based progressive chain-of-thought distillation.",
        epilog=KEYS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kpod {kpod.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for name, does in VERBS.items():
        verb = verbs.add_parser(name, help=does, description=does, epilog=KEYS, allow_abbrev=False)
        verb.add_argument("--traceback", action="store_true", help="show where an error came from")
        if name in named:
            _module(name).add_arguments(verb)
    return parser


def _module(verb: str) -> ModuleType:
    return import_module(f"kpod.commands.{verb.replace('-', '_')}")


def _command(options: argparse.Namespace) -> int:
    try:
        code: int | None = _module(options.verb).work(options)
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
    return code or 0
