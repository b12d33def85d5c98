"""From observations to effects: what falls of the NLL say, ridge regression, the network, and nats."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from kpod.lm.models import LanguageModel
from kpod.weighting.effects import (
    explained_share,
    fit_generator,
    fit_linear,
    linear_design,
    misfits,
    surety_of,
    to_nats,
)
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.linear_system import QUIET, explained_fall, from_falls, kept_before, observed_fall
from kpod.weighting.masks import balanced_masks, draw_prefixes
from kpod.weighting.module import WeightGenerator, effects_of
from kpod.weighting.predictor import Observation, observe
from kpod.weighting.prefixes import Predictor
from kpod.weighting.ridge import PENALTIES, choose_penalty, solve_ridge
from tiny import BRIEF, generator_of, tiny_llama, tiny_tokens

LLAMA = tiny_llama()


def additive(lm: LanguageModel, num_tokens: int, seed: int) -> tuple[Observation, Tensor]:
    """An observation in which every token has its own effect and nothing else happens."""
    rng = np.random.default_rng(seed)
    effects = torch.from_numpy(rng.normal(size=num_tokens)).float()
    tokens = tiny_tokens(lm, f"q{seed}", (num_tokens,))
    keep = balanced_masks(tokens, np.full(num_tokens, 0.5, dtype=np.float32), 6, rng)
    prefixes = draw_prefixes(tokens, 3, rng)
    fall = torch.stack([(keep.float() * effects)[:, :end].sum(dim=1) for end in prefixes], dim=1)
    return Observation(tokens, keep, prefixes, 5.0 - fall), effects


# -- equations -----------------------------------------------------------------------------------------


def test_falls_by_hand() -> None:
    """Effects 1 and 2: mask (1, 0) explains 1 after either prefix, mask (0, 1) 0 and 2; then about the mean."""
    keep = torch.tensor([[True, False], [False, True]])
    seen = Observation(tiny_tokens(LLAMA, steps=(2,)), keep, (1, 2), torch.tensor([[3.0, 4.0], [4.0, 3.0]]))
    assert explained_fall(torch.tensor([1.0, 2.0]), seen).tolist() == [[0.5, -0.5], [-0.5, 0.5]]
    assert observed_fall(seen).tolist() == [[0.5, -0.5], [-0.5, 0.5]]


@given(st.integers(1, 12), st.integers(0, 999), st.floats(0.01, 100))
def test_true_effects_solve_the_equations_in_units_of_the_falls_size(num: int, seed: int, scale: float) -> None:
    """The unit is the root mean square of the falls after the same prefix, plus a nat."""
    seen, effects = additive(LLAMA, num, seed)
    seen, effects = replace(seen, answer_nll=scale * seen.answer_nll), scale * effects
    says = from_falls(seen)
    unit = observed_fall(seen).square().mean(dim=0).sqrt() + QUIET
    told = (says.coefficients @ effects).view(6, 3) / unit
    torch.testing.assert_close(told.flatten(), says.values, atol=1e-4, rtol=1e-4)


def test_large_falls_speak_no_louder_and_small_ones_are_not_stretched() -> None:
    """Falls of size s after a prefix make values of size s / (s + 1): at most 1, and near 0 where masks do nothing."""
    seen, _ = additive(LLAMA, 8, 0)
    sizes = observed_fall(seen).square().mean(dim=0).sqrt()
    for scale in (0.0, 0.01, 1.0, 10.0, 1000.0):
        values = from_falls(replace(seen, answer_nll=scale * seen.answer_nll)).values.view(6, 3)
        expected = scale * sizes / (scale * sizes + 1)
        torch.testing.assert_close(values.square().mean(dim=0).sqrt(), expected, atol=1e-5, rtol=1e-3)


def test_equations_by_hand() -> None:
    """Masks (1, 0) and (0, 1), falls of +-0.5 after both prefixes: their size is 0.5, and 0.5 / (0.5 + 1) = 1 / 3.

    After one token only the first tells the masks apart; after two both do.
    """
    keep = torch.tensor([[True, False], [False, True]])
    says = from_falls(Observation(tiny_tokens(LLAMA, steps=(2,)), keep, (1, 2), torch.tensor([[3.0, 4.0], [4.0, 3.0]])))
    assert says.coefficients.tolist() == [[0.5, 0], [0.5, -0.5], [-0.5, 0], [-0.5, 0.5]]
    assert says.values.tolist() == pytest.approx([1 / 3, -1 / 3, -1 / 3, 1 / 3])


@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 99))
def test_a_token_counts_where_it_is_kept_and_stands_within_the_prefix(num: int, prefixes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keep = torch.from_numpy(rng.random((3, num)) < 0.5)
    ends = tuple(rng.integers(1, num + 1, prefixes).tolist())
    found = kept_before(keep, ends)
    for mask, row in enumerate(found):
        for end, counts in zip(ends, row, strict=True):
            assert counts.tolist() == [float(keep[mask, token] and token < end) for token in range(num)]


def test_observing_is_answering_under_each_mask() -> None:
    predictor = Predictor(tiny_llama())
    tokens, keep = tiny_tokens(predictor.lm), torch.rand(4, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    seen = observe(predictor, tokens, keep, (7, 2))
    with torch.no_grad():
        apart = torch.cat([predictor([MaskedRationale(tokens, row, (7, 2))]) for row in keep])
    torch.testing.assert_close(seen.answer_nll, apart, atol=1e-5, rtol=1e-5)
    assert not seen.answer_nll.requires_grad


# -- the linear part -----------------------------------------------------------------------------------


@given(st.floats(-2, 2), st.integers(0, 99))
@settings(max_examples=10, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_effects_that_are_linear_in_the_embedding_are_found_exactly(effect: float, seed: int) -> None:
    """Falls that are what effects say once they are divided by their size."""
    generator = generator_of(LLAMA)
    direction = torch.from_numpy(np.random.default_rng(seed).normal(size=len(generator.direction))).float()
    observations = []
    for number in range(30):
        seen, _ = additive(LLAMA, 12, number)
        features = generator.embed(torch.tensor(seen.tokens.ids("rationale")))
        told = explained_fall(effect + features @ direction, seen)
        share = 0.05  # of what effects say; times the size of `told` it must stay below 1
        scale = share * QUIET / (1 - share * told.square().mean(dim=0).sqrt())
        observations.append(replace(seen, answer_nll=-scale * told))
    x = [linear_design(generator, from_falls(seen)) for seen in observations]
    y = [from_falls(seen).values.double() for seen in observations]
    solved = solve_ridge(x, y, penalty=1e-9)
    torch.testing.assert_close(torch.cat(x) @ solved, torch.cat(y), atol=1e-4, rtol=1e-3)
    assert torch.cat(y).square().mean() > 1e-4


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
    penalty, surety = choose_penalty(features, noise)
    assert penalty > 10
    assert surety < 2
    penalty, surety = choose_penalty(features, signal)
    assert penalty == PENALTIES[0]
    assert surety > 5
    assert choose_penalty(features[:1], signal[:1]) == (PENALTIES[-1], -math.inf)
    assert choose_penalty(features, [torch.zeros_like(y) for y in noise]) == (PENALTIES[-1], 0)  # all are as good


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_the_penalty_is_the_best_on_rationales_that_are_left_out_one_by_one(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = (5, 2, 7, 4)
    features = [torch.randn(num, 6, generator=draw, dtype=torch.float64) for num in rows]
    falls = [x @ torch.ones(6).double() + 3 * torch.randn(len(x), generator=draw).double() for x in features]

    def errors(penalty: float, width: int = 6) -> list[float]:
        found = []
        for out in range(len(rows)):
            kept = [index for index in range(len(rows)) if index != out]
            solved = solve_ridge([features[i][:, :width] for i in kept], [falls[i] for i in kept], penalty)
            found.append(float((features[out][:, :width] @ solved - falls[out]).square().mean()))
        return found

    penalties = (0.1, 1.0, 10.0, 100.0)
    found, surety = choose_penalty(features, falls, penalties)
    assert found == min(penalties, key=lambda penalty: sum(errors(penalty)))
    gains = [np.subtract(errors(1.0, width=1), errors(penalty)) for penalty in penalties]
    assert surety == pytest.approx(max(gain.mean() / (gain.std(ddof=1) / 2) for gain in gains))


def kinds_of_equations(num: int, *, noise: tuple[float, float]) -> tuple[list[Observation], Tensor, Tensor]:
    """Observations after a prefix that states the answer and after two that do not, each with effects of its own.

    Args:
        num: How many.
        noise: Nats of chance after the first prefix and after the others.
    """
    generator, draw = generator_of(LLAMA), torch.Generator().manual_seed(1)
    copied, calculated = torch.randn(2, len(generator.direction), generator=draw)
    found = []
    for seed in range(num):
        seen, _ = additive(LLAMA, 12, seed)
        seen = replace(seen, tokens=replace(seen.tokens, before_answer=6), prefixes=(12, 6, 3))
        features = generator.embed(torch.tensor(seen.tokens.ids("rationale")))
        nll = -torch.cat(
            [explained_fall(features @ copied, seen)[:, :1], explained_fall(features @ calculated, seen)[:, 1:]], dim=1
        )
        chance = torch.randn(nll.shape, generator=draw) * torch.tensor([noise[0], noise[1], noise[1]])
        found.append(replace(seen, answer_nll=nll + chance))
    return found, copied, calculated


def solved_apart(observations: list[Observation], kinds: tuple[bool | None, ...]) -> tuple[list[Tensor], list[float]]:
    """The regressions of some kinds of equations (None: of all), and their penalties."""
    generator, solved, penalties = generator_of(LLAMA), [], []
    says = [from_falls(seen) for seen in observations]
    for kind in kinds:
        rows = [slice(None) if kind is None else one.copied == kind for one in says]
        x = [linear_design(generator, one)[of] for one, of in zip(says, rows, strict=True)]
        y = [one.values.double()[of] for one, of in zip(says, rows, strict=True)]
        penalties.append(choose_penalty(x, y)[0])
        solved.append(solve_ridge(x, y, penalties[-1]))
    return solved, penalties


def found_by(generator: WeightGenerator) -> Tensor:
    return torch.cat([generator.intercept[None], generator.direction]).double()


def test_a_predictor_that_calculates_gets_a_regression_for_each_kind_of_prefix() -> None:
    """One of three prefixes states the answer, so its regression counts one third: the mean over all equations."""
    observations, copied, calculated = kinds_of_equations(30, noise=(0.1, 0.1))
    assert from_falls(observations[0]).copied.tolist() == [True, False, False] * len(observations[0].keep)
    generator = generator_of(LLAMA)
    penalties = fit_linear(generator, observations)
    (one, other), chosen = solved_apart(observations, (True, False))
    assert penalties == {"penalty_copied": chosen[0], "penalty_calculated": chosen[1]}
    torch.testing.assert_close(found_by(generator), one / 3 + other * 2 / 3, atol=1e-6, rtol=1e-5)
    vocabulary = generator.embed(torch.arange(LLAMA.vocabulary))
    true = vocabulary @ (copied / 3 + calculated * 2 / 3)
    assert spearmanr(true, (vocabulary @ generator.direction).detach()).statistic > 0.8


def test_a_predictor_whose_answers_are_chance_where_it_must_calculate_gets_one_regression() -> None:
    observations, _, _ = kinds_of_equations(30, noise=(0.1, 1000.0))
    generator = generator_of(LLAMA)
    penalties = fit_linear(generator, observations)
    (both,), chosen = solved_apart(observations, (None,))
    assert penalties == {"penalty": chosen[0]}
    torch.testing.assert_close(found_by(generator), both, atol=1e-6, rtol=1e-5)


def test_where_no_answer_is_stated_one_regression_is_enough() -> None:
    generator = generator_of(LLAMA)
    seen, _, _ = kinds_of_equations(6, noise=(0.1, 0.1))
    observations = [replace(one, tokens=replace(one.tokens, before_answer=None)) for one in seen]
    penalties = fit_linear(generator, observations)
    (both,), chosen = solved_apart(observations, (None,))
    assert penalties == {"penalty": chosen[0]}
    torch.testing.assert_close(found_by(generator), both, atol=1e-6, rtol=1e-5)


# -- the network ---------------------------------------------------------------------------------------


def test_a_network_that_explains_no_more_than_the_embeddings_is_left_out() -> None:
    """The answer's NLL is noise: whatever the network learns on three quarters is wrong on the last."""
    rng = np.random.default_rng(1)
    observations = [
        replace(seen, answer_nll=torch.from_numpy(rng.normal(size=seen.answer_nll.shape)).float())
        for seen, _ in (additive(LLAMA, 12, seed) for seed in range(24))
    ]
    generator, config = generator_of(LLAMA), replace(BRIEF, generator_learning_rate=3e-3)
    found = fit_generator(generator, observations, config, rng)
    assert found.epochs == 0
    assert found.explained < 0.05
    assert not generator.mlp[-1].weight.any()  # type: ignore[union-attr]
    from_all = generator_of(LLAMA)
    assert fit_linear(from_all, observations) == found.penalties  # the held-out ones were used too
    assert generator.intercept.item() == pytest.approx(from_all.intercept.item(), rel=1e-4)


