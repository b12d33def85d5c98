"""No update waits for the device: what the benchmark counts, held on every run of the suite."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import launches

from kpod.lm import sequences, waits
from kpod.records.topk import TopK
from kpod.training import KeypointTrainer, StageDataset
from kpod.training.objectives import Objective
from kpod.training.terms import Agreement, CloseToStart, MatchDistribution, Nll, OnOwnTexts
from kpod.training.token_rules import BY_ENTROPY, BY_INFORMATION, BY_PROBABILITY, by_excess
from test_objectives import whole
from tiny import tiny_llama, tiny_tokens, tiny_weights
from zoo import build

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


@pytest.fixture(scope="module")
def figures():
    return launches.measure()


def test_no_micro_batch_of_kpod_waits_and_an_update_reads_once(figures):
    assert figures["syncs_per_micro_batch"] == 0
    assert figures["syncs_per_update"] <= 1


def test_kpod_dispatches_less_than_its_peers(figures):
    assert figures["ops_vs_trainer"] < 1
    assert figures["ops_vs_trl"] is None or figures["ops_vs_trl"] < 1


def test_three_updates_are_those_of_whole_logits(figures):
    assert figures["update_equal"] <= 1e-6
    assert launches.difference_from_plain(1e-1, optim="sgd") <= 1e-6


# -- the counter itself ------------------------------------------------------------------------------------------------

WAITS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "truth": lambda x: bool((x > 0).all()),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "booleans": lambda x: x[x > 0],
    "set by booleans": lambda x: x.__setitem__(x > 0, 1.0),
    "masked select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "repeats": lambda x: x.repeat_interleave(torch.ones_like(x, dtype=torch.long)),
    "equal": lambda x: torch.equal(x, x),
    "from numbers": lambda x: x.new_tensor([1.0, 2.0]),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_of_any_kind_is_counted(wait):
    with launches.counted() as operators:
        WAITS[wait](torch.arange(3.0))
    assert operators.waits.total() >= 1


def test_what_stays_on_the_device_is_no_wait():
    x, where = torch.arange(3.0), torch.tensor([0, 2])
    with launches.counted() as operators:
        x.take(where)
        x[where]
        torch.where(x > 0, x, 0).sum().isfinite()
    assert not operators.waits


def test_a_wait_that_comes_back_into_the_loss_is_found(monkeypatch):
    monkeypatch.setattr(sequences, "trained_places", lambda batch: sequences._places(batch["labels"]))
    assert max(step.total() for step in launches.update_of("whole").steps) > 0


# -- every loss --------------------------------------------------------------------------------------------------------


def top_k(tokens):
    written = len(tokens.token_ids) - tokens.segment_stops[0]
    found = torch.randn(written, 259, generator=torch.Generator().manual_seed(0)).log_softmax(1).topk(4, dim=1)
    return TopK(found.indices.numpy().astype(np.int32), found.values.numpy().astype(np.float16))


def referred(tokens):
    return np.full(len(tokens.token_ids) - tokens.segment_stops[0], -1.0, np.float32)


LOSSES = {
    "nll": {},
    "weights": {"normaliser": "weights"},
    "packed": {"packing": True},
    "tasks": {"task_shares": (0.4, 0.6)},
    "logit-kd": {"objective": Objective(((0.1, Nll()), (0.9, MatchDistribution(renormalised=True))))},
    "mcc-kd": {"objective": Objective(((1.0, Nll()), (0.1, Agreement())))},
    "dft": {"objective": Objective(((1.0, Nll(BY_PROBABILITY)),))},
    "eaft": {"objective": Objective(((1.0, Nll(BY_ENTROPY)),))},
    "infosft": {"objective": Objective(((1.0, Nll(BY_INFORMATION)),))},
    "rho-1": {"objective": Objective(((1.0, Nll(by_excess(0.5))),))},
    "start": {"objective": Objective(((1.0, Nll()), (0.1, CloseToStart())))},
    "own texts": {"objective": Objective(((0.0, Nll()), (1.0, OnOwnTexts())))},
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits_in_a_micro_batch(name, tmp_path):
    lm, options = tiny_llama(), LOSSES[name]
    tokens = [tiny_tokens(lm, f"q{n}", (2 + n % 3, 3)) for n in range(8)]
    objective = options.get("objective", Objective())
    beside = {"teacher": top_k, "reference": referred}
    given = {kind: {t.id: make(t) for t in tokens} for kind, make in beside.items() if kind in objective.needs}
    if name == "own texts":
        given["teacher"] = {t.id: top_k(t) for t in tokens}
    if "groups" in objective.needs:
        given["groups"] = {t.id: f"g{n // 2}" for n, t in enumerate(tokens)}
    if name == "tasks":
        given["tasks"] = {t.id: n % 2 for n, t in enumerate(tokens)}
    weights = {t.id: tiny_weights(t) for t in tokens}
    dataset = StageDataset(tokens, weights, whole(tokens), encoder_decoder=False, **given)
    arguments = launches.trainers.arguments(str(tmp_path), "fp32", 2) | {"gradient_accumulation_steps": 2}
    arguments = TrainingArguments(**arguments)
    trainer = KeypointTrainer(lm.model, arguments, train_dataset=dataset, processing_class=lm.tokenizer, **options)
    count = launches.Count(2)
    count.watch(trainer).train()
    assert len(count.steps) == 2
    assert [dict(step) for step in count.steps] == [{}, {}]


# -- padding without a mask --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt-oss", "lfm2", "bloom", "opt", "falcon-h1"])
def test_causal_models_read_nothing_after_a_text(name):
    assert waits.reads_nothing_after(build(name).model, torch.arange(5, 45)[None])


def test_a_model_that_reads_what_follows_is_found_out():
    """Its features are mixed with those of the next token."""
    lm = tiny_llama()
    lm.model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] + args[0].roll(-1, 1), *args[1:]))
    assert not waits.reads_nothing_after(lm.model, torch.arange(5, 45)[None])


def test_the_proof_leaves_model_and_random_numbers_as_they_were():
    lm = tiny_llama(dropout=0.1)
    lm.model.train()
    before = torch.get_rng_state()
    assert waits.reads_nothing_after(lm.model, torch.arange(5, 45)[None])
    assert lm.model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_packed_rows_are_told_from_single_texts():
    found = waits._packed(torch.tensor([[0, 1, 2, 0, 1, 0]]))
    assert found.tolist() == [[0, 0, 0, 1, 1, 2]]
    before = waits.masking_utils.find_packed_sequence_indices
    with pytest.raises(KeyError), waits.rows_known(packed=True):
        raise KeyError("whatever happens inside")
    assert waits.masking_utils.find_packed_sequence_indices is before
