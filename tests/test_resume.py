import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from forked import run_script
from kpod.records.errors import TrainingError
from kpod.training import last_valid_checkpoint
from kpod.training.checkpoints import MANIFEST, fault_of, seal
from test_training import CONFIG, Gradients, rationales, run
from tiny import tiny_llama


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of the runs of killed_runs.py."""
    root = tmp_path_factory.mktemp("runs")
    run_script("killed_runs", root)
    return root


def report_of(runs, name):
    return json.loads((runs / "report.json").read_text())[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "t5", "lora"])
def test_a_run_that_was_killed_and_started_again_ends_in_the_same_bytes(runs, name):
    *killed, last = report_of(runs, f"{name}-killed")
    assert [start["codes"] for start in killed] == [[-9]] * len(killed)
    assert last["codes"] == [0]
    for file in ("model.safetensors", "metrics.jsonl", "README.md", "config.json", "tokenizer.json"):
        assert (runs / name / file).read_bytes() == (runs / f"{name}-killed" / file).read_bytes(), file
    assert len((runs / name / "metrics.jsonl").read_text().splitlines()) == 9
    assert last["names"] == report_of(runs, name)[0]["names"]


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_no_trace(runs):
    """A start that finds the work done is not killed; with these seeds some die in an update, some in a save."""
    *starts, last = report_of(runs, "long-killed")
    codes = [start["codes"] for start in starts]
    assert codes.count([-9]) >= 10
    assert last["codes"] == [0]
    for file in ("model.safetensors", "metrics.jsonl", "README.md", "config.json"):
        assert (runs / "long" / file).read_bytes() == (runs / "long-killed" / file).read_bytes(), file


@pytest.mark.slow
def test_a_kill_leaves_whole_checkpoints_only(runs):
    in_training, in_save, in_export, _ = report_of(runs, "causal-killed")
    assert in_training["valid"] == in_save["valid"] == "checkpoint-4"
    assert in_training["skipped"] == in_save["skipped"] == []
    assert ".staging" in in_save["names"]
    assert [name for name in in_save["names"] if name.startswith("checkpoint")] == ["checkpoint-4"]
    assert in_export["valid"] == "checkpoint-9"
    assert "model.safetensors" in in_export["names"]
    assert "config.json" not in in_export["names"]


@pytest.mark.slow
def test_two_processes_train_as_one_with_accumulated_batches(runs):
    one, two = (load_file(runs / name / "model.safetensors") for name in ("plain", "plain-two"))
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-5), name
    lines = [(runs / name / "metrics.jsonl").read_text().splitlines() for name in ("plain", "plain-two")]
    for first, second in zip(*(map(json.loads, part) for part in lines), strict=True):
        assert second["trained_tokens"] == first["trained_tokens"]
        for key in ("loss", "rationale_loss", "answer_loss"):
            assert second[key] == pytest.approx(first[key], abs=1e-4)


@pytest.mark.slow
def test_two_processes_that_were_killed_end_in_the_same_bytes(runs):
    *killed, last = report_of(runs, "two-killed")
    assert all(start["codes"] == [-9, -9] for start in killed)
    assert last["codes"] == [0, 0]
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (runs / "plain-two" / file).read_bytes() == (runs / "two-killed" / file).read_bytes()


def test_a_checkpoint_of_two_processes_is_not_resumed_by_one(tmp_path):
    checkpoint = stopped(tmp_path)
    shutil.copy(checkpoint / "rng_state.pth", checkpoint / "rng_state_0.pth")
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_1.pth")
    (checkpoint / MANIFEST).unlink()
    seal(checkpoint, "f", 2)
    with pytest.raises(TrainingError, match="was made by 2 processes and cannot be resumed by 1"):
        run(tiny_llama(), tmp_path)


# -- which checkpoints count -------------------------------------------------------------------------------------------


def stopped(folder):
    """The last checkpoint of a run that was stopped at update 4 of 6; checkpoint-2 is there too."""
    with pytest.raises(TrainingError, match="stopped at update 4 of 6"):
        run(tiny_llama(), folder, callbacks=[Gradients(updates=4)])
    return folder / "checkpoint-4"


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    stopped(folder)
    return folder


def cut(checkpoint, name):
    whole = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(whole[: len(whole) // 2])


def flip(checkpoint, name):
    whole = bytearray((checkpoint / name).read_bytes())
    whole[-1] ^= 1
    (checkpoint / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda c: (c / "rng_state.pth").unlink(), "rng_state.pth is missing"),
        (lambda c: (c / "scheduler.pt").unlink(), "scheduler.pt is missing"),
        (lambda c: cut(c, "model.safetensors"), "model.safetensors was changed or cut short"),
        (lambda c: flip(c, "optimizer.pt"), "optimizer.pt was changed or cut short"),
        (lambda c: (c / "trainer_state.json").write_text(""), "trainer_state.json was changed or cut short"),
        (lambda c: (c / MANIFEST).unlink(), "it has no manifest: its writing was interrupted"),
        (lambda c: (c / MANIFEST).write_text("{"), "its manifest cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, fault, stopped_once, tmp_path):
    folder = shutil.copytree(stopped_once, tmp_path / "run")
    damage(folder / "checkpoint-4")
    checkpoint, (skipped,) = last_valid_checkpoint(folder)
    assert checkpoint == folder / "checkpoint-2"
    assert skipped.startswith(f"checkpoint-4: {fault}")


@pytest.mark.parametrize(
    ("missing", "fault"),
    [("optimizer.pt", "optimizer state"), ("rng_state.pth", "rng_state.pth"), ("model.safetensors", "weights")],
)
def test_a_checkpoint_sealed_without_a_part_is_not_valid(missing, fault, stopped_once, tmp_path):
    checkpoint = shutil.copytree(stopped_once / "checkpoint-4", tmp_path / "checkpoint-4")
    (checkpoint / missing).unlink()
    (checkpoint / MANIFEST).unlink()
    seal(checkpoint, "f", 1)
    assert fault_of(checkpoint) == f"it holds no {fault}"


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert last_valid_checkpoint(tmp_path) == (None, [])


def test_a_run_whose_newest_checkpoint_is_damaged_says_so_and_ends_as_if_undisturbed(stopped_once, tmp_path, caplog):
    folder = shutil.copytree(stopped_once, tmp_path / "run")
    cut(folder / "checkpoint-4", "optimizer.pt")
    run(tiny_llama(), folder)
    assert "skipping checkpoint-4: optimizer.pt was changed or cut short" in caplog.text
    run(tiny_llama(), tmp_path / "undisturbed")
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (folder / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes()


def test_checkpoints_of_other_inputs_are_refused(stopped_once, tmp_path):
    folder = shutil.copytree(stopped_once, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"checkpoint-4 was made from other data.*delete .*run to train afresh"):
        run(tiny_llama(), folder, fingerprint="other")
    assert (folder / "checkpoint-4").is_dir()


def test_older_checkpoints_are_deleted_after_the_new_one_is_whole(tmp_path):
    config = dataclasses.replace(CONFIG, arguments={"save_total_limit": 1})
    with pytest.raises(TrainingError):
        run(tiny_llama(), tmp_path, config, callbacks=[Gradients(updates=4)])
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_checkpoint_loads_as_a_model(stopped_once):
    lm = tiny_llama()
    loaded = AutoModelForCausalLM.from_pretrained(stopped_once / "checkpoint-4")
    ids = torch.tensor([rationales(lm, 1)[0].token_ids.tolist()])
    assert not torch.allclose(loaded(ids).logits, lm.model(ids).logits, atol=1e-3)
