"""Multipliers of token weights by what the student itself makes of the tokens, worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpod.lm import head
from kpod.lm.head import Predictions, predictions_of
from kpod.lm.sequences import logprobs, trained_positions
from kpod.records import Schedule
from kpod.records.errors import ConfigError, DataError
from kpod.training import StageDataset
from kpod.training.objectives import Objective
from kpod.training.reference import check_reference, reference_logprobs
from kpod.training.terms import Nll
from kpod.training.token_rules import (
    BY_ENTROPY,
    BY_INFORMATION,
    BY_PROBABILITY,
    Facts,
    by_excess,
    facts_of,
)
from test_objectives import batch_of, dataset_of, gradient_of, one_loss, trained, trainer_of
from tiny import VOCABULARY, byte_tokenizer, tiny_llama, tiny_t5, tiny_tokens

MAKERS = {"causal": tiny_llama, "encoder-decoder": tiny_t5}
RULES = {rule.name: rule for rule in (BY_PROBABILITY, BY_ENTROPY, BY_INFORMATION, by_excess(0.5))}


@pytest.fixture(params=MAKERS)
def lm(request):
    return MAKERS[request.param]()


def by(rule):
    return Objective(((1.0, Nll(rule)),))


def some(lm, number=4):
    return [tiny_tokens(lm, f"q{n}", (2 + n, 3)) for n in range(number)]


def referred(tokens, seed=0):
    """Made-up log P under a reference model."""
    rng = np.random.default_rng(seed)
    return {t.id: -rng.exponential(5.0, len(t.token_ids) - t.segment_stops[0]).astype(np.float32) for t in tokens}


# -- the rules by hand -----------------------------------------------------------------------------------


def test_dft_multiplies_by_the_probability():
    assert BY_PROBABILITY.run(Facts(torch.tensor([0.25, 1.0]).log())).tolist() == pytest.approx([0.25, 1.0])


@pytest.mark.parametrize(
    ("q", "wanted"),
    [
        (0.5, 1.0),  # 0.5 (2 - 0)
        (0.25, 0.25 * (2 + math.log(3))),
        (0.75, 0.75 * (2 - math.log(3))),
        (0.9, 0.0),  # log odds of 2.2 are above C
        (1.0, 0.0),
        (1e-30, 0.0),
    ],
)
def test_infosft_favours_tokens_of_medium_probability(q, wanted):
    assert BY_INFORMATION.run(Facts(torch.tensor([q]).log())).item() == pytest.approx(wanted, abs=1e-6)


@given(st.floats(1e-6, 1.0))
def test_no_token_counts_more_under_infosft_than_one_of_probability_one_half(q):
    assert 0 <= BY_INFORMATION.run(Facts(torch.tensor([q]).log())).item() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("logits", "wanted"),
    [
        ([0.0] * 20 + [-1e9], 1.0),  # twenty tokens of one probability
        ([0.0] * 30, 1.0),  # of more tokens twenty are looked at
        ([0.0] * 2 + [-1e9] * 18, math.log(2) / math.log(20)),
        ([50.0] + [0.0] * 29, 0.0),
        ([0.0, 0.0, 0.0], 1.0),  # a vocabulary of three
        ([math.log(2), 0.0, 0.0], 1.5 * math.log(2) / math.log(3)),
        ([0.0, -math.inf, -math.inf], 0.0),
    ],
)
def test_eaft_multiplies_by_the_entropy_of_twenty_tokens_over_its_maximum(logits, wanted):
    predictions = Predictions(torch.tensor([logits, logits]))
    facts = facts_of(predictions, torch.zeros(2, dtype=torch.long), BY_ENTROPY)
    assert BY_ENTROPY.run(facts).tolist() == pytest.approx([wanted, wanted], abs=1e-6)


def test_rho_1_keeps_the_share_with_the_largest_excess():
    facts = Facts(torch.tensor([-3.0, -1.0, -5.0, -0.5, -2.0]), reference=torch.tensor([-2.5, -1.0, -0.5, -0.9, -9.0]))
    # NLL less that of the reference: 0.5, 0, 4.5, -0.4, -7
    assert by_excess(0.4).run(facts).tolist() == [1, 0, 1, 0, 0]
    assert by_excess(0.6).run(facts).tolist() == [1, 1, 1, 0, 0]
    assert by_excess(1.0).run(facts).tolist() == [1, 1, 1, 1, 1]
    assert by_excess(0.01).run(facts).tolist() == [0, 0, 1, 0, 0]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.floats(0.01, 1.0), st.integers(0, 9))
def test_rho_1_keeps_as_many_tokens_as_it_says_even_where_all_are_equal(number, share, seed):
    drawn = torch.randn(number, generator=torch.Generator().manual_seed(seed))
    for logs in (drawn, torch.zeros(number)):
        kept = by_excess(share).run(Facts(logs, reference=torch.zeros(number)))
        assert kept.sum() == max(1, round(share * number))


# -- in the loss -----------------------------------------------------------------------------------------


def expected(lm, data, trainer, rule):
    """The loss by way of all logits, with multipliers that are cut from the graph."""
    batch = batch_of(trainer, data)
    plain = {name: value for name, value in batch.items() if name != "examples"}
    found = logprobs(lm.model, plain)
    predictions = predictions_of(lm.model, plain, linear_head=False)
    labels = batch["labels"][trained_positions(batch)]
    reference = None
    if rule.reference:
        reference = torch.from_numpy(np.concatenate([e.reference for e in batch["examples"]]))
    multipliers = rule.run(facts_of(predictions, labels, rule, reference)).detach()
    return -(multipliers * batch["weights"][trained_positions(batch)] * found).sum() / len(found)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_multiplies_the_weights_and_has_no_gradient(lm, rule, linear, tmp_path, monkeypatch):
    monkeypatch.setattr(head, "LOGITS_PER_CHUNK", {"cpu": 3 * VOCABULARY})
    tokens = some(lm)
    data = dataset_of(lm, tokens, reference=referred(tokens))
    wanted = expected(lm, data, trainer_of(lm, data, tmp_path), rule)
    gradient = gradient_of(lm, wanted)
    loss, found = one_loss(lm, data, tmp_path, linear, objective=by(rule))
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(found, gradient, atol=1e-5)
    plain, _ = one_loss(lm, data, tmp_path)
    assert loss < plain


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_with_outputs_the_loss_of_a_rule_is_the_same(rule, tmp_path):
    lm = tiny_llama()
    tokens = some(lm)
    data = dataset_of(lm, tokens, reference=referred(tokens))
    trainer = trainer_of(lm, data, tmp_path, objective=by(rule))
    alone = trainer.compute_loss(lm.model, batch_of(trainer, data))
    loss, outputs = trainer.compute_loss(lm.model, batch_of(trainer, data), return_outputs=True)
    assert outputs.loss.item() == loss.item() == pytest.approx(alone.item(), rel=1e-5)


@pytest.mark.parametrize("rule", [BY_PROBABILITY, BY_ENTROPY, BY_INFORMATION], ids=lambda rule: rule.name)
def test_under_a_rule_of_each_token_a_batch_of_4_is_4_accumulated(lm, rule, tmp_path):
    data = dataset_of(lm, some(lm))
    loss, parameters = trained(lm, data, tmp_path / "4", 4, 1, objective=by(rule))
    other, found = trained(lm, data, tmp_path / "1", 1, 4, objective=by(rule))
    assert other == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(found, parameters, atol=1e-5)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_in_bf16_multipliers_are_those_of_bf16(rule, tmp_path):
    lm = tiny_llama()
    tokens = some(lm)
    data = dataset_of(lm, tokens, reference=referred(tokens))
    trainer = trainer_of(lm, data, tmp_path, objective=by(rule))
    with torch.autocast("cpu", torch.bfloat16):
        wanted = expected(lm, data, trainer, rule)
        loss = trainer.compute_loss(lm.model, batch_of(trainer, data))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_a_rule_that_needs_no_reference_trains_a_users_rows(tmp_path):
    lm = tiny_llama()
    rows = [{"prompt": "Q: 1 + 1?", "completion": " It is 2."}]
    trainer_of(lm, rows, tmp_path, objective=by(BY_ENTROPY), learning_rate=1e-3).train()
    with pytest.raises(ConfigError, match="needs log P of every rationale under a reference model"):
        trainer_of(lm, rows, tmp_path, objective=by(by_excess(0.5)))


# -- the reference model ---------------------------------------------------------------------------------


def test_the_reference_is_asked_for_every_token_after_the_question(lm, monkeypatch):
    monkeypatch.setattr("kpod.lm.buckets.TOKENS_PER_PASS", 40)
    tokens = some(lm)
    found = dict(reference_logprobs(lm, tokens))
    assert list(found) == [t.id for t in tokens]
    for rationale in tokens:
        ids, stop = torch.from_numpy(rationale.token_ids).long()[None], rationale.segment_stops[0]
        with torch.no_grad():
            if lm.encoder_decoder:
                logits = lm.model(input_ids=ids[:, :stop], labels=ids[:, stop:]).logits[0]
            else:
                logits = lm.model(input_ids=ids).logits[0, stop - 1 : -1]
        wanted = logits.log_softmax(-1).gather(1, ids[0, stop:, None])[:, 0]
        assert torch.allclose(torch.from_numpy(found[rationale.id]), wanted, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_example_has_the_reference_of_its_trained_tokens(lm, steps):
    (tokens,) = some(lm, 1)
    written = len(tokens.token_ids) - tokens.segment_stops[0]
    reference = {tokens.id: np.arange(written, dtype=np.float32)}
    schedule = Schedule((tokens.id,), np.array([[steps], [0]], dtype=np.int32))
    ones = {tokens.id: np.ones(tokens.num_tokens, np.float32)}
    data = StageDataset([tokens], ones, schedule, encoder_decoder=lm.encoder_decoder, reference=reference)
    assert data[0, 0].reference.tolist() == list(range(tokens.num_input_tokens(steps), written))


def test_a_reference_that_does_not_fit_is_named():
    lm = tiny_llama()
    tokens = some(lm)
    reference = referred(tokens)
    with pytest.raises(DataError, match="'q1' has no log P under the reference model"):
        dataset_of(lm, tokens, reference={name: row for name, row in reference.items() if name != "q1"})
    with pytest.raises(DataError, match="'q2': log P under the reference model of 3 tokens, but 12 stand"):
        dataset_of(lm, tokens, reference=reference | {"q2": np.zeros(3, np.float32)})


def test_a_reference_with_other_tokens_is_refused():
    other = byte_tokenizer()
    other.add_tokens(["more"])
    with pytest.raises(ConfigError, match=r"training\.reference: its tokens are not the student's"):
        check_reference(type(tiny_llama()).of(tiny_llama().model, other), tiny_llama())
    with pytest.raises(ConfigError, match=r"training\.reference"):
        check_reference(tiny_t5(), tiny_llama())
    check_reference(tiny_llama(seed=1), tiny_llama())
