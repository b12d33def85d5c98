"""`kpod report`: a run folder to one HTML page, or two to a page that compares them. Gathers what the page shows."""

import argparse
import json
import platform
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from math import ceil, isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from kpod.commands.pages.browser import Answered, Browsed, Explained, HeatMap, Paired, first_stages
from kpod.commands.pages.page import Epoch, Report, render_html, to_json
from kpod.commands.pages.tables import accuracy_markdown, weighed_tokens, word_type_table
from kpod.commands.recipe_argument import recipe_file
from kpod.commands.terminal import say
from kpod.recipe.loading import dump_recipe, load_recipe
from kpod.records import Rationale
from kpod.records.errors import ConfigError, DataError, require
from kpod.records.files import write_text
from kpod.records.outcomes import Accuracy, Prediction

if TYPE_CHECKING:
    from kpod.experiment.pipeline import Pipeline

NUM_HEATMAPS = 12
NUM_BROWSED = 10_000
"""Rationales in a page, where the command names no other number: about 4 megabytes."""
PACKAGES = ("kpod-distill", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run folder or its recipe; two are compared on one page"
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
    if len(options.runs) > 2:
        raise ConfigError(
            f"{len(options.runs)} runs are named; kpod report takes one or two, kpod compare makes tables"
        )
    recipes = [load_recipe(recipe_file(path), options.overrides) for path in options.runs]
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
    maps, rationales = heat_maps(pipeline), {rationale.id: rationale for rationale in pipeline.sources[0]}
    updates = _metrics(pipeline)
    before, after = {test: _before(pipeline, test)[0] for test in tests}, predictions_after(pipeline)
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
        num_read=len(pipeline.sources[0]) + len(pipeline.sources[1]),
        dropped=Counter(dropped.reason for dropped in pipeline.dropped),
        forecast=pipeline.forecast,
        num_steps=tuple(t.num_steps for t in pipeline.tokens),
        heatmaps=tuple(_telling(list(maps.values()), rationales)),
        word_types=word_type_table(one.tokens for one in maps.values()),
        schedule=pipeline.schedule,
        loss_curve=tuple((line["step"], line["loss"], line["stage"] or 0) for line in updates if "loss" in line),
        predictions=tuple(after[tests[0]]) if tests else (),
        questions={one.id: one.question for one in answers if one.test == tests[0]},
        paired=tuple(paired(answers)),
        browsed=browsed,
        epochs=tuple(_epochs(pipeline, updates)),
        coverage=_coverage(pipeline),
    )


def heat_maps(pipeline: "Pipeline") -> dict[str, HeatMap]:
    """Every rationale that is trained on, by its id, with weights, difficulties and the stages of its steps."""
    rationales = {rationale.id: rationale for rationale in pipeline.sources[0]}
    schedule, weights = pipeline.schedule, pipeline.weights.loss
    columns = {id_: column for column, id_ in enumerate(schedule.ids)} if schedule.input_steps.any() else {}
    difficulties = pipeline.difficulties if "difficulties" in pipeline.keys else {}
    found = {}
    for one in pipeline.tokens:
        if one.num_tokens and one.id in rationales:
            hard = difficulties[one.id] if one.id in difficulties else np.empty(0)
            found[one.id] = HeatMap(
                one.id,
                rationales[one.id].question.question,
                weighed_tokens(rationales[one.id], one, weights[one.id]),
                rationales[one.id].question.answer,
                tuple(map(float, hard)) if len(hard) == one.num_steps else (),
                first_stages(schedule, columns[one.id], one.num_steps) if one.id in columns else (),
            )
    return found


def question_texts(pipeline: "Pipeline") -> dict[str, dict[str, str]]:
    """Test set -> question id -> the question."""
    tests = pipeline.recipe.data.tests
    return {test: {one.id: one.question for one in pipeline.data.questions(test)} for test in tests}


def answered(
    texts: Mapping[str, Mapping[str, str]], sides: Sequence[Mapping[str, Sequence[Prediction] | None]]
) -> Iterator[Answered]:
    """Every question that a side was asked, test set by test set.

    Args:
        texts: Test set -> question id -> the question.
        sides: Test set -> predictions, or None where the side was not asked.
    """
    for test in dict.fromkeys(test for side in sides for test in side):
        by_id = [{one.id: one for one in side.get(test) or ()} for side in sides]
        for id_ in dict.fromkeys(id_ for side in by_id for id_ in side):
            yield Answered(test, id_, texts[test].get(id_, ""), tuple(side.get(id_) for side in by_id))


