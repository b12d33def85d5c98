# ruff: noqa: ARG002 (a callback is given more than it needs)
import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
    TrainingArguments,
)

from kpod.lm.models import LanguageModel
from kpod.lm.sequences import Example, example_at
from kpod.recipe import LoraConfig, TrainingConfig
from kpod.records import SEGMENTS, Schedule
from kpod.records.errors import ConfigError, DataError, TrainingError
from kpod.training import KeypointTrainer, StageDataset, StageSampler, check_arguments, student, train_student
from kpod.training.arguments import check_model_arguments, training_arguments
from kpod.training.batches import TokenBatchSampler
from kpod.training.collation import Collator
from kpod.training.loss import keypoint_loss
from tiers import tiered
from tiny import END, VOCABULARY, byte_tokenizer, tiny_llama, tiny_t5, tiny_tokens, tiny_weights

MAKERS = {"causal": tiny_llama, "encoder-decoder": tiny_t5}


@pytest.fixture(params=MAKERS)
def lm(request) -> LanguageModel:
    return MAKERS[request.param]()


def rationales(lm, number=8):
    return [tiny_tokens(lm, f"q{n}", (2 + n % 3, 3, 1 + n % 2)) for n in range(number)]


def weights_of(tokens, value=None):
    return {t.id: tiny_weights(t) if value is None else np.full(t.num_tokens, value, np.float32) for t in tokens}


def ramp(tokens, *rows):
    """A schedule whose row t gives min(rows[t], n) steps."""
    steps = [[min(row, t.num_steps) for t in tokens] for row in rows]
    return Schedule(tuple(t.id for t in tokens), np.array(steps, dtype=np.int32))


def staged(lm, tokens, weights, schedule, **options):
    return StageDataset(tokens, weights, schedule, encoder_decoder=lm.encoder_decoder, **options)


def arguments(folder, **options):
    defaults = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "seed": 1}
    return TrainingArguments(str(folder), **{**defaults, "logging_strategy": "no", **options})


def trainer_of(
    lm,
    dataset,
    folder,
    normaliser="tokens",
    callbacks=None,
    eval_dataset=None,
    tokens_per_batch=None,
    packing=False,
    **options,
):
    return KeypointTrainer(
        model=lm.model,
        args=arguments(folder, **options),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=lm.tokenizer,
        normaliser=normaliser,
        callbacks=callbacks,
        tokens_per_batch=tokens_per_batch,
        packing=packing,
    )


def sizes_of(tokens):
    return [len(rationale.token_ids) for rationale in tokens]


class Gradients(TrainerCallback):
    """Keeps the gradients of every update, and stops after `updates`."""

    def __init__(self, updates=1):
        self.updates = updates
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.updates


def first_gradient(lm, dataset, folder, **options):
    """Gradient of the first update and its logged loss."""
    gradients = Gradients()
    lm.model.train()
    trainer_of(lm, dataset, folder, callbacks=[gradients], max_grad_norm=0.0, **options).train()
    return gradients.seen[0], lines_of(folder)[0]["loss"]


def lines_of(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def assert_close(one, other, tolerance):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.allclose(one[name], other[name], atol=tolerance, rtol=0), name


# -- Eq. 15 by hand ----------------------------------------------------------------------------------------------------


def planted_logits():
    """Logits of a made-up language in which only the token before decides: log P(next | token), [token, next]."""
    return torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(5)).log_softmax(-1)


def planted_causal():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=VOCABULARY + 1,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        eos_token_id=END,
        pad_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config), byte_tokenizer(pad="eos")


def planted_t5():
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=VOCABULARY + 1,
        d_kv=2,
        d_ff=2,
        num_layers=1,
        num_heads=1,
        tie_word_embeddings=False,
        dropout_rate=0.0,
        decoder_start_token_id=256,
    )
    config.tie_word_embeddings = False  # as in T5 v1.1 and FlanT5; the argument of this name only drops a scaling
    return T5ForConditionalGeneration(config), byte_tokenizer()


def planted(encoder_decoder):
    """A real model that was given the planted language: layers add nothing, token t is embedded as the t-th axis."""
    model, tokenizer = planted_t5() if encoder_decoder else planted_causal()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        axes = torch.zeros(VOCABULARY, VOCABULARY + 1)
        axes[:, :VOCABULARY] = 1000 * torch.eye(VOCABULARY)  # so long that the norm's epsilon does not count
        for table in (m for m in model.modules() if isinstance(m, torch.nn.Embedding) and len(m.weight) == VOCABULARY):
            table.weight.copy_(axes)
        head = model.get_output_embeddings().weight
        head[:, :VOCABULARY] = planted_logits().T / math.sqrt(VOCABULARY + 1)  # the last norm scales an axis by this
    return LanguageModel.of(model.eval(), tokenizer)


