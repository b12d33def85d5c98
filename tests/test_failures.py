"""What an error says, as a status or inside an answer: for the request, for the run, and how long to wait."""

import json
import time
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given

from kpod.teacher.failures import in_answer, of_status
from test_replies import JSON


def completion(content: Any = "I add. The answer is 4.", finish: Any = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **message}
    return {"model": "teacher", "choices": [{"index": 0, "message": said, "finish_reason": finish}]}


QUIET = {"choices": []}
STOPPING = [
    {"error": {"code": 402, "message": "Insufficient credits"}},
    {"error": {"code": "402", "message": "Insufficient credits"}},
    {"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}},
    {"error": {"type": "insufficient_quota", "message": "x"}},
    {"error": {"message": "Insufficient balance"}},
    {"error": {"code": 401, "message": "No auth credentials found"}},
    {"error": {"code": "invalid_api_key", "message": "Incorrect API key"}},
    {"error": {"code": 403, "message": "moderated"}, **QUIET},
    {"error": {"code": 404, "message": "no such model"}},
    {"object": "error", "message": "no access", "code": 403},
    {"code": 401, "msg": "who are you?"},
    {"choices": [{"error": {"code": 402, "message": "Insufficient credits"}, "message": {"content": ""}}]},
    {"choices": [{"error": {"code": 401, "message": "x"}, "finish_reason": "error", "message": {"content": "par"}}]},
]


PASSING = [
    ({"error": {"code": 429, "message": "slow down"}}, "rate limited", "429: slow down"),
    ({"error": {"code": "rate_limit_exceeded", "message": "slow down"}}, "rate limited", "429: slow down"),
    (
        {"error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "cuda"}}},
        "server error",
        "cuda",
    ),
    ({"error": {"type": "overloaded_error", "message": "busy"}}, "server error", "529: busy"),
    ({"error": {"code": 408, "message": "late"}}, "server error", "408: late"),
    ({"error": "the engine is gone"}, "no completion", "the engine is gone"),
    ({"error": {"message": "hm"}, **QUIET}, "no completion", "hm"),
    (completion("4", "error") | {"error": {"code": 500, "message": "mid-stream"}}, "server error", "500: mid-stream"),
    (completion("4", "error") | {"error": {"message": "lost"}}, "server error", "lost"),
    (completion("4", "error"), "server error", "finish_reason 'error'"),
    (
        {"choices": [{"finish_reason": "error", "error": {"code": 503, "message": "no node"}}]},
        "server error",
        "no node",
    ),
]


@pytest.mark.parametrize("body", STOPPING, ids=json.dumps)
def test_an_error_that_every_request_would_get_ends_the_run(body):
    found = in_answer(body)
    assert found is not None
    assert found.ends_run


@pytest.mark.parametrize(("body", "outcome", "words"), PASSING, ids=[json.dumps(row[0]) for row in PASSING])
def test_an_error_that_may_pass_is_told_in_its_words(body, outcome, words):
    found = in_answer(body)
    if found is None:  # an answer that ends in a failure without words
        assert words == "finish_reason 'error'"
        return
    assert (found.outcome, found.ends_run) == (outcome, False)
    assert words in found.told


@pytest.mark.parametrize(
    "body",
    [
        None,
        "x",
        [],
        {},
        completion(),
        completion() | {"error": None},
        completion() | {"error": {}},
        completion() | {"error": []},
        completion() | {"error": {"code": 0, "message": "ok"}},
        completion() | {"error": {"code": 500, "message": "beside a whole text, which was paid for"}},
        completion() | {"code": 200, "message": "success"},
        {"error": {"code": 200, "message": "success"}},
        {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]},
        {"message": "a text that names no error"},
    ],
    ids=json.dumps,
)
def test_what_is_no_error_is_none(body):
    assert in_answer(body) is None


@pytest.mark.parametrize(
    "error",
    [
        {"metadata": {"retry_after_seconds": 3}},
        {"metadata": {"retry_after_ms": 3000}},
        {"retry_after": "3"},
        {"metadata": {"headers": {"Retry-After": "3"}}},
        {"details": [{"@type": "x"}, {"retryDelay": "3s"}]},
    ],
    ids=json.dumps,
)
def test_an_error_says_how_long_to_wait(error):
    found = in_answer({"error": {"code": 429, "message": "slow down", **error}})
    assert found is not None
    assert found.wait == 3


def test_an_error_may_name_the_moment_until_which_to_wait(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    headers = {"X-RateLimit-Reset": "1700000003000"}
    found = in_answer({"error": {"code": 429, "metadata": {"headers": headers}}})
    assert found is not None
    assert found.wait == 3


@pytest.mark.parametrize("wait", [None, {}, [], "soon", "", float("nan"), {"a": 1}])
def test_a_wait_that_says_nothing_is_none(wait):
    found = in_answer({"error": {"code": 429, "retry_after": wait, "metadata": wait, "details": wait}})
    assert found is not None
    assert found.wait is None


def test_the_headers_say_it_where_the_error_does_not():
    found = in_answer({"error": {"code": 429}}, {"retry-after": "7"})
    assert found is not None
    assert found.wait == 7


def status_error(status: int, body: Any) -> openai.APIStatusError:
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://x/v1"))
    return openai.APIStatusError("Error code", response=response, body=body)


@pytest.mark.parametrize(
    ("status", "body", "outcome", "ends"),
    [
        (400, {"message": "no"}, "bad request", False),
        (400, {"message": "Your credit balance is too low"}, "bad request", True),
        (402, None, "bad request", True),
        (403, {"message": "Insufficient balance"}, "bad request", True),
        (422, {"detail": [{"loc": ["body", "seed"]}]}, "bad request", False),
        (429, {"message": "Rate limit"}, "rate limited", False),
        (429, {"code": "insufficient_quota"}, "rate limited", True),
        (429, {"code": ["x"], "type": {"a": 1}}, "rate limited", False),
        (407, None, "bad request", True),
        (409, "x", "server error", False),
        (529, {"message": "overloaded"}, "server error", False),
    ],
    ids=str,
)
def test_what_a_status_means(status, body, outcome, ends):
    found = of_status(status_error(status, body))
    assert (found.outcome, found.ends_run) == (outcome, ends)
    assert found.told.startswith(f"{status}: ")


@given(JSON)
def test_any_json_is_judged(body: Any):
    for found in (in_answer(body), in_answer({"error": body}), of_status(status_error(429, body))):
        assert found is None or (found.told and found.outcome)


def test_long_words_are_cut_in_linear_time():
    start = time.process_time()
    found = in_answer({"error": {"message": "insufficient " * 20_000 + "x" * 10**6, "code": 429}})
    assert found is not None
    assert len(found.told) < 500
    assert time.process_time() - start < 2
