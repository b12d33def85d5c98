"""The Batch API against a server in this process: nothing is ordered twice, and whatever comes back is read."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kpod.recipe import AskConfig
from kpod.records import Question
from kpod.records.errors import TeacherError
from kpod.teacher import batch as batch_module
from kpod.teacher import clients
from kpod.teacher.asking import ask_teacher, open_requests
from kpod.teacher.attempts import Attempt
from kpod.teacher.batch import MARK, BatchApi
from kpod.teacher.requests import Request, requests_for
from kpod.teacher.store import attempts_by_key, read_store

KEY = "sk-secret-0123456789"
QUESTIONS = [Question(f"q{n}", f"{n} + 1?", str(n + 1)) for n in range(5)]


class FakeApi:
    """OpenAI's files and batches, as far as they are used; a batch ends when it is looked at for the second time."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks: Counter[str] = Counter()
        self.calls: list[str] = []
        self.ended: dict[str, Any] = {"status": "completed"}
        self.failing: set[str] = set()
        self.unanswered: set[str] = set()
        self.answer: Any = None
        self.pages: dict[str, tuple[int, str]] = {}
        self.keys_sent: set[str] = set()

    def ordered(self) -> list[list[str]]:
        """The custom ids of every batch."""
        return [[row["custom_id"] for row in self.rows(b["input_file_id"])] for b in self.batches.values()]

    def rows(self, file_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[file_id].decode().splitlines()]

    def add(self, content: bytes) -> str:
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = content
        return file_id

    def respond(self, method: str, path: str, content: bytes) -> tuple[int, Any]:
        call = f"{method} {path.partition('?')[0]}"
        self.calls.append(call)
        if call in self.pages:
            return self.pages[call]
        if call == "POST /v1/files":
            start = content.index(b"\r\n\r\n", content.index(b'filename="')) + 4
            file_id = self.add(content[start : content.index(b"\r\n--", start)])
            return 200, {"id": file_id, "object": "file", "purpose": "batch", "filename": "requests.jsonl"}
        if call == "POST /v1/batches":
            order = json.loads(content)
            assert (order["endpoint"], order["completion_window"]) == ("/v1/chat/completions", "24h")
            batch = {"id": f"batch-{len(self.batches)}", "object": "batch", "status": "in_progress", **order}
            self.batches[batch["id"]] = batch
            return 200, batch
        if call == "GET /v1/batches":
            return 200, {"object": "list", "data": [*self.batches.values()][::-1], "has_more": False}
        if path.endswith("/content"):
            return 200, self.files[path.split("/")[3]]
        return 200, self.look_at(path.rsplit("/", 1)[1])

    def look_at(self, batch_id: str) -> dict[str, Any]:
        self.looks[batch_id] += 1
        batch = self.batches[batch_id]
        if self.looks[batch_id] == 2:
            batch |= self.ended
            rows = [row["custom_id"] for row in self.rows(batch["input_file_id"])][
                ::-1
            ]  # not in the order of the input
            good = [key for key in rows if key not in self.failing | self.unanswered]
            bad = [key for key in rows if key in self.failing]
            for name, keys, line in (("output_file_id", good, self.good), ("error_file_id", bad, self.bad)):
                if keys:
                    batch[name] = self.add("".join(line(key) + "\n" for key in keys).encode())
        return batch

    def good(self, key: str) -> str:
        said = {"choices": [{"message": {"content": f"Hm\u2028{key}. The answer is 1."}, "finish_reason": "stop"}]}
        response = self.answer or {"status_code": 200, "body": said}
        return json.dumps({"custom_id": key, "response": response, "error": None}, ensure_ascii=False)

    def bad(self, key: str) -> str:
        error = {"code": "batch_expired", "message": f"expired before {KEY} was served"}
        return json.dumps({"custom_id": key, "response": None, "error": error})


