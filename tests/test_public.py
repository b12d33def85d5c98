"""What `import kpod` offers: names that are there, explained, and light until they are used."""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest

import kpod
from tiny import tiny_llama, tiny_rationales
from tiny_runs import BRIEF_WEIGHTING

ROOT = Path(__file__).parent.parent
FUNCTIONS = sorted(name for name in kpod.__all__ if inspect.isfunction(getattr(kpod, name)))


def test_the_three_lists_of_names_are_one() -> None:
    tree = ast.parse((ROOT / "src" / "kpod" / "__init__.py").read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == kpod._HOMES
    assert sorted(kpod.__all__) == sorted([*imported, "__version__"])


@pytest.mark.parametrize("name", kpod.__all__)
def test_every_name_is_found_listed_and_explained(name: str) -> None:
    found = getattr(kpod, name)
    assert name in dir(kpod)
    if name != "__version__" and not name.isupper():
        assert found.__name__ == name
        assert len(found.__doc__) > 10


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_of_a_function_is_explained(name: str) -> None:
    function = getattr(kpod, name)
    missing = [
        parameter
        for parameter in inspect.signature(function).parameters
        if not re.search(rf"^        {parameter}: \S", f"    {inspect.getdoc(function)}".replace("\n", "\n    "), re.M)
    ]
    assert missing == []


@pytest.mark.parametrize(
    "text", [kpod.__doc__, (ROOT / "docs" / "python.md").read_text(encoding="utf-8")], ids=["docstring", "page"]
)
def test_tables_of_the_phases_name_what_is_there(text: str) -> None:
    named = [name for cell in re.findall(r"^\| [^|]*\| ([^|]*)\|", text, re.M) for name in re.findall(r"`(\w+)", cell)]
    assert len(named) > 15
    assert set(named) <= set(kpod.__all__)


def test_a_name_that_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match="module 'kpod' has no attribute 'lern_weights'"):
        kpod.lern_weights  # noqa: B018


MODULES = re.findall(r"^\| `(kpod\.[\w.]+)` \|", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.M)
"""Public modules beside `kpod` itself."""
INSIDE = {
    "answers": {"kpod.data.findings", "kpod.data.rows"},
    "architectures": {"kpod.lm.decoding", "kpod.weighting.learn", "kpod.weighting.proof"},
    "filters": {"kpod.teacher.similarity"},
    "keypoint_judges": {
        "kpod.weighting.effects",
        "kpod.weighting.masks",
        "kpod.weighting.objective",
        "kpod.weighting.predictor",
        "kpod.weighting.rounds",
    },
    "keypoints_of_run": {"kpod.data.word_problems"},
    "memory": {"kpod.lm.adapters", "kpod.lm.head"},
    "oracle_making": {"kpod.lm.decoding", "kpod.lm.student_prompts"},
    "oracle_words": {"kpod.data.numbers"},
    "paper_splits": {"kpod.data.splits"},
    "planting": {"kpod.data.word_problems"},
    "report_size": {
        "kpod.commands.pages.browser",
        "kpod.commands.pages.page",
        "kpod.data.datasets",
        "kpod.evaluation.accuracy",
    },
    "scale": {"kpod.commands.check", "kpod.experiment.algorithm", "kpod.lm.encoding"},
    "study_2": {"kpod.data.datasets"},
    "study_errors": {"kpod.data.word_problems", "kpod.teacher.equations"},
    "study_json": {
        "kpod.commands.command_line",
        "kpod.commands.compare",
        "kpod.commands.grid.comparison",
        "kpod.commands.grid.variants",
        "kpod.commands.sweep",
    },
    "teacher": {"kpod.teacher.requests"},
    "trainers": {"kpod.records.topk", "kpod.training.objectives", "kpod.training.terms"},
    "word_classes": {"kpod.data.spoken", "kpod.steps"},
}
"""Benchmark -> the modules that it takes apart or replaces a part of; no user's script needs them."""


def modules_in(script: str) -> set[str]:
    """The modules of kpod that a script imports from, in whatever function; a name that is a module counts as one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(script)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if is_module(name) else str(node.module) for name in names}
    return {name for name in found if is_ours(name)}


def is_ours(name: str) -> bool:
    return name.split(".")[0] == "kpod"


def is_module(name: str) -> bool:
    path = ROOT / "src" / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", [*ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/*.py")], ids=lambda p: p.stem)
def test_a_script_imports_what_is_public(path: Path) -> None:
    modules = modules_in(path.read_text(encoding="utf-8"))
    assert modules - {"kpod", *MODULES} == INSIDE.get(path.stem, set())


@pytest.mark.parametrize(
    ("script", "modules"),
    [
        ("import kpod", {"kpod"}),
        ("from kpod import run, Recipe as R", {"kpod"}),
        ("import kpod.lm.buckets as b, torch", {"kpod.lm.buckets"}),
        ("def f():\n    from kpod.lm.buckets import cut_to_passes", {"kpod.lm.buckets"}),
        ("from kpod import teacher", {"kpod.teacher"}),
        ("from kpod.lm import buckets", {"kpod.lm.buckets"}),
        ("from kpodium.lm import buckets\nimport json", set()),
    ],
)
def test_modules_in_a_script(script: str, modules: set[str]) -> None:
    assert modules_in(script) == modules


def test_public_modules_are_few_and_explained() -> None:
    assert 0 < len(MODULES) <= 10
    assert all(importlib.import_module(name).__doc__ for name in MODULES)


@pytest.mark.parametrize("path", [*ROOT.glob("examples/*.py")], ids=lambda p: p.stem)
def test_an_example_says_what_it_needs_installed(path: Path) -> None:
    """Its header is that of PEP 723, and asks for this project under its own name and on its own Pythons."""
    text = path.read_text(encoding="utf-8")
    (header,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+)# ///$", text, re.M)
    script = tomllib.loads(re.sub(r"^# ?", "", header, flags=re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert script == {"requires-python": project["requires-python"], "dependencies": [project["name"]]}
    assert f"uv run examples/{path.name}" in text


def test_the_example_uses_public_names_alone() -> None:
    tree = ast.parse((ROOT / "examples" / "from_records.py").read_text(encoding="utf-8"))
    modules = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "kpod"
    }
    assert [name for name in modules if name.split(".")[0] in ("kpod", "torch", "transformers")] == ["kpod"]
    assert used <= set(kpod.__all__)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_example_goes_from_records_to_a_trained_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = tiny_llama()
    for part in (lm.model, lm.tokenizer):
        part.save_pretrained(tmp_path / "model")  # type: ignore[operator, union-attr]
    spec = importlib.util.spec_from_file_location("from_records", ROOT / "examples" / "from_records.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "WEIGHTING", kpod.WeightingConfig(**BRIEF_WEIGHTING))
    monkeypatch.setattr(script, "RATIONALES", tiny_rationales())
    words = ["from_records", "--student", str(tmp_path / "model"), "--output", str(tmp_path / "student")]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    before, after = (kpod.load_model(str(tmp_path / name)) for name in ("model", "student"))
    pairs = zip(before.model.parameters(), after.model.parameters(), strict=True)
    assert any(not one.equal(other) for one, other in pairs)
    assert "of 6 questions right" in capsys.readouterr().out
