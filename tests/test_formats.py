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

from kpod.data.datasets import load_questions, load_rationales, questions_and_notes
from kpod.data.formats import FORMATS
from kpod.data.reader import check_file, checked_file, read_file, read_questions, read_rationales
from kpod.recipe import ColumnsConfig, DataConfig, TeacherConfig
from kpod.records import Dropped
from kpod.records.errors import DataError
from tiers import tiered

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


@pytest.mark.parametrize(
    "write", tiered(FILES, [f for f in FILES if f not in (in_jsonl, in_csv)]), ids=lambda write: write.__name__
)
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


R1 = {
    "uuid": "u1",
    "problem": ASKED[0],
    "answer": "8",
    "generations": [f"<think>Hm.</think>{BOXED[0]}", "<think>Hm, 6 + 2", r"6 + 3 = 9, so \boxed{9}."],
    "correctness_math_verify": [True, False, False],
}


def test_generations_are_rationales_of_one_question(tmp_path: Path):
    path = in_jsonl(tmp_path, [R1, R1 | {"uuid": "u2", "generations": [BOXED[0]]}])
    reading = read_file(path, explained=True)
    found = [
        (entry.id, entry.question.id, entry.rationale and entry.rationale.teacher_answer) for entry in reading.entries
    ]
    assert found == [("u1/0", "u1", "8"), ("u1/2", "u1", "9"), ("u2/0", "u2", "8")]
    assert reading.dropped == [Dropped("u1/1", "unfinished thought")]
    assert [question.id for question in read_questions(path)] == ["u1", "u2"]


def test_thoughts_are_left_aside_or_are_the_rationale(tmp_path: Path):
    path = in_jsonl(tmp_path, [R1])
    assert read_rationales(path)[0][0].text == BOXED[0]
    assert read_rationales(path, ColumnsConfig(thoughts="rationale"))[0][0].text == "Hm."
    notes = read_file(path, explained=True).notes
    assert f"{path}: thoughts left aside: 1; data.columns.thoughts: rationale trains on them instead" in notes


def test_ids_that_are_not_unique_are_no_ids(tmp_path: Path):
    rows = [{"uuid": "u", "idx": k, **row} for k, row in enumerate(FORMS["MATH"][0])]
    assert [question.id for question in read_questions(in_jsonl(tmp_path, rows))] == ["0", "1"]
    twice = [row | {"idx": 3} for row in rows]
    assert [question.id for question in read_questions(in_jsonl(tmp_path, twice))] == ["mine-00000", "mine-00001"]


def test_a_column_id_without_ids_is_none(tmp_path: Path):
    rows = [{"id": None, **row} for row in FORMS["MATH"][0]]
    assert [question.id for question in read_questions(in_jsonl(tmp_path, rows))] == ["mine-00000", "mine-00001"]


def test_rows_are_numbered_by_where_they_stand(tmp_path: Path):
    good, bad = {"question": "2?", "answer": "2"}, {"question": "\ud83d", "answer": "2"}
    path = in_jsonl(tmp_path, [good, bad, good])
    assert [question.id for question in read_questions(path)] == ["mine-00000", "mine-00002"]
    assert read_file(path, explained=False).dropped == [Dropped("mine-00001", "broken character")]


def test_ids_for_some_rows_alone_are_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"mine\.jsonl:2: has an id, but earlier rows have none: give every row an id"):
        read_questions(
            in_jsonl(tmp_path, [{"question": "2?", "answer": "2"}, {"id": 1, "question": "3?", "answer": "3"}])
        )
    with pytest.raises(DataError, match=r"mine\.jsonl:2: no column 'id' among question, answer"):
        read_questions(
            in_jsonl(tmp_path, [{"id": 1, "question": "3?", "answer": "3"}, {"question": "2?", "answer": "2"}])
        )