@pytest.mark.parametrize("encoder_decoder", [False, True], ids=["causal", "encoder-decoder"])
def test_the_loss_is_eq_15_worked_by_hand_on_a_planted_language(encoder_decoder, tmp_path):
    lm = planted(encoder_decoder)
    tokens = [tiny_tokens(lm, "a", (2, 3), closing=1, answer=2), tiny_tokens(lm, "b", (1, 2, 2), closing=2, answer=1)]
    weights, logps = weights_of(tokens), planted_logits().tolist()
    total = number = 0
    for rationale in tokens:
        start = rationale.segment_stops[0] + rationale.step_stops[0]  # stage 1 gives one step
        for position in range(start, len(rationale.token_ids)):
            inside = position - rationale.segment_stops[0]
            weight = float(weights[rationale.id][inside]) if inside < rationale.num_tokens else 1.0
            before = rationale.token_ids[position - 1]
            if encoder_decoder and position == start:
                before = lm.decoder_start_id
            total -= weight * logps[before][rationale.token_ids[position]]
            number += 1
    dataset = staged(lm, tokens, weights, ramp(tokens, 1, 1, 0))
    _, loss = first_gradient(lm, dataset, tmp_path, per_device_train_batch_size=2, num_train_epochs=1)
    assert loss == pytest.approx(total / number, abs=1e-5)


def test_the_planted_language_is_spoken_by_transformers_own_forward():
    lm = planted(encoder_decoder=False)
    logits = lm.model(torch.tensor([[7, 9, 4]])).logits[0].log_softmax(-1)
    assert torch.allclose(logits, planted_logits()[[7, 9, 4]], atol=1e-5)


# -- the same loss and gradient however it is cut ----------------------------------------------------------------------


@pytest.mark.parametrize("normaliser", tiered(["tokens", "weights"], ["weights"]))
def test_a_batch_of_8_is_8_accumulated_is_4_by_2(lm, normaliser, tmp_path):
    tokens = rationales(lm)
    dataset = staged(lm, tokens, weights_of(tokens), ramp(tokens, 2, 1, 0))
    results = []
    for batch in (8, 4, 1):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch}
        results.append(first_gradient(lm, dataset, tmp_path / str(batch), normaliser=normaliser, **options))
        reset(lm)
    for gradient, loss in results[1:]:
        assert loss == pytest.approx(results[0][1], abs=1e-6)
        assert_close(gradient, results[0][0], 1e-6)


def reset(lm):
    """Give a model its first parameters back."""
    fresh = tiny_t5() if lm.encoder_decoder else tiny_llama()
    lm.model.load_state_dict(fresh.model.state_dict())
    lm.model.zero_grad()


def test_an_epoch_whose_last_update_is_short_is_normalised_by_what_it_holds(lm, tmp_path):
    tokens = rationales(lm, 3)
    dataset = staged(lm, tokens, weights_of(tokens, 1.0), ramp(tokens, 0))
    trainer_of(lm, dataset, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=2, learning_rate=0.0,
               num_train_epochs=1).train()  # fmt: skip
    first, second = lines_of(tmp_path)
    order = [index for index, _ in StageSampler(sizes_of(tokens), dataset.schedule, seed=1)]
    alone = staged(lm, [tokens[order[2]]], weights_of(tokens, 1.0), dataset.schedule)
    trainer_of(lm, alone, tmp_path / "alone", learning_rate=0.0, num_train_epochs=1).train()
    assert second["loss"] == pytest.approx(lines_of(tmp_path / "alone")[0]["loss"], abs=1e-6)
    assert second["trained_tokens"] == len(alone[0].weights)
    assert first["trained_tokens"] == sum(len(dataset[index].weights) for index in order[:2])


def test_padding_changes_nothing(lm, tmp_path):
    short, long = tiny_tokens(lm, "short", (2,)), tiny_tokens(lm, "long", (9, 8, 7))
    trainer = trainer_of(lm, None, tmp_path)
    lm.model.eval()
    losses = []
    for group in ([short], [long], [short, long]):
        dataset = staged(lm, group, weights_of(group), ramp(group, 0))
        batch = trainer.data_collator([dataset[n] for n in range(len(group))])
        losses.append(trainer.compute_loss(lm.model, batch, num_items_in_batch=1).item())
    assert losses[2] == pytest.approx(losses[0] + losses[1], rel=1e-6)


# -- plain fine-tuning is a special case -------------------------------------------------------------------------------


