"""The mean and the spread of the weights are held, whatever the effects are."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from kpod.records import TokenizedRationale
from kpod.weighting.contrast import hold
from kpod.weighting.module import WeightGenerator, compute_weights
from tiny import VOCABULARY, tiny_llama, tiny_tokens, tiny_tokens_of

LLAMA = tiny_llama()
LENGTHS = (3, 40, 17, 90)
TOKENS = [tiny_tokens(LLAMA, f"q{number}", (length,)) for number, length in enumerate(LENGTHS)]


class Given(WeightGenerator):
    """A generator that looks a token's effect up by its id."""

    def __init__(self, effects: NDArray[np.float64], alpha: float = 1.0, *, held: bool = True) -> None:
        super().__init__(torch.zeros(VOCABULARY, 4), alpha, held=held)
        self.effects = torch.from_numpy(effects).float()

    def scores(
        self,
        token_ids: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],  # noqa: ARG002 (as the network's)
    ) -> Float[Tensor, "batch tokens"]:
        return self.effects[token_ids]


def first_token() -> int:
    return int(TOKENS[0].ids("rationale")[0])


def drawn(kind: str, seed: int) -> NDArray[np.float64]:
    """An effect for each token id."""
    rng = np.random.default_rng(seed)
    return {
        "normal": lambda: rng.normal(size=VOCABULARY),
        "tiny": lambda: 1e-5 * rng.normal(size=VOCABULARY),
        "huge": lambda: 1e4 * rng.normal(size=VOCABULARY),
        "heavy": lambda: rng.standard_t(2, size=VOCABULARY),
        "skewed": lambda: rng.lognormal(0, 1.5, size=VOCABULARY),
        "far from 0": lambda: 5 + 0.1 * rng.normal(size=VOCABULARY),
        "of five values": lambda: rng.integers(5, size=VOCABULARY).astype(float),
        "of two values": lambda: (rng.random(VOCABULARY) < 0.5).astype(float),
        "of one keypoint in ten": lambda: (rng.random(VOCABULARY) < 0.1).astype(float),
        "one value in two": lambda: np.where(rng.random(VOCABULARY) < 0.5, 3.0, rng.lognormal(0, 1.5, size=VOCABULARY)),
        "one far away": lambda: np.where(np.arange(VOCABULARY) == first_token(), 1e5, rng.normal(size=VOCABULARY)),
    }[kind]()


KINDS = (
    *("normal", "tiny", "huge", "heavy", "skewed", "far from 0"),
    *("of five values", "of two values", "of one keypoint in ten", "one value in two", "one far away"),
)


def of(generator: WeightGenerator, tokens: list[TokenizedRationale] = TOKENS) -> NDArray[np.float64]:
    return np.concatenate(list(compute_weights(generator, tokens).values())).astype(float)


def effects_in(generator: Given, tokens: list[TokenizedRationale] = TOKENS) -> NDArray[np.float64]:
    return np.concatenate([generator.effects[list(one.ids("rationale"))].numpy() for one in tokens]).astype(float)


def largest_spread(effects: NDArray[np.float64], rate: float) -> float:
    """Where the softness goes to 0: the highest effects weigh 1, the lowest 0, those between share the rest."""
    left, weights = rate * len(effects), np.zeros(len(effects))
    for value in np.unique(effects)[::-1]:
        here = effects == value
        weights[here] = min(1.0, left / here.sum())
        left = max(0.0, left - here.sum())
    return float(weights.std())


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 999), st.floats(0.1, 0.9), st.floats(0.05, 0.4))
@example(0, 0.8984375, 0.375)  # skewed: the effects about the price lie much closer than the others
@example(1, 0.1, 0.4)
@settings(max_examples=12)
def test_mean_and_spread_are_held_and_the_order_is_kept(kind: str, seed: int, rate: float, spread: float) -> None:
    generator = Given(drawn(kind, seed))
    hold(generator, TOKENS, rate, spread)
    weights, effects = of(generator), effects_in(generator)
    most = largest_spread(effects, rate)
    assert weights.mean() == pytest.approx(rate, abs=1e-5)
    assert weights.std() == pytest.approx(min(spread, most), abs=2e-4)
    order = np.argsort(effects, kind="stable")
    assert np.all(np.diff(weights[order]) >= -1e-6)
    for value in np.unique(effects):  # whichever rationale the token stands in, and however long that is
        assert np.ptp(weights[effects == value]) <= 1e-6


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("effect", [0.0, -3.0, 1e-6, 40.0])
def test_tokens_of_one_effect_all_weigh_the_kept_rate(rate: float, effect: float) -> None:
    generator = Given(np.full(VOCABULARY, effect))
    hold(generator, TOKENS, rate, 0.2)
    assert of(generator) == pytest.approx(np.full(sum(LENGTHS), rate), abs=1e-4)


