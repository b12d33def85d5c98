"""Rules that weigh tokens in the loss by what the student itself makes of them, read without gradients.

A rule gives a multiplier of the weight of every trained token, in rationale and answer the same way: none of the
sources tells them apart. No gradient flows through a multiplier.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kpod.lm.head import Predictions

TOP = 20
"""How many of the likeliest tokens an entropy is over (EAFT)."""
PEAK = 2.0
"""C of InfoSFT's rule. At 2 the multiplier has its peak, of 1, at a probability of 1/2."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rule sees of the trained tokens of a batch.

    Attributes:
        logprobs: Log P of every token, in nats.
        entropies: Of the student's TOP likeliest tokens at its place, renormalised, in [0, 1] of the greatest possible;
            None unless the rule asks for it.
        reference: Log P under the reference model, in nats; None unless the rule asks for it.
    """

    logprobs: Float[Tensor, " trained"]
    entropies: Float[Tensor, " trained"] | None = None
    reference: Float[Tensor, " trained"] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A function from facts to multipliers, and the facts that it asks for beside log P.

    Attributes:
        name: Tells it from others.
        run: The function.
        entropies: Whether it asks for entropies.
        reference: Whether it asks for log P under a reference model.
    """

    name: str
    run: Callable[[Facts], Float[Tensor, " trained"]] = field(repr=False)
    entropies: bool = False
    reference: bool = False


@torch.no_grad()
def facts_of(
    predictions: Predictions,
    labels: Int[Tensor, " trained"],
    rule: Rule,
    reference: Float[Tensor, " trained"] | None = None,
) -> Facts:
    """What a rule asks for, from the logits of one chunk of positions at a time.

    Args:
        predictions: At the trained positions of a batch.
        labels: The tokens there.
        rule: Says what it asks for.
        reference: Log P of the tokens under the reference model.
    """
    logprobs = torch.empty(len(labels), device=labels.device)
    entropies = torch.empty_like(logprobs) if rule.entropies else None
    for part in predictions.chunks():
        logits = predictions.logits(part)
        logprobs[part] = logits.gather(1, labels[part, None])[:, 0] - logits.logsumexp(dim=1)
        if entropies is not None:
            num = min(TOP, logits.shape[1])
            top = logits.topk(num, dim=1).values.softmax(dim=1)
            entropies[part] = torch.special.entr(top).sum(dim=1) / math.log(num)
    return Facts(logprobs, entropies, reference)


def _probability(facts: Facts) -> Float[Tensor, " trained"]:
    return facts.logprobs.exp()


def _entropy(facts: Facts) -> Float[Tensor, " trained"]:
    return cast("Tensor", facts.entropies)


def _information(facts: Facts) -> Float[Tensor, " trained"]:
    log_odds = facts.logprobs - torch.log(-torch.expm1(facts.logprobs))
    return (facts.logprobs.exp() * (PEAK - log_odds)).clamp_min(0)


BY_PROBABILITY = Rule("probability", _probability)
"""P(token): DFT. Its gradient is that of the probability itself, so unlikely tokens hardly count."""
BY_ENTROPY = Rule("entropy", _entropy, entropies=True)
"""The student's uncertainty at the token's place: EAFT. Tokens that contradict a confident student hardly count."""
BY_INFORMATION = Rule("information", _information)
"""q (C - log(q / (1 - q))) with q = P(token), at least 0: InfoSFT. Tokens of medium confidence count."""


def by_excess(share: float) -> Rule:
    """1 for this share of a batch's trained tokens, those whose NLL exceeds the reference model's most, else 0: Rho-1.

    Args:
        share: In (0, 1]; at least one token is kept.
    """

    def run(facts: Facts) -> Float[Tensor, " trained"]:
        excess = cast("Tensor", facts.reference) - facts.logprobs
        kept = excess.topk(max(1, round(share * len(excess)))).indices
        return torch.zeros_like(excess).index_fill(0, kept, 1.0)

    return Rule(f"excess {share}", run, reference=True)
