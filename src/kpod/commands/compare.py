"""`kpod compare`: methods and seeds of one recipe to tables with intervals, from runs side by side."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kpod.commands.recipe_argument import add_recipe, numbers, recipe_of, words
from kpod.commands.terminal import say

if TYPE_CHECKING:
    from kpod.commands.grid.variants import Grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    add_recipe(parser)
    parser.add_argument("--methods", type=words, required=True, metavar="A,B", help="rows of METHODS")
    add_grid(parser)


def add_grid(parser: argparse.ArgumentParser) -> None:
    """The arguments of every grid."""
    parser.add_argument("--seeds", type=numbers, default=[0], metavar="0,1,2")
    parser.add_argument("--base", help="what the others are compared with; by default the first")
    parser.add_argument(
        "--match-tokens", metavar="NAME", help="the base once more, with as many trained tokens as this"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--jobs", type=int, default=1, help="runs at a time")
    what.add_argument("--tables", action="store_true", help="run nothing; tables of the saved predictions")


def work(options: argparse.Namespace) -> None:
    """Run the recipe under several methods, and print the tables."""
    run_grid(grid_of(options), options)


def grid_of(options: argparse.Namespace) -> "Grid":
    """The runs of a recipe under several methods."""
    recipe = recipe_of(options)
    from kpod.commands.grid.variants import Grid  # takes seconds; a wrong recipe is told at once

    methods = {method: replace(recipe, method=method) for method in options.methods}
    return Grid.of(methods, options.seeds, Path(recipe.runs) / f"{recipe.name}-compare", options.base)


def run_grid(grid: "Grid", options: argparse.Namespace) -> None:
    """Run what is not finished, unless tables alone are asked for, and print them."""
    from kpod.commands.grid.comparison import compare, warn_of_unfinished, write_tables

    if options.tables:
        grid = grid.with_matched_tokens(options.match_tokens) if options.match_tokens else grid
        warn_of_unfinished(grid)
        say(write_tables(grid))
    else:
        say(compare(grid, options.jobs, options.match_tokens))
    say(f"tables and figures: {grid.folder / 'comparison.md'}, .json and .html")