def plain_batch(lm, tokens):
    """What a user of transformers would build: labels -100 on the question and on padding, shifted by the model."""
    width = max(len(t.token_ids) for t in tokens)
    ids = torch.full((len(tokens), width), lm.pad_id)
    labels, mask = torch.full((len(tokens), width), -100), torch.zeros(len(tokens), width, dtype=torch.long)
    for row, rationale in enumerate(tokens):
        length, question = len(rationale.token_ids), rationale.segment_stops[0]
        ids[row, :length] = torch.tensor(rationale.token_ids)
        labels[row, question:length] = ids[row, question:length]
        mask[row, :length] = 1
    if not lm.encoder_decoder:
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
    question = tokens[0].segment_stops[0]
    return {
        "input_ids": ids[:, :question],
        "attention_mask": mask[:, :question],
        "labels": labels[:, question:].contiguous(),
    }


def test_with_weights_1_and_whole_rationales_it_is_transformers_own_fine_tuning(lm, tmp_path):
    tokens = rationales(lm, 4)
    dataset = staged(lm, tokens, weights_of(tokens, 1.0), ramp(tokens, 0))
    gradient, loss = first_gradient(lm, dataset, tmp_path, per_device_train_batch_size=4)
    reset(lm)
    expected = lm.model(**plain_batch(lm, tokens)).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    assert_close(gradient, {name: p.grad for name, p in lm.model.named_parameters() if p.grad is not None}, 1e-5)


def test_mean_normalised_weights_of_one_value_are_plain_fine_tuning_too(lm, tmp_path):
    tokens = rationales(lm, 4)
    dataset = staged(lm, tokens, weights_of(tokens, 0.3), ramp(tokens, 0), normalisation="mean")
    _, loss = first_gradient(lm, dataset, tmp_path, per_device_train_batch_size=4)
    reset(lm)
    assert loss == pytest.approx(lm.model(**plain_batch(lm, tokens)).loss.item(), abs=1e-6)


# -- what reaches the batch --------------------------------------------------------------------------------------------


def test_every_sample_keeps_its_own_weights_and_steps_whatever_the_order(lm):
    tokens = rationales(lm)
    weights = weights_of(tokens)
    counts = np.array([[n % (t.num_steps + 1) for n, t in enumerate(tokens)], [0] * len(tokens)], dtype=np.int32)
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    schedule = Schedule(tuple(tokens[n].id for n in reversed(order)), counts[:, list(reversed(order))])
    shuffled = staged(lm, [tokens[n] for n in order], dict(sorted(weights.items(), reverse=True)), schedule)
    for place, n in enumerate(order):
        wanted = example_at(tokens[n], weights[tokens[n].id], int(counts[0, n]), encoder_decoder=lm.encoder_decoder)
        found = shuffled[place, 0]
        assert found.id == tokens[n].id
        assert (found.token_ids, found.first_trained) == (wanted.token_ids, wanted.first_trained)
        assert np.array_equal(found.weights, wanted.weights)


class Stages(TrainerCallback):
    """Notes the stages and ids that reach the loss."""

    def __init__(self):
        self.seen = []

    def watch(self, trainer):
        inner = trainer.compute_loss

        def compute_loss(model, inputs, **kwargs):
            self.seen.append([(e.id, e.stage, len(e.weights)) for e in inputs["examples"]])
            return inner(model, inputs, **kwargs)

        trainer.compute_loss = compute_loss


@pytest.mark.parametrize("workers", tiered([0, 2], [2]))  # which are processes
def test_the_stage_reaches_the_batch_by_epoch_with_and_without_workers(workers, tmp_path):
    lm = tiny_llama()
    tokens = rationales(lm, 5)
    dataset = staged(lm, tokens, weights_of(tokens), ramp(tokens, 3, 2, 1, 0))
    options = {"num_train_epochs": 4, "per_device_train_batch_size": 2, "dataloader_num_workers": workers}
    trainer = trainer_of(lm, dataset, tmp_path, **options)
    stages = Stages()
    stages.watch(trainer)
    trainer.train()
    epochs = [[seen for batch in stages.seen[start : start + 3] for seen in batch] for start in range(0, 12, 3)]
    assert [{stage for _, stage, _ in epoch} for epoch in epochs] == [{1}, {2}, {3}, {3}]
    assert all(sorted(id_ for id_, _, _ in epoch) == [t.id for t in tokens] for epoch in epochs)
    for epoch, given_steps in zip(epochs, (2, 1, 0, 0), strict=True):
        for id_, _, trained in epoch:
            rationale = next(t for t in tokens if t.id == id_)
            assert trained == len(rationale.token_ids) - 6 - rationale.num_input_tokens(given_steps)
    assert [line["stage"] for line in lines_of(tmp_path)] == [1] * 3 + [2] * 3 + [3] * 6


