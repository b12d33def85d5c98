"""Do learnt weights find the keypoints of real rationales? Against planted fillers, and against an independent judge.

SmolLM2-135M on GSM8K with the gemini-1.5-flash rationales of KPOD_DATA; three seeds, half an hour on two cores.

    KPOD_DATA=... python benchmarks/keypoints.py [--json] [--seeds 0,1,2] [--estimator score] [--observations 144]

Only rationales of at most 170 characters are used (as many as there are for the seeds' time), with questions of at most
250. Fillers from one list are planted in what is learnt from, from another in the 200 that are judged.
"""

import argparse
import json
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from keypoints_of_run import kind_of
from numpy.typing import NDArray
from planting import IN_TRAINING, UNSEEN, planted
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from kpod.config import DataConfig, PromptConfig, TeacherConfig, WeightingConfig
from kpod.data.datasets import load_rationales
from kpod.lm.encoding import encode
from kpod.lm.models import load_model, merged
from kpod.lm.sequences import collate, example_at, logprobs
from kpod.records import Rationale, Span, TokenizedRationale
from kpod.steps import split_steps
from kpod.teacher.filters import filter_rationales
from kpod.weighting.effects import compute_weights
from kpod.weighting.given import digit_rule_weights
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.learn import learn_weights
from kpod.weighting.masks import draw_prefixes
from kpod.weighting.predictor import warm_up, with_adapters
from kpod.weighting.prefixes import Predictor

STUDENT = "smollm2-135m"
PROMPT = PromptConfig(chat=False)
NUM_TRAINING, NUM_HELD_OUT, NUM_JUDGED, NUM_OCCLUDED = 600, 200, 60, 6
PRECISION: Literal["bf16", "fp32"] = "bf16"
"""Of all models here. On a processor with matrix units for bf16 it takes half the time of fp32, without them longer."""
WEIGHTING = WeightingConfig(
    estimator="score",
    mask_loss_weight=1.0,
    warmup_updates=120,
    observations=240,
    batch_size=6,
    prefixes=4,
    masks=8,
    generator_learning_rate=1e-3,
)
SHARE_MASKED = 0.2
CUES = frozenset({"twice", "half", "total", "each", "more", "left"})
JUDGE_SEED, JUDGE_UPDATES = 1000, 60


@dataclass(frozen=True)
class Sample:
    """Rationales with planted fillers, in tokens."""

    tokens: list[TokenizedRationale]
    texts: dict[str, str]
    fillers: dict[str, list[Span]]


def sources() -> list[Rationale]:
    """Short GSM8K rationales whose answer is right."""
    data = DataConfig(train="gsm8k", root=os.environ["KPOD_DATA"])
    teacher = TeacherConfig("gemini-1.5-flash")
    kept, _ = filter_rationales(load_rationales(data, teacher).rationales, teacher)
    return [r for r in kept if len(r.text) <= 170 and len(r.question.question) <= 250]


def parts() -> tuple[list[Rationale], list[Rationale], list[Rationale]]:
    """The rationales that are judged, those the judge learns from, and those that weights are learnt from."""
    everything = sources()
    random.Random(0).shuffle(everything)
    return everything[:NUM_HELD_OUT], everything[NUM_HELD_OUT:800], everything[800:]


def sample(lm: object, rationales: list[Rationale], fillers: tuple[str, ...], seed: int) -> Sample:
    """Plant fillers and tokenise."""
    with_fillers, spans = planted(rationales, fillers, random.Random(seed))
    encoded = [encode(lm, r, split_steps(r.text), PROMPT, 512) for r in with_fillers]  # type: ignore[arg-type]
    tokens = [t for t in encoded if isinstance(t, TokenizedRationale)]
    return Sample(tokens, {r.id: r.text for r in with_fillers}, spans)


def kinds(data: Sample, tokens: TokenizedRationale) -> list[str | None]:
    """digit, operator, filler, cue, other or None (white space) of every token."""
    text, found = data.texts[tokens.id], []
    for span in tokens.char_spans:
        kind = kind_of(text[slice(*span)], span, data.fillers[tokens.id])
        found.append("cue" if kind == "other" and text[slice(*span)].strip().lower() in CUES else kind)
    return found


