"""`kpod report`: a run folder to one HTML page. Gathers what the page shows, and writes it."""

import argparse
import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from kpod.commands.pages.page import HeatMap, Report, render_html, to_json
from kpod.commands.pages.tables import accuracy_markdown, nll_markdown, weighed_tokens, word_type_table
from kpod.commands.recipe_argument import add_recipe, recipe_of
from kpod.commands.terminal import say
from kpod.recipe.loading import dump_recipe
from kpod.records import Rationale, TokenizedRationale
from kpod.records.errors import DataError
from kpod.records.files import write_text
from kpod.records.outcomes import Accuracy, MeanNll

if TYPE_CHECKING:
    from kpod.experiment.pipeline import Pipeline

NUM_HEATMAPS = 12
PACKAGES = ("kpod-distill", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    add_recipe(parser)


def work(options: argparse.Namespace) -> None:
    """Write the page of a finished run."""
    recipe = recipe_of(options)
    from kpod.experiment.pipeline import Pipeline  # takes seconds; a wrong recipe is told at once

    print_report(Pipeline(recipe))


def print_report(pipeline: "Pipeline") -> None:
    """Write the page and print the accuracies; of several processes, the first does."""
    from kpod.lm.processes import is_first_process

    if is_first_process():
        page = write_report(pipeline)
        say(accuracy_markdown(accuracies(pipeline)))
        if found := held_out(pipeline):
            say(nll_markdown(found))
        say(f"report: {page}")


def write_report(pipeline: "Pipeline") -> Path:
    """Write report.html and report.json of a finished run; returns the page's path.

    Raises:
        DataError: If the run was not evaluated yet.
    """
    report = gather(pipeline)
    page = pipeline.folder.path / "report.html"
    write_text(page, render_html(report))
    write_text(page.with_suffix(".json"), json.dumps(to_json(report), indent=2, ensure_ascii=False))
    return page


def gather(pipeline: "Pipeline") -> Report:
    """Everything the page shows, from what the run saved."""
    recipe, tests = pipeline.recipe, pipeline.recipe.data.tests
    rationales = {rationale.id: rationale for rationale in pipeline.sources[0]}
    written = [t for t in pipeline.tokens if t.num_tokens and t.id in rationales]
    views = {t.id: weighed_tokens(rationales[t.id], t, pipeline.weights.loss[t.id]) for t in written}
    questions = pipeline.data.questions(tests[0]) if tests else []
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
        heatmaps=tuple(
            HeatMap(t.id, rationales[t.id].question.question, views[t.id]) for t in _telling(written, rationales)
        ),
        word_types=word_type_table(views.values()),
        schedule=pipeline.schedule,
        loss_curve=_loss_curve(pipeline.folder.path / "student"),
        predictions=tuple(pipeline.evaluation("after", tests[0])[0]) if tests else (),
        questions={question.id: question.question for question in questions},
    )


def accuracies(pipeline: "Pipeline") -> tuple[tuple[Accuracy | None, Accuracy], ...]:
    """Each test set's accuracy before training, where it was measured, and after; of the last update in rows below."""
    from kpod.experiment.evaluations import AFTER, named

    tests = pipeline.recipe.data.tests
    after = [(_accuracy_before(pipeline, test), pipeline.evaluation(AFTER, test)[1]) for test in tests]
    for when in pipeline.evaluated[1:]:
        found = {named(test, when): pipeline.evaluation(when, test)[1] for test in tests}
        after += [(None, replace(accuracy, dataset=name)) for name, accuracy in found.items()]
    return tuple(after)


def held_out(pipeline: "Pipeline") -> dict[str, list[MeanNll]]:
    """The NLL of held-out rationales before training, where it was measured, and after; by when."""
    from kpod.evaluation.held_out import mean_nll

    found = {}
    for when in ("before", *pipeline.evaluated) if pipeline.recipe.evaluation.held_out else ():
        try:
            found[when.replace("-", " ")] = mean_nll(pipeline.evaluations.measured(when))
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


def _accuracy_before(pipeline: "Pipeline", test: str) -> Accuracy | None:
    if not pipeline.recipe.evaluation.before:
        return None
    try:
        return pipeline.evaluation("before", test)[1]
    except DataError:  # the recipe asked for it only after the run
        return None


def _telling(tokens: Sequence[TokenizedRationale], rationales: dict[str, Rationale]) -> list[TokenizedRationale]:
    """A dozen rationales to draw: the first of each kind of length, so that short and long ones are seen."""
    by_length = sorted(tokens, key=lambda t: (len(rationales[t.id].text), t.id))
    num = min(NUM_HEATMAPS, len(by_length))
    return [by_length[(2 * k + 1) * len(by_length) // (2 * num)] for k in range(num)]


def _loss_curve(student: Path) -> tuple[tuple[int, float, int], ...]:
    from kpod.training.metrics import METRICS, read_updates

    return tuple((line["step"], line["loss"], line["stage"] or 0) for line in read_updates(student / METRICS))
