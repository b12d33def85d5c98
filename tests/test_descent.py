"""The paper's joint training: straight-through Gumbel masks, and the watch over the held-out L_k."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from kpod.weighting import learn_weights
from kpod.weighting.descent import descend, straight_through
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.module import compute_weights
from kpod.weighting.objective import held_out_objectives
from kpod.weighting.prefixes import Predictor
from tiny import BRIEF, generator_of, int32, tiny_llama, tiny_tokens

LLAMA = tiny_llama()
GUMBEL = replace(BRIEF, estimator="gumbel", mask_loss_weight=0.5, prefixes=1)


class Costly(Predictor):
    """A predictor to whom masking token j costs COSTS[j] nats, and both of the first two 1 nat more."""

    COSTS = (2.0, 0.5, -0.3)

    def forward(self, rows: list[MaskedRationale]) -> Float[Tensor, "rows prefixes"]:
        hidden = torch.stack([1 - row.keep.float() for row in rows])
        cost = hidden @ torch.tensor(self.COSTS) + hidden[:, 0] * hidden[:, 1]
        return cost[:, None].expand(-1, len(rows[0].prefixes))


def test_gumbel_masks_are_hard_and_pass_gradients() -> None:
    weights = torch.tensor([0.7, 0.4, 0.5], requires_grad=True)
    tokens, rng = tiny_tokens(LLAMA, steps=(3,)), np.random.default_rng(0)
    values = set()
    for _ in range(200):
        loss, nll = straight_through(Costly(LLAMA), tokens, weights, GUMBEL, rng)
        kept = (loss.item() - nll) / GUMBEL.mask_loss_weight * 3
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
        tokens.append(replace(made, token_ids=int32(ids)))
    config = replace(GUMBEL, observations=240, batch_size=4, generator_learning_rate=3e-3)
    generator, predictor = generator_of(LLAMA), Costly(LLAMA).requires_grad_(requires_grad=False)
    *_, last = descend(generator, predictor, tokens, config, rng)
    first, second, third = compute_weights(generator, tokens[:1])["q0"].tolist()
    assert first > 0.9
    assert second > 0.5 > third
    assert last.objective == pytest.approx(held_out_objectives(generator, predictor, tokens[:4], config).mean())
    assert last.objective == pytest.approx(-0.3 + 0.5 * 2 / 3)  # keeps the first two, masks the third


def test_the_watch_draws_its_masks_from_the_weights() -> None:
    """Untrained weights of 1/2 keep half of the tokens; cut at 1/2 they would keep all or none."""
    tokens = [tiny_tokens(LLAMA, f"q{number}", (3,)) for number in range(200)]
    generator = generator_of(LLAMA)
    generator.intercept.fill_(0.5 / 3)  # exactly the price
    predictor = Costly(LLAMA).requires_grad_(requires_grad=False)
    # Each token is hidden half of the time, the first two together a quarter: (2 + 0.5 - 0.3) / 2 + 1 / 4.
    expected = 1.1 + 0.25 + 0.5 / 2
    found = held_out_objectives(generator, predictor, tokens, GUMBEL)
    assert found.shape == (200,)
    assert found.mean() == pytest.approx(expected, abs=0.15)
    assert found.tolist() == held_out_objectives(generator, predictor, tokens, GUMBEL).tolist()  # the same masks


def test_weights_can_be_learnt_by_descent() -> None:
    config = replace(BRIEF, estimator="gumbel", generator_learning_rate=3e-3)
    first, again = (
        learn_weights(lm, [tiny_tokens(lm, f"q{n}", (3, 2 + n)) for n in range(4)], config, 0)
        for lm in (tiny_llama(), tiny_llama())
    )
    assert set(first.facts) == {"update", "best_update", "objective", "nll", "kept", "spread"}
    assert not first.warmup_nll
    assert not first.rounds
    for key, weights in first.weights.items():
        assert weights.tolist() == again.weights[key].tolist()