def aucs(data: Sample, weights: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    """AUC of each kind's weights against those of planted fillers, and mean weights."""
    by_kind: dict[str | None, list[float]] = defaultdict(list)
    for tokens in data.tokens:
        for kind, weight in zip(kinds(data, tokens), weights[tokens.id].tolist(), strict=True):
            by_kind[kind].append(weight)
    groups = {
        "digits": by_kind["digit"],
        "operators": by_kind["operator"],
        "planted": by_kind["digit"] + by_kind["operator"],
        "cues": by_kind["cue"],
        "others": by_kind["other"],
    }
    fillers = by_kind["filler"]
    found = {
        f"auc_{name}": float(roc_auc_score([1] * len(group) + [0] * len(fillers), group + fillers))
        for name, group in groups.items()
    }
    return found | {f"mean_{kind}": float(np.mean(ws)) for kind, ws in by_kind.items() if kind}


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
        token_ids=tokens.token_ids[: question + prefix] + tokens.token_ids[body:],
        segment_stops=stops,
        step_stops=(prefix,),
        char_spans=tokens.char_spans[:prefix],
        before_answer=None,
    )
    return MaskedRationale(short, row.keep[:prefix], (prefix,))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def epoch_seconds(data: Sample, num: int = 16) -> float:
    """Seconds that a fine-tuning epoch takes per rationale: forward and backward passes of batches of eight."""
    lm = load_model(STUDENT, PRECISION)
    rows = [example_at(t, np.ones(t.num_tokens, np.float32), 0, encoder_decoder=False) for t in data.tokens[:num]]

    def epoch() -> None:
        for start in range(0, num, 8):
            (-logprobs(lm.model, collate(rows[start : start + 8], lm)).mean()).backward()

    return timed(epoch) / num


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--estimator", default=WEIGHTING.estimator)
    parser.add_argument("--observations", type=int, default=WEIGHTING.observations)
    parser.add_argument("--no-judge", action="store_true", help="only the AUCs")
    options = parser.parse_args()
    if "KPOD_DATA" not in os.environ:
        sys.exit("this benchmark needs real rationales: set KPOD_DATA (docs/data.md)")
    config = replace(WEIGHTING, estimator=options.estimator, observations=options.observations)
    held_out, judged_by, rest = parts()
    figures: dict[str, float] = {"num_rationales": sum(map(len, (held_out, judged_by, rest)))}
    by_seed, per_seed, test = {}, [], None
    for seed in map(int, options.seeds.split(",")):
        lm = load_model(STUDENT, PRECISION)
        test = sample(lm, held_out, UNSEEN, 0)
        training = sample(lm, random.Random(seed).sample(rest, NUM_TRAINING), IN_TRAINING, seed)
        start = time.perf_counter()
        learnt = learn_weights(lm, training.tokens, config, seed)
        seconds = time.perf_counter() - start
        apply_seconds = timed(lambda learnt=learnt, test=test: compute_weights(learnt.generator, test.tokens))
        by_seed[seed] = compute_weights(learnt.generator, test.tokens)
        facts = aucs(test, by_seed[seed]) | {
            "seconds_to_learn": seconds,
            "seconds_per_1000": 1000 * apply_seconds / len(test.tokens),
            "explained": learnt.facts.get("explained", float("nan")),
            "warmup_nll": float(np.mean(learnt.warmup_nll[-10:])) if learnt.warmup_nll else float("nan"),
            "kept": float(np.mean([np.mean(w > 0.5) for w in by_seed[seed].values()])),
        }
        print(f"seed {seed}: {json.dumps({k: round(v, 3) for k, v in facts.items()})}", file=sys.stderr, flush=True)
        per_seed.append(facts)
    assert test is not None
    for name in per_seed[0]:
        values = [facts[name] for facts in per_seed]
        figures[name] = float(np.mean(values))
        if name.startswith("auc"):
            figures[f"{name}_min"] = min(values)
    if not options.no_judge:
        judge, figures["judge_nll"] = make_judge(judged_by, replace(config, warmup_updates=JUDGE_UPDATES))
        for name, (mean, error) in rises(judge, test, by_seed).items():
            figures[f"nll_rise_{name}"], figures[f"nll_rise_{name}_se"] = mean, error
        figures |= against_occlusion(judge, test, by_seed)
        figures["one_pass_speedup"] = one_pass_speedup(judge, test)
        epoch = epoch_seconds(test)
        figures["weighting_share_of_epoch"] = figures["seconds_to_learn"] / (epoch * NUM_TRAINING)
        figures["weighting_share_of_gsm8k_epoch"] = figures["seconds_to_learn"] / (epoch * 7473)
    print(
        json.dumps(figures) if options.json else "\n".join(f"{name:32} {value:.4g}" for name, value in figures.items())
    )


if __name__ == "__main__":
    main()
