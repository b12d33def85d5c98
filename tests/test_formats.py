"""The forms in which data sets are published: recognised by their columns, in every kind of file."""

import csv
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from kpod.config import DataConfig, TeacherConfig
from kpod.data.datasets import load_rationales, questions_and_notes
from kpod.data.reader import check_file, read_questions, read_rationales

ASKED = ("Ann has 6 pens and buys 2. How many pens?", "Half of 48?")
TOLD = ("6 + 2 = 8, so she has 8.", "48 / 2 = 24.")
GOLD = ("8", "24")
BOXED = tuple(rf"{told} So $\boxed{{{gold}}}$." for told, gold in zip(TOLD, GOLD, strict=True))
STATED = tuple(f"{told} The answer is {gold}." for told, gold in zip(TOLD, GOLD, strict=True))
HASHED = tuple(f"{told}\n#### {gold}" for told, gold in zip(TOLD, GOLD, strict=True))
MARKED = ("6 + 2 = <<6+2=8>>8, so she has 8.\n#### 8", "48 / 2 = <<48/2=24>>24.\n#### 24")
THOUGHT = (
    "<|begin_of_thought|>\n\nHm, pens.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n{}\n\n<|end_of_solution|>"
)


def chats(names: tuple[str, str], roles: tuple[str, str], told: tuple[str, ...] = STATED) -> list[Any]:
    who, what = names
    return [
        [{who: roles[0], what: asked}, {who: roles[1], what: said}] for asked, said in zip(ASKED, told, strict=True)
    ]


def columns(**cells: Any) -> list[dict[str, Any]]:
    """Two rows: a list or tuple holds a cell for each, anything else is in both."""
    split = {name: cell if isinstance(cell, list | tuple) else (cell, cell) for name, cell in cells.items()}
    return [{name: cell[k] for name, cell in split.items()} for k in range(2)]


SHAREGPT, MESSAGES = ("from", "value"), ("role", "content")
FINAL = tuple(f"{told}\nThe answer is: {gold}" for told, gold in zip(HASHED, GOLD, strict=True))
TAGGED = tuple(f"<think>{told}</think><answer>{gold}</answer>" for told, gold in zip(TOLD, GOLD, strict=True))
FORMS: Mapping[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "GSM8K with marks": (columns(question=ASKED, answer=MARKED), TOLD),
    "GSM8K without marks": (columns(question=ASKED, answer=HASHED), TOLD),
    "Alpaca": (columns(instruction=ASKED, input="", output=STATED), STATED),
    "Alpaca without input": (columns(instruction=ASKED, output=BOXED), BOXED),
    "Alpaca in GSM8K's way": (columns(instruction=ASKED, input="", output=HASHED), TOLD),
    "ShareGPT": (columns(conversations=chats(SHAREGPT, ("human", "gpt"))), STATED),
    "ShareGPT, other roles": (columns(conversations=chats(SHAREGPT, ("user", "assistant"), BOXED)), BOXED),
    "OpenThoughts": (
        columns(
            system="Think.",
            conversations=chats(SHAREGPT, ("user", "assistant"), tuple(THOUGHT.format(told) for told in BOXED)),
        ),
        BOXED,
    ),
    "messages": (columns(messages=chats(MESSAGES, ("user", "assistant"))), STATED),
    "OpenR1-Math": (
        columns(
            problem=ASKED,
            solution="See the book.",
            answer=GOLD,
            generations=[[f"<think>\nHm.\n</think>\n\n{told}"] for told in BOXED],
            correctness_math_verify=[[True], [False]],
        ),
        BOXED,
    ),
    "MATH": (columns(problem=ASKED, solution=BOXED, level="Level 1", type="Algebra"), BOXED),
    "MATH-500": (columns(problem=ASKED, solution=BOXED, answer=GOLD, subject="Algebra"), BOXED),
    "NuminaMath": (
        columns(source="cn", problem=ASKED, solution=BOXED, messages=chats(MESSAGES, ("user", "assistant"), BOXED)),
        BOXED,
    ),
    "AIME, in capitals": (columns(Problem=ASKED, Solution=BOXED, Answer=GOLD), BOXED),
    "OpenMathInstruct": (columns(question=ASKED, generated_solution=BOXED, expected_answer=GOLD), BOXED),
    "LIMO": (columns(question=ASKED, solution=TOLD, answer=GOLD), TOLD),
    "DeepMath": (columns(question=ASKED, final_answer=GOLD, r1_solution_1=BOXED), BOXED),
    "CoT Collection": (columns(source=ASKED, target=GOLD, rationale=TOLD), TOLD),
    "reasoning beside": (columns(question=ASKED, answer=GOLD, reasoning=TOLD), TOLD),
    "response beside GSM8K": (columns(question=ASKED, answer=MARKED, response=BOXED), BOXED),
    "Dolly": (columns(instruction=ASKED, context="", response=STATED), STATED),
    "MetaMathQA": (
        columns(type="GSM", query=ASKED, response=FINAL),
        FINAL,
    ),
    "prompt and completion": (columns(prompt=ASKED, completion=STATED), STATED),
    "prompt and completion, messages": (
        columns(
            prompt=[[{"role": "user", "content": asked}] for asked in ASKED],
            completion=[[{"role": "assistant", "content": told}] for told in STATED],
        ),
        STATED,
    ),
    "prompt and response": (columns(prompt=ASKED, response=STATED), STATED),
    "OpenOrca": (columns(system_prompt="Be kind.", question=ASKED, response=STATED), STATED),
    "input and target": (columns(input=ASKED, target=STATED), STATED),
    "input and output": (columns(input=ASKED, output=BOXED), BOXED),
    "<answer> tags": (
        columns(prompt=ASKED, completion=TAGGED),
        TOLD,
    ),
}
"""Each form, with the rationales that are read; questions and gold answers are ASKED and GOLD."""


