"""All methods of recipes/rivals.yaml in one grid, on a tiny student."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kpod.commands.grid.comparison import write_tables
from kpod.commands.grid.variants import Grid
from kpod.experiment.methods import METHODS
from kpod.experiment.pipeline import run
from kpod.recipe.loading import load_recipe
from tiny_runs import BRIEF_WEIGHTING, write_tiny_data

RECIPE = Path(__file__).parent.parent / "recipes" / "rivals.yaml"
ASK_A_TEACHER = {"mcc-kd", "scott"}


def named_in_the_recipe() -> list[str]:
    """The methods of the command at the top of the file."""
    command = re.search(r"--methods (.*?)\n#\n", RECIPE.read_text(encoding="utf-8"), re.DOTALL)
    assert command is not None
    return re.sub(r"[\\\s#]", "", command[1]).split(",")


def test_the_recipe_names_every_method_that_it_can_compare() -> None:
    controls = {name for name in METHODS if name.startswith(("kpod-wo", "scotd-"))}
    controls |= {f"kpod-{name}" for name in ("random", "linear", "unordered", "prefix", "shuffled", "rule", "mean")}
    assert set(named_in_the_recipe()) == set(METHODS) - controls - ASK_A_TEACHER - {"kpod-normalised"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_all_of_them_run_in_one_grid(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    source = str(data / "rationales.jsonl")
    given = {
        "student": str(data / "llama"),
        "runs": str(tmp_path / "runs"),
        "precision": "fp32",
        "data.train": source,
        "data.tests": f'["{source}"]',
        "data.test_limit": "2",
        "data.max_length": "1000",
        "teacher.rationales": "null",
        "teacher.logprobs.model": str(data / "llama"),
        "schedule.num_clusters": "2",
        "training.num_train_epochs": "2",
        "training.per_device_train_batch_size": "2",
        "training.validation.questions": source,
        "training.validation.limit": "2",
        "training.on_policy.max_new_tokens": "4",
        "evaluation.max_new_tokens": "4",
    } | {f"weighting.{key}": str(value) for key, value in BRIEF_WEIGHTING.items()}
    recipe = load_recipe(RECIPE, [word for key, value in given.items() for word in (f"--{key}", value)])
    methods = {method: replace(recipe, method=method) for method in named_in_the_recipe()}
    long = replace(recipe.training, num_train_epochs=14)  # until no rationale is left
    methods["icot-si"] = replace(methods["icot-si"], training=long)
    grid = Grid.of(methods, [0], tmp_path / "runs" / "rivals-compare", "scotd")
    for one in grid.recipes:  # without a process each, as the command has it
        run(one)
    tables = write_tables(grid)
    rows = re.findall(r"^\| ([a-z0-9-]+) \| \d", tables, re.MULTILINE)
    assert rows == named_in_the_recipe()
