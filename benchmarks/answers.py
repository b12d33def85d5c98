"""The reading of answers on every data set of KPOD_DATA: gold answers against themselves, and teachers' against gold.

Of each file: whether a sentence that states the gold answer is read as the gold answer; and, where a teacher explains,
how often the answer that the file says the teacher reached is gold, and how often the same comes of the rationale's
text with that answer stated after it, as a student writes it.

Then every row of nasty.jsonl, outputs that are hard to read an answer from: what is read of the output as it stands in
its source, beside the answer that the file says it reaches. A row is right where the two are the same, or both none;
the others are explained here, by id, and one that is neither right nor explained makes the exit code 1. Some right rows
have a remark too, where a reader might judge the text otherwise.

    KPOD_DATA=... python benchmarks/answers.py [--json | --nasty]
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpod import PromptConfig, Question, extract_answer, read_questions, same_answer
from kpod.data.findings import Row
from kpod.data.rows import rows_of

CLOSING = PromptConfig().closing

UNSTATED = "answers in its last sentence without stating an answer; unanswered by the rule, last_number reads it"
CUT_OFF = "stops before it comes to an answer; the file has the last number, a sum on the way"
NAMED = "reaches gold in passing without stating an answer; none in the file too"
EXPLAINED = {
    "nasty-s-01": "is read as the file has it; rounded to fewer digits than gold, it is not gold (tolerance 1e-4)",
    "nasty-s-05": UNSTATED,
    "nasty-s-06": NAMED,
    "nasty-s-09": NAMED,
    "nasty-s-13": UNSTATED,
    "nasty-s-18": UNSTATED,
    "nasty-s-19": CUT_OFF,
    "nasty-s-21": "states an answer after the heading Answer:; the file calls it unknown",
    "nasty-s-23": UNSTATED,
    "nasty-s-28": NAMED,
    "nasty-s-38": CUT_OFF,
    "nasty-s-39": UNSTATED,
}
"""Rows of nasty.jsonl that are read in another way than the file says, or than a reader might, and why."""


def reads_gold(question: Question) -> bool:
    """Whether the answer sentence with the gold answer is read as it."""
    found = extract_answer(CLOSING.format(answer=question.answer), question.choices)
    return found is not None and same_answer(found, question.answer, question.choices)


def agreement(path: Path, questions: dict[str, Question]) -> dict[str, float]:
    """What a teacher's file comes to."""
    stated = known = alike = right = 0
    for row in rows_of(path):
        assert isinstance(row, Row), f"{path}: {row}"
        values = row.values
        question = questions.get(values["id"].rpartition("/")[0]) or questions[values["id"]]
        if values.get("teacher_answer") is None:
            continue
        known += 1
        is_gold = same_answer(values["teacher_answer"], question.answer, question.choices)
        right += is_gold
        text = f"{values['rationale']} {CLOSING.format(answer=values['teacher_answer'])}"
        found = extract_answer(text, question.choices)
        stated += found is not None
        alike += (found is not None and same_answer(found, question.answer, question.choices)) == is_gold
    return {"known": known, "is_gold": right / known, "read": stated / known, "judged_alike": alike / known}


def nasty_row(values: Mapping[str, Any], question: Question) -> tuple[str, str]:
    """A line of the table, and whether the row is `right`, `explained` or neither."""
    teacher, choices = values["teacher_answer"], question.choices
    read = extract_answer(values["raw"], choices)
    right = same_answer(read, teacher, choices) if read and teacher else read is teacher is None
    gold = same_answer(read, question.answer, choices)
    why = EXPLAINED.get(question.id, "")
    cells = (question.id, question.answer, teacher, read, "gold" if gold else "wrong" if read else "none")
    verdict = "right" if right else "explained" if why else "UNEXPLAINED"
    line = f"{cells[0]:12}" + "".join(f"{cell if cell is not None else '-':>10}" for cell in cells[1:])
    return f"{line}  {verdict}{f': {why}' if why else ''}", verdict


def nasty_table(path: Path) -> bool:
    """Print every row; returns whether each is right or explained."""
    questions = {question.id: question for question in read_questions(path)}
    rows = [row.values for row in rows_of(path) if isinstance(row, Row)]
    print(f"{'id':12}{'gold':>10}{'teacher':>10}{'read':>10}{'is':>10}")
    table = [nasty_row(values, questions[values["id"]]) for values in rows]
    for line, _ in table:
        print(line)
    counts = Counter(verdict for _, verdict in table)
    print(f"{len(rows)} rows:", ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return "UNEXPLAINED" not in counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="the figures of the data sets as JSON")
    what.add_argument("--nasty", action="store_true", help="only the table of nasty.jsonl")
    options = parser.parse_args()
    if "KPOD_DATA" not in os.environ:
        sys.exit("this benchmark needs real questions and rationales: set KPOD_DATA (docs/data.md)")
    root = Path(os.environ["KPOD_DATA"])
    if options.nasty:
        sys.exit(not nasty_table(root / "nasty.jsonl"))
    figures: dict[str, dict[str, float]] = {}
    for path in sorted(root.glob("*/*.jsonl")):
        split = path.with_name(f"{path.name.split('.')[0]}.jsonl")
        questions = {question.id: question for question in read_questions(split)}
        name = str(path.relative_to(root))
        if path == split:
            gold = [reads_gold(question) for question in questions.values()]
            figures[name] = {"questions": len(gold), "gold_is_gold": sum(gold) / len(gold)}
        else:
            figures[name] = agreement(path, questions)
    if options.json:
        print(json.dumps(figures))
        return
    for name, facts in figures.items():
        print(
            f"{name:44}",
            "  ".join(f"{key} {value:.4f}" if value <= 1 else f"{key} {value:.0f}" for key, value in facts.items()),
        )
    sys.exit(not nasty_table(root / "nasty.jsonl"))


if __name__ == "__main__":
    main()
