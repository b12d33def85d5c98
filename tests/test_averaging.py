# ruff: noqa: ARG002 (a callback is given more than it needs)
"""The student is the mean of its weights after the last updates, kept, resumed and refused as it should be."""

import copy
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from kpod.experiment.methods import METHODS
from kpod.lm.adapters import with_lora
from kpod.lm.models import merged
from kpod.recipe import AverageConfig, LoraConfig, Recipe, TrainingConfig, ValidationConfig
from kpod.records import Schedule
from kpod.records.errors import ConfigError, TrainingError
from kpod.training import train_student
from kpod.training.averaging import AVERAGE, LAST_UPDATE, WeightAverage, num_averaged
from kpod.training.curriculum import Curriculum
from kpod.training.easiest_first import EasiestFirst
from kpod.training.in_sample import InSample
from kpod.training.internalisation import Internalisation
from kpod.training.self_paced import SelfPaced
from kpod.training.trainer import KeypointTrainer
from tiers import tiered
from tiny import tiny_llama, tiny_t5, tiny_tokens, tiny_weights
from zoo import build_model

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*rank_pattern.*:UserWarning")

CONFIG = TrainingConfig(
    num_train_epochs=4,
    learning_rate=1e-2,
    per_device_train_batch_size=2,
    save_strategy="steps",
    average=AverageConfig(0.5),
    arguments={"save_steps": 3},
)
"""Four rationales in batches of two: eight updates, of which the last four count; checkpoints after 3, 6 and 8."""
LORA = LoraConfig(rank=2, alpha=4)


class Merged(TrainerCallback):
    """By hand: the whole model after every update, adapters merged into a copy, all in float32."""

    def __init__(self):
        self.after = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        whole = merged(copy.deepcopy(model).float())
        self.after.append({name: p.detach().float().clone() for name, p in whole.named_parameters()})


class Stop(TrainerCallback):
    def __init__(self, update):
        self.update = update

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_training_stop = state.global_step == self.update


def run(folder, make=tiny_llama, config=CONFIG, precision="fp32", **options):
    lm = make()
    if precision == "bf16":
        lm.model.bfloat16()
    tokens = [tiny_tokens(lm, f"q{n}", (2 + n % 3, 3)) for n in range(4)]
    schedule = Schedule(tuple(t.id for t in tokens), np.array([[1] * 4, [0] * 4]))
    weights = {t.id: tiny_weights(t) for t in tokens}
    more = {"seed": 0, "output_dir": folder, "precision": precision, "fingerprint": "f", **options}
    return train_student(lm, tokens, weights, schedule, config, **more)


def mean_of(models):
    return {name: torch.stack([one[name] for one in models]).double().mean(dim=0).float() for name in models[0]}


@pytest.mark.parametrize("lora", [None, LORA, replace(LORA, target_modules=("embed_tokens", "q_proj"))])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_student_is_the_mean_of_the_merged_models_after_the_last_updates(lora, precision, tmp_path):
    by_hand = Merged()
    run(tmp_path, config=replace(CONFIG, lora=lora), precision=precision, callbacks=[by_hand])
    assert len(by_hand.after) == 8
    wanted, last = mean_of(by_hand.after[-4:]), by_hand.after[-1]
    rounded = 0 if precision == "fp32" else 2**-8  # once for the mean; peft rounds the product too where it merges
    for folder, expected, more in ((tmp_path, wanted, 0.0), (tmp_path / LAST_UPDATE, last, 1e-3 * bool(rounded))):
        found = load_file(folder / "model.safetensors")
        assert found.keys() <= expected.keys()
        for name, tensor in found.items():
            assert torch.allclose(tensor.float(), expected[name], atol=1e-6 + more, rtol=rounded), name
    moved = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(wanted[moved], last[moved], atol=1e-4)
    assert "the mean after each of the last | 4 optimiser steps" in (tmp_path / "README.md").read_text()


