"""`kpod check` of files and recipes, and the same forecast at the start of a run."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kpod.commands.command_line import main
from kpod.experiment import artifacts
from kpod.experiment.pipeline import Pipeline, run
from kpod.recipe import Recipe
from kpod.recipe.loading import dump_recipe, load_recipe
from kpod.records import Question
from kpod.records.errors import DataError
from kpod.teacher.attempts import Attempt
from kpod.teacher.requests import requests_for
from kpod.teacher.store import Store
from tiers import tiered
from tiny_runs import recipe, write_tiny_data

UNREADABLE = "unclear"
"""A gold answer that no sentence can state."""
ESCAPE = "\x1b[2J\u202e"
KINDS = {"right": "{n} + 1 = {m}. The answer is {m}.", "wrong": "{n} + 1 = 0. The answer is 0.", "open": "It follows."}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(num: int, **more: object) -> list[dict[str, object]]:
    return [{"id": f"q{n}", "question": f"What is {n} plus 1?", "answer": str(n + 1)} | more for n in range(num)]


def explained(*kinds: str, **more: object) -> list[dict[str, object]]:
    rows = questions(len(kinds), **more)
    return [
        row | {"rationale": KINDS[kind].format(n=n, m=n + 1)}
        for n, (row, kind) in enumerate(zip(rows, kinds, strict=True))
    ]


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["check", *map(str, arguments)])
    return code, capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, object]]:
    code, out = said(capsys, *arguments, "--json")
    assert out.count("\n") == 1
    return code, json.loads(out)


# -- a file --------------------------------------------------------------------------------------------


def test_a_file_says_what_a_run_would_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # long paths are shortened
    path = write(Path("mine.jsonl"), explained("right", "right", "right", "wrong", "open"))
    code, out = said(capsys, path)
    assert code == 0
    assert f"train {path}: 5 read, 3 kept (60.0 %)" in out
    assert "wrong answer    q3  teacher.filter: gold" in out
    assert "unknown answer  q4  data.answer_words, teacher.filter: gold" in out
    assert "WARNING" not in out


def test_a_green_file_that_a_run_drops_is_not_green(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mostly = write(tmp_path / "mostly.jsonl", explained("right", *["open"] * 4))
    code, out = said(capsys, mostly)
    assert code == 0
    assert "WARNING: 4 of 5 rationales are dropped: 4 unknown answer (data.answer_words, teacher.filter: gold)" in out
    assert out.endswith("0 errors, 1 warnings\n")
    all_ = write(tmp_path / "all.jsonl", explained(*["open"] * 7))
    code, out = said(capsys, all_)
    assert code == 2
    assert "ERROR: no rationale is left to train on: 7 unknown answer" in out
    assert said(capsys, all_, "--teacher.filter", "none")[0] == 0


@pytest.mark.parametrize("rationales", [False, True])
def test_gold_answers_that_cannot_be_read_back_are_named_by_line(
    rationales: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = explained(*["right"] * 5) if rationales else questions(5)
    rows[3]["answer"] = UNREADABLE
    code, out = said(capsys, path := write(tmp_path / "f.jsonl", rows))
    assert code == 0
    assert f"{path}:4: warning: id 'q3': gold answer 'unclear' cannot be read back" in out
    assert "1 of 5 gold answers cannot be read back" in out
    for row in rows[:3]:
        row["answer"] = UNREADABLE
    code, out = said(capsys, write(path, rows))
    assert code == 2
    assert "ERROR:" in out
    assert "4 of 5 gold answers cannot be read back" in out


def test_a_file_of_questions_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = said(capsys, path := write(tmp_path / "f.jsonl", questions(3, remark="It follows.")))
    assert code == 0
    assert f"questions {path}: 3 read, 3 kept (100.0 %)" in out
    assert "there are no rationales in a column 'rationale' (columns: id, question, answer, remark)" in out
    code, out = said(capsys, path, "--rationale", "remark", "--teacher.filter", "none")
    assert f"train {path}: 3 read, 3 kept" in out


def test_of_each_kind_of_finding_twenty_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = explained(*["right"] * 90)
    for n, row in enumerate(rows[:60]):
        row["rationale"] = f"{row['rationale']} Alternatively," if n % 2 else ""
    path = write(tmp_path / "f.jsonl", rows)
    code, out = said(capsys, path)
    assert code == 0
    assert (out.count(": warning: id"), out.count("breaks off at"), out.count("is dropped")) == (40, 21, 20)
    assert f"{path}: ... and 10 more of the kind 'warning: breaks off at ...' (all: --all)" in out
    assert out.endswith("0 errors, 60 warnings\n")
    code, out = said(capsys, path, "--all")
    assert (code, out.count(": warning: id"), "... and" in out) == (0, 60, False)


def test_errors_of_a_file_in_the_same_words_are_told_once_with_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "f.jsonl", questions(30, answer=""))
    code, out = said(capsys, path)
    assert code == 2
    assert (out.count(": error: id"), "answer is empty: fill it in or delete the row (29 more such: lines" in out) == (
        1,
        True,
    )
    assert out.endswith("1 errors, 0 warnings\n")


def test_json_is_one_object_with_the_documented_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = explained("right", "wrong", "open", "open")
    rows[1]["id"] = f"z{ESCAPE}\x7f\ud800"
    code, found = as_json(capsys, write(tmp_path / "f.jsonl", [rows[0], *rows[2:]]))
    assert code == 0
    assert set(found) == {"target", "ok", "errors", "warnings", "sources", "findings"}
    (source,) = found["sources"]
    assert (source["role"], source["read"], source["kept"], source["not_asked"]) == ("train", 3, 1, 0)
    assert source["dropped"] == [
        {
            "reason": "unknown answer",
            "count": 2,
            "share": 2 / 3,
            "ids": ["q2", "q3"],
            "key": "data.answer_words, teacher.filter: gold",
        }
    ]
    assert found["warnings"] == source["warnings"] == ["2 of 3 rationales are dropped: " + found["warnings"][0][31:]]


def test_json_of_what_cannot_be_checked_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text("data: {trian: x}", encoding="utf-8")
    for target, told in ((tmp_path / "none.jsonl", "no such file"), (tmp_path / "r.yaml", "did you mean data.train")):
        code, found = as_json(capsys, target)
        assert (code, found["ok"], found["sources"]) == (2, False, [])
        assert told in found["errors"][0]


# -- a recipe ------------------------------------------------------------------------------------------


def written(tmp_path: Path) -> Path:
    return tmp_path / "recipe-given.yaml"


def test_a_recipe_is_checked_in_all_its_sources_and_nothing_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(data, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, found = as_json(capsys, written(tmp_path), "--training.validation.questions", data / "rationales.jsonl")
    assert (code, found["errors"], found["warnings"]) == (0, [], [])
    assert [(s["role"], s["read"], s["kept"]) for s in found["sources"]] == [
        ("train", 7, 6),
        ("test", 2, 2),
        ("validation", 7, 7),
    ]
    assert found["sources"][1]["notes"] == ["5 more questions are not asked (data.test_limit: 2)"]
    assert sorted(tmp_path.rglob("*")) == before


def test_rationales_that_the_student_cannot_read_are_told_from_those_that_the_recipe_shortens(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = artifacts.read_jsonl(data / "rationales.jsonl")[:3]
    rows[0]["rationale"] = "A long one. " * 100
    path = write(tmp_path / "long.jsonl", rows)
    recipe(data, tmp_path)
    for limit, told in (
        ("1000", "data.max_length: 1000"),
        ("100000", "the student reads at most 1024 tokens, whatever data.max_length (100000) allows"),
    ):
        _, found = as_json(capsys, written(tmp_path), "--data.train", path, "--data.max_length", limit)
        (dropped,) = found["sources"][0]["dropped"]
        assert (dropped["count"], dropped["ids"]) == (1, ["tiny-0"])
        assert dropped["key"].startswith(told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--method", "kpot"), "method is 'kpot'"),
        (("--training.learing_rate", "1"), "did you mean training.learning_rate?"),
        (("--data.train", "gone.jsonl"), "gone.jsonl: no such file"),
        (("--data.tests", "[gone.jsonl]"), "gone.jsonl: no such file"),
        (("--training.validation.questions", "gone.jsonl"), "gone.jsonl: no such file"),
        (("--schedule.embeddings", "gone.txt"), "schedule.embeddings is 'gone.txt'"),
        (("--data.prompt.closing", "So we get {answer}."), "data.prompt.closing is 'So we get {answer}.'"),
    ],
)
def test_what_would_fail_is_an_error_of_the_check(
    words: tuple[str, str], told: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(data, tmp_path)
    code, found = as_json(capsys, written(tmp_path), *words)
    assert code == 2
    assert len(found["errors"]) == 1
    assert told in found["errors"][0]


def test_a_student_that_cannot_be_loaded_is_a_warning(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(data, tmp_path, str(tmp_path / "nowhere"))
    code, found = as_json(capsys, written(tmp_path))
    assert (code, found["sources"][0]["kept"]) == (0, 6)
    assert "rationales were not checked against the length that the student reads" in found["warnings"][0]


def test_what_is_not_used_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = artifacts.read_jsonl(data / "rationales.jsonl")
    listed = write(tmp_path / "listed.jsonl", rows[:4])
    weighed = write(tmp_path / "weighed.jsonl", [row | {"token_weights": [[0, 2, 0.5]]} for row in rows[:6]])
    half = write(tmp_path / "half.jsonl", [rows[0] | {"token_weights": [[0, 2, 0.5]]}, rows[1]])
    recipe(data, tmp_path)

    def training(*words: object) -> tuple[dict[str, object], list[str]]:
        _, found = as_json(capsys, written(tmp_path), *words)
        return found["sources"][0], found["errors"]

    use, _ = training("--data.train", listed, "--teacher.rationales", data / "rationales.jsonl")
    assert (use["name"], use["dropped"][0]["reason"]) == (
        f"{listed}, rationales by {data / 'rationales.jsonl'}",
        "unknown question",
    )
    assert training("--data.train_limit", "2")[0]["notes"] == ["5 more rationales are not used (data.train_limit: 2)"]
    (tmp_path / "root" / "set").mkdir(parents=True)
    write(tmp_path / "root" / "set" / "train.jsonl", rows)
    built_in = ("--data.root", tmp_path / "root", "--data.train", "set", "--data.columns.id", "key")
    assert training(*built_in, "--data.tests", "[]")[0]["notes"] == [
        "data.columns is not used: a built-in set has the default columns"
    ]
    assert training("--data.train", weighed)[0]["notes"] == [
        "the keys of weighting are not used: the weights are read from the column token_weights"
    ]
    assert training("--data.train", weighed, "--method", "scotd")[0]["notes"] == [
        "the column token_weights is not used: the method scotd needs no learnt weights"
    ]
    assert training("--data.train", half)[1] == [
        "rationale 'tiny-1' has no token_weights but others have; give all or none"
    ]


def test_a_teacher_is_not_asked_and_what_it_has_answered_counts(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = write(tmp_path / "asked.jsonl", questions(4))
    recipe(data, tmp_path)
    words = ("--data.train", path, "--teacher.ask.model", "gpt")
    code, found = as_json(capsys, written(tmp_path), *words)
    assert (code, found["sources"][0]["read"], found["sources"][0]["not_asked"]) == (2, 0, 4)
    assert "OPENAI_API_KEY" in found["errors"][0]
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    ask = load_recipe(written(tmp_path), list(map(str, words))).teacher.ask
    assert ask is not None
    texts = ("0 + 1 = 1. The answer is 1.", "1 + 1 = 3. The answer is 3.")
    with Store(tmp_path / "teacher.jsonl") as store:
        for request, text in zip(requests_for(_records(4), ask)[:2], texts, strict=True):
            store.append(Attempt(request.key, "answered", text=text, model="gpt"))
    code, found = as_json(capsys, written(tmp_path), *words)
    use = found["sources"][0]
    assert (code, use["read"], use["kept"], use["not_asked"]) == (0, 2, 1, 2)
    assert use["dropped"][0]["reason"] == "wrong answer"


def test_gold_answers_are_checked_before_a_teacher_is_asked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    rows = questions(3)
    rows[1]["answer"] = UNREADABLE
    recipe(data, tmp_path)
    words = ("--data.train", write(tmp_path / "asked.jsonl", rows), "--teacher.ask.model", "gpt")
    _, found = as_json(capsys, written(tmp_path), *words)
    assert found["sources"][0]["gold_not_read_back"]["ids"] == ["q1"]
    assert found["sources"][0]["not_asked"] == 3


def _records(num: int) -> list[Question]:
    return [Question(str(row["id"]), str(row["question"]), str(row["answer"])) for row in questions(num)]


# -- before a run --------------------------------------------------------------------------------------


def folder_of(found: Recipe) -> Path:
    return Path(found.runs) / found.name


def test_a_run_begins_with_the_table_and_lists_what_it_drops(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = recipe(data, tmp_path, "llama", "--method", "scotd", "--data.max_length", "200")
    with caplog.at_level(logging.INFO):
        Pipeline(found).announce("train")
    (table,) = [message for message in caplog.messages if message.startswith("train ")]
    assert "7 read, 3 kept (42.9 %)" in table
    assert "data.max_length: 200" in table
    assert str(folder_of(found) / "dropped.jsonl") in caplog.text
    rows = artifacts.read_jsonl(folder_of(found) / "dropped.jsonl")
    assert [row["reason"][:11] for row in rows] == ["wrong answe", *["longer than"] * 3]


@pytest.mark.parametrize("verb", ["run", "weigh", "plan", "distill"])
def test_every_verb_that_works_says_first_what_it_uses(
    verb: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DataError("the work has begun")

    recipe(data, tmp_path)
    for module in ("algorithm", "pipeline"):
        monkeypatch.setattr(f"kpod.experiment.{module}.load_model", refuse)
    monkeypatch.setattr("kpod.experiment.evaluations.ENGINES", {"transformers": refuse})
    with caplog.at_level(logging.INFO):
        assert main([verb, str(written(tmp_path))]) == 2
    assert [message.startswith("train ") for message in caplog.messages].count(True) == 1


def test_a_closing_that_is_not_read_back_stops_before_anything_is_tokenised(data: Path, tmp_path: Path) -> None:
    found = recipe(data, tmp_path, "llama", "--data.prompt.closing", "So we get {answer}.")
    with pytest.raises(DataError, match=r"data\.prompt\.closing is .* data\.answer_words"):
        run(found)
    assert not (folder_of(found) / "tokens").exists()


def test_a_test_set_that_cannot_be_used_stops_a_run_and_not_the_weighing(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = write(tmp_path / "bad.jsonl", questions(3, answer=UNREADABLE))
    for tests, told in ((str(bad), "2 of 2 gold answers"), ("gone.jsonl", "no such file")):
        found = recipe(data, tmp_path, "llama", "--data.tests", f"[{tests}]")
        with pytest.raises(DataError, match=told):
            run(found)
        Pipeline(found).announce("train")
        assert told in caplog.text


def test_predictions_are_not_judged_by_gold_answers_that_nobody_can_read(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write(tmp_path / "bad.jsonl", questions(2, answer=UNREADABLE))
    right = write(tmp_path / "right.jsonl", [{"id": f"q{n}", "text": "The answer is 1."} for n in range(2)])
    recipe(data, tmp_path)
    words = ("evaluate", str(written(tmp_path)), "--predictions", str(right))
    assert main([*words, "--data.tests", f"[{bad}]"]) == 2
    assert "2 of 2 gold answers cannot be read back" in capsys.readouterr().err
    good = write(tmp_path / "good.jsonl", questions(2))
    assert main([*words, "--data.tests", f"[{good}, {bad}]"]) == 0
    assert f"the predictions are of {good}; not evaluated: {bad}" in capsys.readouterr().err


def test_nothing_fits_says_whose_limit_it_is(data: Path, tmp_path: Path) -> None:
    rows = artifacts.read_jsonl(data / "rationales.jsonl")[:2]
    path = write(tmp_path / "long.jsonl", [row | {"rationale": "A long one. " * 100} for row in rows])
    found = recipe(data, tmp_path, "llama", "--data.train", str(path), "--data.max_length", "100000")
    with pytest.raises(DataError, match=r"no rationale is left to train on: 2 longer than .*1024 tokens \(the student"):
        run(found)
    assert len(artifacts.read_jsonl(folder_of(found) / "dropped.jsonl")) == 2


def test_no_teacher_is_paid_for_gold_answers_that_nobody_can_read(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = questions(3, answer=UNREADABLE)
    words = ["--data.train", str(tmp_path / "asked.jsonl"), "--teacher.ask.model", "gpt"]
    words += ["--teacher.ask.base_url", "http://127.0.0.1:9"]
    write(tmp_path / "asked.jsonl", rows)
    with pytest.raises(DataError, match="3 of 3 gold answers cannot be read back"):
        run(recipe(data, tmp_path, "llama", *words))
    assert not (tmp_path / "teacher.jsonl").exists()


# -- terminals -----------------------------------------------------------------------------------------

STRICTEST, OTHERS = "ascii", ("cp1252", "cp437", "gbk", "latin-1")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its run as `kpod compare` lays it out, and names in it that terminals cannot show."""
    folder = tmp_path_factory.mktemp("runs")
    rows = artifacts.read_jsonl(data / "rationales.jsonl")
    rows[0] |= {"id": STRANGE, "question": f"小明有几个？{ESCAPE} " + rows[0]["question"]}
    rows[6] |= {"id": f"wrong{ESCAPE}"}
    path = str(write(folder / f"{STRANGE}.jsonl", rows))
    words = ("--method", "scotd", "--data.train", path, "--data.tests", json.dumps([path]), "--evaluation.before", "no")
    base = recipe(data, folder, "llama", *words)
    (folder / "base.yaml").write_text(dump_recipe(base), encoding="utf-8")
    run(replace(base, name="scotd-seed0", runs=str(folder / "tiny-compare")))
    write(folder / "given.jsonl", [{"id": row["id"], "text": f"–{ESCAPE} The answer is 3."} for row in rows[:2]])
    return folder


