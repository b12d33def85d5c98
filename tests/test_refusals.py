"""Refused requests count once others of their form are answered, in whatever order attempts come."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.recipe import AskConfig
from kpod.records.errors import TeacherError
from kpod.teacher.attempts import Attempt
from kpod.teacher.refusals import (
    FIRST_REFUSED,
    FIRST_REFUSED_LATER,
    FIRST_THOUGHTS,
    Refusals,
    advice,
    answered_forms,
    is_done,
)
from kpod.teacher.requests import Request

ASK = AskConfig("m")


def refused(number: int, form: str = "f") -> Attempt:
    return Attempt(f"{form}{number}", "bad request", detail=f"400: no {number}", form=form)


def fed(attempts: Sequence[Attempt], ask: AskConfig = ASK, before: set[str] | None = None) -> list[Attempt]:
    kept: list[Attempt] = []
    refusals = Refusals(ask, kept.append, before or set())
    for attempt in attempts:
        refusals.keep(attempt)
    refusals.finish()
    return kept


@given(st.permutations([refused(0), refused(1), Attempt("a", "answered", text="4", form="f")]))
def test_beside_an_answer_every_refusal_is_kept_once(attempts):
    assert sorted(fed(attempts), key=lambda a: a.key) == sorted(attempts, key=lambda a: a.key)


@pytest.mark.parametrize("other", ["truncated", "filtered", "refused"])
def test_any_settled_outcome_shows_that_the_form_is_right(other):
    assert len(fed([refused(0), Attempt("a", other, form="f")])) == 2


@pytest.mark.parametrize(
    "other",
    [
        Attempt("a", "answered", text="4", form="other"),
        Attempt("a", "server error", form="f"),
        Attempt("a", "empty", form="f"),
    ],
    ids=["another form", "a failure that may pass", "nothing"],
)
def test_what_shows_nothing_of_the_form_leaves_refusals_out(other):
    kept: list[Attempt] = []
    refusals = Refusals(ASK, kept.append, set())
    for attempt in (refused(0), other):
        refusals.keep(attempt)
    with pytest.raises(TeacherError, match="the request was refused: 400: no 0; the next run asks again"):
        refusals.finish()
    assert kept == [other]


def test_the_first_refusals_stop_an_endpoint_and_no_batch():
    with pytest.raises(TeacherError, match=f"refused the first {FIRST_REFUSED} requests: 400: no 4"):
        fed([refused(number) for number in range(9)])
    with pytest.raises(TeacherError, match="refused all 9 requests: 400: no 8"):
        fed([refused(number) for number in range(9)], AskConfig("m", backend="batch"))


def test_earlier_answers_of_the_form_let_more_be_refused_but_not_all_of_many():
    few = [refused(number) for number in range(FIRST_REFUSED_LATER - 1)]
    assert fed(few, before={"f"}) == few
    with pytest.raises(TeacherError, match=f"refused the first {FIRST_REFUSED_LATER} requests"):
        fed([*few, refused(1000)], before={"f"})


def test_a_refusal_without_a_form_is_kept_at_once():
    attempts = [refused(0, form="")]
    assert fed(attempts) == attempts


def test_thoughts_alone_stop_only_where_they_are_not_wanted():
    thoughts = [Attempt(str(n), "empty", reasoning="4", form="f") for n in range(FIRST_THOUGHTS)]
    with pytest.raises(TeacherError, match=r"teacher\.ask\.reasoning: rationale"):
        fed(thoughts)
    assert fed(thoughts, AskConfig("m", reasoning="rationale")) == thoughts
    assert fed(thoughts, before={"f"}) == thoughts
    answered = [Attempt("a", "answered", text="4", form="f"), *thoughts]
    assert fed(answered) == answered


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "length_parameter"),
        ("Unsupported value: 'temperature' does not support 0.7", "temperature"),
        ("`top_p` must be below 1", "top_p"),
        ("seed: Extra inputs are not permitted", "seed: null"),
        ("This model does not support logprobs", "logprobs: null"),
        ("'stop' is not supported with this model", "stop: null"),
        ("System role not supported", "prompt.system: null"),
        ("Conversation roles must alternate user/assistant/user/assistant/...", "prompt.system: null"),
        ("parameter.enable_thinking must be set to false for non-streaming calls", "enable_thinking: false"),
        ("The plain HTTP request was sent to HTTPS port", "https://"),
        ("Missing required query parameter: api-version", "extra_query"),
    ],
)
def test_what_endpoints_refuse_comes_with_the_key_that_helps(words, key):
    assert key in advice(f"400: {words}", ASK)


@pytest.mark.parametrize("words", ["400: too long", "400: the ecosystem", "400: a stopwatch", ""])
def test_other_words_come_with_none(words):
    assert advice(words, ASK) == ""


def request(form: str) -> Request:
    return Request("k", "q", 0, False, (), form)


@pytest.mark.parametrize(
    ("attempt", "form", "done", "with_retry"),
    [
        (None, "f", False, False),
        (Attempt("k", "answered", text="4", form="other"), "f", True, True),
        (Attempt("k", "bad request", form="f"), "f", True, False),
        (Attempt("k", "bad request", form="other"), "f", False, False),
        (Attempt("k", "bad request"), "f", False, False),
        (Attempt("k", "bad request", form="f"), "", True, False),
        (Attempt("k", "truncated", form="other"), "f", True, False),
        (Attempt("k", "empty", form="f"), "f", False, False),
        (Attempt("k", "empty", reasoning="4", form="f"), "f", True, False),
    ],
)
def test_when_a_request_need_not_be_asked(attempt, form, done, with_retry):
    assert is_done(attempt, request(form)) == done
    assert is_done(attempt, request(form), retry_failed=True) == with_retry


def test_answers_of_earlier_versions_have_no_form_and_speak_for_the_recipes_own():
    mine, foreign = Attempt("k", "answered", text="4"), Attempt("x", "answered", text="4")
    assert answered_forms([request("f")], [mine]) == {"f"}
    assert answered_forms([request("f")], [foreign, Attempt("k", "bad request", form="f")]) == set()
    assert answered_forms([request("f")], [Attempt("x", "answered", text="4", form="g")]) == {"g"}
