"""Effects in rounds: planted keypoints are found, also those that need others, and learning stops at rest."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from kpod.recipe import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.records.errors import WeightingError
from kpod.weighting import rounds as module
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.module import WeightGenerator, compute_weights
from kpod.weighting.predictor import Observation
from kpod.weighting.prefixes import Predictor
from kpod.weighting.rounds import ROUNDS, STILL, Round, came_to_rest, observe_in_rounds
from tiers import tiered
from tiny import BRIEF, tiny_llama, tiny_tokens_of

LLAMA = tiny_llama()
CONFIG = replace(BRIEF, observations=96, masks=8)


class Stub(Predictor):
    """A predictor whose NLL after a prefix is a function of the ids and the mask within it."""

    def loss(self, ids: tuple[int, ...], keep: list[bool]) -> float:
        raise NotImplementedError

    def forward(self, rows: list[MaskedRationale]) -> Float[Tensor, "rows prefixes"]:
        found = []
        for row in rows:
            ids, keep = row.tokens.ids("rationale"), row.keep.bool().tolist()
            found.append([self.loss(ids[:end], keep[:end]) for end in row.prefixes])
        return torch.tensor(found)


class Planted(Stub):
    """It loses one nat for each masked token below 10, and nothing for any other."""

    def loss(self, ids: tuple[int, ...], keep: list[bool]) -> float:
        return float(sum(token < 10 and not kept for token, kept in zip(ids, keep, strict=True)))


class Indifferent(Stub):
    """Masks do nothing to it."""

    def loss(self, ids: tuple[int, ...], keep: list[bool]) -> float:  # noqa: ARG002
        return 2.0


class Dependent(Stub):
    """It loses one nat for each masked token below 4; and one for token 4, if none of these is masked."""

    def loss(self, ids: tuple[int, ...], keep: list[bool]) -> float:
        kept = dict(zip(ids, keep, strict=True))
        missing = sum(not kept.get(token, True) for token in range(4))
        return float(missing or not kept.get(4, True))


class Broken(Planted):
    """Its answer to one question is NaN."""

    def __init__(self, name: str) -> None:
        super().__init__(LLAMA)
        self.name = name

    def forward(self, rows: list[MaskedRationale]) -> Float[Tensor, "rows prefixes"]:
        return super().forward(rows) * (float("nan") if rows[0].tokens.id == self.name else 1)


def planted(num: int, seed: int = 0) -> list[TokenizedRationale]:
    """Rationales of 12 tokens, of which about three in ten are below 10."""
    rng = np.random.default_rng(seed)
    return [
        tiny_tokens_of(
            LLAMA, [int(rng.integers(10) if rng.random() < 0.3 else rng.integers(100, 120)) for _ in range(12)], f"q{n}"
        )
        for n in range(num)
    ]


def generator_for(config: WeightingConfig) -> WeightGenerator:
    torch.manual_seed(0)
    table = LLAMA.model.get_input_embeddings().weight  # type: ignore[operator]
    return WeightGenerator(table, config.mask_loss_weight, held=config.kept_rate is not None)


def in_rounds(
    predictor: Predictor, tokens: list[TokenizedRationale], config: WeightingConfig = CONFIG, seed: int = 0
) -> tuple[WeightGenerator, list[Round], list[Observation]]:
    generator, observations = generator_for(config), list[Observation]()
    rng = np.random.default_rng(seed)
    found = list(observe_in_rounds(generator, predictor, tokens, config, rng, observations))
    return generator, found, observations


def weight_of_ids(generator: WeightGenerator, tokens: list[TokenizedRationale]) -> tuple[NDArray, NDArray]:
    weights = np.concatenate(list(compute_weights(generator, tokens).values()))
    return np.array([token for one in tokens for token in one.ids("rationale")]), weights


# -- what is found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_rate", tiered([0.6, 0.4, None], [0.4]))
def test_planted_keypoints_stand_far_above_all_others(kept_rate: float | None) -> None:
    """Also in rationales that were never observed; and learning ends when nothing moves, well before its budget."""
    config = replace(CONFIG, kept_rate=kept_rate, mask_loss_weight=3.0)  # a price of 1/4 nat where no rate is held
    generator, found, observations = in_rounds(Planted(LLAMA), planted(48), config)
    ids, weights = weight_of_ids(generator, planted(48, seed=1))
    assert np.quantile(weights[ids < 10], 0.1) > np.quantile(weights[ids >= 10], 0.9)
    assert weights[ids < 10].mean() > weights[ids >= 10].mean() + 0.4
    assert found[-1].at_rest
    assert len(observations) < config.observations
    assert found[-1].agreement == pytest.approx(1, abs=0.1)


def test_mean_and_spread_are_those_of_the_recipe() -> None:
    tokens = planted(16)
    for rate, spread in ((0.6, 0.25), (0.3, 0.4), (0.5, 0.1)):
        config = replace(CONFIG, kept_rate=rate, spread=spread, observations=24)
        _, weights = weight_of_ids(in_rounds(Planted(LLAMA), tokens, config)[0], tokens)
        assert weights.mean() == pytest.approx(rate, abs=1e-3)
        assert weights.std() == pytest.approx(spread, abs=1e-3)


def test_drawn_masks_find_what_counts_only_beside_others() -> None:
    """Masks that know nothing keep the four others in 13 % of the cases; those that know them in 66 %."""
    rng = np.random.default_rng(0)
    tokens = [
        tiny_tokens_of(LLAMA, rng.permutation([0, 1, 2, 3, 4, *rng.integers(100, 120, 7)]).tolist(), f"q{n}")
        for n in range(48)
    ]
    config = replace(CONFIG, prefixes=1, observations=160)
    generator, observations = generator_for(config), list[Observation]()
    steps = observe_in_rounds(generator, Dependent(LLAMA), tokens, config, rng, observations)
    above_others = []
    for _ in steps:
        ids, weights = weight_of_ids(generator, tokens)
        above_others.append(weights[ids == 4].mean() - weights[ids >= 100].mean())
    assert above_others[0] < 0.2
    assert above_others[-1] > 0.3


# -- when it ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fall", "error", "moved", "expected"),
    [
        (0.0, 0.1, 0.0, True),
        (0.05, 0.1, STILL, True),  # within chance, and just still
        (-2.0, 0.1, 0.01, True),  # L_k rises: it does not fall
        (0.2, 0.1, 0.0, True),  # two standard errors, just within chance
        (0.21, 0.1, 0.0, False),  # still falls
        (0.0, 0.1, 0.041, False),  # still moves
        (0.3, 0.1, 0.2, False),
        (0.0, 0.0, 0.0, True),  # one held-out rationale has no error
        (0.01, 0.0, 0.0, False),
        (float("nan"), 0.1, 0.0, False),
        (None, None, None, False),  # the first round
    ],
)
def test_rest_is_when_neither_the_objective_falls_nor_the_weights_move(
    fall: float | None, error: float | None, moved: float | None, expected: bool
) -> None:
    assert Round(24, 1.5, fall, error, moved).at_rest is expected


def test_two_rounds_in_a_row_must_leave_everything_at_rest() -> None:
    still, moving = Round(24, 1.5, 0.0, 0.1, 0.01), Round(24, 1.5, 0.0, 0.1, 0.2)
    assert came_to_rest([moving, still, still])
    assert not came_to_rest([still, moving, still])
    assert not came_to_rest([still, still, moving])
    assert not came_to_rest([still])
    assert not came_to_rest([])


def test_it_never_ends_before_the_third_round() -> None:
    """Where masks do nothing, nothing moves from the start."""
    _, found, _ = in_rounds(Indifferent(LLAMA), planted(16))
    assert len(found) == 3
    assert [one.at_rest for one in found] == [False, True, True]
    assert found[-1].agreement is None  # all weights are the same
    assert found[0].moved is None


def test_it_ends_with_its_budget_where_nothing_comes_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STILL", -1.0)
    _, found, observations = in_rounds(Planted(LLAMA), planted(16))
    assert [one.observed for one in found] == [96 // ROUNDS * number for number in range(1, ROUNDS + 1)]
    assert len(observations) == 96


@pytest.mark.parametrize("budget", tiered([1, 2, 3, 7, 8, 9, 20, 33], [2, 3, 9, 20]))
def test_the_budget_is_met_and_never_exceeded(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STILL", -1.0)
    _, found, observations = in_rounds(Indifferent(LLAMA), planted(5), replace(CONFIG, observations=budget))
    assert len(observations) == budget == found[-1].observed
    assert len(found) <= ROUNDS


# -- what is observed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", tiered([(4, 1), (20, 5), (60, 12)], [(60, 12)]))
def test_held_out_rationales_are_never_observed(case: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    num, expected = case
    held_out: set[str] = set()
    original = module.held_out_objectives

    def look(*given: object) -> NDArray[np.float64]:
        held_out.update(one.id for one in given[2])  # type: ignore[attr-defined]
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "held_out_objectives", look)
    _, _, observations = in_rounds(Planted(LLAMA), planted(num))
    assert len(held_out) == expected
    assert held_out.isdisjoint(seen.tokens.id for seen in observations)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_the_fewest_rationales_are_enough(num: int) -> None:
    generator, found, _ = in_rounds(Planted(LLAMA), planted(num), replace(CONFIG, observations=12))
    assert np.isfinite([one.objective for one in found]).all()
    assert all(np.isfinite(row).all() for row in compute_weights(generator, planted(num)).values())


def test_later_rounds_keep_what_earlier_ones_found() -> None:
    """The first round keeps 0.6 of all tokens; the last 0.9 of those that count for certain, and half of the others."""
    _, found, observations = in_rounds(Planted(LLAMA), planted(48))
    size = found[0].observed
    for part, needed, others in ((observations[:size], 0.6, 0.6), (observations[-size:], 0.9, 0.5)):
        kept = torch.cat([seen.keep.float().mean(dim=0) for seen in part]).numpy()
        ids = np.array([token for seen in part for token in seen.tokens.ids("rationale")])
        assert kept[ids < 10].mean() == pytest.approx(needed, abs=0.06)
        assert kept[ids >= 10].mean() == pytest.approx(others, abs=0.05)


@pytest.mark.parametrize("name", [f"q{number}" for number in range(4)])
def test_an_answer_that_is_not_finite_names_its_rationale(name: str) -> None:
    """Wherever it stands: among those that are observed, or among the held-out ones."""
    with pytest.raises(WeightingError, match=rf"the NLL is nan on '{re.escape(name)}'; lower"):
        in_rounds(Broken(name), planted(4))


def test_rounds_are_a_function_of_their_seed() -> None:
    first, again, other = (in_rounds(Planted(LLAMA), planted(16), seed=seed) for seed in (0, 0, 1))
    assert first[1] == again[1] != other[1]
    assert [seen.keep.tolist() for seen in first[2]] == [seen.keep.tolist() for seen in again[2]]
    for name, tensor in first[0].state_dict().items():
        assert torch.equal(tensor, again[0].state_dict()[name]), name
