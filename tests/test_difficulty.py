"""Step difficulties: worked by hand, laws, and the whole assessment against a plain forward pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from kpod.lm.models import LanguageModel
from kpod.records import TokenizedRationale
from kpod.records.errors import DataError, KpodError
from kpod.schedule.difficulty import assess_difficulties, step_difficulties
from tiny import int32, tiny_llama, tiny_t5, tiny_tokens, tiny_weights

BOTH = pytest.mark.parametrize("lm", [tiny_llama(), tiny_t5()], ids=["causal", "t5"])
WEIGHTS = st.floats(0, 1, width=32)
LOGPROBS = st.floats(-30, 0, width=32)
STEPS = st.lists(st.lists(st.tuples(LOGPROBS, WEIGHTS), min_size=1, max_size=6), min_size=1, max_size=5)


def several(lm: LanguageModel) -> list[TokenizedRationale]:
    return [
        tiny_tokens(lm, "short", (2,), question=3),
        tiny_tokens(lm, "long", (4, 1, 7), question=9, answer=5),
        tiny_tokens(lm, "middle", (3, 3)),
    ]


def by_hand(lm: LanguageModel, tokens: TokenizedRationale, weights: np.ndarray) -> list[float]:
    """Eq. 8 written out: one unbatched forward pass over everything, then sums over tokens."""
    question, stop = tokens.segment_stops[:2]
    if lm.encoder_decoder:
        target = [lm.decoder_start_id, *tokens.token_ids[question:].tolist()]
        read = {"input_ids": tensor([tokens.ids("question")]), "decoder_input_ids": tensor([target])}
        first = 0
    else:
        read = {"input_ids": tensor([tokens.token_ids.tolist()])}
        first = question - 1
    with torch.no_grad():
        table = lm.model(**read).logits[0].log_softmax(-1)
    surprise = [-table[first + j, token].item() for j, token in enumerate(tokens.token_ids[question:stop])]
    difficulties, start = [], 0
    for end in tokens.step_stops:
        shares = np.exp(weights[start:end]) / np.exp(weights[start:end]).sum()
        difficulties.append(float(shares @ np.array(surprise[start:end])))
        start = end
    return difficulties


def test_a_weighty_token_counts_for_more():
    # softmax of (1, 0) is (0.7311, 0.2689): 1 * 0.7311 + 3 * 0.2689
    assert step_difficulties(tensor([-1.0, -3.0]), tensor([1.0, 0.0]), [2]).item() == pytest.approx(1.53788, abs=1e-5)


def test_a_long_step_is_no_harder_for_being_long():
    short = step_difficulties(torch.full((2,), -1.5), torch.full((2,), 0.3), [2])
    long = step_difficulties(torch.full((40,), -1.5), torch.full((40,), 0.3), [40])
    assert short.item() == pytest.approx(long.item())


@given(STEPS, st.floats(-0.5, 0.5))
def test_difficulties_are_weighted_means_of_their_own_step(steps, shift):
    logprobs = tensor([logprob for step in steps for logprob, _ in step])
    weights = tensor([weight for step in steps for _, weight in step])
    stops = np.cumsum([len(step) for step in steps]).tolist()
    found = step_difficulties(logprobs, weights, stops)
    assert torch.allclose(found, step_difficulties(logprobs, weights + shift, stops), atol=1e-4)
    for difficulty, step in zip(found.tolist(), steps, strict=True):
        surprise = [-logprob for logprob, _ in step]
        assert min(surprise) - 1e-4 <= difficulty <= max(surprise) + 1e-4
        alone = step_difficulties(tensor([p for p, _ in step]), tensor([w for _, w in step]), [len(step)])
        assert difficulty == pytest.approx(alone.item(), abs=1e-5)


@pytest.mark.parametrize("stops", [[], [1], [1, 3]])
def test_steps_must_end_at_the_last_token(stops):
    with pytest.raises(DataError, match="2 tokens"):
        step_difficulties(tensor([-1.0, -1.0]), tensor([0.5, 0.5]), stops)


@BOTH
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_assessment_is_eq_8_for_every_rationale_in_the_given_order(lm, batch_size):
    tokens = several(lm)
    weights = {rationale.id: tiny_weights(rationale) for rationale in tokens}
    found = assess_difficulties(lm, tokens, weights, batch_size)
    assert list(found) == ["short", "long", "middle"]
    for rationale in tokens:
        assert found[rationale.id].dtype == np.float32
        assert found[rationale.id] == pytest.approx(by_hand(lm, rationale, weights[rationale.id]), abs=1e-4)


@BOTH
def test_a_step_is_judged_after_what_comes_before_it_and_nothing_else(lm):
    tokens = tiny_tokens(lm, steps=(4, 3))
    question, stop = tokens.segment_stops[:2]
    weights = {tokens.id: tiny_weights(tokens)}
    before = assess_difficulties(lm, [tokens], weights)[tokens.id]

    def changed_at(position: int) -> np.ndarray:
        ids = list(tokens.token_ids)
        ids[position] = (ids[position] + 1) % 256
        return assess_difficulties(lm, [replace(tokens, token_ids=int32(ids))], weights)[tokens.id]

    assert changed_at(stop) == pytest.approx(before)
    assert changed_at(stop - 1)[0] == pytest.approx(before[0])
    assert abs(changed_at(stop - 1)[1] - before[1]) > 1e-3
    assert np.all(np.abs(changed_at(question) - before) > 1e-4)
    assert np.all(np.abs(changed_at(0) - before) > 1e-6)


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_a_student_in_training_is_assessed_without_dropout_and_trains_on(make):
    lm = make(dropout=0.5)
    tokens = several(lm)
    weights = {rationale.id: tiny_weights(rationale) for rationale in tokens}
    calm = assess_difficulties(lm, tokens, weights)
    lm.model.train()
    again = assess_difficulties(lm, tokens, weights)
    assert lm.model.training
    assert all(np.array_equal(calm[key], again[key]) for key in calm)


def test_no_rationale_has_no_difficulty():
    assert assess_difficulties(tiny_llama(), [], {}) == {}


@pytest.mark.parametrize("weights", [{}, {"q0": np.ones(3, dtype=np.float32)}])
def test_missing_weights_are_told_with_the_id(weights):
    lm = tiny_llama()
    with pytest.raises(DataError, match="'q0' has 7 tokens and"):
        assess_difficulties(lm, [tiny_tokens(lm)], weights)


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_a_broken_student_is_told_with_the_id(make):
    lm = make()
    tokens = tiny_tokens(lm)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[tokens.token_ids[0]] = torch.nan
    with pytest.raises(KpodError, match=r"'q0'.*not finite"):
        assess_difficulties(lm, [tokens], {"q0": tiny_weights(tokens)})
