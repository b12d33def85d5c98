"""Judges of learnt weights that need a predictor: masks by weight, one token masked at a time, and the costs."""

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from learning import PRECISION, STUDENT, Sample, sample
from numpy.typing import NDArray
from oracle_words import right_rationales
from planting import IN_TRAINING
from scipy.stats import spearmanr

from kpod import (
    MaskedRationale,
    Predictor,
    Rationale,
    TokenizedRationale,
    WeightGenerator,
    WeightingConfig,
    digit_rule_weights,
    load_model,
)
from kpod.lm.models import merged
from kpod.lm.sequences import collate, example_at, logprobs
from kpod.weighting.effects import fit_generator, fit_linear
from kpod.weighting.masks import draw_prefixes
from kpod.weighting.objective import held_out_objectives
from kpod.weighting.predictor import Observation, warm_up, with_adapters
from kpod.weighting.rounds import NUM_HELD_OUT, ROUNDS, observe_in_rounds

NUM_JUDGED, NUM_OCCLUDED = 60, 6
SHARE_MASKED = 0.2
JUDGE_SEED = 1000
NUM_TIMED = 48
"""Rationales that are timed; at least four times `NUM_HELD_OUT`."""


def make_judge(rationales: list[Rationale], config: WeightingConfig) -> tuple[Predictor, float]:
    """A fresh predictor under random masks that never saw the weigher; and its NLL at the end of the warm-up."""
    torch.manual_seed(JUDGE_SEED)
    lm = load_model(STUDENT, PRECISION)
    data = sample(lm, rationales, IN_TRAINING, JUDGE_SEED)
    predictor = with_adapters(lm, config)
    nll = list(warm_up(predictor, data.tokens, config, np.random.default_rng(JUDGE_SEED)))
    return predictor.frozen(merged), float(np.mean(nll[-10:]))


def masked(order: NDArray[np.float32], lowest: bool, rng: np.random.Generator) -> torch.Tensor:
    """Everything kept but the fifth of the tokens that an order puts first or last; ties by chance."""
    num = max(1, round(SHARE_MASKED * len(order)))
    ranks = np.lexsort((rng.random(len(order)), order if lowest else -order))
    keep = np.ones(len(order), dtype=bool)
    keep[ranks[:num]] = False
    return torch.from_numpy(keep)


@torch.no_grad()
def answer_nll(judge: Predictor, tokens: TokenizedRationale, masks: list[torch.Tensor]) -> NDArray[np.float64]:
    """The judge's NLL of the answer after the whole rationale, under each mask."""
    rows = [MaskedRationale(tokens, keep, (tokens.num_tokens,)) for keep in masks]
    return judge(rows)[:, 0].double().cpu().numpy()


def rises(
    judge: Predictor, data: Sample, by_seed: dict[int, dict[str, NDArray[np.float32]]]
) -> dict[str, tuple[float, float]]:
    """Rise of the answer's NLL when a fifth of the tokens is masked: mean over rationales and its standard error."""
    rng = np.random.default_rng(0)
    rule = digit_rule_weights(data.tokens, data.texts)
    found: dict[str, list[float]] = defaultdict(list)
    for tokens in data.tokens[:NUM_JUDGED]:
        names, masks = ["whole"], [torch.ones(tokens.num_tokens, dtype=torch.bool)]
        for weights in by_seed.values():
            names += ["top", "bottom"]
            masks += [masked(weights[tokens.id], lowest, rng) for lowest in (False, True)]
        chance = rng.random(tokens.num_tokens).astype(np.float32)
        names += ["random", "random", "digit_rule"]
        masks += [masked(chance, lowest, rng) for lowest in (False, True)] + [masked(rule[tokens.id], False, rng)]
        nll = answer_nll(judge, tokens, masks)
        for name in set(names) - {"whole"}:
            rows = [value for value, label in zip(nll, names, strict=True) if label == name]
            found[name].append(float(np.mean(rows) - nll[0]))
    return {name: (float(np.mean(v)), float(np.std(v, ddof=1) / np.sqrt(len(v)))) for name, v in found.items()}


def against_occlusion(
    judge: Predictor, data: Sample, by_seed: dict[int, dict[str, NDArray[np.float32]]]
) -> dict[str, float]:
    """The slow truth on a few rationales: one token masked at a time. Rank correlations, and the rise by its order."""
    rng = np.random.default_rng(1)
    rule = digit_rule_weights(data.tokens, data.texts)
    learnt, by_rule, occluded = [], [], []
    for tokens in data.tokens[:NUM_OCCLUDED]:
        whole = torch.ones(tokens.num_tokens, dtype=torch.bool)
        singles = list(~torch.eye(tokens.num_tokens, dtype=torch.bool))
        nll = answer_nll(judge, tokens, [whole, *singles])
        effect = (nll[1:] - nll[0]).astype(np.float32)
        learnt += [spearmanr(effect, weights[tokens.id]).statistic for weights in by_seed.values()]
        by_rule.append(spearmanr(effect, rule[tokens.id]).statistic)
        occluded.append(answer_nll(judge, tokens, [masked(effect, False, rng)])[0] - nll[0])
    return {
        "occlusion_spearman": float(np.mean(learnt)),
        "occlusion_spearman_digit_rule": float(np.mean(by_rule)),
        "nll_rise_occlusion": float(np.mean(occluded)),
    }


