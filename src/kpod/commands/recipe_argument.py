"""The recipe that a command names, and words of the command line that stand for several."""

import argparse
from pathlib import Path

from kpod.recipe import Recipe
from kpod.recipe.loading import load_recipe
from kpod.records.errors import ConfigError


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The argument that `recipe_of` reads."""
    parser.add_argument("recipe", type=Path, help="a recipe file, or a run folder")


def recipe_of(options: argparse.Namespace, *more: str) -> Recipe:
    """The recipe that a command names, with the keys that it sets, and more words of that kind."""
    return load_recipe(recipe_file(options.recipe), [*options.overrides, *more])


def recipe_file(path: Path) -> Path:
    """A recipe's file, where a run folder may be named instead.

    Raises:
        ConfigError: If there is none.
    """
    file = path / "recipe.yaml" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"there is no recipe {file}")
    return file


def words(text: str) -> list[str]:
    """A list that commas divide."""
    return [word.strip() for word in text.split(",")]


def numbers(text: str) -> list[int]:
    """Whole numbers that commas divide."""
    return [int(word) for word in words(text)]
