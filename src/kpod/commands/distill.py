"""`kpod distill`: a schedule to the student."""

import argparse

from kpod.commands.recipe_argument import add_recipe, recipe_of
from kpod.commands.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    add_recipe(parser)


def work(options: argparse.Namespace) -> None:
    """Train the student."""
    recipe = recipe_of(options)
    from kpod.experiment.pipeline import Pipeline  # takes seconds; a wrong recipe is told at once

    pipeline = Pipeline(recipe)
    pipeline.announce("train", "validation")
    summary = pipeline.distil()
    say(f"{summary.updates} updates, final loss {summary.final_loss:.4f} nats per token")
    say(f"student: {pipeline.folder.path / 'student'}")
