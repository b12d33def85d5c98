"""What `import kpod` offers: names that are there, explained, and light until they are used."""

import ast
import importlib.util
import inspect
import re
import sys
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
    if name not in ("__version__", "METHODS"):
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
