"""Grids of tiny runs: what they share, what they resume, and what their tables say."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kpod.commands.command_line import main, parsed
from kpod.commands.grid import comparison
from kpod.commands.grid.comparison import compare, tabulate
from kpod.commands.grid.side_by_side import in_processes, prepare
from kpod.commands.grid.variants import Grid, is_finished
from kpod.commands.pages.comparisons import ComparedMethod, comparison_markdown, overview_markdown, render_comparison
from kpod.commands.sweep import grid_of
from kpod.evaluation.accuracy import summarise
from kpod.experiment.artifacts import WEIGHTS, evaluation_phase, read_jsonl, save_evaluation
from kpod.experiment.pipeline import Pipeline
from kpod.experiment.run_folder import seal
from kpod.recipe import AskConfig, Recipe
from kpod.recipe.loading import load_recipe
from kpod.records.errors import ConfigError, DataError, KpodError
from kpod.records.outcomes import PairedDifference
from tiny_runs import end_the_bad_one, recipe, take_an_hour, write_tiny_data

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

METHODS = ("scotd", "kpod", "kpod-wo-prog")


def in_this_process(work, tasks, jobs):
    for recipes in tasks.values():
        work(recipes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def grid(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Three methods under two seeds, run."""
    runs = tmp_path_factory.mktemp("runs")
    found = recipe(data, runs)
    made = Grid.of({method: replace(found, method=method) for method in METHODS}, (0, 1), runs / "tiny-compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "in_processes", in_this_process)
        compare(made)
    return made


def test_runs_share_what_they_have_in_common(grid: Grid) -> None:
    def weights(name: str) -> int:
        return (grid.folder / name / "weights" / WEIGHTS).stat().st_ino

    assert weights("kpod-seed0") == weights("kpod-wo-prog-seed0") != weights("kpod-seed1")
    assert weights("kpod-seed1") == weights("kpod-wo-prog-seed1")
    assert not (grid.folder / "scotd-seed0" / "weights").exists()
    assert len({(grid.folder / f"{name}-seed0" / "tokens" / "tokens.arrow").stat().st_ino for name in METHODS}) == 1


@pytest.mark.slow
def test_weights_are_learnt_before_the_runs_also_where_the_order_needs_none(data: Path, tmp_path: Path) -> None:
    linear = replace(recipe(data, tmp_path), method="kpod-linear")
    prepare([linear])
    assert (tmp_path / linear.name / "weights" / WEIGHTS).is_file()
    assert not (tmp_path / linear.name / "difficulties").exists()


def test_what_is_finished_is_not_done_again(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work, tasks, jobs):
        assert not tasks

    monkeypatch.setattr(comparison, "in_processes", refuse)
    before = (grid.folder / "comparison.json").read_bytes()
    assert compare(grid) == (grid.folder / "comparison.md").read_text(encoding="utf-8")
    assert (grid.folder / "comparison.json").read_bytes() == before


@pytest.mark.slow
def test_the_same_recipe_outside_a_grid_comes_to_the_same(grid: Grid, tmp_path: Path) -> None:
    alone = Pipeline(replace(grid.runs["kpod"][1], runs=str(tmp_path)))
    alone.run()
    shared = grid.folder / "kpod-seed1" / "student" / "model.safetensors"
    assert (tmp_path / "kpod-seed1" / "student" / "model.safetensors").read_bytes() == shared.read_bytes()


def test_tables_say_what_the_predictions_say(grid: Grid, tmp_path: Path) -> None:
    """Texts written by hand, whose accuracies are 0.5 and 1 against 0 and 0.5; they are judged when they are read."""
    moved = Grid(grid.folder, {name: grid.runs[name] for name in ("scotd", "kpod")}, "scotd")
    test = moved.recipes[0].data.tests[0]
    for name, right in (("scotd", (0, 1)), ("kpod", (1, 2))):
        for run, num_right in zip(moved.runs[name], right, strict=True):
            found = Pipeline(run)
            predictions = [
                replace(p, text=f"The answer is {p.gold if n < num_right else '-77'}.")
                for n, p in enumerate(sorted(found.evaluation("after", test)[0], key=lambda p: p.id))
            ]
            folder = found.folder.path / evaluation_phase("after", test)
            save_evaluation(folder, predictions, summarise(test, predictions))
            seal(folder, "by hand")
    rows, num_questions = tabulate(moved)[test]
    tables, (base, kpod) = comparison_markdown(test, rows, "scotd", num_questions), rows
    assert base.accuracies == (0.0, 0.5)
    assert kpod.accuracies == (0.5, 1.0)
    assert (base.against_base, base.corrected_p_value) == (None, None)
    paired = kpod.against_base
    assert paired is not None
    assert (paired.difference, paired.by_seed) == (0.5, (0.5, 0.5))
    assert paired.p_value == kpod.corrected_p_value == 0.5  # both of two questions better: of four signs two are as far
    assert "| kpod | 75.0 | 35.4 |" in tables
    assert "| +50.0 | +50.0 to +50.0 (p = 0.500) | +50.0 to +50.0 | +50.0 +50.0 | helps | 2 |" in tables
    assert kpod.seeds_to_settle == 2  # no spread was seen
    assert "| scotd | 25.0 | 35.4 |" in tables
    lines = read_jsonl(moved.folder / "kpod-seed0" / "student" / "metrics.jsonl")
    assert kpod.trained_tokens[0] == sum(line["trained_tokens"] for line in lines)
    assert kpod.updates == base.updates
    assert kpod.trained_tokens < base.trained_tokens


def test_the_page_draws_each_method_by_steps_and_by_tokens() -> None:
    row = ComparedMethod("<b>", (0.5, 0.25), (0.2, 0.6), None, None, (4, 6), (1000, 3000))
    page = render_comparison("x", {"t": [row]}, {"<b>": [(2, 100, 0.25), (4, 300, 0.5)], "unwatched": []}, "<b>")
    assert page.count("<svg") == 2
    assert 'aria-label="Validation accuracy by trained tokens"' in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "<td>5</td>" in page
    assert "2,000" in page
    assert "unwatched" not in page
    assert "<svg" not in render_comparison("x", {"t": [row]}, {"unwatched": []}, "<b>")


def test_several_test_sets_have_a_table_of_methods_by_sets_first() -> None:
    """Of the base no difference; of a single seed no deviation."""
    base = ComparedMethod("scotd", (0.5, 0.25), (0.2, 0.6), None, None, (4, 4), (9, 9))
    paired = PairedDifference(0.125, (0.0, 0.25), (0.125,), None, 1.0)
    other = replace(base, name="kpod", accuracies=(0.5,), against_base=paired, corrected_p_value=1.0)
    tests = {"near": [base, other], "far": [base, other]}
    assert overview_markdown(tests, "scotd").splitlines()[2:] == [
        "| | near | far |",
        "|---|---|---|",
        "| scotd | 37.5 +- 17.7 | 37.5 +- 17.7 |",
        "| kpod | 50.0 (+12.5) | 50.0 (+12.5) |",
    ]
    assert "<td>kpod</td><td>50.0 (+12.5)</td>" in render_comparison("x", tests, {}, "scotd")
    assert "(+12.5)" not in render_comparison("x", {"near": tests["near"]}, {}, "scotd")


def test_a_sweep_draws_accuracy_by_the_values_that_are_numbers() -> None:
    """At a value's place the mean; texts of a user, such as a file's name, are never drawn."""
    row = ComparedMethod("p=0.5", (0.5, 0.25), (0.2, 0.6), None, None, (4, 6), (9, 9))
    rows = [replace(row, name=f"p={value}") for value in ("0.5", "2", "x.txt", "2, tokens of p=0.5")]
    page = render_comparison("x", {"near": rows}, {}, "p=0.5", "schedule.growth_exponent")
    (figure,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert 'aria-label="Accuracy by schedule.growth_exponent"' in figure
    assert re.findall(r">([\d.]+|x\S*)</text>", figure)[:2] == ["0.5", "2"]
    assert "x.txt" not in figure
    assert "<svg" not in render_comparison("x", {"near": rows[:1] + rows[2:]}, {}, "p=0.5", "schedule.growth_exponent")


@pytest.mark.slow
def test_the_base_with_as_many_tokens_stops_early(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "in_processes", in_this_process)
    tables = compare(grid, match_tokens="kpod")
    assert "| scotd, tokens of kpod |" in tables
    *others, matched = json.loads((grid.folder / "comparison.json").read_text(encoding="utf-8"))["tests"].popitem()[1]
    kpod, scotd = (next(row for row in others if row["name"] == name) for name in ("kpod", "scotd"))
    for tokens, wanted, updates, whole in zip(
        matched["trained_tokens"], kpod["trained_tokens"], matched["updates"], scotd["updates"], strict=True
    ):
        assert updates < whole
        assert wanted <= tokens < wanted + scotd["trained_tokens"][0] / whole * 2
    with pytest.raises(ConfigError, match="match-tokens is 'scotd'"):
        grid.with_matched_tokens("scotd")


@pytest.mark.parametrize(
    ("interval", "over_seeds", "verdict"),
    [
        ((0.01, 0.05), (0.002, 0.06), "helps"),
        ((-0.05, -0.01), (-0.06, -0.002), "harms"),
        ((0.01, 0.05), (-0.002, 0.06), "open"),
        ((-0.01, 0.05), (0.002, 0.06), "open"),
        ((0.01, 0.05), (-0.06, -0.01), "open"),
        ((0.0, 0.05), (0.002, 0.06), "open"),
        ((0.01, 0.05), None, "open"),
    ],
)
def test_a_verdict_needs_both_intervals_and_stands_in_the_tables(interval, over_seeds, verdict) -> None:
    """A p-value never stands alone: beside it are both intervals, or that the one over seeds is unknown."""
    base = ComparedMethod("scotd", (0.5, 0.25), (0.2, 0.6), None, None, (4, 4), (9, 9))
    paired = PairedDifference(0.03, interval, (0.02, 0.04) if over_seeds else (0.03,), over_seeds, 0.01)
    assert paired.verdict == verdict
    row = replace(base, name="kpod", against_base=paired, corrected_p_value=0.02, seeds_to_settle=7)
    row = row if over_seeds else replace(row, seeds_to_settle=None)
    shown = comparison_markdown("t", [base, row], "scotd", 300).splitlines()
    head, cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (shown[2], shown[5]))
    told = dict(zip(head, cells, strict=True))
    assert told["95 %, other questions"] == f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f} (p = 0.020)"
    assert told["verdict"] == verdict
    assert told["seeds for 2 points"] == ("7" if over_seeds else "unknown")
    assert (told["95 %, other seeds"] == "unknown") is (over_seeds is None)
    page = render_comparison("x", {"t": [base, row]}, {}, "scotd")
    assert f"<td>{verdict}</td>" in page
    assert page.count("(p = ") == "".join(shown).count("(p = ") == 1


