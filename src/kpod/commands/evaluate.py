"""`kpod evaluate`: a student and questions to predictions and accuracy."""

import argparse
from pathlib import Path

from kpod.commands.pages.tables import accuracy_markdown, nll_markdown, steps_markdown
from kpod.commands.recipe_argument import add_recipe, recipe_of
from kpod.commands.terminal import say
from kpod.data.datasets import load_questions
from kpod.data.reader import read_rationales
from kpod.evaluation.accuracy import by_steps, summarise
from kpod.evaluation.given_texts import judge_file
from kpod.experiment.artifacts import key_of
from kpod.experiment.preflight import announce_tests
from kpod.recipe import Recipe
from kpod.records.errors import require
from kpod.records.outcomes import MeanNll, Prediction
from kpod.teacher.filters import filter_rationales


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    add_recipe(parser)
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--checkpoint", help="a model folder or name instead of the run's student")
    whose.add_argument("--predictions", type=Path, help="a file of texts from elsewhere, for the first test set")
    parser.add_argument(
        "--faithfulness",
        type=Path,
        metavar="RATIONALES",
        help="also have the student answer after these rationales, as they are and with half of their tokens replaced",
    )


def work(options: argparse.Namespace) -> None:
    """Print the accuracy on every test set."""
    recipe = recipe_of(options)
    require(bool(recipe.data.tests), "data.tests", [], "at least one test set")
    nll: dict[str, list[MeanNll]] = {}
    if options.predictions:
        found = _judged(recipe, options.predictions)
    else:
        found, nll = _asked(recipe, options.checkpoint)
    say(accuracy_markdown([(None, summarise(test, predictions)) for test, predictions in found.items()]))
    for test, predictions in found.items():
        say(steps_markdown(test, by_steps(predictions)))
    if nll:
        say(nll_markdown(nll))
    if options.faithfulness:
        say(_faithfulness(recipe, options.checkpoint, options.faithfulness))


def _judged(recipe: Recipe, texts: Path) -> dict[str, list[Prediction]]:
    """Texts from elsewhere, for the first test set."""
    test, *others = recipe.data.tests
    announce_tests(recipe, [test])
    if others:
        say(f"the predictions are of {test}; not evaluated: {', '.join(others)}", error=True)
    return {test: judge_file(texts, load_questions(test, recipe.data), recipe.data.answer_words)}


def _asked(recipe: Recipe, checkpoint: str | None) -> tuple[dict[str, list[Prediction]], dict[str, list[MeanNll]]]:
    """What the run's student, or another model, answers to every test set, and the NLL of held-out rationales."""
    from kpod.evaluation.held_out import mean_nll
    from kpod.experiment.evaluations import named
    from kpod.experiment.pipeline import Pipeline  # takes seconds; a wrong recipe is told at once

    pipeline, found, nll = Pipeline(recipe), {}, {}
    announce_tests(recipe, recipe.data.tests)
    for when in (name_of(checkpoint),) if checkpoint else pipeline.evaluated:
        for test in pipeline.evaluate(when, checkpoint):
            found[named(test, when)] = pipeline.evaluation(when, test)[0]
        if recipe.evaluation.held_out is not None:
            nll[when.replace("-", " ")] = mean_nll(pipeline.evaluations.measured(when))
    return found, nll


def _faithfulness(recipe: Recipe, checkpoint: str | None, file: Path) -> str:
    """How often a student is right after a teacher's rationales, sound and disturbed."""
    from kpod.evaluation.faithfulness import faithfulness
    from kpod.experiment.pipeline import Pipeline
    from kpod.lm.models import load_model

    pipeline = Pipeline(recipe)
    student = checkpoint or str(pipeline.folder.place("student", pipeline.keys["student"]))
    rationales, dropped = read_rationales(file, recipe.data.columns)
    rationales, wrong = filter_rationales(rationales, recipe.teacher, recipe.data.answer_words)
    first_of_each = list({rationale.question.id: rationale for rationale in reversed(rationales)}.values())[::-1]
    say(
        f"faithfulness: {len(first_of_each)} rationales of {file}; not used: {len(dropped)} rows, {len(wrong)} by "
        f"teacher.filter, {len(rationales) - len(first_of_each)} that are not the first of their question"
    )
    found = faithfulness(load_model(student, recipe.precision), first_of_each, pipeline.recipe.data, seed=recipe.seed)
    return accuracy_markdown([(None, found.forced), (None, found.disturbed)])


def name_of(checkpoint: str) -> str:
    """What the evaluation of a checkpoint is kept under: its folder's name, and a hash of the whole path."""
    path = Path(checkpoint)
    return f"of-{path.resolve().name}-{key_of(str(path.resolve()) if path.exists() else checkpoint)[:6]}"
