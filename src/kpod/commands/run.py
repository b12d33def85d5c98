"""`kpod run`: every phase in order, and the report."""

import argparse

from kpod.commands.recipe_argument import add_recipe, recipe_of
from kpod.commands.report import print_report
from kpod.commands.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    add_recipe(parser)


def work(options: argparse.Namespace) -> None:
    """Run the recipe to its end."""
    recipe = recipe_of(options)
    from kpod.experiment.pipeline import Pipeline  # takes seconds; a wrong recipe is told at once

    pipeline = Pipeline(recipe)
    folder = pipeline.run().folder
    print_report(pipeline)
    say(f"student: {folder / 'student'}")
