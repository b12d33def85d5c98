"""Whole runs of the methods that go by what happens in training."""

import json
from pathlib import Path

import pytest

from kpod.commands.gathered import epochs
from kpod.experiment.methods import METHODS
from kpod.experiment.pipeline import Pipeline, run
from kpod.training.metrics import read_updates
from tiny_runs import recipe, write_tiny_data

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

ROWS = [name for name, method in METHODS.items() if method.curriculum is not None]
FAST = {("kpod-acl", "llama"), ("icot-si", "llama")}
"""The others are trained in test_curriculum too."""
RUNS = [
    pytest.param(name, student, marks=() if (name, student) in FAST else pytest.mark.slow)
    for name in ROWS
    for student in ("llama", "t5")
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("method", "student"), RUNS)
def test_a_whole_run_ends_in_a_student(
    method: str, student: str, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Six rationales in batches of one, six updates an epoch; with adapters that have the dropout that SPL needs."""
    questions = str(data / "rationales.jsonl")
    options = {
        "--name": f"{method}-{student}",
        "--method": method,
        "--evaluation.before": "no",
        "--training.num_train_epochs": "7",
        "--training.per_device_train_batch_size": "1",
        "--training.lora": "{rank: 2, alpha: 4, dropout: 0.1}",
        "--training.validation": json.dumps({"questions": questions, "limit": 1, "every_epochs": 3}),
    }
    words = [word for pair in options.items() for word in pair]
    found = recipe(data, tmp_path_factory.getbasetemp() / "whole-runs", student, *words)
    result = run(found)
    assert [after.num_questions for _, after in result.accuracies] == [2]
    folder = Pipeline(found).folder.path / "student"
    lines = read_updates(folder / "metrics.jsonl")
    assert len(lines) == result.training.updates
    trained = list(epochs(Pipeline(found)))
    assert [(one.number, one.updates > 0) for one in trained] == [(n + 1, True) for n in range(len(trained))]
    assert sum(one.updates for one in trained) == len(lines)
    assert next(one.number for one in trained if one.accuracy is not None) == 3
    assert all(one.words for one in trained)
    if method == "icot-si":
        assert trained[0].words == "whole rationales to rationales without their first 5 tokens"
        assert trained[-1].words.endswith("to answers alone")
        assert [line["stage"] for line in lines] == [min(update, 39) for update in range(42)]
        assert lines[-1]["rationale_loss"] is None
    if method == "kpod-acl":  # 0.3 (1 / 0.3)^(2/3)
        assert [one.words for one in trained[1:4]] == ["the easiest 66.9 % of the rationales", *["all rationales"] * 2]
        # 0.3 of 6, growing to all in the third epoch
        assert [sum(line["stage"] == epoch for line in lines) for epoch in range(1, 8)] == [2, 4, 6, 6, 6, 6, 6]
    if method == "adaptive-cl":
        assert len(lines) == 7  # a tenth of six rationales is one