CHAT = [
    {"role": "system", "content": "Think."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "tool", "content": "calculator"},
    {"role": "assistant", "content": "2 + 2 = 4. The answer is 4."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def test_a_chat_counts_with_its_first_exchange_and_the_rest_is_told(tmp_path: Path):
    reading = read_file(in_jsonl(tmp_path, [{"id": "a", "messages": CHAT}] * 1), explained=True)
    (entry,) = reading.entries
    assert (entry.question.question, entry.question.answer) == ("2 + 2?", "4")
    assert entry.rationale is not None
    assert entry.rationale.text == "2 + 2 = 4. The answer is 4."
    told = [note.partition(": ")[2] for note in reading.notes]
    assert told == [
        "read as chat messages: question from messages, rationale and gold answer from messages",
        "system messages left aside: 1",
        "further turns left aside: 2",
        "messages of tools or others left aside: 1",
        "rationales that still state their answer: 1; teacher.strip_closing: true removes the sentence",
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "empty chat"),
        ({"messages": CHAT[:1]}, "no user turn"),
        ({"messages": CHAT[:2]}, "no stated answer"),
        ({"messages": [CHAT[1], {"role": "assistant", "content": "Who knows what it may be?"}]}, "no stated answer"),
        ({"messages": [CHAT[1], {"role": "assistant", "content": "<think>2 + 2"}]}, "unfinished thought"),
        ({"messages": [CHAT[1], {"role": "assistant", "content": "4\ud83d"}]}, "broken character"),
        ({"messages": [CHAT[1], {"role": "assistant", "content": "4\x00"}]}, "NUL character"),
    ],
)
def test_a_chat_that_cannot_be_used_is_dropped_and_the_rest_is_read(tmp_path: Path, row: dict[str, Any], reason: str):
    path = in_jsonl(tmp_path, [{"id": "a", "messages": CHAT}, {"id": "b"} | row, {"id": "c", "messages": CHAT}])
    rationales, dropped = read_rationales(path)
    assert [rationale.id for rationale in rationales] == ["a", "c"]
    assert dropped == [Dropped("b", reason)]
    assert [(f.line, f.id, f.severity, f.dropped) for f in check_file(path)] == [(2, "b", "warning", reason)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "[{'role': 'user'}]"}, r"messages is not a list of messages .*in a CSV the list must be JSON"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages has a message whose content is not a text"),
        ({"prompt": "2?", "completion": {"text": "3"}}, "completion is an object; wanted text"),
        ({"prompt": ["2?"], "completion": "3"}, "prompt is a list; wanted text"),
        ({"instruction": 3, "input": ["x"], "output": "3"}, "instruction is a list; wanted text"),
        ({"text": "2?"}, "no column 'question' among text: name it under data.columns.question"),
    ],
)
def test_what_is_no_form_is_named(tmp_path: Path, row: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        read_rationales(in_jsonl(tmp_path, [row]))


def test_alpaca_s_input_belongs_to_the_question(tmp_path: Path):
    rows = [{"instruction": "Add.", "input": "2 and 3", "output": "2 + 3 = 5. #### 5"}]
    assert read_questions(in_json(tmp_path, rows))[0].question == "Add.\n\n2 and 3"
    without = {"instruction": "Add 1 to 1.", "output": "2"}
    asked = [question.question for question in read_questions(in_json(tmp_path, [without] * 60 + rows))]
    assert asked == ["Add 1 to 1."] * 60 + ["Add.\n\n2 and 3"]


def test_a_prompt_of_several_turns_is_no_question(tmp_path: Path):
    several = {"prompt": CHAT[1:2] + CHAT[3:5], "completion": [CHAT[5]]}
    one = {"prompt": CHAT[:2], "completion": [CHAT[3]]}
    reading = read_file(in_jsonl(tmp_path, [several, one]), explained=True)
    assert reading.dropped == [Dropped("line 1", "chat of several turns")]
    assert [entry.question.question for entry in reading.entries] == ["2 + 2?"]


UNREADABLE = {
    "Alpaca": {"instruction": "Write a poem.", "input": "", "output": "Roses are red, violets are blue."},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello, how are you?"}]},
    "prompt and completion": {"prompt": "Tell me more.", "completion": "There is no more that I could tell."},
    "MATH and NuminaMath": {"problem": "Prove it.", "solution": "It is plain to see that this holds."},
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_solutions_that_state_no_answer_are_one_error_with_a_remedy_that_works(tmp_path: Path, name: str):
    path = in_jsonl(tmp_path, [UNREADABLE[name]] * 3)
    for read in (read_questions, read_rationales):
        with pytest.raises(
            DataError, match=rf"the columns are those of {name} .*\n  data:\n    columns:\n      answer: gold"
        ):
            read(path)
    assert [(finding.line, finding.severity) for finding in check_file(path)] == [(0, "error")]
    mended = in_jsonl(tmp_path, [UNREADABLE[name] | {"gold": "7"}] * 3)
    rationales, dropped = read_rationales(mended, ColumnsConfig(answer="gold"))
    assert ([rationale.question.answer for rationale in rationales], dropped) == (["7"] * 3, [])


def test_a_few_solutions_that_state_no_answer_are_dropped(tmp_path: Path):
    rows = FORMS["Alpaca"][0] + [UNREADABLE["Alpaca"]]
    rationales, dropped = read_rationales(in_jsonl(tmp_path, rows))
    assert len(rationales) == 2
    assert dropped == [Dropped("line 3", "no stated answer")]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("#### 8", "8"),
        ("####8\n", "8"),
        ("6 + 2 = 8\n#### 8", "8"),
        ("#### 1,200.50", "1200.5"),
        ("#### -3", "-3"),
        ("#### 5 km", "5 km"),
        ("#### 1/2", "1/2"),
        ("8", "8"),
        ("18 dollars", "18 dollars"),
        ("#5", "#5"),
        ("##### 5", "##### 5"),
        ("#### Step 1\nAdd.", "#### Step 1\nAdd."),
    ],
)
def test_a_gold_answer_behind_hashes_is_read_where_rationales_stand_beside(tmp_path: Path, answer: str, gold: str):
    row = {"id": "a", "question": "?", "answer": answer, "rationale": "So it is."}
    path = in_jsonl(tmp_path, [row])
    assert read_questions(path)[0].answer == gold
    (rationale,) = read_rationales(path)[0]
    assert (rationale.text, rationale.question.answer) == ("So it is.", gold)
    told = any("gold answers read behind ####: 1" in note for note in checked_file(path).notes)
    assert told == (answer != gold)


