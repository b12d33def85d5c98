"""Named data sets: the offline layout, files, the Hub's schemas, and which rationales meet which questions."""

import json
import os
import random
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pytest

from kpod.data.datasets import DATASETS, load_questions, load_rationales, training_questions
from kpod.data.hub import Part
from kpod.data.solutions import plain_number
from kpod.data.splits import paper_splits, question_key
from kpod.recipe import ColumnsConfig, DataConfig, TeacherConfig
from kpod.records import Dropped, Question, Rationale
from kpod.records.errors import DataError
from tiers import tiered

OWN = TeacherConfig()
PUBLIC = os.environ.get("KPOD_DATA")


def rows(ids: str, **columns: Any) -> list[dict[str, Any]]:
    """One row per letter of `ids`."""
    return [{"id": id_, "question": f"{id_}?", "answer": "4"} | columns for id_ in ids]


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


@pytest.fixture(autouse=True)
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KPOD_DATA", raising=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline layout under KPOD_DATA; the teacher `gem` leaves out c and is empty for b."""
    write(tmp_path / "gsm8k" / "train.jsonl", rows("abcde", rationale="Own.", source="human"))
    write(tmp_path / "gsm8k" / "test.jsonl", rows("xyz"))
    taught = [row | {"rationale": "" if row["id"] == "b" else "Four."} for row in rows("abde")]
    write(tmp_path / "gsm8k" / "train.gem.jsonl", taught)
    samples = [row | {"id": f"{row['id']}/{k}", "rationale": f"Way {k}."} for row in rows("ab") for k in range(2)]
    write(tmp_path / "gsm8k" / "train.gem.samples.jsonl", samples)
    write(tmp_path / "csqa" / "test.jsonl", rows("k", answer="A", choices={"A": "red", "B": "blue"}))
    write(tmp_path / "svamp" / "train.jsonl", rows("s", rationale="", source="none"))
    write(tmp_path / "svamp" / "train.gem.jsonl", rows("s", rationale="Four."))
    write(tmp_path / "multiarith" / "test.jsonl", rows("m"))
    write(tmp_path / "asdiv" / "train.gem.jsonl", rows("fgh", rationale="Four."))
    monkeypatch.setenv("KPOD_DATA", str(tmp_path))
    return tmp_path


def ids(items: list[Any]) -> list[str]:
    return [item.id for item in items]


def loaded(config: DataConfig, teacher: TeacherConfig) -> tuple[list[Rationale], list[Dropped]]:
    found = load_rationales(config, teacher)
    return found.rationales, found.dropped


def test_a_built_in_name_is_served_from_the_root(root: Path):
    assert ids(load_questions("gsm8k", DataConfig())) == ["x", "y", "z"]
    assert ids(load_questions("gsm8k:train", DataConfig())) == list("abcde")
    assert load_questions("commonsense_qa", DataConfig())[0].choices == {"A": "red", "B": "blue"}
    assert ids(load_questions("multiarith", DataConfig())) == ["m"]


