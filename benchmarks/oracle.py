"""Which words of a rationale decide whether a model still reaches the answer: the truth that weights are held against.

    KPOD_DATA=... python benchmarks/oracle.py --model FOLDER --make
    KPOD_DATA=... python benchmarks/oracle.py [--json]

`--make` adds to oracle.jsonl what is missing there; it may be ended at any time and goes on later. FOLDER holds a chat
model in Hugging Face's layout. Of each word the file says how often the model reaches the gold answer when it goes on
behind the word, and behind another word in its place.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from oracle_making import make
from oracle_words import Replaced

from kpod.errors import DataError, KpodError
from kpod.lm.models import load_model

ORACLE = Path(__file__).with_name("oracle.jsonl")
PER_FILE, WORDS, SAMPLES = 20, 10, 6
"""Rationales of each data set, words of each, and continuations of each kind per word."""


def read_oracle(path: Path = ORACLE) -> list[Replaced]:
    """Every word of the oracle.

    Raises:
        DataError: If a line is not one of its rows.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(Replaced(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: {error}; make the file anew with --make") from error
    return rows


def write_oracle(path: Path, rows: list[Replaced]) -> None:
    """All rows at once, so that the file never holds half a rationale."""
    staging = path.with_suffix(".partial")
    staging.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    staging.replace(path)


def remake(model: str, path: Path, per_file: int, number: int, samples: int) -> None:
    """Make what is missing, rationale by rationale."""
    rows = read_oracle(path) if path.exists() else []
    lm, start = load_model(model, "bf16"), time.perf_counter()
    for new in make(lm, rows, per_file, number, samples):
        rows += new
        write_oracle(path, rows)
        with_words, without = (sum(row[0] for row in pairs) for pairs in _pairs(new))
        print(
            f"{time.perf_counter() - start:.0f} s: {new[0].id}, {len(new)} words, reached {with_words} and {without}",
            file=sys.stderr,
            flush=True,
        )


def _pairs(rows: list[Replaced]) -> tuple[list[tuple[int]], list[tuple[int]]]:
    return [(row.reached,) for row in rows], [(row.reached_replaced,) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", help="the chat model that goes on")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--rationales", type=int, default=PER_FILE, help="of each data set")
    parser.add_argument("--words", type=int, default=WORDS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parser.parse_args()
    if options.make and not options.model:
        parser.error("--make needs --model, a folder with a chat model")
    torch.set_num_threads(1)
    remake(options.model, ORACLE, options.rationales, options.words, options.samples)


if __name__ == "__main__":
    main()
