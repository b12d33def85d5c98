"""Which words of a rationale decide whether a model still reaches the answer: the truth that weights are held against.

    KPOD_DATA=... python benchmarks/oracle.py --model FOLDER --make
    KPOD_DATA=... python benchmarks/oracle.py [--json]

`--make` adds to oracle.jsonl what is missing there; it may be ended at any time and goes on later. FOLDER holds a chat
model in Hugging Face's layout. Of each word the file says how often the model reaches the gold answer when it goes on
behind the word, and behind another word in its place.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from oracle_making import make
from oracle_words import Replaced, by_id
from scipy.stats import rankdata

from kpod import (
    DataConfig,
    DataError,
    KpodError,
    PromptConfig,
    TextLayout,
    TokenizedRationale,
    digit_rule_weights,
    encode_rationales,
    load_layout,
    load_model,
    spans_of,
)
from kpod.records import WeightSpan
from kpod.weighting import KEYPOINTS, REST

ORACLE = Path(__file__).with_name("oracle.jsonl")
PER_FILE, WORDS, SAMPLES = 20, 10, 6
"""Rationales of each data set, words of each, and continuations of each kind per word."""
RESAMPLES, FEWEST_RANKED = 2000, 3
STUDENT, PROMPT, LONGEST = "smollm2-135m", PromptConfig(chat=False), 512
Combine = Literal["mean", "max"]
Ranked = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Of one rationale's words the importance, the judged weight and the digit rule's weight."""


