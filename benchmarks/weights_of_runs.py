"""What a grid's learnt weights say: of numbers and of words, how many tokens they leave, and whether seeds agree.

    python benchmarks/weights_of_runs.py runs/study-compare/kpod-seed{0,1,2} [--json]

Runs of one recipe under several seeds. A token of digits and operators alone is a number, any other a word.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from keypoints_of_run import weighed
from scipy.stats import spearmanr

from kpod import DataError, digit_rule_weights

LOW = 0.3
"""A token that weighs less is hardly trained."""


def figures_of(runs: list[Path]) -> dict[str, list[float]]:
    """Of each run its means and shares, and of each pair of runs the rank correlation of their weights.

    Raises:
        DataError: If the runs weigh other rationales.
    """
    figures: dict[str, list[float]] = {"numbers": [], "words": [], "low": [], "rank correlation": []}
    weights_of_runs = []
    for run in runs:
        tokens, by_rationale, texts = weighed(run)
        rule = digit_rule_weights(tokens, texts)
        weights, by_rule = (np.concatenate([of[t.id] for t in tokens]) for of in (by_rationale, rule))
        is_number = by_rule == 1
        weights_of_runs.append(weights)
        if len(weights) != len(weights_of_runs[0]):
            raise DataError(f"{run}: weighs other rationales than {runs[0]}")
        figures["numbers"].append(float(weights[is_number].mean()))
        figures["words"].append(float(weights[~is_number].mean()))
        figures["low"].append(float((weights < LOW).mean()))
    figures["rank correlation"] = [float(spearmanr(*pair).statistic) for pair in combinations(weights_of_runs, 2)]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = figures_of(options.runs)
    if options.json:
        print(json.dumps(figures))
        return
    for name, told in (("numbers", "mean weight of numbers"), ("words", "of words"), ("low", f"tokens below {LOW}")):
        print(f"{told}: {' '.join(f'{value:.2f}' for value in figures[name])}")
    agreement = figures["rank correlation"]
    if agreement:
        print(
            f"rank correlation between seeds: {np.mean(agreement):.2f} ({min(agreement):.2f} to {max(agreement):.2f})"
        )


if __name__ == "__main__":
    main()
