"""The published study says what its published predictions say: every table, every claim, and of every run."""

import json
import re
import shlex
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from kpod.commands import compare, sweep
from kpod.commands.command_line import main, parsed
from kpod.commands.grid import comparison
from kpod.commands.grid.comparison import tabulate
from kpod.commands.grid.variants import Grid
from kpod.evaluation.pairing import paired_difference
from kpod.experiment.pipeline import Pipeline
from kpod.training.metrics import METRICS, read_updates
from tiers import tiered

ROOT = Path(__file__).parent.parent
STUDY = (ROOT / "benchmarks" / "study.md").read_text(encoding="utf-8")
_, *PARTS = re.split(r"^kpod (.+ --tables)$", STUDY, flags=re.MULTILINE)
BELOW = dict(zip(PARTS[::2], PARTS[1::2], strict=True))
"""Each command of the page -> what stands below it, up to the next."""
TABLE = re.compile(r"^\*\*.+\n\n(?:\|.+\n)+", re.MULTILINE)
CLAIM = re.compile(
    r"`([^`]+)` less `([^`]+)`(?: on `([^`]+)`)?: "
    r"([+-]\S+) points \((\S+ to \S+), p = (\S+?)(?:; seeds (\S+ to [^\s)]+))?\)"
)
OF_OTHERS = ("svamp-compare", "asdiv-compare", "gsm8k-study-compare")
"""Folders of runs that were asked questions of others."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's commands are said: the archive unpacked beside the recipes."""
    folder = tmp_path_factory.mktemp("study")
    with tarfile.open(ROOT / "benchmarks" / "study-runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def grid_said_by(command: str) -> Grid:
    options = parsed(shlex.split(command))
    grid = {"compare": compare, "sweep": sweep}[options.verb].grid_of(options)
    return grid.with_matched_tokens(options.match_tokens) if options.match_tokens else grid


def points(interval: tuple[float, float] | None) -> str:
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}" if interval else ""


@pytest.mark.parametrize("command", tiered(BELOW, sorted(BELOW, key=len)[1:]))
def test_a_command_writes_the_tables_below_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)) == 0
    tables = TABLE.findall(capsys.readouterr().out)
    assert tables
    assert tables == TABLE.findall(BELOW[command])


@pytest.mark.slow
def test_a_claim_is_what_the_predictions_say() -> None:
    claims = 0
    for command, text in BELOW.items():
        told = CLAIM.findall(" ".join(text.split()))
        assert len(told) == " ".join(text.split()).count("` less `")
        for one, other, asked, *numbers in told:
            grid = grid_said_by(command)
            test = asked or grid.recipes[0].data.tests[0]
            pipelines = {name: list(map(Pipeline, grid.runs[name])) for name in (one, other)}
            found = paired_difference(*comparison._correct(pipelines, test).values())
            difference, interval = f"{100 * found.difference:+.1f}", points(found.interval)
            assert list(numbers) == [difference, interval, f"{found.p_value:.4f}", points(found.seed_interval)]
            claims += 1
    assert claims >= 10


@pytest.mark.slow
def test_the_summary_is_of_the_same_runs() -> None:
    """Its p-values are not corrected for their number."""
    told = 0
    for command in BELOW:
        options = parsed(shlex.split(command))
        if options.verb != "compare" or options.base or options.match_tokens or "3e-4" in command:
            continue
        grid = grid_said_by(command)
        pair = replace(grid, runs={method: grid.runs[method] for method in ("scotd", "kpod")})
        for (plain, kpod), questions in tabulate(pair).values():
            paired = kpod.against_base
            assert paired is not None
            seeds = f"{questions} x {len(options.seeds)} seed{'s' * (len(options.seeds) > 1)}"
            row = [seeds, f"{100 * plain.mean:.1f}", f"{100 * kpod.mean:.1f}", f"{100 * paired.difference:+.1f}"]
            row += [points(paired.interval), f"{paired.p_value:.3f}", points(paired.seed_interval)]
            assert f"{' | '.join(row)} |" in STUDY
            told += 1
    assert told == STUDY.split("SmolLM2-135M, fully")[0].count("\n|") - 2


def test_on_gsm8k_the_words_are_learnt_less() -> None:
    """The mean NLL of all rationale tokens over the last 30 updates, in nats."""
    found = {}
    for method in ("kpod", "scotd"):
        updates = read_updates(Path("runs", "gsm8k-study-compare", f"{method}-seed0", "student", METRICS))
        assert len(updates) == 426
        found[method] = fmean(update["rationale_loss"] for update in updates[-30:])
    assert f"{found['kpod']:.2f} nats with KPOD and {found['scotd']:.2f} without" in " ".join(STUDY.split())


def test_no_run_is_passed_over(folder: Path) -> None:
    """Every run of the archive is in a table; none was left out because of what it says."""
    shown = {Path(r.runs) / r.name for command in BELOW for r in grid_said_by(command).recipes}
    assert {run.relative_to(folder) for run in (folder / "runs").glob("*/*") if run.is_dir()} == shown


def test_texts_on_the_questions_of_others_are_left_out() -> None:
    files = [file for name in OF_OTHERS for file in Path("runs", name).glob("*/evaluation/after/*/predictions.jsonl")]
    assert len(files) == 12 * 2 + 6 * 2 + 2 * 3
    texts = {json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()}
    assert texts == {""}
