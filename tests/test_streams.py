"""Event streams: whatever their lines look like, they spell the same completion."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.teacher.failures import in_answer
from kpod.teacher.replies import attempt_of
from kpod.teacher.streams import is_stream, joined
from test_failures import completion


def events(*rows: Any, end: str = "\n\n", done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(row)}" for row in rows] + ["data: [DONE]"] * done
    return (end.join(lines) + end).encode()


def piece(finish: Any = None, **delta: Any) -> dict[str, Any]:
    return {"model": "teacher", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


PIECES = [
    piece(role="assistant", content=""),
    piece(reasoning_content="hm"),
    piece(content="I add.\u2028 The answer"),
    piece(content=" is 4."),
    piece("stop"),
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}},
]
STREAMS = {
    "plain": events(*PIECES),
    "carriage returns": events(*PIECES, end="\r\n\r\n"),
    "without empty lines": events(*PIECES, end="\n"),
    "without an end mark": events(*PIECES, done=False),
    "comments": b": OPENROUTER PROCESSING\n\n" + events(*PIECES),
    "named events": events(*PIECES).replace(b"data: {", b"event: message\nid: 1\ndata:{"),
    "byte order mark": b"\xef\xbb\xbf" + events(*PIECES),
    "a whole message": events(PIECES[-1] | completion("I add.\u2028 The answer is 4.", reasoning_content="hm")),
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_is_joined(stream):
    text = stream.decode()
    assert is_stream(text)
    attempt = attempt_of("k", joined(text))
    assert (attempt.outcome, attempt.text, attempt.reasoning) == ("answered", "I add.\u2028 The answer is 4.", "hm")
    assert (attempt.model, attempt.prompt_tokens, attempt.completion_tokens) == ("teacher", 3, 9)


@given(st.text(), st.lists(st.integers(0, 100)))
def test_pieces_spell_the_text(text: str, cuts: list[int]):
    stops = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    parts = [text[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
    found = joined(events(*(piece(content=part) for part in parts), piece("stop")).decode())
    assert found["choices"][0]["message"].get("content", "") == text


def test_logprobs_are_joined():
    tokens = [{"token": "4", "logprob": -0.5}, {"token": ".", "logprob": -0.1}]
    rows = [piece(content=token["token"]) for token in tokens]
    for row, token in zip(rows, tokens, strict=True):
        row["choices"][0]["logprobs"] = {"content": [token]}
    attempt = attempt_of("k", joined(events(*rows, piece("stop")).decode()))
    assert [one.span for one in attempt.logprobs or ()] == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    "text", ["data: {broken\n\n", "event: ping\n\n", "data: {}\n\n", events(*PIECES[:3], done=False).decode()]
)
def test_a_stream_that_breaks_off_is_none(text):
    with pytest.raises(ValueError, match=r"."):
        joined(text)


def test_an_error_in_a_stream_is_its_answer():
    found = in_answer(joined(events(PIECES[2], {"error": {"code": 502, "message": "no node"}}).decode()))
    assert found is not None
    assert found.told == "502: no node"


@pytest.mark.parametrize("text", ['{"a": 1}', " \n{}", "", "<html>", "dat", "[1]"])
def test_other_replies_are_no_streams(text):
    assert not is_stream(text)


def test_a_json_reply_of_a_streams_type_is_none():
    assert not is_stream('  {"choices": []}', "text/event-stream")


def test_long_streams_are_read_in_linear_time():
    start = time.process_time()
    joined(events(*[piece(content="x")] * 20_000, piece("stop")).decode())
    with pytest.raises(ValueError, match="breaks off"):
        joined("\n" * 100_000 + ":" * 100_000)
    with pytest.raises(ValueError, match=r"."):
        joined("data:x\n" * 100_000)
    assert time.process_time() - start < 5