COT = {"prompt": "?", "completion": STATED[0], "cot": "So."}


@pytest.mark.parametrize(
    ("row", "columns", "text", "gold"),
    [
        ({"question": "?", "answer": MARKED[0]}, ColumnsConfig(rationale="answer"), TOLD[0], "8"),
        ({"question": "?", "answer": STATED[0]}, ColumnsConfig(rationale="answer"), STATED[0], "8"),
        ({"q": "?", "a": MARKED[0]}, ColumnsConfig(question="q", answer="a", rationale="a"), TOLD[0], "8"),
        ({"prompt": "?", "completion": STATED[0], "label": "9"}, ColumnsConfig(answer="label"), STATED[0], "9"),
        (COT, ColumnsConfig(rationale="cot", answer="completion"), "So.", STATED[0]),
        ({"instruction": "x", "ask": "?", "output": STATED[0]}, ColumnsConfig(question="ask"), STATED[0], "8"),
        ({"problem": "?", "solution": "S.", "mine": "So.", "answer": 7}, ColumnsConfig(rationale="mine"), "So.", "7"),
        ({"question": "?", "answer": 7, "rationale": "So.", "messages": CHAT}, ColumnsConfig(), "So.", "7"),
        ({"question": "?", "answer": 7, "solution": "So."}, ColumnsConfig(rationale="solution"), "So.", "7"),
    ],
)  # fmt: skip
def test_what_the_recipe_names_wins(tmp_path: Path, row: dict[str, Any], columns: ColumnsConfig, text: str, gold: str):
    (rationale,) = read_rationales(in_jsonl(tmp_path, [{"id": "a", **row}]), columns)[0]
    assert (rationale.question.question, rationale.text, rationale.question.answer) == ("?", text, gold)


@pytest.mark.parametrize(
    ("reasoning", "texts"), [("Two twos.", ["Two twos."]), ("4", []), ("4.0", []), ("It's 2 + 2.", ["It's 2 + 2."])]
)
def test_few_words_beside_a_gold_answer_are_a_rationale_unless_they_are_the_answer(tmp_path, reasoning, texts):
    path = in_jsonl(tmp_path, [{"id": "a", "question": "2 + 2?", "answer": 4, "reasoning": reasoning}])
    rationales, dropped = read_rationales(path)
    assert [rationale.text for rationale in rationales] == texts
    assert dropped == [Dropped("a", "empty rationale")] * (not texts)


