"""Learn the significance weights (Eq. 4-7): warm the predictor up under random masks, freeze it, fit the generator.

Why not Eq. 4 as it stands: trained together with the predictor through straight-through Gumbel masks, the
generator masks digits first, before the predictor can read them, and the weights invert or collapse. Here masks are
random, so the predictor can read nothing off the mask pattern and has met every token masked and kept. The
generator is then fitted by least squares to what keeping a token does to the answer's NLL, and w is read off
those effects as the soft minimiser of L_k = L_p + alpha L_m (Eq. 7).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel

from kpod.config import LoraConfig, WeightingConfig
from kpod.errors import WeightingError
from kpod.lm.models import LanguageModel, with_lora
from kpod.records import TokenizedRationale
from kpod.weighting.effects import effects_of, keypoint_objective, regression_loss
from kpod.weighting.masks import LOWEST_KEPT_RATE, draw_prefixes, random_masks
from kpod.weighting.module import WeightGenerator
from kpod.weighting.prefixes import MaskedRationale, Predictor

NUM_JUDGED = 12
"""Rationales on which the learnt weights are judged by L_k at the end."""
LR_WARMUP = 10
"""Updates over which the predictor's learning rate rises; it then falls linearly to a tenth."""


@dataclass(frozen=True, slots=True)
class WeighingUpdate:
    """One line of the weighting's log.

    Attributes:
        phase: `warm-up` of the predictor, or `fit` of the generator.
        update: Counted from 1 within the phase.
        answer_nll: Mean NLL of the answer over the update's masks and prefixes, in nats (L_p).
        kept_rate: Mean w_j of the update's tokens (L_m / n); NaN in the warm-up.
        explained: Share of the NLL's variance under random masks that the effects explain, <= 1; NaN in the warm-up.
    """

    phase: str
    update: int
    answer_nll: float
    kept_rate: float = math.nan
    explained: float = math.nan


@dataclass(frozen=True)
class Weighing:
    """What was learnt.

    Attributes:
        weights: Rationale id -> w_j of its tokens, float32 in (0, 1).
        log: One entry per update.
        objective: L_k (Eq. 7) of a few rationales, in nats: `learnt` where exactly the tokens with w_j > 1/2 are
            kept, `random` where as many others are, `all` where every token is.
    """

    weights: dict[str, NDArray[np.float32]]
    log: tuple[WeighingUpdate, ...]
    objective: dict[str, float]


def learn_weights(
    lm: LanguageModel, tokens: Sequence[TokenizedRationale], config: WeightingConfig, seed: int
) -> Weighing:
    """Learn and compute w for every rationale token.

    Args:
        lm: The predictor's backbone, with the student's tokenizer; changed in place (adapters are added).
        tokens: The rationales to weigh, and to learn from.
        config: The recipe's `weighting`.
        seed: Of masks, prefixes, order and initial parameters.

    Raises:
        WeightingError: If an NLL is not finite, or the weights collapsed to all kept or all masked.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    backbone = cast("PreTrainedModel", lm.model)
    table = cast("Tensor", backbone.get_input_embeddings().weight).detach().clone()
    lora = LoraConfig(rank=config.lora_rank, alpha=2 * config.lora_rank)
    predictor = Predictor(replace(lm, model=with_lora(backbone, lora)))
    generator = WeightGenerator(table).to(lm.device)
    log = [*_warm_up(predictor, tokens, config, rng)]
    predictor.requires_grad_(requires_grad=False).eval()
    log += _fit(generator, predictor, tokens, config, rng)
    weights = compute_weights(generator, tokens)
    _check_collapse(weights)
    return Weighing(weights, tuple(log), _objective(predictor, tokens, weights, config, rng))


@torch.inference_mode()
def compute_weights(
    generator: WeightGenerator, tokens: Sequence[TokenizedRationale], batch_size: int = 64
) -> dict[str, NDArray[np.float32]]:
    """The weight of every rationale token, computed once and without sampling."""
    weights = {}
    for start in range(0, len(tokens), batch_size):
        batch = tokens[start : start + batch_size]
        for rationale, row in zip(batch, generator(*_padded(batch, generator)), strict=True):
            weights[rationale.id] = row[: rationale.num_tokens].float().cpu().numpy()
    return weights


def _warm_up(
    predictor: Predictor, tokens: Sequence[TokenizedRationale], config: WeightingConfig, rng: np.random.Generator
) -> Iterator[WeighingUpdate]:
    """Teach the predictor to answer from what any mask leaves; each rationale at a kept rate of its own."""
    parameters = [p for p in predictor.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.predictor_learning_rate)
    num = config.warmup_updates
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: min(1, (u + 1) / LR_WARMUP) * max(0.1, 1 - u / num))
    batches = _batches(tokens, config.batch_size, rng)
    predictor.train()
    for update in tqdm(range(1, num + 1), desc="predictor", unit=" updates"):
        rows = []
        for rationale in next(batches):
            keep = rng.random(rationale.num_tokens) < rng.uniform(LOWEST_KEPT_RATE, 1)
            prefixes = draw_prefixes(rationale.num_tokens, config.prefixes, rng)
            rows.append(MaskedRationale(rationale, torch.from_numpy(keep), prefixes))
        nll = predictor(rows).mean()
        _check_finite(nll, rows, update)
        optimizer.zero_grad()
        nll.backward()
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay.step()
        yield WeighingUpdate("warm-up", update, nll.item())


def _fit(
    generator: WeightGenerator,
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> Iterator[WeighingUpdate]:
    """Fit the effects that the generator's weights stand for to what random masks do to the answer."""
    optimizer = torch.optim.Adam([p for p in generator.parameters() if p.requires_grad], config.generator_learning_rate)
    batches = _batches(tokens, config.batch_size, rng)
    alpha, temperature = config.mask_loss_weight, config.temperature
    for update in tqdm(range(1, config.fit_updates + 1), desc="weights", unit=" updates"):
        batch = next(batches)
        masks = [random_masks(r.num_tokens, config.masks, rng) for r in batch]
        prefixes = [draw_prefixes(r.num_tokens, config.prefixes, rng) for r in batch]
        rows = [MaskedRationale(r, k, p) for r, ks, p in zip(batch, masks, prefixes, strict=True) for k in ks]
        with torch.no_grad():
            nll = predictor(rows).view(len(batch), config.masks, config.prefixes)
        _check_finite(nll.mean(), rows, update)
        logits = [
            row[: r.num_tokens] for r, row in zip(batch, generator.logits(*_padded(batch, generator)), strict=True)
        ]
        fits = [
            regression_loss(effects_of(logit, alpha, temperature), keep.to(logit.device), ends, answer_nll)
            for logit, keep, ends, answer_nll in zip(logits, masks, prefixes, nll, strict=True)
        ]
        error, variance = (torch.stack(part).mean() for part in zip(*fits, strict=True))
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        kept = torch.cat(logits).sigmoid().mean().item()
        yield WeighingUpdate("fit", update, nll.mean().item(), kept, 1 - (error / variance).item())