@given(st.integers(1, 40), st.integers(0, 2**32), st.integers(0, 30), st.integers(1, 5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_order_is_a_permutation_that_seed_and_epoch_decide(number, seed, epoch, update_size, bucketed):
    schedule = Schedule(("q",), np.array([[2], [1], [0]], dtype=np.int32))
    lengths = [60 + 7 * index % 90 for index in range(number)]
    first, second = (StageSampler(lengths, schedule, seed, update_size, bucketed=bucketed) for _ in range(2))
    list(first)  # what was drawn before does not matter
    for sampler in (first, second):
        sampler.set_epoch(epoch)
    assert list(first) == list(second)
    assert sorted(first) == [(index, schedule.at_epoch(epoch)) for index in range(number)]


def test_stages_of_some_updates_each_ramp_up_inside_an_epoch():
    """Ten rationales, updates of two, five stages over the first of two epochs: a stage an update, then whole."""
    schedule = Schedule(("q",), np.array([[5], [4], [3], [2], [1], [0]], dtype=np.int32), ramp_epochs=1.0)
    sampler = StageSampler([9] * 10, schedule, seed=0, update_size=2)
    assert [stage for _, stage in sampler] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    sampler.set_epoch(1)
    assert {stage for _, stage in sampler} == {5}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 99), min_size=1, max_size=40), st.integers(1, 300), st.integers(1, 4))
def test_batches_by_tokens_come_in_an_order_of_seed_and_epoch_at_the_stage_of_their_update(lengths, tokens, update):
    schedule = Schedule(("q",), np.array([[3], [2], [1], [0]]), ramp_epochs=1.0)
    sampler, again = (TokenBatchSampler(lengths, schedule, 0, tokens, update) for _ in range(2))
    batches = list(sampler)
    assert batches == list(again)
    assert len(batches) == len(sampler)
    assert sorted(index for batch in batches for index, _ in batch) == list(range(len(lengths)))
    for start in range(0, len(batches), update):
        stages = {stage for batch in batches[start : start + update] for _, stage in batch}
        assert stages == {schedule.at_epoch(Fraction(start, len(batches)))}


def test_a_run_in_batches_by_tokens_is_the_same_update_as_the_same_rationales_in_one_batch(lm, tmp_path):
    tokens = rationales(lm, 6)
    whole = staged(lm, tokens, weights_of(tokens), ramp(tokens, 1, 0))
    together, loss = first_gradient(lm, whole, tmp_path / "one", per_device_train_batch_size=6)
    reset(lm)
    gradients = Gradients()
    lm.model.train()
    options = {"gradient_accumulation_steps": 99, "max_grad_norm": 0.0}
    trainer_of(lm, whole, tmp_path / "cut", callbacks=[gradients], tokens_per_batch=120, **options).train()
    assert_close(gradients.seen[0], together, 1e-5)
    assert lines_of(tmp_path / "cut")[0]["loss"] == pytest.approx(loss, abs=1e-6)


def test_packed_rationales_train_as_padded_ones(tmp_path):
    lm = tiny_llama()
    dataset = staged(lm, tokens := rationales(lm, 6), weights_of(tokens), ramp(tokens, 1, 0))
    padded, loss = first_gradient(lm, dataset, tmp_path / "padded", per_device_train_batch_size=6)
    reset(lm)
    packed, same = first_gradient(lm, dataset, tmp_path / "packed", per_device_train_batch_size=6, packing=True)
    assert_close(packed, padded, 1e-5)
    assert same == pytest.approx(loss, abs=1e-6)
    batch = Collator(lm, packed=True)([dataset[n] for n in range(6)])
    assert batch["input_ids"].shape == (1, sum(sizes_of(tokens)) - 6)


def test_packing_is_refused_where_rationales_would_see_one_another(tmp_path, monkeypatch):
    lm = tiny_llama()
    dataset = staged(lm, tokens := rationales(lm, 4), weights_of(tokens), ramp(tokens, 0))
    monkeypatch.setattr("kpod.lm.waits._packed", lambda _: None)
    with pytest.raises(ConfigError, match=r"training\.packing: this model lets packed rationales see one another"):
        trainer_of(lm, dataset, tmp_path, packing=True, per_device_train_batch_size=4).train()
    lm = tiny_t5()
    with pytest.raises(ConfigError, match="cannot share a row"):
        trainer_of(lm, staged(lm, tokens, weights_of(tokens), ramp(tokens, 0)), tmp_path, packing=True)


