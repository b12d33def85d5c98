# ruff: noqa: ARG002 (a callback is given more than it needs)
"""An update that is not finite is left out on the device, named one update late, and counted by no checkpoint."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from kpod.records.errors import TrainingError
from kpod.training.batches import StageSampler
from kpod.training.updates import Updates
from test_training import ramp, rationales, sizes_of, staged, trainer_of, weights_of
from tiny import tiny_llama

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

OPTIMISERS = {
    "fused": {"optim": "adamw_torch_fused"},
    "not fused": {"optim": "adamw_torch"},
    "sgd": {"optim": "sgd"},
    "adafactor": {"optim": "adafactor"},
}


class Parameters(TrainerCallback):
    """Keeps the parameters after every update."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))


def prepared(folder, wrong=None, number=3, **options):
    """A trainer of 6 updates, of which one, from 1, trains a weight of this value."""
    lm = tiny_llama()
    tokens = rationales(lm, 6)
    dataset = staged(lm, tokens, weights_of(tokens), ramp(tokens, 0))
    parameters = Parameters()
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9, "learning_rate": 1e-2, **options}
    trainer = trainer_of(
        lm, dataset, folder, callbacks=[parameters], per_device_train_batch_size=1, num_train_epochs=1, **options
    )
    order = [index for index, _ in StageSampler(sizes_of(tokens), dataset.schedule, seed=1)]
    name = tokens[order[number - 1]].id
    if wrong is not None:
        dataset._weights[name] = np.full_like(dataset._weights[name], wrong)
    return trainer, parameters, name


def checkpoints(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("optimiser", "wrong", "save_steps"),
    [
        *(("fused", wrong, steps) for wrong in (np.nan, np.inf) for steps in (1, 2, 100)),
        *((name, np.nan, 2) for name in OPTIMISERS if name != "fused"),
    ],
)
def test_parameters_stay_those_of_the_last_sound_update(optimiser, wrong, save_steps, tmp_path):
    options = {**OPTIMISERS[optimiser], "save_steps": save_steps}
    trainer, parameters, name = prepared(tmp_path, wrong, **options)
    with pytest.raises(TrainingError, match=f"update 3: the loss is (nan|inf) on rationale '{name}'; the batch is"):
        trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert torch.equal(after, parameters.seen[1])
    assert checkpoints(tmp_path) == [step for step in (1, 2) if step % save_steps == 0]
    saved = json.loads((tmp_path / "failed_batch.json").read_text())
    assert (saved["update"], saved["epoch"], [row["id"] for row in saved["examples"]]) == (3, 2 / 6, [name])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]


@pytest.mark.parametrize("optimiser", ["fused", "not fused"])
def test_the_same_trainer_trains_again_once_the_fault_is_gone(optimiser, tmp_path):
    trainer, parameters, name = prepared(tmp_path, np.nan, save_strategy="no", **OPTIMISERS[optimiser])
    with pytest.raises(TrainingError):
        trainer.train()
    weights = trainer.train_dataset._weights
    weights[name] = np.ones_like(weights[name])
    parameters.seen.clear()
    trainer.train()
    assert all(not torch.equal(one, other) for one, other in pairwise(parameters.seen))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [1, 5, 6])
def test_a_fault_in_the_first_or_last_update_is_named_too(number, tmp_path):
    trainer, _, name = prepared(tmp_path, np.nan, number, save_strategy="no")
    with pytest.raises(TrainingError, match=f"update {number}: the loss is nan on rationale '{name}'"):
        trainer.train()


def test_an_infinite_gradient_in_the_middle_is_left_out(tmp_path):
    trainer, parameters, _ = prepared(tmp_path, save_strategy="no")
    calls = []

    def hook(gradient):
        calls.append(1)
        return gradient * float("inf") if len(calls) == 4 else gradient

    trainer.model.lm_head.weight.register_hook(hook)
    with pytest.raises(TrainingError, match=r"update 4: the norm of the gradient is (nan|inf) on rationale 'q.'"):
        trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert torch.equal(after, parameters.seen[2])


def test_every_update_has_its_line_in_order_whatever_reads_them(tmp_path):
    trainer, _, _ = prepared(tmp_path, save_steps=2)
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], round(line["epoch"] * 6)) for line in lines] == [(n, n) for n in range(1, 7)]


def test_lines_are_on_the_disk_before_a_checkpoint_counts_them(tmp_path, monkeypatch):
    trainer, _, _ = prepared(tmp_path, save_steps=3)
    inner, found = trainer._save_rng_state, []

    def save(folder):
        found.append(len((tmp_path / "metrics.jsonl").read_text().splitlines()))
        inner(folder)

    monkeypatch.setattr(trainer, "_save_rng_state", save)
    trainer.train()
    assert found == [3, 6]


def test_a_training_that_was_broken_off_leaves_nothing_to_the_next(tmp_path):
    """An update that is not finite is read late: whatever stops the training before that must not hide it."""
    trainer, parameters, name = prepared(tmp_path, np.nan, save_strategy="no")

    class Break(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            self.on_step_begin(args, state, control)

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyError("broken off")

    trainer.add_callback(callback := Break())
    with pytest.raises(KeyError):
        trainer.train()
    trainer.remove_callback(callback)
    weights = trainer.train_dataset._weights
    weights[name] = np.ones_like(weights[name])
    parameters.seen.clear()
    trainer.train()
    assert all(not torch.equal(one, other) for one, other in pairwise(parameters.seen))
    assert len(parameters.seen) == 6


def test_numbers_that_are_finite_are_no_fault_though_their_sum_is(tmp_path):
    found = Updates(tmp_path, None, lambda value: value)
    numbers = [(torch.tensor(2e38), torch.zeros(1), torch.zeros(3, 1))]
    found._batches, found._examples = numbers, [[]]
    optimizer = SimpleNamespace(_step_supports_amp_scaling=True, found_inf=None)
    found.check(torch.tensor(3e38), optimizer, 1, 0)
    assert optimizer.found_inf == 0