@torch.no_grad()
def one_pass_speedup(judge: Predictor, data: Sample, num_prefixes: int = 8, num: int = 6) -> float:
    """Seconds of K passes, each of a rationale cut at its prefix, over seconds of one; the median over rationales."""
    rng, ratios = np.random.default_rng(2), []
    for tokens in data.tokens[: num + 1]:
        prefixes = draw_prefixes(tokens, num_prefixes, rng)
        row = MaskedRationale(tokens, torch.from_numpy(rng.random(tokens.num_tokens) < 0.7), prefixes)
        together = timed(lambda row=row: judge([row]))
        short = [cut(row, prefix) for prefix in prefixes]
        apart = timed(lambda short=short: [judge([one]) for one in short])
        ratios.append(apart / together)
    return float(np.median(ratios[1:]))


def cut(row: MaskedRationale, prefix: int) -> MaskedRationale:
    """The row without what follows a prefix."""
    tokens = row.tokens
    question, body, *others = tokens.segment_stops
    left_out = body - question - prefix
    stops = (question, question + prefix, *(stop - left_out for stop in others))
    short = replace(
        tokens,
        token_ids=np.delete(tokens.token_ids, slice(question + prefix, body)),
        segment_stops=stops,
        step_stops=(prefix,),
        char_spans=tokens.char_spans[:prefix],
        before_answer=None,
    )
    return MaskedRationale(short, row.keep[:prefix], (prefix,))


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time, which other programs on the machine change little."""
    start = time.process_time()
    work()
    return time.process_time() - start


def epoch_seconds(data: Sample, num: int = 32) -> float:
    """Seconds that a fine-tuning epoch takes per rationale: forward and backward passes of batches of eight."""
    lm = load_model(STUDENT, PRECISION)
    rows = [example_at(t, np.ones(t.num_tokens, np.float32), 0, encoder_decoder=False) for t in data.tokens[:num]]

    def epoch() -> None:
        for start in range(0, len(rows), 8):
            (-logprobs(lm.model, collate(rows[start : start + 8], lm)).mean()).backward()

    return timed(epoch) / len(rows)


def weighting_share_of_1000(config: WeightingConfig) -> dict[str, float]:
    """Learning's time over that of one fine-tuning epoch on 1000 GSM8K rationales of any length, as a recipe has them.

    Parts of the work are timed and multiplied: all updates of the warm-up, and rounds until the budget is used up. It
    takes less where learning comes to rest before. The epoch is one of full fine-tuning.
    """
    rationales = random.Random(0).sample(right_rationales("gsm8k", "gemini-1.5-flash"), NUM_TIMED)
    lm = load_model(STUDENT, PRECISION)
    data = sample(lm, rationales, (), 0)
    predictor, rng = with_adapters(lm, config), np.random.default_rng(0)
    generator = WeightGenerator(lm.model.get_input_embeddings().weight.detach().clone(), 1.0, held=True)  # type: ignore[operator]
    brief = replace(config, warmup_updates=NUM_TIMED // config.batch_size)
    update = timed(lambda: list(warm_up(predictor, data.tokens, brief, rng))) / brief.warmup_updates
    frozen, seen = predictor.frozen(merged), list[Observation]()
    observed = replace(config, observations=ROUNDS)  # one observation a round
    rounds = timed(lambda: list(observe_in_rounds(generator, frozen, data.tokens, observed, rng, seen)))
    looks = timed(
        lambda: [held_out_objectives(generator, frozen, data.tokens[:NUM_HELD_OUT], config) for _ in range(2)]
    )
    many = seen * (config.observations // len(seen))
    fits = timed(lambda: [fit_linear(generator, many) for _ in range(2)]) / 2 * ROUNDS
    fits += timed(lambda: fit_generator(generator, many, config, rng))
    looks = looks / 2 * len(seen)
    observation = max(0.0, rounds - looks) / len(seen)
    seconds = config.warmup_updates * update + config.observations * observation + looks * ROUNDS / len(seen) + fits
    epoch = 1000 * epoch_seconds(data)
    return {
        "weighting_share_of_1000_gsm8k": seconds / epoch,
        "seconds_of_1000_gsm8k": seconds,
        "seconds_of_epoch_of_1000_gsm8k": epoch,
    }
