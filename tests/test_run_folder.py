"""The folder of phases that runs share: whole or not at all, one process at a time, nothing altered goes unnoticed."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kpod.commands.report import accuracies
from kpod.experiment import artifacts
from kpod.experiment.phases import do_phase
from kpod.experiment.pipeline import Pipeline, run
from kpod.experiment.run_folder import STAMP, RunFolder, fault_of, seal
from kpod.recipe import Recipe
from kpod.records import files
from kpod.records.errors import ConfigError, DataError
from tiny_runs import recipe, write_tiny_data

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    found = recipe(data, tmp_path_factory.mktemp("runs"))
    run(found)
    return found


def phases_of(runs: Path) -> dict[str, Path]:
    """The finished phases of all runs, by their folders' names."""
    return {stamp.parent.name: stamp.parent for stamp in sorted((runs / ".phases").glob(f"*/{STAMP}"))}


def written(text: str):
    """A phase that is one file."""

    def make(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "file.txt").write_text(text, encoding="utf-8")

    return make


def refuse(folder: Path) -> None:
    raise AssertionError(f"made again in {folder}")


# -- shared by key -------------------------------------------------------------------------------------


def test_what_was_made_before_is_found_again_and_by_other_runs(tmp_path: Path) -> None:
    one, other = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "other")
    do_phase(one, "tokens", "a", written("A"))
    do_phase(one, "tokens", "b", written("B"))
    assert (one.key("tokens"), (one.path / "tokens" / "inner" / "file.txt").read_text()) == ("b", "B")
    do_phase(one, "tokens", "a", refuse)
    do_phase(other, "tokens", "b", refuse)
    assert (one.key("tokens"), other.key("tokens")) == ("a", "b")
    assert not (one.path / "tokens").readlink().is_absolute()
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    assert (moved / "one" / "tokens" / "inner" / "file.txt").read_text() == "A"


