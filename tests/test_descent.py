"""The estimators that descend L_k: the score function against the exact gradient, Gumbel masks, the watch over L_k."""

from dataclasses import replace
from itertools import product
from typing import Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from kpod.weighting import learn_weights
from kpod.weighting.descent import descend, held_out_objective
from kpod.weighting.effects import compute_weights
from kpod.weighting.estimators import (
    Estimator,
    antithetic,
    control_variate,
    hard_concrete,
    leave_one_out,
    straight_through,
)
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.prefixes import Predictor
from tiny import BRIEF, generator_of, tiny_llama, tiny_tokens

LLAMA = tiny_llama()
SCORE = replace(BRIEF, estimator="score", mask_loss_weight=0.5, masks=8, prefixes=1)


class Costly(Predictor):
    """A predictor to whom masking token j costs COSTS[j] nats, and both of the first two 1 nat more."""

    COSTS = (2.0, 0.5, -0.3)

    def forward(self, rows: list[MaskedRationale]) -> Float[Tensor, "rows prefixes"]:
        hidden = torch.stack([1 - row.keep.float() for row in rows])
        cost = hidden @ torch.tensor(self.COSTS) + hidden[:, 0] * hidden[:, 1]
        return cost[:, None].expand(-1, len(rows[0].prefixes))


def exact_gradient(weights: Tensor, alpha: float) -> Tensor:
    """d E[L_k] / d w by summing over all masks."""
    weights = weights.clone().requires_grad_()
    expected = alpha * weights.mean()
    for mask in product((0.0, 1.0), repeat=3):
        keep = torch.tensor(mask)
        chance = (weights * keep + (1 - weights) * (1 - keep)).prod()
        row = MaskedRationale(tiny_tokens(LLAMA, steps=(3,)), keep, (3,))
        expected = expected + chance * Costly(LLAMA)([row])[0, 0].detach()
    expected.backward()
    assert weights.grad is not None
    return weights.grad


@pytest.mark.parametrize("estimate", [leave_one_out, antithetic, control_variate])
def test_score_functions_have_the_exact_gradient_on_average(estimate: Estimator) -> None:
    weights = torch.tensor([0.7, 0.4, 0.5])
    rng, found = np.random.default_rng(0), torch.zeros(3)
    for _ in range(1500):
        taken = weights.clone().requires_grad_()
        surrogate, _ = estimate(Costly(LLAMA), tiny_tokens(LLAMA, steps=(3,)), taken, SCORE, rng)
        surrogate.backward()
        assert taken.grad is not None
        found += taken.grad / 1500
    torch.testing.assert_close(found, exact_gradient(weights, 0.5), atol=0.08, rtol=0.05)


def spread_of(estimate: Estimator, num: int = 300) -> float:
    """Standard deviation of an estimate of the gradient, summed over three tokens."""
    rng, found = np.random.default_rng(0), []
    for _ in range(num):
        taken = torch.tensor([0.7, 0.4, 0.5], requires_grad=True)
        estimate(Costly(LLAMA), tiny_tokens(LLAMA, steps=(3,)), taken, SCORE, rng)[0].backward()
        assert taken.grad is not None
        found.append(taken.grad)
    return float(torch.stack(found).std(dim=0).sum())


def test_a_control_variate_lowers_the_variance() -> None:
    """Where the NLL is nearly linear in the mask, as here."""
    assert spread_of(control_variate) < 0.7 * spread_of(leave_one_out)


def test_hard_concrete_masks_are_pushed_to_their_kept_rate() -> None:
    """P(gate > 0) of logit l is sigmoid(l - 2/3 log(1/11)): 0.8318 at w = 1/2; its excess over 0.5 costs 10 x^2."""
    tokens, rng = tiny_tokens(LLAMA, steps=(3,)), np.random.default_rng(0)
    weights = torch.full((3,), 0.5, requires_grad=True)
    loss, nll = hard_concrete(Costly(LLAMA), tokens, weights, SCORE, rng)
    assert loss.item() - nll == pytest.approx(10 * (0.8318 - 0.5) ** 2, abs=1e-3)


def test_gumbel_masks_are_hard_and_pass_gradients() -> None:
    weights = torch.tensor([0.7, 0.4, 0.5], requires_grad=True)
    tokens, rng = tiny_tokens(LLAMA, steps=(3,)), np.random.default_rng(0)
    values = set()
    for _ in range(200):
        loss, nll = straight_through(Costly(LLAMA), tokens, weights, SCORE, rng)
        kept = (loss.item() - nll) / SCORE.mask_loss_weight * 3
        assert kept == pytest.approx(round(kept), abs=1e-4)
        values.add(round(kept))
        loss.backward()
    assert values == {0, 1, 2, 3}
    assert weights.grad is not None
    assert weights.grad[0] < 0 < weights.grad[2]  # keeping the first lowers L_k, keeping the last raises it


def test_a_descent_finds_planted_keypoints_and_keeps_the_lowest_held_out_objective() -> None:
    rng = np.random.default_rng(0)
    tokens = []
    for number in range(16):
        made = tiny_tokens(LLAMA, f"q{number}", (3,))
        ids = list(made.token_ids)
        ids[6:9] = [1, 2, 3]  # of costs 2, 0.5 and -0.3
        tokens.append(replace(made, token_ids=tuple(ids)))
    config = replace(SCORE, observations=240, batch_size=4, generator_learning_rate=3e-3)
    generator, predictor = generator_of(LLAMA), Costly(LLAMA).requires_grad_(requires_grad=False)
    *_, last = descend(generator, predictor, tokens, config, rng)
    first, second, third = compute_weights(generator, tokens[:1])["q0"].tolist()
    assert first > 0.9
    assert second > 0.5 > third
    assert last.objective == pytest.approx(held_out_objective(generator, predictor, tokens[:4], config))
    assert last.objective == pytest.approx(-0.3 + 0.5 * 2 / 3)  # keeps the first two, masks the third


def test_the_watch_draws_its_masks_from_the_weights() -> None:
    """Untrained weights of 1/2 keep half of the tokens; cut at 1/2 they would keep all or none."""
    tokens = [tiny_tokens(LLAMA, f"q{number}", (3,)) for number in range(200)]
    generator = generator_of(LLAMA)
    generator.level.fill_(0.5 / 3)  # exactly the price
    predictor = Costly(LLAMA).requires_grad_(requires_grad=False)
    # Each token is hidden half of the time, the first two together a quarter: (2 + 0.5 - 0.3) / 2 + 1 / 4.
    expected = 1.1 + 0.25 + 0.5 / 2
    assert held_out_objective(generator, predictor, tokens, SCORE) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("estimator", ["score", "antithetic", "control_variate", "hard_concrete", "gumbel"])
def test_weights_can_be_learnt_by_descent(
    estimator: Literal["score", "antithetic", "control_variate", "hard_concrete", "gumbel"],
) -> None:
    config = replace(BRIEF, estimator=estimator, generator_learning_rate=3e-3)
    first, again = (
        learn_weights(lm, [tiny_tokens(lm, f"q{n}", (3, 2 + n)) for n in range(4)], config, 0)
        for lm in (tiny_llama(), tiny_llama())
    )
    assert set(first.facts) == {"update", "best_update", "objective", "nll", "kept", "spread"}
    assert bool(first.warmup_nll) == (estimator != "gumbel")
    for key, weights in first.weights.items():
        assert weights.tolist() == again.weights[key].tolist()