def test_data_root_wins_over_the_variable(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KPOD_DATA", str(root / "nowhere"))
    assert ids(load_questions("gsm8k", DataConfig(root=str(root)))) == ["x", "y", "z"]


def test_limits_count_questions(root: Path):
    assert ids(load_questions("gsm8k", DataConfig(test_limit=2, train_limit=1))) == ["x", "y"]
    assert ids(training_questions(DataConfig(train="gsm8k", test_limit=1, train_limit=2))) == ["a", "b"]


def test_the_layout_s_columns_are_its_own_and_a_file_s_are_the_recipe_s(root: Path):
    path = write(root / "mine.jsonl", [{"key": "a", "question": "a?", "answer": 4}])
    config = DataConfig(columns=ColumnsConfig(id="key"))
    assert load_questions(str(path), config) == [Question("a", "a?", "4")]
    assert ids(load_questions("gsm8k", config)) == ["x", "y", "z"]


def test_a_path_is_relative_to_the_current_folder(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(root / "gsm8k")
    assert ids(load_questions("test.jsonl", DataConfig())) == ["x", "y", "z"]


def test_word_problems_need_no_files():
    kept, dropped = loaded(DataConfig(train_limit=5), OWN)
    assert [rationale.source for rationale in kept] == ["word_problems"] * 5
    assert dropped == []
    with pytest.raises(DataError, match="word_problems has no split 'dev'; choose one of train, test, validation"):
        load_questions("word_problems:dev", DataConfig())
    parts = [load_questions(f"word_problems:{split}", DataConfig()) for split in ("train", "test", "validation")]
    assert [len(part) for part in parts] == [2000, 500, 500]
    assert len({question.question for part in parts for question in part}) == 3000


def test_own_rationales(root: Path):
    kept, dropped = loaded(DataConfig(train="gsm8k", train_limit=2), OWN)
    assert [(rationale.id, rationale.text, rationale.source) for rationale in kept] == [
        ("a", "Own.", "human"),
        ("b", "Own.", "human"),
    ]
    assert dropped == []


def test_a_teacher_beside_the_training_set(root: Path):
    kept, dropped = loaded(DataConfig(train="gsm8k"), TeacherConfig(rationales="gem"))
    assert ids(kept) == ["a", "d", "e"]
    assert dropped == [Dropped("b", "empty rationale"), Dropped("c", "no rationale")]


def test_the_limit_counts_questions_whether_or_not_the_teacher_explained_them(root: Path):
    kept, dropped = loaded(DataConfig(train="gsm8k", train_limit=4), TeacherConfig(rationales="gem"))
    assert ids(kept) == ["a", "d"]
    assert dropped == [Dropped("b", "empty rationale"), Dropped("c", "no rationale")]


def test_several_rationales_of_a_question_count_as_one_question(root: Path):
    kept, dropped = loaded(DataConfig(train="gsm8k", train_limit=2), TeacherConfig(rationales="gem.samples"))
    assert [(rationale.id, rationale.question.id) for rationale in kept] == [
        ("a/0", "a"),
        ("a/1", "a"),
        ("b/0", "b"),
        ("b/1", "b"),
    ]
    assert dropped == []


def test_without_the_questions_own_file_the_teacher_s_file_lists_them(root: Path):
    kept, dropped = loaded(DataConfig(train="asdiv", train_limit=2), TeacherConfig(rationales="gem"))
    assert (ids(kept), dropped) == (["f", "g"], [])


def test_a_rationale_file_anywhere(root: Path):
    path = write(root / "mine.jsonl", rows("bq", rationale="Mine."))
    kept, dropped = loaded(DataConfig(train="gsm8k", train_limit=2), TeacherConfig(rationales=str(path)))
    assert ids(kept) == ["b"]
    assert dropped == [Dropped("q", "unknown question"), Dropped("a", "no rationale")]


def test_a_question_keeps_the_training_file_s_gold_answer_and_choices(root: Path):
    train = write(root / "q.jsonl", [{"id": "n/1", "question": "n?", "answer": "A", "choices": ["4", "5"]}])
    path = write(root / "r.jsonl", [{"id": "n/1", "question": "n?", "answer": "4", "rationale": "Four."}])
    kept, _ = loaded(DataConfig(train=str(train)), TeacherConfig(rationales=str(path)))
    assert kept[0].question == Question("n/1", "n?", "A", {"A": "4", "B": "5"})


def test_rationales_of_other_questions_under_the_same_ids_are_refused(root: Path):
    path = write(root / "mine.jsonl", rows("a", question="something else?", rationale="Mine."))
    with pytest.raises(DataError, match=r"mine\.jsonl:1: id 'a' asks another question than data\.train"):
        load_rationales(DataConfig(train="gsm8k"), TeacherConfig(rationales=str(path)))


@pytest.mark.parametrize(
    ("train", "rationales", "message"),
    [
        (
            "gsm9k",
            None,
            r"'gsm9k' is no data set \(word_problems, gsm8k, svamp, .* strategyqa\), .* nor a folder",
        ),
        ("gsm8k:dev", None, r"gsm8k/dev\.jsonl: no such file \(splits there: test, train\); put it there, or unset"),
        ("commonsense_qa", None, r"csqa/train\.jsonl: no such file"),
        (
            "svamp",
            None,
            r"data\.train svamp: no rationale to train on; .*\(empty rationale\).* \(teachers there: gem\)",
        ),
        ("gsm8k:test", None, "no column 'rationale' .* in teacher.rationales"),
        ("gsm8k", "gpt", r"teacher\.rationales: no .*train\.gpt\.jsonl; teachers there: gem, gem\.samples"),
        ("gsm8k", "gpt.jsonl", r"gpt\.jsonl: no such file"),
        (
            "word_problems",
            "gem",
            r"teacher\.rationales is 'gem', neither .* nor a teacher beside data\.train word_problems",
        ),
        ("own.csv", "gem", r"teacher\.rationales is 'gem', neither"),
    ],
)
def test_what_cannot_be_found_is_named_with_what_there_is(root: Path, train, rationales, message):
    with pytest.raises(DataError, match=message):
        load_rationales(DataConfig(train=train), TeacherConfig(rationales=rationales))


def test_a_rationale_file_for_another_training_set(root: Path):
    path = write(root / "mine.jsonl", rows("yz", rationale="Mine."))
    with pytest.raises(DataError, match=r"mine\.jsonl: .* Set data\.train \(now gsm8k\) to the questions"):
        load_rationales(DataConfig(train="gsm8k"), TeacherConfig(rationales=str(path)))


def test_without_a_root_an_unknown_name_says_how_to_have_one():
    with pytest.raises(DataError, match=r"'addsub' is no data set .* neither data\.root nor KPOD_DATA"):
        load_questions("addsub", DataConfig())


def test_a_root_that_is_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match=r"data\.root is 'nowhere', which is no folder"):
        load_questions("gsm8k", DataConfig(root="nowhere"))
    monkeypatch.setenv("KPOD_DATA", "nowhere")
    with pytest.raises(DataError, match="KPOD_DATA is 'nowhere', which is no folder"):
        load_questions("gsm8k", DataConfig())


HUB_ROWS: dict[tuple[str, str | None, str], list[dict[str, Any]]] = {
    ("openai/gsm8k", "main", "train"): [
        {
            "question": "Half of 2,400?",
            "answer": "It is 2400/2 = <<2400/2=1200>>1200.\nSo $<<1200=1200>>1200\n#### 1,200",
        }
    ],
    ("openai/gsm8k", "main", "test"): [{"question": f"{i}?", "answer": f"{i}.\n#### {i}"} for i in range(1319)],
    ("ChilleD/SVAMP", None, "test"): [
        {"ID": f"chal-{i}", "Body": f"{i} and {i}", "Question": "?", "Answer": f"{2 * i}.0"} for i in (1, 2)
    ],
    ("ChilleD/SVAMP", None, "train"): [
        {"ID": "chal-3", "Body": "3 and 3", "Question": "?", "Answer": "6.0"},
        {
            "ID": "chal-777",
            "Body": "There are 290 bananas in 2 groups",
            "Question": "How big is each group?",
            "Equation": "( 290.0 / 2.0 )",
            "Answer": "145.0",
            "Type": "Common-Division",
            "question_concat": "There are 290 bananas in 2 groups How big is each group?",
        },
    ],
    ("EleutherAI/asdiv", None, "validation"): [
        {
            "body": f"Ann has {i} apples.",
            "question": "How many?",
            "solution_type": "T",
            "answer": answer,
            "formula": "f",
        }
        for i, answer in enumerate(["9 (apples)", "6th", "3; 4", "red", "1,250.50 (dollars)", "-2 (degrees)", "7", "8"])
    ],
    ("tau/commonsense_qa", None, "train"): [
        {"id": f"{id_}{id_}", "question": f"{id_}?", "choices": {"label": ["A"], "text": ["x"]}, "answerKey": "A"}
        for id_ in "abc"
    ],
    ("tau/commonsense_qa", None, "validation"): [
        {
            "id": "075e",
            "question": "Where is it red?",
            "question_concept": "red",
            "choices": {"label": ["A", "B"], "text": ["barn", "sky"]},
            "answerKey": key,
        }
        for key in ("A", "")
    ],
    ("ChilleD/MultiArith", None, "test"): [{"question": "2 + 2?", "final_ans": "4"}],
    ("deepmind/aqua_rat", "raw", "test"): [
        {"question": "5 + 7?", "options": ["A)11", "B)12 (a dozen)"], "rationale": "It is 12.", "correct": "B"}
    ],
    ("ChilleD/StrategyQA", None, "test"): [
        {"qid": "s1", "question": "Is a rose a plant?", "answer": True},
        {"qid": "s2", "question": "Is a rose a car?", "answer": False},
    ],
    ("me/mine", None, "dev"): [{"question": "2?", "gold": 2, "rationale": "Two."}],
    ("me/mine", None, "train"): [{"id": 7, "question": "2?", "gold": 2, "rationale": "Two."}],
    ("me/old", None, "train"): [{"id": 7, "text": "2?"}],
}


LISTS: dict[str, dict[str, list[str]]] = {
    "gsm8k": {
        name: [question_key(f"{i}?") for i in rows] for name, rows in (("mcc-test", (7, 3)), ("mcc-validation", (5,)))
    },
    "svamp": {"validation": ["chal-3", "chal-1"], "test": ["chal-2"]},
    "asdiv": {split: [question_key(f"ann has {i} apples how many")] for split, i in (("validation", 6), ("test", 7))},
    "csqa": {"validation": ["bb"]},
}
"""The paper's lists, were its data sets those of HUB_ROWS."""


@pytest.fixture
def whole_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, name: str | None, *, split: str) -> datasets.Dataset:
        return datasets.Dataset.from_list([row for part in split.split("+") for row in HUB_ROWS[path, name, part]])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.fixture