def test_a_schedule_that_goes_by_feedback_is_asked_before_every_update():
    told = [1]

    class ByFeedback(Schedule):
        def at_epoch(self, epochs):
            return told[-1]

    schedule = ByFeedback(("q",), np.array([[2], [1], [0]], dtype=np.int8))
    stages = []
    for _, stage in StageSampler([9] * 6, schedule, seed=0, update_size=2):
        stages.append(stage)
        if len(stages) == 4:
            told.append(2)  # a validation set said so after the second update
    assert stages == [1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("strategy", "bucketed"), [("group_by_length", True), ("random", False)])
def test_the_examples_of_an_update_are_of_like_length_where_the_recipe_says_so(lm, tmp_path, strategy, bucketed):
    tokens = [tiny_tokens(lm, f"q{n}", (2 + 3 * (n % 4),)) for n in range(8)]
    dataset = staged(lm, tokens, weights_of(tokens), ramp(tokens, 0))
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    trainer = trainer_of(lm, dataset, tmp_path, train_sampling_strategy=strategy, **options)
    order = list(trainer._get_train_sampler())
    sampler = StageSampler(sizes_of(tokens), dataset.schedule, trainer.args.seed, 4, bucketed=bucketed)
    assert order == list(sampler)
    updates = [sorted(sizes_of(tokens)[index] for index, _ in order[start : start + 4]) for start in (0, 4)]
    assert not bucketed or sorted(updates) == [sorted(sizes_of(tokens))[:4], sorted(sizes_of(tokens))[4:]]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.slow
def test_a_rationale_of_eight_thousand_tokens_trains_with_gradient_checkpointing(tmp_path):
    grads = []
    for checkpointing in (False, True):
        lm = tiny_llama()
        tokens = [tiny_tokens(lm, "long", (4000, 4200))]
        dataset = staged(lm, tokens, weights_of(tokens), ramp(tokens, 1, 0))
        gradient, _ = first_gradient(lm, dataset, tmp_path / str(checkpointing), activation_checkpointing=checkpointing)
        grads.append(gradient)
    assert_close(*grads, 1e-6)


def test_epochs_and_seeds_are_ordered_differently():
    schedule = Schedule(("q",), np.zeros((1, 1), dtype=np.int32))
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        sampler = StageSampler([9] * 50, schedule, seed)
        sampler.set_epoch(epoch)
        orders.append(tuple(sampler))
    assert len(set(orders)) == 3


def test_the_end_token_is_trained_although_it_is_the_padding_token():
    lm = tiny_llama(pad="eos")
    assert lm.pad_id == lm.end_id
    tokens = [tiny_tokens(lm, "a", (2,)), tiny_tokens(lm, "b", (5, 4))]
    dataset = staged(lm, tokens, weights_of(tokens), ramp(tokens, 0))
    batch = Collator(lm)([dataset[0], dataset[1]])
    assert [(row == lm.end_id).sum().item() for row in batch["labels"]] == [1, 1]
    for row, example in zip(batch["labels"], batch["examples"], strict=True):
        assert row[row != -100][-1] == lm.end_id
        assert SEGMENTS[example.segments[-1]] == "end"


def test_an_index_alone_is_the_whole_rationale(lm):
    tokens = rationales(lm, 2)
    dataset = staged(lm, tokens, weights_of(tokens), ramp(tokens, 1, 0))
    assert len(dataset[0].weights) == len(tokens[0].token_ids) - tokens[0].segment_stops[0]
    assert len(dataset[0, 0].weights) == len(dataset[0].weights) - tokens[0].step_stops[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("q1"), "'q1' has no weights"),
        (lambda w: w.update(q1=w["q1"][:-1]), r"'q1': weights of shape \(\d+,\) for \d+ tokens"),
        (lambda w: w.update(q1=w["q1"] * 0), "'q1': all weights are 0"),
    ],
)
def test_missing_or_misfit_weights_are_named(change, message):
    lm = tiny_llama()
    tokens = rationales(lm, 3)
    weights = weights_of(tokens)
    change(weights)
    with pytest.raises(DataError, match=message):
        staged(lm, tokens, weights, ramp(tokens, 0), normalisation="mean")


def test_a_rationale_without_a_place_in_the_schedule_is_named():
    tokens = rationales(tiny_llama(), 3)
    with pytest.raises(DataError, match="'q2' is not in the schedule"):
        staged(tiny_llama(), tokens, weights_of(tokens), ramp(tokens[:2], 0))


def test_an_example_that_trains_nothing_is_refused():
    nothing = Example((), (1, 2, 3), 3, np.zeros(0, dtype=np.float32))
    with pytest.raises(DataError, match="example 0 of the batch: no token of it is trained"):
        Collator(tiny_llama())([nothing])


