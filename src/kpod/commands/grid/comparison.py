"""`kpod compare` and `kpod sweep`: one recipe in several variants and seeds, and the tables of what came of them.

Every variant and seed is a run of its own beside the others, so a grid goes on where it was stopped, and runs share the
phases that they have in common.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Bool

from kpod.commands.grid.side_by_side import distil, in_processes, prepare
from kpod.commands.grid.variants import Grid, is_finished, trained_updates
from kpod.commands.pages.comparisons import (
    ComparedMethod,
    ComparedNll,
    comparison_markdown,
    nll_comparison_markdown,
    overview_markdown,
    render_comparison,
)
from kpod.evaluation.held_out import PART_NAMES, scores
from kpod.evaluation.pairing import accuracy_interval, holm, paired_difference, seeds_to_settle
from kpod.experiment.evaluations import AFTER, named
from kpod.experiment.pipeline import Pipeline
from kpod.recipe import Recipe
from kpod.recipe.loading import load_recipe
from kpod.records.errors import ConfigError, DataError, require
from kpod.records.files import write_text
from kpod.training.export import read_record
from kpod.training.metrics import METRICS, VALIDATION, read_metrics

log = logging.getLogger(__name__)


def compare(grid: Grid, jobs: int = 1, match_tokens: str | None = None) -> str:
    """Run what is not finished, then `write_tables`.

    Args:
        grid: The runs.
        jobs: How many runs at a time; each has its share of the processor's cores, and all share a GPU.
        match_tokens: A variant; the base is run once more with as many trained tokens, see `Grid.with_matched_tokens`.

    Raises:
        KpodError: If a run failed, once all others are done; the same call goes on from there.
    """
    require(jobs > 0, "jobs", jobs, "at least 1")
    pipelines = [Pipeline(recipe) for recipe in grid.recipes]  # all of them, before anything is written
    unfinished = [pipeline for pipeline in pipelines if not is_finished(pipeline)]
    log.info("%d runs, %d of them finished before", len(grid.recipes), len(grid.recipes) - len(unfinished))
    for pipeline in {pipeline.keys["tokens"]: pipeline for pipeline in unfinished}.values():
        pipeline.announce("train", "test", "validation")
    # Shared phases first and once: two runs at a time would both learn the same weights.
    unplanned = [p.recipe for p in unfinished if not p.folder.has("plan", p.keys["plan"])]
    seeds = {r.seed: [other for other in unplanned if other.seed == r.seed] for r in unplanned}
    in_processes(prepare, {f"schedules of seed {seed}": recipes for seed, recipes in seeds.items()}, jobs)
    in_processes(distil, {pipeline.recipe.name: [pipeline.recipe] for pipeline in unfinished}, jobs)
    return compare(grid.with_matched_tokens(match_tokens), jobs) if match_tokens else write_tables(grid)


def write_tables(grid: Grid) -> str:
    """Write comparison.md, .json and .html from what the runs have saved, and return the tables.

    Raises:
        DataError: As `tabulate`.
    """
    found = tabulate(grid)
    rows_of = {test: rows for test, (rows, _) in found.items()}
    parts = [comparison_markdown(test, rows, grid.base, num_questions) for test, (rows, num_questions) in found.items()]
    nll, num_held_out = tabulate_nll(grid)
    if nll:
        parts.append(nll_comparison_markdown(nll, grid.base, num_held_out))
    tables = "\n".join([overview_markdown(rows_of, grid.base), *parts] if len(rows_of) > 1 else parts)
    of_runs = {recipe.name: _curve(Pipeline(recipe)) for recipe in grid.recipes}
    curves = {name: _mean_curve([of_runs[recipe.name] for recipe in recipes]) for name, recipes in grid.runs.items()}
    facts: dict[str, Any] = {
        "base": grid.base,
        "tests": {test: [_facts(row) for row in rows] for test, rows in rows_of.items()},
    }
    facts |= {"held_out": [asdict(row) for row in nll]} if nll else {}
    write_text(grid.folder / "comparison.md", tables)
    write_text(grid.folder / "comparison.json", json.dumps(facts | {"curves": of_runs}, indent=1))
    write_text(
        grid.folder / "comparison.html",
        render_comparison(grid.folder.name, rows_of, curves, grid.base, grid.swept, nll, num_held_out),
    )
    return tables


def _facts(row: ComparedMethod) -> dict[str, Any]:
    return asdict(row) | {"verdict": row.against_base and row.against_base.verdict}


def warn_of_unfinished(grid: Grid) -> None:
    """Name the runs whose saved answers may not be this recipe's: run from another, or not to their end.

    Nothing is read but what the runs keep of themselves; those published without their recipe are taken as they are.
    """
    for recipe in grid.recipes:
        folder = Path(recipe.runs) / recipe.name
        saved = folder / "recipe.yaml"
        if saved.is_file() and (read_record(folder / "student") is None or _is_another(saved, recipe)):
            log.warning("%s was run from another recipe, or not to its end", recipe.name)


def _is_another(saved: Path, recipe: Recipe) -> bool:
    try:
        return load_recipe(saved) != recipe
    except ConfigError:  # of another version of the package
        return True


def tabulate(grid: Grid) -> dict[str, tuple[list[ComparedMethod], int]]:
    """Of each test set of a finished grid the methods, from saved predictions, and the number of questions.

    Raises:
        DataError: If a run was not evaluated, or two were asked different questions.
    """
    pipelines = {name: [Pipeline(recipe) for recipe in recipes] for name, recipes in grid.runs.items()}
    updates = {name: [_updates(p) for p in of_name] for name, of_name in pipelines.items()}
    tables = {}
    for when in sorted(set.intersection(*(set(p.evaluated) for of_name in pipelines.values() for p in of_name))):
        for test in grid.recipes[0].data.tests:
            correct = _correct(pipelines, test, when)
            tables[named(test, when)] = list(_rows(correct, updates, grid.base)), correct[grid.base].shape[1]
    return tables


def tabulate_nll(grid: Grid) -> tuple[list[ComparedNll], int]:
    """The NLL of the rationales that every run of a finished grid held out, part by part, and how many they are.

    Nothing where a run held none out, or where fewer than two are held out by all.
    """
    if any(recipe.evaluation.held_out is None for recipe in grid.recipes):
        return [], 0
    measured = {
        name: [Pipeline(recipe).evaluations.measured(AFTER) for recipe in recipes]
        for name, recipes in grid.runs.items()
    }
    runs = [run for of_name in measured.values() for run in of_name]
    ids = sorted(set.intersection(*({one.id for one in run} for run in runs)))
    if len(ids) < 2:
        log.warning("the runs have %d held-out rationales in common, and at least 2 are needed to compare", len(ids))
        return [], 0
    found = []
    there = set.intersection(*({part for one in run if one.id in ids for part in one.parts} for run in runs))
    for part in (part for part in PART_NAMES if part in there):
        nll = {name: np.array([scores(run, ids, part) for run in of_name]) for name, of_name in measured.items()}
        for name, values in nll.items():
            paired = None if name == grid.base else paired_difference(values, nll[grid.base])
            found.append(ComparedNll(part, name, tuple(map(float, values.mean(axis=1))), paired))
    return found, len(ids)


def _rows(
    correct: Mapping[str, Bool[np.ndarray, "seeds questions"]],
    updates: Mapping[str, Sequence[tuple[int, int]]],
    base: str,
) -> Iterator[ComparedMethod]:
    found = {name: paired_difference(right, correct[base]) for name, right in correct.items() if name != base}
    p_values = dict(zip(found, holm([paired.p_value for paired in found.values()]), strict=True))
    for name, right in correct.items():
        yield ComparedMethod(
            name=name,
            accuracies=tuple(map(float, right.mean(axis=1))),
            interval=accuracy_interval(right),
            against_base=found.get(name),
            corrected_p_value=p_values.get(name),
            updates=tuple(steps for steps, _ in updates[name]),
            trained_tokens=tuple(tokens for _, tokens in updates[name]),
            seeds_to_settle=seeds_to_settle(found[name].by_seed) if name in found else None,
        )


def _correct(
    pipelines: Mapping[str, Sequence[Pipeline]], test: str, when: str = AFTER
) -> dict[str, Bool[np.ndarray, "seeds questions"]]:
    """Of each variant whether each run answered each question, in the order of the ids."""
    found, asked = {}, None
    for name, of_name in pipelines.items():
        rows = []
        for pipeline in of_name:
            predictions = sorted(pipeline.evaluation(when, test)[0], key=lambda prediction: prediction.id)
            questions = [(p.id, p.gold) for p in predictions]
            asked = asked or questions
            if questions != asked:
                raise DataError(
                    f"{test}: {pipeline.recipe.name} was asked other questions than the runs before it, and cannot be "
                    "compared with them; if the file has changed since, run the same command without --tables"
                )
            rows.append([p.correct for p in predictions])
        found[name] = np.array(rows)
    return found


def _updates(pipeline: Pipeline) -> tuple[int, int]:
    """Optimiser steps and trained tokens."""
    lines = trained_updates(pipeline)
    return len(lines), sum(line["trained_tokens"] for line in lines)


def _curve(pipeline: Pipeline) -> list[tuple[int, int, float]]:
    """Update, trained tokens so far, and validation accuracy, wherever it was measured."""
    points, tokens = [], 0
    for line in read_metrics(pipeline.folder.path / "student" / METRICS):
        tokens += line.get("trained_tokens", 0)
        if VALIDATION in line:
            points.append((line["step"], tokens, line[VALIDATION]))
    return points


def _mean_curve(curves: Sequence[list[tuple[int, int, float]]]) -> list[tuple[int, int, float]]:
    """The mean over seeds of their validations, as far as all seeds have come."""
    means = [[fmean(values) for values in zip(*points, strict=True)] for points in zip(*curves, strict=False)]
    return [(round(step), round(tokens), accuracy) for step, tokens, accuracy in means]
