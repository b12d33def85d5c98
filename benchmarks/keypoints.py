"""Do learnt weights find the keypoints of real rationales, stand apart, and agree from seed to seed?

    KPOD_DATA=... python benchmarks/keypoints.py [--json] [--predictor FOLDER] [--seeds 0,1,2] [--keep FOLDER]

Three parts. (1) SmolLM2-135M on GSM8K with the gemini-1.5-flash rationales of KPOD_DATA: fillers from one list are
planted in what is learnt from, from another in the 200 rationales that are judged; only rationales of at most 170
characters, with questions of at most 250. (2) ASDiv and SVAMP with gpt-3.5-turbo's rationales: are the words that name
operations told from other words, and do the weights rank words as a causal oracle does? With SmolLM2 as predictor, and
with the model that --predictor names; RESULTS.md has Qwen2.5-Coder-0.5B-Instruct. (3) How often the prefix before the
answer already holds it, in all files of KPOD_DATA.

Three seeds take about an hour and a half on two cores. --keep FOLDER keeps the weights of each learning that is done,
so that a killed benchmark goes on; --only names the parts, --learn-only ends after learning them.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from keypoint_judges import (
    against_occlusion,
    epoch_seconds,
    make_judge,
    one_pass_speedup,
    rises,
    weighting_share_of_1000,
)
from keypoints_of_run import kind_of
from learning import (
    NUM_TRAINING,
    PRECISION,
    STUDENT,
    Learnt,
    Sample,
    Weights,
    learn,
    parts,
    with_fillers,
    word_problems,
)
from oracle import oracle_spearman
from prefixes import files_with_rationales, prefix_holds_answer_share
from scipy.stats import spearmanr
from word_judges import auc, first_step_words_rise, operation_words_auc, weights_by_class

from kpod import Predictor, TokenizedRationale, WeightingConfig, load_model, spans_of

PARTS = ("fillers", "words", "predictor", "prefixes")
WEIGHTING = WeightingConfig()
BY_PREDICTOR = replace(WEIGHTING, warmup_updates=40, observations=240, predictor_learning_rate=3e-4)
"""A model that can calculate needs fewer updates to learn what a mask is; each observation takes four times as long.
Which learning rate is better depends on the seed (RESULTS.md)."""
JUDGE_UPDATES, JUDGE_BATCH = 60, 6
CUES = frozenset({"twice", "half", "total", "each", "more", "left"})


def kinds(data: Sample, tokens: TokenizedRationale) -> list[str | None]:
    """digit, operator, filler, cue, other or None (white space) of every token."""
    text, found = data.texts[tokens.id], []
    for span in tokens.char_spans:
        kind = kind_of(text[slice(*span)], span, data.fillers.get(tokens.id, []))
        found.append("cue" if kind == "other" and text[slice(*span)].strip().lower() in CUES else kind)
    return found


def aucs(data: Sample, weights: Weights) -> dict[str, float]:
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
    found = {f"auc_{name}": auc(group, fillers) for name, group in groups.items()}
    found |= {f"mean_{kind}": float(np.mean(ws)) for kind, ws in by_kind.items() if kind}
    return found | {"contrast": float(np.mean(groups["planted"]) - np.mean(fillers))}


def agreement(by_seed: Sequence[Weights]) -> dict[str, float]:
    """How far the weights of several seeds agree on the same rationales: rank correlation of pairs, and their means."""
    together = [np.concatenate([weights[name] for name in sorted(weights)]) for weights in by_seed]
    pairs = [float(spearmanr(one, other).statistic) for one, other in combinations(together, 2)]
    means = [float(weights.mean()) for weights in together]
    return {
        "seed_rank_correlation": min(pairs, default=float("nan")),
        "seed_mean_spread": max(means) - min(means),
        "weights_spread_min": min(float(weights.std()) for weights in together),
        "weights_spread_max": max(float(weights.std()) for weights in together),
    }


def lightest_word(data: Sample, weights: Weights, least: int = 20) -> float:
    """The least mean weight of a token's text that occurs at least so many times: is anything not taught at all?"""
    by_text: dict[str, list[float]] = defaultdict(list)
    for tokens in data.tokens:
        for span, weight in zip(tokens.char_spans, weights[tokens.id].tolist(), strict=True):
            by_text[data.texts[tokens.id][slice(*span)].strip().lower()].append(weight)
    return min(float(np.mean(ws)) for ws in by_text.values() if len(ws) >= least)


