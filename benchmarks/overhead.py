"""What KPOD costs beside training: weighting, difficulties, clusters and schedule over one epoch of the student.

SmolLM2-135M on 1000 rationales of GSM8K by gemini-1.5-flash (KPOD_DATA), with the `weighting` and `training` of
recipes/gsm8k-smollm2.yaml. Weighting takes a fixed number of updates and is run whole; difficulties and the epoch are
timed on fewer rationales and scaled, which is said in the figures.

    KPOD_DATA=... python benchmarks/overhead.py [--json] [--timed 64]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trainers
import training
from transformers import TrainingArguments

from kpod import (
    KeypointTrainer,
    Schedule,
    ScheduleConfig,
    StageDataset,
    assess_difficulties,
    cluster_questions,
    compute_weights,
    learn_weights,
    load_model,
    load_recipe,
    make_schedule,
    uniform_weights,
)
from kpod.lm.models import with_lora

NUM = 1000
RECIPE = Path(__file__).parent.parent / "recipes" / "gsm8k-smollm2.yaml"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--timed", type=int, default=64)
    options = parser.parse_args()
    if "KPOD_DATA" not in os.environ:
        sys.exit("this benchmark needs real rationales: set KPOD_DATA (docs/data.md)")
    recipe = load_recipe(RECIPE)
    student = load_model(recipe.student)
    tokens = training.rationales(student, NUM)
    some = tokens[: options.timed]
    scale = NUM / len(some)

    learnt = []
    lm = load_model(recipe.student, recipe.weighting.precision or recipe.precision)
    found = {"weighting_s": seconds(lambda: learnt.append(learn_weights(lm, tokens, recipe.weighting, 0)))}
    found["applying_s"] = scale * seconds(lambda: compute_weights(learnt[0].generator, some))
    found["difficulties_s"] = scale * seconds(lambda: assess_difficulties(student, some, uniform_weights(some)))
    questions = [str(student.tokenizer.decode(list(t.ids("question")))) for t in tokens]
    found["clusters_s"] = seconds(lambda: cluster_questions(student, questions, ScheduleConfig(), 0))
    steps = [np.ones(t.num_steps) for t in tokens]
    ids = [t.id for t in tokens]
    config = ScheduleConfig(ramp_stages=10)
    found["schedule_s"] = seconds(lambda: make_schedule(ids, steps, np.arange(NUM) % 5, config, 20))

    schedule = Schedule(tuple(t.id for t in some), np.zeros((1, len(some)), dtype=np.int8), first_stage=0)
    dataset = StageDataset(some, uniform_weights(some), schedule, encoder_decoder=False)
    for name, adapters in (("epoch_s", None), ("lora_epoch_s", recipe.training.lora)):
        fresh = load_model(recipe.student)
        model = with_lora(fresh.model, adapters) if adapters else fresh.model  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(**trainers.arguments(folder, "fp32"), remove_unused_columns=False)
            trainer = KeypointTrainer(model, arguments, train_dataset=dataset, processing_class=fresh.tokenizer)  # type: ignore[arg-type]
            found[name] = scale * seconds(trainer.train)
    overhead = sum(found[f"{part}_s"] for part in ("weighting", "applying", "difficulties", "clusters", "schedule"))
    found |= {
        "overhead_vs_epoch": overhead / found["epoch_s"],
        "overhead_vs_lora_epoch": overhead / found["lora_epoch_s"],
    }
    found["timed_rationales"] = float(len(some))
    print(json.dumps(found) if options.json else "\n".join(f"{name:24} {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
