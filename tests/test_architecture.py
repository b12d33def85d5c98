"""The drawing in ARCHITECTURE.md is true: imports point down the ladder, and heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import kpod
from kpod.commands.command_line import VERBS

PACKAGE = Path(__file__).parent.parent / "src" / "kpod"

LADDER = [
    {"__main__"},
    {"commands"},
    {"commands/grid"},
    {"commands/pages"},
    {"experiment/pipeline"},
    {"experiment/algorithm", "experiment/evaluations"},
    {"experiment/sources"},
    {"experiment/keys", "experiment/phases", "experiment/preflight"},
    {"experiment/methods", "experiment/artifacts", "experiment/run_folder", "experiment/forecast_table"},
    {"experiment/forecast", "experiment/parts"},
    {"experiment/method_views"},
    {"teacher", "weighting", "schedule", "training", "evaluation"},
    {"lm"},
    {"data", "steps"},
    {"recipe"},
    {"records"},
]
"""From the top down. A unit is a room with all its modules, or one of its folders or modules that has its own rung."""
UNITS = {unit for units in LADDER for unit in units}
TOP_FLOOR = 14
"""Modules and folders at most."""
MAY_IMPORT_TRANSFORMERS = {"lm", "training", "weighting"}
NEVER_IMPORT_TORCH = (
    "__main__",
    "commands",
    "experiment/forecast",
    "experiment/forecast_table",
    "experiment/preflight",
    "teacher",
    "schedule",
    "data",
    "steps",
    "recipe",
    "records",
)
MAY_IMPORT_TORCH = {"schedule/difficulty.py", "commands/grid/side_by_side.py"}
"""Of what else never does: forward passes of the student, and how many threads a process has."""


def unit_of(name: str) -> str:
    """The unit that a module belongs to, by its path below the package without a suffix."""
    parts = name.split("/")
    names = ("/".join(parts[:number]) for number in (2, 1))
    return next((name for name in names if name in UNITS), name)


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix().removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, in whatever function; those for type checkers alone too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {
                f"{node.module}.{alias.name}"
                if (PACKAGE.parent / str(node.module).replace(".", "/")).is_dir()
                else str(node.module)
                for alias in node.names
            }
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def rung_of(unit: str) -> int:
    return next(rung for rung, units in enumerate(LADDER) if unit in units)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    unit = unit_of(name_of(path))
    if path.name == "__init__.py" and unit not in UNITS:
        assert not imports(path), f"{path} is in a folder whose modules have rungs of their own"
        return
    assert unit in UNITS, f"{unit} has no rung; give it one here and in ARCHITECTURE.md"
    for name in imports(path):
        if name.startswith("kpod.") and (other := unit_of(name.removeprefix("kpod.").replace(".", "/"))) in UNITS:
            below = other == unit or rung_of(other) > rung_of(unit)
            assert below, f"{unit} imports {other}, which does not stand below it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_stay_where_they_belong(path: Path) -> None:
    name, roots = name_of(path), {name.split(".")[0] for name in imports(path)}
    if name.split("/")[0] not in MAY_IMPORT_TRANSFORMERS:
        assert "transformers" not in roots
    light = any(name == unit or name.startswith(f"{unit}/") for unit in NEVER_IMPORT_TORCH)
    if light and f"{name}.py" not in MAY_IMPORT_TORCH:
        assert not roots & {"torch", "transformers", "peft", "accelerate"}


def test_the_top_floor_has_few_rooms() -> None:
    there = [p for p in PACKAGE.iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.rglob("*.py")))]
    assert len(there) <= TOP_FLOOR, sorted(p.name for p in there)


def test_no_room_hides_what_the_package_exports() -> None:
    """Importing a folder sets its name on the package: a folder `run` would take the place of `kpod.run`."""
    assert not {path.stem for path in PACKAGE.iterdir()} & set(kpod.__all__)


def test_no_two_modules_have_the_same_name() -> None:
    names = Counter(path.name for path in MODULES if path.name != "__init__.py")
    assert [name for name, number in names.items() if number > 1] == []


def test_no_module_is_longer_than_400_lines() -> None:
    """At 300, look whether two jobs live in it."""
    lengths = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in MODULES}
    assert [name for name, lines in lengths.items() if lines > 400] == []


def test_importing_kpod_and_every_verb_is_light() -> None:
    heavy = "{'torch', 'transformers', 'sklearn'}"
    verbs = ", ".join(f"kpod.commands.{verb.replace('-', '_')}" for verb in VERBS)
    code = f"import kpod, {verbs}, sys; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_waits_for_no_verb() -> None:
    code = "import sys; from kpod.commands.command_line import main; sys.exit(print(*sys.modules) or main(['--help']))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, _, told = found.stdout.partition("\n")
    assert not {"pyarrow", "jinja2", "kpod.commands.run"} & set(modules.split())
    assert all(f"    {verb}" in told for verb in VERBS)