def hub(whole_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpod.data.hub.paper_splits", LISTS.__getitem__)


def test_gsm8k_from_the_hub(hub):
    kept, dropped = loaded(DataConfig(train="gsm8k"), OWN)
    assert kept[0].question == Question("gsm8k-train-00000", "Half of 2,400?", "1200")
    assert (kept[0].text, kept[0].source, dropped) == ("It is 2400/2 = 1200.\nSo $1200", "human", [])


def test_the_official_test_rows_of_gsm8k_are_divided_in_file_order(hub):
    test = ids(load_questions("gsm8k", DataConfig()))
    assert (len(test), test[0]) == (659, "gsm8k-test-00660")
    assert DATASETS["gsm8k"].splits["validation"] == Part("test", 0, 660)


def test_the_whole_official_test_part(hub):
    assert len(load_questions("gsm8k:official", DataConfig())) == 1319


def test_the_sets_out_of_distribution_from_the_hub(hub):
    found = {name: load_questions(name, DataConfig()) for name in ("multiarith", "aqua", "strategyqa")}
    assert found["multiarith"] == [Question("multiarith-test-00000", "2 + 2?", "4")]
    assert found["aqua"] == [Question("aqua-test-00000", "5 + 7?", "B", {"A": "11", "B": "12 (a dozen)"})]
    assert [(q.id, q.answer) for q in found["strategyqa"]] == [("strategyqa-s1", "yes"), ("strategyqa-s2", "no")]


def test_mcc_kd_divides_the_official_test_rows_of_gsm8k_in_another_order(hub):
    assert ids(load_questions("gsm8k:mcc-test", DataConfig())) == ["gsm8k-test-00007", "gsm8k-test-00003"]
    assert ids(load_questions("gsm8k:mcc-validation", DataConfig())) == ["gsm8k-test-00005"]


def test_the_offline_layout_serves_mcc_kd_s_division_from_the_files_of_the_plain_one(root: Path, monkeypatch):
    write(root / "gsm8k" / "validation.jsonl", rows("vw"))
    lists = {"mcc-test": [question_key("x?"), question_key("v?")], "mcc-validation": [question_key("u?")]}
    monkeypatch.setattr("kpod.data.hub.paper_splits", {"gsm8k": lists}.__getitem__)
    assert ids(load_questions("gsm8k:mcc-test", DataConfig())) == ["x", "v"]
    assert ids(load_questions("gsm8k:official", DataConfig())) == ["v", "w", "x", "y", "z"]
    with pytest.raises(DataError, match=r"gsm8k \(validation, test\): 1 of the 1 rows"):
        load_questions("gsm8k:mcc-validation", DataConfig())
    write(root / "gsm8k" / "mcc-validation.jsonl", rows("u"))
    assert ids(load_questions("gsm8k:mcc-validation", DataConfig())) == ["u"]
    (root / "gsm8k" / "validation.jsonl").unlink()
    with pytest.raises(DataError, match=r"gsm8k/validation\.jsonl: no such file"):
        load_questions("gsm8k:official", DataConfig())


def test_svamp_from_the_hub(hub):
    question = Question("svamp-chal-777", "There are 290 bananas in 2 groups How big is each group?", "145")
    assert training_questions(DataConfig(train="svamp")) == [question]


def test_svamp_s_paper_splits_take_from_the_whole_hub_set_in_the_list_s_order(hub):
    assert ids(load_questions("svamp:validation", DataConfig())) == ["svamp-chal-3", "svamp-chal-1"]
    assert ids(load_questions("svamp", DataConfig())) == ["svamp-chal-2"]
    assert ids(load_questions("svamp:official", DataConfig())) == ["svamp-chal-1", "svamp-chal-2"]
    assert ids(load_questions("svamp:official-train", DataConfig())) == ["svamp-chal-3", "svamp-chal-777"]


def test_asdiv_from_the_hub_keeps_answers_of_one_number(hub):
    questions = training_questions(DataConfig(train="asdiv"))
    assert [(question.id, question.answer) for question in questions] == [
        ("asdiv-validation-00000", "9"),
        ("asdiv-validation-00001", "6"),
        ("asdiv-validation-00004", "1250.5"),
        ("asdiv-validation-00005", "-2"),
    ]
    assert questions[0].question == "Ann has 0 apples. How many?"


def test_asdiv_s_listed_questions_are_found_whatever_their_case_spaces_and_punctuation(hub):
    assert ids(load_questions("asdiv:validation", DataConfig())) == ["asdiv-validation-00006"]
    assert ids(load_questions("asdiv", DataConfig())) == ["asdiv-validation-00007"]


def test_commonsense_qa_from_the_hub_leaves_out_rows_without_an_answer(hub):
    question = Question("csqa-075e", "Where is it red?", "A", {"A": "barn", "B": "sky"})
    assert load_questions("commonsense_qa", DataConfig()) == [question]


def test_commonsense_qa_s_validation_rows_are_no_training_rows(hub):
    assert ids(training_questions(DataConfig(train="commonsense_qa"))) == ["csqa-aa", "csqa-cc"]
    assert ids(load_questions("commonsense_qa:validation", DataConfig())) == ["csqa-bb"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("svamp:train", r"ChilleD/SVAMP \(train\+test\): 299 of the 300 rows that the paper's splits list are missing"),
        ("svamp:test", r"ChilleD/SVAMP \(train\+test\): 149 of the 150 rows .*set KPOD_DATA"),
        ("asdiv", r"EleutherAI/asdiv \(validation\): 314 of the 314 rows .* \(\w{12}, \w{12}, \w{12}, \.\.\.\)"),
        ("commonsense_qa:train", r"tau/commonsense_qa \(train\): 1221 of the 1221 rows"),
        ("gsm8k:mcc-test", r"openai/gsm8k \(test\): 659 of the 659 rows"),
    ],
)
def test_a_hub_set_that_lacks_listed_rows_is_refused(whole_hub, name: str, message: str):
    with pytest.raises(DataError, match=message):
        load_questions(name, DataConfig())


