"""The published study says what its published predictions say."""

import tarfile
from dataclasses import replace
from pathlib import Path

from kpod.comparison import Grid, tabulate
from kpod.recipe import load_recipe

ROOT = Path(__file__).parent.parent
METHODS = ("scotd", "kpod", "kpod-wo-sig", "kpod-wo-prog", "kpod-shuffled")


def test_the_table_comes_from_the_predictions(tmp_path: Path) -> None:
    with tarfile.open(ROOT / "benchmarks" / "study-runs.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    recipe = load_recipe(ROOT / "recipes" / "study.yaml")
    variants = {method: replace(recipe, method=method) for method in METHODS}
    table, facts = tabulate(Grid.of(variants, (0, 1, 2), tmp_path / "study-compare"))
    assert table.strip() in (ROOT / "benchmarks" / "study.md").read_text(encoding="utf-8")
    assert [row["name"] for row in facts["tests"]["word_problems:test"]] == list(METHODS)
