"""The published study says what its published predictions say."""

import json
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from kpod.artifacts import evaluation_phase, load_evaluation
from kpod.comparison import Grid, tabulate, write_tables
from kpod.recipe import load_recipe

ROOT = Path(__file__).parent.parent
STUDY = (ROOT / "benchmarks" / "study.md").read_text(encoding="utf-8")
SEEDS = (0, 1, 2)
GRIDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "study-compare": ("study", ("scotd", "kpod", "kpod-wo-prog")),
    "study-6-compare": ("study", ("scotd", "kpod", "kpod-wo-sig", "kpod-wo-prog", "kpod-shuffled")),
    "svamp-compare": ("svamp", ("scotd", "kpod")),
}
"""Folder of the archive -> recipe and methods."""
WORD_PROBLEMS = "word_problems:test"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    with tarfile.open(ROOT / "benchmarks" / "study-runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "runs"


def grid(folder: Path, methods: tuple[str, ...] | None = None) -> Grid:
    name, of_study = GRIDS[folder.name]
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    return Grid.of({method: replace(recipe, method=method) for method in methods or of_study}, SEEDS, folder)


@pytest.mark.parametrize("name", GRIDS)
def test_the_tables_come_from_the_predictions(name: str, runs: Path) -> None:
    tables = write_tables(grid(runs / name)).strip()
    for table in tables.split("\n\n**"):
        assert table.strip("*\n ") in STUDY
    assert (runs / name / "comparison.html").read_text(encoding="utf-8").count("<svg") == 2


@pytest.mark.parametrize("name", GRIDS)
def test_the_summary_is_of_the_same_runs(name: str, runs: Path) -> None:
    """There each difference stands alone; its p-value is not corrected for others."""
    for rows, _ in tabulate(grid(runs / name, ("scotd", "kpod"))).values():
        plain, kpod = rows
        assert kpod.difference_interval
        low, high = (f"{100 * end:+.1f}" for end in kpod.difference_interval)
        numbers = f"{100 * plain.mean:.1f} | {100 * kpod.mean:.1f} | {100 * kpod.difference:+.1f} | {low} to {high}"
        assert f"| {numbers} | {kpod.p_value:.3f} |" in STUDY


def test_runs_that_stand_alone_say_what_is_said_of_them(runs: Path) -> None:
    alone = [
        run
        for run in sorted((runs / "study-compare").iterdir())
        if run.is_dir() and run.name.rpartition("-seed")[0] not in GRIDS["study-compare"][1]
    ]
    assert alone
    for run in alone:
        method, _, seed = run.name.rpartition("-seed")
        found, plain = (correct(runs / "study-compare" / name) for name in (run.name, f"scotd-seed{seed}"))
        assert f"| `{method}` | {seed} | {100 * found:.1f} | {100 * plain:.1f} |" in STUDY


def correct(run: Path) -> float:
    return fmean(p.correct for p in load_evaluation(run / evaluation_phase("after", WORD_PROBLEMS))[0])


def test_texts_on_the_questions_of_others_are_left_out(runs: Path) -> None:
    files = sorted((runs / "svamp-compare").glob("*/evaluation/after/*/predictions.jsonl"))
    assert len(files) == 12
    texts = {json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()}
    assert texts == {""}
