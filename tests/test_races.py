"""Two `kpod run` on one folder at the same time: both end right, as if one had run alone."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from kpod.experiment.run_folder import STAMP
from tiny_runs import recipe, write_tiny_data

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def start(runs: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kpod", "run", str(runs / "recipe-given.yaml"), *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out + err


def stamped(runs: Path) -> dict[str, dict[str, list[object]]]:
    """Phase -> its files with their hashes; the recipe beside a student names its own folder of runs."""
    found = {stamp.parent.name: json.loads(stamp.read_text())["files"] for stamp in runs.glob(f".phases/*/{STAMP}")}
    return {name: {k: v for k, v in files.items() if k != "recipe.yaml"} for name, files in found.items()}


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[object]]]:
    """What one run leaves that nothing disturbs."""
    runs = tmp_path_factory.mktemp("alone")
    recipe(data, runs)
    code, told = ended(start(runs))
    assert code == 0, told
    return stamped(runs)


@pytest.mark.parametrize("offset", [number / 2 for number in range(8)])
def test_a_pair_on_one_folder_ends_as_one_run_does(
    offset: float, data: Path, alone: dict[str, dict[str, list[object]]], tmp_path: Path
) -> None:
    recipe(data, tmp_path)
    first = start(tmp_path)
    time.sleep(offset)
    second = start(tmp_path)
    for code, told in (ended(first), ended(second)):
        assert code == 0, told
        assert "Traceback" not in told
    assert stamped(tmp_path) == alone
    left = [p.name for p in (tmp_path / ".phases").iterdir() if not p.name.startswith(".") and p.name not in alone]
    assert left == []
    report = json.loads((tmp_path / "tiny" / "report.json").read_text(encoding="utf-8"))
    assert report["rationales"]["kept"] == 6


def test_a_pair_of_different_recipes_under_one_name_ends_right(
    data: Path, alone: dict[str, dict[str, list[object]]], tmp_path: Path
) -> None:
    """Each makes its own phases; the links are those of the one that came last."""
    recipe(data, tmp_path)
    first, second = start(tmp_path), start(tmp_path, "--method", "scotd")
    for code, told in (ended(first), ended(second)):
        assert code == 0, told
    found = stamped(tmp_path)
    assert {name: found[name] for name in alone} == alone
    assert sum(name.startswith("student-") for name in found) == 2
    name = yaml.safe_load((tmp_path / "tiny" / "recipe.yaml").read_text(encoding="utf-8"))["method"]
    assert name in ("kpod", "scotd")
