"""Question and rationale files: what is accepted, and what is found wrong with them, by line and id."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from kpod.data.findings import Finding
from kpod.data.reader import check_file, read_questions, read_rationales
from kpod.recipe import ColumnsConfig
from kpod.records import Dropped, Question, Rationale
from kpod.records.errors import DataError
from tiers import tiered

ROW = {"id": "a", "question": "2 + 2?", "answer": "4"}
EXPLAINED = ROW | {"rationale": "2 + 2 = 4."}
CHOICES = {"A": "red", "B": "blue"}


@pytest.fixture
def jsonl(tmp_path: Path):
    def write(*rows: dict[str, Any] | str | bytes) -> Path:
        path = tmp_path / "file.jsonl"
        lines = [
            row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
            for row in rows
        ]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


def test_a_question_file(jsonl):
    path = jsonl(ROW, ROW | {"id": "b", "answer": "B", "choices": CHOICES, "note": "further columns are ignored"})
    assert read_questions(path) == [Question("a", "2 + 2?", "4"), Question("b", "2 + 2?", "B", CHOICES)]


def test_a_rationale_file(jsonl):
    full = EXPLAINED | {"source": "gpt", "teacher_answer": "5", "token_weights": [[0, 1, 1], [4, 5, 0.5]]}
    rationales, dropped = read_rationales(jsonl(full, EXPLAINED | {"id": "b"}))
    assert rationales == [
        Rationale("a", Question("a", "2 + 2?", "4"), "2 + 2 = 4.", "gpt", "5", ((0, 1, 1.0), (4, 5, 0.5))),
        Rationale("b", Question("b", "2 + 2?", "4"), "2 + 2 = 4.", "unknown", None, None),
    ]
    assert dropped == []


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_an_empty_rationale_is_dropped_and_not_an_error(jsonl, empty):
    rationales, dropped = read_rationales(jsonl(EXPLAINED, EXPLAINED | {"id": "b", "rationale": empty}))
    assert [rationale.id for rationale in rationales] == ["a"]
    assert dropped == [Dropped("b", "empty rationale")]


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_accepted(jsonl):
    path = jsonl(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r", "", " \t\r", ROW | {"id": "b"})
    assert [question.id for question in read_questions(path)] == ["a", "b"]


def test_the_last_line_needs_no_end(tmp_path: Path):
    (tmp_path / "file.jsonl").write_text(json.dumps(ROW))
    assert len(read_questions(tmp_path / "file.jsonl")) == 1


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n", "\n", "\ufeff"])
def test_a_record_ends_at_a_newline_only(jsonl, inside: str):
    raw = json.dumps(EXPLAINED | {"rationale": f"2{inside}4"}, ensure_ascii=False)
    assert read_rationales(jsonl(raw))[0][0].text == f"2{inside}4"


@pytest.mark.parametrize(
    ("answer", "text"), [(3, "3"), (3.0, "3"), (-0.5, "-0.5"), (1e21, "1" + "0" * 21), (" 1,000 ", "1,000")]
)
def test_an_answer_may_be_a_number_and_is_stripped(jsonl, answer, text):
    assert read_questions(jsonl(ROW | {"id": 7, "answer": answer})) == [Question("7", "2 + 2?", text)]


@pytest.mark.parametrize(
    "choices", [CHOICES, ["red", "blue"], {"label": ["A", "B"], "text": ["red", "blue"]}, CHOICES | {"C": None}]
)
def test_every_form_of_choices_is_letter_to_text(jsonl, choices):
    assert read_questions(jsonl(ROW | {"answer": "B", "choices": choices}))[0].choices == CHOICES


@pytest.mark.parametrize("choices", [None, {}, [], {"A": None}, ""])
def test_no_choices_are_none(jsonl, choices):
    assert read_questions(jsonl(ROW | {"choices": choices}))[0].choices is None


def test_columns_are_named_by_the_recipe(jsonl):
    columns = ColumnsConfig(id="key", question="problem", answer="gold", rationale="cot", choices="options")
    row = {"key": "a", "problem": "2 + 2?", "gold": "A", "cot": "Four.", "options": ["4", "5"], "answer": "no"}
    question = Question("a", "2 + 2?", "A", {"A": "4", "B": "5"})
    assert read_rationales(jsonl(row), columns) == ([Rationale("a", question, "Four.")], [])


def test_weights_move_with_the_text_when_whitespace_is_stripped(jsonl):
    weights = [[0, 1, 0.1], [1, 4, 0.2], [5, 8, 0.3], [8, 9, 0.4]]
    rationale = read_rationales(jsonl(EXPLAINED | {"rationale": "  six ty ", "token_weights": weights}))[0][0]
    assert rationale.text == "six ty"
    assert rationale.token_weights == ((0, 2, 0.2), (3, 6, 0.3))


def test_several_rationales_of_one_question_share_its_id(jsonl):
    rows = [EXPLAINED | {"id": f"a/{k}", "rationale": f"Way {k}."} for k in range(2)]
    rationales, _ = read_rationales(jsonl(*rows))
    assert [(rationale.id, rationale.question.id) for rationale in rationales] == [("a/0", "a"), ("a/1", "a")]


def test_ids_that_only_look_like_samples_are_left_alone(jsonl):
    rows = [EXPLAINED | {"id": f"train/{k}", "question": f"{k} + 2?"} for k in range(2)]
    assert [rationale.question.id for rationale in read_rationales(jsonl(*rows))[0]] == ["train/0", "train/1"]
    assert [question.id for question in read_questions(jsonl(*rows))] == ["train/0", "train/1"]


def test_the_same_row_twice_is_read_once(jsonl):
    path = jsonl(ROW, ROW | {"note": "other"})
    assert len(read_questions(path)) == 1
    assert check_file(path) == [Finding(2, "a", "the same row as line 1; it is read once", "warning")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "a", "question', r"file\.jsonl:2: not valid JSON \(Unterminated string"),
        ("[1]", r"file\.jsonl:2: '\[1\]' is not a JSON object"),
        ("[" * 100_000, r"file\.jsonl:2: JSON that cannot be read"),
        ('{"id": ' + "9" * 5000 + "}", r"file\.jsonl:2: JSON that cannot be read"),
        (b"\x00\x00\x00", r"file\.jsonl:2: NUL bytes"),
        (ROW | {"question": "other"}, r"file\.jsonl:2: id 'a': line 1 has the same id with different content"),
        ({"id": "b", "question": "?", "anwser": "4"}, r"no column 'answer' among id, question, anwser .*'anwser'\?"),
        ({}, "no column 'id' among none at all"),
        ({"question": "?", "answer": "4"}, "no column 'id' among question, answer"),
        (ROW | {"id": ""}, r"file\.jsonl:2: id is empty"),
        (ROW | {"id": 1.5}, r"file\.jsonl:2: id is 1\.5"),
        (ROW | {"id": "b", "question": " \n"}, r"file\.jsonl:2: id 'b': question is empty"),
        (ROW | {"id": "b", "answer": ""}, "answer is empty"),
        (ROW | {"id": "b", "answer": None}, "answer is null; wanted text"),
        (ROW | {"id": "b", "answer": [4, 5]}, "answer is a list of 2; wanted one answer"),
        (ROW | {"id": "b", "answer": []}, "answer is a list of 0; wanted one answer"),
        (ROW | {"id": "b", "answer": {"value": 4}}, "answer is an object; wanted text"),
        ('{"id": "b", "question": "?", "answer": NaN}', "answer is nan; wanted a finite number"),
        (ROW | {"id": "b", "choices": CHOICES}, "answer '4' is none of the choices: write one of the letters A, B"),
        (ROW | {"id": "b", "choices": 3}, "choices is a number; wanted an object"),
        (ROW | {"id": "b", "choices": "A, B"}, "choices is the text 'A, B'; as a text it must be JSON"),
        (ROW | {"id": "b", "choices": ["red", ""]}, "choices has an option that is empty"),
        (ROW | {"id": "b", "choices": {"label": ["A"], "text": []}}, "choices does not have one text per letter"),
        (ROW | {"id": "b", "choices": ["x"] * 27}, "choices does not have one text per letter"),
    ],
)
def test_a_wrong_question_is_named_by_line_and_id(jsonl, row, message: str):
    with pytest.raises(DataError, match=message):
        read_questions(jsonl(ROW, row))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rationale": 4}, "id 'a': rationale is a number; wanted text"),
        ({"source": ["gpt"]}, "source is a list"),
        ({"teacher_answer": False}, "teacher_answer is true or false"),
        ({"token_weights": "half"}, "token_weights is the text 'half'"),
        ({"token_weights": {"0": 1}}, "token_weights is an object"),
        ({"token_weights": [[0, 1]]}, r"token_weights has \[0, 1\]; wanted \[start, stop, weight\]"),
        ({"token_weights": [[0, 11, 1]]}, "<= 10, the rationale's length"),
        ({"token_weights": [[3, 3, 1]]}, "start < stop"),
        ({"token_weights": [[-1, 3, 1]]}, "0 <= start"),
        ({"token_weights": [[0, 1.5, 1]]}, "wanted"),
        ({"token_weights": [[0, 1, 1.01]]}, "between 0 and 1"),
        ({"token_weights": [[0, 3, 1], [2, 4, 1]]}, r"the span \[2, 4\) where the one before it only ends at 3"),
    ],
)
def test_a_wrong_rationale_is_named_by_line_and_id(jsonl, change, message: str):
    with pytest.raises(DataError, match=message):
        read_rationales(jsonl(EXPLAINED | change))


def test_a_file_without_rationales_says_where_they_may_come_from(jsonl):
    with pytest.raises(
        DataError, match=r"no column 'rationale' .* data\.columns\.rationale, or .* teacher\.rationales"
    ):
        read_rationales(jsonl(ROW))


@pytest.mark.parametrize("length", [1, 20, 60])
def test_a_torn_last_line_is_called_incomplete(jsonl, length: int):
    path = jsonl(ROW, EXPLAINED | {"id": "b"})
    path.write_bytes(path.read_bytes()[: -length - 1])
    with pytest.raises(DataError, match=r"file\.jsonl:2: not valid JSON .* incomplete: delete it"):
        read_questions(path)


def test_a_file_that_is_absent_empty_or_of_another_kind(tmp_path: Path, jsonl):
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file"):
        read_questions(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match=r"must end in \.jsonl, \.json, \.csv, \.tsv or \.parquet"):
        check_file(tmp_path / "file.txt")
    with pytest.raises(DataError, match=r"file\.jsonl: the file holds no rows"):
        read_questions(jsonl())


def test_check_finds_everything_at_once(jsonl):
    path = jsonl(
        EXPLAINED | {"answer": "", "token_weights": 1},
        "{",
        EXPLAINED | {"id": "c", "rationale": ""},
        EXPLAINED | {"id": "d", "teacher_answer": "5"},
        EXPLAINED | {"id": "e", "rationale": "2 + 2 is the"},
        EXPLAINED | {"id": "f", "teacher_answer": "4.0"},
        {"id": "g"},
        {"id": "h"},
    )
    found = [
        (finding.line, finding.id, finding.severity, finding.message.split(":")[0]) for finding in check_file(path)
    ]
    assert found == [
        (1, "a", "error", "answer is empty"),
        (1, "a", "error", "token_weights is a number; wanted a list of [start, stop, weight]"),
        (2, "", "error", "not valid JSON (Expecting property name enclosed in double quotes at character 2)"),
        (3, "c", "warning", "empty rationale"),
        (4, "d", "warning", "reaches '5', not the gold answer '4'"),
        (5, "e", "warning", "breaks off at '2 + 2 is the'"),
        (7, "g", "error", "no column 'question' among id"),
        (7, "g", "error", "no column 'answer' among id"),
        (7, "g", "error", "no column 'rationale' among id"),
    ]


def test_a_question_file_with_an_unused_rationale_column_is_fine(jsonl):
    assert check_file(jsonl(EXPLAINED | {"rationale": ""})) == []


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_csv_file(tmp_path: Path):
    header = ["id", "question", "answer", "choices", "rationale", "token_weights", "teacher_answer"]
    quoted = ["b", 'Which, "now"?\nThis?', "B", '["red", "blue"]', "B,\nso", "[[0, 1, 1]]", "B"]
    path = write_csv(tmp_path / "file.csv", [header, ["a", "2?", "2", "", "Two.", "", ""], [], quoted])
    assert read_rationales(path)[0] == [
        Rationale("a", Question("a", "2?", "2"), "Two."),
        Rationale("b", Question("b", 'Which, "now"?\nThis?', "B", CHOICES), "B,\nso", "unknown", "B", ((0, 1, 1.0),)),
    ]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"id,question,answer\na,?,4\nb,?\n", r"file\.csv:3: 2 cells under 3 columns"),
        (b"id,question,answer\na,?,4,5\n", r"file\.csv:2: 4 cells under 3 columns"),
        (b'id,question,answer\n"a\n",?,4\nb,,4\n', r"file\.csv:4: id 'b': question is empty"),
        (b'id,question,answer\na,?,"4\n', r"file\.csv:2: not valid CSV \(unexpected end of data\)"),
        (b'id,question,answer\na,"?"x,4\n', r"file\.csv:2: not valid CSV \(.*expected after"),
        (b"id,question,answer\na,?\xe9,4\n", r"file\.csv: no row is left; all were dropped: broken character \(1\)"),
        (b"id,question,answer\na,?\x00,4\n", r"file\.csv: no row is left; all were dropped: NUL character \(1\)"),
        (b"id,question,\xe9\na,?,4\n", "the header holds bytes that are not UTF-8: save the file as UTF-8"),
        (b"id,id,answer\n", "two columns are called 'id'"),
        (b"a,?,4\nb,?,5\n", "no column 'question' among a, "),
        (b"", r"file\.csv: the file holds no rows"),
    ],
)
def test_a_wrong_csv_file(tmp_path: Path, raw: bytes, message: str):
    (tmp_path / "file.csv").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read_questions(tmp_path / "file.csv")


def test_a_csv_file_may_have_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "file.csv").write_bytes(b"\xef\xbb\xbfid,question,answer\r\na,?,4\r\n")
    assert read_questions(tmp_path / "file.csv") == [Question("a", "?", "4")]


def test_a_parquet_file(tmp_path: Path):
    rows = [
        EXPLAINED | {"answer": "A", "choices": CHOICES | {"C": "green"}, "token_weights": [[0.0, 1.0, 0.5]]},
        EXPLAINED | {"id": "b", "answer": "B", "choices": CHOICES, "rationale": None},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "file.parquet")
    rationales, dropped = read_rationales(tmp_path / "file.parquet")
    question = Question("a", "2 + 2?", "A", CHOICES | {"C": "green"})
    assert rationales == [Rationale("a", question, "2 + 2 = 4.", "unknown", None, ((0, 1, 0.5),))]
    assert dropped == [Dropped("b", "empty rationale")]
    assert read_questions(tmp_path / "file.parquet")[1] == Question("b", "2 + 2?", "B", CHOICES)


def test_a_wrong_parquet_file_is_named_by_row(tmp_path: Path):
    path = tmp_path / "file.parquet"
    parquet.write_table(pa.table({"id": ["a", "b"], "question": ["?", "?"], "answer": [4, None]}), path)
    with pytest.raises(DataError, match=r"file\.parquet:2: id 'b': answer is null"):
        read_questions(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"file\.parquet:1: not a valid Parquet file"):
        read_questions(path)


words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20).filter(str.strip)
written = st.lists(st.tuples(words, words, words), min_size=1, max_size=4, unique_by=lambda row: row[0])


@settings(max_examples=40)
@given(written, st.sampled_from([".jsonl", ".csv", ".parquet"]))
def test_whatever_is_written_is_read_back(tmp_path_factory, rows, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    named = [dict(zip(("id", "question", "answer"), row, strict=True)) for row in rows]
    if suffix == ".jsonl":
        path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in named).encode())
    elif suffix == ".csv":
        write_csv(path, [list(named[0]), *(list(row) for row in rows)])
    else:
        parquet.write_table(pa.Table.from_pylist(named), path)
    assert read_questions(path) == [Question(id_, asked.strip(), answer.strip()) for id_, asked, answer in rows]


@settings(max_examples=40)
@given(st.binary(max_size=60), st.sampled_from([".jsonl", ".csv", ".parquet"]))
def test_any_bytes_are_read_or_found_wrong(tmp_path_factory, raw, suffix):
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(raw)
    assert any(finding.severity == "error" for finding in check_file(path))


PUBLIC_FILES = ["gsm8k/test", "aqua/test", "svamp/train", "svamp/train.gpt-4o", "nasty"]


@pytest.mark.skipif("KPOD_DATA" not in os.environ, reason="needs the public data sets: set KPOD_DATA to their folder")
@pytest.mark.parametrize("name", tiered(PUBLIC_FILES, PUBLIC_FILES[:-1]))
def test_the_public_files_hold_no_errors(name: str):
    path = Path(os.environ["KPOD_DATA"]) / f"{name}.jsonl"
    assert [finding for finding in check_file(path) if finding.severity == "error"] == []
    assert len(read_questions(path)) == path.read_bytes().count(b"\n")
