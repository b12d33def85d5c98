"""The forecast: what is counted, which key is named, when a warning becomes an error, and how it looks."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.evaluation import read_back
from kpod.evaluation.read_back import closing_is_read_back, unread_questions
from kpod.experiment.forecast import UNREAD, Forecast, SourceUse, Unused, remedy, unused
from kpod.experiment.forecast_table import forecast_text
from kpod.recipe import AskConfig, DataConfig, PromptConfig, Recipe, TeacherConfig
from kpod.records import Dropped, Question
from kpod.records.errors import DataError

ASKED = Recipe(teacher=TeacherConfig(ask=AskConfig("gpt"), filter="vote"))

# -- counts --------------------------------------------------------------------------------------------


def test_rows_are_counted_by_reason_with_three_ids_the_most_frequent_reason_first() -> None:
    dropped = [Dropped("x", "near-duplicate"), *(Dropped(f"q{n}", "wrong answer") for n in range(5))]
    assert unused(dropped, Recipe()) == (
        Unused("wrong answer", 5, ("q0", "q1", "q2"), "teacher.filter: gold"),
        Unused("near-duplicate", 1, ("x",), "teacher.max_similarity: 0.9"),
    )


@given(st.lists(st.tuples(st.text(max_size=3), st.sampled_from(["wrong answer", "no rationale", "odd"]))))
def test_every_dropped_row_is_counted_once(rows: list[tuple[str, str]]) -> None:
    found = unused([Dropped(id_, reason) for id_, reason in rows], Recipe())
    assert sum(item.number for item in found) == len(rows)
    assert [item.number for item in found] == sorted((item.number for item in found), reverse=True)
    assert len({item.reason for item in found}) == len(found)
    use = SourceUse("train", "x", len(rows)).also_without(found)
    assert use.num_kept == 0


@pytest.mark.parametrize(
    ("reason", "recipe", "key"),
    [
        ("wrong answer", Recipe(), "teacher.filter: gold"),
        ("unknown answer", Recipe(), "data.answer_words, teacher.filter: gold"),
        ("outvoted", ASKED, "teacher.filter: vote"),
        ("no majority", ASKED, "teacher.filter: vote"),
        ("wrong equation", Recipe(), "teacher.check_equations: true"),
        ("near-duplicate", Recipe(teacher=TeacherConfig(max_similarity=0.5)), "teacher.max_similarity: 0.5"),
        ("not among the most diverse", Recipe(teacher=TeacherConfig(per_question=2)), "teacher.per_question: 2"),
        ("nothing but an answer", Recipe(), "teacher.strip_closing: true"),
        ("nothing but an answer", ASKED, "teacher.ask.prompt.template"),
        ("no rationale", Recipe(teacher=TeacherConfig(rationales="gem")), "teacher.rationales: gem"),
        ("empty rationale", Recipe(), "teacher.rationales"),
        ("unknown question", Recipe(data=DataConfig(train="mine.jsonl")), "data.train: mine.jsonl"),
        ("longer than 300 tokens", Recipe(data=DataConfig(max_length=300)), "data.max_length: 300"),
        ("longer than 300 tokens", Recipe(), "the student reads at most 300 tokens, whatever data.max_length (1024)"),
        ("longer than data.max_length 300 tokens", Recipe(data=DataConfig(max_length=300)), "data.max_length: 300"),
        ("longer than the student's context of 1024 tokens", Recipe(), "the student reads at most 1024 tokens"),
        ("holds a token that the student's 259 embeddings lack", Recipe(), "take another student"),
        ("cannot be aligned with its tokens", Recipe(), "take another student"),
        ("no stated answer", Recipe(), "data.columns.answer"),
        ("prompt and rationale merge into one token", Recipe(), "data.prompt.question"),
        ("rationale and answer merge into one token", Recipe(), "data.prompt.closing"),
        ("truncated", ASKED, "teacher.ask.max_tokens: 512"),
        ("answered by fallback", ASKED, "teacher.ask.model: gpt"),
        ("a reason of another version", Recipe(), "correct the row itself"),
    ],
)
def test_every_reason_names_what_would_change_it(reason: str, recipe: Recipe, key: str) -> None:
    assert remedy(reason, recipe).startswith(key)


# -- warnings and errors -------------------------------------------------------------------------------


def source(num_read: int, num_dropped: int) -> SourceUse:
    dropped = (Unused.of("wrong answer", ["a"] * num_dropped, "teacher.filter: gold"),) if num_dropped else ()
    return SourceUse("train", "mine.jsonl", num_read, dropped)


@pytest.mark.parametrize(
    ("num_read", "num_dropped", "num_warnings", "num_errors"),
    [(10, 0, 0, 0), (10, 5, 0, 0), (10, 6, 1, 0), (11, 6, 1, 0), (10_000, 9_921, 1, 0), (10, 10, 0, 1), (1, 1, 0, 1)],
)
def test_over_half_is_a_warning_and_all_is_an_error(
    num_read: int, num_dropped: int, num_warnings: int, num_errors: int
) -> None:
    use = source(num_read, num_dropped)
    assert (len(use.warnings), len(use.errors)) == (num_warnings, num_errors)


def test_warnings_and_errors_give_counts_reasons_and_keys() -> None:
    assert source(10_000, 9_921).warnings == (
        "9,921 of 10,000 rationales are dropped: 9,921 wrong answer (teacher.filter: gold)",
    )
    assert source(7, 7).errors == ("no rationale is left to train on: 7 wrong answer (teacher.filter: gold)",)
    assert SourceUse("test", "t", 0).errors == ("no question is left to ask: t holds none",)
    assert SourceUse("train", "t", 0, num_unasked=3).errors == ()


@pytest.mark.parametrize(("num_unread", "stops"), [(1, False), (5, False), (6, True), (10, True)])
def test_unreadable_golds_are_a_warning_up_to_half_of_a_set(num_unread: int, stops: bool) -> None:
    unread = Unused.of(UNREAD, [f"q{n}" for n in range(num_unread)], "data.columns.answer")
    use = SourceUse("test", "t", 10, num_questions=10, unread=unread)
    told = use.errors if stops else use.warnings
    assert len(use.errors) + len(use.warnings) == len(told) == 1
    assert f"{num_unread} of 10 gold answers cannot be read back" in told[0]
    assert "'q0'" in told[0]


def test_a_closing_that_nobody_reads_back_is_one_error_whatever_the_number_of_sources() -> None:
    unread = Unused.of(UNREAD, ["q"], "data.prompt.closing")
    uses = [
        SourceUse(role, role, 1, num_questions=1, unread=unread, closing="So we get {answer}.")
        for role in ("train", "test")
    ]
    (error,) = Forecast(tuple(uses)).errors()
    assert "data.prompt.closing is 'So we get {answer}.'" in error
    assert "data.answer_words" in error


def test_a_closing_that_most_golds_survive_is_not_blamed() -> None:
    unread = Unused.of(UNREAD, ["q"], "data.prompt.closing")
    (warning,) = SourceUse("test", "t", 9, num_questions=9, unread=unread, closing="Option {answer}").warnings
    assert warning.startswith("test t: 1 of 9 gold answers cannot be read back")


def test_errors_are_asked_for_by_role() -> None:
    found = Forecast((source(2, 1), SourceUse("test", "t", fault="t: no such file")))
    assert found.errors("train", "validation") == ()
    assert found.errors("test") == found.errors() == ("t: no such file",)


def test_a_record_that_leaves_out_more_than_was_read_is_refused() -> None:
    with pytest.raises(DataError, match="more rows are left out than the 2"):
        source(2, 3)


# -- the round trip ------------------------------------------------------------------------------------

CHOICES = {"A": "a bank", "B": "a shop"}
READ_BACK = (
    "Therefore, the answer is {answer}",
    "The answer is {answer}.",
    "So the final answer is: {answer}.",
    "#### {answer}",
    "\\boxed{{answer}}",
    "</think>\nThe answer is {answer}.",
)
NOT_READ_BACK = ("So we get {answer}.", "We end up with {answer} of them", "Zatem wynik to {answer}.")


@pytest.mark.parametrize("closing", [*READ_BACK, *NOT_READ_BACK])
def test_a_closing_is_read_back_or_not(closing: str) -> None:
    data = DataConfig(prompt=PromptConfig(closing=closing))
    read = closing in READ_BACK
    assert closing_is_read_back(data) == read
    asked = [Question("n", "?", "1,200.50"), Question("o", "?", "B", CHOICES), Question("y", "?", "yes")]
    assert [question.id for question in unread_questions(asked, data)] == ([] if read else ["n", "o", "y"])


@given(st.one_of(st.integers(-(10**9), 10**9), st.decimals(-1000, 1000, places=2)).map(str))
def test_every_number_is_read_back_behind_the_default_closing(answer: str) -> None:
    assert unread_questions([Question("q", "?", answer)], DataConfig()) == []


@pytest.mark.parametrize("gold", ["#### 8", "so it is #### 8", "unclear", "not given"])
def test_a_gold_answer_that_is_no_answer_is_found(gold: str) -> None:
    asked = [Question("good", "?", "8"), Question("bad", "?", gold)]
    assert [question.id for question in unread_questions(asked, DataConfig())] == ["bad"]


def test_a_distinct_gold_answer_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []
    judge = read_back.judge
    monkeypatch.setattr(read_back, "judge", lambda *args, **kwargs: judged.append(args[0]) or judge(*args, **kwargs))
    asked = [Question(f"q{n}", "?", str(n % 7)) for n in range(100)]
    asked += [Question(f"c{n}", "?", "A", {"A": str(n % 2), "B": "5"}) for n in range(10)]
    assert unread_questions(asked, DataConfig()) == []
    assert len(judged) == 7 + 2


# -- the table -----------------------------------------------------------------------------------------


def test_the_table_by_hand() -> None:
    train = SourceUse(
        "train",
        "mine.jsonl",
        10_000,
        (
            Unused("wrong answer", 41, ("g17", "g203", "g344"), "teacher.filter: gold"),
            Unused("unknown answer", 9, ("g5",), "data.answer_words"),
        ),
        notes=("columns not used: topic",),
    )
    test = SourceUse("test", "t", 3, num_questions=3, unread=Unused(UNREAD, 1, ("a",), "data.columns.answer"))
    missing = SourceUse("test", "gone.jsonl", fault="gone.jsonl: no such file")
    asked = SourceUse("train", "mine", 4, num_unasked=1_200)
    assert forecast_text(Forecast((train, test, missing, asked))).splitlines() == [
        "train mine.jsonl: 10,000 read, 9,950 kept (99.5 %)",
        "  41  0.4 %  wrong answer    g17, g203, g344  teacher.filter: gold",
        "   9  0.1 %  unknown answer  g5               data.answer_words",
        "  note: columns not used: topic",
        "test t: 3 read, 3 kept (100.0 %)",
        "  1  33.3 %  gold answer not read back  a  data.columns.answer",
        "test gone.jsonl: cannot be read",
        "train mine: 4 read, 4 kept (100.0 %), 1,200 answers not asked for yet",
    ]


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_text_moves_the_cursor_or_adds_a_line(id_: str, name: str) -> None:
    use = SourceUse("test", name, 1, (Unused(name, 1, (id_, id_), id_),), notes=(id_,))
    shown = forecast_text(Forecast((use,)))
    assert len(shown.split("\n")) == 3
    hidden = {unicodedata.category(char) for char in shown.replace("\n", "")} & {"Cc", "Cs", "Zl"}
    assert hidden == set()
