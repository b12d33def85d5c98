"""`kpod completion`: what bash completes with its script, and that the other shells get one."""

import subprocess
import sys
from pathlib import Path

import pytest

from kpod.commands.command_line import VERBS, main
from kpod.commands.completion import SHELLS
from kpod.recipe.descriptions import every_key

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_kpod kpod "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab")
    written = subprocess.run([sys.executable, "-m", "kpod", "completion", "bash"], capture_output=True, check=True)
    file = tmp_path_factory.mktemp("shell") / "kpod.bash"
    file.write_bytes(written.stdout)
    return file


def completed(script: Path, *words: str) -> set[str]:
    command = ["bash", "-c", COMPLETE, "bash", str(script), "kpod", *words]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parent).stdout.split())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("pl",), {"plan"}),
        (("",), set(VERBS)),
        (("run", "r.yaml", "--schedule.num"), {"--schedule.num_clusters"}),
        (("compare", "r.yaml", "--met"), {"--method", "--methods"}),
        (
            ("sweep", "r.yaml", "--weighting.pre"),
            {f"--weighting.{name}" for name in ("precision", "predictor", "predictor_learning_rate", "prefixes")},
        ),
        (("run", "r.yaml", "--precision", ""), {"fp32", "bf16"}),
        (("run", "r.yaml", "--training.packing", ""), {"true", "false"}),
        (("run", "r.yaml", "--weighting.precision", "f"), {"fp32"}),
        (("run", "kpod.b"), {"kpod.bash"}),
        (("explain", "schedule.str"), {"schedule.stride"}),
        (("explain", "--schedule.str"), set()),
        (("completion", ""), set(SHELLS)),
    ],
)
def test_bash_completes_verbs_keys_values_and_files(script: Path, words: tuple[str, ...], found: set[str]) -> None:
    assert completed(script, *words) == found


def test_every_key_is_completed_where_a_recipe_is_read(script: Path) -> None:
    wanted = {f"--{key}" for key in every_key()}
    assert len(wanted) > 80
    assert wanted <= completed(script, "weigh", "r.yaml", "--")


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    assert "kpod" in capsys.readouterr().out


def test_without_shtab_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'kpod-distill[completion]'" in capsys.readouterr().err