# -- a drop-in Trainer -------------------------------------------------------------------------------------------------


class Plain(Dataset):
    """A user's own dataset of examples."""

    def __init__(self, lm, tokens):
        self.rows = [example_at(t, tiny_weights(t), 0, encoder_decoder=lm.encoder_decoder) for t in tokens]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def test_a_users_own_dataset_trains_and_is_evaluated_by_the_same_loss(lm, tmp_path):
    dataset = Plain(lm, rationales(lm, 5))
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, num_train_epochs=2,
                             per_device_train_batch_size=5, per_device_eval_batch_size=2, save_strategy="no",
                             learning_rate=0.0, logging_strategy="no")  # fmt: skip
    trainer = KeypointTrainer(
        model=lm.model, args=args, train_dataset=dataset, eval_dataset=dataset, processing_class=lm.tokenizer
    )
    trainer.train()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["stage"] is None
    assert lines[0]["answer_loss"] is None
    evaluated = trainer.evaluate()["eval_loss"]  # batches of 2, 2 and 1, divided once
    assert evaluated == pytest.approx(lines[0]["loss"], abs=1e-5)


def test_a_trainer_without_tokenizer_or_with_label_smoothing_is_refused(tmp_path):
    lm = tiny_llama()
    with pytest.raises(ConfigError, match="processing_class"):
        KeypointTrainer(lm.model, arguments(tmp_path))
    with pytest.raises(ConfigError, match="label_smoothing_factor"):
        KeypointTrainer(lm.model, arguments(tmp_path, label_smoothing_factor=0.1), processing_class=lm.tokenizer)


def test_metrics_tell_rationale_from_answer(lm, tmp_path):
    tokens = rationales(lm, 2)
    dataset = staged(lm, tokens, weights_of(tokens, 1.0), ramp(tokens, 1, 0))
    trainer_of(lm, dataset, tmp_path, per_device_train_batch_size=2, num_train_epochs=1, learning_rate=1e-3).train()
    (line,) = lines_of(tmp_path)
    reset(lm)
    loss = torch.nn.CrossEntropyLoss(reduction="none", ignore_index=-100)
    sums = {"rationale": [], "answer": []}
    for rationale in tokens:
        batch = plain_batch(lm, [rationale])
        logits = lm.model(**batch).logits[0]
        labels = batch["labels"][0]
        losses = loss(logits, labels) if lm.encoder_decoder else loss(logits[:-1], labels[1:])
        losses = losses[-(len(rationale.token_ids) - rationale.segment_stops[0]) :]
        sums["rationale"] += losses[: rationale.num_tokens].tolist()
        sums["answer"] += losses[-3:-1].tolist()
    assert line["rationale_loss"] == pytest.approx(np.mean(sums["rationale"]), abs=1e-5)
    assert line["answer_loss"] == pytest.approx(np.mean(sums["answer"]), abs=1e-5)
    assert line["trained_tokens"] == sum(len(t.token_ids) - 6 for t in tokens)
    assert line["learning_rate"] == pytest.approx(1e-3)


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_nan_loss_stops_the_run_and_saves_the_batch(tmp_path):
    lm = tiny_llama()
    tokens = rationales(lm, 4)
    dataset = staged(lm, tokens, weights_of(tokens), ramp(tokens, 0))
    trainer = trainer_of(lm, dataset, tmp_path, per_device_train_batch_size=1, num_train_epochs=1)
    order = [index for index, _ in StageSampler(sizes_of(tokens), dataset.schedule, seed=1)]
    bad = tokens[order[2]].id
    dataset._weights[bad] = np.full_like(dataset._weights[bad], np.nan)
    with pytest.raises(TrainingError, match=f"update 3: the loss is nan on rationale '{bad}'; the batch is saved"):
        trainer.train()
    saved = json.loads((tmp_path / "failed_batch.json").read_text())
    (example,) = saved["examples"]
    assert (saved["update"], example["id"]) == (3, bad)
    assert example["token_ids"] == list(tokens[order[2]].token_ids)
    assert math.isnan(example["weights"][0])
    assert all(torch.isfinite(p).all() for p in lm.model.parameters())


