"""`kpod sweep`: values of one recipe key to the tables of `kpod compare`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kpod.commands.compare import add_grid, run_grid
from kpod.commands.recipe_argument import add_recipe, recipe_of, words

if TYPE_CHECKING:
    from kpod.commands.grid.variants import Grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    add_recipe(parser)
    parser.add_argument("values", metavar="KEY=V1,V2", help="such as schedule.initial_fraction=0.1,0.3,0.5")
    add_grid(parser)


def work(options: argparse.Namespace) -> None:
    """Run the recipe under several values of a key, and print the tables."""
    run_grid(grid_of(options), options)


def grid_of(options: argparse.Namespace) -> "Grid":
    """The runs of a recipe under several values of a key."""
    recipe = recipe_of(options)
    key, _, values = options.values.partition("=")
    last = key.rpartition(".")[2]
    variants = {f"{last}={value}": recipe_of(options, f"--{key}={value}") for value in words(values)}
    from kpod.commands.grid.variants import Grid  # takes seconds; a wrong recipe is told at once

    folder = Path(recipe.runs) / f"{recipe.name}-sweep-{key}"
    return Grid.of(variants, options.seeds, folder, options.base, swept=key)