# -- nats ------------------------------------------------------------------------------------------------


def scored(scale: float, offset: float) -> tuple[list[Observation], Tensor]:
    """Observations whose effects are scale * (offset + what a direction says of each token); and the direction."""
    generator = generator_of(LLAMA)
    generator.direction.copy_(torch.randn(len(generator.direction), generator=torch.Generator().manual_seed(0)))
    generator.intercept.fill_(offset)
    found = []
    for seed in range(6):
        seen, _ = additive(LLAMA, 10, seed)
        (score,) = (row.detach() for row in effects_of(generator, [seen.tokens]))
        found.append(replace(seen, answer_nll=-explained_fall(scale * score, seen)))
    return found, generator.direction.clone()


@given(st.floats(0.001, 300), st.floats(-1, 1))
@settings(max_examples=10)
def test_true_effects_are_found_in_nats(scale: float, offset: float) -> None:
    observations, direction = scored(scale, offset)
    generator = generator_of(LLAMA)
    generator.direction.copy_(direction)
    generator.intercept.fill_(offset)
    to_nats(generator, observations)
    assert generator.scale.item() == pytest.approx(scale, rel=1e-3)
    assert explained_share(generator, observations) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("scale", "offset"), [(-1.0, 0.0), (0.0, 0.0)])
