"""The loss as a sum of means: tasks mixed, terms added, whatever the batches are cut into."""

import json

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from kpod.lm.sequences import logprobs
from kpod.recipe import TrainingConfig
from kpod.records import Schedule
from kpod.records.errors import ConfigError, TrainingError
from kpod.training import KeypointTrainer, StageDataset, train_student
from kpod.training.objectives import Objective, StepLoss
from kpod.training.own_texts import OwnTexts
from kpod.training.terms import Agreement, CloseToStart, Nll, OnOwnTexts
from kpod.training.token_rules import BY_ENTROPY, by_excess
from tiers import tiered
from tiny import tiny_llama, tiny_t5, tiny_tokens, tiny_weights

OWN = {"normaliser", "task_shares", "objective", "packing", "tokens_per_batch"}
MAKERS = {"causal": tiny_llama, "encoder-decoder": tiny_t5}


@pytest.fixture(params=MAKERS)
def lm(request):
    return MAKERS[request.param]()


def whole(tokens):
    return Schedule(tuple(t.id for t in tokens), np.zeros((1, len(tokens)), dtype=np.int32))


def dataset_of(lm, tokens, weights=None, **options):
    weights = weights or {t.id: tiny_weights(t) for t in tokens}
    return StageDataset(tokens, weights, whole(tokens), encoder_decoder=lm.encoder_decoder, **options)


def trainer_of(lm, dataset, folder, linear=True, **options):
    named = {name: options.pop(name) for name in OWN & options.keys()}
    given = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "seed": 1}
    given |= {"logging_strategy": "no", "num_train_epochs": 1, "max_grad_norm": 0.0}
    trainer = KeypointTrainer(
        lm.model,
        TrainingArguments(str(folder), **{**given, **options}),
        train_dataset=dataset,
        processing_class=lm.tokenizer,
        **named,
    )
    trainer._linear_head = None if linear else False
    return trainer


def batch_of(trainer, dataset):
    return trainer.data_collator([dataset[number] for number in range(len(dataset))])


def gradient_of(lm, loss):
    lm.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in lm.model.parameters() if p.grad is not None])


def one_loss(lm, dataset, folder, linear=True, **options):
    """The loss of all examples in one batch, and its gradient."""
    trainer = trainer_of(lm, dataset, folder, linear, **options)
    loss = trainer.compute_loss(lm.model, batch_of(trainer, dataset))
    return loss.item(), gradient_of(lm, loss)


def trained(lm, dataset, folder, batch, accumulate, **options):
    """The loss of the first update, and what it was made of: parameters after plain descent."""
    state = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    more = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate, "optim": "sgd"}
    trainer_of(lm, dataset, folder, **more, learning_rate=1e-1, lr_scheduler_type="constant", **options).train()
    found = torch.cat([p.detach().flatten() for p in lm.model.parameters()])
    lm.model.load_state_dict(state)
    (line,) = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads(line)["loss"], found


# -- tasks, each with a mean of its own ------------------------------------------------------------------


def two_tasks(lm, steps=(3, 2)):
    """Four texts of task 0 with this many tokens in their rationales, and four of task 1."""
    tokens = [tiny_tokens(lm, f"a{n}", steps) for n in range(4)] + [
        tiny_tokens(lm, f"b{n}", (n + 1,)) for n in range(4)
    ]
    return tokens, {t.id: int(t.id.startswith("b")) for t in tokens}


def mean_nll(lm, tokens, folder):
    data = dataset_of(lm, tokens, {t.id: np.ones(t.num_tokens, np.float32) for t in tokens})
    batch = batch_of(trainer_of(lm, data, folder), data)
    return -logprobs(lm.model, {name: value for name, value in batch.items() if name != "examples"}).mean()


@pytest.mark.parametrize("linear", [True, False])
def test_the_loss_is_the_mix_of_each_tasks_own_mean(lm, linear, tmp_path):
    tokens, tasks = two_tasks(lm)
    ones = {t.id: np.ones(t.num_tokens, np.float32) for t in tokens}
    means = [mean_nll(lm, [t for t in tokens if tasks[t.id] == task], tmp_path) for task in (0, 1)]
    loss, gradient = one_loss(lm, dataset_of(lm, tokens, ones, tasks=tasks), tmp_path, linear, task_shares=(0.3, 0.7))
    assert loss == pytest.approx(0.3 * means[0].item() + 0.7 * means[1].item(), rel=1e-5)
    expected = gradient_of(lm, 0.3 * means[0] + 0.7 * means[1])
    assert torch.allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("linear", [True, False])
def test_a_task_without_a_share_has_no_gradient(lm, linear, tmp_path):
    tokens, tasks = two_tasks(lm)
    loss, gradient = one_loss(lm, dataset_of(lm, tokens, tasks=tasks), tmp_path, linear, task_shares=(0.0, 1.0))
    others = [t for t in tokens if tasks[t.id]]
    alone, expected = one_loss(lm, dataset_of(lm, others), tmp_path, linear)
    assert loss == pytest.approx(alone, rel=1e-6)
    assert torch.allclose(gradient, expected, atol=1e-6)
    (half, of_half), (both, of_both) = (
        one_loss(lm, dataset_of(lm, tokens, tasks=tasks), tmp_path, linear, task_shares=shares)
        for shares in ((0.0, 0.5), (0.5, 0.5))
    )
    assert half == pytest.approx(loss / 2, rel=1e-6)
    assert not torch.allclose(of_half, of_both, atol=1e-4)
    assert both > half