def test_a_doubled_question_is_listed_once_and_never_left_in_the_others(hub, monkeypatch: pytest.MonkeyPatch):
    doubled = HUB_ROWS["EleutherAI/asdiv", None, "validation"]
    monkeypatch.setitem(HUB_ROWS, ("EleutherAI/asdiv", None, "validation"), [*doubled, doubled[7], doubled[0]])
    assert ids(load_questions("asdiv", DataConfig())) == ["asdiv-validation-00007"]
    assert ids(training_questions(DataConfig(train="asdiv")))[-2:] == [
        "asdiv-validation-00005",
        "asdiv-validation-00009",
    ]


def test_any_hub_data_set_with_the_recipe_s_columns(hub):
    config = DataConfig(train="hub:me/mine", columns=ColumnsConfig(answer="gold"))
    assert load_questions("hub:me/mine:dev", config) == [Question("dev-00000", "2?", "2")]
    assert ids(load_rationales(config, OWN).rationales) == ["7"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:me/old:train", r"hub:me/old:train:1: id '7': no column 'question' among id, text"),
        ("gsm8k:dev", "gsm8k has no split 'dev'; choose one of train, validation, test"),
        ("hub:me/absent", r"me/absent \(test\) could not be loaded .* KeyError.*HF_HUB_OFFLINE.*set KPOD_DATA"),
    ],
)
def test_what_the_hub_lacks(hub, name: str, message: str):
    with pytest.raises(DataError, match=message):
        load_questions(name, DataConfig())


