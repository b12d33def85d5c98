"""How well a run's weights tell keypoints from planted fillers: AUC of digits and operators against fillers.

Only for runs on the package's own word problems, where it is known which phrases were planted.

    python benchmarks/keypoints_of_run.py runs/demo [--json]
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from sklearn.metrics import roc_auc_score

from kpod import DataError
from kpod.data.word_problems import filler_spans
from kpod.experiment import artifacts
from kpod.records.columns import ById, Tokens

OPERATORS = set("+-*/=$")


def kind_of(text: str, span: tuple[int, int], fillers: list[tuple[int, int]]) -> str | None:
    """digit, operator, filler or other; None for a token of white space only."""
    if not text.strip():
        return None
    if text.strip().isdigit():
        return "digit"
    if set(text.strip()) <= OPERATORS:
        return "operator"
    stop = span[1]
    return "filler" if any(start < stop <= end for start, end in fillers) else "other"


def weighed(folder: Path) -> tuple[Tokens, ById, dict[str, str]]:
    """A run's rationales in tokens, and by their ids the tokens' weights and the texts."""
    tokens, _ = artifacts.load_tokens(folder / "tokens")
    weights = ById(folder / "weights" / artifacts.WEIGHTS)
    return tokens, weights, {row["id"]: row["rationale"] for row in artifacts.read_jsonl(folder / "rationales.jsonl")}


def keypoint_auc(folder: Path) -> dict[str, float]:
    """AUC of each kind's weights against the fillers', mean weights, and counts."""
    tokens, weights, texts = weighed(folder)
    by_kind: dict[str, list[float]] = defaultdict(list)
    for rationale in tokens:
        text = texts[rationale.id]
        fillers = filler_spans(text)
        for span, weight in zip(map(tuple, rationale.char_spans.tolist()), weights[rationale.id].tolist(), strict=True):
            kind = kind_of(text[slice(*span)], span, fillers)
            if kind:
                by_kind[kind].append(weight)
    fillers_found = by_kind["filler"]
    if not fillers_found:
        raise DataError(f"{folder}: no planted filler found; this works on word_problems only")
    figures: dict[str, float] = {}
    for kind in ("digit", "operator", "other"):
        labels = [1] * len(by_kind[kind]) + [0] * len(fillers_found)
        figures[f"auc_{kind}s" if kind != "other" else "auc_others"] = roc_auc_score(
            labels, by_kind[kind] + fillers_found
        )
    for kind, found in sorted(by_kind.items()):
        figures[f"mean_weight_{kind}"] = sum(found) / len(found)
        figures[f"num_{kind}"] = len(found)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = keypoint_auc(options.run)
    if options.json:
        print(json.dumps(figures))
        return
    print(
        f"keypoints against planted fillers: AUC of digits {figures['auc_digits']:.3f}, of operators "
        f"{figures['auc_operators']:.3f}; mean weight of digits {figures['mean_weight_digit']:.2f}, of operators "
        f"{figures['mean_weight_operator']:.2f}, of fillers {figures['mean_weight_filler']:.2f}"
    )


if __name__ == "__main__":
    main()
