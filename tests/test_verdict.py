"""The verdict on learnt weights: how often it is wrong, and that nothing is lost where it refuses."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from kpod.experiment.pipeline import Pipeline
from kpod.records.errors import WeightingError
from kpod.weighting.effects import Fit
from kpod.weighting.prefixes import Predictor
from kpod.weighting.rounds import Round
from kpod.weighting.verdict import (
    HARM,
    NUM_JUDGED,
    Verdict,
    accepted,
    judge,
    save_learning,
    verdict_on_fit,
    verdict_on_objective,
    verdict_on_spread,
)
from kpod.weighting.weigher import Weigher
from tiers import tiered
from tiny import BRIEF, tiny_llama, tiny_tokens
from tiny_runs import recipe, write_tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


# -- masks against random masks ----------------------------------------------------------------------------


def on(excess: list[float] | np.ndarray, random: float = 2.0) -> Verdict:
    return verdict_on_objective({"learnt": random + float(np.mean(excess)), "random": random}, np.asarray(excess))


def test_the_bound_by_hand() -> None:
    """Mean 1.0, standard deviation 0.1, three rationales: 1 - 6.9646 * 0.1 / sqrt(3) = 0.5979 is above 5 % of 2."""
    found = on([1.0, 0.9, 1.1])
    assert found.refusal == (
        "the weights mask what matters: L_k is 3.000 under the learnt masks and 2.000 under random ones that keep as "
        "many tokens: 1 nats more (at least 0.6 with 99% confidence); raise weighting.warmup_updates"
    )
    assert not found.warnings


@pytest.mark.parametrize(
    ("excess", "random", "warned", "refused"),
    [
        ([1.0, -0.9, 0.5], 2.0, False, False),  # chance
        ([0.003, 0.004, 0.002, 0.003], 17.38, True, False),  # certain, and nothing: 17.38 against 17.38
        ([0.0, 0.0, 0.0, 0.0], 2.0, False, False),  # both mask the same
        ([-1.0, -0.9, -1.1], 2.0, False, False),  # better than chance
        ([0.1, 0.1, 0.1001], 2.0, True, False),  # 5 % at the most
        ([0.13, 0.13, 0.1301], 2.0, False, True),  # more
        ([5.0], 2.0, False, False),  # one rationale says nothing about others
    ],
)
def test_only_an_effect_that_matters_is_refused(
    excess: list[float], random: float, warned: bool, refused: bool
) -> None:
    found = on(excess, random)
    assert (bool(found.warnings), bool(found.refusal)) == (warned, refused)


def simulated(effect: float, draw: str, runs: int = 2000) -> float:
    """How often weights are refused whose masks cost `effect` nats more than random ones; L_k of random ones is 2."""
    rng = np.random.default_rng(0)
    noise = {
        "normal": lambda: rng.normal(size=NUM_JUDGED),
        "heavy": lambda: rng.standard_t(3, size=NUM_JUDGED),
        "skewed": lambda: rng.exponential(size=NUM_JUDGED) - 1,
        "sparse": lambda: rng.normal(size=NUM_JUDGED) * (rng.random(NUM_JUDGED) < 0.3),
    }[draw]
    return float(np.mean([bool(on(effect + 0.5 * noise()).refusal) for _ in range(runs)]))


@pytest.mark.parametrize("draw", tiered(["normal", "heavy", "skewed", "sparse"], ["normal", "heavy"]))
def test_harmless_weights_are_hardly_ever_refused(draw: str) -> None:
    """At most 1 in 100, where two standard errors refused 1 in 23; and not even where they cost 4 % of L_k."""
    assert simulated(0.0, draw) < 0.01
    assert simulated(0.8 * HARM * 2, draw) < 0.015


@pytest.mark.parametrize("draw", ["normal", "heavy", "skewed", "sparse"])
def test_weights_that_mask_what_matters_are_refused(draw: str) -> None:
    """Masks that cost one nat of two."""
    assert simulated(1.0, draw, 500) > 0.8


def test_an_answer_that_is_not_finite_is_no_verdict_but_an_error() -> None:
    lm = tiny_llama()
    nn.init.constant_(lm.model.get_output_embeddings().weight, float("nan"))  # type: ignore[operator]
    tokens = [tiny_tokens(lm)]
    with pytest.raises(WeightingError, match="the verdict: the NLL is nan on 'q0'"):
        judge(Predictor(lm), tokens, {"q0": np.full(7, 0.6, np.float32)}, BRIEF, np.random.default_rng(0))


# -- weights that are all alike ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_weights_that_are_all_alike_are_refused(value: float) -> None:
    found = verdict_on_spread({"q": np.full(50, value, dtype=np.float32)})
    assert "the weights collapsed" in found.refusal
    assert "raise weighting.warmup_updates and weighting.observations" in found.refusal
    assert ("weighting.kept_rate, which holds the mean" in found.refusal) == (value != 0.5)


@pytest.mark.parametrize("mean", [0.97, 0.1])
def test_weights_that_are_nearly_alike_are_warned_of(mean: float) -> None:
    found = verdict_on_spread({"q": np.linspace(mean - 0.01, mean + 0.01, 50, dtype=np.float32)})
    assert f"hardly differ (mean {mean:.2f}, spread 0.006); weighting.spread" in found.warnings[0]
    assert not found.refusal
    assert verdict_on_spread({"q": np.linspace(0, 1, 50, dtype=np.float32)}) == Verdict()


def test_two_verdicts_are_one() -> None:
    both = Verdict(("a",), "no") + Verdict(("b",), "never")
    assert both == Verdict(("a", "b"), "no")
    assert (Verdict() + Verdict(refusal="no")).refusal == "no"


# -- effects that were not found, weights that still move -------------------------------------------------------


AT_REST = Round(72, 1.5, fall=0.0, error=0.1, moved=0.02, agreement=0.99)
TWICE = (AT_REST, AT_REST)
MOVING = Round(160, 1.5, fall=0.0, error=0.1, moved=0.0571, agreement=0.8)
FALLING = Round(160, 1.5, fall=0.5, error=0.1, moved=0.021, agreement=0.9)


@pytest.mark.parametrize(
    ("surety", "rounds", "expected"),
    [
        (8.0, (MOVING, *TWICE), ()),
        (2.1, TWICE, ()),
        (float("inf"), TWICE, ()),
        (2.0, TWICE, ("say nothing sure about what masks do to unseen rationales (their covariance is 2.0 standard",)),
        (-0.25, TWICE, ("-0.2 standard errors above 0), so which tokens weigh much is chance; raise weighting.warm",)),
        (float("nan"), TWICE, ("nan standard errors",)),
        (4.0, (AT_REST, MOVING), ("not come to rest after 160 observations: the last round moved them by 0.057 on",)),
        (4.0, (MOVING, AT_REST), ("not come to rest after 72 observations: the last round moved them by 0.020 on",)),
        (4.0, (FALLING,), ("not come to rest after 160 observations: the last round moved them by 0.021 on",)),
        (
            4.0,
            (Round(4, 1.5),),
            ("the weights had not come to rest after 4 observations; raise weighting.observations",),
        ),
        (-1.0, (MOVING,), ("say nothing sure", "not come to rest")),
    ],
)
def test_the_verdict_on_a_fit_by_hand(surety: float, rounds: tuple[Round, ...], expected: tuple[str, ...]) -> None:
    found = verdict_on_fit(Fit(penalties={}, epochs=0, explained=0.1, surety=surety), rounds)
    assert len(found.warnings) == len(expected)
    assert all(words in warning for words, warning in zip(expected, found.warnings, strict=True))
    assert not found.refusal


# -- nothing is lost -------------------------------------------------------------------------------------------


def test_what_is_saved_and_refused_raises_and_other_weights_do_not(tmp_path: Path) -> None:
    assert accepted(tmp_path) == tmp_path  # weights that were not learnt
    save_learning(tmp_path, {"fit": {}}, Verdict(("beware",)))
    assert accepted(tmp_path) == tmp_path
    save_learning(tmp_path, {"fit": {}}, Verdict(refusal="the weights mask what matters"))
    with pytest.raises(WeightingError, match=r"the weights mask what matters\. The weights are saved in .*--apply"):
        accepted(tmp_path)


@pytest.mark.slow
def test_refused_weights_are_saved_and_not_learnt_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmful = ({"learnt": 3.0, "random": 2.0, "all": 1.0}, np.array([1.0, 0.9, 1.1]))
    monkeypatch.setattr("kpod.weighting.learn.judge", lambda *_: harmful)
    with pytest.raises(WeightingError, match="the weights mask what matters"):
        _ = Pipeline(recipe(data, tmp_path)).weights
    folder = tmp_path / "tiny" / "weights"
    assert (folder / "weights.arrow").is_file()
    assert Weigher.load(folder / "weigher").weigh([]) == []
    monkeypatch.setattr("kpod.experiment.algorithm.weigh_rationales", lambda *_: pytest.fail("learnt again"))
    with pytest.raises(WeightingError, match="the weights mask what matters"):
        _ = Pipeline(recipe(data, tmp_path)).weights


@pytest.mark.slow
def test_a_warning_is_said_and_the_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slight = ({"learnt": 2.01, "random": 2.0, "all": 1.0}, np.array([0.01, 0.009, 0.011]))
    monkeypatch.setattr("kpod.weighting.learn.judge", lambda *_: slight)
    assert Pipeline(recipe(data, tmp_path)).weights.loss
    assert "the weights may mask what matters: L_k is 2.010" in caplog.text
