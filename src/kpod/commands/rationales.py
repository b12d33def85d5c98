"""`kpod rationales`: questions to a clean rationale file, with a report of what was kept, dropped and paid."""

import argparse
import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kpod.commands.pages.asked_teacher import Asking, RationaleReport, estimate_markdown, histogram, rationales_markdown
from kpod.commands.recipe_argument import recipe_of
from kpod.commands.terminal import say
from kpod.data.datasets import training_questions
from kpod.data.rows import SUFFIXES, suffix_of
from kpod.evaluation.accuracy import wilson_interval
from kpod.experiment.artifacts import rationale_row, write_jsonl
from kpod.experiment.preflight import check_before_asking
from kpod.recipe import AskConfig, Recipe
from kpod.recipe.loading import load_recipe
from kpod.records import Rationale
from kpod.records.errors import ConfigError
from kpod.records.files import write_text
from kpod.steps import split_steps
from kpod.teacher.asking import open_requests
from kpod.teacher.estimate import Estimate, cost, estimate, tokens
from kpod.teacher.filters import TRUSTED_SOURCES, reaches_gold
from kpod.teacher.gathering import Gathered, gather_rationales, store_of
from kpod.teacher.requests import requests_for
from kpod.teacher.store import attempts_by_key, read_store

WORDS_PER_BIN = 25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    parser.add_argument(
        "recipe", type=Path, help="a recipe, a run folder, or a file of questions (with --teacher.ask.model NAME)"
    )
    parser.add_argument("--output", type=Path, help="a JSONL file; by default in the run folder")
    parser.add_argument("--dry-run", action="store_true", help="ask nothing; estimate requests, tokens, hours and cost")
    parser.add_argument("--retry-failed", action="store_true", help="ask again for answers that cannot be used")


def work(options: argparse.Namespace) -> None:
    """Ask for the rationales and write them, or only estimate what that takes."""
    recipe = _recipe(options)
    if options.dry_run:
        say(estimate_markdown(**asdict(estimate_recipe(recipe, options.retry_failed))))
        return
    output = options.output or Path(recipe.runs) / recipe.name / "rationales.jsonl"
    say(rationales_markdown(explain(recipe, output, options.retry_failed)))
    say(f"rationales: {output}; what was dropped, and the report, beside it")


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that is named; of a file of questions to explain, the default one on these questions."""
    if suffix_of(options.recipe) not in SUFFIXES:
        return recipe_of(options)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", options.recipe.stem)
    return load_recipe(None, ["--data.train", str(options.recipe), "--name", name, *options.overrides])


def explain(recipe: Recipe, output: Path, retry_failed: bool = False) -> RationaleReport:
    """Ask the teacher for what is missing, filter, and write the rationale file.

    Files are written, each whole or not at all: `output` with the kept rationales and, beside `rationales.jsonl`,
    `rationales.dropped.jsonl` with the others, each with its reason, `rationales.report.json`, and
    `rationales.counterfactual.jsonl` where wrong answers were explained too. A kept row names its
    `attempt` in the store and where its text `start`s there, beside which the teacher's log-probabilities are, if they
    were asked for.

    Args:
        recipe: `data.train` and `teacher` count.
        output: A JSONL file.
        retry_failed: Ask again where an answer was of no use.

    Raises:
        DataError: If a source is wrong; where no rationale is left, the files say why.
        TeacherError: If the teacher cannot be asked, or leaves requests open; run again to go on.
    """
    check_before_asking(recipe)
    gathered = gather_rationales(recipe.data, recipe.teacher, Path(recipe.runs), retry_failed=retry_failed)
    report = _report(gathered, recipe)
    texts = {rationale.id: rationale.text for rationale in gathered.found}
    write_jsonl(output, [_row(rationale, gathered) for rationale in gathered.kept])
    if gathered.counterfactual:
        write_jsonl(
            output.with_suffix(".counterfactual.jsonl"), [_row(one, gathered) for one in gathered.counterfactual]
        )
    write_jsonl(
        output.with_suffix(".dropped.jsonl"),
        [{"id": item.id, "reason": item.reason, "rationale": texts.get(item.id, "")} for item in gathered.dropped],
    )
    write_text(output.with_suffix(".report.json"), json.dumps(asdict(report), indent=2, ensure_ascii=False))
    return report


def estimate_recipe(recipe: Recipe, retry_failed: bool = False) -> Estimate:
    """What asking would take; nothing is asked.

    Raises:
        ConfigError: If the recipe names no teacher.
    """
    ask = _asked(recipe)
    store, requests = store_of(ask, Path(recipe.runs)), requests_for(training_questions(recipe.data), ask)
    missing = open_requests(requests, store, retry_failed=retry_failed, reasoning=ask.reasoning)
    return estimate(requests, missing, read_store(store), ask)


def _asked(recipe: Recipe) -> AskConfig:
    ask = recipe.teacher.ask
    if ask is None:
        raise ConfigError("teacher.ask is null; --dry-run needs a teacher: set teacher.ask.model")
    return ask


def _row(rationale: Rationale, gathered: Gathered) -> dict[str, Any]:
    row = rationale_row(rationale)
    if (place := gathered.places.get(rationale.id)) is not None:
        row |= {"attempt": place.key, "start": place.start}
    return row


def _report(gathered: Gathered, recipe: Recipe) -> RationaleReport:
    hinted = set()
    if gathered.asked is not None:
        keys = {request.key for request in gathered.asked.requests if request.hinted or request.against}
        hinted = {id_ for id_, place in gathered.places.items() if place.key in keys}
    judged = [r for r in gathered.found if r.id not in hinted and r.source not in TRUSTED_SOURCES]
    right = sum(reaches_gold(r, recipe.data.answer_words) for r in judged)
    return RationaleReport(
        num_found=len(gathered.found),
        num_kept=len(gathered.kept),
        dropped=dict(Counter(item.reason for item in gathered.dropped)),
        num_questions=len({rationale.question.id for rationale in gathered.kept}),
        num_judged=len(judged),
        num_right=right,
        interval=wilson_interval(right, len(judged)) if judged else None,
        words=histogram((len(r.text.split()) for r in gathered.kept), WORDS_PER_BIN),
        steps=histogram(len(split_steps(r.text, recipe.data.step_rule)) for r in gathered.kept),
        asking=_asking(gathered, recipe),
    )


def _asking(gathered: Gathered, recipe: Recipe) -> Asking | None:
    if gathered.asked is None or recipe.teacher.ask is None:
        return None
    ask, keys = recipe.teacher.ask, {request.key for request in gathered.asked.requests}
    stored = attempts_by_key(store_of(ask, Path(recipe.runs)))
    attempts = [attempt for key in keys for attempt in stored[key]]
    read, written, uncounted = tokens(attempts)
    return Asking(
        model=ask.model,
        served=dict(Counter(a.model or "unnamed" for a in attempts if a.answered or a.only_thought).most_common()),
        num_requests=len(keys),
        num_attempts=len(attempts),
        outcomes=dict(Counter(a.outcome for a in attempts).most_common()),
        prompt_tokens=read,
        completion_tokens=written,
        num_uncounted=uncounted,
        seconds=round(sum(a.seconds for a in attempts), 1),
        cost=None if ask.prices is None else cost(read, written, ask.prices),
    )
