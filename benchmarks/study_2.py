"""The questions that the second study tests on: all that its students never saw.

    KPOD_DATA=... python benchmarks/study_2.py study-2

writes FOLDER/asdiv.jsonl (the test and validation questions, and the training questions that gpt-3.5-turbo did not
explain) and FOLDER/svamp.jsonl (the training and test questions).
"""

import argparse
import json
from pathlib import Path

from kpod import DataConfig, TeacherConfig
from kpod.data.datasets import load_questions, load_rationales
from kpod.experiment.artifacts import question_row
from kpod.records import Question


def asdiv() -> list[Question]:
    """Every question of ASDiv that has no rationale, kept or dropped."""
    loaded = load_rationales(DataConfig(train="asdiv"), TeacherConfig(rationales="gpt-3.5-turbo"))
    explained = {rationale.question.id for rationale in loaded.rationales}
    questions = [
        one for split in ("test", "validation", "train") for one in load_questions(f"asdiv:{split}", DataConfig())
    ]
    return [question for question in questions if question.id not in explained]


def svamp() -> list[Question]:
    """SVAMP's training and test questions, of which a student of ASDiv sees none."""
    return [one for split in ("train", "test") for one in load_questions(f"svamp:{split}", DataConfig())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, questions in (("asdiv", asdiv()), ("svamp", svamp())):
        rows = [json.dumps(question_row(question), ensure_ascii=False) + "\n" for question in questions]
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
        print(f"{folder / name}.jsonl: {len(questions)} questions")


if __name__ == "__main__":
    main()
