"""What the filter leaves of every rationale file of KPOD_DATA, and why the rest goes.

The rules are gold answers, arithmetic (check_equations) and near-duplicates (max_similarity 0.9), in this order.
Beside it: how many equations can be checked in all of a file's rationales, and how many of them do not hold; `of gold`
are those in rationales that reach the gold answer. Of the ten samples a question of SVAMP, also two as unlike as can be
(per_question), and how alike such two are (Jaccard of word trigrams) beside two drawn at random.

    KPOD_DATA=... python benchmarks/filters.py [--wrong N | --hidden]

--wrong N prints N wrong equations of each file, drawn at random, for reading.

--hidden hides the column `teacher_answer`, as a user's plain file has none, and prints how each way to read the answer
off a text would filter: of the rationales that reach gold by the hidden column the share that is kept, and how many of
those that do not are let through.
"""

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Literal

from kpod import (
    Rationale,
    TeacherConfig,
    checked_equations,
    extract_answer,
    filter_rationales,
    last_number,
    read_rationales,
    same_answer,
)
from kpod.teacher.similarity import jaccard, ngrams

RULES = TeacherConfig(filter="gold", check_equations=True, max_similarity=0.9)
TWO = TeacherConfig(filter="gold", check_equations=True, max_similarity=0.9, per_question=2)
SAMPLES = "svamp/train.gpt-3.5-turbo.samples.jsonl"
NUMERIC = ("asdiv", "gsm8k", "multiarith", "svamp")
REASONS = ("empty rationale", "unknown answer", "wrong answer", "wrong equation", "near-duplicate")


def equations_of(rationales: Sequence[Rationale]) -> list[tuple[str, bool]]:
    return [equation for rationale in rationales for equation in checked_equations(rationale.text)]


def line_of(name: str, path: Path, num_shown: int) -> str:
    """A file's row of the table."""
    rationales, empty = read_rationales(path)
    kept, dropped = filter_rationales(rationales, RULES)
    reasons = Counter(item.reason for item in (*empty, *dropped))
    gold, _ = filter_rationales(rationales, TeacherConfig(filter="gold", max_similarity=None))
    checked, checked_gold = equations_of(rationales), equations_of(gold)
    wrong = [shown for shown, holds in checked if not holds]
    for shown in random.Random(0).sample(wrong, min(num_shown, len(wrong))):
        print(f"{name}: {shown}", file=sys.stderr)
    cells = [
        name,
        len(rationales) + len(empty),
        len(kept),
        *(reasons.pop(reason, 0) for reason in REASONS),
        len(checked),
        len(wrong),
        sum(not holds for _, holds in checked_gold),
    ]
    assert not reasons, reasons
    return "| " + " | ".join(map(str, cells)) + " |"


def likeness(rationales: Sequence[Rationale], draw: random.Random | None = None) -> list[float]:
    """Of each question with two rationales or more the likeness of two: the first, or drawn at random."""
    by_question: dict[str, list[str]] = {}
    for rationale in rationales:
        by_question.setdefault(rationale.question.id, []).append(rationale.text)
    pairs = [draw.sample(texts, 2) if draw else texts[:2] for texts in by_question.values() if len(texts) > 1]
    return [jaccard(ngrams(one), ngrams(other)) for one, other in pairs]


def diversity(path: Path, seed: int) -> str:
    """How alike the two that are chosen are, beside two at random of those that they are chosen from."""
    rationales, _ = read_rationales(path)
    all_kept, (two, _) = filter_rationales(rationales, RULES)[0], filter_rationales(rationales, TWO)
    chosen, drawn = likeness(two), [mean(likeness(all_kept, random.Random(seed + n))) for n in range(20)]
    assert len(chosen) == len(likeness(all_kept))
    return (
        f"{SAMPLES}, per_question 2: {len(two)} of {len(all_kept)} kept, of {len(chosen)} questions two; mean Jaccard "
        f"of the two {mean(chosen):.3f}, of two at random {mean(drawn):.3f} "
        f"(20 draws, {min(drawn):.3f} to {max(drawn):.3f})"
    )