def paired(answers: Sequence[Answered]) -> Iterator[Paired]:
    """Of each test set what two sides answered correctly, on the questions that both were asked."""
    from kpod.evaluation.pairing import paired_difference  # scipy.stats takes a second

    by_test: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for one in answers:
        match one.predictions:
            case (Prediction() as first, Prediction() as second):
                by_test[one.test].append((first.correct, second.correct))
    for test, right in by_test.items():
        first, second = np.array(right).T
        yield Paired(
            test=test,
            both=int((first & second).sum()),
            gained=int((~first & second).sum()),
            lost=int((first & ~second).sum()),
            neither=int((~first & ~second).sum()),
            difference=paired_difference(second[None], first[None]),
        )


def predictions_after(pipeline: "Pipeline") -> dict[str, list[Prediction]]:
    """Test set -> what the trained student answered."""
    return {test: pipeline.evaluation("after", test)[0] for test in pipeline.recipe.data.tests}


def accuracies(pipeline: "Pipeline") -> tuple[tuple[Accuracy | None, Accuracy], ...]:
    """Each test set's accuracy before training, where it was measured, and after."""
    tests = pipeline.recipe.data.tests
    return tuple((_before(pipeline, test)[1], pipeline.evaluation("after", test)[1]) for test in tests)


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


def _before(pipeline: "Pipeline", test: str) -> tuple[list[Prediction], Accuracy] | tuple[None, None]:
    """What the untrained student answered, where it was asked."""
    if not pipeline.recipe.evaluation.before:
        return None, None
    try:
        return pipeline.evaluation("before", test)
    except DataError:  # the recipe asked for it only after the run
        return None, None


def _telling(maps: Sequence[HeatMap], rationales: Mapping[str, Rationale]) -> list[HeatMap]:
    """A dozen rationales to draw: the first of each kind of length, so that short and long ones are seen."""
    by_length = sorted(maps, key=lambda one: (len(rationales[one.id].text), one.id))
    num = min(NUM_HEATMAPS, len(by_length))
    return [by_length[(2 * k + 1) * len(by_length) // (2 * num)] for k in range(num)]


def _metrics(pipeline: "Pipeline") -> list[dict[str, Any]]:
    from kpod.training.metrics import METRICS, read_metrics

    return read_metrics(pipeline.folder.path / "student" / METRICS)


def _epochs(pipeline: "Pipeline", lines: Sequence[Mapping[str, Any]]) -> Iterator[Epoch]:
    """The updates and validations of each epoch together."""
    from kpod.training.metrics import VALIDATION

    curricula = [pipeline.by(part) for part in pipeline.method.parts("curriculum")]
    by_epoch: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        by_epoch[max(1, ceil(line["epoch"] - 1e-6))].append(line)
    for number, some in by_epoch.items():
        updates = [line for line in some if "loss" in line]
        if not updates:
            continue
        stages = [line["stage"] or 0 for line in updates]
        least, most = min(stages), max(stages)
        words = [curriculum.describe(stage) for curriculum in curricula for stage in (least, most)]
        losses = [line["loss"] for line in updates if isfinite(line["loss"])]
        yield Epoch(
            number=number,
            stages=(least, most),
            words=" to ".join(dict.fromkeys(words)),
            updates=len(updates),
            trained_tokens=sum(line["trained_tokens"] for line in updates),
            loss=fmean(losses) if losses else None,
            accuracy=next((line[VALIDATION] for line in reversed(some) if VALIDATION in line), None),
        )


def _coverage(pipeline: "Pipeline") -> dict[str, int | float]:
    from kpod.experiment.artifacts import SUMMARY

    summary = pipeline.folder.path / "teacher_logprobs" / SUMMARY
    if "teacher_logprobs" not in pipeline.keys or not summary.is_file():
        return {}
    found: dict[str, int | float] = json.loads(summary.read_text(encoding="utf-8"))
    return found