def test_an_infinite_gradient_stops_the_run_before_the_update(tmp_path):
    lm = tiny_llama()
    tokens = rationales(lm, 2)
    dataset = staged(lm, tokens, weights_of(tokens), ramp(tokens, 0))
    lm.model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    with pytest.raises(
        TrainingError, match=r"update 1: the norm of the gradient is inf on rationale 'q.', rationale 'q.'"
    ):
        trainer_of(lm, dataset, tmp_path, per_device_train_batch_size=2, num_train_epochs=1).train()
    assert all(torch.equal(p, before[name]) for name, p in lm.model.named_parameters())


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learing_rate": 1e-5}, "unknown key training.learing_rate; did you mean training.learning_rate"),
        ({"warmup_step": 1}, "unknown key training.warmup_step; did you mean training.warmup_steps"),
        ({"weight_normalization": "mean"}, "did you mean training.weight_normalisation"),
        ({"remove_unused_columns": True}, "remove_unused_columns cannot be set: the loss needs the token weights"),
        ({"logging_nan_inf_filter": True}, "hides a NaN loss"),
        ({"label_smoothing_factor": 0.1}, "without smoothing"),
        ({"auto_find_batch_size": True}, "could not be resumed exactly"),
        ({"learning_rate": 1.0}, "training.arguments.learning_rate: write it straight under training"),
        ({"weight_decay": "a lot"}, "training.weight_decay is 'a lot'; it must be a number"),
        (
            {"train_sampling_strategy": "sequential"},
            "it must be group_by_length or random: others do not know the stages",
        ),
        ({"report_to": "wandbb"}, "report_to: transformers knows no tracker 'wandbb'; did you mean wandb"),
        ({"report_to": ["none", "clearml"]}, "report_to: clearml is not installed: pip install clearml, or set it to"),
        ({"report_to": "comet_ml"}, "pip install comet-ml"),
        ({"data_seed": -1}, "training.data_seed is -1; it must be a whole number of at least 0"),
        ({"optim": "adamm"}, "training: transformers refuses these arguments: adamm is not a valid OptimizerNames"),
    ],
)
def test_a_wrong_argument_is_named_before_any_work(given, message):
    with pytest.raises(ConfigError, match=message):
        check_arguments(TrainingConfig(arguments=given))


def test_the_papers_optimiser_is_the_default_and_numbers_may_be_texts():
    config = TrainingConfig(arguments={"weight_decay": "1e-2", "warmup_steps": 5, "save_steps": "3", "optim": "sgd"})
    made = training_arguments(config, Path("student"), seed=7, precision="fp32")
    assert (made.weight_decay, made.warmup_steps, made.save_steps, made.optim) == (0.01, 5, 3, "sgd")
    made = training_arguments(TrainingConfig(), Path("student"), seed=7, precision="bf16")
    assert (made.optim, made.weight_decay, made.lr_scheduler_type, made.seed) == (
        "adamw_torch_fused",
        0.0,
        "constant",
        7,
    )
    assert made.bf16
    assert not made.remove_unused_columns
    assert not made.logging_nan_inf_filter


def test_t5_is_not_trained_in_fp16(tmp_path):
    made = dataclasses.replace(arguments(tmp_path), fp16=True)
    with pytest.raises(ConfigError, match=r"training\.fp16: t5 overflows to NaN"):
        check_model_arguments(made, "t5")
    check_model_arguments(made, "llama")


# -- a whole run -------------------------------------------------------------------------------------------------------

CONFIG = TrainingConfig(num_train_epochs=3, learning_rate=1e-2, per_device_train_batch_size=2)


def run(lm, folder, config=CONFIG, **options):
    tokens = rationales(lm, 4)
    defaults = {"seed": 0, "output_dir": folder, "precision": "fp32", "fingerprint": "f"}
    return train_student(lm, tokens, weights_of(tokens), ramp(tokens, 2, 1, 0), config, **{**defaults, **options})


def outputs(model, lm):
    inputs = torch.tensor([[72, 101, 108, 257]])
    more = {"decoder_input_ids": torch.tensor([[256, 3, 5]])} if lm.encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=inputs, **more).logits


def test_the_final_folder_loads_with_plain_from_pretrained(lm, tmp_path):
    summary = run(lm, tmp_path, base_model="someone/some-model")
    family = AutoModelForSeq2SeqLM if lm.encoder_decoder else AutoModelForCausalLM
    loaded = family.from_pretrained(tmp_path)
    assert torch.equal(outputs(loaded, lm), outputs(lm.model, lm))
    assert loaded.config.use_cache
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("3 + 4 = 7").input_ids == lm.tokenizer("3 + 4 = 7").input_ids
    assert not list(tmp_path.glob("checkpoint-*"))
    assert not list(tmp_path.glob("*.bin"))
    card = (tmp_path / "README.md").read_text()
    for text in (
        "library_name: transformers",
        "base_model: someone/some-model",
        "- kpod",
        "arXiv:2405.16064",
        "| 0.01 |",
        "hash | f |",
        "| optimiser steps | 6 |",
        f"| trained tokens | {summary.trained_tokens} |",
    ):
        assert text in card
    assert summary.updates == 6
    assert summary.losses == tuple(line["loss"] for line in lines_of(tmp_path))
    assert summary.final_loss == pytest.approx(np.mean(summary.losses[-2:]))
    assert summary.losses[-1] < summary.losses[0]


