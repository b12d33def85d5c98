"""Teach the predictor to answer from masked rationales, then observe what masks do to its answers (Eq. 5)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from kpod.lm.models import LanguageModel, with_lora
from kpod.lm.processes import own_share, sum_gradients, summed
from kpod.recipe import LoraConfig, WeightingConfig
from kpod.records import TokenizedRationale
from kpod.records.errors import WeightingError
from kpod.records.progress import ProgressBar
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import draw_batches, draw_prefixes, random_mask
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
    """

    tokens: TokenizedRationale
    keep: Bool[Tensor, "masks tokens"]
    prefixes: tuple[int, ...]
    answer_nll: Float[Tensor, "masks prefixes"]


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
    of answer teach it to copy numbers, every equation teaches it what operators do. Several processes share each
    update's rationales.

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
    bar = ProgressBar(range(1, num + 1), name="predictor", unit="updates")
    for update in bar:
        rows = [
            MaskedRationale(r, random_mask(r.num_tokens, rng), draw_prefixes(r, config.prefixes, rng))
            for r in next(batches)
        ]
        optimizer.zero_grad()
        mean = torch.zeros((), device=parameters[0].device)
        for part in predictor.passes(own_share(rows)):
            answer, rationale = predictor.write(part)
            loss = nll = answer.sum() / (len(rows) * config.prefixes)
            if rationale is not None:
                lengths = torch.tensor([row.tokens.num_tokens for row in part]).to(rationale)
                loss = nll + config.rationale_loss_weight * (rationale / lengths).sum() / len(rows)
            check_finite(loss, [row.tokens for row in part], f"update {update}")
            loss.backward()  # type: ignore[no-untyped-call]
            mean += nll.detach()
        sum_gradients(parameters)
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        pace.step()
        told = summed(mean).item()
        bar.set_postfix(NLL=f"{told:.2f}")
        yield told


@torch.no_grad()
def observe(
    predictor: Predictor,
    tokens: TokenizedRationale,
    keep: Bool[Tensor, "masks tokens"],
    prefixes: tuple[int, ...],
) -> Observation:
    """Answer from one rationale under given masks.

    Args:
        predictor: Frozen, in evaluation mode.
        tokens: The rationale.
        keep: m_j of every mask.
        prefixes: The same for all masks.

    Raises:
        WeightingError: If an NLL is not finite.
    """
    nll = predictor([MaskedRationale(tokens, row, prefixes) for row in keep]).float().cpu()
    check_finite(nll.mean(), [tokens], "an observation")
    return Observation(tokens, keep, prefixes, nll)


def check_finite(nll: Tensor, tokens: Sequence[TokenizedRationale], where: str) -> None:
    """Refuse an NLL that is not finite, and name the rationales."""
    if not torch.isfinite(nll):
        names = ", ".join(sorted({repr(rationale.id) for rationale in tokens}))
        raise WeightingError(f"{where}: the NLL is {nll.item()} on {names}; lower weighting.predictor_learning_rate")