@pytest.fixture
def api(monkeypatch) -> Iterator[FakeApi]:
    fake = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            fake.keys_sent.add(self.headers.get("authorization", ""))
            status, answer = fake.respond(self.command, self.path, content)
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            page = isinstance(answer, bytes) and body.startswith(b"<")
            self.send_response(status)
            self.send_header("content-type", "text/html" if page else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = reply  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        yield fake
        server.shutdown()
        thread.join()


ASK = AskConfig("gpt-x", backend="batch", poll_seconds=0.01, retries=0, timeout=10.0)


def asked(store: Path, requests: list[Request], ask: AskConfig = ASK) -> dict[str, Attempt]:
    kept: dict[str, Attempt] = {}

    def keep(attempt: Attempt) -> None:
        assert attempt.key not in kept
        kept[attempt.key] = attempt

    BatchApi(ask, store).ask(requests, keep)
    return kept


def test_answers_come_back_by_key_in_whatever_order(api, tmp_path):
    requests = requests_for(QUESTIONS, ASK)
    kept = asked(tmp_path / "s.jsonl", requests)
    assert api.ordered() == [[request.key for request in requests]]
    assert list(kept) == [request.key for request in reversed(requests)]
    for request in requests:
        assert kept[request.key].text == f"Hm\u2028{request.key}. The answer is 1."  # U+2028 ends no line of JSON
    body = api.rows("file-0")[0]["body"]
    assert body["messages"] == [dict(message) for message in requests[0].messages]
    assert api.keys_sent == {f"Bearer {KEY}"}


def test_a_whole_run_orders_only_what_is_missing(api, tmp_path):
    store = tmp_path / "s.jsonl"
    first = ask_teacher(QUESTIONS[:2], ASK, store)
    second = ask_teacher(QUESTIONS, ASK, store)
    ask_teacher(QUESTIONS, ASK, store)
    keys = [[request.key for request in requests] for requests in (first.requests, second.requests)]
    assert api.ordered() == [keys[0], keys[1][2:]]
    assert all(attempt.answered for attempt in second.attempts.values())


def test_the_same_request_twice_is_ordered_once(api, tmp_path):
    (request,) = requests_for(QUESTIONS[:1], ASK)
    assert list(asked(tmp_path / "s.jsonl", [request, request])) == [request.key]
    assert api.ordered() == [[request.key]]


def test_many_requests_go_up_in_several_batches(api, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_module, "REQUESTS_PER_BATCH", 2)
    requests = requests_for(QUESTIONS, ASK)
    kept = asked(tmp_path / "s.jsonl", requests)
    assert [len(keys) for keys in api.ordered()] == [2, 2, 1]
    assert kept.keys() == {request.key for request in requests}


def test_nothing_is_ordered_for_no_requests(api, tmp_path):
    assert asked(tmp_path / "s.jsonl", []) == {}
    assert api.batches == {}


class KilledError(BaseException):
    """As hard as a kill: no handler of the package sees it."""


def killed(*_: object) -> None:
    raise KilledError


def killed_at(monkeypatch, name: str) -> None:
    """From now on a run dies before it writes a line with this name to its orders."""
    written = BatchApi._write

    def write(self: BatchApi, row: dict[str, Any]) -> None:
        if name in row:
            raise KilledError
        written(self, row)

    monkeypatch.setattr(BatchApi, "_write", write)


def test_a_kill_between_ordering_and_writing_it_down_orders_nothing_twice(api, tmp_path, monkeypatch):
    requests, store = requests_for(QUESTIONS, ASK), tmp_path / "s.jsonl"
    with monkeypatch.context() as patch:
        killed_at(patch, "batch")
        with pytest.raises(KilledError):
            asked(store, requests)
    rest = dict.fromkeys(("input_file_id", "endpoint", "completion_window"), "x")
    api.batches["other"] = {"id": "other", "object": "batch", "status": "completed", "metadata": None, **rest}
    assert asked(store, requests).keys() == {request.key for request in requests}
    del api.batches["other"]
    assert len(api.batches) == 1
    assert [batch["metadata"].keys() for batch in api.batches.values()] == [{MARK}]


def test_a_kill_before_the_order_was_sent_orders_it_again(api, tmp_path):
    requests, store = requests_for(QUESTIONS, ASK), tmp_path / "s.jsonl"
    api.pages["POST /v1/batches"] = (500, {"error": {"message": f"down for {KEY}"}})
    with pytest.raises(TeacherError, match=r"down for \*\*\*"):
        asked(store, requests)
    api.pages.clear()
    assert asked(store, requests).keys() == {request.key for request in requests}
    assert len(api.batches) == 1


def test_a_resumed_run_reads_the_earlier_batch_once(api, tmp_path, monkeypatch):
    store = tmp_path / "s.jsonl"
    with monkeypatch.context() as patch:
        killed_at(patch, "read")  # all is kept, but that is not written down
        with pytest.raises(KilledError):
            ask_teacher(QUESTIONS[:3], ASK, store)
    assert len(read_store(store)) == 3
    ask_teacher(QUESTIONS, ASK, store)
    assert [len(keys) for keys in api.ordered()] == [3, 2]
    assert {len(attempts) for attempts in attempts_by_key(store).values()} == {1}


def test_a_batch_that_another_recipe_ordered_for_the_store_is_not_lost(api, tmp_path, monkeypatch):
    store = tmp_path / "s.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(BatchApi, "_ended", killed)
        with pytest.raises(KilledError):
            ask_teacher(QUESTIONS[:4], ASK, store)
        with pytest.raises(KilledError):
            ask_teacher(QUESTIONS[4:], ASK, store)
    ask_teacher(QUESTIONS[:1], ASK, store)  # reads all of the first batch, and leaves the second alone
    assert not open_requests(requests_for(QUESTIONS[:4], ASK), store)
    assert api.looks == {"batch-0": 2}
    ask_teacher(QUESTIONS, ASK, store)
    assert [len(keys) for keys in api.ordered()] == [4, 1]


def test_errors_stand_in_a_second_file(api, tmp_path):
    requests = requests_for(QUESTIONS, ASK)
    api.failing = {requests[1].key}
    kept = asked(tmp_path / "s.jsonl", requests)
    assert len(kept) == 5
    failed = kept[requests[1].key]
    assert (failed.outcome, failed.detail) == ("server error", "expired before *** was served")
    assert not failed.settled


def test_a_completed_batch_may_have_no_output(api, tmp_path):
    requests = requests_for(QUESTIONS, ASK)
    api.failing = {request.key for request in requests}
    assert {attempt.outcome for attempt in asked(tmp_path / "s.jsonl", requests).values()} == {"server error"}


def test_an_expired_batch_gives_what_it_has_and_the_rest_is_ordered_again(api, tmp_path):
    store, requests = tmp_path / "s.jsonl", requests_for(QUESTIONS, ASK)
    api.ended = {"status": "expired"}
    api.failing, api.unanswered = {requests[0].key}, {requests[1].key}
    with pytest.raises(TeacherError, match="2 of 5 answers are missing"):
        ask_teacher(QUESTIONS, ASK, store)
    api.ended, api.failing, api.unanswered = {"status": "completed"}, set(), set()
    ask_teacher(QUESTIONS, ASK, store)
    assert api.ordered()[1:] == [[requests[0].key, requests[1].key]]


def test_a_failed_batch_says_why_and_is_ordered_again(api, tmp_path):
    store, requests = tmp_path / "s.jsonl", requests_for(QUESTIONS, ASK)
    errors = {"object": "list", "data": [{"code": "limit", "message": f"too many tokens enqueued by {KEY}"}]}
    api.ended = {"status": "failed", "errors": errors}
    api.unanswered = {request.key for request in requests}
    with pytest.raises(TeacherError, match=r"batch-0 failed: too many tokens enqueued by \*\*\*"):
        asked(store, requests)
    api.ended, api.unanswered = {"status": "completed"}, set()
    assert len(asked(store, requests)) == 5
    assert len(api.batches) == 2


@pytest.mark.parametrize(
    ("response", "outcome", "detail"),
    [
        ({"status_code": 400, "body": {"error": {"message": "too long"}}}, "bad request", "400 too long"),
        ({"status_code": 429, "body": {"error": {"code": "slow"}}}, "rate limited", "429 slow"),
        ({"status_code": 404, "body": {"error": {"message": "no such model"}}}, "server error", "404 no such model"),
        ({"status_code": 500, "body": "<html>"}, "server error", "500 no reason was given"),
        ({"status_code": 500, "body": {"error": "down"}}, "server error", "500 down"),
        ({"status_code": None}, "server error", "no reason was given"),
        ({"status_code": 402, "body": {"error": {"message": "empty"}}}, "server error", "402 empty"),
        ({"status_code": 200, "body": {"error": {"code": 429, "message": "slow"}}}, "rate limited", "429 slow"),
        ({"status_code": 200, "body": {"error": {"code": 402, "message": "empty"}}}, "server error", "402 empty"),
        ("nonsense", "server error", "no reason was given"),
    ],
    ids=str,
)
def test_a_line_that_is_no_answer_says_why(api, tmp_path, response, outcome, detail):
    requests = requests_for(QUESTIONS[:1], ASK)
    api.answer = response
    (attempt,) = asked(tmp_path / "s.jsonl", requests).values()
    assert (attempt.outcome, attempt.detail) == (outcome, detail)


@pytest.mark.parametrize("line", ["{broken", "7", "[]", '{"custom_id": "another"}', '{"response": {}}', ""])
def test_a_line_that_is_none_is_passed_over(api, tmp_path, monkeypatch, line):
    requests = requests_for(QUESTIONS[:3], ASK)
    good = api.good
    monkeypatch.setattr(api, "good", lambda key: line if key == requests[0].key else good(key))
    assert asked(tmp_path / "s.jsonl", requests).keys() == {request.key for request in requests[1:]}


@pytest.mark.parametrize("call", ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/batch-0", "GET /v1/batches"])
def test_a_page_of_a_proxy_stops_the_run_and_the_next_one_goes_on(api, tmp_path, monkeypatch, call):
    store, requests = tmp_path / "s.jsonl", requests_for(QUESTIONS, ASK)
    if call == "GET /v1/batches":  # asked for where an order was lost
        with monkeypatch.context() as patch:
            killed_at(patch, "batch")
            with pytest.raises(KilledError):
                asked(store, requests)
    for page in (b"<html>Sign in</html>", b'{"broken'):
        api.pages[call] = (200, page)
        with pytest.raises(TeacherError, match="the Batch API"):
            asked(store, requests)
    api.pages.clear()
    assert len(asked(store, requests)) == 5
    assert len(api.batches) == 1


def test_the_key_is_in_no_file_and_no_error(api, tmp_path, caplog):
    caplog.set_level("DEBUG")
    requests = requests_for(QUESTIONS, ASK)
    api.failing = {requests[0].key}
    with pytest.raises(TeacherError) as missing:
        ask_teacher(QUESTIONS, ASK, tmp_path / "s.jsonl")
    api.pages["POST /v1/files"] = (401, {"error": {"message": f"Incorrect API key: {KEY}"}})
    with pytest.raises(TeacherError, match="Incorrect API key") as refused:
        ask_teacher(QUESTIONS, ASK, tmp_path / "s.jsonl")
    written = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 2
    assert all(KEY not in text for text in (*written, str(missing.value), str(refused.value), caplog.text))


def test_a_batch_that_is_refused_as_a_whole_fails_with_the_servers_words_and_is_ordered_again_once_mended(
    api, tmp_path
):
    store = tmp_path / "s.jsonl"
    api.answer = {"status_code": 400, "body": {"error": {"message": f"no max_tokens for {KEY}"}}}
    with pytest.raises(TeacherError, match=r"refused all 5 requests: 400 no max_tokens for \*\*\*; set"):
        ask_teacher(QUESTIONS, ASK, store)
    assert not read_store(store)
    api.answer = None
    ask_teacher(QUESTIONS, replace(ASK, length_parameter="max_completion_tokens"), store)
    assert len(read_store(store)) == len(QUESTIONS)
    assert [len(keys) for keys in api.ordered()] == [5, 5]


def test_further_keys_and_headers_reach_the_api(api, tmp_path, monkeypatch):
    monkeypatch.setenv("AZURE_KEY", "s3cret-0001")
    ask = replace(ASK, extra_body={"top_k": 3}, top_p=None, extra_headers={"authorization": "Bearer $AZURE_KEY"})
    ask_teacher(QUESTIONS[:1], ask, tmp_path / "s.jsonl")
    body = api.rows("file-0")[0]["body"]
    assert (body["top_k"], "top_p" in body) == (3, False)
    assert api.keys_sent == {"Bearer s3cret-0001"}


def test_an_output_file_without_end_is_cut_off(api, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_module, "LONGEST_FILE", 100)
    with pytest.raises(TeacherError, match="the Batch API: file file-1 is longer than"):
        asked(tmp_path / "s.jsonl", requests_for(QUESTIONS, ASK))


def test_an_answer_without_end_is_cut_off(api, tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "LONGEST_REPLY", 10)
    with pytest.raises(TeacherError, match="the Batch API: the reply is longer than"):
        asked(tmp_path / "s.jsonl", requests_for(QUESTIONS, ASK))


def test_an_api_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with pytest.raises(TeacherError, match=r"the Batch API: the endpoint http://127\.0\.0\.1:1/v1 cannot be reached"):
        asked(tmp_path / "s.jsonl", requests_for(QUESTIONS, ASK))