def test_an_encoder_decoder_student_is_averaged_too(tmp_path):
    by_hand = Merged()
    run(tmp_path, tiny_t5, callbacks=[by_hand])
    wanted = mean_of(by_hand.after[-4:])
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.allclose(tensor, wanted[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("gpt2", "all-linear"),  # weights that stand the other way round
        ("t5", "all-linear"),
        ("qwen3-moe", ("gate_proj", "up_proj", "down_proj", "q_proj")),  # experts in one tensor
        ("mamba", "all-linear"),
        ("falcon", "all-linear"),
    ],
)
def test_adapters_are_averaged_by_their_product_in_every_kind_of_layer(kind, targets):
    """The mean of the merged models, whatever the adapters hold; the product of mean factors is another matrix."""
    model = with_lora(build_model(kind), replace(LORA, target_modules=targets))
    average, by_hand = WeightAverage(model, 1.0), []
    for seed in range(3):
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(std=0.3)
        average.take()
        by_hand.append(dict(merged(copy.deepcopy(model)).named_parameters()))
    average.finish()
    whole = merged(model)
    average.put()
    changed = 0
    for name, parameter in whole.named_parameters():
        wanted = torch.stack([one[name] for one in by_hand]).mean(dim=0)
        assert torch.allclose(parameter, wanted, atol=1e-5), name
        changed += not torch.equal(by_hand[0][name], by_hand[1][name])
    assert changed >= 2


@given(st.floats(0.001, 1), st.integers(1, 100_000))
@settings(max_examples=50)
def test_the_share_of_the_updates_is_rounded_and_never_none(share, updates):
    number = num_averaged(share, updates)
    assert 1 <= number <= updates
    assert abs(number - share * updates) <= 0.5 or number == 1


@pytest.mark.parametrize(
    "stop", tiered([2, 5, 7, 8], slow=[2, 7]), ids=["before", "inside", "near the end", "at the end"]
)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_resumed_run_ends_in_the_same_bytes(stop, lora, whole_runs, tmp_path, monkeypatch):
    """Stopped before the updates that count, and among them."""
    config = replace(CONFIG, lora=lora)
    if stop < 8:
        with pytest.raises(TrainingError, match=f"stopped at update {stop} of 8"):
            run(tmp_path, config=config, callbacks=[Stop(stop)])
        assert (tmp_path / f"checkpoint-{stop}" / AVERAGE).exists() is (stop > 4)
    else:  # killed while the student was written
        monkeypatch.setattr("kpod.training.export.publish_student", killed)
        with pytest.raises(OSError, match="killed"):
            run(tmp_path, config=config)
        monkeypatch.undo()
    run(tmp_path, config=config)
    whole = whole_runs[lora is not None]
    for name in ("model.safetensors", f"{LAST_UPDATE}/model.safetensors", "metrics.jsonl", "README.md"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(tmp_path.glob("checkpoint-*"))


def killed(*_):
    raise OSError("killed")


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory):
    """Never interrupted: all of the student trained, and adapters."""
    folders = [tmp_path_factory.mktemp(name) for name in ("full", "lora")]
    for folder, lora in zip(folders, (None, LORA), strict=True):
        run(folder, config=replace(CONFIG, lora=lora))
    return folders


def test_an_export_that_was_killed_in_the_middle_is_made_again(whole_runs, tmp_path):
    """Of the first try the folder of the last update stands there already."""
    (tmp_path / LAST_UPDATE).mkdir()
    (tmp_path / LAST_UPDATE / "left.txt").write_text("left")
    run(tmp_path)
    name = f"{LAST_UPDATE}/model.safetensors"
    assert (tmp_path / name).read_bytes() == (whole_runs[0] / name).read_bytes()
    assert not (tmp_path / LAST_UPDATE / "left.txt").exists()


