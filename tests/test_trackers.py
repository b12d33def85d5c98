# ruff: noqa: ARG002 (a callback is given more than it needs)
"""`training.report_to`: what lands in a tracker, under which names, where, and what is said where one is missing."""

from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerCallback

from kpod.experiment.pipeline import Pipeline, run
from kpod.recipe import TrainingConfig, ValidationConfig
from kpod.records import Schedule
from kpod.records.errors import ConfigError
from kpod.training import train_student
from kpod.training.metrics import read_metrics, read_updates
from tiny import tiny_llama, tiny_tokens, tiny_weights
from tiny_runs import recipe, write_tiny_data

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard"),
]

SCHEDULE = Schedule(tuple(f"q{n}" for n in range(4)), np.array([[1] * 4, [1] * 4, [0] * 4]))
NAMES = {"loss", "rationale_loss", "answer_loss", "stage", "trained_tokens", "learning_rate", "grad_norm", "epoch"}


class Logged(TrainerCallback):
    """What every tracker is given."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.lines.append(logs)


def train(folder: Path, *callbacks: TrainerCallback, tensorboard: Path | None = None, **arguments: object) -> Path:
    """Four rationales in batches of two: two updates an epoch, four in all."""
    lm = tiny_llama()
    tokens = [tiny_tokens(lm, f"q{n}", (2 + n % 3, 3)) for n in range(4)]
    config = TrainingConfig(
        num_train_epochs=2,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        save_strategy="no",
        validation=ValidationConfig("questions", student="last"),
        arguments={"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3, **arguments},
    )
    train_student(
        lm,
        tokens,
        {t.id: tiny_weights(t) for t in tokens},
        SCHEDULE,
        config,
        seed=0,
        output_dir=folder,
        fingerprint="f",
        validate=lambda _: 0.25,
        callbacks=callbacks,
        tensorboard=tensorboard,
    )
    return folder / "metrics.jsonl"


def test_a_tracker_is_given_what_metrics_jsonl_holds(tmp_path: Path) -> None:
    logged = Logged()
    updates = read_updates(train(tmp_path, logged, logging_strategy="steps", logging_steps=1))
    lines = [line for line in logged.lines if "loss" in line]
    assert all(set(line) == NAMES for line in lines)
    for name in ("loss", "rationale_loss", "answer_loss", "stage", "trained_tokens"):
        assert [line[name] for line in lines] == [update[name] for update in updates], name
    assert [line["stage"] for line in lines] == [1, 1, 2, 2]
    assert [line["learning_rate"] for line in lines] == [update["learning_rate"] for update in updates]
    assert lines[0]["learning_rate"] < lines[1]["learning_rate"]
    assert [line["validation_accuracy"] for line in logged.lines if "validation_accuracy" in line] == [0.25, 0.25]


def test_a_line_for_an_epoch_is_the_mean_of_its_updates(tmp_path: Path) -> None:
    """By default; tokens are summed, and the stage is the last update's."""
    logged = Logged()
    updates = read_updates(train(tmp_path, logged))
    lines = [line for line in logged.lines if "loss" in line]
    assert [line["stage"] for line in lines] == [1, 2]
    for epoch, line in enumerate(lines):
        of_epoch = updates[2 * epoch : 2 * epoch + 2]
        assert line["trained_tokens"] == sum(update["trained_tokens"] for update in of_epoch)
        for name in ("loss", "rationale_loss", "answer_loss"):
            assert line[name] == pytest.approx(np.mean([update[name] for update in of_epoch]))


def test_tensorboard_shows_them_under_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    given = {"report_to": "tensorboard", "logging_strategy": "steps", "logging_steps": 1}
    metrics = train(tmp_path / "student", tensorboard=tmp_path / "shown", **given)
    found = accumulator.EventAccumulator(str(tmp_path / "shown")).Reload()
    shown = {tag: [event.value for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert {f"train/{name}" for name in NAMES | {"validation_accuracy"}} <= set(shown)
    for name in ("loss", "stage", "answer_loss", "trained_tokens"):
        assert shown[f"train/{name}"] == pytest.approx([line[name] for line in read_updates(metrics)])
    told = [line["validation_accuracy"] for line in read_metrics(metrics) if "validation_accuracy" in line]
    assert shown["train/validation_accuracy"] == told
    assert not list((tmp_path / "student").rglob("events.*"))


@pytest.mark.slow
def test_a_run_keeps_its_curves_beside_the_student(tmp_path: Path) -> None:
    """Under the student's key, so that curves of another recipe of this name do not mix with them."""
    pytest.importorskip("tensorboard")
    shown = ("--method", "scotd", "--training.report_to", "tensorboard")
    found = recipe(write_tiny_data(tmp_path / "data"), tmp_path / "runs", "llama", *shown)
    run(found)
    key = Pipeline(found).keys["student"]
    assert list((tmp_path / "runs" / "tiny" / "tensorboard" / key).glob("events.*"))
    assert "events." not in (tmp_path / "runs" / "tiny" / "student" / "stamp.json").read_text()


@pytest.mark.parametrize(
    ("tracker", "package"), [("tensorboard", "tensorboard"), ("azure_ml", "azureml-sdk"), ("trackio", "trackio")]
)
def test_a_tracker_that_is_missing_is_said_before_anything_is_written(
    tracker: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpod.training.arguments.get_available_reporting_integrations", lambda: ["mlflow"])
    found = recipe(tmp_path / "nowhere", tmp_path / "runs", "llama", "--training.report_to", tracker)
    with pytest.raises(ConfigError, match=f"{tracker} is not installed: pip install {package}, or set it to none"):
        Pipeline(found)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["recipe-given.yaml"]
