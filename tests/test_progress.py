"""Progress: a bar on a terminal of any width, and few plain lines in a log or a pipe."""

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from kpod.recipe.loading import dump_recipe
from kpod.records import progress
from kpod.records.progress import ProgressBar
from kpod.records.shown import duration
from tiny_runs import recipe, write_tiny_data


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def work(clock: Clock, seconds: list[float], total: int | None = None, done: int = 0) -> None:
    with ProgressBar(total=total or len(seconds), name="weights", unit="rationales", done=done) as bar:
        for each in seconds:
            clock.now += each
            bar.update()


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [
        ([], ["weights: 0 rationales in 0 s"]),
        ([1, 1, 1], ["weights: 3 rationales in 3 s"]),
        ([29, 0.9], ["weights: 2 rationales in 30 s"]),
        ([20, 20, 20, 20], ["weights: 2 of 4 rationales, 40 s left", "weights: 4 rationales in 1 min 20 s"]),
        ([4000, 0], ["weights: 1 of 2 rationales, 1 h 6 min left", "weights: 2 rationales in 1 h 6 min"]),
        ([0.01] * 2000, ["weights: 2000 rationales in 20 s"]),
    ],
)
def test_a_log_has_a_line_at_the_end_and_one_per_30_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str], seconds: list[float], lines: list[str]
) -> None:
    work(clock, seconds)
    assert capsys.readouterr().err.splitlines() == lines


def test_what_an_earlier_start_did_is_not_counted_as_pace(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, [30.0], total=10, done=8)
    assert capsys.readouterr().err == "weights: 9 of 10 rationales, 30 s left\nweights: 9 of 10 rationales in 30 s\n"


def test_a_postfix_stands_in_the_line_and_draws_none_itself(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in (bar := ProgressBar(range(3), name="predictor", unit="updates")):
        clock.now += 12
        bar.set_postfix(NLL="0.52")
    assert (
        capsys.readouterr().err
        == "predictor: 2 of 3 updates, 18 s left (NLL=0.52)\npredictor: 3 updates in 36 s (NLL=0.52)\n"
    )


def test_a_failure_leaves_a_line_that_says_how_far_it_came(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), ProgressBar(total=4, name="teacher", unit="requests") as bar:
        bar.update(1 // bar.n + 3)
    assert capsys.readouterr().err == "teacher: 0 of 4 requests in 0 s\n"


def read_to_the_end(terminal: int) -> str:
    """What was written to a pseudo terminal that is closed on the other side."""
    found = b""
    with contextlib.suppress(OSError):  # how a pseudo terminal says that it is closed
        while part := os.read(terminal, 4096):
            found += part
    os.close(terminal)
    return found.decode()


@pytest.mark.parametrize("columns", [30, 40, 71, 72, 80, 120])
def test_a_bar_fits_its_terminal_and_tells_the_time_left(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """On a pseudo terminal of that width; at 120 columns ten drawings fit its buffer of 4 KB."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = ProgressBar(total=10, name="observations", unit="rationales")
        for _ in range(10):
            bar.update()
            bar.refresh()
        bar.close()
    drawn = read_to_the_end(ours)
    frames = [frame.strip() for frame in drawn.split("\r") if frame.strip()]
    assert len(frames) > 5
    assert max(map(len, frames)) <= columns
    assert all(frame.startswith("observations: ") and re.search(r"\d+:\d\d|\?", frame) for frame in frames)
    assert "\x1b[3" not in drawn, "a colour"


@pytest.mark.parametrize("kind", ["dumb terminal", "pipe"])
def test_where_a_line_cannot_be_written_over_none_is(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    stream = Terminal() if kind == "dumb terminal" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "dumb" if kind == "dumb terminal" else "xterm")
    with ProgressBar(total=3, name="tokens", unit="rationales") as bar:
        bar.update(3)
    assert stream.getvalue() == "tokens: 3 rationales in 0 s\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min"), (90000.0, "25 h 0 min")],
)
def test_a_duration_by_hand(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_a_whole_run_into_a_pipe_has_no_carriage_return_and_a_line_per_phase(tmp_path: Path) -> None:
    """In a process of its own, as other libraries read once whether they may draw bars."""
    chosen = recipe(write_tiny_data(tmp_path / "data"), tmp_path / "runs")
    (tmp_path / "recipe.yaml").write_text(dump_recipe(chosen), encoding="utf-8")
    command = [sys.executable, "-m", "kpod", "run", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1"}, check=True
    )
    told = done.stdout.decode()
    assert "\r" not in told
    assert "\x1b" not in told
    lines = told.splitlines()
    assert len(lines) < 60
    for phase in (
        "tokens",
        "weights",
        "difficulties",
        "clusters",
        "plan",
        "student",
        "evaluation/before",
        "evaluation/after",
    ):
        assert sum(bool(re.match(rf"{phase}\S*: done in \d+ s$", line)) for line in lines) == 1, phase
    for bar in ("predictor", "observations", "difficulty", "training"):
        assert sum(bool(re.match(rf"{bar}: \d+ \w+ in \d+ s", line)) for line in lines) == 1, bar