def test_a_key_changed_and_changed_back_trains_once(
    data: Path, finished: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower = replace(finished, training=replace(finished.training, learning_rate=1e-4))
    before = Pipeline(finished).folder.key("student")
    run(slower)
    assert Pipeline(slower).folder.key("student") != before
    monkeypatch.setattr("kpod.experiment.pipeline.train_student", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr("kpod.experiment.evaluations.answer_questions", lambda *_, **__: pytest.fail("asked again"))
    run(finished)
    assert Pipeline(finished).folder.key("student") == before
    run(replace(slower, name="named-otherwise"))


def test_where_links_cannot_be_made_phases_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", cannot)
    found = RunFolder(tmp_path / "run")
    for key in ("a", "b", "a", "a"):
        do_phase(found, "evaluation/after/set", key, written(key))
        assert (found.path / "evaluation" / "after" / "set" / "inner" / "file.txt").read_text() == key
    assert [path.name for path in (found.path / "evaluation" / "after").iterdir()] == ["set"]
    monkeypatch.undo()
    do_phase(found, "evaluation/after/set", "b", refuse)
    assert (found.path / "evaluation" / "after" / "set").is_symlink()


def test_a_copied_run_brings_its_phases(finished: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its links become folders where it is copied; what they hold is taken in, not made again."""
    shutil.copytree(Path(finished.runs) / finished.name, tmp_path / finished.name)
    monkeypatch.setattr("kpod.experiment.pipeline.train_student", lambda *_, **__: pytest.fail("trained again"))
    for name in ("encode_all", "weigh_rationales", "assess_difficulties"):
        monkeypatch.setattr(f"kpod.experiment.algorithm.{name}", lambda *_, **__: pytest.fail("made again"))
    Pipeline(replace(finished, runs=str(tmp_path))).distil()
    assert (tmp_path / finished.name / "student").is_symlink()


# -- one at a time -------------------------------------------------------------------------------------


def test_a_second_worker_waits_says_for_whom_and_finds_it_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found, begun, end = RunFolder(tmp_path / "run"), threading.Event(), threading.Event()

    def make(folder: Path) -> None:
        begun.set()
        end.wait(20)
        written("first")(folder)

    first = threading.Thread(target=do_phase, args=(found, "tokens", "a", make))
    second = threading.Thread(target=do_phase, args=(found, "tokens", "a", refuse))
    first.start()
    begun.wait(20)
    second.start()
    while f"tokens: waiting for process {os.getpid()} on" not in caplog.text:
        time.sleep(0.01)
    do_phase(found, "tokens", "b", written("another key is free"))
    end.set()
    first.join()
    second.join()
    assert (found.place("tokens", "a") / "inner" / "file.txt").read_text() == "first"


def test_the_lock_and_the_rest_of_a_killed_process_are_taken_over(tmp_path: Path) -> None:
    found = RunFolder(tmp_path / "run")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with found.alone("tokens", "a"), found.making("tokens", "a") as folder:
            (folder / "half").write_text("half")
            os.write(writer, b"!")
            time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not found.has("tokens", "a")
    do_phase(found, "tokens", "a", written("whole"))
    assert not (found.path / "tokens" / "half").exists()
    assert [p.name for p in found.phases.iterdir() if not p.name.endswith(".lock")] == ["tokens-a"]


def test_a_failure_leaves_nothing_that_counts(tmp_path: Path) -> None:
    found = RunFolder(tmp_path / "run")

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise DataError("no")

    with pytest.raises(DataError):
        do_phase(found, "tokens", "a", fail)
    assert not found.has("tokens", "a")
    assert not (found.path / "tokens").exists()


# -- on the disk ---------------------------------------------------------------------------------------


def test_every_file_is_on_the_disk_before_the_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(files, "flush_to_disk", lambda path: flushed.append(Path(path).name))
    do_phase(RunFolder(tmp_path / "run"), "tokens", "a", written("A"))
    (stamp,) = (n for n, name in enumerate(flushed) if name.startswith(f".{STAMP}"))
    assert {"inner", "file.txt"} <= set(flushed[:stamp])
    assert ".tokens-a.making" in flushed[stamp:]


@pytest.mark.slow
def test_two_runs_make_the_same_files(data: Path, finished: Recipe, tmp_path: Path) -> None:
    """No time of day and no duration is in what is hashed; the recipe beside a student names its own folder of runs."""
    again = replace(finished, runs=str(tmp_path))
    run(again)
    keys = Pipeline(finished).keys
    for phase in ("tokens", "weights", "clusters", "difficulties", "plan", "student"):
        one, two = (
            json.loads((Pipeline(r).folder.place(phase, keys[phase]) / STAMP).read_text()) for r in (finished, again)
        )
        for stamp in (one, two):
            stamp["files"].pop("recipe.yaml", None)
        assert one == two


def test_a_report_takes_no_accuracy_of_another_recipes_student(finished: Recipe) -> None:
    """As after `kpod distill` with a changed recipe, where nothing was evaluated yet."""
    (_, after), *_ = accuracies(Pipeline(finished))
    assert after.num_questions == 2
    for changed in (
        replace(finished, training=replace(finished.training, learning_rate=2e-3)),
        replace(finished, evaluation=replace(finished.evaluation, max_new_tokens=5)),
    ):
        with pytest.raises(DataError, match=r"after/.* is not of the student of this recipe .* run kpod evaluate"):
            accuracies(Pipeline(changed))


# -- what is altered -----------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flipped", "cut", "deleted"])
def test_every_altered_file_of_a_finished_run_is_named(damage, finished: Recipe, tmp_path: Path) -> None:
    runs = shutil.copytree(Path(finished.runs), tmp_path / "runs", symlinks=True)
    tried = 0
    for folder in phases_of(runs).values():
        assert fault_of(folder) is None
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != STAMP and p.stat().st_size):
            content = path.read_bytes()
            damage(path)
            name = path.relative_to(folder).as_posix()
            assert str(fault_of(folder)).startswith(f"{name} "), path
            path.write_bytes(content)
            assert fault_of(folder) is None
            tried += 1
    assert tried > 20


@pytest.mark.slow
def test_what_was_altered_is_named_kept_apart_and_made_again(
    finished: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = shutil.copytree(Path(finished.runs), tmp_path / "runs", symlinks=True)
    again = Pipeline(replace(finished, runs=str(runs)))
    keys = {phase: key for phase, key in again.keys.items() if (again.folder.place(phase, key) / STAMP).is_file()}
    (test,) = finished.data.tests
    for when, identity in (("before", None), ("after", keys["student"])):
        phase = artifacts.evaluation_phase(when, test)
        keys[phase] = again.folder.key(phase)
        assert identity is None or keys[phase] == again.evaluations.key(identity, test)
    places = {phase: again.folder.place(phase, key) for phase, key in keys.items()}
    before = {phase: json.loads((place / STAMP).read_text())["files"] for phase, place in places.items()}
    for phase, place in places.items():
        name = max(before[phase])
        flip(place / name)
        mine = place / "notes of mine.txt"
        mine.write_text(phase, encoding="utf-8")
    with pytest.raises(DataError, match=r"summary\.json was changed or cut short; run kpod evaluate again"):
        again.evaluation("after", test)
    run(again.recipe)
    for phase, place in places.items():
        assert f"{phase}: {max(before[phase])} was changed or cut short in {place}" in caplog.text
        assert (place.with_name(f"{place.name}.altered") / "notes of mine.txt").read_text() == phase
        now = json.loads((place / STAMP).read_text())["files"]
        assert {k: v for k, v in now.items() if k != "recipe.yaml"} == {
            k: v for k, v in before[phase].items() if k != "recipe.yaml"
        }


@pytest.mark.parametrize("text", ["{", "[]", '{"key": "b", "files": {}}', '{"key": "a"}', '{"key": "a", "files": 3}'])
def test_a_stamp_that_says_something_else_does_not_count(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = RunFolder(tmp_path / "run")
    do_phase(found, "tokens", "a", written("A"))
    (found.place("tokens", "a") / STAMP).write_text(text, encoding="utf-8")
    assert not found.has("tokens", "a")
    do_phase(found, "tokens", "a", written("A again"))
    assert "tokens: stamp.json was changed or is of an earlier version in" in caplog.text
    assert (found.path / "tokens" / "inner" / "file.txt").read_text() == "A again"


# -- what others have put there ------------------------------------------------------------------------


def test_a_users_file_in_a_phase_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It does not count, and where the folder is replaced, it is kept with the old one."""
    found = RunFolder(tmp_path / "run")
    do_phase(found, "tokens", "a", written("A"))
    mine = found.path / "tokens" / "mine.txt"
    mine.write_text("mine", encoding="utf-8")
    do_phase(found, "tokens", "a", refuse)
    assert mine.read_text() == "mine"
    with found.alone("tokens", "a"), found.making("tokens", "a") as folder:
        written("new")(folder)
    assert (found.phases / "tokens-a.altered" / "mine.txt").read_text() == "mine"
    assert "it is kept as tokens-a.altered" in caplog.text


def test_a_folder_of_an_earlier_version_is_kept_and_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = tmp_path / "run" / "tokens"
    old.mkdir(parents=True)
    (old / STAMP).write_text('{"key": "a"}', encoding="utf-8")
    (old / "tokens.parquet").write_bytes(b"old")
    do_phase(RunFolder(tmp_path / "run"), "tokens", "a", written("new"))
    assert "tokens was made by an earlier version of kpod: it is kept as tokens.before, and made again" in caplog.text
    assert (tmp_path / "run" / "tokens.before" / "tokens.parquet").read_bytes() == b"old"
    assert (tmp_path / "run" / "tokens" / "inner" / "file.txt").read_text() == "new"


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_not_ours_is_refused_before_any_work(is_folder: bool, tmp_path: Path) -> None:
    mine = tmp_path / "run" / "evaluation" / "before" / "set"
    mine.parent.mkdir(parents=True)
    if is_folder:
        mine.mkdir()
        (mine / "notes.txt").write_text("mine", encoding="utf-8")
    else:
        mine.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"set was not made by kpod .* move it, or change `name`"):
        do_phase(RunFolder(tmp_path / "run"), "evaluation/before/set", "a", refuse)
    assert ((mine / "notes.txt") if is_folder else mine).read_text() == "mine"


def test_a_sealed_folder_can_be_sealed_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one", encoding="utf-8")
    seal(tmp_path, "a")
    (tmp_path / "file").write_text("other", encoding="utf-8")
    assert fault_of(tmp_path) == "file was changed or cut short"
    seal(tmp_path, "a")
    assert fault_of(tmp_path, "a") is None
    assert fault_of(tmp_path, "b") is not None
