"""Every estimator of the token weights side by side: what becomes of NLL, kept rate, spread and AUC as it learns.

SmolLM2-135M on GSM8K with the gemini-1.5-flash rationales of KPOD_DATA, fillers planted as in keypoints.py. All
estimators but `gumbel`, which trains its own, meet the same predictor, warmed up under random masks and frozen.

    KPOD_DATA=... python benchmarks/estimators.py [--seed 0] [--only gradient,score] [--updates 40]
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from keypoints import NUM_TRAINING, PRECISION, STUDENT, WEIGHTING, Sample, aucs, parts, sample
from planting import IN_TRAINING, UNSEEN

from kpod.errors import WeightingError
from kpod.lm.models import load_model, merged
from kpod.weighting.descent import descend
from kpod.weighting.effects import compute_weights, fit_generator
from kpod.weighting.estimators import ESTIMATORS
from kpod.weighting.module import WeightGenerator
from kpod.weighting.predictor import observe, warm_up, with_adapters
from kpod.weighting.prefixes import Predictor

LOOK_EVERY = 10
OBSERVED = (6, 12, 24, 48, 96)


class Desk:
    """What all estimators share: the rationales, a frozen predictor, and how a row of the table looks."""

    def __init__(self, seed: int, warmup_updates: int) -> None:
        self.seed = seed
        self.config = replace(WEIGHTING, warmup_updates=warmup_updates)
        held_out, _, rest = parts()
        lm = load_model(STUDENT, PRECISION)
        self.test = sample(lm, held_out, UNSEEN, 0)
        self.training = sample(lm, random.Random(seed).sample(rest, NUM_TRAINING), IN_TRAINING, seed)
        self.table = lm.model.get_input_embeddings().weight.detach().clone()  # type: ignore[operator]

    def generator(self) -> WeightGenerator:
        torch.manual_seed(self.seed)
        return WeightGenerator(self.table, self.config.mask_loss_weight)

    def predictor(self) -> Predictor:
        torch.manual_seed(self.seed)
        return with_adapters(load_model(STUDENT, PRECISION), self.config)

    def warmed_up(self) -> Predictor:
        predictor = self.predictor()
        for _ in warm_up(predictor, self.training.tokens, self.config, np.random.default_rng(self.seed)):
            pass
        return predictor.frozen(merged)


def figures(test: Sample, generator: WeightGenerator) -> str:
    """AUCs on the held-out rationales, and the mean and spread of their weights."""
    weights = compute_weights(generator, test.tokens)
    found = aucs(test, weights)
    together = np.concatenate(list(weights.values()))
    names = ("auc_digits", "auc_operators", "auc_planted")
    return " | ".join(f"{found[name]:.3f}" for name in names) + f" | {together.mean():.2f} | {together.std():.3f}"


def fitted(desk: Desk, predictor: Predictor, name: str) -> Iterator[str]:
    """`gradient` or `regression` after a rising number of observations."""
    config = replace(desk.config, estimator=name, observations=OBSERVED[-1])  # type: ignore[arg-type]
    start = time.perf_counter()
    seen = observe(predictor, desk.training.tokens, config, np.random.default_rng(desk.seed))
    seconds = (time.perf_counter() - start) / len(seen)
    for num in OBSERVED:
        generator = desk.generator()
        fit_generator(generator, seen[:num], config, np.random.default_rng(desk.seed))
        nll = float(np.mean([one.answer_nll.mean() for one in seen[:num]]))
        yield f"{num} | {seconds * num:.0f} | {nll:.2f} | {figures(desk.test, generator)}"


def descended(desk: Desk, predictor: Predictor, name: str, updates: int) -> Iterator[str]:
    """An estimator that descends L_k, after every few updates; the last row is the state that is kept."""
    size = desk.config.batch_size
    config = replace(desk.config, estimator=name, observations=updates * size)  # type: ignore[arg-type]
    generator, start, nll = desk.generator(), time.perf_counter(), []
    looking = 0.0
    for now in descend(generator, predictor, desk.training.tokens, config, np.random.default_rng(desk.seed)):
        nll.append(now.nll)
        if now.update % LOOK_EVERY == 0:
            look = time.perf_counter()
            seconds = look - start - looking
            row = figures(desk.test, generator)
            looking += time.perf_counter() - look
            yield f"{now.update * size} | {seconds:.0f} | {np.mean(nll[-LOOK_EVERY:]):.2f} | {row}"
    yield f"kept: {now.best_update * size} | | | {figures(desk.test, generator)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(["gradient", "regression", *ESTIMATORS]))
    parser.add_argument("--updates", type=int, default=40, help="of the estimators that descend L_k")
    parser.add_argument("--warmup", type=int, default=60, help="updates of the predictor")
    options = parser.parse_args()
    if "KPOD_DATA" not in os.environ:
        sys.exit("this benchmark needs real rationales: set KPOD_DATA (docs/data.md)")
    desk = Desk(options.seed, options.warmup)
    frozen = None
    print("estimator | rationales seen | seconds | NLL under its masks | digits | operators | both | kept | spread")
    for name in options.only.split(","):
        if name != "gumbel" and frozen is None:
            frozen = desk.warmed_up()
        predictor = frozen if frozen is not None and name != "gumbel" else desk.predictor()
        rows = (
            descended(desk, predictor, name, options.updates) if name in ESTIMATORS else fitted(desk, predictor, name)
        )
        try:
            for row in rows:
                print(f"{name} | {row}", flush=True)
        except WeightingError as error:
            print(f"{name} | failed: {error}", flush=True)


if __name__ == "__main__":
    main()
