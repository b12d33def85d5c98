"""What an endpoint's answer is read as, whatever it is."""

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.teacher.attempts import PASSING, Attempt, TokenLogprob
from kpod.teacher.replies import FAILED_FINISHES, attempt_of


def completion(content: Any = "42.", finish: Any = "stop", *, message: Any = None, logprobs: Any = None, **body: Any):
    """A chat completion as servers send it."""
    said = {"role": "assistant", "content": content, **(message or {})}
    return {"choices": [{"index": 0, "message": said, "finish_reason": finish, "logprobs": logprobs}], **body}


def test_a_whole_text_is_an_answer():
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    attempt = attempt_of("k", completion(" 6 * 7 = 42.\n", model="gpt-x", usage=usage), 1.23456)
    assert attempt == Attempt("k", "answered", " 6 * 7 = 42.\n", "", "stop", "gpt-x", 5, 3, 1.235)
    assert attempt.answered
    assert attempt.settled


NO_COMPLETIONS = [
    None,
    "<html>Bad gateway</html>",
    7,
    [],
    {},
    {"error": {"message": "overloaded"}},
    {"choices": None},
    {"choices": []},
    {"choices": {}},
    {"choices": "text"},
    {"choices": [None]},
    {"choices": ["text"]},
    {"choices": [{}]},
    {"choices": [{"text": "42", "finish_reason": "stop"}]},
    {"choices": [{"message": None}]},
    {"choices": [{"message": "42"}]},
]


@pytest.mark.parametrize("body", NO_COMPLETIONS, ids=str)
def test_what_is_no_completion_is_said_to_be_none_and_shown(body):
    attempt = attempt_of("k", body)
    assert attempt.outcome == "no completion"
    assert not attempt.settled
    assert attempt.detail


def test_of_a_long_page_only_the_beginning_is_shown():
    detail = attempt_of("k", "<html>" + "x" * 100_000).detail
    assert "<html>" in detail
    assert len(detail) < 300


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (completion(None), "empty"),
        (completion(""), "empty"),
        (completion(" \n"), "empty"),
        (completion(7), "empty"),
        (completion([]), "empty"),
        (completion(None, "tool_calls", message={"tool_calls": [{}]}), "empty"),
        (completion("42"), "answered"),
        (completion("42", None), "answered"),
        (completion("42", 0), "answered"),
        (completion("42", {"type": "stop"}), "answered"),
        (completion("42", "eos"), "answered"),
        (completion("4", "length"), "truncated"),
        (completion(None, "length"), "truncated"),
        (completion("4", "MAX_TOKENS"), "truncated"),
        (completion("4", "model_length"), "truncated"),
        (completion("", "content_filter"), "filtered"),
        (completion("4", "content_filter"), "filtered"),
        (completion("4", "content_filter: PROHIBITED_CONTENT"), "filtered"),
        (completion(None, message={"refusal": "I cannot."}), "refused"),
        (completion("No.", "refusal"), "refused"),
        (completion("42.", message={"refusal": "I cannot."}), "answered"),
        (completion("4", "error"), "server error"),
        (completion("4", "abort"), "server error"),
        (completion("<think>6 * 7</think>"), "empty"),
        (completion("<think>6 * 7"), "empty"),
        (completion("<think>6 * 7", "length"), "truncated"),
    ],
    ids=str,
)
def test_why_there_is_no_whole_text(body, outcome):
    attempt = attempt_of("k", body)
    assert attempt.outcome == outcome
    if outcome not in ("answered", "truncated"):
        assert attempt.text == ""


def test_a_refusal_is_told():
    assert attempt_of("k", completion(None, message={"refusal": "I cannot."})).detail == "I cannot."


def test_what_may_pass_is_asked_again_and_what_would_not_is_not():
    assert {outcome: outcome in PASSING for outcome in FAILED_FINISHES.values()} == {
        "truncated": False,
        "filtered": False,
        "refused": False,
        "server error": True,
    }


def test_a_text_in_parts_is_joined():
    parts = [{"type": "text", "text": "6 * 7 "}, {"type": "text", "text": "= 42."}, {"type": "image"}, "x", None]
    assert attempt_of("k", completion(parts)).text == "6 * 7 = 42."
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "six sevens"}]}
    attempt = attempt_of("k", completion([thinking, {"type": "text", "text": "42."}]))
    assert (attempt.reasoning, attempt.text) == ("six sevens", "42.")