def in_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    target = path / "mine.jsonl"
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return target


def in_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    target = path / "mine.json"
    target.write_text(json.dumps(rows, indent=2))
    return target


def in_data(path: Path, rows: list[dict[str, Any]]) -> Path:
    target = path / "mine.json"
    target.write_text(json.dumps({"version": "1", "data": rows}))
    return target


def in_gzip(path: Path, rows: list[dict[str, Any]]) -> Path:
    target = path / "mine.jsonl.gz"
    target.write_bytes(gzip.compress(in_jsonl(path, rows).read_bytes()))
    return target


def in_csv(path: Path, rows: list[dict[str, Any]], separator: str = ",", name: str = "mine.csv") -> Path:
    target = path / name
    with target.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter=separator)
        table.writerow(rows[0])
        table.writerows([c if isinstance(c, str) else json.dumps(c) for c in row.values()] for row in rows)
    return target


def in_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    return in_csv(path, rows, "\t", "mine.tsv")


def in_semicolons(path: Path, rows: list[dict[str, Any]]) -> Path:
    return in_csv(path, rows, ";")


def in_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path / "mine.parquet")
    return path / "mine.parquet"


FILES = [in_jsonl, in_json, in_data, in_gzip, in_csv, in_tsv, in_semicolons, in_parquet]


@pytest.mark.parametrize("write", FILES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_from_every_kind_of_file(tmp_path: Path, form: str, write):
    rows, texts = FORMS[form]
    path = write(tmp_path, rows)
    rationales, dropped = read_rationales(path)
    assert [rationale.text for rationale in rationales] == list(texts)
    assert [(r.question.question, r.question.answer) for r in rationales] == list(zip(ASKED, GOLD, strict=True))
    assert dropped == []
    assert [rationale.question.id for rationale in rationales] == ["mine-00000", "mine-00001"]
    questions = read_questions(path)
    assert questions == [rationale.question for rationale in rationales]
    assert [finding for finding in check_file(path) if finding.severity == "error"] == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "given"), [("id", ["a", "b"]), ("uuid", ["a", "b"]), ("_id", [7, 8]), ("IDX", [0, 5])]
)
def test_ids_of_their_own_are_kept(tmp_path: Path, form: str, name: str, given: list[Any]):
    rows = [{name: id_, **row} for id_, row in zip(given, FORMS[form][0], strict=True)]
    path = in_jsonl(tmp_path, rows)
    assert [rationale.question.id for rationale in read_rationales(path)[0]] == list(map(str, given))
    assert [question.id for question in read_questions(path)] == list(map(str, given))


@pytest.mark.parametrize("form", FORMS)
def test_the_hub_s_rows_are_read_as_files_are(form: str, monkeypatch: pytest.MonkeyPatch):
    rows, texts = FORMS[form]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    monkeypatch.delenv("KPOD_DATA", raising=False)
    config = DataConfig(train="hub:me/mine")
    loaded = load_rationales(config, TeacherConfig())
    assert [rationale.text for rationale in loaded.rationales] == list(texts)
    tests = questions_and_notes("hub:me/mine:dev", config)
    assert [(q.id, q.answer) for q in tests.questions] == [("dev-00000", "8"), ("dev-00001", "24")]
    assert any(note.startswith("hub:me/mine:dev: the rows have no ids and are numbered") for note in tests.notes)
