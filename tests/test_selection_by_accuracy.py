# ruff: noqa: ARG002 (a callback is given more than it needs)
"""The student is the checkpoint that answers best between epochs; waiting starts at stage T; a kill changes nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerState

from kpod.recipe import TrainingConfig, ValidationConfig
from kpod.records import Schedule
from kpod.records.errors import ConfigError
from kpod.training import train_student
from kpod.training.best_by_accuracy import BestByAccuracy
from kpod.training.metrics import read_metrics
from tiers import tiered
from tiny import tiny_llama, tiny_tokens, tiny_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

CONFIG = TrainingConfig(
    num_train_epochs=6,
    learning_rate=1e-2,
    per_device_train_batch_size=2,
    validation=ValidationConfig("questions"),
    arguments={"save_total_limit": 1},
)
"""Four rationales in batches of two: two updates an epoch, twelve in all."""
SCHEDULE = Schedule(tuple(f"q{n}" for n in range(4)), np.array([[2] * 4, [1] * 4, [1] * 4, [0] * 4]))
"""Whole from the third epoch on."""


class Answers:
    """Accuracies in the order in which they are asked for; and the parameters they were asked about."""

    def __init__(self, *accuracies: float) -> None:
        self.accuracies = list(accuracies)
        self.asked: list[torch.Tensor] = []

    def __call__(self, lm) -> float:
        assert not lm.model.training
        self.asked.append(lm.model.lm_head.weight.detach().clone())
        return self.accuracies[len(self.asked) - 1]


def run(folder: Path, answers, config=CONFIG, callbacks=(), precision="fp32"):
    lm = tiny_llama()
    tokens = [tiny_tokens(lm, f"q{n}", (2 + n % 3, 3)) for n in range(4)]
    weights = {t.id: tiny_weights(t) for t in tokens}
    options = {"seed": 0, "output_dir": folder, "precision": precision, "fingerprint": "f"}
    return train_student(lm, tokens, weights, SCHEDULE, config, validate=answers, callbacks=callbacks, **options)


def head(folder: Path) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder).lm_head.weight


def accuracies(folder: Path):
    lines = read_metrics(folder / "metrics.jsonl")
    return [(line["step"], line["validation_accuracy"]) for line in lines if "validation_accuracy" in line]


def test_the_first_of_the_best_becomes_the_student(tmp_path):
    answers = Answers(0.1, 0.2, 0.5, 0.4, 0.5, 0.3)
    summary = run(tmp_path, answers)
    assert summary.updates == 12
    assert torch.equal(head(tmp_path), answers.asked[2])
    assert accuracies(tmp_path) == [(2, 0.1), (4, 0.2), (6, 0.5), (8, 0.4), (10, 0.5), (12, 0.3)]


def test_where_accuracy_is_only_watched_the_last_becomes_the_student(tmp_path):
    answers = Answers(0.1, 0.2, 0.5, 0.4, 0.5, 0.3)
    config = replace(CONFIG, validation=ValidationConfig("questions", student="last"))
    run(tmp_path, answers, config)
    assert torch.equal(head(tmp_path), answers.asked[5])
    assert len(accuracies(tmp_path)) == 6
    with pytest.raises(ConfigError, match="left out where the last student is taken"):
        ValidationConfig("questions", student="last", patience=2)


def test_a_validation_in_bf16_casts_the_weights_once(tmp_path):
    """A student writes its answers token by token; what is float32 for the sake of training is not cast for each."""
    casts: list[int] = []

    def answers(lm) -> float:
        for _ in range(2):
            with torch.no_grad(), torch.profiler.profile() as profile:
                lm.model(torch.tensor([[1, 2, 3]]))
            casts.append(sum(event.count for event in profile.key_averages() if event.key == "aten::_to_copy"))
        return 0.5

    run(tmp_path, answers, replace(CONFIG, num_train_epochs=1), precision="bf16")
    matrices = sum(parameter.ndim == 2 for parameter in tiny_llama().model.parameters())
    first, second = casts
    assert first - second >= matrices - 2  # all but the embeddings, which are looked up, and a head that may share them


def test_every_second_epoch_and_the_last_are_asked(tmp_path):
    config = replace(CONFIG, num_train_epochs=5, validation=ValidationConfig("questions", every_epochs=2))
    run(tmp_path, Answers(0.1, 0.2, 0.3), config)
    assert [step for step, _ in accuracies(tmp_path)] == [4, 8, 10]


def test_a_run_cut_off_by_max_steps_is_asked_at_the_same_epochs(tmp_path):
    """The control with as many tokens: its best checkpoint is chosen among the same ones."""
    one_by_one = replace(CONFIG, per_device_train_batch_size=1)
    run(tmp_path, Answers(0.1, 0.3), replace(one_by_one, arguments={**CONFIG.arguments, "max_steps": 5}))
    assert [step for step, _ in accuracies(tmp_path)] == [4, 5]


def test_waiting_starts_where_rationales_are_whole(tmp_path):
    """The best is the first; patience 2 counts the validations after epochs 3 and 4, since stage T begins after 2."""
    answers = Answers(0.9, 0.1, 0.2, 0.3, 0.4, 0.5)
    config = replace(CONFIG, validation=ValidationConfig("questions", patience=2))
    assert run(tmp_path, answers, config).updates == 8
    assert torch.equal(head(tmp_path), answers.asked[0])


@pytest.mark.parametrize("update", tiered([5, 8], [8]))
def test_a_run_that_was_stopped_and_goes_on_chooses_the_same(update, tmp_path):
    """Stopped inside an epoch; and stopped after the selection had ended it, before the student was written."""

    class Fail(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == update:
                raise KeyError("stopped")

        def on_save(self, args, state, control, **kwargs):
            if state.global_step == update:
                raise KeyError("stopped")

    config = replace(CONFIG, validation=ValidationConfig("questions", patience=2))
    answers = Answers(0.2, 0.9, 0.2, 0.3, 0.4, 0.5)
    with pytest.raises(KeyError):
        run(tmp_path / "stopped", answers, config, [Fail()])
    left = Answers(*answers.accuracies[2:])
    run(tmp_path / "stopped", left, config)
    run(tmp_path / "whole", Answers(*answers.accuracies), config)
    assert torch.equal(head(tmp_path / "stopped"), head(tmp_path / "whole"))
    assert accuracies(tmp_path / "stopped") == accuracies(tmp_path / "whole")
    assert len(left.asked) == (2 if update == 5 else 0)


def test_a_run_that_was_killed_while_it_asked_asks_again(tmp_path):
    """Checkpoints come after every update; the one at an epoch's end waits for the accuracy."""
    config = replace(
        CONFIG,
        save_strategy="steps",
        validation=ValidationConfig("questions"),
        arguments={**CONFIG.arguments, "save_steps": 1},
    )
    scores = (0.2, 0.3, 0.4, 0.5, 0.6, 0.9)

    def dying(model):
        if len(given.asked) == len(scores) - 1:
            raise KeyError("killed")
        return given(model)

    given = Answers(*scores)
    with pytest.raises(KeyError):
        run(tmp_path / "killed", dying, config)
    run(tmp_path / "killed", Answers(*scores[-1:]), config)
    run(tmp_path / "whole", Answers(*scores), config)
    assert torch.equal(head(tmp_path / "killed"), head(tmp_path / "whole"))
    assert accuracies(tmp_path / "killed") == accuracies(tmp_path / "whole")


@pytest.mark.parametrize(
    ("step", "best", "every", "over"),
    [(6, 6, 1, False), (8, 6, 1, False), (10, 6, 1, True), (8, 2, 1, True), (6, 2, 1, False), (10, 4, 2, False)],
)
def test_when_waiting_is_over_by_hand(step, best, every, over):
    state = TrainerState(max_steps=12, num_train_epochs=6, global_step=step, best_global_step=best)
    config = ValidationConfig("questions", patience=2, every_epochs=every)
    assert BestByAccuracy(lambda _: 0.0, config, SCHEDULE, 2, lambda _: None).is_over(state) is over


def test_validation_needs_someone_to_ask(tmp_path):
    with pytest.raises(ConfigError, match=r"training\.validation"):
        run(tmp_path, None)