@pytest.mark.parametrize(
    ("content", "message", "reasoning", "text"),
    [
        ("<think>6 * 7</think>42.", {}, "6 * 7", "42."),
        ("\n<think>\n6 * 7\n</think>\n\n42.\n", {}, "6 * 7", "42.\n"),
        ("<thinking>6 * 7</thinking> 42.", {}, "6 * 7", "42."),
        ("6 * 7</think>42.", {}, "6 * 7", "42."),  # the template has opened it
        ("<think></think>42.", {}, "", "42."),
        ("<think>6 * 7 <think> 1</think>42.", {}, "6 * 7 <think> 1", "42."),
        ("I <think> so.", {}, "", "I <think> so."),
        ("42.", {"reasoning_content": "6 * 7"}, "6 * 7", "42."),
        ("42.", {"reasoning": "6 * 7"}, "6 * 7", "42."),
        ("42.", {"reasoning": {"effort": "low"}, "reasoning_content": None}, "", "42."),
    ],
)
def test_thoughts_stand_apart(content, message, reasoning, text):
    attempt = attempt_of("k", completion(content, message=message))
    assert (attempt.reasoning, attempt.text) == (reasoning, text)


def test_thoughts_are_looked_for_in_linear_time():
    start = time.process_time()
    attempt_of("k", completion("\n" * 100_000 + "x"))
    attempt_of("k", completion("</think" * 15_000))
    attempt_of("k", completion("</think>" * 15_000))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("tokens", [True, -1, "7", None, 7.5, [7]], ids=str)
def test_a_count_that_is_none_is_left_out(tokens):
    attempt = attempt_of("k", completion(usage={"prompt_tokens": tokens, "completion_tokens": 2}))
    assert (attempt.prompt_tokens, attempt.completion_tokens) == (None, 2)


@pytest.mark.parametrize("body", [{}, {"usage": None}, {"usage": [1]}, {"model": None}, {"model": 7}, {"model": ""}])
def test_usage_and_model_may_be_missing(body):
    attempt = attempt_of("k", completion(**body))
    assert (attempt.outcome, attempt.model, attempt.prompt_tokens) == ("answered", None, None)


def token(text: str | bytes, logprob: Any = -0.5, top: Any = (), *, with_bytes: bool = True) -> dict[str, Any]:
    raw = text if isinstance(text, bytes) else text.encode()
    shown = raw.decode("utf-8", "replace")
    extra = {"bytes": list(raw)} if with_bytes else {}
    return {"token": shown, "logprob": logprob, "top_logprobs": list(top), **extra}


def logprobs_of(content: str, tokens: list[Any]) -> tuple[TokenLogprob, ...] | None:
    return attempt_of("k", completion(content, logprobs={"content": tokens})).logprobs


@given(st.text(min_size=1).filter(str.strip), st.data())
def test_the_spans_of_tokens_tile_the_text(text: str, data: st.DataObject):
    if "think" in text:
        return
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw)), max_size=8)) | {len(raw)})
    tokens = [token(raw[start:stop]) for start, stop in zip([0, *cuts[:-1]], cuts, strict=True)]
    found = logprobs_of(text, tokens)
    assert found is not None
    assert len(found) == len(tokens)
    assert {at for one in found for at in range(*one.span)} == set(range(len(text)))
    for one, other in pairwise(found):
        assert one.span[0] <= other.span[0]
        assert one.span[1] in (other.span[0], other.span[0] + 1)  # parts of one character share its span
    whole = [one for one, given_ in zip(found, tokens, strict=True) if "\ufffd" not in given_["token"]]
    for one, given_ in zip(whole, [t for t in tokens if "\ufffd" not in t["token"]], strict=True):
        assert text[slice(*one.span)] == given_["token"]


def test_tokens_without_bytes_are_read_too():
    found = logprobs_of("42.", [token("42", with_bytes=False), token(".", with_bytes=False)])
    assert [one.span for one in found or ()] == [(0, 2), (2, 3)]
    null = [token("42.", with_bytes=False) | {"bytes": None}]
    assert [one.span for one in logprobs_of("42.", null) or ()] == [(0, 3)]


def test_an_end_token_stands_behind_the_text():
    spans = [one.span for one in logprobs_of("42.", [token("42."), token("<|im_end|>")]) or ()]
    assert spans == [(0, 3), (3, 3)]


def test_after_a_thought_spans_count_from_the_text():
    tokens = [token("<think>"), token("6"), token("</think>"), token("\n\n"), token("42"), token(".")]
    assert [one.span for one in logprobs_of("<think>6</think>\n\n42.", tokens) or ()] == [(0, 2), (2, 3)]
    tokens = [token("<think>6</think>"), token("\n42"), token(".")]  # a token across the border
    assert [one.span for one in logprobs_of("<think>6</think>\n42.", tokens) or ()] == [(0, 2), (2, 3)]


