# ruff: noqa: ARG002 (a callback is given more than it needs)
"""What stops a training from outside: signals, memory, the disk."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from killed_runs import CONFIG
from kpod.commands.command_line import main
from kpod.recipe import TrainingConfig
from kpod.records import Schedule
from kpod.records.errors import TrainingError, TrainingInterruptedError
from kpod.training import guards, train_student
from kpod.training.guards import check_disk, explained_memory
from tiers import tiered
from tiny import tiny_llama, tiny_tokens, tiny_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


class Send(TrainerCallback):
    """Sends this process a signal in the middle of an update."""

    def __init__(self, number, update):
        self.number = number
        self.update = update

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.update - 1:
            os.kill(os.getpid(), self.number)


def run(folder: Path, callbacks=(), config: TrainingConfig = CONFIG):
    lm = tiny_llama(dropout=0.1)
    tokens = [tiny_tokens(lm, f"q{n}", (2 + n % 3, 3)) for n in range(6)]
    schedule = Schedule(tuple(t.id for t in tokens), np.array([[2] * 6, [1] * 6, [0] * 6]))
    weights = {t.id: tiny_weights(t) for t in tokens}
    options = {"seed": 3, "output_dir": folder, "precision": "fp32", "fingerprint": "tiny"}
    return train_student(lm, tokens, weights, schedule, config, callbacks=callbacks, **options)


@pytest.mark.parametrize("number", tiered([signal.SIGTERM, signal.SIGINT], [signal.SIGTERM]))
def test_a_signal_ends_the_update_with_a_checkpoint_and_the_same_call_goes_on_to_the_same_bytes(
    number, tmp_path, in_the_foreground
):
    handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(TrainingInterruptedError, match="stopped at update 5 of 9; no student was written") as told:
        run(tmp_path / "stopped", [Send(number, 5)])
    assert told.value.signal == number
    assert (tmp_path / "stopped" / "checkpoint-5").is_dir()
    assert not (tmp_path / "stopped" / "config.json").exists()
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == handlers
    run(tmp_path / "stopped")
    run(tmp_path / "whole")
    stopped, whole = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("stopped", "whole")
    )
    assert all(torch.equal(stopped[name], tensor) for name, tensor in whole.items())
    assert (tmp_path / "stopped" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_signal_that_comes_twice_at_once_is_one(tmp_path, in_the_foreground, monkeypatch):
    """As to a process whose launcher passes on what the whole group was sent; a later one ends it at once."""

    class Twice(Send):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            for _ in range(2):
                super().on_pre_optimizer_step(args, state, control, **kwargs)

    monkeypatch.setattr(guards, "SAME_SIGNAL", float("inf"))
    with pytest.raises(TrainingInterruptedError, match="stopped at update 5"):
        run(tmp_path / "at once", [Twice(signal.SIGINT, 5)])
    monkeypatch.setattr(guards, "SAME_SIGNAL", -1.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "later", [Twice(signal.SIGINT, 5)])


def test_a_process_that_heard_from_the_others_is_not_ended_by_its_own_first_signal(tmp_path, in_the_foreground):
    stop, control = guards.StopOnSignal(lambda number: max(number, int(signal.SIGINT))), TrainerControl()
    with stop.listening():
        stop.on_step_end(TrainingArguments(str(tmp_path)), TrainerState(), control)
        assert control.should_training_stop
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.received == signal.SIGINT


@pytest.mark.slow
def test_a_signal_that_is_ignored_stays_ignored(tmp_path, in_the_foreground):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert run(tmp_path, [Send(signal.SIGINT, 5)]).updates == 9
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.slow
def test_a_run_in_batches_by_tokens_goes_on_to_the_same_bytes(tmp_path):
    config = replace(CONFIG, tokens_per_batch=60, gradient_accumulation_steps=1)
    with pytest.raises(TrainingInterruptedError):
        run(tmp_path / "stopped", [Send(signal.SIGTERM, 4)], config)
    assert run(tmp_path / "stopped", config=config).updates == run(tmp_path / "whole", config=config).updates == 6
    stopped, whole = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("stopped", "whole")
    )
    assert all(torch.equal(stopped[name], tensor) for name, tensor in whole.items())


@pytest.mark.slow
def test_a_signal_in_the_last_update_finds_the_work_done(tmp_path):
    assert run(tmp_path, [Send(signal.SIGTERM, 9)]).updates == 9


@pytest.mark.parametrize(
    ("error", "code"), [(TrainingInterruptedError("stopped", signal.SIGTERM), 143), (KeyboardInterrupt(), 130)]
)
def test_the_exit_code_tells_the_signal(error, code, monkeypatch, tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: tiny\n")

    def fail(options):
        raise error

    monkeypatch.setattr("kpod.commands.run.work", fail)
    assert main(["run", str(tmp_path / "recipe.yaml")]) == code


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_says_what_to_lower_for_the_same_updates(error, tmp_path):
    config = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=6, gradient_accumulation_steps=2, use_cpu=True
    )
    advice = "training.per_device_train_batch_size: 3 and training.gradient_accumulation_steps: 4; or set"
    with pytest.raises(TrainingError, match=advice), explained_memory(config):
        raise error


def test_a_batch_of_one_cannot_be_halved_and_other_errors_pass(tmp_path):
    config = TrainingArguments(str(tmp_path), per_device_train_batch_size=1, use_cpu=True)
    with (
        pytest.raises(TrainingError, match=r"out of memory: set training\.activation_checkpointing"),
        explained_memory(config),
    ):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), explained_memory(config):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(
    ("options", "found", "number"),
    [
        ({"save_strategy": "epoch", "num_train_epochs": 5}, 0, 6),
        ({"save_strategy": "epoch", "num_train_epochs": 5, "save_total_limit": 2}, 0, 3),
        ({"save_strategy": "epoch", "num_train_epochs": 5, "save_total_limit": 2}, 2, 1),
        ({"save_strategy": "steps", "save_steps": 10, "save_total_limit": 9}, 0, 4),
        ({"save_strategy": "no"}, 0, 0),
    ],
)
def test_the_disk_must_hold_the_checkpoints_to_come(options, found, number, tmp_path, monkeypatch):
    for step in range(found):
        (tmp_path / f"checkpoint-{step}").mkdir()
    model = torch.nn.Linear(3, 4, bias=False)
    config = TrainingArguments(str(tmp_path), use_cpu=True, **options)
    needed = 4 * 12 * (3 * number + 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    check_disk(tmp_path, model, config, num_updates=30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(TrainingError, match=f"for {number} checkpoints and the student"):
        check_disk(tmp_path, model, config, num_updates=30)


def test_a_full_disk_is_told_before_training_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match="free some space"):
        run(tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