def test_effects_that_observations_contradict_come_to_nothing(scale: float, offset: float) -> None:
    observations, direction = scored(scale, offset)
    generator = generator_of(LLAMA)
    generator.direction.copy_(direction)
    to_nats(generator, observations)
    assert 0 < generator.scale.item() <= 1e-11
    assert explained_share(generator, observations) == pytest.approx(0, abs=1e-4)


def test_true_effects_are_sure_and_their_opposites_are_surely_wrong() -> None:
    observations, direction = scored(1.0, 0.2)
    generator = generator_of(LLAMA)
    says = [from_falls(seen) for seen in observations]
    for sign in (1, -1):
        generator.direction.copy_(sign * direction)
        generator.intercept.fill_(sign * 0.2)
        assert sign * surety_of(generator, says) > 2
    assert math.isnan(surety_of(generator, says[:1]))  # one rationale has no error
    generator.direction.zero_()
    generator.intercept.zero_()
    assert math.isnan(surety_of(generator, says))  # no effects, nothing in common


def test_surety_by_hand() -> None:
    """By hand.

    Masks (1) and (0), falls of +-1 and +-3 over their size plus a nat: values of +-1/2 and +-3/4. An effect of 1 says
    +-1/2, so they have 1/4 and 3/8 in common: mean 5/16, standard error 1/16.
    """
    keep = torch.tensor([[True], [False]])
    generator = generator_of(LLAMA)
    generator.intercept.fill_(1.0)
    says = [
        from_falls(Observation(tiny_tokens(LLAMA, steps=(1,)), keep, (1,), torch.tensor([[5 - fall], [5 + fall]])))
        for fall in (1.0, 3.0)
    ]
    assert surety_of(generator, says) == pytest.approx(5)


def test_the_explained_share_by_hand() -> None:
    """Falls of +-1 of which effects say +-0.5: a quarter of the squares is left. A wrong sign adds to it."""
    keep = torch.tensor([[True], [False]])
    seen = Observation(tiny_tokens(LLAMA, steps=(1,)), keep, (1,), torch.tensor([[1.0], [3.0]]))
    generator = generator_of(LLAMA)
    shares = {}
    for effect in (0.0, 1.0, 2.0, -2.0):  # kept against hidden: the falls differ by 2
        generator.intercept.fill_(effect)
        shares[effect] = explained_share(generator, [seen])
    assert shares == pytest.approx({0.0: 0.0, 1.0: 0.75, 2.0: 1.0, -2.0: -3.0})


def test_misfits_are_the_mean_squares_of_what_is_left() -> None:
    """Untrained scores are 0, so what is left of y is all of it."""
    seen, _ = additive(LLAMA, 5, 0)
    says = from_falls(seen)
    assert misfits(generator_of(LLAMA), [says]).item() == pytest.approx(says.values.square().mean().item(), rel=1e-5)