def test_longer_rationales_leave_the_share_of_the_label_as_it_was(lm, tmp_path):
    """The gradient that comes from task 1 alone, with task 0 short and twice as long."""
    found = []
    for steps in ((3, 2), (6, 4)):
        tokens, tasks = two_tasks(lm, steps)
        with_label, without = (
            one_loss(lm, dataset_of(lm, tokens, tasks=tasks), tmp_path, task_shares=shares)[1]
            for shares in ((0.5, 0.5), (0.5, 0.0))
        )
        found.append(with_label - without)
    assert found[0].abs().max() > 1e-3
    assert torch.allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("normaliser", ["tokens", "weights"])
def test_with_tasks_a_batch_of_8_is_8_accumulated(lm, normaliser, tmp_path):
    tokens, tasks = two_tasks(lm)
    data = dataset_of(lm, tokens, tasks=tasks)
    options = {"task_shares": (0.8, 0.2), "normaliser": normaliser}
    loss, parameters = trained(lm, data, tmp_path / "8", 8, 1, **options)
    for number, (batch, accumulate) in enumerate(((4, 2), (1, 8))):
        other, found = trained(lm, data, tmp_path / str(number), batch, accumulate, **options)
        assert other == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(found, parameters, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_an_evaluation_mixes_the_means_of_the_whole_set(lm, size, tmp_path):
    tokens, tasks = two_tasks(lm)
    data = dataset_of(lm, tokens, tasks=tasks)
    wanted, _ = one_loss(lm, data, tmp_path, task_shares=(0.25, 0.75))
    trainer = trainer_of(lm, data, tmp_path, task_shares=(0.25, 0.75), per_device_eval_batch_size=size)
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(wanted, rel=1e-5)
    only_one = dataset_of(lm, tokens[:4], tasks=tasks)
    alone, _ = one_loss(lm, dataset_of(lm, tokens[:4]), tmp_path)
    assert trainer.evaluate(only_one)["eval_loss"] == pytest.approx(0.25 * alone, rel=1e-5)


@pytest.mark.parametrize("shares", [(), (0.5,), (0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_shares_that_mean_nothing_are_refused(shares):
    with pytest.raises(ConfigError, match="task_shares is"):
        StepLoss("tokens", shares)


def test_an_example_of_a_task_without_a_share_is_refused(tmp_path):
    lm = tiny_llama()
    tokens, tasks = two_tasks(lm)
    with pytest.raises(ConfigError, match="of task 2, but task_shares has 2"):
        one_loss(lm, dataset_of(lm, tokens, tasks={**tasks, "b0": 2}), tmp_path, task_shares=(0.5, 0.5))


def test_rows_have_one_task(tmp_path):
    rows = [{"prompt": "Q: 1 + 1?", "completion": " It is 2."}]
    with pytest.raises(ConfigError, match="task_shares has 2 shares, but rows have one task"):
        trainer_of(tiny_llama(), rows, tmp_path, task_shares=(0.5, 0.5))


# -- a run that is stopped ---------------------------------------------------------------------------------


class Stop(TrainerCallback):
    """Ends training after an update, with a checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        control.should_training_stop = control.should_save = state.global_step == 4


OBJECTIVES = {
    "tasks": {"tasks": {"q1/0": 1, "q2/1": 1}, "task_shares": (0.3, 0.7)},
    "rule": {"objective": Objective(((1.0, Nll(by_excess(0.5))),))},
    "pairs": {"objective": Objective(((1.0, Nll(BY_ENTROPY)), (0.1, Agreement())))},
    "start": {"objective": Objective(((1.0, Nll()), (0.1, CloseToStart())))},
    "own texts": {
        "objective": Objective(((0.0, Nll()), (1.0, OnOwnTexts()))),
        "own_texts": OwnTexts(tiny_llama(seed=1), starts_after=0.4, max_new_tokens=4),
    },
}


@pytest.mark.parametrize("kind", tiered(OBJECTIVES, slow=["rule", "start", "own texts"]))
def test_a_run_that_was_stopped_goes_on_to_the_same_parameters(kind, tmp_path):
    """Inside an epoch of three updates."""
    config = TrainingConfig(num_train_epochs=2, learning_rate=1e-2, per_device_train_batch_size=2)

    def run(name, *callbacks):
        lm = tiny_llama(dropout=0.1)
        tokens = [tiny_tokens(lm, f"q{q}/{n}", (2 + n, 3)) for q in range(3) for n in range(2)]
        reference = {t.id: np.linspace(-3, -1, len(t.token_ids) - t.segment_stops[0], dtype=np.float32) for t in tokens}
        more = {"reference": reference, "groups": {t.id: t.id[:2] for t in tokens}, **OBJECTIVES[kind]}
        weights = {t.id: tiny_weights(t) for t in tokens}
        train_student(
            lm, tokens, weights, whole(tokens), config, seed=0, output_dir=tmp_path / name, callbacks=callbacks, **more
        )
        return (tmp_path / name / "model.safetensors").read_bytes()

    with pytest.raises(TrainingError, match="training stopped at update 4 of 6"):
        run("stopped", Stop())
    assert run("stopped") == run("at once")
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("stopped", "at once")]
    assert lines[0] == lines[1]


def test_students_of_other_losses_have_other_fingerprints_in_every_process():
    """A loss is named, not told by where its functions lie in memory."""
    assert "0x" not in repr([options.get("objective") for options in OBJECTIVES.values()])
    assert len({repr(options.get("objective")) for options in OBJECTIVES.values()}) == len(OBJECTIVES)
