"""From observations to effects: what an estimator's equations say, ridge regression, the network, the calibration."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from kpod.errors import WeightingError
from kpod.lm.models import LanguageModel
from kpod.records import TokenizedRationale
from kpod.weighting.effects import (
    calibrate,
    compute_weights,
    effects_of,
    explained_share,
    fit_generator,
    linear_design,
    misfits,
)
from kpod.weighting.equations import explained_fall, from_falls, from_slopes, observed_fall
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import antithetic_masks, draw_prefixes
from kpod.weighting.predictor import Observation, observe, observe_masks
from kpod.weighting.prefixes import Predictor
from kpod.weighting.ridge import PENALTIES, choose_penalty, solve_ridge
from tiny import BRIEF, generator_of, tiny_llama, tiny_t5, tiny_tokens

LLAMA = tiny_llama()
BY_FALLS = replace(BRIEF, generator_learning_rate=3e-3)


def additive(lm: LanguageModel, num_tokens: int, seed: int) -> tuple[Observation, Tensor]:
    """An observation in which every token has its own effect and nothing else happens."""
    rng = np.random.default_rng(seed)
    effects = torch.from_numpy(rng.normal(size=num_tokens)).float()
    keep = antithetic_masks(num_tokens, 6, rng)
    tokens = tiny_tokens(lm, f"q{seed}", (num_tokens,))
    prefixes = draw_prefixes(tokens, 3, rng)
    fall = torch.stack([(keep.float() * effects)[:, :end].sum(dim=1) for end in prefixes], dim=1)
    slopes = effects.expand(6, num_tokens)
    return Observation(tokens, keep, prefixes, 5.0 - fall, slopes), effects


# -- equations -----------------------------------------------------------------------------------------


def test_falls_by_hand() -> None:
    """Effects 1 and 2: mask (1, 0) explains 1 after either prefix, mask (0, 1) 0 and 2; then about the mean."""
    keep = torch.tensor([[True, False], [False, True]])
    seen = Observation(tiny_tokens(LLAMA, steps=(2,)), keep, (1, 2), torch.tensor([[3.0, 4.0], [4.0, 3.0]]))
    assert explained_fall(torch.tensor([1.0, 2.0]), seen).tolist() == [[0.5, -0.5], [-0.5, 0.5]]
    assert observed_fall(seen).tolist() == [[0.5, -0.5], [-0.5, 0.5]]


@given(st.integers(1, 12), st.integers(0, 999))
def test_true_effects_solve_the_equations_of_either_estimator(num_tokens: int, seed: int) -> None:
    seen, effects = additive(LLAMA, num_tokens, seed)
    by_falls, by_slopes = from_falls(seen), from_slopes(seen)
    torch.testing.assert_close(by_falls.coefficients @ effects, by_falls.values, atol=1e-5, rtol=1e-5)
    roots = effects.sign() * effects.abs().sqrt()
    size = roots.square().mean().sqrt()
    torch.testing.assert_close(by_slopes.coefficients @ roots, by_slopes.values * size, atol=1e-5, rtol=1e-5)


def test_slopes_count_only_where_their_token_was_hidden() -> None:
    keep = torch.tensor([[True, False, True], [False, False, True]])
    slopes = torch.tensor([[9.0, -0.5, 9.0], [49.0, -1.5, 9.0]])
    says = from_slopes(Observation(tiny_tokens(LLAMA, steps=(3,)), keep, (3,), torch.zeros(2, 1), slopes))
    assert says.coefficients.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert says.values.tolist() == pytest.approx([1.4, -0.2])  # roots 7 and -1 over their root mean square of 5


def test_the_gradient_estimator_needs_slopes() -> None:
    seen, _ = additive(LLAMA, 3, 0)
    with pytest.raises(WeightingError, match="observations with slopes"):
        from_slopes(replace(seen, slopes=None))


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_slopes_are_the_derivative_of_the_nll_by_each_masks_entry(make: object) -> None:
    predictor = Predictor(make()).requires_grad_(requires_grad=False).double()  # type: ignore[operator]
    tokens, prefixes, step = tiny_tokens(predictor.lm), (7, 3), 1e-4
    keep = torch.from_numpy(np.random.default_rng(0).random((2, 7)) < 0.5)
    seen = observe_masks(predictor, tokens, keep, prefixes, slopes=True)
    assert seen.slopes is not None
    for mask, token in ((0, 0), (0, 5), (1, 2), (1, 6)):
        shifted = []
        for sign in (-1, 1):
            row = keep[mask].double()
            row[token] += sign * step
            shifted.append(predictor([MaskedRationale(tokens, row, prefixes)])[0])
        by_prefix = -(shifted[1] - shifted[0]) / (2 * step)
        holding = [index for index, prefix in enumerate(prefixes) if token < prefix]
        assert seen.slopes[mask, token].item() == pytest.approx(by_prefix[holding].mean().item(), rel=0.02, abs=8e-3)


def test_slopes_leave_the_answers_as_they_are() -> None:
    predictor = Predictor(tiny_llama()).requires_grad_(requires_grad=False)
    tokens, keep = tiny_tokens(predictor.lm), torch.rand(4, 7) < 0.5
    with_slopes, without = (observe_masks(predictor, tokens, keep, (7, 2), slopes=want) for want in (True, False))
    torch.testing.assert_close(with_slopes.answer_nll, without.answer_nll, atol=1e-5, rtol=1e-5)
    assert without.slopes is None


# -- the linear part -----------------------------------------------------------------------------------


@given(st.floats(-2, 2), st.integers(0, 99))
@settings(max_examples=20)
def test_effects_that_are_linear_in_the_embedding_are_found_exactly(effect: float, seed: int) -> None:
    generator = generator_of(LLAMA)
    direction = torch.from_numpy(np.random.default_rng(seed).normal(size=len(generator.direction))).float()
    observations = []
    for number in range(30):
        seen, _ = additive(LLAMA, 12, number)
        features = generator.embed(torch.tensor(seen.tokens.ids("rationale")))
        observations.append(replace(seen, answer_nll=-explained_fall(effect + features @ direction, seen)))
    x = [linear_design(generator, from_falls(seen)) for seen in observations]
    y = [from_falls(seen).values.double() for seen in observations]
    solved = solve_ridge(x, y, penalty=1e-9)
    torch.testing.assert_close(torch.cat(x) @ solved, torch.cat(y), atol=1e-3, rtol=1e-3)


@given(st.integers(0, 99), st.sampled_from([0.1, 1.0, 30.0]))
@settings(deadline=None)
def test_ridge_is_where_the_gradient_of_its_objective_vanishes(seed: int, penalty: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = (6, 3, 12)  # a rationale that was observed twice has twice as many
    features = [torch.randn(num, 4, generator=draw, dtype=torch.float64) for num in rows]
    falls = [torch.randn(num, generator=draw, dtype=torch.float64) for num in rows]
    solved = solve_ridge(features, falls, penalty).requires_grad_()
    left = torch.cat(features) @ solved - torch.cat(falls)
    (left.square().sum() + penalty * solved[1:].square().sum()).backward()
    assert solved.grad is not None
    assert solved.grad.abs().max().item() < 1e-6


def test_pure_noise_gets_the_largest_penalty_and_a_clear_signal_a_small_one() -> None:
    rng = np.random.default_rng(0)
    features = [torch.from_numpy(rng.normal(size=(8, 5))) for _ in range(20)]
    noise = [torch.from_numpy(rng.normal(size=8)) for _ in range(20)]
    signal = [x @ torch.tensor([0.0, 3.0, -2.0, 1.0, 4.0], dtype=torch.float64) for x in features]
    assert choose_penalty(features, noise, rng) > 10
    assert choose_penalty(features, signal, rng) == PENALTIES[0]
    assert choose_penalty(features[:1], signal[:1], rng) == PENALTIES[-1]


# -- the network ---------------------------------------------------------------------------------------


def test_a_network_that_explains_no_more_than_the_embeddings_is_left_out() -> None:
    """The answer's NLL is noise: whatever the network learns on three quarters is wrong on the last."""
    rng = np.random.default_rng(1)
    observations = [
        replace(seen, answer_nll=torch.from_numpy(rng.normal(size=seen.answer_nll.shape)).float())
        for seen, _ in (additive(LLAMA, 12, seed) for seed in range(24))
    ]
    generator = generator_of(LLAMA)
    found = fit_generator(generator, observations, BY_FALLS, rng)
    assert found.epochs == 0
    assert not generator.mlp[-1].weight.any()  # type: ignore[union-attr]
    says = [from_falls(seen) for seen in observations]
    x, y = [linear_design(generator, one) for one in says], [one.values.double() for one in says]
    everything = solve_ridge(x, y, found.penalty)[0].item()  # the held-out ones were used too
    assert (generator.scale * generator.intercept).item() == pytest.approx(everything, rel=1e-4)