def test_likely_others_are_kept_and_what_is_impossible_is_finite():
    top = [{"token": "42", "logprob": -0.1}, {"token": "x", "logprob": -9999.0}, {"token": "y", "logprob": None}]
    (found,) = logprobs_of("42", [token("42", -0.1, top)]) or ()
    assert found == TokenLogprob((0, 2), -0.1, {"42": -0.1, "x": -9999.0, "y": -9999.0})
    for written, kept in ((-9999.0, -9999.0), (float("-inf"), -9999.0), (1e-9, 0.0), (None, -9999.0)):
        assert [one.logprob for one in logprobs_of("42", [token("42", written)]) or ()] == [kept]


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [token("4")],  # too short
        [token("43")],
        [token("42"), token("a"), token("b")],  # more than an end token
        [token("42", "high")],
        [token("42", float("nan"))],
        [token("42", 10**400)],
        [token("42") | {"bytes": [300]}],
        [token("42") | {"bytes": ["4"]}],
        [{"token": "42"}],
        [{"logprob": -1}],
        [token("42", top=[7])],
        ["42"],
        [None],
    ],
    ids=str,
)
def test_tokens_that_spell_another_text_or_none_are_no_logprobs(tokens):
    attempt = attempt_of("k", completion("42", logprobs={"content": tokens}))
    assert (attempt.outcome, attempt.text, attempt.logprobs) == ("answered", "42", None)


@pytest.mark.parametrize("logprobs", [None, {}, [], "x", {"content": None}, {"content": "42"}, {"tokens": ["42"]}])
def test_logprobs_may_be_missing(logprobs):
    assert attempt_of("k", completion("42", logprobs=logprobs)).logprobs is None


NAMES = st.sampled_from(
    [
        "choices",
        "message",
        "content",
        "refusal",
        "finish_reason",
        "usage",
        "model",
        "logprobs",
        "token",
        "logprob",
        "bytes",
        "top_logprobs",
        "text",
        "type",
        "reasoning",
        "reasoning_content",
        "thinking",
        "prompt_tokens",
        "error",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["stop", "length", "<think>a</think>b", "\ud800"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=6),
    max_leaves=30,
)


@given(JSON)
def test_any_json_is_read(body: Any):
    check_reading(body)


@given(content=JSON, finish=JSON, logprobs=JSON, usage=JSON, refusal=JSON, tokens=st.lists(JSON, max_size=3))
def test_any_completion_is_read(content, finish, logprobs, usage, refusal, tokens):
    check_reading(completion(content, finish, logprobs=logprobs, usage=usage, message={"refusal": refusal}))
    check_reading(
        completion("42", logprobs={"content": [{"token": "42", "logprob": -1.0, "bytes": t} for t in tokens]})
    )
    check_reading(completion("42", logprobs={"content": [{"token": "42", "logprob": t} for t in tokens]}))


def check_reading(body: Any) -> None:
    attempt = attempt_of("k", body, 1.0)
    assert attempt.key == "k"
    assert attempt.answered == bool(attempt.text.strip()) or attempt.outcome == "truncated"
    assert Attempt.of_row(json.loads(json.dumps(attempt.row()))) == attempt


TOKENS = st.tuples(
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.floats(-9999, 0),
    st.dictionaries(st.text(), st.floats(-9999, 0), max_size=3),
)
ATTEMPTS = st.fixed_dictionaries(
    {"key": st.text(), "outcome": st.sampled_from(["answered", "truncated", "timeout"])},
    optional={
        "text": st.text(),
        "reasoning": st.text(),
        "finish_reason": st.text(min_size=1),
        "prompt_tokens": st.integers(0, 10**6),
        "seconds": st.floats(0, 1e6),
    },
)


@given(ATTEMPTS, st.none() | st.lists(TOKENS, max_size=3))
def test_an_attempt_survives_its_row(values: dict[str, Any], tokens: list[Any] | None):
    logprobs = None if tokens is None else tuple(TokenLogprob(*token) for token in tokens)
    attempt = Attempt(**values, logprobs=logprobs)
    assert Attempt.of_row(json.loads(json.dumps(attempt.row()))) == attempt


def test_what_is_empty_is_not_written_but_a_zero_is():
    assert Attempt("", "empty", prompt_tokens=0).row() == {
        "key": "",
        "outcome": "empty",
        "prompt_tokens": 0,
        "seconds": 0.0,
    }


ROW = Attempt("k", "answered", "42").row()


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"key": "k"},
        {"outcome": "answered"},
        ROW | {"outcome": "fine"},
        ROW | {"outcome": None},
        ROW | {"key": 7},
        ROW | {"text": None},
        ROW | {"reasoning": 7},
        ROW | {"more": 1},
        ROW | {"logprobs": 7},
        ROW | {"logprobs": [{}]},
        ROW | {"logprobs": [{"span": [], "logprob": -1, "top": {}}]},
        ROW | {"logprobs": [{"span": [0, 1, 2], "logprob": -1, "top": {}}]},
    ],
    ids=str,
)
def test_a_row_that_is_no_attempt_is_refused(row):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Attempt.of_row(row)
