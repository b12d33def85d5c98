"""Pairs of rationales of one question: what is compared, by how much they differ, and which of them share a batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from kpod.lm import head
from kpod.lm.head import Predictions, has_linear_head, predictions_of
from kpod.records import Schedule
from kpod.records.errors import ConfigError, DataError
from kpod.training.agreement import Reference, kl_to_reference, pairs_of, symmetric_kl
from kpod.training.batches import StageExample
from kpod.training.groups import GroupSampler, num_alone
from kpod.training.objectives import Objective
from kpod.training.terms import Agreement, Nll
from test_objectives import batch_of, dataset_of, gradient_of, one_loss, trained, trainer_of
from tiny import VOCABULARY, tiny_llama, tiny_t5, tiny_tokens

MAKERS = {"causal": tiny_llama, "encoder-decoder": tiny_t5}
MCC = Objective(((1.0, Nll()), (0.1, Agreement())))
ONLY = Objective(((0.0, Nll()), (1.0, Agreement())))


@pytest.fixture(params=MAKERS)
def lm(request):
    return MAKERS[request.param]()


def some(lm, questions=3, each=2):
    """Rationales of some questions, and their groups."""
    tokens = [tiny_tokens(lm, f"q{q}/{n}", (2 + n, 3)) for q in range(questions) for n in range(each)]
    return tokens, {t.id: t.id.split("/")[0] for t in tokens}


def logs(*rows):
    return Predictions(torch.tensor(rows).log())


def example(group, segments):
    num = len(segments)
    return StageExample(
        (), tuple(range(num)), 0, np.ones(num, np.float32), "r", 0, np.array(segments, np.int8), 0, group
    )


# -- by hand ---------------------------------------------------------------------------------------------


def test_the_symmetric_kl_by_hand_on_a_vocabulary_of_three():
    predictions = logs([0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25])
    found = symmetric_kl(predictions, torch.tensor([0, 0, 1]), torch.tensor([1, 2, 0]))
    there = 0.5 * math.log(2) + 0.25 * math.log(0.5)  # the same back
    assert found.tolist() == pytest.approx([2 * there, 0.0, 2 * there])


def test_the_gradient_flows_through_both_sides_and_is_that_of_autograd():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float32).requires_grad_()
    ours, theirs = torch.tensor([0, 1]), torch.tensor([2, 3])
    (found,) = torch.autograd.grad(symmetric_kl(Predictions(logits), ours, theirs).sum(), logits)
    p = logits.softmax(1)
    kl = (p[:2] * (p[:2] / p[2:]).log()).sum() + (p[2:] * (p[2:] / p[:2]).log()).sum()
    (wanted,) = torch.autograd.grad(kl, logits)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert (found.abs().sum(dim=1) > 1e-3).all()


def test_the_kl_to_a_reference_by_hand_and_its_gradient_reaches_the_current_model_alone():
    reference, current = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    reference.requires_grad_()
    current.requires_grad_()
    found = kl_to_reference(Predictions(reference), Predictions(current))
    assert found.tolist() == pytest.approx([0.5 * math.log(2) + 0.25 * math.log(0.5)])
    found.sum().backward()
    assert reference.grad is None
    assert current.grad.tolist()[0] == pytest.approx([-0.25, 0.25, 0.0], abs=1e-7)  # p less that of the reference


R, C, A, E = 1, 2, 3, 4


@pytest.mark.parametrize(
    ("examples", "wanted"),
    [
        ([("a", [R, C, A, E]), ("a", [R, R, A, E])], [([2], [6])]),
        ([("a", [R, A, A, E]), ("b", [R, A]), ("a", [A, A, E])], [([1, 2], [6, 7])]),
        ([("a", [R, A, A, A, E]), ("a", [R, A, A, E])], [([2, 3], [6, 7])]),  # the last two of three
        ([("", [A]), ("", [A])], []),
        ([("a", [A]), ("b", [A])], []),
        ([("a", [R]), ("a", [A])], []),  # a start without its answer
        ([("a", [A]), ("a", [A]), ("a", [A])], [([0], [1]), ([1], [2])]),
    ],
)  # fmt: skip
def test_answers_of_one_group_are_paired_from_their_ends(examples, wanted):
    found = [(one.tolist(), other.tolist()) for one, other in pairs_of([example(*e) for e in examples])]
    assert found == wanted


# -- in the loss -----------------------------------------------------------------------------------------


def by_hand(lm, tokens, given):
    """1/2 the symmetric KL of two rationales, from passes over each text alone."""
    found = []
    for t in tokens:
        ids, stop = torch.from_numpy(t.token_ids).long()[None], t.segment_stops[0]
        if lm.encoder_decoder:
            logits = lm.model(input_ids=ids[:, :stop], labels=ids[:, stop:]).logits[0]
            places = range(t.segment_stops[2] - stop, t.segment_stops[3] - stop)
        else:
            logits = lm.model(input_ids=ids).logits[0]
            places = range(t.segment_stops[2] - 1, t.segment_stops[3] - 1)  # left of each answer token
        found.append(logits[list(places)].log_softmax(1))
    a, b = found
    return given * ((a.exp() - b.exp()) * (a - b)).sum()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("rows", [1, 1000])
def test_the_positions_left_of_the_answer_tokens_are_compared(lm, linear, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(head, "LOGITS_PER_CHUNK", {"cpu": rows * VOCABULARY})
    tokens, groups = some(lm, 1)
    wanted = by_hand(lm, tokens, 0.5)
    gradient = gradient_of(lm, wanted)
    loss, found = one_loss(lm, dataset_of(lm, tokens, groups=groups), tmp_path, linear, objective=ONLY)
    assert loss == pytest.approx(wanted.item(), rel=1e-4)
    assert torch.allclose(found, gradient, atol=1e-5 * max(1, float(gradient.abs().max())))


def test_two_equal_rationales_agree_and_the_order_of_a_pair_does_not_count(lm, tmp_path):
    tokens, groups = some(lm, 1)
    twin = tiny_tokens(lm, "q0/0", (2, 3))
    same = [twin, type(twin)(**{name: getattr(twin, name) for name in twin.__slots__} | {"id": "q0/1"})]
    loss, gradient = one_loss(lm, dataset_of(lm, same, groups=groups), tmp_path, objective=ONLY)
    assert loss == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-5
    one, other = (
        one_loss(lm, dataset_of(lm, order, groups=groups), tmp_path, objective=ONLY)[0]
        for order in (tokens, tokens[::-1])
    )
    assert one == pytest.approx(other, rel=1e-5)
    assert one > 1e-3


def test_the_loss_is_the_nll_and_a_tenth_of_the_mean_over_pairs(lm, tmp_path):
    tokens, groups = some(lm)
    data = dataset_of(lm, tokens, groups=groups)
    plain, of_nll = one_loss(lm, data, tmp_path)
    apart, of_pairs = one_loss(lm, data, tmp_path, objective=ONLY)
    pairs = [by_hand(lm, tokens[n : n + 2], 0.5).item() for n in (0, 2, 4)]
    assert apart == pytest.approx(np.mean(pairs), rel=1e-4)
    loss, found = one_loss(lm, data, tmp_path, objective=MCC)
    assert loss == pytest.approx(plain + 0.1 * apart, rel=1e-5)
    assert torch.allclose(found, of_nll + 0.1 * of_pairs, atol=1e-4)
    packed = loss if lm.encoder_decoder else one_loss(lm, data, tmp_path, objective=MCC, packing=True)[0]
    assert packed == pytest.approx(loss, rel=1e-4)


def test_a_batch_of_8_is_4_accumulated_pairs(lm, tmp_path):
    tokens, groups = some(lm, 4)
    data = dataset_of(lm, tokens, groups=groups)
    loss, parameters = trained(lm, data, tmp_path / "8", 8, 1, objective=MCC)
    for number, (batch, accumulate) in enumerate(((2, 4), (4, 2))):
        other, found = trained(lm, data, tmp_path / str(number), batch, accumulate, objective=MCC)
        assert other == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(found, parameters, atol=1e-4)


def test_questions_with_one_rationale_are_told_and_trained_by_their_nll(lm, tmp_path, caplog):
    tokens, groups = some(lm, 2)
    alone = tiny_tokens(lm, "q7", (3,))
    data = dataset_of(lm, [*tokens, alone], groups=groups | {"q7": "q7"})
    trainer_of(lm, data, tmp_path, objective=MCC)
    assert "1 of 3 questions have one rationale" in caplog.text
    loss, _ = trained(lm, data, tmp_path / "run", 8, 1, objective=MCC)
    plain, _ = one_loss(lm, data, tmp_path)
    apart, _ = one_loss(lm, dataset_of(lm, tokens, groups=groups), tmp_path, objective=ONLY)
    assert loss == pytest.approx(plain + 0.1 * apart, rel=1e-5)


@pytest.mark.parametrize(
    ("each", "options", "message"),
    [
        (1, {}, "no question has two; ask a teacher for more with teacher.ask.samples"),
        (2, {"tokens_per_batch": 99}, r"training\.tokens_per_batch: the texts of a question share a batch"),
    ],
)
def test_what_pairs_cannot_have_is_refused_before_training(each, options, message, tmp_path):
    lm = tiny_llama()
    tokens, groups = some(lm, 3, each)
    with pytest.raises(ConfigError, match=message):
        trainer_of(lm, dataset_of(lm, tokens, groups=groups), tmp_path, objective=MCC, **options)


def test_pairs_need_room_and_every_rationale_a_question(tmp_path):
    lm = tiny_llama()
    tokens, groups = some(lm)
    data = dataset_of(lm, tokens, groups=groups)
    with pytest.raises(ConfigError, match=r"per_device_train_batch_size is 1, but 2 rationales of a question share"):
        trainer_of(lm, data, tmp_path, objective=MCC, per_device_train_batch_size=1).train()
    with pytest.raises(DataError, match="'q0/1' has no group, though others have"):
        dataset_of(lm, tokens, groups={name: group for name, group in groups.items() if name != "q0/1"})
    with pytest.raises(ConfigError, match="needs the question of every rationale"):
        trainer_of(lm, dataset_of(lm, tokens), tmp_path, objective=MCC)
    with pytest.raises(ConfigError, match="needs the question of every rationale"):
        trainer_of(lm, [{"prompt": "Q", "completion": " A"}], tmp_path, objective=MCC)


# -- which rationales share a batch ----------------------------------------------------------------------


def sampler(sizes, batch, update=1, seed=0, drawn=2):
    groups = [f"q{q}" for q, size in enumerate(sizes) for _ in range(size)]
    schedule = Schedule(("a",), np.zeros((1, 1), dtype=np.int32))
    return groups, GroupSampler(groups, schedule, seed, batch, update, drawn=drawn)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(2, 7), st.integers(0, 3), st.integers(0, 9))
def test_each_epoch_draws_two_of_every_question_and_keeps_them_together(sizes, batch, seed, epoch):
    groups, found = sampler(sizes, batch, seed=seed)
    found.set_epoch(epoch)
    batches = [[index for index, _ in keys] for keys in found]
    assert len(batches) == len(found)
    assert all(0 < len(one) <= batch for one in batches)
    seen = [index for one in batches for index in one]
    assert len(set(seen)) == len(seen)
    for q, size in enumerate(sizes):
        where = [number for number, one in enumerate(batches) for index in one if groups[index] == f"q{q}"]
        assert len(where) == min(2, size)
        assert len(set(where)) == 1


def test_draws_differ_by_epoch_and_seed_and_are_the_same_again():
    _, found = sampler([6] * 8, 4)
    epochs = []
    for epoch in (0, 1, 0):
        found.set_epoch(epoch)
        epochs.append(list(found))
    assert epochs[0] == epochs[2] != epochs[1]
    _, other = sampler([6] * 8, 4, seed=1)
    assert list(other) != epochs[0]
    drawn = {frozenset(index for index, _ in batch if index < 6) for _ in range(1) for batch in epochs[0] + epochs[1]}
    assert len(drawn - {frozenset()}) == 2


def test_whole_groups_are_kept_where_nothing_is_drawn():
    groups, found = sampler([3, 1, 2], 4, drawn=None)
    batches = [sorted(index for index, _ in batch) for batch in found]
    assert sorted(batches) in ([[0, 1, 2, 3], [4, 5]], [[0, 1, 2], [3, 4, 5]])
    assert num_alone(groups) == (1, 3)
    with pytest.raises(ConfigError, match="is 2, but 3 rationales"):
        sampler([3], 2, drawn=None)


# -- a frozen reference ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("linear", [True, False])
def test_the_kl_to_the_start_is_0_before_the_first_update_and_then_not(lm, adapted, linear, tmp_path):
    tokens, _ = some(lm)
    data = dataset_of(lm, tokens)
    model = lm.model
    if adapted:
        names = ["q", "v"] if lm.encoder_decoder else ["q_proj", "v_proj"]
        model = get_peft_model(model, LoraConfig(r=2, target_modules=names))
    batch = batch_of(trainer_of(lm, data, tmp_path), data)
    plain = {name: value for name, value in batch.items() if name != "examples"}
    assert has_linear_head(model, plain)
    reference = Reference(model)

    def divergence():
        start = reference.predictions(model, plain, linear_head=linear)
        assert not start.features.requires_grad
        return kl_to_reference(start, predictions_of(model, plain, linear_head=linear))

    assert divergence().abs().max() < 1e-6
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (not adapted or "lora_B" in name):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    found = divergence()
    assert found.shape == (int((plain["labels"] != -100).sum()),)
    assert (found > -1e-6).all()
    assert found.mean() > 1e-3
    found.sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
