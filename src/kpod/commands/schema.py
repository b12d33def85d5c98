"""`kpod schema`: the JSON schema of recipes."""

import argparse
import json

from kpod.commands.explain import refuse_keys
from kpod.commands.terminal import say
from kpod.recipe.descriptions import recipe_schema


def add_arguments(_: argparse.ArgumentParser) -> None:
    """It has none."""


def work(options: argparse.Namespace) -> None:
    """Print it."""
    refuse_keys(options)
    say(json.dumps(recipe_schema(), indent=2))
