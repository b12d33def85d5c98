"""`kpod export-task`: a run's test sets as tasks of lm-evaluation-harness."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kpod.commands.recipe_argument import add_recipe, recipe_of
from kpod.commands.terminal import say
from kpod.evaluation.lm_eval import export_task
from kpod.experiment.preflight import announce_tests
from kpod.records.errors import require

if TYPE_CHECKING:
    from kpod.experiment.pipeline import Pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    add_recipe(parser)
    parser.add_argument("--output", type=Path, required=True, help="a folder for YAML, rows and judge")


def work(options: argparse.Namespace) -> None:
    """Write a task for every test set."""
    recipe = recipe_of(options)
    from kpod.experiment.pipeline import Pipeline  # takes seconds; a wrong recipe is told at once

    announce_tests(recipe, recipe.data.tests)
    for name, num in export_tasks(Pipeline(recipe), options.output).items():
        say(f"{name}: {num} questions, {options.output / name}.yaml")


def export_tasks(pipeline: "Pipeline", folder: Path) -> dict[str, int]:
    """Write a task for every test set of a recipe; returns their names with how many questions they ask.

    Raises:
        ConfigError: If the recipe lets a majority of several texts answer; a task asks for one.
    """
    from kpod.lm.models import load_tokenizer
    from kpod.lm.student_prompts import prompt_text

    recipe = pipeline.recipe
    require(recipe.evaluation.samples == 1, "evaluation.samples", recipe.evaluation.samples, "1, for a task of lm-eval")
    tokenizer = load_tokenizer(recipe.student)
    written = {}
    for test in recipe.data.tests:
        questions = pipeline.data.questions(test)
        prompts = [prompt_text(tokenizer, question, recipe.data.prompt) for question in questions]
        name = export_task(folder, test, questions, prompts, recipe.evaluation.max_new_tokens, recipe.data.answer_words)
        written[name] = len(questions)
    return written
