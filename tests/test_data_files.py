"""Files as people save them: encodings, separators, arrays, archives, and rows that hold what no text does."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from kpod.data import lines
from kpod.data.csv_tables import SEPARATORS, separator_of
from kpod.data.reader import check_file, read_file, read_questions
from kpod.records import Dropped, Question
from kpod.records.errors import DataError

ROWS = [
    {"id": "a", "question": "Wie groß, in €?", "answer": "4"},
    {"id": "b", "question": "多少; 个?\nJa|nein?", "answer": "5"},
    {"id": "c", "question": 'Say "so"\tnow: 😀', "answer": "6"},
]
QUESTIONS = [Question(row["id"], row["question"], row["answer"]) for row in ROWS]


def table(separator: str, rows: list[dict[str, str]] = ROWS) -> str:
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row.values()] for row in rows]
    return "\r\n".join(separator.join(cells) for cells in [list(rows[0]), *quoted]) + "\r\n"


def jsonl(rows: list[dict[str, Any]] = ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


KINDS = {
    "file.jsonl": jsonl(),
    "file.json": json.dumps(ROWS, ensure_ascii=False, indent=1),
    "file.csv": table(","),
    "file.tsv": table("\t"),
}
ENCODINGS = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16 LE with mark": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16 BE with mark": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-16 LE": lambda text: text.encode("utf-16-le"),
    "UTF-16 BE": lambda text: text.encode("utf-16-be"),
    "UTF-32": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "UTF-32 BE": lambda text: codecs.BOM_UTF32_BE + text.encode("utf-32-be"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", KINDS)
def test_an_encoding_that_is_certain_is_read(tmp_path: Path, name: str, encoding: str, packed: bool):
    raw = ENCODINGS[encoding](KINDS[name])
    path = write(tmp_path / (f"{name}.gz" if packed else name), gzip.compress(raw) if packed else raw)
    assert read_questions(path) == QUESTIONS
    assert check_file(path) == []


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
@pytest.mark.parametrize(
    ("encoding", "texts", "named"),
    [
        ("latin-1", ["Café?", "Wie groß?", "Now?"], "Windows-1252"),
        ("cp1252", ["“Why”?", "It’s 5 €?"], "Windows-1252"),
        ("cp1252", ["Où ça?", "Àh…", "½ of it?"], "Windows-1252"),
        ("gbk", ["多少钱？", "几个苹果？"], "its encoding is unknown"),
        ("shift-jis", ["いくらですか", "何個ありますか"], "its encoding is unknown"),
        ("cp1251", ["Сколько?", "Почему?"], "its encoding is unknown"),
    ],
)
def test_another_encoding_is_named_in_one_line_with_what_helps(tmp_path: Path, kind: str, encoding, texts, named: str):
    rows = [{"id": str(k), "question": text, "answer": "4"} for k, text in enumerate(texts)]
    content = {"csv": table(",", rows), "jsonl": jsonl(rows), "json": "[" + ",\n".join(jsonl(rows).splitlines()) + "]"}
    path = write(tmp_path / f"file.{kind}", content[kind].encode(encoding))
    with pytest.raises(DataError, match=rf"file\.{kind}: the text .*{named}.*: save the file as UTF-8$"):
        read_questions(path)
    assert len(check_file(path)) == 1


BROKEN: dict[str, tuple[bytes, str]] = {
    "half a character": (rb'"\ud83d"', "broken character"),
    "a byte that is not UTF-8": (b'"what \xff?"', "broken character"),
    "a text in Latin-1": (b'"caf\xe9?"', "broken character"),
    "a character cut off": ("€".encode()[:2].join([b'"', b'"']), "broken character"),
    "an escaped NUL": (rb'"4\u0000"', "NUL character"),
    "a NUL": (b'"4\x00"', "NUL character"),
}


@pytest.mark.parametrize("column", ["id", "question", "answer", "rationale", "source", "teacher_answer", "choices"])
@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", ["file.jsonl", "file.json"])
def test_one_broken_text_drops_its_row_and_the_rest_is_read(tmp_path: Path, column: str, kind: str, name: str):
    text, reason = BROKEN[kind]
    good = [{"id": str(k), "question": f"{k}é?", "answer": "A", "rationale": "So.", "choices": ["x"]} for k in range(8)]
    rows = [json.dumps(row, ensure_ascii=False).encode() for row in good]
    cell = b"[" + text + b"]" if column == "choices" else text
    rows[3] = rows[3][:-1].replace(f'"{column}"'.encode(), b'"other"') + f', "{column}": '.encode() + cell + b"}"
    raw = b"[" + b",\n".join(rows) + b"]" if name == "file.json" else b"\n".join(rows) + b"\n"
    reading = read_file(write(tmp_path / name, raw), explained=True)
    assert [entry.id for entry in reading.entries] == ["0", "1", "2", "4", "5", "6", "7"]
    assert reading.dropped == [Dropped("line 4" if column == "id" else "3", reason)]
    (finding,) = check_file(tmp_path / name)
    assert (finding.line, finding.severity, finding.dropped) == (4, "warning", reason)
    assert column in finding.message


def test_a_broken_column_name_drops_its_row(tmp_path: Path):
    raw = jsonl().encode() + b'{"id": "d", "q\xffestion": "?", "answer": "4"}\n'
    reading = read_file(write(tmp_path / "file.jsonl", raw), explained=False)
    assert ([entry.id for entry in reading.entries], reading.dropped) == (
        ["a", "b", "c"],
        [Dropped("d", "broken character")],
    )
    assert reading.notes == ()


def test_a_broken_text_that_nobody_reads_drops_nothing(tmp_path: Path):
    raw = b'{"id": "a", "question": "?", "answer": "4", "note": "\xff"}\n'
    reading = read_file(write(tmp_path / "file.jsonl", raw), explained=False)
    assert ([entry.id for entry in reading.entries], reading.dropped) == (["a"], [])


@pytest.mark.parametrize("broken", [b"what \xff?", b"4\x00", b"caf\xe9"])
def test_a_broken_cell_of_a_csv_drops_its_row(tmp_path: Path, broken: bytes):
    raw = b"id,question,answer\na,\xc3\xa9?,4\nb," + broken + b",5\nc,d?,6\n"
    reading = read_file(write(tmp_path / "file.csv", raw), explained=False)
    assert [entry.id for entry in reading.entries] == ["a", "c"]
    assert [item.id for item in reading.dropped] == ["b"]


def test_a_broken_text_of_a_parquet_file_drops_its_row(tmp_path: Path):
    offsets = pa.array([0, 1, 2, 3], pa.int32()).buffers()[1]
    broken = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"a\xffc"))
    columns = {"id": ["a", "b", "c"], "question": broken, "answer": ["1", "2", "3"]}
    parquet.write_table(pa.table(columns), tmp_path / "file.parquet")
    reading = read_file(tmp_path / "file.parquet", explained=False)
    assert [entry.id for entry in reading.entries] == ["a", "c"]
    assert reading.dropped == [Dropped("b", "broken character")]


def test_a_file_of_broken_rows_alone_is_an_error(tmp_path: Path):
    path = write(tmp_path / "file.jsonl", '{"id": "a", "question": "\\ud800", "answer": "4"}\n' * 2)
    message = r"file\.jsonl: no row is left; all were dropped: broken character \(2\)\. The first: question holds half"
    with pytest.raises(DataError, match=message):
        read_questions(path)


def test_one_text_in_latin_1_says_so(tmp_path: Path):
    path = write(tmp_path / "file.csv", b"id,question,answer\n1,caf\xe9?,4\n")
    with pytest.raises(DataError, match=r"byte 0xE9, which is not UTF-8 \('é' in Latin-1: save the file as UTF-8\)"):
        read_questions(path)


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("first", ["", "sep={}\r\n", '"sep={}"\n', "SEP={}\n"])
@pytest.mark.parametrize("name", ["file.csv", "file.tsv"])
def test_every_separator_is_found(tmp_path: Path, separator: str, first: str, name: str):
    path = write(tmp_path / name, "\ufeff" + first.format(separator) + table(separator))
    assert read_questions(path) == QUESTIONS
    assert check_file(path) == []


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("id,question,answer\na,1; 2; 3 or 4?,4\n", ","),
        ("id,question,answer\na,1;2;3;4,4\n", ","),
        ("id;question;answer\na;1, 2, 3 or 4?;4\n", ";"),
        ("id;question;answer\na;1,5;2,5\n", ";"),
        ('"id";"question";"answer"\n"a";"1, 2";"4"\n', ";"),
        ('id,"a;b;c;d",question,answer\n1,2,3,4\n', ","),
        ("id,a;b,question,answer\n1,2,3,4\n", ","),
        ('"a;b"\n1\n2\n', ","),
        ("a;b\n1\n2\n", ","),
        ("a|b\n1|2\n", "|"),
        ("question\tanswer\nHow many, then?\t4\n", "\t"),
        ("id;question, as asked;answer\n1;What, now?;4\n", ";"),
        ("id;question;answer\n1;no answer\n2;?;3\n", ";"),
        ("text\nhello; you\n", ","),
        ("question;answer\nWhat; now?;4\nWho; me?;5\n", ";"),
        ("question,answer\nWhat; now?,4\nWho; me?,5\n", ","),
        ("", ","),
    ],
)
def test_the_separator_is_that_of_the_header_and_never_of_a_text(text: str, separator: str):
    assert separator_of(text.splitlines(keepends=True)) == separator


cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60)
@given(st.sampled_from(SEPARATORS), st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_whatever_the_texts_hold_the_header_tells_the_separator(tmp_path_factory, separator: str, texts):
    rows = [{"id": str(k), "question": asked, "answer": answer} for k, (asked, answer) in enumerate(texts)]
    path = write(tmp_path_factory.getbasetemp() / "any.csv", table(separator, rows))
    assert [(q.question, q.answer) for q in read_questions(path)] == [(a.strip(), b.strip()) for a, b in texts]


def test_a_row_of_separators_alone_is_blank(tmp_path: Path):
    path = write(tmp_path / "file.csv", ";;\nid;question;answer\na;?;4\n;;\n;;\n")
    assert read_questions(path) == [Question("a", "?", "4")]


@pytest.mark.parametrize("first", ["", "sep=;\r"])
def test_lines_may_end_as_on_old_macs(tmp_path: Path, first: str):
    path = write(tmp_path / "file.csv", first + "id;question;answer\ra;What, now?;4\rb;?;5\r")
    assert read_questions(path) == [Question("a", "What, now?", "4"), Question("b", "?", "5")]


def test_a_row_of_other_length_is_named_with_the_separator(tmp_path: Path):
    path = write(tmp_path / "file.csv", "id;question;answer\na;?;4\nb;what; now?;5\n")
    with pytest.raises(
        DataError, match=r"file\.csv:3: 4 cells under 3 columns: put texts that contain the separator ';'"
    ):
        read_questions(path)


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path: Path):
    path = write(tmp_path / "file.csv", f"id,question,answer\na,{'x' * 200_000},4\n")
    assert len(read_questions(path)[0].question) == 200_000


def test_a_hundred_thousand_columns_are_read_in_seconds(tmp_path: Path):
    """They took ninety seconds while each name was counted among all others."""
    header = ["id", "question", "z", *(f"c{k}" for k in range(100_000))]
    path = write(tmp_path / "file.csv", ",".join(header) + "\n" + ",".join("4" for _ in header) + "\n")
    (finding,) = check_file(path)
    assert finding.message.startswith("no column 'answer' among id, question, z, c0, c1")
    assert finding.message.endswith("c8 and 99991 more: name it under data.columns.answer")


JSON_FORMS = {
    "an array": json.dumps(ROWS),
    "an array over lines": json.dumps(ROWS, indent=2),
    "an object with one list": json.dumps({"version": 2, "data": ROWS}),
    "an object with one list and a chat": json.dumps({"rows": ROWS, "about": [{"role": "user", "content": "x"}]}),
    "JSONL": jsonl(),
    "blank lines around": "\n \n" + jsonl() + "\n\n",
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson", ".json.gz"])
@pytest.mark.parametrize("form", JSON_FORMS)
def test_every_form_of_json_is_read(tmp_path: Path, suffix: str, form: str):
    if suffix.startswith((".jsonl", ".ndjson")) and form.startswith("an object"):
        pytest.skip("an object on one line is a row of JSONL")
    raw = JSON_FORMS[form].encode()
    path = write(tmp_path / f"file{suffix}", gzip.compress(raw) if suffix.endswith(".gz") else raw)
    assert read_questions(path) == QUESTIONS


def test_one_object_is_one_row(tmp_path: Path):
    assert read_questions(write(tmp_path / "file.json", json.dumps(ROWS[0], indent=2))) == QUESTIONS[:1]
    chat = {"messages": [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "2."}]}
    assert read_questions(write(tmp_path / "file.json", json.dumps(chat)))[0].question == "2?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"file\.json: the file holds no rows"),
        ("[]", r"file\.json: the file holds no rows"),
        ("3", r"file\.json:1: '3' is neither a JSON array of rows nor"),
        ("[3]", r"file\.json:1: '3' is not an object: write an array of JSON objects"),
        (
            '[{"id": 1, "question": "?", "answer": 2},\n{"id" 2}]',
            r"file\.json:2: not valid JSON \(Expecting ':' delimiter",
        ),
        ('[{"id": 1, "question": "?", "answer": 2},\n{"id": 2', r"file\.json:2: .* the array has no end"),
        ('[{"id": 1, "question": "?", "answer": 2}', r"file\.json:1: no comma and no \] after this row"),
        ('[{"id": 1, "question": "?", "answer": 2}] x', r"file\.json:1: text after the end of the array"),
        ('{"a": [{"q": 1}], "b": [{"q": 1}]}', r"file\.json: the object holds several lists of rows \(a, b\)"),
        ('{"q": {"0": "?"}, "a": {"0": 1}}', r"file\.json: the object holds columns, not rows: .*orient='records'"),
        ('{"q": ["?"], "a": [1]}', r"file\.json: the object holds columns, not rows"),
        ('{"id": 1,\n"q": 2}\n{"id": 1,\n"q": 2}', r"file\.json:1: several objects over several lines"),
        ('{"id": 1,\n"question"}', r"file\.json:2: not valid JSON \(Expecting ':' delimiter at character 11\)"),
        ('{"id": 1', r"file\.json:1: not valid JSON"),
        ("[" * 100_000, r"file\.json:1: JSON that cannot be read"),
        ("{}", "no column 'question' among none at all"),
    ],
)
def test_what_json_cannot_be_read_is_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message):
        read_questions(write(tmp_path / "file.json", text))


def test_errors_of_an_array_name_their_line(tmp_path: Path):
    path = write(tmp_path / "file.json", json.dumps([ROWS[0], ROWS[1] | {"answer": ""}], indent=1))
    with pytest.raises(DataError, match=r"file\.json:7: id 'b': answer is empty"):
        read_questions(path)


PACKED = gzip.compress(jsonl().encode() * 9)


@pytest.mark.parametrize("raw", [b"", b"no gzip", PACKED[:-20], PACKED[:40] + bytes(9) + PACKED[49:]])
def test_a_broken_archive_is_named(tmp_path: Path, raw: bytes):
    with pytest.raises(
        DataError, match=r"file\.jsonl\.gz: (not a valid gzip file \(.*\): write the file again|the file holds no)"
    ):
        read_questions(write(tmp_path / "file.jsonl.gz", raw))


def test_a_bomb_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "MOST_UNPACKED", 100_000)
    path = write(tmp_path / "file.jsonl.gz", gzip.compress(b" " * 3_000_000))
    with pytest.raises(DataError, match=r"file\.jsonl\.gz: unpacks to over 200 times its size"):
        read_questions(path)


def test_errors_in_the_same_words_are_one_finding(tmp_path: Path):
    rows = [{"id": str(k), "question": "?", "answer": "" if k else "4"} for k in range(7)]
    (finding,) = check_file(write(tmp_path / "file.jsonl", jsonl(rows)))
    assert (finding.line, finding.id) == (2, "1")
    assert finding.message == "answer is empty: fill it in or delete the row (5 more such: lines 3, 4, 5, ...)"
