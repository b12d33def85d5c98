"""`kpod report`: a run folder to one HTML page, or two to a page that compares them."""

import argparse
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from kpod.commands.gathered import (
    answered,
    coverage,
    epochs,
    evaluated_before,
    heat_maps,
    paired,
    predictions_after,
    question_texts,
)
from kpod.commands.pages.browser import Browsed, Explained, HeatMap
from kpod.commands.pages.page import Report, render_html, to_json
from kpod.commands.pages.tables import accuracy_markdown, nll_markdown, word_type_table
from kpod.commands.recipe_argument import recipe_file
from kpod.commands.terminal import say
from kpod.recipe.loading import dump_recipe, load_recipe
from kpod.records.errors import ConfigError, DataError, require
from kpod.records.files import write_text
from kpod.records.outcomes import Accuracy, MeanNll, Prediction

if TYPE_CHECKING:
    from kpod.experiment.pipeline import Pipeline

NUM_HEATMAPS = 12
NUM_BROWSED = 10_000
"""Rationales in a page, where the command names no other number: about 4 megabytes."""
PACKAGES = ("kpod-distill", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    parser.add_argument(
        "recipe", type=Path, nargs="+", help="a recipe file, or a run folder; two of them are compared on one page"
    )
    parser.add_argument(
        "--rationales",
        type=int,
        default=NUM_BROWSED,
        metavar="N",
        help="how many rationales can be looked up in the page (default: %(default)s)",
    )


def work(options: argparse.Namespace) -> None:
    """Write the page of a finished run, or of two."""
    require(options.rationales >= 0, "--rationales", options.rationales, "at least 0")
    if len(options.recipe) > 2:
        raise ConfigError(
            f"{len(options.recipe)} runs are named; kpod report takes one or two, kpod compare makes tables"
        )
    recipes = [load_recipe(recipe_file(path), options.overrides) for path in options.recipe]
    from kpod.experiment.pipeline import Pipeline  # takes seconds; a wrong recipe is told at once

    if len(recipes) == 1:
        print_report(Pipeline(recipes[0]), options.rationales)
    else:
        from kpod.commands.two_runs import print_comparison

        print_comparison(Pipeline(recipes[0]), Pipeline(recipes[1]), options.rationales)


def print_report(pipeline: "Pipeline", num_browsed: int = NUM_BROWSED) -> None:
    """Write the page and print the accuracies; of several processes, the first does."""
    from kpod.lm.processes import is_first_process

    if is_first_process():
        page = write_report(pipeline, num_browsed)
        say(accuracy_markdown(accuracies(pipeline)))
        if found := held_out(pipeline):
            say(nll_markdown(found))
        say(f"report: {page}")


def write_report(pipeline: "Pipeline", num_browsed: int = NUM_BROWSED) -> Path:
    """Write report.html and report.json of a finished run; returns the page's path.

    Args:
        pipeline: The run.
        num_browsed: How many rationales the page holds at most.

    Raises:
        DataError: If the run was not evaluated yet.
    """
    report = gather(pipeline, num_browsed)
    page = pipeline.folder.path / "report.html"
    write_text(page, render_html(report))
    write_text(page.with_suffix(".json"), json.dumps(to_json(report), indent=2, ensure_ascii=False))
    return page


def gather(pipeline: "Pipeline", num_browsed: int = NUM_BROWSED) -> Report:
    """Everything the page shows, from what the run saved."""
    recipe, tests = pipeline.recipe, pipeline.recipe.data.tests
    maps, after = heat_maps(pipeline), predictions_after(pipeline)
    weighs = len({weight for one in maps.values() for _, weight, _ in one.tokens}) > 1
    before = {test: (found := evaluated_before(pipeline, test)) and found[0] for test in tests}
    sides: list[Mapping[str, Sequence[Prediction] | None]] = [before, after] if any(before.values()) else [after]
    answers = list(answered(question_texts(pipeline), sides))
    browsed = Browsed(
        sides=("Before", "After")[-len(sides) :],
        runs=(recipe.name,),
        questions=tuple(answers),
        rationales=tuple(Explained(one.id, (one,)) for one in list(maps.values())[:num_browsed]),
        num_left_out=max(0, len(maps) - num_browsed),
    )
    return Report(
        title=recipe.name,
        method=pipeline.method.label,
        recipe_yaml=dump_recipe(recipe),
        provenance=provenance(pipeline),
        accuracies=accuracies(pipeline),
        held_out=held_out(pipeline),
        num_read=len(pipeline.sources[0]) + len(pipeline.sources[1]),
        dropped=Counter(dropped.reason for dropped in pipeline.dropped),
        forecast=pipeline.forecast,
        num_steps=tuple(t.num_steps for t in pipeline.tokens),
        heatmaps=tuple(_telling(list(maps.values()))) if weighs else (),
        word_types=word_type_table(one.tokens for one in maps.values() if weighs),
        schedule=pipeline.schedule,
        loss_curve=_loss_curve(pipeline.folder.path / "student"),
        predictions=tuple(after[tests[0]]) if tests else (),
        questions={one.id: one.question for one in answers if one.test == tests[0]},
        paired=tuple(paired(answers)),
        browsed=browsed,
        epochs=tuple(epochs(pipeline)),
        coverage=coverage(pipeline),
    )


def accuracies(pipeline: "Pipeline") -> tuple[tuple[Accuracy | None, Accuracy], ...]:
    """Each test set's accuracy before training, where it was measured, and after; of the last update in rows below."""
    from kpod.experiment.evaluations import AFTER, named

    tests = pipeline.recipe.data.tests
    after: list[tuple[Accuracy | None, Accuracy]] = [
        ((found := evaluated_before(pipeline, test)) and found[1], pipeline.own_evaluation(AFTER, test)[1])
        for test in tests
    ]
    for when in pipeline.evaluated[1:]:
        last = {named(test, when): pipeline.own_evaluation(when, test)[1] for test in tests}
        after += [(None, replace(accuracy, dataset=name)) for name, accuracy in last.items()]
    return tuple(after)


def held_out(pipeline: "Pipeline") -> dict[str, list[MeanNll]]:
    """The NLL of held-out rationales before training, where it was measured, and after; by when."""
    from kpod.evaluation.held_out import mean_nll

    found: dict[str, list[MeanNll]] = {}
    if not pipeline.recipe.evaluation.held_out:
        return found
    for when in ("before", *pipeline.evaluated) if pipeline.recipe.evaluation.before else pipeline.evaluated:
        try:
            found[when.replace("-", " ")] = mean_nll(pipeline.own_surprises(when))
        except DataError:
            if when != "before":
                raise
    return found


def provenance(pipeline: "Pipeline") -> dict[str, str]:
    """Versions, seed and hashes: what must be equal for a number to be comparable."""
    versions = {package: version(package) for package in PACKAGES}
    recipe, written_by = pipeline.recipe, Counter(rationale.source for rationale in pipeline.sources[0])
    facts = {
        "student": recipe.student,
        "rationales by": ", ".join(f"{source} ({number})" for source, number in written_by.most_common()),
        "seed": str(recipe.seed),
        "python": platform.python_version(),
    }
    return facts | versions | {f"hash of {phase}": key for phase, key in pipeline.keys.items()}


def _telling(maps: Sequence[HeatMap]) -> list[HeatMap]:
    """A dozen rationales to draw: the first of each kind of length, so that short and long ones are seen."""
    by_length = sorted(maps, key=lambda one: (sum(len(text) for text, _, _ in one.tokens), one.id))
    num = min(NUM_HEATMAPS, len(by_length))
    return [by_length[(2 * k + 1) * len(by_length) // (2 * num)] for k in range(num)]


def _loss_curve(student: Path) -> tuple[tuple[int, float, int], ...]:
    from kpod.training.metrics import METRICS, read_updates

    return tuple((line["step"], line["loss"], line["stage"] or 0) for line in read_updates(student / METRICS))