def test_a_single_seed_has_no_deviation() -> None:
    row = ComparedMethod("m", (0.5,), (0.2, 0.8), None, None, (1,), (2,))
    assert (row.mean, row.deviation) == (0.5, None)
    two = replace(row, accuracies=(0.25, 0.75))
    assert two.deviation == pytest.approx(np.std([0.25, 0.75], ddof=1))


def test_a_grid_without_sense_is_refused(grid: Grid) -> None:
    run = grid.runs["kpod"][0]
    for variants, seeds, base in (
        ({}, (0,), None),
        ({"a": run}, (0, 0), None),
        ({"a": run}, (), None),
        ({"a": run}, (0,), "b"),
    ):
        with pytest.raises(ConfigError):
            Grid.of(variants, seeds, grid.folder, base)


def test_a_grid_asks_the_teacher_through_the_store_of_the_runs_beside_it(data: Path, tmp_path: Path) -> None:
    found = recipe(data, tmp_path / "runs")
    asking = replace(found, teacher=replace(found.teacher, ask=AskConfig("model")))
    (run,) = Grid.of({"a": asking}, (0,), tmp_path / "runs" / "tiny-compare").recipes
    assert run.teacher.ask is not None
    assert run.teacher.ask.store == str(tmp_path / "runs" / "teacher.jsonl")
    own = replace(asking, teacher=replace(found.teacher, ask=AskConfig("model", store="mine.jsonl")))
    (run,) = Grid.of({"a": own}, (0,), tmp_path / "runs" / "tiny-compare").recipes
    assert run.teacher.ask == AskConfig("model", store="mine.jsonl")


