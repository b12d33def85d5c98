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
    again = f"what follows from that: {', '.join(following)}" if following else "nothing else"
    if not read:
        return f"Where it changes what is read as {' and '.join(sourced)}, it remakes that, and {again}."
    return f"Changing it remakes, under method {method}: {', '.join([*read, *sourced])}; and {again}."


def refuse_keys(options: argparse.Namespace) -> None:
    """Raise ConfigError where recipe keys are set though the verb reads no recipe."""
    if options.overrides:
        raise ConfigError(f"unexpected argument {options.overrides[0]!r}")