def test_without_the_key_nothing_is_averaged(whole_runs, tmp_path):
    """The last update is the same one that an averaged run keeps beside."""
    run(tmp_path, config=replace(CONFIG, average=None))
    assert not (tmp_path / LAST_UPDATE).exists()
    last = (whole_runs[0] / LAST_UPDATE / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == last
    assert (whole_runs[0] / "model.safetensors").read_bytes() != last


def test_a_checkpoint_whose_mean_holds_other_updates_is_not_gone_on_from(tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="stopped at update 6"):
        run(tmp_path, callbacks=[Stop(6)])
    held = load_file(tmp_path / "checkpoint-6" / AVERAGE)
    save_file(held, tmp_path / "checkpoint-6" / AVERAGE, {"num": "1"})
    monkeypatch.setattr("kpod.training.checkpoints.altered_file", lambda *_: None)
    with pytest.raises(TrainingError, match="averages 1 updates, not 2"):
        run(tmp_path)


def test_the_disk_must_hold_the_mean_too(tmp_path, monkeypatch):
    free = SimpleNamespace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    needed = []
    for config in (CONFIG, replace(CONFIG, average=None)):
        with pytest.raises(TrainingError, match="GiB left") as told:
            run(tmp_path / str(len(needed)), config=config)
        needed.append(str(told.value))
    num = sum(p.numel() for p in tiny_llama().model.parameters())
    for more, message in zip(
        (4, 3), needed, strict=True
    ):  # checkpoints: 2 kept and one more; weights, moments and mean
        free.free = 4 * num * (3 * more + (2 if more == 4 else 1))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
        run(tmp_path / f"enough-{more}", config=CONFIG if more == 4 else replace(CONFIG, average=None))
        assert message


# -- refused by name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"validation": ValidationConfig("questions")}, "training.validation.student"),
        ({"validation": ValidationConfig("questions", patience=2)}, "training.validation.student"),
        ({"lora": LORA, "merge_lora": False}, "training.merge_lora"),
    ],
)
def test_what_does_not_go_together_is_refused_when_the_recipe_is_read(changes, key):
    with pytest.raises(ConfigError, match=key):
        replace(CONFIG, **changes)


@pytest.mark.parametrize("changes", [{"merge_lora": False}, {"validation": ValidationConfig("q", student="last")}])
def test_what_goes_together_is_read(changes):
    assert replace(CONFIG, **changes).average == AverageConfig(0.5)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan"), "a third"])
def test_the_share_is_above_0_and_at_most_1(share):
    with pytest.raises(ConfigError, match=r"training\.average\.last"):
        AverageConfig(share)


def test_a_quantised_student_is_refused_before_training(tmp_path):
    def quantised():
        lm = tiny_llama()
        lm.model.is_quantized, lm.model.hf_quantizer = True, SimpleNamespace(is_trainable=True)
        return lm

    with pytest.raises(ConfigError, match=r"training\.average: the student's weights are quantised"):
        run(tmp_path, quantised, replace(CONFIG, lora=LORA))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_sharded_student_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(KeypointTrainer, "is_sharded", property(lambda _: True))
    with pytest.raises(ConfigError, match=r"training\.average: no process holds the weights of a sharded student"):
        run(tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_method_that_ends_by_itself_is_refused(tmp_path):
    validation = ValidationConfig("questions", student="last")
    with pytest.raises(ConfigError, match=r"training\.average: the method ends training by itself"):
        run(tmp_path, config=replace(CONFIG, validation=validation), curriculum=InSample(), validate=lambda _: 0.5)
    given_up = Recipe(method="icl", training=replace(CONFIG, validation=validation))
    with pytest.raises(ConfigError, match=r"training\.average"):
        METHODS["icl"].curriculum.check(given_up)


@pytest.mark.parametrize(
    "make",
    [
        Curriculum,
        pytest.param(SelfPaced, marks=pytest.mark.slow),
        pytest.param(partial(EasiestFirst, 0.5, 1.5, 1, 1), marks=pytest.mark.slow),
        partial(Internalisation, all_from=4),
    ],
    ids=["plain", "spl", "acl", "si"],
)
def test_a_curriculum_that_does_not_end_by_itself_is_averaged(make, tmp_path):
    """Also one whose epochs differ in length: its last updates are counted as they are made. And resumed."""
    by_hand, config = Merged(), replace(CONFIG, num_train_epochs=6)
    student = partial(tiny_llama, dropout=0.1)
    run(tmp_path / "whole", student, config, curriculum=make(), callbacks=[by_hand])
    updates = len(by_hand.after)
    wanted = mean_of(by_hand.after[-num_averaged(0.5, updates) :])
    with pytest.raises(TrainingError, match=f"stopped at update {updates - 1}"):
        run(tmp_path, student, config, curriculum=make(), callbacks=[Stop(updates - 1)])
    run(tmp_path, student, config, curriculum=make())
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.allclose(tensor, wanted[name], atol=1e-6), name