def test_runs_that_were_asked_other_questions_are_not_compared(grid: Grid, tmp_path: Path) -> None:
    moved = Grid(tmp_path, {name: [replace(grid.runs[name][0], runs=str(tmp_path))] for name in METHODS[:2]}, "scotd")
    test = moved.recipes[0].data.tests[0]
    for name in METHODS[:2]:
        shutil.copytree(grid.folder / f"{name}-seed0", tmp_path / f"{name}-seed0")
    found = Pipeline(moved.runs["kpod"][0])
    others = [replace(p, id=f"other {p.id}") for p in found.evaluation("after", test)[0]]
    folder = found.folder.path / evaluation_phase("after", test)
    save_evaluation(folder, others, summarise(test, others))
    seal(folder, "by hand")
    with pytest.raises(DataError, match="kpod-seed0 was asked other questions than the runs before it"):
        tabulate(moved)


def test_tables_of_a_changed_recipe_name_the_runs(grid: Grid, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        comparison.warn_of_unfinished(grid)
        assert not caplog.records
        kpod = [replace(r, training=replace(r.training, learning_rate=1e-9)) for r in grid.runs["kpod"]]
        comparison.warn_of_unfinished(replace(grid, runs={**grid.runs, "kpod": kpod}))
    assert [record.args for record in caplog.records] == [("kpod-seed0",), ("kpod-seed1",)]
    assert load_recipe(grid.folder / "kpod-seed0" / "recipe.yaml") == grid.runs["kpod"][0]


@pytest.mark.slow
def test_a_failed_run_leaves_the_others_and_is_told(data: Path, tmp_path: Path) -> None:
    """In processes of their own; the failing run's prompts and texts do not fit the model."""
    good = replace(recipe(data, tmp_path), method="scotd")
    bad = replace(good, evaluation=replace(good.evaluation, max_new_tokens=10**6))
    grid = Grid.of({"good": good, "bad": bad}, (0,), tmp_path / "grid")
    prepare(grid.recipes)
    with pytest.raises(KpodError, match=r"1 of 2 failed, the first bad-seed0: .* do not fit the model's context"):
        compare(grid, jobs=2)
    assert is_finished(Pipeline(grid.runs["good"][0]))
    assert "do not fit" not in (grid.folder / "good-seed0" / "compare.log").read_text(encoding="utf-8")
    assert "plan: already done" in (grid.folder / "good-seed0" / "compare.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_killed_run_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    tasks = {name: [Recipe(name=name, runs=str(tmp_path))] for name in ("bad", "last")}
    with pytest.raises(
        KpodError, match=r"the first bad: its process ended with exit code -9, as is done where memory runs out"
    ):
        in_processes(end_the_bad_one, tasks, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.slow
def test_sigterm_ends_the_runs_at_work_too(tmp_path: Path) -> None:
    """And none is begun."""

    def send() -> None:
        for _ in range(3000):
            time.sleep(0.1)
            if (tmp_path / "first begun").exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    before, sender = signal.getsignal(signal.SIGTERM), threading.Thread(target=send, daemon=True)
    sender.start()
    tasks = {name: [Recipe(name=name, runs=str(tmp_path))] for name in ("first", "second")}
    with pytest.raises(SystemExit) as end:
        in_processes(take_an_hour, tasks, 1)
    assert end.value.code == 128 + signal.SIGTERM
    assert not multiprocessing.active_children()
    assert [path.name for path in tmp_path.iterdir()] == ["first begun"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_swept_values_make_run_names_that_can_be_read_back(data: Path, tmp_path: Path) -> None:
    found = recipe(data, tmp_path)
    grid = Grid.of({"embeddings=/a/glove.txt": found, "lr=1e-5": found}, (7,), tmp_path)
    assert [run.name for run in grid.recipes] == ["embeddings-a-glove.txt-seed7", "lr-1e-5-seed7"]
    assert [load_recipe(None, ["--name", run.name]).name for run in grid.recipes] == [run.name for run in grid.recipes]
    with pytest.raises(ConfigError, match="told apart"):
        Grid.of({"a=b": found, "a/b": found}, (0,), tmp_path)


def test_keys_with_the_same_last_word_are_swept_in_folders_of_their_own(data: Path, tmp_path: Path) -> None:
    recipe(data, tmp_path)
    file = tmp_path / "recipe-given.yaml"
    keys = ("weighting.spread", "evaluation.temperature")
    folders = [grid_of(parsed(["sweep", str(file), f"{key}=0.1,0.2"])).folder.name for key in keys]
    assert folders == ["tiny-sweep-weighting.spread", "tiny-sweep-evaluation.temperature"]


def test_a_student_that_is_not_there_is_told_before_any_run(grid: Grid) -> None:
    lost = replace(grid.runs["kpod"][0], student="nowhere")
    with pytest.raises(ConfigError, match="'nowhere' cannot be loaded"):
        compare(Grid.of({"a": lost}, (0,), grid.folder))


def test_the_commands_refuse_what_they_do_not_know(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(data, tmp_path)
    file = str(tmp_path / "recipe-given.yaml")
    assert main(["compare", file, "--methods", "scotd,kpot"]) == 2
    assert "method is 'kpot'" in capsys.readouterr().err
    assert main(["sweep", file, "schedule.initial_fractoin=0.1,0.3"]) == 2
    assert "did you mean schedule.initial_fraction?" in capsys.readouterr().err
    assert main(["sweep", file, "seed=1,2"]) == 2
    assert "sweep is 'seed'; it must be a key that a grid leaves alone; seeds are named by --seeds" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "tiny-compare").exists()
