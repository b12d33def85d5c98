"""The published study says what its published predictions say: every table, every claim, and of every run."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from kpod.commands.command_line import main, parsed
from kpod.commands.grid import comparison
from kpod.commands.grid.comparison import tabulate
from kpod.evaluation.pairing import paired_difference
from kpod.experiment.pipeline import Pipeline
from kpod.recipe import AverageConfig
from kpod.training.metrics import METRICS, read_updates
from tiers import tiered

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from study_errors import slips, spreads  # noqa: E402
from study_json import contrasts_of, unpack  # noqa: E402
from study_json import grid_of as grid_said_by  # noqa: E402

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
    unpack(folder)
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


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
            row += [f"{points(paired.interval)} (p = {paired.p_value:.3f})", points(paired.seed_interval) or "unknown"]
            row.append(paired.verdict)
            assert f"{' | '.join(row)} |" in STUDY
            told += 1
    assert told == STUDY.split("SmolLM2-135M, fully")[0].count("\n|") - 2


# -- benchmarks/study.json ---------------------------------------------------------------------------------------------

STORED = json.loads((ROOT / "benchmarks" / "study.json").read_text(encoding="utf-8"))
KEYS = {
    "trained_on",
    "tested_on",
    "student",
    "contrast",
    "seeds",
    "questions",
    "difference",
    "ci_questions",
    "ci_seeds",
}


def rows_of_the_page() -> list[dict[str, str]]:
    """Every row of the tables below commands that is compared with a base, and what heads its table."""
    found = []
    for table in TABLE.findall("".join(BELOW.values())):
        head, _, titles, _, *rows = table.splitlines()
        if (told := re.match(r"\*\*(.+)\*\*: (\d+) questions, (\d+) seeds?; differences to `(.+)`,", head)) is None:
            continue  # the overview of several test sets
        for row in rows:
            cells = dict(
                zip(*([cell.strip() for cell in line.split("|")[1:-1]] for line in (titles, row)), strict=True)
            )
            if cells["difference"]:
                names = ("tested_on", "questions", "seeds", "base")
                found.append({**dict(zip(names, told.groups(), strict=True)), "name": cells.pop(""), **cells})
    return found


def test_study_json_says_what_the_tables_of_the_page_say() -> None:
    """Each of its objects is a row of a table, in the page's order, and no row is left out."""
    told = rows_of_the_page()
    assert len(told) == len(STORED) >= 30
    for row, stored in zip(told, STORED, strict=True):
        assert stored.keys() == {*KEYS, "runs", "verdict"}
        assert stored["contrast"] == f"{row['name']} - {row['base']}"
        assert (stored["tested_on"], str(stored["questions"]), str(stored["seeds"])) == (
            row["tested_on"],
            row["questions"],
            row["seeds"],
        )
        assert f"{100 * stored['difference']:+.1f}" == row["difference"]
        assert row["95 %, other questions"].startswith(f"{points(stored['ci_questions'])} (p = ")
        assert (points(stored["ci_seeds"]) or "unknown") == row["95 %, other seeds"]
        assert stored["verdict"] == row["verdict"]


def test_a_verdict_follows_from_the_two_intervals() -> None:
    """The rule of the page, worked out here once more; one seed has no second interval."""
    for stored in STORED:
        both = [stored["ci_questions"], stored["ci_seeds"] or [-1, 1]]
        above, below = (all(low > 0 for low, _ in both), all(high < 0 for _, high in both))
        assert stored["verdict"] == ("helps" if above else "harms" if below else "open")
        assert (stored["ci_seeds"] is None) is (stored["seeds"] == 1)


@pytest.mark.parametrize("command", tiered(BELOW, sorted(BELOW, key=len)[1:]))
def test_study_json_is_what_the_predictions_say(command: str) -> None:
    made = list(contrasts_of(grid_said_by(command)))
    assert made
    stored = [json.dumps(one) for one in STORED]
    for one in made:
        assert json.dumps(one) in stored


# -- the corrections ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shares_of_slips_are_what_the_predictions_say() -> None:
    found, words = slips(Path("runs")), " ".join(STUDY.split())
    wrong, right = (round(100 * found[f"{kind} with slip"] / found[kind]) for kind in ("wrong", "right"))
    assert f"of {found['wrong']} wrong answers" in words
    assert f"{wrong} % hold an equation that is false; of the right ones {right} % do" in words
    new, known = (f"{round(100 * found[f'{kind} false'] / found[kind])} %" for kind in ("new", "known"))
    counts = {kind: f"{found[kind]:,}".replace(",", " ") for kind in ("new", "known")}
    assert f"false in {new} of {counts['new']} cases, one that does in {known} of {counts['known']}" in words


def test_the_spread_on_asdiv_is_below_what_chance_brings() -> None:
    """The interval over seeds that the page names is Student's with the larger of the two."""
    seen, floor = spreads(Path("runs"))
    words = " ".join(STUDY.split())
    assert f"a standard deviation of {seen:.1f} points. Chance alone brings {floor:.1f}" in words
    (stored,) = (one for one in STORED if (one["runs"], one["tested_on"]) == ("asdiv", "asdiv:test"))
    half = 4.302653 * floor / 3**0.5
    low, high = (100 * stored["difference"] - half, 100 * stored["difference"] + half)
    assert low < -8 < 0 < high
    assert f"would be {low:+.1f} to {high:+.1f} and the verdict open" in words


def test_the_seeds_for_two_points_are_those_of_the_first_table() -> None:
    row = next(row for row in rows_of_the_page() if row["name"] == "kpod")
    assert f"it takes {row['seeds for 2 points']} seeds to tell two points" in " ".join(STUDY.split())


# -- the second study --------------------------------------------------------------------------------------------------


def test_the_second_study_is_the_grid_that_the_page_decides_on() -> None:
    """Both commands of its recipe's head: weights x order, five seeds, averaged, never seen to train on its tests."""
    head = (ROOT / "recipes" / "study-2.yaml").read_text(encoding="utf-8").replace("\\\n#", " ").splitlines()
    commands = [line.removeprefix("#").strip() for line in head if "kpod compare" in line]
    assert len(commands) == 2
    assert commands[0] in STUDY
    for command, trained in zip(commands, ("asdiv", "svamp"), strict=True):
        grid = grid_said_by(command.removeprefix("kpod "))
        assert list(grid.runs) == ["scotd", "kpod-wo-sig", "kpod-wo-prog", "kpod"]
        assert (grid.base, [recipe.seed for recipe in grid.runs["kpod"]]) == ("scotd", [0, 1, 2, 3, 4])
        for recipe in grid.recipes:
            assert recipe.training.average == AverageConfig(0.33)
            assert recipe.data.train == trained
            held_out = recipe.evaluation.held_out
            assert held_out is not None
            assert held_out.rationales != trained
    assert "**Not run yet.**" in STUDY.split("# The second study")[1]


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
