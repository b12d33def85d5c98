"""The drawing in ARCHITECTURE.md is true: imports point down the ladder, and heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "kpod"

LADDER = [
    {"__main__"},
    {"cli"},
    {"command_line", "terminal"},
    {"reporting", "inspection", "annotation", "planning", "comparison", "exporting", "explaining", "rehearsal"},
    {"grid", "side_by_side"},
    {"pipeline", "checking"},
    {"evaluations"},
    {"sources"},
    {"keys", "phases", "preflight"},
    {"methods", "artifacts", "run_folder"},
    {"teacher", "weighting", "difficulty", "schedule", "training", "evaluation", "report"},
    {"lm", "forecast"},
    {"data", "steps", "merging", "recipe"},
    {"sentences"},
    {"columns"},
    {"records", "outcomes", "config", "errors", "files", "hub_reach", "safe_yaml", "signals", "spans"},
]
"""From the top down. A unit is a module, or a folder with all its modules."""
MAY_KNOW_EACH_OTHER = {
    ("config", "errors"),
    ("records", "errors"),
    ("safe_yaml", "errors"),
    ("spans", "errors"),
    ("hub_reach", "errors"),
}
MAY_IMPORT_TRANSFORMERS = {"lm", "training", "weighting"}
NEVER_IMPORT_TORCH = {
    "schedule",
    "data",
    "steps",
    "sentences",
    "merging",
    "report",
    "recipe",
    "records",
    "outcomes",
    "config",
    "errors",
    "files",
    "safe_yaml",
    "spans",
    "teacher",
    "forecast",
    "preflight",
    "checking",
    "terminal",
    "command_line",
    "cli",
}


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, in whatever function; those for type checkers alone too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {
                f"{node.module}.{alias.name}" if node.module == "kpod" else str(node.module) for alias in node.names
            }
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def rung_of(unit: str) -> int:
    return next(rung for rung, units in enumerate(LADDER) if unit in units)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    unit = unit_of(path)
    assert any(unit in units for units in LADDER), f"{unit} has no rung; give it one here and in ARCHITECTURE.md"
    for name in imports(path):
        if not name.startswith("kpod."):
            continue
        other = name.split(".")[1]
        if other == unit or not any(other in units for units in LADDER):
            continue
        below = rung_of(other) > rung_of(unit) or (unit, other) in MAY_KNOW_EACH_OTHER
        assert below, f"{unit} imports {other}, which does not stand below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_stay_where_they_belong(path: Path) -> None:
    unit, roots = unit_of(path), {name.split(".")[0] for name in imports(path)}
    if unit not in MAY_IMPORT_TRANSFORMERS:
        assert "transformers" not in roots
    if unit in NEVER_IMPORT_TORCH:
        assert not roots & {"torch", "transformers", "peft", "accelerate"}


def test_no_module_is_longer_than_400_lines() -> None:
    """At 300, look whether two jobs live in it."""
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text(encoding="utf-8").splitlines()) for p in MODULES}
    assert [name for name, lines in lengths.items() if lines > 400] == []


def test_importing_kpod_and_checking_a_file_are_light() -> None:
    heavy = "{'torch', 'transformers', 'sklearn'}"
    code = f"import kpod, kpod.cli, kpod.checking, sys; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
