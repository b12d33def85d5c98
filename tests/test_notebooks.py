"""The notebooks: stored without outputs, on public names, and executed on a tiny student."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from test_public import MODULES, modules_in
from tiny import tiny_llama

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SMALL = "NUM_RATIONALES, NUM_QUESTIONS, EPOCHS = 8, 2, 2\nWARMUP_UPDATES, OBSERVATIONS = 2, 8\n"


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["comparing_methods", "first_distillation"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_stored_without_outputs(path: Path) -> None:
    assert path.stat().st_size < 20_000
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_alone(path: Path) -> None:
    script = "\n".join("".join(cell["source"]) for cell in cells(path, "code"))
    assert modules_in(script) <= {"kpod", *MODULES}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_one_cell_is_the_parameters(path: Path) -> None:
    tagged = [cell for cell in cells(path, "code") if "parameters" in cell["metadata"].get("tags", ())]
    assert ["".join(cell["source"]).split(" = ")[0] for cell in tagged] == ["STUDENT"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel is a process of its own, which works in the temporary folder."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    lm = tiny_llama()
    lm.model.save_pretrained(tmp_path / "student")  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path / "student")
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = f"STUDENT = {str(tmp_path / 'student')!r}\n{SMALL}"
        cell.source = cell.source.replace("WeightingConfig(", "WeightingConfig(mask_loss_weight=1e-6, lora_rank=2, ")
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", ()))
    assert "of 2 right" in told