class Planted(Predictor):
    """A predictor that loses one nat for each masked token below 10, and nothing for any other."""

    def forward(self, rows: list[MaskedRationale]) -> Float[Tensor, "rows prefixes"]:
        losses = []
        for row in rows:
            needed = (torch.tensor(row.tokens.ids("rationale")) < 10).float()
            missing = (needed * (1 - row.keep.float())).cumsum(dim=0)
            losses.append(torch.stack([missing[length - 1] for length in row.prefixes]))
        return torch.stack(losses)


def planted_rationales(rng: np.random.Generator) -> list[TokenizedRationale]:
    found = []
    for number in range(48):
        tokens = tiny_tokens(LLAMA, f"q{number}", (6, 6))
        ids = list(tokens.token_ids)
        ids[6:18] = [int(rng.integers(10) if rng.random() < 0.3 else rng.integers(100, 120)) for _ in range(12)]
        found.append(replace(tokens, token_ids=tuple(ids)))
    return found


@pytest.mark.parametrize(("estimator", "observations"), [("regression", 192), ("gradient", 48)])
def test_the_generator_finds_planted_keypoints(estimator: Literal["regression", "gradient"], observations: int) -> None:
    rng = np.random.default_rng(0)
    rationales = planted_rationales(rng)
    config = replace(BY_FALLS, estimator=estimator, observations=observations)
    generator = generator_of(LLAMA)
    found = fit_generator(generator, observe(Planted(LLAMA), rationales, config, rng), config, rng)
    assert found.explained > 0.9
    effects = torch.cat(effects_of(generator, rationales))
    needed = torch.tensor([i for r in rationales for i in r.ids("rationale")]) < 10
    assert effects[needed].mean().item() == pytest.approx(1, abs=0.2)
    assert effects[~needed].mean().item() == pytest.approx(0, abs=0.2)
    weights = np.concatenate(list(compute_weights(generator, rationales).values()))
    assert weights[needed.numpy()].mean() > 0.8
    assert weights[~needed.numpy()].mean() < 0.55
    logits = np.log(weights / (1 - weights))
    assert np.sqrt((logits**2).mean()) == pytest.approx(1, rel=1e-4)  # margins are measured in their own size