STRANGE = f"⟨ä→小明{ESCAPE}"
COMMANDS: Mapping[str, Sequence[str]] = {
    "check": ("{run}",),
    "check --json": ("{run}", "--json"),
    "inspect": ("{run}", "--id", STRANGE),
    "evaluate": ("{run}",),
    "evaluate --predictions": ("{run}", "--predictions", "{folder}/given.jsonl"),
    "weigh": ("{run}",),
    "plan": ("{run}",),
    "report": ("{run}",),
    "report of two": ("{run}", "{run}"),
    "rationales": ("{run}",),
    "compare": ("{folder}/base.yaml", "--methods", "scotd", "--tables"),
}


@pytest.mark.parametrize("encoding", tiered(["ascii", "gbk"], ["gbk"]))  # the strictest, and one of several bytes
@pytest.mark.parametrize("command", COMMANDS)
def test_no_encoding_of_the_terminal_ends_a_command(
    command: str, encoding: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no control character of an id, a question, a text or a file's name gets there."""
    shown = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in shown.items():
        monkeypatch.setattr(sys, name, stream)
    places = {"folder": str(finished), "run": str(finished / "tiny-compare" / "scotd-seed0")}
    assert main([command.split()[0], *(word.format(**places) for word in COMMANDS[command])]) == 0
    for stream in shown.values():
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in shown.values())
    assert out
    assert not set(out + err) & {"\x1b", "\u202e", "\x7f"}


@pytest.mark.parametrize("encoding", [STRICTEST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_whole_process_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", [row | {"id": f"小明⟨–␣{row['id']}"} for row in explained("right", "wrong")])
    done = subprocess.run(
        [sys.executable, "-m", "kpod", "check", str(path)],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"0 errors" in done.stdout


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    """As `kpod check f | head -1`; the output is more than a pipe holds."""
    rows = [row | {"teacher_answer": str(n + 10**6)} for n, row in enumerate(explained(*["open"] * 3000))]
    path = write(tmp_path / "f.jsonl", rows)  # a warning of its own for each
    command = [sys.executable, "-m", "kpod", "check", "--all", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b": warning:" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
