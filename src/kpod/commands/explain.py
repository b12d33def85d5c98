"""`kpod explain`: what a recipe key does, what it may be, its default, and what a change of it makes again."""

import argparse

from kpod.commands.terminal import say
from kpod.recipe import Recipe
from kpod.recipe.descriptions import explain
from kpod.records.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    parser.add_argument("key", nargs="?", default="", metavar="KEY", help="a key or a section; by default all sections")


def work(options: argparse.Namespace) -> None:
    """Print what is known of a key."""
    refuse_keys(options)
    say(explain(options.key))
    if options.key:
        say(remade(options.key))


def remade(key: str) -> str:
    """Which phases a change of a key makes again, under the default method."""
    from kpod.experiment.algorithm import PHASES
    from kpod.experiment.keys import touched
    from kpod.experiment.methods import METHODS

    method = Recipe().method
    read, sourced, following = touched(key, PHASES, METHODS[method])
    if not read and not sourced:
        return "No phase of a run reads it."
    if not read:
        again = ", ".join([*sourced, *following])
        return f"If a change leads to other {' or '.join(sourced)}, a run makes again: {again}."
    after = f"; and after that: {', '.join(following)}" if following else ""
    return f"If you change it, a run of the method {method} makes again: {', '.join([*read, *sourced])}{after}."


def refuse_keys(options: argparse.Namespace) -> None:
    """Raise ConfigError where recipe keys are set though the verb reads no recipe."""
    if options.overrides:
        raise ConfigError(f"unexpected argument {options.overrides[0]!r}")
