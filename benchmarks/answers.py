"""The reading of answers on every data set of KPOD_DATA: gold answers against themselves, and teachers' against gold.

Of each file: whether a sentence that states the gold answer is read as the gold answer; and, where a teacher explains,
how often the answer that the file says the teacher reached is gold, and how often the same comes of the rationale's
text with that answer stated after it, as a student writes it.

    KPOD_DATA=... python benchmarks/answers.py [--json]
"""

import argparse
import json
import os
import sys
from pathlib import Path

from kpod.config import PromptConfig
from kpod.data.answers import extract_answer, same_answer
from kpod.data.reader import read_questions
from kpod.data.rows import Row, rows_of
from kpod.records import Question

CLOSING = PromptConfig().closing


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if "KPOD_DATA" not in os.environ:
        sys.exit("this benchmark needs real questions and rationales: set KPOD_DATA (docs/data.md)")
    root = Path(os.environ["KPOD_DATA"])
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


if __name__ == "__main__":
    main()