def is_stated(rationale: Rationale) -> bool:
    """Whether the text states the gold answer."""
    question = rationale.question
    return same_answer(extract_answer(rationale.text, question.choices), question.answer, question.choices)


def is_last_number(rationale: Rationale) -> bool:
    """Whether the last number is the gold answer, whatever the text says; options are never reached so."""
    return rationale.question.choices is None and same_answer(last_number(rationale.text), rationale.question.answer)


def passes(filter_: Literal["gold", "stated"]) -> Callable[[Rationale], bool]:
    """Whether a value of `teacher.filter` keeps a rationale by itself."""
    config = TeacherConfig(filter=filter_, max_similarity=None)
    return lambda rationale: bool(filter_rationales([rationale], config)[0])


READINGS: dict[str, Callable[[Rationale], bool]] = {
    "what is stated": is_stated,
    "the last number": is_last_number,
    "filter: gold": passes("gold"),
    "filter: stated": passes("stated"),
}


def hidden_counts(path: Path) -> Counter[tuple[str, str]]:
    """Of a file's right and wrong rationales by the hidden column, how many each reading keeps."""
    counts: Counter[tuple[str, str]] = Counter()
    for rationale in read_rationales(path)[0]:
        known, question = rationale.teacher_answer, rationale.question
        if known is None:
            continue
        kind = "right" if same_answer(known, question.answer, question.choices) else "wrong"
        counts[kind, ""] += 1
        plain = replace(rationale, teacher_answer=None)
        counts.update((kind, name) for name, keeps in READINGS.items() if keeps(plain))
    return counts


def hidden_line(name: str, counts: Counter[tuple[str, str]]) -> str:
    right, wrong = counts["right", ""], counts["wrong", ""]
    cells = [f"{100 * counts['right', r] / max(1, right):.1f} % / {counts['wrong', r]}" for r in READINGS]
    return f"| {name} | {right} | {wrong} | {' | '.join(cells)} |"


def hidden_table(root: Path) -> None:
    """Every file, then sums over those with numeric answers and over all."""
    print(f"| file | right | wrong | {' | '.join(READINGS)} |")
    print("|---|---:|---:" + "|---:" * len(READINGS) + "|")
    numeric: Counter[tuple[str, str]] = Counter()
    everything: Counter[tuple[str, str]] = Counter()
    for path in sorted(root.glob("*/*.*.jsonl")):
        counts = hidden_counts(path)
        print(hidden_line(str(path.relative_to(root)), counts), flush=True)
        everything += counts
        numeric += counts if path.parent.name in NUMERIC else Counter()
    print(hidden_line("numeric answers", numeric))
    print(hidden_line("all", everything))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--wrong", type=int, default=0, metavar="N", help="print so many wrong equations of each file")
    what.add_argument(
        "--hidden", action="store_true", help="how well answers are read where the file does not say them"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    root = Path(os.environ.get("KPOD_DATA") or "/nonexistent")
    if not root.is_dir():
        print("this benchmark needs real rationales: set KPOD_DATA to their folder (docs/data.md)", file=sys.stderr)
        sys.exit(2)
    if options.hidden:
        hidden_table(root)
        return
    head = ("file", "rows", "kept", *REASONS, "equations", "wrong", "of gold")
    print("| " + " | ".join(head) + " |")
    print("|---" + "|---:" * (len(head) - 1) + "|")
    for path in sorted(root.glob("*/*.*.jsonl")):
        print(line_of(str(path.relative_to(root)), path, options.wrong), flush=True)
    if (root / SAMPLES).is_file():
        print(f"\n{diversity(root / SAMPLES, options.seed)}")


if __name__ == "__main__":
    main()
