"""How often does the prefix that must calculate hold the answer already? For every file of KPOD_DATA with rationales.

    KPOD_DATA=... python benchmarks/prefixes.py [--json]

Prefixes are cut where `first_statement` says, and read by a small reader of this module alone: a value equal to gold in
digits or plain number words; an option's text or marked letter, lists aside; yes, no and other words as whole words.
Columns: `none`, rationales without such a prefix; `clean`, the share of prefixes that hold the answer among questions
that do not; and `stated`, the same share over all. Where a question holds the answer itself, only a value right behind
an equals sign and before no operator is no repetition.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from kpod import first_statement

NUMBER = re.compile(r"(?<![\d.,/:\w])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d/:]|[.,]\d)")
NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
WORDS = {word: number for number, word in enumerate(NAMES.split())}
WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b(?![- ](?:{'|'.join(WORDS)}|hundred|thousand|million))", re.IGNORECASE)
STEP = re.compile(r"(?:^\W*\d{1,2}[.):]\s|\bstep \d+)", re.IGNORECASE | re.MULTILINE)
_ITEM = r"\(?[A-Z]\)(?: ?[\w'’ -]{1,40})?"
LISTED = re.compile(rf"{_ITEM}(?:,? ?(?:and |or )?{_ITEM}){{2,}}")
BEHIND_EQUALS = re.compile(r"=\s*[$€£]?\s*\Z")
OPERATOR = re.compile(r"\s*[\w ]{0,20}[-+*/×÷x]\s?[$(]?\d")


@dataclass
class Count:
    """What was found in one file; numbers of rationales.

    Attributes:
        rationales: All.
        none: Those without a prefix before the first statement.
        clean: Prefixes of questions that do not hold the answer, and how many of them hold it.
        stated: All prefixes, and how many hold the answer other than as a repetition of the question.
    """

    rationales: int = 0
    none: int = 0
    clean: tuple[int, int] = (0, 0)
    stated: tuple[int, int] = (0, 0)

    @property
    def share(self) -> float:
        """The share of prefixes that hold an answer which the question does not."""
        return self.clean[1] / max(1, self.clean[0])

    @property
    def share_stated(self) -> float:
        """The share of all prefixes that hold the answer as no repetition."""
        return self.stated[1] / max(1, self.stated[0])


def naive_stops(text: str, row: Mapping[str, Any]) -> list[re.Match[str]]:
    """The places of a text that read as the answer at first sight."""
    answer, choices = str(row["answer"]), row.get("choices")
    if choices:
        option = choices[answer].strip()
        pattern = rf"[(]{answer}[)]|\b{answer}[.)](?=\s)|(?:option|answer is) {answer}\b"
        listed = [match.span() for match in LISTED.finditer(text)]
        marked = [m for m in re.finditer(pattern, text) if not any(a <= m.start() < b for a, b in listed)]
        if len(option) < 2 or sum(o.lower() in text.lower() for o in choices.values()) >= min(3, len(choices)):
            return marked  # the rationale weighs the options against one another
        return [*marked, *re.finditer(rf"(?<!\w){re.escape(option)}(?!\w)", text, re.IGNORECASE)]
    try:
        value = Fraction(answer.replace(",", ""))
    except ValueError:
        return [*re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE)]
    steps = [match.span() for match in STEP.finditer(text)]
    found = [m for m in NUMBER.finditer(text) if Fraction(m[0].replace(",", "")) == value]
    found += [m for m in WORD.finditer(text) if WORDS[m[0].lower()] == value]
    return [m for m in found if not any(start <= m.start() < stop for start, stop in steps)]


def is_new(text: str, place: re.Match[str]) -> bool:
    """Whether a value that the question holds is plainly a result."""
    return bool(BEHIND_EQUALS.search(text, max(0, place.start() - 8), place.start())) and not OPERATOR.match(
        text, place.end()
    )


def count(rows: Iterable[Mapping[str, Any]]) -> Count:
    """What the prefixes of a file's rationales hold."""
    found = Count()
    for row in rows:
        text = row["rationale"]
        at = first_statement(text, str(row["answer"]), row.get("choices"), row["question"])
        found.rationales += 1
        if not at or not text[:at].strip():
            found.none += 1
            continue
        prefix = text[:at]
        places = naive_stops(prefix, row)
        repeats = bool(naive_stops(row["question"], {**row, "choices": row.get("choices")}))
        if not repeats:
            found.clean = (found.clean[0] + 1, found.clean[1] + bool(places))
        new = any(is_new(prefix, place) for place in places) if repeats else bool(places)
        found.stated = (found.stated[0] + 1, found.stated[1] + new)
    return found


def files_with_rationales(root: Path) -> list[Path]:
    """Every data file that holds a rationale, in the order of their names."""
    return [file for file in sorted(root.glob("*/*.jsonl")) if any(True for _ in rows_of(file))]


def rows_of(file: Path) -> Iterable[Mapping[str, Any]]:
    """The rows of a file that have a rationale."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row.get("rationale", "").strip():
                yield row


def prefix_holds_answer_share(files: Iterable[Path]) -> dict[str, float]:
    """Of each file, the share of prefixes that hold an answer which their question does not."""
    return {f"{file.parent.name}/{file.name}": count(rows_of(file)).share for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the largest share over the files alone")
    options = parser.parse_args()
    if "KPOD_DATA" not in os.environ:
        sys.exit("this benchmark needs real rationales: set KPOD_DATA (docs/data.md)")
    files = files_with_rationales(Path(os.environ["KPOD_DATA"]))
    if options.json:
        print(json.dumps({"prefix_holds_answer_share": max(prefix_holds_answer_share(files).values())}))
        return
    print(f"{'file':40} {'rationales':>10} {'none':>6} {'clean':>7} {'stated':>7}")
    for file in files:
        found = count(rows_of(file))
        name = f"{file.parent.name}/{file.name}"
        print(
            f"{name:40} {found.rationales:10} {found.none:6} {found.share:7.4f} {found.share_stated:7.4f}", flush=True
        )


if __name__ == "__main__":
    main()