def read_oracle(path: Path = ORACLE) -> list[Replaced]:
    """Every word of the oracle.

    Raises:
        DataError: If there is no oracle, or a line is not one of its rows.
    """
    if not path.exists():
        raise DataError(f"{path} is not there; make it with --make --model FOLDER")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(Replaced(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: {error}; delete the file and run --make") from error
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
        with_words, without = sum(row.reached for row in new), sum(row.reached_replaced for row in new)
        print(
            f"{time.perf_counter() - start:.0f} s: {new[0].id}, {len(new)} words, reached {with_words} and {without}",
            file=sys.stderr,
            flush=True,
        )


def oracle_tokens(layout: TextLayout, rows: Sequence[Replaced]) -> tuple[list[TokenizedRationale], dict[str, str]]:
    """The oracle's rationales in a student's tokens, and their texts by id.

    Raises:
        DataError: If KPOD_DATA is not set, lacks a rationale, or one does not go into tokens.
    """
    tokens, texts = [], {}
    for id_, rationale in by_id({row.id: row.file for row in rows}).items():
        encoded, dropped = encode_rationales(layout, [rationale], DataConfig(prompt=PROMPT, max_length=LONGEST))
        if dropped:
            raise DataError(f"oracle, rationale {id_!r}: {dropped[0].reason}")
        tokens += encoded
        texts[id_] = rationale.text
    return tokens, texts


def oracle_spearman(
    weights: Mapping[str, Sequence[WeightSpan]],
    rows: Sequence[Replaced] | None = None,
    combine: Combine = "mean",
    seed: int = 0,
) -> dict[str, float]:
    """How well weights rank words as the oracle does, beside the digit rule on the same tokens.

    A word weighs the mean (or the largest) of its characters' weights. Spearman's rank correlation is taken within each
    rationale and averaged, and over all words together. A rationale whose words are all of one importance, or of which
    fewer than three words are left, says nothing and is left out of the mean. Weights that are all the same rank
    nothing: their correlation is 0.

    Args:
        weights: Rationale id -> the weights of its characters, as `kpod.weighting.given.spans_of` gives them. All
            rationales of a data set of the oracle, or none.
        rows: The oracle; None: that of the repository.
        combine: How the weights of a word's characters become one.
        seed: Of the bootstrap.

    Returns:
        `within` and `pooled`, the same with `_digit_rule`, and `_difference` (weights less rule); of each `_low` and
        `_high`, its 95 % bootstrap interval over rationales. All again as `alike_...` on those words alone that the
        digit rule gives its low weight throughout, where the rule itself ranks nothing. And the numbers of words and
        rationales.

    Raises:
        DataError: If KPOD_DATA is not set, or weights are missing for a rationale.
    """
    rows = read_oracle() if rows is None else rows
    files = {row.file for row in rows if row.id in weights}
    if not files:
        raise DataError(f"oracle: weights for none of its rationales, such as {rows[0].id!r}")
    used = [row for row in rows if row.file in files]
    texts = {id_: r.text for id_, r in by_id({row.id: row.file for row in used}).items()}
    words: dict[str, list[Replaced]] = defaultdict(list)
    for row in used:
        if row.id not in weights:
            raise DataError(f"oracle: no weights for rationale {row.id!r} of {row.file}; give all of a data set")
        words[row.id].append(row)
    every = [_ranked(of, texts[id_], weights[id_], combine) for id_, of in words.items()]
    alike = [_only(part, part[2] <= REST + 1e-6) for part in every]
    figures: dict[str, float] = {}
    for name, parts in (("", every), ("alike_", alike)):
        parts = [part for part in parts if len(part[0])]
        if parts:
            figures |= {f"{name}{key}": value for key, value in intervals(parts, seed).items()}
        figures |= {f"{name}num_words": sum(len(part[0]) for part in parts), f"{name}num_rationales": len(parts)}
    return figures


def _ranked(rows: Sequence[Replaced], text: str, spans: Sequence[WeightSpan], combine: Combine) -> Ranked:
    rule = [(start, stop, 1.0 if _is_keypoint(text[start:stop]) else REST) for start, stop, _ in spans]
    importance = np.array([row.importance for row in rows])
    return importance, word_weights(rows, spans, combine), word_weights(rows, rule, combine)


def _is_keypoint(text: str) -> bool:
    return bool(text.strip()) and set(text.strip()) <= KEYPOINTS


def word_weights(rows: Sequence[Replaced], spans: Sequence[WeightSpan], combine: Combine) -> NDArray[np.float64]:
    """The weight of every word: the mean or the largest of its characters', those in no span weighing 0."""
    by_character = np.zeros(max([row.stop for row in rows] + [stop for _, stop, _ in spans]))
    for start, stop, weight in spans:
        by_character[start:stop] = weight
    join = np.mean if combine == "mean" else np.max
    return np.array([float(join(by_character[row.start : row.stop])) for row in rows])


def _only(part: Ranked, chosen: NDArray[np.bool_]) -> Ranked:
    importance, judged, rule = part
    return importance[chosen], judged[chosen], rule[chosen]


def intervals(parts: Sequence[Ranked], seed: int) -> dict[str, float]:
    """Each figure with its bootstrap interval over rationales."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(parts), size=(RESAMPLES, len(parts)))
    rhos = np.array([[_within(part[0], part[which]) for which in (1, 2)] for part in parts])
    samples = {"": np.arange(len(parts))[None], "draws": draws}
    found = {
        name: (_means(rhos[picked]), np.array([_pooled([parts[i] for i in row]) for row in picked]))
        for name, picked in samples.items()
    }
    figures: dict[str, float] = {}
    for index, kind in enumerate(("within", "pooled")):
        point, drawn = found[""][index], found["draws"][index]
        for name, values, many in (
            (kind, point[:, 0], drawn[:, 0]),
            (f"{kind}_digit_rule", point[:, 1], drawn[:, 1]),
            (f"{kind}_difference", point[:, 0] - point[:, 1], drawn[:, 0] - drawn[:, 1]),
        ):
            low, high = np.nanquantile(many, (0.025, 0.975)) if np.isfinite(many).any() else (np.nan, np.nan)
            figures |= {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return figures


def _means(rhos: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the rationales of each sample, those that say nothing left out; NaN where none is left."""
    known = np.isfinite(rhos)
    sums, nums = np.where(known, rhos, 0).sum(axis=1), known.sum(axis=1)
    return np.where(nums > 0, sums / np.maximum(nums, 1), np.nan)


def _within(importance: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    if len(importance) < FEWEST_RANKED or np.ptp(importance) == 0:
        return np.nan
    return spearman(importance, weights)


def _pooled(parts: Sequence[Ranked]) -> tuple[float, float]:
    importance, judged, rule = (np.concatenate([part[which] for part in parts]) for which in range(3))
    return spearman(importance, judged), spearman(importance, rule)


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; 0 where one of the two is all the same.

    Example:
        >>> spearman(np.array([0.0, 0.5, 1.0]), np.array([0.1, 0.9, 0.3]))
        0.5
    """
    if np.ptp(one) < 1e-9 or np.ptp(other) < 1e-9:
        return 0.0
    return round(float(np.corrcoef(rankdata(one), rankdata(other))[0, 1]), 12)


def facts(rows: Sequence[Replaced]) -> dict[str, float]:
    """What the oracle holds: words, how often answers are reached, and how much of the importance is no chance.

    `reliability` is the share of the importances' variance that is not the chance of the samples: a judge that knew
    the true importances would have about its square root as correlation.
    """
    importance = np.array([row.importance for row in rows])
    shares = np.array([[row.reached / row.samples, row.reached_replaced / row.samples] for row in rows])
    nums = np.array([row.samples for row in rows])
    chance = (shares * (1 - shares)).sum(axis=1) / np.maximum(nums - 1, 1)
    return {
        "num_rationales": len({row.id for row in rows}),
        "num_words": len(rows),
        "num_continuations": float(2 * nums.sum()),
        "reached": float(shares[:, 0].mean()),
        "reached_replaced": float(shares[:, 1].mean()),
        "reliability": float(1 - chance.mean() / importance.var()) if importance.var() else float("nan"),
    }


def of_digit_rule(rows: Sequence[Replaced], combine: Combine = "mean") -> dict[str, float]:
    """What the digit rule alone reaches, on the tokens of the default student."""
    tokens, texts = oracle_tokens(load_layout(STUDENT), rows)
    rule = digit_rule_weights(tokens, texts)
    figures = oracle_spearman({t.id: spans_of(t, rule[t.id]) for t in tokens}, rows, combine)
    return {key: value for key, value in figures.items() if "digit_rule" in key or "num" in key}


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
    try:
        if options.make:
            torch.set_num_threads(1)
            remake(options.model, ORACLE, options.rationales, options.words, options.samples)
        rows = read_oracle()
        figures = facts(rows) | of_digit_rule(rows)
    except KpodError as error:
        sys.exit(str(error))
    print(
        json.dumps(figures) if options.json else "\n".join(f"{name:32} {value:.4g}" for name, value in figures.items())
    )


if __name__ == "__main__":
    main()