def test_a_set_without_rationales_on_the_hub_asks_for_a_teacher(hub):
    with pytest.raises(DataError, match=r"no column 'rationale' .* in teacher\.rationales"):
        load_rationales(DataConfig(train="svamp"), OWN)
    with pytest.raises(DataError, match=r"nor a teacher beside data\.train svamp: set KPOD_DATA"):
        load_rationales(DataConfig(train="svamp"), TeacherConfig(rationales="gem"))


def test_a_changed_schema_on_the_hub_is_named(hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(HUB_ROWS, ("ChilleD/SVAMP", None, "train"), [{"ID": "chal-1", "text": "?"}])
    monkeypatch.setitem(HUB_ROWS, ("ChilleD/SVAMP", None, "test"), [])
    with pytest.raises(DataError, match="ChilleD/SVAMP has no column 'Body' any more; its columns are ID, text"):
        training_questions(DataConfig(train="svamp"))
    monkeypatch.setitem(HUB_ROWS, ("openai/gsm8k", "main", "train"), [{"question": "?", "answer": "4"}])
    with pytest.raises(DataError, match="no #### mark"):
        training_questions(DataConfig(train="gsm8k"))


def test_an_offline_hub_says_both_ways_out(monkeypatch: pytest.MonkeyPatch):
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"ConnectionError: Couldn't reach.*Go online .* or .* set KPOD_DATA"):
        load_questions("gsm8k", DataConfig())


