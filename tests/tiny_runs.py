"""Whole runs on tiny models: their students, their data, and their recipe."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from kpod.experiment import artifacts
from kpod.recipe import Recipe
from kpod.recipe.loading import load_recipe
from tiny import tiny_llama, tiny_rationales, tiny_t5


def write_tiny_data(folder: Path) -> Path:
    """Write a causal student, an encoder-decoder student, and a rationale file that holds one wrong answer."""
    for name, lm in (("llama", tiny_llama()), ("t5", tiny_t5())):
        lm.model.save_pretrained(folder / name)  # type: ignore[operator]
        lm.tokenizer.save_pretrained(folder / name)
    rows = [artifacts.rationale_row(rationale) for rationale in tiny_rationales()]
    rows.append(rows[0] | {"id": "wrong", "question_id": "wrong", "teacher_answer": "25"})
    artifacts.write_jsonl(folder / "rationales.jsonl", rows)
    return folder


BRIEF_WEIGHTING = {
    "mask_loss_weight": 1e-6,  # a random model's effects are tiny
    "warmup_updates": 2,
    "observations": 24,
    "prefixes": 2,
    "batch_size": 2,
    "masks": 2,
    "lora_rank": 2,
    "generator_learning_rate": 3e-2,
}


def end_the_bad_one(recipes: Sequence[Recipe]) -> None:
    """Leave a file for each; the one that is called bad is killed, as is done where memory runs out."""
    for found in recipes:
        if found.name == "bad":
            os.kill(os.getpid(), signal.SIGKILL)
        (Path(found.runs) / found.name).touch()


def take_an_hour(recipes: Sequence[Recipe]) -> None:
    """Leave a file at the beginning and one at the end."""
    (Path(recipes[0].runs) / f"{recipes[0].name} begun").touch()
    time.sleep(3600)
    (Path(recipes[0].runs) / f"{recipes[0].name} ended").touch()


def recipe(data: Path, runs: Path, student: str = "llama", *overrides: str) -> Recipe:
    source = str(data / "rationales.jsonl")
    text = {
        "name": "tiny",
        "student": str(data / student),
        "runs": str(runs),
        "data": {"train": source, "tests": [source], "test_limit": 2, "max_length": 400},
        "weighting": BRIEF_WEIGHTING,
        "schedule": {"num_clusters": 2},
        "training": {"num_train_epochs": 4, "learning_rate": 1e-3, "save_strategy": "no"},
        "evaluation": {"max_new_tokens": 4, "batch_size": 2},
    }
    path = runs / "recipe-given.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return load_recipe(path, overrides)
