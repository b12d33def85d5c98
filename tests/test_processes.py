"""Several processes share the work of a run, and come to what one comes to."""

import json
from pathlib import Path

import numpy as np
import pytest

from forked import run_script
from kpod.experiment.artifacts import DIFFICULTIES, PREDICTIONS, REFERENCE, TEACHER_LOGPROBS, WEIGHTS, read_jsonl
from kpod.lm.processes import agreed, divided, own_share
from kpod.records.columns import ById
from kpod.records.topk import TopKById
from kpod.training.metrics import read_updates

TAUGHT = ("taught-one", "taught-two")


def test_one_process_does_everything_and_at_once():
    done: list[int] = []
    found = divided([3, 1, 2], lambda item: done.append(item) or item * 10)
    assert (next(found), done) == (30, [3])
    assert [*found] == [10, 20]
    assert own_share([3, 1, 2]) == [3, 1, 2]
    assert agreed("mine") == "mine"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs of shared_runs.py."""
    root = tmp_path_factory.mktemp("runs")
    told = run_script("shared_runs", root)
    codes = json.loads((root / "report.json").read_text())
    (first, second), last = codes.pop("killed")
    assert first != 0, "the first process does not go on alone"
    assert (second, last) == (-9, [0, 0]), told
    assert {code for starts in codes.values() for start in starts for code in start} == {0}, told
    return root


def arrays(path: Path) -> dict[str, np.ndarray]:
    return dict(ById(path).items())


@pytest.mark.slow
@pytest.mark.parametrize("other", ["two", "killed"])
@pytest.mark.parametrize("file", [f"weights/{WEIGHTS}", f"difficulties/{DIFFICULTIES}", f"reference/{REFERENCE}"])
def test_numbers_are_those_of_one_process(runs: Path, other: str, file: str) -> None:
    one, shared = (arrays(runs / name / "tiny" / file) for name in ("one", other))
    assert list(one) == list(shared)
    assert max(float(np.abs(one[id_] - shared[id_]).max()) for id_ in one) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("pair", [("one", "two"), ("one", "killed"), TAUGHT])
@pytest.mark.parametrize("when", ["before", "after"])
def test_answers_are_those_of_one_process(runs: Path, pair: tuple[str, str], when: str) -> None:
    found = []
    for name in pair:
        (file,) = (runs / name / "tiny" / "evaluation" / when).glob(f"*/{PREDICTIONS}")
        found.append(read_jsonl(file))
    assert len(found[0]) == 6
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_teachers_probabilities_are_those_of_one_process(runs: Path) -> None:
    one, two = (TopKById(runs / name / "tiny" / "teacher_logprobs" / TEACHER_LOGPROBS) for name in TAUGHT)
    assert list(one) == list(two)
    for id_ in one:
        assert np.array_equal(one[id_].token_ids, two[id_].token_ids)
        assert np.array_equal(one[id_].logprobs, two[id_].logprobs)


@pytest.mark.slow
def test_an_order_by_losses_is_that_of_one_process(runs: Path) -> None:
    """Three rationales in epoch 1, then six; where three are too few for two processes, accelerate repeats one."""
    one, two = (
        read_updates(runs / name / "tiny" / "student" / "metrics.jsonl") for name in ("easiest-one", "easiest-two")
    )
    assert [line["stage"] for line in two] == [1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert [line["stage"] for line in one] == [line["stage"] for line in two]
    assert one[0]["trained_tokens"] == two[0]["trained_tokens"]
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], abs=1e-5)


@pytest.mark.slow
def test_nothing_is_left_of_the_work(runs: Path) -> None:
    """Neither staging folders nor what single processes had kept."""
    for name in ("two", "killed", "taught-two"):
        left = [
            path.name for path in (runs / name / ".phases").iterdir() if path.suffix in {".making", ".jsonl", ".parts"}
        ]
        assert left == []