def test_two_values_by_hand() -> None:
    """Half of the tokens are worth more: weights of 0.6 +- 0.25, whose logits 1.735 and -0.619 lie 2.354 apart."""
    tokens = [tiny_tokens(LLAMA, steps=(2,))]
    first, second = tokens[0].ids("rationale")
    effects = np.zeros(VOCABULARY)
    effects[first] = 4.0
    generator = Given(effects)
    hold(generator, tokens, 0.6, 0.25)
    assert compute_weights(generator, tokens)["q0"].tolist() == pytest.approx([0.85, 0.35], abs=1e-4)
    assert generator.softness.item() == pytest.approx(4 / (np.log(0.85 / 0.15) - np.log(0.35 / 0.65)), rel=1e-3)
    assert second != first


def test_a_spread_beyond_reach_comes_as_near_as_it_can() -> None:
    """One keypoint in ten and a mean of 0.6: it weighs 1 and the others 5 / 9; their spread is 0.1333."""
    tokens = [tiny_tokens_of(LLAMA, (1, *[2] * 9))]
    generator = Given(np.eye(VOCABULARY)[1])
    hold(generator, tokens, 0.6, 0.4)
    assert of(generator, tokens).tolist() == pytest.approx([1.0, *[5 / 9] * 9], abs=1e-3)
    hold(generator, tokens, 0.6, 0.1)  # and within reach it is met
    assert of(generator, tokens).std() == pytest.approx(0.1, abs=1e-3)


def test_without_a_kept_rate_alpha_sets_the_price() -> None:
    """A token that is worth alpha / n weighs 1/2: 1 / 4 in a rationale of 4 tokens, 1 / 40 in one of 40."""
    effects = np.random.default_rng(0).normal(0.1, 0.3, size=VOCABULARY)
    tokens = [tiny_tokens(LLAMA, "short", (4,)), tiny_tokens(LLAMA, "long", (40,))]
    effects[[tokens[0].ids("rationale")[0], tokens[1].ids("rationale")[0]]] = 1 / 4, 1 / 40
    generator = Given(effects, held=False)
    hold(generator, tokens, None, 0.25)
    weights = compute_weights(generator, tokens)
    assert weights["short"][0] == pytest.approx(0.5, abs=1e-5)
    assert weights["long"][0] == pytest.approx(0.5, abs=1e-5)
    assert np.concatenate(list(weights.values())).std() == pytest.approx(0.25, abs=1e-3)
    margins = effects[list(tokens[0].ids("rationale"))] - 1 / 4
    np.testing.assert_allclose(weights["short"], expit(margins / generator.softness.item()), atol=1e-5)


@pytest.mark.parametrize("offset", [0.3, 0.0, -0.3])
def test_without_a_kept_rate_weights_do_not_all_go_to_one_end(offset: float) -> None:
    """Where nearly all tokens are worth their price (or none is), the softer way to the spread is taken."""
    generator = Given(offset + 0.2 * np.random.default_rng(1).normal(size=VOCABULARY), held=False)
    hold(generator, TOKENS, None, 0.1)
    assert of(generator).std() == pytest.approx(0.1, abs=1e-3)
    assert 0.1 < of(generator).mean() < 0.9


def test_effects_that_are_all_above_the_price_come_as_near_to_the_spread_as_they_can() -> None:
    generator = Given(np.random.default_rng(1).uniform(2, 3, size=VOCABULARY), held=False)
    hold(generator, TOKENS, None, 0.4)
    weights = of(generator)
    softest = generator.softness.item()
    margins = effects_in(generator) - np.concatenate([np.full(length, 1 / length) for length in LENGTHS])
    most = max(expit(margins / soft).std() for soft in np.geomspace(0.01, 100, 200))
    assert 0.9 * most < weights.std() <= most + 1e-3
    assert softest > 0.1  # and not so hard that all weigh 1
