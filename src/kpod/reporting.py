"""From a run folder to its report: gathers what the page shows, and writes it."""

import json
import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from kpod.errors import DataError
from kpod.files import write_text
from kpod.methods import METHODS
from kpod.outcomes import Accuracy
from kpod.pipeline import Pipeline
from kpod.recipe import dump_recipe
from kpod.records import Rationale, TokenizedRationale
from kpod.report.page import HeatMap, Report, render_html, to_json
from kpod.report.tables import weighed_tokens, word_type_table
from kpod.training.metrics import METRICS, read_updates

NUM_HEATMAPS = 12
PACKAGES = ("kpod-distill", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")


def write_report(pipeline: Pipeline) -> Path:
    """Write report.html and report.json of a finished run; returns the page's path.

    Raises:
        DataError: If the run was not evaluated yet.
    """
    report = gather(pipeline)
    page = pipeline.folder.path / "report.html"
    write_text(page, render_html(report))
    write_text(page.with_suffix(".json"), json.dumps(to_json(report), indent=2, ensure_ascii=False))
    return page


def gather(pipeline: Pipeline) -> Report:
    """Everything the page shows, from what the run saved."""
    recipe, tests = pipeline.recipe, pipeline.recipe.data.tests
    rationales = {rationale.id: rationale for rationale in pipeline.sources[0]}
    views = {t.id: weighed_tokens(rationales[t.id], t, pipeline.weights.loss[t.id]) for t in pipeline.tokens}
    questions = pipeline.data.questions(tests[0]) if tests else []
    return Report(
        title=recipe.name,
        method=METHODS[recipe.method].label,
        recipe_yaml=dump_recipe(recipe),
        provenance=provenance(pipeline),
        accuracies=accuracies(pipeline),
        num_read=len(pipeline.sources[0]) + len(pipeline.sources[1]),
        dropped=Counter(dropped.reason for dropped in pipeline.dropped),
        forecast=pipeline.forecast,
        num_steps=tuple(t.num_steps for t in pipeline.tokens),
        heatmaps=tuple(
            HeatMap(t.id, rationales[t.id].question.question, views[t.id])
            for t in _telling(pipeline.tokens, rationales)
        ),
        word_types=word_type_table(views.values()),
        schedule=pipeline.schedule,
        loss_curve=_loss_curve(pipeline.folder.path / "student" / METRICS),
        predictions=tuple(pipeline.evaluation("after", tests[0])[0]) if tests else (),
        questions={question.id: question.question for question in questions},
    )


def accuracies(pipeline: Pipeline) -> tuple[tuple[Accuracy | None, Accuracy], ...]:
    """Each test set's accuracy before training, where it was measured, and after."""
    return tuple(
        (_accuracy_before(pipeline, test), pipeline.evaluation("after", test)[1]) for test in pipeline.recipe.data.tests
    )


def provenance(pipeline: Pipeline) -> dict[str, str]:
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


def _accuracy_before(pipeline: Pipeline, test: str) -> Accuracy | None:
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


def _loss_curve(path: Path) -> tuple[tuple[int, float, int], ...]:
    return tuple((line["step"], line["loss"], line["stage"] or 0) for line in read_updates(path))
