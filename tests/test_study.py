"""The published study says what its published predictions say."""

import tarfile
from dataclasses import replace
from pathlib import Path

from kpod.comparison import Grid, write_tables
from kpod.recipe import load_recipe

ROOT = Path(__file__).parent.parent
METHODS = ("scotd", "kpod", "kpod-wo-sig", "kpod-wo-prog", "kpod-shuffled")


def test_the_table_comes_from_the_predictions(tmp_path: Path) -> None:
    with tarfile.open(ROOT / "benchmarks" / "study-runs.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    recipe = load_recipe(ROOT / "recipes" / "study.yaml")
    variants = {method: replace(recipe, method=method) for method in METHODS}
    table = write_tables(Grid.of(variants, (0, 1, 2), tmp_path / "study-compare"))
    assert table.strip() in (ROOT / "benchmarks" / "study.md").read_text(encoding="utf-8")
    assert all(f"| {method} |" in table for method in METHODS)
    assert (tmp_path / "study-compare" / "comparison.html").read_text(encoding="utf-8").count("<svg") == 2
