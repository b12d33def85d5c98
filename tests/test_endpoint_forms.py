"""Endpoints as people have them: what each wants, sends and refuses, and what is then said."""

import asyncio
import gzip
import json
import socket
import ssl
import subprocess
import threading
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from asked_runs import ask_of, questions
from faulty_proxy import Call, canned, serving
from kpod.commands.command_line import main
from kpod.recipe import AskConfig, TeacherPromptConfig
from kpod.records.errors import ConfigError, TeacherError
from kpod.teacher import clients, endpoint
from kpod.teacher.asking import ask_teacher, explanations
from kpod.teacher.store import attempts_by_key, read_store
from test_failures import PASSING, STOPPING, completion
from test_streams import PIECES, STREAMS, events, piece

KEY = "sk-kpod-sentinel-5f2b8c1d9e"
HEADER_KEY = "azure-3f9a7c"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("AZURE_KEY", HEADER_KEY)
    for name in (*PROXIES, *map(str.upper, PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)


class Scripted:
    """A server that answers every request as its script says, and notes it.

    Args:
        script: Of the request and its number, from 0, a body, or a status and a body, or status, body and headers.
    """

    def __init__(self, script: Callable[[Call, int], Any]) -> None:
        self.script = script
        self.calls: list[Call] = []

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(call.body) for call in self.calls]

    async def answer(self, call: Call) -> None:
        self.calls.append(call)
        said = self.script(call, len(self.calls) - 1)
        status, body, headers = (*said, {})[:3] if isinstance(said, tuple) else (200, said, {})
        await call.send(status, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


def always(*said: Any) -> Scripted:
    return Scripted(lambda *_: said if len(said) > 1 else said[0])


def outcomes(store: Path) -> list[list[str]]:
    return [[attempt.outcome for attempt in attempts] for attempts in attempts_by_key(store).values()]


def failure(tmp_path: Path, server: Scripted, number: int = 8, **changes: Any) -> str:
    """What stops a run."""
    with serving(server.answer) as url, pytest.raises(TeacherError) as error:
        ask_teacher(questions(number), ask_of(url, **{"retries": 1, "concurrency": 2, **changes}), tmp_path / "s.jsonl")
    assert KEY not in str(error.value)
    return str(error.value)


# ----- what is sent


def test_further_keys_headers_and_parameters_of_the_url_are_sent(tmp_path):
    extra = {"enable_thinking": False, "top_k": 20, "provider": {"order": ["a", "b"]}, "reasoning_effort": None}
    headers = {"X-Title": "a study", "api-key": "$AZURE_KEY", "x-more": "a ${AZURE_KEY} b"}
    server = always(completion())
    with serving(server.answer) as url:
        ask = ask_of(f"{url}?api-version=1", extra_body=extra, extra_headers=headers, extra_query={"b": "2"})
        ask_teacher(questions(1), ask, tmp_path / "s.jsonl")
    (call,) = server.calls
    assert call.target == "/v1/chat/completions?api-version=1&b=2"
    assert {name: server.bodies[0][name] for name in extra} == extra
    assert (call.headers["x-title"], call.headers["api-key"]) == ("a study", HEADER_KEY)
    assert call.headers["x-more"] == f"a {HEADER_KEY} b"
    assert "authorization" not in call.headers, "the key of another service is not sent"


@pytest.mark.parametrize("name", ["X-Title", "helicone-auth"])
def test_a_header_beside_the_key_leaves_the_key(tmp_path, name):
    server = always(completion())
    with serving(server.answer) as url:
        ask_teacher(questions(1), ask_of(url, extra_headers={name: "$AZURE_KEY"}), tmp_path / "s.jsonl")
    assert server.calls[0].headers["authorization"] == f"Bearer {KEY}"


NULLS = [("temperature", "temperature"), ("top_p", "top_p"), ("max_tokens", "max_tokens"), ("seed", "seed")]


@pytest.mark.parametrize(("key", "parameter"), [*NULLS, ("stop", "stop"), ("logprobs", "logprobs")])
def test_a_parameter_that_is_null_is_not_sent(tmp_path, key, parameter):
    server = always(completion())
    with serving(server.answer) as url:
        ask_teacher(questions(1), ask_of(url, **{key: None}), tmp_path / "s.jsonl")
    (body,) = server.bodies
    assert parameter not in body
    assert {name for _, name in NULLS} - {parameter} <= body.keys()


def test_a_strict_server_can_be_asked(tmp_path):
    def strict(call: Call, _: int) -> Any:
        unknown = json.loads(call.body).keys() - {"model", "messages", "max_completion_tokens"}
        return (
            (400, {"error": {"message": f"Unsupported parameter: {sorted(unknown)[0]!r}"}}) if unknown else completion()
        )

    how: dict[str, Any] = {}
    told = []
    for change in (
        {"length_parameter": "max_completion_tokens"},
        {"seed": None},
        {"temperature": None},
        {"top_p": None},
    ):
        told.append(failure(tmp_path, Scripted(strict), 2, **how))
        how |= change
    with serving(Scripted(strict).answer) as url:
        ask_teacher(questions(2), ask_of(url, **how), tmp_path / "s.jsonl")
    assert outcomes(tmp_path / "s.jsonl") == [["answered"]] * 2
    for words, advice in zip(told[1:], ("seed: null", "temperature", "top_p"), strict=True):
        assert advice in words


# ----- requests that are all refused


@pytest.mark.parametrize("number", [1, 2, 4, 5, 12])
def test_requests_that_are_all_refused_fail_with_the_servers_words_and_are_asked_again_once_mended(tmp_path, number):
    def old_name(call: Call, _: int) -> Any:
        refused = {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}
        return (400, refused) if "max_tokens" in json.loads(call.body) else completion()

    words = failure(tmp_path, Scripted(old_name), number, concurrency=1)
    assert "Unsupported parameter: 'max_tokens'" in words
    assert "teacher.ask.length_parameter: max_completion_tokens" in words
    server = Scripted(old_name)
    with serving(server.answer) as url:
        ask_teacher(questions(number), ask_of(url, length_parameter="max_completion_tokens"), tmp_path / "s.jsonl")
    assert len(server.calls) == number
    assert outcomes(tmp_path / "s.jsonl") == [["answered"]] * number


def test_one_refused_among_answered_ones_is_settled_until_it_is_asked_in_another_form(tmp_path):
    def too_long(call: Call, _: int) -> Any:
        body = json.loads(call.body)
        return (400, {"error": {"message": "too long"}}) if "is 0 and" in str(body) and "seed" in body else completion()

    store = tmp_path / "s.jsonl"
    server = Scripted(too_long)
    with serving(server.answer) as url:
        ask_teacher(questions(3)[1:], ask_of(url), store)
        for _ in range(2):  # alone in its run, and its form has answers: the recipe is right
            asked = ask_teacher(questions(3), ask_of(url), store)
        assert len(server.calls) == 3
        assert [item.reason for item in explanations(asked, ask_of(url))[1]] == ["bad request (400: too long)"]
        ask_teacher(questions(3), ask_of(url, seed=None), store)
    assert len(server.calls) == 4
    assert sorted(outcomes(store)) == [["answered"], ["answered"], ["bad request", "answered"]]


def test_a_system_message_that_is_refused_is_named(tmp_path):
    server = always(400, {"error": {"message": "System role not supported"}})
    words = failure(tmp_path, server, 2, prompt=TeacherPromptConfig(system="Be brief."))
    assert "System role not supported; set teacher.ask.prompt.system: null" in words


def test_refusals_that_differ_in_numbers_share_a_wording(tmp_path):
    def some(call: Call, number: int) -> Any:
        return (400, {"detail": f"{number} tokens are too many"}) if number in (0, 2) else completion()

    with serving(Scripted(some).answer) as url:
        asked = ask_teacher(questions(4), ask_of(url, concurrency=1), tmp_path / "s.jsonl")
        (reason,) = {item.reason for item in explanations(asked, ask_of(url))[1]}
    assert "tokens are too many" in reason


# ----- thoughts alone

NO_TEXT = [None, "", " \n", []]


@pytest.mark.parametrize(
    ("content", "field"), [*((content, "reasoning_content") for content in NO_TEXT), (None, "reasoning")], ids=repr
)
def test_thoughts_without_a_text_are_the_rationale_where_the_recipe_says_so(tmp_path, content, field):
    server = always(completion(content, **{field: "2 and 2 make 4. The answer is 4."}))
    store = tmp_path / "s.jsonl"
    with serving(server.answer) as url:
        ask = ask_of(url, reasoning="rationale")
        for retry_failed in (False, True):
            asked = ask_teacher(questions(8), ask, store, retry_failed=retry_failed)
        found, dropped = explanations(asked, ask)
    assert len(server.calls) == 8
    assert [(e.rationale.text, e.rationale.teacher_answer) for e in found] == [("2 and 2 make 4.", "4")] * 8
    assert not dropped


def test_thoughts_without_a_text_stop_the_run_with_one_message_and_are_bought_once(tmp_path):
    server = always(completion(None, reasoning_content="2 and 2 make 4. The answer is 4."))
    words = failure(tmp_path, server, 20, retries=3, concurrency=2)
    assert "teacher.ask.reasoning: rationale" in words
    bought = len(server.calls)
    assert bought <= 3 + 2
    assert failure(tmp_path, server, 20, retries=3) == words
    assert len(server.calls) == bought, "a second run buys nothing"
    with serving(server.answer) as url:
        ask_teacher(questions(20), ask_of(url, reasoning="rationale"), tmp_path / "s.jsonl")
    assert len(server.calls) == 20


@pytest.mark.parametrize("number", [1, 2])
def test_few_questions_with_thoughts_alone_fail_too(tmp_path, number):
    server = always(completion("", reasoning="2 and 2 make 4."))
    assert "teacher.ask.reasoning: rationale" in failure(tmp_path, server, number, retries=3)
    assert len(server.calls) == number


def test_one_answer_with_thoughts_alone_keeps_nobody_from_asking_the_others(tmp_path):
    said = [completion(None, reasoning_content="4"), completion(), completion()]
    server = Scripted(lambda _, number: said[number])
    with serving(server.answer) as url:
        with pytest.raises(TeacherError, match=r"teacher\.ask\.reasoning"):
            ask_teacher(questions(1), ask_of(url), tmp_path / "s.jsonl")
        ask_teacher(questions(3), ask_of(url), tmp_path / "s.jsonl")
    assert len(server.calls) == 3


def test_one_answer_with_thoughts_alone_is_dropped_and_not_repeated(tmp_path):
    said = [completion(), completion(None, reasoning_content="4"), completion()]
    server = Scripted(lambda _, number: said[number])
    with serving(server.answer) as url:
        ask = ask_of(url, concurrency=1)
        asked = ask_teacher(questions(3), ask, tmp_path / "s.jsonl")
        assert [item.reason for item in explanations(asked, ask)[1]] == ["only thoughts"]
    assert len(server.calls) == 3


# ----- errors inside an answer


@pytest.mark.parametrize("body", STOPPING[:3] + STOPPING[-1:], ids=json.dumps)
def test_an_error_inside_an_answer_that_all_would_get_stops_the_run_at_once(tmp_path, body):
    server = always(body)
    assert "refuses the teacher" in failure(tmp_path, server, concurrency=1)
    assert len(server.calls) == 1
    assert not read_store(tmp_path / "s.jsonl")


@pytest.mark.parametrize(("body", "outcome", "words"), [*PASSING[:1], *PASSING[2:9:2], *PASSING[9:10]])
def test_an_error_inside_an_answer_that_may_pass_is_repeated_and_its_words_are_kept(tmp_path, body, outcome, words):
    server = Scripted(lambda _, number: completion() if number else body)
    with serving(server.answer) as url:
        ask_teacher(questions(1), ask_of(url), tmp_path / "s.jsonl")
    ((failed, answered),) = attempts_by_key(tmp_path / "s.jsonl").values()
    assert (failed.outcome, answered.outcome) == (outcome, "answered")
    assert words in failed.detail


def test_an_error_inside_an_answer_says_how_long_to_wait(tmp_path):
    times: list[float] = []
    error = {"code": 429, "message": "slow down", "metadata": {"retry_after_seconds": 0.4}}

    def script(_: Call, number: int) -> Any:
        times.append(asyncio.get_running_loop().time())
        return completion() if number else {"error": error}

    with serving(Scripted(script).answer) as url:
        ask_teacher(questions(1), ask_of(url), tmp_path / "s.jsonl")
    assert times[1] - times[0] >= 0.35


# ----- event streams


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_a_stream_that_nobody_asked_for_is_read(tmp_path, kind):
    with serving(always(200, STREAMS["plain"], {"content-type": kind}).answer) as url:
        ask_teacher(questions(1), ask_of(url), tmp_path / "s.jsonl")
    (attempt,) = read_store(tmp_path / "s.jsonl").values()
    assert (attempt.outcome, attempt.text, attempt.reasoning) == ("answered", "I add.\u2028 The answer is 4.", "hm")
    assert (attempt.model, attempt.prompt_tokens, attempt.completion_tokens) == ("teacher", 3, 9)


def test_a_stream_that_breaks_off_is_repeated(tmp_path):
    stream = events(*PIECES[:3], done=False)
    server = Scripted(
        lambda _, number: completion() if number else (200, stream, {"content-type": "text/event-stream"})
    )
    with serving(server.answer) as url:
        ask_teacher(questions(1), ask_of(url), tmp_path / "s.jsonl")
    ((failed, answered),) = attempts_by_key(tmp_path / "s.jsonl").values()
    assert "the endpoint streams, and the stream breaks off" in failed.detail
    assert answered.answered


# ----- wrong paths and models


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, {"detail": "Not Found"}), (404, b"<html>404</html>"), (404, b""), (405, {"detail": "Method Not Allowed"})],
)
def test_a_wrong_path_is_named_by_its_url(tmp_path, body, status):
    server = always(status, body)
    with serving(server.answer) as url, pytest.raises(TeacherError) as error:
        ask_teacher(questions(2), ask_of(url.removesuffix("/v1") + "/api?api-version=1"), tmp_path / "s.jsonl")
    assert f"there is nothing at {url.removesuffix('/v1')}/api/chat/completions" in str(error.value)
    assert "teacher.ask.base_url, which usually ends in /v1" in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "The model `teacher` does not exist", "code": "model_not_found"}},
        {"object": "error", "message": "The model `teacher` does not exist.", "code": 404},
        {"error": {"message": 'model "teacher" not found, try pulling it first'}},
        {"detail": "teacher is not served here"},
    ],
    ids=json.dumps,
)
def test_an_unknown_model_is_named(tmp_path, body):
    words = failure(tmp_path, always(404, body))
    assert "has no model 'teacher': see teacher.ask.model" in words


