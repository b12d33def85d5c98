"""`kpod rationales`, and `kpod run` with a teacher: from questions to filtered rationales, with a recorded teacher."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kpod.commands.command_line import main
from kpod.commands.pages.asked_teacher import rationales_markdown
from kpod.commands.rationales import estimate_recipe, explain
from kpod.experiment.pipeline import Pipeline
from kpod.recipe import AskConfig, PricesConfig
from kpod.recipe.loading import load_recipe
from kpod.records import Question
from kpod.records.errors import ConfigError, DataError, TeacherError
from kpod.teacher.asking import ask_teacher
from kpod.teacher.attempts import Attempt
from kpod.teacher.requests import requests_for
from kpod.teacher.store import Store, read_store
from tiny_runs import BRIEF_WEIGHTING, write_tiny_data

QUESTIONS = [
    Question("apples", "Tom has 3 apples and buys 4. How many has he?", "7"),
    Question("pens", "A box holds 6 pens. How many hold 5 boxes?", "30"),
    Question("colour", "Which is a colour?", "B", {"A": "loud", "B": "red"}),
]
SAID = {
    "apples": ["He has 3 + 4 = 7 apples. Therefore, the answer is 7.", "3 and 4 make 7. So the answer is 7."],
    "pens": ["That is 6 + 5 = 11 pens. The answer is 11.", "5 boxes of 6 are 30 pens. The answer is 30."],
    "colour": ["Red is a colour. The answer is (B) red.", "The answer is B."],
}
ASK = AskConfig("teacher", backend="replay", replay="recorded.jsonl", samples=2)


def write_questions(folder: Path) -> Path:
    path = folder / "questions.jsonl"
    rows = [
        {"id": q.id, "question": q.question, "answer": q.answer, "choices": q.choices and dict(q.choices)}
        for q in QUESTIONS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def record(path: Path, said: Mapping[str, Sequence[str | Attempt]], ask: AskConfig = ASK, hinted: bool = False) -> None:
    """A store in which the teacher has said these texts, one per sample."""
    with Store(path) as store:
        for request in requests_for([q for q in QUESTIONS if q.id in said], ask, hinted=hinted):
            text = said[request.question_id][request.sample]
            attempt = text if isinstance(text, Attempt) else Attempt("", "answered", text=text, model="teacher")
            numbers = {"prompt_tokens": 20, "completion_tokens": 10, "seconds": 2.0}
            store.append(replace(attempt, key=request.key, **numbers))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path)
    record(tmp_path / "recorded.jsonl", SAID)
    return tmp_path


WORDS = "questions.jsonl --teacher.ask.model teacher --teacher.ask.backend replay --teacher.ask.replay recorded.jsonl"
COMMAND = ["rationales", *WORDS.split(), "--teacher.ask.samples", "2"]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_questions_become_a_filtered_rationale_file_a_list_of_the_dropped_and_a_report(here: Path, capsys):
    assert main([*COMMAND, "--output", "out/mine.jsonl"]) == 0
    kept = rows(here / "out" / "mine.jsonl")
    assert [(row["id"], row["rationale"], row["teacher_answer"]) for row in kept] == [
        ("apples/0", "He has 3 + 4 = 7 apples.", "7"),
        ("apples/1", "3 and 4 make 7.", "7"),
        ("pens/1", "5 boxes of 6 are 30 pens.", "30"),
        ("colour/0", "Red is a colour.", "B"),
    ]
    store = read_store(here / "runs" / "teacher.jsonl")
    for row in kept:
        assert store[row["attempt"]].text[row["start"] :].startswith(row["rationale"])
    assert {(row["id"], row["reason"]) for row in rows(here / "out" / "mine.dropped.jsonl")} == {
        ("pens/0", "wrong answer"),
        ("colour/1", "nothing but an answer"),
    }
    report = json.loads((here / "out" / "mine.report.json").read_text(encoding="utf-8"))
    assert (report["num_judged"], report["num_right"]) == (5, 4)
    assert report["asking"]["outcomes"] == {"answered": 6}
    assert (report["asking"]["prompt_tokens"], report["asking"]["completion_tokens"]) == (120, 60)
    said = capsys.readouterr().out
    assert "teacher accuracy: 80.0% (4 of 5 rationales; 95 % interval 37.6% to 96.4%)" in said
    assert "dropped, wrong answer: 1" in said


def test_the_file_is_one_that_the_package_reads(here: Path):
    assert main([*COMMAND, "--output", "mine.jsonl"]) == 0
    assert main(["check", "mine.jsonl"]) == 0
    recipe = load_recipe(None, ["--data.train", "mine.jsonl", "--name", "second"])
    assert [r.question.id for r in Pipeline(recipe).sources[0]] == ["apples", "apples", "pens", "colour"]


@pytest.mark.parametrize("character", ["\ud83d", "\x00", "\x1b"])
def test_one_broken_character_in_the_store_costs_that_answer_alone(here: Path, character: str, capsys):
    said = {**SAID, "apples": [f"He has 3 + 4 {character}= 7 apples. The answer is 7.", SAID["apples"][1]]}
    said["colour"] = ["Red</think> is</think> a colour. The answer is (B) red.", *said["colour"][1:]]
    unclear = Attempt("", "unclear thought", text=said["colour"][0], model=f"teacher {character}")
    record(here / "broken.jsonl", {**said, "colour": [unclear, said["colour"][1]]})
    command = [*COMMAND, "--teacher.ask.replay", "broken.jsonl", "--output", "mine.jsonl"]
    for _ in range(2):
        assert main(command) == 0
        assert [row["id"] for row in rows(here / "mine.jsonl")] == ["apples/1", "pens/1"]
        dropped = {row["id"]: row["reason"] for row in rows(here / "mine.dropped.jsonl")}
        assert (dropped["apples/0"], dropped["colour/0"]) == ("broken character", "unclear thought")
    capsys.readouterr()
    assert main(["check", "mine.jsonl"]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_what_was_answered_is_not_asked_again(here: Path):
    assert main([*COMMAND, "--output", "mine.jsonl"]) == 0
    before = (here / "runs" / "teacher.jsonl").read_bytes()
    (here / "recorded.jsonl").write_text("", encoding="utf-8")  # nothing could be answered now
    assert main([*COMMAND, "--output", "again.jsonl"]) == 0
    assert (here / "runs" / "teacher.jsonl").read_bytes() == before
    assert (here / "again.jsonl").read_bytes() == (here / "mine.jsonl").read_bytes()


def test_requests_without_an_answer_fail_the_command_and_keep_the_others(here: Path, capsys):
    record(here / "part.jsonl", {"apples": SAID["apples"]})
    assert main([*COMMAND, "--teacher.ask.replay", "part.jsonl", "--output", "mine.jsonl"]) == 1
    assert "4 of 6 answers are missing" in capsys.readouterr().err
    assert not (here / "mine.jsonl").exists()
    assert len(read_store(here / "runs" / "teacher.jsonl")) == 2
    assert main([*COMMAND, "--output", "mine.jsonl"]) == 0


def test_a_dry_run_asks_nothing_and_rests_on_earlier_answers_where_there_are_any(here: Path, capsys):
    words = [*COMMAND, "--dry-run", "--teacher.ask.prices.prompt", "2", "--teacher.ask.prices.completion", "8"]
    assert main(words) == 0
    assert "at most 3,072 to write" in capsys.readouterr().out  # 6 requests of at most 512 tokens
    assert not (here / "runs").exists()

    record(here / "runs" / "teacher.jsonl", {"apples": SAID["apples"]})
    recipe = load_recipe(None, ["--data.train", *COMMAND[1:]])
    ask = replace(recipe.teacher.ask, concurrency=4, prices=PricesConfig(2.0, 8.0))
    found = estimate_recipe(replace(recipe, teacher=replace(recipe.teacher, ask=ask)))
    assert (found.num_requests, found.num_open, found.num_measured) == (6, 4, 2)
    assert found.completion_tokens == 4 * 10
    assert found.seconds == 2.0  # four requests of two seconds, four at a time
    assert found.cost == pytest.approx((found.prompt_tokens * 2 + 40 * 8) / 1e6)


def test_a_question_that_the_teacher_misses_is_asked_again_with_the_answer(tmp_path: Path):
    ask = replace(ASK, samples=1, hint=True, replay=str(tmp_path / "recorded.jsonl"))
    wrong = {q.id: ["I guess. The answer is 1."] for q in QUESTIONS[:1]} | {"pens": SAID["pens"][1:]}
    record(tmp_path / "recorded.jsonl", wrong, ask)
    record(tmp_path / "recorded.jsonl", {"apples": SAID["apples"]}, ask, hinted=True)
    asked = ask_teacher(QUESTIONS[:2], ask, tmp_path / "store.jsonl")
    assert [(r.question_id, r.hinted) for r in asked.requests] == [
        ("apples", False),
        ("pens", False),
        ("apples", True),
    ]
    source = write_questions(tmp_path)
    recipe = load_recipe(None, ["--data.train", str(source), "--data.train_limit", "2", "--runs", str(tmp_path)])
    recipe = replace(recipe, teacher=replace(recipe.teacher, ask=replace(ask, store=str(tmp_path / "store.jsonl"))))
    report = explain(recipe, tmp_path / "out.jsonl")
    assert [(row["id"], row["source"]) for row in rows(tmp_path / "out.jsonl")] == [
        ("pens", "teacher"),
        ("apples/1", "teacher (hinted)"),
    ]
    assert (report.num_judged, report.num_right) == (2, 1)  # what a hint reaches judges nobody


def failing(outcome: str) -> Attempt:
    return Attempt("", outcome, text="half a", detail="why")


def test_answers_of_no_use_are_counted_and_asked_again_only_on_request(here: Path, capsys):
    spoilt = {**SAID, "pens": [failing("truncated"), failing("refused")], "apples": [failing("bad request")] * 2}
    (here / "recorded.jsonl").unlink()
    record(here / "recorded.jsonl", spoilt)
    assert main([*COMMAND, "--output", "mine.jsonl"]) == 0
    reasons = {(row["id"], row["reason"]) for row in rows(here / "mine.dropped.jsonl")}
    assert {("pens/0", "truncated"), ("pens/1", "refused"), ("apples/0", "bad request (why)")} <= reasons
    (here / "recorded.jsonl").unlink()
    record(here / "recorded.jsonl", SAID)
    assert main([*COMMAND, "--output", "mine.jsonl"]) == 0
    assert len(rows(here / "mine.jsonl")) == 1
    assert main([*COMMAND, "--output", "mine.jsonl", "--retry-failed"]) == 0
    assert len(rows(here / "mine.jsonl")) == 4
    report = json.loads((here / "mine.report.json").read_text(encoding="utf-8"))
    assert report["asking"]["num_attempts"] == 6 + 4


def test_an_answer_of_another_model_is_no_rationale_of_this_teacher(here: Path):
    other = Attempt("", "answered", text="Cheap talk of 30 pens. The answer is 30.", model="small-fallback")
    dated = Attempt("", "answered", text="It is 3 + 4 = 7. The answer is 7.", model="Teacher-2026-11-01")
    (here / "recorded.jsonl").unlink()
    record(here / "recorded.jsonl", {**SAID, "pens": [other, SAID["pens"][1]], "apples": [dated, SAID["apples"][1]]})
    assert main([*COMMAND, "--output", "mine.jsonl"]) == 0
    assert ("pens/0", "answered by small-fallback") in {
        (row["id"], row["reason"]) for row in rows(here / "mine.dropped.jsonl")
    }
    assert "apples/0" in {row["id"] for row in rows(here / "mine.jsonl")}


def test_thoughts_are_the_rationale_where_the_recipe_says_so(here: Path):
    thinking = Attempt("", "answered", text="7. The answer is 7.", reasoning="3 and 4 more: 7.", model="teacher")
    (here / "recorded.jsonl").unlink()
    record(here / "recorded.jsonl", {**SAID, "apples": [thinking, SAID["apples"][1]]})
    words = [*COMMAND, "--output", "mine.jsonl", "--teacher.ask.reasoning", "rationale", "--teacher.filter", "none"]
    assert main(words) == 0
    kept = {row["id"]: row["rationale"] for row in rows(here / "mine.jsonl")}
    assert kept == {"apples/0": "3 and 4 more: 7."}  # the others have no thoughts


def test_where_nothing_is_kept_the_report_says_why_and_a_run_stops(here: Path, capsys):
    (here / "recorded.jsonl").unlink()
    record(here / "recorded.jsonl", {q.id: ["It is 1. The answer is 1."] * 2 for q in QUESTIONS})
    assert main([*COMMAND, "--output", "mine.jsonl"]) == 0
    assert "kept: 0 rationales of 0 questions" in capsys.readouterr().out
    assert len(rows(here / "mine.dropped.jsonl")) == 6
    words = ["--teacher.ask.model", "teacher", "--teacher.ask.samples", "2", "--data.train", "questions.jsonl"]
    with pytest.raises(DataError, match=r"no rationale is left to train on: .*\d wrong answer \(teacher"):
        _ = Pipeline(load_recipe(None, words)).sources


def test_recorded_rationales_are_filtered_without_a_teacher(here: Path, capsys):
    assert main([*COMMAND, "--output", "mine.jsonl", "--teacher.filter", "none"]) == 0
    words = ["rationales", "mine.jsonl", "--output", "clean.jsonl", "--teacher.check_equations", "true"]
    assert main([*words, "--teacher.per_question", "1"]) == 0
    assert [row["id"] for row in rows(here / "clean.jsonl")] == ["apples/0", "pens/1", "colour/0"]
    assert "requests" not in capsys.readouterr().out.split("kept:")[-1]


@pytest.mark.slow
def test_kpod_run_asks_by_itself_and_another_seed_shares_the_answers(here: Path):
    write_tiny_data(here)
    text = {
        "name": "asked",
        "student": str(here / "llama"),
        "data": {"train": "questions.jsonl", "tests": ["questions.jsonl"], "max_length": 400},
        "teacher": {"ask": {"model": "teacher", "backend": "replay", "replay": "recorded.jsonl", "samples": 2}},
        "weighting": BRIEF_WEIGHTING,
        "schedule": {"num_clusters": 2},
        "training": {"num_train_epochs": 2, "save_strategy": "no"},
        "evaluation": {"max_new_tokens": 4, "before": False},
    }
    (here / "recipe.yaml").write_text(json.dumps(text), encoding="utf-8")
    assert main(["run", "recipe.yaml"]) == 0
    (here / "recorded.jsonl").write_text("", encoding="utf-8")
    assert main(["weigh", "recipe.yaml", "--seed", "1", "--name", "second"]) == 0
    assert len(rows(here / "runs" / "asked" / "rationales.jsonl")) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--teacher.ask.samples 2", "teacher.ask.model is missing; teacher.ask needs it"),
        ("--teacher.ask.model m --teacher.ask.backend replay", "teacher.ask.replay is None"),
        ("--teacher.ask.model m --teacher.ask.samples 2 --teacher.ask.temperature 0", "teacher.ask.temperature is 0.0"),
        ("--teacher.ask.model m --teacher.rationales x.jsonl", "teacher.rationales is 'x.jsonl'"),
        ("--teacher.ask.model m --teacher.ask.base_url http://me:pw@host/v1", "without user or password"),
        (
            "--teacher.ask.model m --teacher.ask.logprobs 21",
            "logprobs is 21; it must be a whole number from 0 to 20, or null",
        ),
    ],
)
def test_a_wrong_teacher_is_refused_by_its_key(words: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        load_recipe(None, words.split())


def test_a_dry_run_needs_a_teacher(here: Path, capsys):
    assert main(["rationales", "questions.jsonl", "--dry-run"]) == 2
    assert "teacher.ask" in capsys.readouterr().err


def test_without_the_key_of_a_hosted_endpoint_nothing_is_asked(here: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert main(["rationales", "questions.jsonl", "--teacher.ask.model", "gpt", "--output", "mine.jsonl"]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err


def test_two_runs_cannot_write_to_one_store(tmp_path: Path):
    with Store(tmp_path / "store.jsonl"), pytest.raises(TeacherError, match="another process is asking"):
        Store(tmp_path / "store.jsonl")


def test_a_report_of_nothing_judged_has_no_accuracy(here: Path):
    words = ["--data.train", "word_problems", "--data.train_limit", "3", "--name", "made"]
    report = explain(load_recipe(None, words), here / "made.jsonl")
    assert report.interval is None
    assert "accuracy" not in rationales_markdown(report)
