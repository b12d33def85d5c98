"""Every contrast of the study as JSON, from the stored predictions: what benchmarks/study.md says in tables.

    python benchmarks/study_json.py

unpacks benchmarks/study-runs.tar.xz, asks each `kpod compare ... --tables` of the page for its runs, and writes
benchmarks/study.json: one object for each test set and each method that is compared with a base. A contrast helps where
both of its intervals lie above 0, harms where both lie below, and is open otherwise, also under a single seed.
"""

import argparse
import json
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

from kpod.commands import compare, sweep
from kpod.commands.command_line import parsed
from kpod.commands.grid.comparison import tabulate
from kpod.commands.grid.variants import Grid

HERE = Path(__file__).resolve().parent
COMMAND = re.compile(r"^kpod (.+ --tables)$", re.MULTILINE)
STUDENTS = {"smollm2-135m": "SmolLM2-135M-Instruct, dequantised from Q4_1"}
"""A recipe's name of a student -> what it is."""


def grid_of(command: str) -> Grid:
    """The runs that a command of the page compares."""
    options = parsed(shlex.split(command))
    grid = {"compare": compare, "sweep": sweep}[options.verb].grid_of(options)
    return grid.with_matched_tokens(options.match_tokens) if options.match_tokens else grid


def contrasts_of(grid: Grid) -> Iterator[dict[str, Any]]:
    """What a grid says of each method but its base, on each test set; differences are shares, not points."""
    recipe = grid.recipes[0]
    for test, (rows, questions) in tabulate(grid).items():
        for row in rows:
            if (paired := row.against_base) is not None:
                yield {
                    "runs": grid.folder.name.removesuffix("-compare"),
                    "trained_on": recipe.data.train,
                    "tested_on": test,
                    "student": STUDENTS.get(recipe.student, recipe.student),
                    "contrast": f"{row.name} - {grid.base}",
                    "seeds": len(paired.by_seed),
                    "questions": questions,
                    "difference": paired.difference,
                    "ci_questions": list(paired.interval),
                    "ci_seeds": None if paired.seed_interval is None else list(paired.seed_interval),
                    "verdict": paired.verdict,
                }


def contrasts(page: str) -> list[dict[str, Any]]:
    """All contrasts of a page's commands, in their order; run where the runs and the recipes are."""
    return [one for command in COMMAND.findall(page) for one in contrasts_of(grid_of(command))]


def unpack(folder: Path) -> None:
    """Put the stored runs and the recipes into a folder, where the page's commands find them."""
    with tarfile.open(HERE / "study-runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    shutil.copytree(HERE.parent / "recipes", folder / "recipes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "study.json")
    output = parser.parse_args().output.resolve()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        unpack(Path(folder))
        found = contrasts((HERE / "study.md").read_text(encoding="utf-8"))
    output.write_text("[\n" + ",\n".join(json.dumps(one) for one in found) + "\n]\n", encoding="utf-8")
    print(f"{len(found)} contrasts: {output}")


if __name__ == "__main__":
    main()