@torch.no_grad()
def _objective(
    predictor: Predictor,
    tokens: Sequence[TokenizedRationale],
    weights: dict[str, NDArray[np.float32]],
    config: WeightingConfig,
    rng: np.random.Generator,
) -> dict[str, float]:
    """L_k of the learnt weights as hard masks, beside that of masks which know nothing."""
    found: dict[str, list[float]] = {"learnt": [], "random": [], "all": []}
    for index in rng.choice(len(tokens), min(NUM_JUDGED, len(tokens)), replace=False):
        rationale = tokens[index]
        learnt = torch.from_numpy(weights[rationale.id] > 0.5)
        masks = (learnt, learnt[torch.from_numpy(rng.permutation(len(learnt)))], torch.ones_like(learnt))
        prefixes = draw_prefixes(rationale.num_tokens, config.prefixes, rng)
        nll = predictor([MaskedRationale(rationale, keep, prefixes) for keep in masks])
        kept = torch.stack([keep.float().mean() for keep in masks]).to(nll.device)
        for name, value in zip(found, keypoint_objective(nll, kept, config.mask_loss_weight).tolist(), strict=True):
            found[name].append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _padded(batch: Sequence[TokenizedRationale], generator: WeightGenerator) -> tuple[Tensor, Tensor]:
    """Rationale ids padded on the right, and where they are real."""
    ids = [torch.tensor(rationale.ids("rationale")) for rationale in batch]
    real = [torch.ones(len(row), dtype=torch.bool) for row in ids]
    device = next(generator.parameters()).device
    return pad_sequence(ids, batch_first=True).to(device), pad_sequence(real, batch_first=True).to(device)


def _batches(
    tokens: Sequence[TokenizedRationale], size: int, rng: np.random.Generator
) -> Iterator[list[TokenizedRationale]]:
    """Endless batches; every rationale once before any comes again."""
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += rng.permutation(len(tokens)).tolist()
        yield [tokens[index] for index in queue[:size]]
        del queue[:size]


def _check_finite(nll: Tensor, rows: Sequence[MaskedRationale], update: int) -> None:
    if not torch.isfinite(nll):
        names = ", ".join(sorted({repr(row.tokens.id) for row in rows}))
        raise WeightingError(
            f"update {update}: the answer's NLL is {nll.item()} on {names}; lower weighting.predictor_learning_rate"
        )


def _check_collapse(weights: dict[str, NDArray[np.float32]]) -> None:
    """Weights that are all alike say nothing about the tokens."""
    together = np.concatenate(list(weights.values()))
    kept, spread = float(together.mean()), float(together.std())
    if spread < 1e-3 and not 0.02 < kept < 0.995:
        raise WeightingError(
            f"the weights collapsed: mean {kept:.3f}, spread {spread:.1e}; "
            "change weighting.mask_loss_weight (lower keeps more), or raise warmup_updates and fit_updates"
        )
