"""KL from a teacher's stored top-k: exact where k is the vocabulary, and the NLL where all is on one token."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from kpod.lm import head
from kpod.lm.sequences import trained_positions
from kpod.records import Schedule
from kpod.records.errors import ConfigError, DataError
from kpod.records.topk import TopK
from kpod.training import StageDataset
from kpod.training.objectives import Objective
from kpod.training.terms import MatchDistribution, Nll
from test_objectives import batch_of, dataset_of, gradient_of, one_loss, trained, trainer_of
from tiny import VOCABULARY, tiny_llama, tiny_t5, tiny_tokens

MAKERS = {"causal": tiny_llama, "encoder-decoder": tiny_t5}
LOGIT_KD = Objective(((0.1, Nll()), (0.9, MatchDistribution(renormalised=True))))


@pytest.fixture(params=MAKERS)
def lm(request):
    return MAKERS[request.param]()


def matched(renormalised=True):
    return Objective(((0.0, Nll()), (1.0, MatchDistribution(renormalised))))


def some(lm, number=3):
    return [tiny_tokens(lm, f"q{n}", (2 + n, 3)) for n in range(number)]


def ones(tokens):
    return {t.id: np.ones(t.num_tokens, np.float32) for t in tokens}


def written(tokens):
    return tokens.token_ids[tokens.segment_stops[0] :]


def one_hot(tokens, k=3):
    ids = np.zeros((len(written(tokens)), k), np.int32)
    logs = np.full(ids.shape, -np.inf, np.float16)
    ids[:, 0], logs[:, 0] = written(tokens), 0
    return TopK(ids, logs)


def likeliest(probabilities, k):
    """The top k of some distributions, [written, vocabulary]."""
    found = torch.as_tensor(probabilities).topk(k, dim=1)
    return TopK(found.indices.numpy().astype(np.int32), found.values.log().numpy().astype(np.float16))


def drawn(tokens, k, seed=0):
    logits = torch.randn(len(written(tokens)), VOCABULARY, generator=torch.Generator().manual_seed(seed))
    return likeliest((3 * logits).softmax(1), k)


def students(lm, data, trainer):
    """The student's own logits at the trained positions, in the order of the batch."""
    batch = batch_of(trainer, data)
    inputs = {name: value for name, value in batch.items() if name not in ("examples", "labels", "weights")}
    return lm.model(**inputs).logits[trained_positions(batch)]


def in_full(top):
    """A record as distributions over the whole vocabulary."""
    dense = torch.zeros(len(top.token_ids), VOCABULARY)
    return dense.scatter_add(1, torch.from_numpy(top.token_ids).long(), torch.from_numpy(top.logprobs).float().exp())


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("renormalised", [True, False])
def test_one_hot_targets_are_the_nll(lm, renormalised, linear, tmp_path):
    tokens = some(lm)
    data = dataset_of(lm, tokens, teacher={t.id: one_hot(t) for t in tokens})
    plain, gradient = one_loss(lm, data, tmp_path, linear)
    for objective in (matched(renormalised), Objective(((0.3, Nll()), (0.7, MatchDistribution(renormalised))))):
        loss, found = one_loss(lm, data, tmp_path, linear, objective=objective)
        assert loss == pytest.approx(plain, rel=1e-6)
        assert torch.allclose(found, gradient, atol=1e-6)


