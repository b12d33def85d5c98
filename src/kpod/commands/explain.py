"""`kpod explain`: what a recipe key does, what it may be, and its default."""

import argparse

from kpod.commands.terminal import say
from kpod.recipe.descriptions import explain
from kpod.records.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    parser.add_argument("key", nargs="?", default="", metavar="KEY", help="a key or a section; by default all sections")


def work(options: argparse.Namespace) -> None:
    """Print what is known of a key."""
    refuse_keys(options)
    say(explain(options.key))


def refuse_keys(options: argparse.Namespace) -> None:
    """Raise ConfigError where recipe keys are set though the verb reads no recipe."""
    if options.overrides:
        raise ConfigError(f"unexpected argument {options.overrides[0]!r}")