def test_a_web_page_is_named_by_its_url(tmp_path):
    words = failure(tmp_path, always(200, b"<!doctype html><title>Chat</title>", {"content-type": "text/html"}), 1)
    assert "the answer is not JSON" in words
    assert "/v1/chat/completions sent a web page" in words


# ----- proxies and certificates


def dead_port() -> int:
    with serving(canned()) as url:
        return int(url.split(":")[2].removesuffix("/v1"))


def test_a_proxy_before_a_server_of_ones_own_is_named_with_its_variable(tmp_path, monkeypatch):
    proxy = always(502, b"<html>Bad gateway</html>")
    with serving(proxy.answer) as url, serving(canned()) as behind:
        monkeypatch.setenv("HTTP_PROXY", url.removesuffix("/v1").replace("//", "//me:pa55word@"))
        with pytest.raises(TeacherError) as error:
            ask_teacher(questions(1), ask_of(behind, retries=0), tmp_path / "s.jsonl")
        assert f"the proxy {url.removesuffix('/v1')} (HTTP_PROXY)" in str(error.value)
        assert "NO_PROXY=127.0.0.1" in str(error.value)
        assert "pa55word" not in str(error.value) + (tmp_path / "s.jsonl").read_text()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        ask_teacher(questions(1), ask_of(behind, retries=0), tmp_path / "s.jsonl")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_that_is_not_there_is_named(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(
        variable, f"127.0.0.1:{dead_port()}" if variable.islower() else f"http://127.0.0.1:{dead_port()}"
    )
    words = failure(tmp_path, always(completion()), 1)
    assert f"({variable}): if the server needs no proxy, set NO_PROXY=127.0.0.1" in words
    assert "start it" not in words


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "ALL_PROXY",
            "socks5://me:pa55word@127.0.0.1:1",
            r"proxy socks5://127.0.0.1:1 \(ALL_PROXY\) needs another package: pip install",
        ),
        ("HTTP_PROXY", "ftp://me:pa55word@127.0.0.1:1", r"the proxy ftp://127.0.0.1:1 \(HTTP_PROXY\) is not a URL"),
        ("HTTP_PROXY", "http://me:pa55word@127.0.0.1:99999", "is not a URL such as http://host:3128"),
        ("all_proxy", "http://me:pa55word@[bad", "is not a URL such as http://host:3128"),
        ("http_proxy", "http://☃:1", "is not a URL such as http://host:3128"),
        ("SSL_CERT_FILE", "/nowhere/c.pem", "SSL_CERT_FILE names /nowhere/c.pem"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE names"),
        ("SSL_CERT_FILE", str(Path(__file__).parent), "SSL_CERT_FILE names"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named_before_anything_is_asked(
    tmp_path, monkeypatch, variable, value, words
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=words) as error:
        ask_teacher(questions(1), ask_of("http://127.0.0.1:1/v1"), tmp_path / "s.jsonl")
    assert "pa55word" not in str(error.value)


def test_a_proxy_for_others_that_cannot_be_used_is_in_nobodys_way(tmp_path, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    with serving(canned()) as url:
        ask_teacher(questions(1), ask_of(url), tmp_path / "s.jsonl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=kpod"
    where = [
        "-keyout",
        str(folder / "key.pem"),
        "-out",
        str(folder / "c.pem"),
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    try:
        subprocess.run(["openssl", *words.split(), *where], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the command openssl")
    return folder / "c.pem"


def test_a_certificate_of_ones_own_is_trusted_once_it_is_named(tmp_path, monkeypatch, certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with serving(canned(), tls) as url:
        with pytest.raises(TeacherError) as error:
            ask_teacher(questions(1), ask_of(url, retries=9), tmp_path / "s.jsonl")
        assert "self-signed certificate" in str(error.value)
        assert "SSL_CERT_FILE" in str(error.value)
        assert "start it" not in str(error.value)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        ask_teacher(questions(1), ask_of(url), tmp_path / "s.jsonl")
        with pytest.raises(TeacherError, match="the server name of its certificate"):
            ask_teacher(questions(2), ask_of(url.replace("127.0.0.1", "localhost")), tmp_path / "s.jsonl")


def test_https_before_a_server_without_it_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            with server.accept()[0] as client:
                client.recv(100)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/v1"
        with pytest.raises(TeacherError, match="does not use https"):
            ask_teacher(questions(1), ask_of(url, retries=9, timeout=5.0), tmp_path / "s.jsonl")
        thread.join()


def test_a_host_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(TeacherError, match=r"http://nowhere\.invalid/v1 cannot be reached: the host name is unknown"):
        ask_teacher(questions(1), ask_of("http://nowhere.invalid/v1", retries=0), tmp_path / "s.jsonl")


# ----- replies without end


async def endless(call: Call) -> None:
    head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 2000000000\r\n\r\n"
    call.writer.write(head.encode())
    for _ in range(2000):
        call.writer.write(b" " * (1 << 20))
        await call.writer.drain()


BOMB = gzip.compress(b" " * (1 << 24), 9)


async def bomb(call: Call) -> None:
    await call.send(200, BOMB, {"content-encoding": "gzip"})


async def layered_bomb(call: Call) -> None:
    await call.send(200, gzip.compress(BOMB), {"content-encoding": "gzip, gzip"})


async def refused_bomb(call: Call) -> None:
    await call.send(500, BOMB, {"content-encoding": "gzip"})


async def redirecting_bomb(call: Call) -> None:
    await call.send(307, BOMB, {"content-encoding": "gzip", "location": "/v1/chat/completions"})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (endless, "no completion, the reply is longer than 1 MiB"),
        (bomb, "no completion, the reply is longer than 1 MiB"),
        (layered_bomb, "no completion, the reply is longer than 1 MiB"),
        (refused_bomb, "no completion, the reply is longer than 1 MiB"),
        (redirecting_bomb, "redirects without end"),
    ],
)
def test_a_reply_without_end_is_cut_off(tmp_path, monkeypatch, answer: Callable[[Call], Awaitable[None]], words):
    monkeypatch.setattr(clients, "LONGEST_REPLY", 1 << 20)
    with serving(answer) as url, pytest.raises(TeacherError, match=words):
        ask_teacher(questions(2), ask_of(url, retries=1), tmp_path / "s.jsonl")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_a_compressed_reply_is_read(tmp_path, encoding):
    plain = json.dumps(completion()).encode()
    body = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding](plain)
    with serving(always(200, body, {"content-encoding": encoding}).answer) as url:
        ask_teacher(questions(1), ask_of(url), tmp_path / "s.jsonl")
    assert outcomes(tmp_path / "s.jsonl") == [["answered"]]


# ----- secrets

ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
ECHOES = {
    "escaped": json.dumps(completion("It is SECRET. The answer is 4.")).replace("SECRET", ESCAPED),
    "escaped twice": json.dumps(completion(f"It is {ESCAPED}. The answer is 4.")),
    "in parts": json.dumps(completion([{"type": "text", "text": KEY[:9]}, {"type": "text", "text": KEY[9:]}])),
    "among thoughts": json.dumps(completion("The answer is 4.", reasoning_content=f"hm {KEY}")),
    "as the model": json.dumps(completion() | {"model": KEY}),
    "as the reason": json.dumps(completion(finish=KEY)),
    "streamed": events(piece(content=KEY[:9]), piece(content=KEY[9:]), piece("stop")).decode(),
    "a header's": json.dumps(completion(f"It is {HEADER_KEY}.")),
    "in an error": json.dumps({"error": {"code": 500, "message": f"not {KEY} nor {HEADER_KEY}"}}),
    "in an error, escaped": json.dumps({"error": {"message": "SECRET"}}).replace("SECRET", ESCAPED),
    "in a page, escaped": f"<html>{ESCAPED}",
    "in no completion": json.dumps({"headers": {"authorization": f"Bearer {KEY}"}, "raw": f"SECRET {HEADER_KEY}"}),
}


@pytest.mark.parametrize(
    ("echo", "status"),
    [
        *((name, 200) for name in ECHOES),
        ("in an error", 500),
        ("in an error, escaped", 400),
        ("in a page, escaped", 500),
    ],
)
def test_no_secret_comes_back_whatever_a_server_echoes(tmp_path, caplog, capsys, monkeypatch, echo, status):
    monkeypatch.chdir(tmp_path)
    rows = "".join(json.dumps({"id": q.id, "question": q.question, "answer": q.answer}) + "\n" for q in questions(2))
    (tmp_path / "q.jsonl").write_text(rows)
    with serving(always(status, ECHOES[echo].encode()).answer) as url:
        words = (
            f"rationales q.jsonl --teacher.ask.model {KEY[:3]}x --teacher.ask.base_url {url} --teacher.ask.retries 0"
        )
        more = ["--teacher.ask.extra_headers.x-more", "$AZURE_KEY", "--output", "out.jsonl", "--teacher.filter", "none"]
        main([*words.split(), *more])
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    said = capsys.readouterr()
    for text in (*texts, said.out, said.err, caplog.text):
        for secret in (KEY, HEADER_KEY, ESCAPED):
            assert secret not in text
            assert secret not in text.replace("\\\\", "\\")
            assert secret not in text.encode().decode("unicode_escape", "replace")


def test_the_short_placeholder_of_a_server_of_ones_own_is_left_in_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    with serving(always(completion("The set is EMPTY. The answer is 0.")).answer) as url:
        ask_teacher(questions(1), ask_of(url), tmp_path / "s.jsonl")
    assert "EMPTY" in next(iter(read_store(tmp_path / "s.jsonl").values())).text


def test_a_redirect_to_another_host_gets_no_secret(tmp_path):
    with serving((other := always(completion())).answer) as url:
        there = {"location": url.replace("127.0.0.1", "localhost") + "/chat/completions"}
        with serving((first := always(307, b"", there)).answer) as url:
            ask_teacher(questions(1), ask_of(url, extra_headers={"x-more": "$AZURE_KEY"}), tmp_path / "s.jsonl")
    assert first.calls[0].headers["x-more"] == HEADER_KEY
    assert not {"x-more", "authorization"} & other.calls[0].headers.keys()
    assert other.calls[0].body == first.calls[0].body


def test_a_redirect_on_the_same_host_is_followed_with_the_headers(tmp_path):
    def script(call: Call, _: int) -> Any:
        old = call.target.startswith("/v1/")
        return (307, b"", {"location": call.target.replace("/v1/", "/v2/")}) if old else completion()

    server = Scripted(script)
    with serving(server.answer) as url:
        ask_teacher(questions(1), ask_of(url, extra_headers={"x-more": "$AZURE_KEY"}), tmp_path / "s.jsonl")
    assert [call.headers["x-more"] for call in server.calls] == [HEADER_KEY] * 2
    assert outcomes(tmp_path / "s.jsonl") == [["answered"]]


@pytest.mark.parametrize("name", ["NOWHERE", "EMPTY_ONE"])
def test_a_variable_that_is_missing_is_named(monkeypatch, name):
    monkeypatch.setenv("EMPTY_ONE", "")
    ask = AskConfig("m", base_url="http://127.0.0.1:1/v1", extra_headers={"x-more": f"a ${name} b"})
    with pytest.raises(ConfigError, match=rf"the environment variable {name} \(teacher.ask.extra_headers.x-more\)"):
        endpoint.Endpoint(ask)


@pytest.mark.parametrize("value", ["a\r\nx-admin: 1", "ключ", "a\0b"])
def test_a_value_that_no_header_can_hold_is_not_sent_and_not_shown(monkeypatch, value):
    if "\0" in value:
        value = "a\x01b"
    monkeypatch.setenv("AZURE_KEY", value)
    ask = AskConfig("m", base_url="http://127.0.0.1:1/v1", extra_headers={"x-more": "$AZURE_KEY"})
    with pytest.raises(ConfigError, match="AZURE_KEY") as error:
        endpoint.Endpoint(ask)
    assert value not in str(error.value)


def test_azure_needs_no_other_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint.Endpoint(AskConfig("m", extra_headers={"api-key": "$AZURE_KEY"}))


# ----- the command


def command(tmp_path: Path, monkeypatch, server: Scripted, *words: str) -> int:
    monkeypatch.chdir(tmp_path)
    rows = "".join(json.dumps({"id": q.id, "question": q.question, "answer": q.answer}) + "\n" for q in questions(2))
    (tmp_path / "q.jsonl").write_text(rows)
    with serving(server.answer) as url:
        fixed = f"rationales q.jsonl --output out.jsonl --teacher.ask.model t --teacher.ask.base_url {url}"
        return main([*fixed.split(), *words])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--teacher.ask.top_p", "null", "--teacher.ask.seed", "null"], 0, "kept: "),
        (["--teacher.ask.extra_body", "{enable_thinking: false}"], 0, "kept: "),
        (["--teacher.ask.extra_body.chat_template_kwargs.enable_thinking", "false"], 0, "kept: "),
        (["--teacher.ask.extra_headers", "{x-more: $AZURE_KEY}"], 0, "kept: "),
        (["--teacher.ask.extra_headers.x-more", "$NOWHERE"], 2, "the environment variable NOWHERE"),
        (["--teacher.ask.extra_body.top_p", "1"], 2, "set teacher.ask.top_p instead"),
        (["--teacher.ask.api_key_variable", "sk-123456"], 2, "must be the NAME of an environment variable"),
    ],
)
def test_the_command_takes_and_refuses(tmp_path, monkeypatch, capsys, words, code, said):
    assert command(tmp_path, monkeypatch, always(completion()), *words) == code
    told = capsys.readouterr()
    assert said in told.out + told.err
    assert "sk-123456" not in told.out + told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((400, {"error": {"message": "top_p must be below 1"}}), "400: top_p must be below 1; set teacher.ask.top_p"),
        ((422, {"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}), "not permitted"),
        ((422, {"detail": "seed?"}), "422: seed?; set teacher.ask.seed: null"),
    ],
)
def test_the_command_fails_where_all_is_refused(tmp_path, monkeypatch, capsys, refusal, words):
    assert command(tmp_path, monkeypatch, always(*refusal)) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    assert command(tmp_path, monkeypatch, always(completion())) == 0
