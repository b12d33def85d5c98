"""What `kpod plan` shows: a run's schedule, and beside it what another recipe would make of the same difficulties."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kpod.commands.pages.page import render_schedules
from kpod.commands.pages.tables import schedule_markdown
from kpod.commands.recipe_argument import add_recipe, recipe_of
from kpod.commands.terminal import say
from kpod.recipe import Recipe
from kpod.records import Schedule
from kpod.records.errors import ConfigError
from kpod.records.files import write_text

if TYPE_CHECKING:
    from kpod.experiment.pipeline import Pipeline

CLUSTER_KEYS = ("num_clusters", "embeddings")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    add_recipe(parser)
    parser.add_argument(
        "--what-if", action="append", default=[], metavar="KEY=VALUE", help="compare with another schedule, untrained"
    )


def work(options: argparse.Namespace) -> None:
    """Make the schedule, and print its tables."""
    recipe = recipe_of(options)
    changed = recipe_of(options, *(f"--{change}" for change in options.what_if)) if options.what_if else None
    from kpod.experiment.pipeline import Pipeline  # takes seconds; a wrong recipe is told at once

    pipeline = Pipeline(recipe)
    pipeline.announce("train")
    tables, page = write_plan(pipeline, changed, ", ".join(options.what_if))
    say(f"{tables}\nfigures: {page}")


def write_plan(pipeline: "Pipeline", changed: Recipe | None = None, change: str = "") -> tuple[str, Path]:
    """Write schedule.html into the run folder, with the tables and figures of one schedule or of two.

    Args:
        pipeline: Its plan is made where it is missing.
        changed: The recipe to compare with.
        change: What it changes, as the user said it.

    Returns:
        The tables as Markdown, and the page's path.

    Raises:
        ConfigError: As `schedule_if` does.
    """
    num_steps = [t.num_steps for t in pipeline.tokens]
    schedules = {"As in the recipe": pipeline.schedule}
    if changed is not None:
        schedules[f"With {change}"] = schedule_if(pipeline, changed)
    page = pipeline.folder.path / "schedule.html"
    write_text(page, render_schedules(pipeline.recipe.name, schedules, num_steps))
    tables = [f"{name}:\n\n{schedule_markdown(schedule, num_steps)}" for name, schedule in schedules.items()]
    return "\n".join(tables), page


def schedule_if(pipeline: "Pipeline", changed: Recipe) -> Schedule:
    """The schedule that a changed recipe would make of a run's difficulties; nothing is trained, nothing saved.

    Args:
        pipeline: The run.
        changed: Its recipe with other keys of `schedule`, another number of epochs, or another order.

    Raises:
        ConfigError: If more is changed than that (weights or difficulties would have to be made again), or the
            method does not exist.
    """
    from kpod.experiment.pipeline import Pipeline

    recipe, epochs = pipeline.recipe, changed.training.num_train_epochs
    alike = replace(
        recipe,
        method=changed.method,
        schedule=changed.schedule,
        training=replace(recipe.training, num_train_epochs=epochs),
    )
    other = Pipeline(changed)
    if alike != changed or other.method.weigh_steps != pipeline.method.weigh_steps:
        raise ConfigError(
            "--what-if takes keys of schedule, training.num_train_epochs and methods with the same difficulties: all "
            "else needs new weights or difficulties; run a recipe of another name"
        )
    order = other.method.order
    made = dict(pipeline.given(order).made)
    if any(getattr(recipe.schedule, key) != getattr(changed.schedule, key) for key in CLUSTER_KEYS):
        made["clusters"] = lambda: pipeline.cluster(changed.schedule)
    return order.run(replace(pipeline.given(order), recipe=changed, made=made))