@pytest.mark.parametrize(("text", "number"), [("1,000", "1000"), (" 100 ", "100"), ("0.50", "0.5"), ("-3.0", "-3")])
def test_gold_numbers_have_one_form(text: str, number: str):
    assert plain_number(text) == number


def test_every_built_in_set_has_the_paper_s_splits():
    for name in ("gsm8k", "svamp", "asdiv", "commonsense_qa"):
        assert {"train", "validation", "test"} <= set(DATASETS[name].splits)
    for name in ("multiarith", "aqua", "strategyqa"):
        assert "test" in DATASETS[name].splits


def test_the_paper_s_lists_have_its_sizes_and_no_row_twice():
    sizes = {
        folder: {split: len(keys) for split, keys in paper_splits(folder).items()}
        for folder in ("gsm8k", "asdiv", "svamp", "csqa", "aqua")
    }
    assert sizes == {
        "gsm8k": {"mcc-validation": 660, "mcc-test": 659},
        "asdiv": {"validation": 313, "test": 314},
        "svamp": {"validation": 150, "test": 150},
        "csqa": {"validation": 1221},
        "aqua": {},
    }
    for folder in sizes:
        keys = [*chain.from_iterable(paper_splits(folder).values())]
        assert len(set(keys)) == len(keys)


HUB_SCHEMAS = {
    "gsm8k": lambda row: {"question": row["question"], "answer": f"#### {row['answer']}"},
    "svamp": lambda row: {
        "ID": row["id"].removeprefix("svamp-"),
        **dict(zip(("Body", "Question"), row["question"].split(" ", 1), strict=True)),
        "Answer": f"{row['answer']}",
    },
    "asdiv": lambda row: {
        **dict(zip(("body", "question"), row["question"].split(" ", 1), strict=True)),
        "answer": f"{row['answer']} (pens)",
    },
    "commonsense_qa": lambda row: {
        "id": row["id"].removeprefix("csqa-"),
        "question": row["question"],
        "choices": {"label": [*row["choices"]], "text": [*row["choices"].values()]},
        "answerKey": row["answer"],
    },
}
"""Of each of the paper's sets, what the Hub makes of a row of the offline layout."""