# -- the calibration -----------------------------------------------------------------------------------


def scored(scale: float, level: float) -> tuple[list[Observation], list[Tensor]]:
    """Observations whose effects are level + scale * (the scores of an untrained generator with a direction)."""
    generator = generator_of(LLAMA)
    generator.direction.copy_(torch.randn(len(generator.direction), generator=torch.Generator().manual_seed(0)))
    found = []
    for seed in range(6):
        seen, _ = additive(LLAMA, 10, seed)
        (score,) = (row.detach() for row in effects_of(generator, [seen.tokens]))
        found.append(replace(seen, answer_nll=-explained_fall(level + scale * score, seen)))
    return found, [generator.direction.clone()]


@given(st.floats(0.1, 30), st.floats(-1, 1))
@settings(max_examples=30)
def test_calibration_finds_the_level_and_scale_of_true_effects(scale: float, level: float) -> None:
    observations, (direction,) = scored(scale, level)
    generator = generator_of(LLAMA)
    generator.direction.copy_(direction)
    calibrate(generator, observations)
    assert generator.scale.item() == pytest.approx(scale, rel=1e-3)
    assert generator.level.item() == pytest.approx(level, abs=1e-3 * max(1, scale))
    assert explained_share(generator, observations) == pytest.approx(1, abs=1e-4)


def test_answers_that_contradict_their_slopes_are_an_error() -> None:
    observations, (direction,) = scored(-1.0, 0.0)
    generator = generator_of(LLAMA)
    generator.direction.copy_(direction)
    with pytest.raises(WeightingError, match=r"contradicts their slopes \(scale -1\).*raise weighting.warmup_updates"):
        calibrate(generator, observations)


def test_misfits_are_measured_in_the_generators_unit() -> None:
    """Untrained scores are 0, so what is left of y is all of it."""
    seen, _ = additive(LLAMA, 5, 0)
    generator = generator_of(LLAMA)
    generator.scale.fill_(2.0)
    says = from_falls(seen)
    left = (says.values / 2).square().mean().item()
    assert misfits(generator, [says]).item() == pytest.approx(left, rel=1e-5)