@pytest.mark.parametrize("linear", [True, False])
def test_a_teacher_that_is_the_student_gives_no_gradient(lm, linear, tmp_path):
    tokens = some(lm)
    data = dataset_of(lm, tokens, ones(tokens))
    with torch.no_grad():
        own = students(lm, data, trainer_of(lm, data, tmp_path)).softmax(1)
    parts = own.split([len(written(t)) for t in tokens])
    taught = {t.id: likeliest(part, VOCABULARY) for t, part in zip(tokens, parts, strict=True)}
    loss, gradient = one_loss(
        lm, dataset_of(lm, tokens, ones(tokens), teacher=taught), tmp_path, linear, objective=matched()
    )
    _, usual = one_loss(lm, data, tmp_path, linear)
    assert abs(loss) < 1e-4  # log P is stored in 16 bits
    assert gradient.abs().max() < 5e-3 * usual.abs().max()


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("linear", [True, False])
def test_with_the_whole_vocabulary_it_is_the_exact_kl(lm, linear, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(head, "LOGITS_PER_CHUNK", {"cpu": rows * VOCABULARY})
    tokens = some(lm)
    taught = {t.id: drawn(t, VOCABULARY) for t in tokens}
    data = dataset_of(lm, tokens, ones(tokens), teacher=taught)
    q = torch.cat([in_full(taught[t.id]) for t in tokens])
    q = q / q.sum(dim=1, keepdim=True)
    wanted = functional.kl_div(students(lm, data, trainer_of(lm, data, tmp_path)).log_softmax(1), q, reduction="sum")
    wanted = wanted / len(q)
    gradient = gradient_of(lm, wanted)
    loss, found = one_loss(lm, data, tmp_path, linear, objective=matched())
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(found, gradient, atol=1e-5)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("renormalised", [True, False])
def test_the_top_k_is_taken_as_it_is_or_renormalised(lm, renormalised, linear, tmp_path):
    """Sum_v q(v) log(q(v) / p(v)) over the entries, weighed as the NLL is."""
    tokens = some(lm)
    taught = {t.id: drawn(t, 2 + number) for number, t in enumerate(tokens)}  # of unequal width
    data = dataset_of(lm, tokens, teacher=taught)
    trainer = trainer_of(lm, data, tmp_path)
    q = torch.cat([in_full(taught[t.id]) for t in tokens])
    assert q.sum(dim=1).max() < 0.999
    q = q / q.sum(dim=1, keepdim=True) if renormalised else q
    own = students(lm, data, trainer).log_softmax(1)
    weights = torch.cat([torch.from_numpy(data[n].weights) for n in range(len(data))])
    each = (torch.special.xlogy(q, q) - q * own).sum(dim=1)
    wanted = (weights * each).sum() / len(q)
    gradient = gradient_of(lm, wanted)
    loss, found = one_loss(lm, data, tmp_path, linear, objective=matched(renormalised))
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(found, gradient, atol=1e-5)


def test_logit_distillation_is_one_tenth_nll_and_nine_tenths_kl(tmp_path):
    lm = tiny_llama()
    tokens = some(lm)
    data = dataset_of(lm, tokens, teacher={t.id: drawn(t, 4) for t in tokens})
    nll, of_nll = one_loss(lm, data, tmp_path)
    kl, of_kl = one_loss(lm, data, tmp_path, objective=matched())
    loss, found = one_loss(lm, data, tmp_path, objective=LOGIT_KD)
    assert loss == pytest.approx(0.1 * nll + 0.9 * kl, rel=1e-5)
    assert torch.allclose(found, 0.1 * of_nll + 0.9 * of_kl, atol=1e-5)


def test_a_token_without_an_entry_is_refused():
    lm = tiny_llama()
    (tokens,) = some(lm, 1)
    top = one_hot(tokens)
    top.logprobs[1:] = -np.inf
    with pytest.raises(DataError, match="one entry or more in each row"):
        dataset_of(lm, [tokens], ones([tokens]), teacher={tokens.id: top})


def test_a_batch_of_4_is_4_accumulated_and_evaluation_is_the_same_loss(lm, tmp_path):
    tokens = some(lm, 4)
    data = dataset_of(lm, tokens, teacher={t.id: drawn(t, 3) for t in tokens}, tasks={"q1": 1})
    options = {"objective": LOGIT_KD, "task_shares": (0.4, 0.6)}
    loss, parameters = trained(lm, data, tmp_path / "4", 4, 1, **options)
    other, found = trained(lm, data, tmp_path / "1", 1, 4, **options)
    assert other == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(found, parameters, atol=1e-5)
    for size in (1, 3):
        trainer = trainer_of(lm, data, tmp_path, per_device_eval_batch_size=size, **options)
        assert trainer.evaluate(data)["eval_loss"] == pytest.approx(loss, rel=1e-5)


def test_packed_rationales_match_as_padded_ones(tmp_path):
    lm = tiny_llama()
    tokens = some(lm)
    data = dataset_of(lm, tokens, teacher={t.id: drawn(t, 3) for t in tokens})
    padded, gradient = one_loss(lm, data, tmp_path, objective=LOGIT_KD)
    packed, found = one_loss(lm, data, tmp_path, objective=LOGIT_KD, packing=True)
    assert packed == pytest.approx(padded, rel=1e-4)
    assert torch.allclose(found, gradient, atol=1e-4)


@pytest.mark.parametrize("given", ["encoder", "decoder"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_example_has_the_rows_of_its_trained_tokens(lm, steps, given):
    (tokens,) = some(lm, 1)
    schedule = Schedule((tokens.id,), np.array([[steps], [0]], dtype=np.int32))
    data = StageDataset(
        [tokens], ones([tokens]), schedule, encoder_decoder=lm.encoder_decoder, given=given,
        teacher={tokens.id: one_hot(tokens)},
    )  # fmt: skip
    example = data[0, 0]
    assert example.teacher.token_ids[:, 0].tolist() == list(example.token_ids[-len(example.weights) :])


def test_what_a_teacher_lacks_is_named(tmp_path):
    lm = tiny_llama()
    tokens = some(lm)
    taught = {t.id: one_hot(t) for t in tokens}
    with pytest.raises(DataError, match="'q2' has no top-k probabilities, though others have"):
        dataset_of(lm, tokens, teacher={name: top for name, top in taught.items() if name != "q2"})
    with pytest.raises(DataError, match="'q1': top-k probabilities of 10 tokens, but 11 stand"):
        dataset_of(lm, tokens, teacher=taught | {"q1": TopK(taught["q1"].token_ids[1:], taught["q1"].logprobs[1:])})
    with pytest.raises(ConfigError, match="needs a teacher's top-k probabilities of every rationale; give them as"):
        trainer_of(lm, dataset_of(lm, tokens), tmp_path, objective=LOGIT_KD)
    with pytest.raises(ConfigError, match="needs a teacher's top-k"):
        trainer_of(lm, [{"prompt": "Q", "completion": " A"}], tmp_path, objective=LOGIT_KD)
    trainer = trainer_of(lm, dataset_of(lm, tokens, teacher=taught), tmp_path, objective=LOGIT_KD)
    with pytest.raises(ConfigError, match="rationale 'q0' has no top-k probabilities of a teacher"):
        trainer.evaluate(dataset_of(lm, tokens))
    beyond = TopK(
        np.full((len(written(tokens[0])), 1), VOCABULARY, np.int32), np.zeros((len(written(tokens[0])), 1), np.float16)
    )
    with pytest.raises(
        DataError, match=f"'q0': its teacher names token {VOCABULARY}, but the student has {VOCABULARY}"
    ):
        batch_of(trainer, dataset_of(lm, tokens[:1], teacher={"q0": beyond}))


@pytest.mark.parametrize(
    ("ids", "logs"),
    [
        (np.zeros((2, 3), np.int32), np.zeros((2, 2), np.float16)),
        (np.zeros(2, np.int32), np.zeros(2, np.float16)),
        (np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float16)),
        (np.full((1, 1), -1, np.int32), np.zeros((1, 1), np.float16)),
    ],
)
def test_a_record_is_valid_from_birth(ids, logs):
    with pytest.raises(DataError, match="top-k tokens"):
        TopK(ids, logs)


@pytest.mark.parametrize("terms", [(), ((1.0, MatchDistribution(True)),), ((-1.0, Nll()),), ((float("nan"), Nll()),)])
def test_a_loss_without_its_nll_or_with_a_share_that_means_nothing_is_refused(terms):
    with pytest.raises(ConfigError, match="an Nll as the first"):
        Objective(terms)


def test_the_nll_of_what_was_written_is_logged_whatever_is_trained(tmp_path):
    lm = tiny_llama()
    tokens = some(lm)
    data = dataset_of(lm, tokens, teacher={t.id: drawn(t, 3) for t in tokens})
    lines = []
    for name, objective in (("plain", Objective()), ("matched", matched())):
        trained(lm, data, tmp_path / name, 3, 1, objective=objective)
        lines.append(json.loads((tmp_path / name / "metrics.jsonl").read_text()))
    for key in ("rationale_loss", "answer_loss"):
        assert lines[1][key] == pytest.approx(lines[0][key], rel=1e-5)
    assert lines[1]["loss"] != pytest.approx(lines[0]["loss"], rel=1e-2)