def test_our_own_columns_may_be_in_capitals(tmp_path: Path):
    row = {"ID": "a", "Question": "2 + 2?", "Answer": 4, "Rationale": "Two twos."}
    (rationale,) = read_rationales(in_jsonl(tmp_path, [row]))[0]
    assert (rationale.id, rationale.text, rationale.question.answer) == ("a", "Two twos.", "4")
    assert read_questions(in_jsonl(tmp_path, [row])) == [rationale.question]


def test_a_list_of_rationales_needs_no_form(tmp_path: Path):
    row = {"id": "a", "question": "2 + 2?", "answer": "4", "rationale": ["Two twos.", "", "One and three."]}
    rationales, dropped = read_rationales(in_jsonl(tmp_path, [row]))
    assert [(r.id, r.question.id, r.text) for r in rationales] == [
        ("a/0", "a", "Two twos."),
        ("a/2", "a", "One and three."),
    ]
    assert dropped == [Dropped("a/1", "empty rationale")]


def test_options_make_the_answer_a_letter(tmp_path: Path):
    row = {"choices": ["red", "blue"], "prompt": "Which?", "completion": r"The sky is \boxed{blue}."}
    (question,) = read_questions(in_jsonl(tmp_path, [row]))
    assert (question.answer, question.choices) == ("B", {"A": "red", "B": "blue"})


@pytest.mark.parametrize(
    ("row", "question", "gold"),
    [
        ({"Body": "Ann has 2.", "Question": "How many?", "Answer": "2.0"}, "Ann has 2.\n\nHow many?", "2.0"),
        ({"question": "How many?", "final_ans": 2}, "How many?", "2"),
        ({"question": "Which?", "choices": {"label": ["A", "B"], "text": ["1", "2"]}, "answerKey": "B"}, "Which?", "B"),
        ({"problem": "How many?", "answer": "2"}, "How many?", "2"),
        ({"prompt": CHAT[:2], "answer": "4"}, "2 + 2?", "4"),
    ],
)
def test_test_sets_without_solutions(tmp_path: Path, row: dict[str, Any], question: str, gold: str):
    (found,) = read_questions(in_jsonl(tmp_path, [row]))
    assert (found.question, found.answer) == (question, gold)


def test_columns_that_are_not_used_are_named_and_harmless(tmp_path: Path):
    rows = [{"id": "a", "question": "?", "answer": "4", "rationale": "So.", "\x1b[2J": 1, "tags": "\ud800"}]
    checked = checked_file(in_jsonl(tmp_path, rows))
    assert checked.notes == (r"unused columns: '\x1b[2J', tags",)
    assert checked.findings == []


def test_every_form_of_the_table_names_columns_it_needs():
    for form in FORMATS:
        assert set(form.question) & set(form.needs)
        assert form.solution or form.answer


def test_recorded_rationales_without_ids_belong_to_the_question_that_they_repeat(tmp_path: Path):
    train = in_jsonl(tmp_path, [{"question": "1?", "answer": "1"}, {"question": "2?", "answer": "2"}])
    recorded = tmp_path / "recorded.jsonl"
    recorded.write_text(
        "".join(json.dumps({"question": f"{k}?", "answer": f"So {k}.\n#### {k}"}) + "\n" for k in (3, 2))
    )
    loaded = load_rationales(DataConfig(train=str(train)), TeacherConfig(rationales=str(recorded)))
    assert [(rationale.question.id, rationale.text) for rationale in loaded.rationales] == [("mine-00001", "So 2.")]
    assert loaded.dropped == [Dropped("recorded-00000", "unknown question"), Dropped("mine-00000", "no rationale")]
    assert [note.partition(":")[0] for note in loaded.notes] == [str(train), *[str(recorded)] * 2]


def test_dropped_rows_of_a_training_file_are_counted_once(tmp_path: Path):
    rows = [
        {"id": k, "question": f"{k}?", "answer": "1", "rationale": text} for k, text in enumerate(["So.", "\ud800"])
    ]
    loaded = load_rationales(DataConfig(train=str(in_jsonl(tmp_path, rows))), TeacherConfig())
    assert [rationale.id for rationale in loaded.rationales] == ["0"]
    assert loaded.dropped == [Dropped("1", "broken character")]
    assert [question.id for question in load_questions(str(in_jsonl(tmp_path, rows)), DataConfig())] == ["0", "1"]
