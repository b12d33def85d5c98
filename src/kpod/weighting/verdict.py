"""Judge learnt weights: whether they collapsed, or whether their masks are worse than random masks.

A verdict is data. The weights are saved with it before a run ends, so that no work is lost.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from kpod.recipe import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.records.errors import WeightingError
from kpod.records.files import write_text
from kpod.weighting.effects import SURE, Fit
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import draw_prefixes
from kpod.weighting.objective import keypoint_objective
from kpod.weighting.predictor import check_finite
from kpod.weighting.prefixes import Predictor
from kpod.weighting.rounds import Round, came_to_rest

LEARNING = "learning.json"
NEARLY_ALIKE = 0.02
"""Spread of the weights below which they hardly distinguish tokens."""
WIDER = "weighting.spread and weighting.kept_rate hold both with weighting.estimator regression"
NUM_JUDGED = 16
"""Rationales on which the learnt weights are judged by L_k at the end."""
CONFIDENCE = 0.99
"""Confidence of the one-sided bound on how much worse the learnt masks are."""
HARM = 0.05
"""Weights are refused if their masks cost more than this share of the random masks' L_k, with that confidence."""


@dataclass(frozen=True)
class Verdict:
    """What was found against some weights.

    Attributes:
        warnings: What the user should know; the weights can be used.
        refusal: Why they should not be used, and what to do; empty if nothing says so.
    """

    warnings: tuple[str, ...] = ()
    refusal: str = ""

    def __add__(self, other: "Verdict") -> "Verdict":
        """Both verdicts; of two refusals the first."""
        return Verdict((*self.warnings, *other.warnings), self.refusal or other.refusal)


@torch.no_grad()
def judge(
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    weights: Mapping[str, NDArray[np.float32]],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """L_k of the learnt weights as hard masks, beside that of masks which know nothing; see `Weighing.objective`.

    Returns:
        The three means; and by how much the learnt masks exceed the random ones, one number per judged rationale.

    Raises:
        WeightingError: If an NLL is not finite.
    """
    found: dict[str, list[float]] = {"learnt": [], "random": [], "all": []}
    for index in rng.choice(len(tokens), min(NUM_JUDGED, len(tokens)), replace=False):
        rationale = tokens[index]
        learnt = torch.from_numpy(weights[rationale.id] > 0.5)
        masks = (learnt, learnt[torch.from_numpy(rng.permutation(len(learnt)))], torch.ones_like(learnt))
        prefixes = draw_prefixes(rationale, config.prefixes, rng)
        nll = predictor([MaskedRationale(rationale, keep, prefixes) for keep in masks])
        check_finite(nll.mean(), [rationale], "the verdict")
        kept = torch.stack([keep.float().mean() for keep in masks]).to(nll.device)
        for name, value in zip(found, keypoint_objective(nll, kept, config.mask_loss_weight).tolist(), strict=True):
            found[name].append(value)
    excess = np.array(found["learnt"]) - np.array(found["random"])
    return {name: float(np.mean(values)) for name, values in found.items()}, excess


def verdict_on_objective(objective: Mapping[str, float], excess: NDArray[np.float64]) -> Verdict:
    """Whether the learnt masks are worse than random ones that keep as many tokens, and by enough to matter.

    A one-sided 99 % t bound on the mean excess of L_k decides. Above 0 it is a warning. Above 5 % of the random masks'
    L_k it is a refusal: then the weights mask what the answers need.

    Args:
        objective: `learnt` and `random`, in nats.
        excess: L_k under the learnt mask less that under the random one, per judged rationale, in nats.

    Example:
        >>> bool(verdict_on_objective({"learnt": 3.0, "random": 2.0}, np.array([1.0, 0.9, 1.1])).refusal)
        True
        >>> verdict_on_objective({"learnt": 17.384, "random": 17.381}, np.array([0.004, 0.003, 0.002])).refusal
        ''
    """
    if len(excess) < 2:
        return Verdict()
    error = excess.std(ddof=1) / np.sqrt(len(excess))
    bound = float(excess.mean() - stats.t.ppf(CONFIDENCE, len(excess) - 1) * error)
    if not bound > 0:
        return Verdict()
    told = (
        f"L_k is {objective['learnt']:.3f} under the learnt masks and {objective['random']:.3f} under random ones that "
        f"keep as many tokens: {excess.mean():.2g} nats more (at least {bound:.2g} with {CONFIDENCE:.0%} confidence)"
    )
    if bound <= HARM * abs(objective["random"]):
        return Verdict(warnings=(f"the weights may mask what matters: {told}",))
    return Verdict(refusal=f"the weights mask what matters: {told}; raise weighting.warmup_updates")


def verdict_on_fit(fit: Fit, rounds: Sequence[Round]) -> Verdict:
    """Whether the tokens' effects were found at all, and whether the weights had come to rest.

    The weights' spread is held, so that chance is stretched as far as knowledge would be: only this can tell.
    """
    found = []
    if not fit.surety > SURE:
        found.append(
            "the tokens' effects say nothing sure about what masks do to unseen rationales (their covariance is "
            f"{fit.surety:.1f} standard errors above 0), so which tokens weigh much is chance; raise "
            "weighting.warmup_updates and weighting.observations, or name a stronger model in weighting.predictor"
        )
    if rounds and not came_to_rest(rounds):
        now = rounds[-1]
        moved = "" if now.moved is None else f": the last round moved them by {now.moved:.3f} on average"
        found.append(
            f"the weights had not come to rest after {now.observed} observations{moved}; raise weighting.observations"
        )
    return Verdict(tuple(found))


def verdict_on_spread(weights: Mapping[str, NDArray[np.float32]]) -> Verdict:
    """Whether all weights are the same, or nearly: then they say nothing about the tokens."""
    together = np.concatenate(list(weights.values()))
    kept, spread = float(together.mean()), float(together.std())
    one_end = not 0.02 < kept < 0.995
    if spread < 1e-3 or one_end:
        return Verdict(
            refusal=f"the weights collapsed: mean {kept:.3f}, spread {spread:.1e}; raise weighting.warmup_updates and "
            "weighting.observations" + (", or set weighting.kept_rate, which holds the mean" if one_end else "")
        )
    if spread < NEARLY_ALIKE:
        return Verdict(warnings=(f"the weights hardly differ (mean {kept:.2f}, spread {spread:.3f}); {WIDER}",))
    return Verdict()


def save_learning(folder: Path, facts: Mapping[str, object], verdict: Verdict) -> None:
    """Write `learning.json`: how weights were learnt, and what speaks against them."""
    told = {"warnings": list(verdict.warnings), "refusal": verdict.refusal}
    write_text(folder / LEARNING, json.dumps({**facts, **told}, indent=2))


def accepted(folder: Path) -> Path:
    """The folder of some weights, which must not have been refused; those that were not learnt never are.

    Raises:
        WeightingError: With the reason, and how to use the weights all the same.
    """
    facts = json.loads((folder / LEARNING).read_text(encoding="utf-8")) if (folder / LEARNING).is_file() else {}
    if refusal := facts.get("refusal"):
        raise WeightingError(
            f"{refusal}. The weights are saved in {folder} and are not learnt again unless a key of weighting changes; "
            f"to use them anyway, write them into the data with kpod weigh --apply {folder.parent}"
        )
    return folder
