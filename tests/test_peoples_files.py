"""Rows in the shapes that people publish: answers, options, and thoughts within rationales."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kpod.data.reader import checked_file, read_file
from kpod.recipe import ColumnsConfig
from kpod.records.errors import DataError

TOLD = "6 + 2 = 8, so she has 8 pens."
ROW = {"id": "q", "question": "Ann has 6 pens and buys 2. How many has she?", "answer": "8", "rationale": TOLD}
OPTIONS = {"A": "6", "B": "8"}
PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<reasoning>", "</reasoning>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("", "</think>"),
]


def written(folder: Path, *rows: dict[str, Any], name: str = "f.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def texts(path: Path, thoughts: Any = "apart") -> Sequence[str | None]:
    entries = read_file(path, ColumnsConfig(thoughts=thoughts), explained=True).entries
    return [entry.rationale.text if entry.rationale else None for entry in entries]


@pytest.mark.parametrize(
    ("answer", "read"),
    [(8, "8"), (8.0, "8"), (0.5, "0.5"), (True, "yes"), (False, "no"), (["8"], "8"), ([8], "8"), ([True], "yes")],
)
def test_an_answer_of_any_json_type_is_read(tmp_path: Path, answer: object, read: str):
    path = written(tmp_path, ROW | {"answer": answer})
    assert [entry.question.answer for entry in read_file(path, explained=False).entries] == [read]


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", "b)", "8", "[b]"])
@pytest.mark.parametrize(
    "choices",
    [
        OPTIONS,
        ["6", "8"],
        ["A) 6", "B) 8"],
        ["(A) 6", "(B) 8"],
        ["A. 6", "B. 8"],
        {"label": ["A", "B"], "text": ["6", "8"]},
        [{"label": "A", "text": "6"}, {"label": "B", "text": "8"}],
        json.dumps(OPTIONS),
        "['6', '8']",
        "{'A': '6', 'B': '8'}",
    ],
    ids=str,
)
def test_options_of_every_shape_and_an_answer_by_letter_or_text(tmp_path: Path, choices: object, answer: str):
    path = written(tmp_path, ROW | {"choices": choices, "answer": answer})
    (entry,) = read_file(path, explained=False).entries
    assert (entry.question.choices, entry.question.answer) == (OPTIONS, "B")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["8", "8"], "answer": "8"}, "is none of the choices: write one of the letters A, B"),
        ({"choices": ["b", "a"], "answer": "a"}, "is none of the choices"),  # the letter A, or the text of B
        ({"choices": ["6", "8"], "answer": 0}, "answer '0' is none of the choices"),
        ({"choices": [{"label": "A", "text": "6"}, {"label": "A", "text": "8"}]}, "the letter of another one"),
        ({"choices": [{"key": "A", "value": "6"}]}, "has an option with the keys key, value; wanted label and text"),
        ({"choices": "__import__('os')"}, "as a text it must be JSON"),
        ({"choices": "[" * 5000}, "as a text it must be JSON"),
        ({"answer": ["6", "8"]}, "answer is a list of 2; wanted one answer"),
        ({"answer": [["8", "9"]]}, "answer is a list of 2; wanted one answer"),
    ],
)
def test_what_could_mean_two_things_is_an_error(tmp_path: Path, row: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        read_file(written(tmp_path, ROW | row), explained=False)


def test_texts_that_begin_with_other_letters_keep_them(tmp_path: Path):
    path = written(tmp_path, ROW | {"choices": ["A) 6", "C) 8"], "answer": "A"})
    assert read_file(path, explained=False).entries[0].question.choices == {"A": "A) 6", "B": "C) 8"}


@pytest.mark.parametrize(("opener", "closer"), PAIRS)
@pytest.mark.parametrize("several", [False, True])
def test_thoughts_in_a_rationale_are_set_apart_and_counted(tmp_path: Path, opener: str, closer: str, several: bool):
    text = f"{opener}Hm, six and two.{closer}{TOLD}"
    path = written(tmp_path, ROW | {"rationale": [text, TOLD] if several else text})
    rest = [TOLD] if several else []
    assert texts(path) == [TOLD, *rest]
    assert texts(path, "rationale") == ["Hm, six and two.", *rest]
    assert texts(path, "whole") == [text, *rest]
    assert any("thoughts left aside: 1" in note for note in checked_file(path).notes)


@pytest.mark.parametrize("said", ["", "8", "The answer is 8.", "#### 8", "\\boxed{8}"])
def test_a_thought_is_the_rationale_where_nothing_but_an_answer_follows(tmp_path: Path, said: str):
    path = written(tmp_path, ROW | {"rationale": f"<think>{TOLD}</think>\n\n{said}"})
    assert texts(path) == [TOLD]
    assert any("read from thought tags: 1" in note for note in checked_file(path).notes)


def test_two_thoughts_leave_the_number_between_them_whole(tmp_path: Path):
    row = ROW | {"rationale": "<think>a</think>Each row has 4 jars. 5 * 4 = 2<think>b</think>0 jars."}
    assert texts(written(tmp_path, row)) == ["Each row has 4 jars. 5 * 4 = 20 jars."]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"<think>{TOLD}", "unfinished thought"),
        (f"{TOLD} <think>Or not", "unclear thought"),
        (f"<think>a</think>{TOLD}</think> b", "unclear thought"),
    ],
)
def test_half_a_thought_drops_its_row_with_a_reason(tmp_path: Path, text: str, reason: str):
    path = written(tmp_path, ROW, ROW | {"id": "broken", "rationale": text})
    assert [(item.id, item.reason) for item in read_file(path, explained=True).dropped] == [("broken", reason)]
    assert texts(path, "whole") == [TOLD, text]


@pytest.mark.parametrize("text", [f'The tag "<think>" is a word. {TOLD}', "2 < 3 and 3 > 2.", "Sum [1, 2]: 3 steps."])
def test_a_text_without_thoughts_stays_as_it_is(tmp_path: Path, text: str):
    assert texts(written(tmp_path, ROW | {"rationale": text})) == [text]


def test_a_text_with_weights_keeps_its_tags(tmp_path: Path):
    row = ROW | {"rationale": f"<think>a</think>{TOLD}", "token_weights": [[0, 7, 0.5]]}
    path = written(tmp_path, row)
    assert texts(path) == [row["rationale"]]
    assert any("because they have token_weights: 1" in note for note in checked_file(path).notes)


@pytest.mark.parametrize("number", [1, 3])
def test_objects_over_several_lines_are_read_or_told_once(tmp_path: Path, number: int):
    path = tmp_path / "pretty.jsonl"
    path.write_text("".join(f"{json.dumps(ROW | {'id': str(k)}, indent=2)}\n" for k in range(number)), encoding="utf-8")
    messages = [finding.message for finding in checked_file(path).findings]
    told = "several objects over several lines: write an array of them, or one object per line"
    assert messages == ([told] if number > 1 else [])


def test_a_column_without_a_name_is_shown_as_one(tmp_path: Path):
    path = tmp_path / "hf.csv"
    path.write_text(f",question,answer,rationale\n0,{ROW['question']},8,6 + 2 = 8\n", encoding="utf-8")
    assert "unused columns: ''" in checked_file(path).notes


def test_columns_that_kpod_writes_itself_are_not_told_as_unused(tmp_path: Path):
    own = {"question_id": "q", "attempt": "k", "start": 0, "weigher": "m"}
    assert checked_file(written(tmp_path, ROW | own)).notes == ()
    assert "unused columns: remark" in checked_file(written(tmp_path, ROW | own | {"remark": 1})).notes
