"""Rationales to learn weights from in a benchmark, and weights learnt from them, kept in a folder if one is named."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from oracle_words import right_rationales
from planting import IN_TRAINING, UNSEEN, planted

from kpod import (
    DataConfig,
    LanguageModel,
    PromptConfig,
    Rationale,
    TextLayout,
    TokenizedRationale,
    WeightingConfig,
    compute_weights,
    encode_rationales,
    learn_weights,
    load_model,
)
from kpod.records import Span
from kpod.weighting import came_to_rest

STUDENT = "smollm2-135m"
PROMPT = PromptConfig(chat=False)
NUM_TRAINING, NUM_HELD_OUT = 600, 200
PRECISION: Literal["bf16", "fp32"] = "bf16"
"""Of all models here. On a processor with matrix units for bf16 it takes half the time of fp32, without them longer."""
Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Sample:
    """Rationales in tokens, their texts, and where fillers are planted in them."""

    tokens: list[TokenizedRationale]
    texts: dict[str, str]
    fillers: dict[str, list[Span]]


@dataclass(frozen=True)
class Learnt:
    """Weights of the judged rationales after one learning, and what is told of it."""

    weights: Weights
    facts: dict[str, float]
    rounds: list[dict[str, float]]


def parts() -> tuple[list[Rationale], list[Rationale], list[Rationale]]:
    """Short GSM8K rationales: those that are judged, those the judge learns from, and those weights are learnt from."""
    everything = [
        r
        for r in right_rationales("gsm8k", "gemini-1.5-flash")
        if len(r.text) <= 170 and len(r.question.question) <= 250
    ]
    random.Random(0).shuffle(everything)
    return everything[:NUM_HELD_OUT], everything[NUM_HELD_OUT:800], everything[800:]


def sample(layout: TextLayout, rationales: list[Rationale], fillers: tuple[str, ...], seed: int) -> Sample:
    """Plant fillers, if any are given, and tokenise."""
    spans: dict[str, list[Span]] = {}
    if fillers:
        rationales, spans = planted(rationales, fillers, random.Random(seed))
    tokens, _ = encode_rationales(layout, rationales, DataConfig(prompt=PROMPT, max_length=512))
    return Sample(tokens, {r.id: r.text for r in rationales}, spans)


def with_fillers(lm: LanguageModel, seed: int) -> tuple[Sample, Sample]:
    """GSM8K with planted fillers: what is learnt from with a seed, and the 200 that are judged, the same for all."""
    held_out, _, rest = parts()
    training = random.Random(seed).sample(rest, NUM_TRAINING)
    return sample(lm, training, IN_TRAINING, seed), sample(lm, held_out, UNSEEN, 0)


def word_problems(lm: LanguageModel, _: int) -> tuple[Sample, Sample]:
    """All right rationales of ASDiv and SVAMP by gpt-3.5-turbo: they are learnt from, and judged."""
    rationales = right_rationales("asdiv") + right_rationales("svamp")
    found = sample(lm, rationales, (), 0)
    return found, found


def learn(
    name: str,
    model: str,
    seed: int,
    samples: Callable[[LanguageModel, int], tuple[Sample, Sample]],
    config: WeightingConfig,
    keep: Path | None,
) -> tuple[Learnt, Sample]:
    """Learn weights with a model and weigh the judged rationales; what a folder keeps under this name is read instead.

    A folder belongs to one version of the code and one set of options: nothing is compared.
    """
    lm = load_model(model, PRECISION)
    training, judged = samples(lm, seed)
    weights_file, facts_file = ((keep or Path()) / f"{name}-{seed}.{suffix}" for suffix in ("npz", "json"))
    if keep and facts_file.is_file():
        told = json.loads(facts_file.read_text(encoding="utf-8"))
        with np.load(weights_file, allow_pickle=False) as stored:
            return Learnt(dict(stored), told["facts"], told["rounds"]), judged
    start = time.process_time()  # processor time, which other programs on the machine change little
    learnt = learn_weights(lm, training.tokens, config, seed)
    seconds, start = time.process_time() - start, time.process_time()
    weights = compute_weights(learnt.generator, judged.tokens)
    facts = {
        "seconds_to_learn": seconds,
        "seconds_per_1000": 1000 * (time.process_time() - start) / len(judged.tokens),
        "explained": learnt.facts.get("explained", float("nan")),
        "network_epochs": learnt.facts.get("epochs", float("nan")),
        "observations": float(learnt.rounds[-1].observed) if learnt.rounds else float("nan"),
        "at_rest": float(came_to_rest(learnt.rounds)),
        "warmup_nll": float(np.mean(learnt.warmup_nll[-10:])) if learnt.warmup_nll else float("nan"),
    } | {f"objective_{name}": value for name, value in learnt.objective.items()}
    rounds = [{k: v for k, v in asdict(one).items() if v is not None} for one in learnt.rounds]
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        np.savez(weights_file, **weights)
        facts_file.write_text(json.dumps({"facts": facts, "rounds": rounds}), encoding="utf-8")
    return Learnt(weights, facts, rounds), judged