def test_a_finished_run_is_not_trained_again_and_other_inputs_are_refused(tmp_path):
    summary = run(tiny_llama(), tmp_path)
    untouched = tiny_llama(seed=4)
    assert run(untouched, tmp_path) == summary
    assert torch.equal(untouched.model.lm_head.weight, tiny_llama(seed=4).model.lm_head.weight)
    with pytest.raises(TrainingError, match="holds a student that was trained from other data"):
        run(untouched, tmp_path, fingerprint="g")


def test_the_hash_of_the_inputs_sees_every_token_of_a_long_rationale():
    lm = tiny_llama()
    tokens = tiny_tokens(lm, steps=(1500, 1500))
    ids = tokens.token_ids.copy()
    ids[1500] = (ids[1500] + 1) % 256
    hashes = {
        student._fingerprint([lm.model], [one], weights_of([tokens]), ramp([one], 2, 1, 0), (CONFIG, 0, "fp32"))
        for one in (tokens, dataclasses.replace(tokens, token_ids=ids))
    }
    assert len(hashes) == 2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("merge", [True, False])
def test_lora_trains_adapters_only_and_is_merged_or_kept(merge, tmp_path):
    base = tmp_path / "base"
    lm = tiny_llama()
    lm.model.save_pretrained(base)
    lm = LanguageModel.of(AutoModelForCausalLM.from_pretrained(base), lm.tokenizer)
    config = dataclasses.replace(CONFIG, lora=LoraConfig(rank=2, alpha=4), merge_lora=merge)
    run(lm, tmp_path / "student", config)
    assert (tmp_path / "student" / "adapter_config.json").exists() is not merge
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert not torch.allclose(outputs(loaded, lm), outputs(tiny_llama().model, lm), atol=1e-3)
    assert torch.equal(loaded.get_input_embeddings().weight, tiny_llama().model.get_input_embeddings().weight)
    if merge:
        assert not any("lora" in name for name, _ in loaded.named_parameters())


def test_the_loss_is_summed_in_single_precision_under_autocast():
    logps, weights = torch.tensor([-1.001, -2.003]), torch.tensor([0.3333, 0.777])
    with torch.autocast("cpu", torch.bfloat16):
        loss = keypoint_loss(logps, weights, 2)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((1.001 * 0.3333 + 2.003 * 0.777) / 2, rel=1e-6)


def test_bf16_keeps_trained_parameters_in_float32_and_writes_bf16(tmp_path):
    lm = tiny_llama()
    lm.model.bfloat16()
    kinds = set()

    class Kinds(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            kinds.update(p.dtype for p in model.parameters())

    summary = run(lm, tmp_path, dataclasses.replace(CONFIG, learning_rate=1e-4), precision="bf16", callbacks=[Kinds()])
    assert kinds == {torch.float32}
    assert all(math.isfinite(loss) for loss in summary.losses)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16


def test_training_that_is_stopped_early_exports_no_student(tmp_path):
    with pytest.raises(TrainingError, match="training stopped at update 3 of 6; no student was written"):
        run(tiny_llama(), tmp_path, callbacks=[Gradients(updates=3)])
    assert not (tmp_path / "config.json").exists()
    assert (tmp_path / "checkpoint-2").is_dir()


def test_workers_get_the_collator_without_the_model():
    collator = Collator(tiny_llama())
    assert not list(collator.lm.model.parameters())
    loader = DataLoader([Example((), (1, 2, 3), 1, np.ones(2, np.float32))] * 2, batch_size=2, collate_fn=collator)
    assert next(iter(loader))["input_ids"].tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize(("precision", "attention"), [("bf16", "eager"), ("fp32", "sdpa")])
def test_packing_takes_the_attention_that_is_installed_where_it_can_compute(
    precision, attention, tmp_path, monkeypatch
):
    """`eager` stands for a flash attention, which knows no float32."""
    monkeypatch.setattr(student, "FLASH_ATTENTION", {"flash_attention_9": lambda: False, "eager": lambda: True})
    lm, config = tiny_llama(), dataclasses.replace(CONFIG, packing=True)
    assert run(lm, tmp_path, config, precision=precision).updates == 6
    assert lm.model.config._attn_implementation == attention
