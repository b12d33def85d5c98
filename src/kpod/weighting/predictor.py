"""Teach the predictor to answer from masked rationales, then observe what masks do to its answers (Eq. 5)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm
from transformers import PreTrainedModel

from kpod.config import LoraConfig, WeightingConfig
from kpod.errors import WeightingError
from kpod.lm.models import LanguageModel, with_lora
from kpod.records import TokenizedRationale
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import antithetic_masks, draw_batches, draw_prefixes, random_mask
from kpod.weighting.prefixes import Predictor

RAMP_UPDATES = 10
"""Updates over which the learning rate rises; it then falls linearly to a tenth."""


@dataclass(frozen=True)
class Observation:
    """What the frozen predictor did with one rationale under several masks.

    Attributes:
        tokens: The rationale.
        keep: m_j of every mask, True where kept.
        prefixes: Prefix lengths, the same for all masks.
        answer_nll: NLL of the answer after each prefix, in nats.
        slopes: - d NLL / d m_j at each mask: by how much the NLL falls as a token is mixed into its place, per unit of
            the mixture; the mean over the prefixes that hold the token. None where they were not asked for.
    """

    tokens: TokenizedRationale
    keep: Bool[Tensor, "masks tokens"]
    prefixes: tuple[int, ...]
    answer_nll: Float[Tensor, "masks prefixes"]
    slopes: Float[Tensor, "masks tokens"] | None = None


def with_adapters(lm: LanguageModel, config: WeightingConfig) -> Predictor:
    """A predictor whose backbone learns through adapters of rank `lora_rank`; the model is changed in place."""
    lora = LoraConfig(rank=config.lora_rank, alpha=2 * config.lora_rank)
    return Predictor(replace(lm, model=with_lora(cast("PreTrainedModel", lm.model), lora)))


def warm_up(
    predictor: Predictor, tokens: Sequence[TokenizedRationale], config: WeightingConfig, rng: np.random.Generator
) -> Iterator[float]:
    """Train the predictor under random masks, each rationale at a kept rate of its own; yields each update's mean NLL.

    Masks are random, never the generator's: the predictor meets every token kept and masked, and can read nothing
    off the pattern of the mask. Beside the answer a causal predictor writes the rationale's own tokens: a few tokens
    of answer teach it to copy numbers, every equation teaches it what operators do.

    Raises:
        WeightingError: If an NLL is not finite.
    """
    parameters = [p for p in predictor.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.predictor_learning_rate)
    num = config.warmup_updates
    pace = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: min(1, (update + 1) / RAMP_UPDATES) * max(0.1, 1 - update / num)
    )
    batches = draw_batches(tokens, config.batch_size, rng)
    predictor.train()
    bar = tqdm(range(1, num + 1), desc="predictor", unit=" updates")
    for update in bar:
        rows = [
            MaskedRationale(r, random_mask(r.num_tokens, rng), draw_prefixes(r, config.prefixes, rng))
            for r in next(batches)
        ]
        optimizer.zero_grad()
        mean = 0.0
        for part in predictor.passes(rows):
            answer, rationale = predictor.write(part)
            loss = nll = answer.sum() / (len(rows) * config.prefixes)
            if rationale is not None:
                lengths = torch.tensor([row.tokens.num_tokens for row in part]).to(rationale)
                loss = nll + config.rationale_loss_weight * (rationale / lengths).sum() / len(rows)
            _check_finite(loss, [row.tokens for row in part], update)
            loss.backward()  # type: ignore[no-untyped-call]
            mean += nll.item()
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        pace.step()
        bar.set_postfix(NLL=f"{mean:.2f}")
        yield mean


def observe(
    predictor: Predictor, tokens: Sequence[TokenizedRationale], config: WeightingConfig, rng: np.random.Generator
) -> list[Observation]:
    """Answer from `observations` rationales, each under `masks` random masks and after `prefixes` prefixes.

    Args:
        predictor: Frozen: none of its parameters takes gradients.
        tokens: The rationales to draw from.
        config: The recipe's `weighting`; the estimator `gradient` gets slopes, at twice the time.
        rng: Draws rationales, masks and prefixes.

    Raises:
        WeightingError: If an NLL or a slope is not finite.
    """
    predictor.eval()
    queue = draw_batches(tokens, 1, rng)
    found = []
    for number in tqdm(range(1, config.observations + 1), desc="observations", unit=" rationales"):
        (rationale,) = next(queue)
        keep = antithetic_masks(rationale.num_tokens, config.masks, rng)
        prefixes = draw_prefixes(rationale, config.prefixes, rng)
        seen = observe_masks(predictor, rationale, keep, prefixes, slopes=config.estimator == "gradient")
        _check_finite(seen.answer_nll.mean() if seen.slopes is None else seen.slopes.mean(), [rationale], number)
        found.append(seen)
    return found


def observe_masks(
    predictor: Predictor,
    rationale: TokenizedRationale,
    keep: Bool[Tensor, "masks tokens"],
    prefixes: tuple[int, ...],
    *,
    slopes: bool,
) -> Observation:
    """Answer from one rationale under given masks; with slopes, by one pass back to the masks."""
    kept = keep.float().requires_grad_(slopes)
    answer_nll, gradients = [], []
    for part in predictor.passes([MaskedRationale(rationale, row, prefixes) for row in kept]):
        with torch.set_grad_enabled(slopes):
            nll = predictor(part)
        if slopes:
            gradients.append(torch.autograd.grad(nll.sum(), kept)[0])
        answer_nll.append(nll.detach().flatten().cpu())
    seen = torch.cat(answer_nll).view(len(keep), len(prefixes))
    if not slopes:
        return Observation(rationale, keep, prefixes, seen)
    num_holding = sum((torch.arange(len(keep[0])) < prefix).float() for prefix in prefixes)
    return Observation(rationale, keep, prefixes, seen, -torch.stack(gradients).sum(dim=0) / num_holding)


def _check_finite(nll: Tensor, tokens: Sequence[TokenizedRationale], update: int) -> None:
    if not torch.isfinite(nll):
        names = ", ".join(sorted({repr(rationale.id) for rationale in tokens}))
        raise WeightingError(
            f"update {update}: the NLL is {nll.item()} on {names}; lower weighting.predictor_learning_rate"
        )