def told(name: str, seed: int, facts: dict[str, float], rounds: Iterable[dict[str, float]]) -> None:
    """What one seed found, and the two curves of its rounds, to the terminal."""
    print(f"{name}, seed {seed}: {json.dumps({k: round(v, 3) for k, v in facts.items()})}", file=sys.stderr)
    for one in rounds:
        print("   ", json.dumps({k: round(v, 3) for k, v in one.items()}), file=sys.stderr, flush=True)


def means_and_extremes(per_seed: Sequence[dict[str, float]]) -> dict[str, float]:
    """Every figure's mean over the seeds; of AUCs and the contrast also the least."""
    figures = {}
    for name in per_seed[0]:
        values = [facts[name] for facts in per_seed]
        figures[name] = float(np.mean(values))
        if name.startswith(("auc", "contrast", "lightest")):
            figures[f"{name}_min"] = min(values)
    return figures


def on_fillers(seeds: Sequence[int], keep: Path | None, learn_only: bool) -> dict[str, float]:
    """Part 1: planted fillers, seeds against each other, an independent judge, and what learning takes."""
    found, test, per_seed = {}, None, []
    for seed in seeds:
        learnt, test = learn("fillers", STUDENT, seed, with_fillers, WEIGHTING, keep)
        found[seed] = learnt.weights
        facts = aucs(test, learnt.weights) | learnt.facts
        facts |= {"lightest_word": lightest_word(test, learnt.weights)}
        facts["kept"] = float(np.mean(np.concatenate(list(learnt.weights.values())) > 0.5))
        told("fillers", seed, facts, learnt.rounds)
        per_seed.append(facts)
    if learn_only or test is None:
        return {}
    held_out, judged_by, rest = parts()
    figures: dict[str, float] = {"num_rationales": sum(map(len, (held_out, judged_by, rest)))}
    figures |= means_and_extremes(per_seed) | agreement(list(found.values()))
    judge_config = replace(WEIGHTING, warmup_updates=JUDGE_UPDATES, batch_size=JUDGE_BATCH)
    judge, figures["judge_nll"] = make_judge(judged_by, judge_config)
    for name, (mean, error) in rises(judge, test, found).items():
        figures[f"nll_rise_{name}"], figures[f"nll_rise_{name}_se"] = mean, error
    figures |= against_occlusion(judge, test, found)
    figures["one_pass_speedup"] = one_pass_speedup(judge, test)
    epoch = epoch_seconds(test)
    figures["weighting_share_of_epoch"] = figures["seconds_to_learn"] / (epoch * NUM_TRAINING)
    figures["weighting_share_of_gsm8k_epoch"] = figures["seconds_to_learn"] / (epoch * 7473)
    return figures | weighting_share_of_1000(WEIGHTING)


def on_words(name: str, model: str, seeds: Sequence[int], keep: Path | None, learn_only: bool) -> dict[str, float]:
    """Part 2: operation words against other words, classes that the digit rule cannot know, and the causal oracle."""
    config = WEIGHTING if name == "words" else BY_PREDICTOR
    by_seed, per_seed, data = [], [], None
    for seed in seeds:
        learnt, data = learn(name, model, seed, word_problems, config, keep)
        facts = judged_words(data, learnt)
        told(name, seed, facts | learnt.facts, learnt.rounds)
        by_seed.append(learnt.weights)
        per_seed.append(facts | {"seconds_to_learn": learnt.facts["seconds_to_learn"]})
    if learn_only or data is None:
        return {}
    figures = means_and_extremes(per_seed)
    least = [facts[key] for facts in per_seed for key in facts if key.endswith("_operation_words")]
    figures |= {"operation_words_auc_min": min(least)} | agreement(by_seed)
    spans = {t.id: spans_of(t, np.mean([w[t.id] for w in by_seed], axis=0)) for t in data.tokens}
    against = oracle_spearman(spans)
    return figures | {f"oracle_{key}": value for key, value in against.items()}