@pytest.mark.skipif(not PUBLIC, reason="needs the public data sets: set KPOD_DATA to their folder")
@pytest.mark.parametrize("name", tiered(HUB_SCHEMAS, ["gsm8k", "commonsense_qa"]))
def test_the_hub_s_rows_are_divided_into_the_paper_s_files(name: str, monkeypatch: pytest.MonkeyPatch):
    """A Hub set with the offline rows, in a random order where files, not the official order, say who goes where."""
    parts = {
        split: load_questions(f"{name}:{split}", DataConfig(root=PUBLIC)) for split in ("train", "validation", "test")
    }
    raw = {split: [HUB_SCHEMAS[name](vars_of(question)) for question in part] for split, part in parts.items()}
    everything = [*chain.from_iterable(raw.values())]
    random.Random(0).shuffle(everything)
    served = {
        "gsm8k": {"train": raw["train"], "test": raw["validation"] + raw["test"]},
        "svamp": {"train": everything[:500], "test": everything[500:]},
        "asdiv": {"validation": everything},
        "commonsense_qa": {"train": raw["validation"] + raw["train"], "validation": raw["test"]},
    }[name]
    spec = DATASETS[name]
    for split, content in served.items():
        monkeypatch.setitem(HUB_ROWS, (spec.hub, spec.config, split), content)
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda path, config, split: chain(*(HUB_ROWS[path, config, s] for s in split.split("+"))),
    )
    for split, part in parts.items():
        found = load_questions(f"{name}:{split}", DataConfig())
        assert sorted(q.question for q in found) == sorted(q.question for q in part)
        if split != "train":
            assert [(q.question, q.answer, q.choices) for q in found] == [
                (q.question, q.answer, q.choices) for q in part
            ]
            assert name == "asdiv" or ids(found) == ids(part)


def vars_of(question: Question) -> dict[str, Any]:
    return {name: getattr(question, name) for name in ("id", "question", "answer", "choices")}


@pytest.mark.skipif(not PUBLIC, reason="needs the public data sets: set KPOD_DATA to their folder")
@pytest.mark.slow
def test_mcc_kd_s_division_of_gsm8k_is_that_of_its_index_list():
    listed = json.loads((Path(PUBLIC) / "gsm8k" / "mcc_kd_split.json").read_text())
    for split in ("validation", "test"):
        assert ids(load_questions(f"gsm8k:mcc-{split}", DataConfig(root=PUBLIC))) == listed[split]


@pytest.mark.skipif(not PUBLIC, reason="needs the public data sets: set KPOD_DATA to their folder")
def test_the_first_300_rows_of_asdiv_with_a_teacher_that_left_some_out():
    config = DataConfig(train="asdiv", train_limit=300, root=PUBLIC)
    kept, dropped = loaded(config, TeacherConfig(rationales="gpt-3.5-turbo"))
    assert (len(kept), len(dropped)) == (206, 94)
    assert {item.reason for item in dropped} == {"no rationale"}