def judged_words(data: Sample, learnt: Learnt) -> dict[str, float]:
    """AUCs of operation words on each data set, each class's mean weight, and the oracle's rank correlation."""
    facts: dict[str, float] = {"lightest_word": lightest_word(data, learnt.weights)}
    for name in ("asdiv", "svamp"):
        tokens = [t for t in data.tokens if t.id.startswith(name)]
        found = operation_words_auc(tokens, data.texts, learnt.weights)
        facts |= {key.replace("auc_", f"auc_{name}_").replace("num_", f"num_{name}_"): v for key, v in found.items()}
    facts |= weights_by_class(data.tokens, data.texts, learnt.weights)
    of_seed = oracle_spearman({t.id: spans_of(t, learnt.weights[t.id]) for t in data.tokens})
    return facts | {"oracle_within": of_seed["within"], "oracle_alike_within": of_seed["alike_within"]}


def first_steps() -> dict[str, float]:
    """How much hiding the operation words of ASDiv's first steps costs the untrained student."""
    lm = load_model(STUDENT, PRECISION)
    data, _ = word_problems(lm, 0)
    asdiv = [t for t in data.tokens if t.id.startswith("asdiv")]
    return first_step_words_rise(Predictor(lm).requires_grad_(requires_grad=False).eval(), asdiv, data.texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--predictor", help="a model that can calculate: a folder or a Hub name")
    parser.add_argument("--keep", type=Path, help="keep what was learnt in this folder, and go on from it")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run: {', '.join(PARTS)}")
    parser.add_argument("--learn-only", action="store_true", help="learn weights and print what they are, then end")
    options = parser.parse_args()
    if "KPOD_DATA" not in os.environ:
        sys.exit("this benchmark needs real rationales: set KPOD_DATA (docs/data.md)")
    seeds, only = [int(seed) for seed in options.seeds.split(",")], options.only.split(",")
    figures: dict[str, float] = {}
    if "fillers" in only:
        figures |= on_fillers(seeds, options.keep, options.learn_only)
    if "words" in only:
        found = on_words("words", STUDENT, seeds, options.keep, options.learn_only)
        figures |= {f"student_{name}": value for name, value in found.items()}
        figures |= {} if options.learn_only else first_steps()
    if "predictor" in only and options.predictor:
        found = on_words("predictor", options.predictor, seeds, options.keep, options.learn_only)
        figures |= {f"predictor_{name}": value for name, value in found.items()}
    if "prefixes" in only and not options.learn_only:
        shares = prefix_holds_answer_share(files_with_rationales(Path(os.environ["KPOD_DATA"])))
        figures["prefix_holds_answer_share"] = max(shares.values())
    figures |= headline(figures)
    print(
        json.dumps(figures) if options.json else "\n".join(f"{name:48} {value:.4g}" for name, value in figures.items())
    )


def headline(figures: dict[str, float]) -> dict[str, float]:
    """The figures of part 2 under their short names: of the named predictor, or of the student where none is named."""
    of = "predictor_" if "predictor_operation_words_auc_min" in figures else "student_"
    names = {
        "operation_words_auc_min": "operation_words_auc_min",
        "oracle_spearman": "oracle_within",
        "oracle_spearman_digit_rule": "oracle_within_digit_rule",
    }
    return {short: figures[of + name] for short, name in names.items() if of + name in figures}


if __name__ == "__main__":
    main()
