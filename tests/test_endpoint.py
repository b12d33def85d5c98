"""The endpoint client before a server that fails in every way: what is answered is kept, and bought once."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("openai")

from asked_runs import CONCURRENCY, TIMEOUT, TORN, ask_of, questions
from faulty_proxy import (
    OUTCOMES,
    PASSING_FAULTS,
    ROW_FAULTS,
    Call,
    Fault,
    FaultyProxy,
    Plan,
    canned,
    http_date,
    once,
    serving,
    spoiling,
)
from kpod.recipe import AskConfig
from kpod.records import Question
from kpod.records.errors import ConfigError, DataError, TeacherError
from kpod.teacher import endpoint
from kpod.teacher.asking import ask_teacher, explanations
from kpod.teacher.attempts import Attempt
from kpod.teacher.requests import Request, requests_for
from kpod.teacher.store import Store, attempts_by_key, read_store

TESTS = Path(__file__).parent
SENTINEL = "sk-kpod-sentinel-5f2b8c1d9e"
MIX = (*PASSING_FAULTS, *ROW_FAULTS)


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def upstream():
    with serving(canned()) as url:
        yield url


@pytest.fixture(scope="module")
def slow_upstream():
    with serving(canned(0.4)) as url:
        yield url


@contextmanager
def proxied(upstream: str, plan: Plan, **changes: object) -> Iterator[tuple[str, FaultyProxy]]:
    proxy = FaultyProxy(upstream, plan, **changes)
    with serving(proxy.answer) as url:
        yield url, proxy


def outcomes(store: Path) -> list[list[str]]:
    return [[attempt.outcome for attempt in attempts] for attempts in attempts_by_key(store).values()]


def num_attempts(store: Path) -> int:
    return sum(map(len, attempts_by_key(store).values()))


def planned(plan: Plan, request: Request) -> list[str]:
    """What the plan does to a request, until it is settled."""
    found: list[str] = []
    while not found or Attempt(request.key, found[-1]).settled is False:
        found.append(OUTCOMES[plan(request.seed, len(found))])
    return found


# ----- each fault alone


@pytest.mark.slow
@pytest.mark.parametrize("fault", PASSING_FAULTS)
def test_a_failure_that_may_pass_is_told_by_its_name_and_the_request_repeated(tmp_path, upstream, fault):
    store, late = tmp_path / "store.jsonl", fault in ("hang", "trickle")
    with proxied(upstream, once(fault)) as (url, proxy):
        ask_teacher(questions(1), ask_of(url, timeout=1.5 if late else 20.0), store)
    assert outcomes(store) == [[OUTCOMES[fault], "answered"]]
    assert [exchange.fault for exchange in proxy.seen] == [fault, None]


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_an_answer_of_no_use_is_kept_and_not_asked_again(tmp_path, upstream, fault):
    store = tmp_path / "store.jsonl"
    spoilt = requests_for(questions(1), ask_of("http://x"))[0].seed
    with proxied(upstream, lambda seed, nth: fault if seed == spoilt and not nth else None) as (url, proxy):
        for _ in range(2):
            asked = ask_teacher(questions(2), ask_of(url), store)
        assert sorted(outcomes(store)) == sorted([[OUTCOMES[fault]], ["answered"]])
        assert len(proxy.seen) == 2
        (dropped,) = explanations(asked, ask_of(url))[1]
        assert dropped.reason.startswith(OUTCOMES[fault])
        assert dropped.reason.endswith("(400: 400 for Bearer ***)") == (fault == "400")
        ask_teacher(questions(2), ask_of(url), store, retry_failed=True)
    assert sorted(outcomes(store)) == sorted([[OUTCOMES[fault], "answered"], ["answered"]])


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("401", "refuses the teacher: 401"),
        ("402", "refuses the teacher: 402"),
        ("403", "refuses the teacher: 403"),
        ("404", "refuses the teacher: 404"),
        ("insufficient quota", "refuses the teacher: 429: insufficient quota"),
    ],
)
def test_where_every_request_would_fare_alike_the_run_stops_at_once(tmp_path, upstream, fault, told):
    with proxied(upstream, once(*[fault] * 9)) as (url, proxy):
        with pytest.raises(TeacherError, match=told) as error:
            ask_teacher(questions(20), ask_of(url, concurrency=1), tmp_path / "store.jsonl")
        assert len(proxy.seen) == 1
        with pytest.raises(TeacherError, match=told):
            ask_teacher(questions(20), ask_of(url, concurrency=4), tmp_path / "store.jsonl")
        assert len(proxy.seen) <= 1 + 4
    assert SENTINEL not in str(error.value)
    assert not read_store(tmp_path / "store.jsonl")


def test_an_account_that_empties_on_the_way_leaves_the_rest_open(tmp_path, upstream):
    """Marked as bad requests they would never be asked again."""
    store, seeds = (
        tmp_path / "store.jsonl",
        [request.seed for request in requests_for(questions(9), ask_of("http://x"))],
    )
    with proxied(upstream, lambda seed, nth: "402" if seed in seeds[3:] and not nth else None) as (url, proxy):
        with pytest.raises(TeacherError, match="402"):
            ask_teacher(questions(9), ask_of(url, concurrency=1), store)
        assert outcomes(store) == [["answered"]] * 3
        proxy.plan = once()
        ask_teacher(questions(9), ask_of(url), store)
    assert outcomes(store) == [["answered"]] * 9


def test_an_answer_of_another_model_is_told(tmp_path, upstream):
    seeds = [request.seed for request in requests_for(questions(3), ask_of("http://x"))]
    with proxied(upstream, lambda seed, _: "other model" if seed == seeds[1] else None) as (url, _):
        asked = ask_teacher(questions(3), ask_of(url), tmp_path / "store.jsonl")
        found, dropped = explanations(asked, ask_of(url))
    assert [explained.rationale.id for explained in found] == ["q0", "q2"]
    assert [(item.id, item.reason) for item in dropped] == [("q1", "answered by fallback")]


# ----- refused requests


def test_one_refused_request_does_not_stop_the_run(tmp_path, upstream):
    store, ask = tmp_path / "store.jsonl", ask_of("http://x")
    bad = {request.seed for request in requests_for(questions(12), ask)[:4]}
    with proxied(upstream, lambda seed, _: "400" if seed in bad else None) as (url, proxy):
        ask_teacher(questions(12), ask_of(url, concurrency=1), store)
    assert outcomes(store) == [["bad request"]] * 4 + [["answered"]] * 8
    assert len(proxy.seen) == num_attempts(store) == 12


def test_where_the_first_five_are_refused_the_recipe_is_wrong_and_none_of_them_is_spent(tmp_path, upstream):
    store = tmp_path / "store.jsonl"
    with proxied(upstream, once(*["400"] * 9)) as (url, proxy):
        with pytest.raises(TeacherError, match="refused the first 5 requests: 400"):
            ask_teacher(questions(12), ask_of(url, concurrency=1), store)
        assert len(proxy.seen) == 5
        proxy.plan = once()
        ask_teacher(questions(12), ask_of(url, length_parameter="max_completion_tokens"), store)  # in no key
    assert outcomes(store) == [["answered"]] * 12


# ----- pauses and repetitions


@pytest.mark.slow
def test_retry_after_is_waited_for_by_all(tmp_path, slow_upstream):
    first = requests_for(questions(9), ask_of("http://x"))[0].seed
    plan: Plan = lambda seed, nth: "429 with Retry-After" if seed == first and not nth else None  # noqa: E731
    with proxied(slow_upstream, plan, retry_after="1.2") as (url, proxy):
        ask_teacher(questions(9), ask_of(url, concurrency=3), tmp_path / "store.jsonl")
    told, *others = proxy.seen
    waits = [exchange.began - told.began for exchange in others]
    assert waits[0] < 0.4, "the second was under way already"
    assert all(wait >= 1.2 for wait in waits[2:])
    assert len(proxy.seen) == 10


@pytest.mark.slow
def test_retry_after_may_be_a_date(tmp_path, upstream):
    told: list[float] = []

    def date() -> str:
        told.append(float(int(time.time()) + 2))
        return http_date(told[0])

    with proxied(upstream, once("429 with Retry-After"), retry_after=date) as (url, _):
        ask_teacher(questions(1), ask_of(url), tmp_path / "store.jsonl")
    assert time.time() >= told[0]


@pytest.mark.parametrize("header", ["nan", "-3", "soon", "0", ""])
def test_a_retry_after_that_says_nothing_leaves_the_growing_pause(tmp_path, upstream, header, monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.2)
    with proxied(upstream, once("429 with Retry-After", "429 with Retry-After"), retry_after=header) as (url, proxy):
        ask_teacher(questions(1), ask_of(url), tmp_path / "store.jsonl")
    first, second, third = (exchange.began for exchange in proxy.seen)
    assert second - first >= 0.15
    assert third - second >= 0.3


@pytest.mark.parametrize("header", ["901", "inf", http_date(time.time() + 9000)], ids=["seconds", "inf", "date"])
def test_a_run_that_would_have_to_sleep_for_long_is_stopped(tmp_path, upstream, header):
    store = tmp_path / "store.jsonl"
    with proxied(upstream, once("429 with Retry-After"), retry_after=header) as (url, proxy):
        with pytest.raises(TeacherError, match="asks to wait"):
            ask_teacher(questions(5), ask_of(url, concurrency=1), store)
        assert len(proxy.seen) == 1
    assert outcomes(store) == [["rate limited"]]


def test_repetitions_are_counted_once_and_not_also_by_the_library(tmp_path, upstream):
    store = tmp_path / "store.jsonl"
    with proxied(upstream, once(*["500"] * 99)) as (url, proxy):
        with pytest.raises(TeacherError, match="3 of 3 answers are missing, the first of them: server error, 500"):
            ask_teacher(questions(3), ask_of(url, retries=2), store)
        assert len(proxy.seen) == num_attempts(store) == 9
        with pytest.raises(TeacherError, match="retry_budget"):
            ask_teacher(questions(3), ask_of(url, retries=9, retry_budget=4, concurrency=1), store)
        assert len(proxy.seen) == num_attempts(store) == 9 + 5


def test_an_endpoint_that_cannot_be_reached_ends_the_run(tmp_path, upstream):
    with serving(canned()) as url:
        pass
    with pytest.raises(TeacherError, match=r"cannot be reached: .*start it and run again"):
        ask_teacher(questions(3), ask_of(url, retries=2, concurrency=1), tmp_path / "store.jsonl")
    assert outcomes(tmp_path / "store.jsonl") == [["no connection"] * 3]


# ----- the whole matrix, kills and signals


@pytest.mark.slow
def test_with_a_third_of_the_requests_spoilt_none_is_lost_and_none_bought_twice(tmp_path, upstream):
    store, plan = tmp_path / "store.jsonl", spoiling(0.3, MIX)
    with proxied(upstream, plan) as (url, proxy):
        ask = ask_of(url, timeout=TIMEOUT, concurrency=CONCURRENCY, retries=12)
        asked = ask_teacher(questions(200), ask, store)
        ask_teacher(questions(200), ask, store)
    attempts = attempts_by_key(store)
    for request in asked.requests:
        assert [attempt.outcome for attempt in attempts[request.key]] == planned(plan, request)
    assert len(attempts) == 200
    assert len(proxy.seen) == num_attempts(store)
    assert set(proxy.deliveries.values()) == {1}
    for request in asked.requests:
        if asked.attempts[request.key].answered:
            assert asked.attempts[request.key].text.endswith(f" {request.seed}.")
            assert proxy.deliveries[request.seed] == 1


def asking_process(*arguments: object, patience: float = 250, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(TESTS / "asked_runs.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )


def check_killed_run(
    upstream: str,
    folder: Path,
    *,
    model: str = "teacher",
    number: int = 200,
    kills: int = 5,
    faults: Sequence[Fault] = MIX,
    timeout: float = TIMEOUT,
    patience: float = 250,
    finish: bool = False,
) -> None:
    """Ask through a proxy that spoils 30 % of the requests, in processes that are killed; nothing is lost or repeated.

    Args:
        upstream: Who answers.
        folder: For the store.
        model: Its name.
        number: Of questions.
        kills: So often.
        faults: What goes wrong.
        timeout: For an answer.
        patience: For everything.
        finish: As the proxy's.
    """
    store, plan = folder / "store.jsonl", spoiling(0.3, faults, seed=1)
    with proxied(upstream, plan, finish=finish) as (url, proxy):
        done = asking_process(
            "killed",
            url,
            store,
            number,
            kills,
            patience=patience,
            ASKED_RUNS_TIMEOUT=str(timeout),
            ASKED_RUNS_MODEL=model,
        )
    assert done.returncode == 0, done.stderr
    requests = requests_for(questions(number), ask_of("http://x", model=model))
    seeds = {request.key: request.seed for request in requests}
    attempts = read_store(store)
    assert set(attempts) == set(seeds)
    assert all(attempt.settled for attempt in attempts.values())
    assert TORN not in store.read_bytes()
    died = [float(moment) for moment in (folder / "died.json").read_text().strip("[]").split(",")]
    assert len(died) == kills
    for kill, moment in enumerate(died):
        done_before = {
            seeds[key] for key, attempt in read_store(folder / f"killed-{kill}.jsonl").items() if attempt.settled
        }
        again = [exchange for exchange in proxy.seen if exchange.began > moment and exchange.seed in done_before]
        assert len(done_before) > 0
        assert not again, "what was kept is not asked again"
    lost = len(proxy.seen) - num_attempts(store)
    assert 0 <= lost <= kills * CONCURRENCY, "a kill loses no more than was under way"
    assert sum(proxy.deliveries.values()) - len(proxy.deliveries) <= lost


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_asks_nothing_again_that_it_kept(tmp_path, upstream):
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    check_killed_run(upstream, tmp_path)


def interrupted(
    proxy: FaultyProxy, after: int, *signals: signal.Signals, wait: float = 0.0, heard: threading.Event | None = None
) -> threading.Thread:
    """Send this process signals when the proxy has seen so many requests, and some seconds later; the second only once
    the first was heard, since the system makes one of two that are pending."""

    def send() -> None:
        give_up = time.monotonic() + 60
        while len(proxy.seen) < after and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(wait)
        for number in signals:
            os.kill(os.getpid(), number)
            if heard is not None:
                heard.wait(60)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.fixture
def own_handler():
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_lets_the_requests_under_way_finish_and_begins_none(
    tmp_path, slow_upstream, number, raised, own_handler, in_the_foreground
):
    store = tmp_path / "store.jsonl"
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with proxied(slow_upstream, once()) as (url, proxy):
        thread = interrupted(proxy, 4, number)
        with pytest.raises(raised) as end:
            ask_teacher(questions(20), ask_of(url, concurrency=4), store)
        thread.join()
        assert len(proxy.seen) == 4
        assert outcomes(store) == [["answered"]] * 4
        assert raised is KeyboardInterrupt or end.value.code == 128 + signal.SIGTERM
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
        ask_teacher(questions(20), ask_of(url), store)
    assert proxy.deliveries == {request.seed: 1 for request in requests_for(questions(20), ask_of(url))}


def test_a_signal_in_a_pause_begins_no_request(tmp_path, upstream, monkeypatch, in_the_foreground):
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 30.0)
    with proxied(upstream, once("500")) as (url, proxy):
        thread, start = interrupted(proxy, 3, signal.SIGINT, wait=0.7), time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask_teacher(questions(9), ask_of(url, concurrency=3), tmp_path / "store.jsonl")
        thread.join()
    assert time.monotonic() - start < 20
    assert len(proxy.seen) == 3
    assert outcomes(tmp_path / "store.jsonl") == [["server error"]] * 3


def test_a_second_signal_drops_what_is_under_way(tmp_path, upstream, monkeypatch, in_the_foreground):
    heard = threading.Event()
    monkeypatch.setattr(endpoint.log, "warning", lambda *_: heard.set())
    with proxied(upstream, once("hang")) as (url, proxy):
        thread, start = interrupted(proxy, 3, signal.SIGINT, signal.SIGINT, heard=heard), time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask_teacher(questions(9), ask_of(url, concurrency=3, timeout=100.0), tmp_path / "store.jsonl")
        thread.join()
    assert time.monotonic() - start < 50
    assert len(proxy.seen) == 3


@pytest.mark.slow
def test_a_signal_that_is_ignored_stays_ignored(tmp_path, slow_upstream, in_the_foreground):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store = tmp_path / "store.jsonl"
    with proxied(slow_upstream, once()) as (url, proxy):
        thread = interrupted(proxy, 2, signal.SIGINT)
        ask_teacher(questions(6), ask_of(url, concurrency=2), store)
        thread.join()
    assert outcomes(store) == [["answered"]] * 6
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_thread_and_a_running_loop_ask_as_well(tmp_path, upstream):
    async def in_a_notebook(url: str) -> None:
        ask_teacher(questions(3), ask_of(url), tmp_path / "loop.jsonl")

    with proxied(upstream, once()) as (url, _):
        thread = threading.Thread(target=ask_teacher, args=(questions(3), ask_of(url), tmp_path / "thread.jsonl"))
        thread.start()
        thread.join()
        asyncio.run(in_a_notebook(url))
    assert outcomes(tmp_path / "thread.jsonl") == outcomes(tmp_path / "loop.jsonl") == [["answered"]] * 3


# ----- the store


def test_a_second_writer_is_turned_away(tmp_path, upstream):
    store = tmp_path / "store.jsonl"
    with proxied(upstream, once()) as (url, proxy):
        with Store(store), pytest.raises(TeacherError, match="another process is asking the teacher"):
            ask_teacher(questions(1), ask_of(url), store)
        assert not proxy.seen
        ask_teacher(questions(1), ask_of(url), store)


def test_a_torn_last_line_is_cut_off_and_asked_again(tmp_path, upstream):
    store = tmp_path / "store.jsonl"
    with proxied(upstream, once()) as (url, proxy):
        ask_teacher(questions(3), ask_of(url), store)
        whole = store.read_bytes()
        store.write_bytes(whole[:-20])
        ask_teacher(questions(3), ask_of(url), store)
        assert len(proxy.seen) == 4
        assert store.read_bytes().startswith(b"".join(whole.splitlines(keepends=True)[:2]))
        store.write_bytes(TORN + b"\n" + whole)
        with pytest.raises(DataError, match=r"store\.jsonl:1: is no attempt"):
            ask_teacher(questions(3), ask_of(url), store)


def test_an_attempt_that_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path):
    resource_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    attempts = [Attempt(f"k{n}", "answered", text="x" * 300) for n in range(3)]
    try:
        with Store(tmp_path / "store.jsonl") as store:
            store.append(attempts[0])
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource_limits[1]))
            with pytest.raises(OSError, match="too large"):
                store.append(attempts[1])
            resource.setrlimit(resource.RLIMIT_FSIZE, resource_limits)
            store.append(attempts[2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, resource_limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(read_store(tmp_path / "store.jsonl")) == ["k0", "k2"]


def test_a_failure_to_keep_an_answer_ends_the_run(upstream, tmp_path):
    kept: list[Attempt] = []

    def keep(attempt: Attempt) -> None:
        if len(kept) == 3:
            raise OSError("No space left on device")
        kept.append(attempt)

    with proxied(upstream, once()) as (url, proxy):
        ask = ask_of(url, concurrency=2)
        with pytest.raises(OSError, match="No space left"):
            endpoint.Endpoint(ask).ask(requests_for(questions(20), ask), keep)
    assert len(proxy.seen) <= 5


# ----- the key


def check_no_key(text: str | bytes) -> None:
    assert (SENTINEL.encode() if isinstance(text, bytes) else SENTINEL) not in text


@pytest.mark.slow
def test_the_key_is_in_no_file_no_log_and_no_message_though_the_server_echoes_it(tmp_path, upstream):
    store = tmp_path / "deep" / "store.jsonl"
    faults: Sequence[str] = ("500", "HTML", "no choices", "429", "408", "401")
    with proxied(upstream, once(*faults)) as (url, proxy):
        done = asking_process("debug", url, store, 1, OPENAI_LOG="debug")
    assert [exchange.fault for exchange in proxy.seen] == list(faults)
    assert done.returncode == 1
    assert "refuses the teacher: 401: 401 for Bearer ***" in done.stderr
    assert "openai._base_client" in done.stderr, "the library's debug log is on"
    check_no_key(done.stdout + done.stderr)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert store in files
    for path in files:
        check_no_key(path.read_bytes())
    assert "Bearer ***" in store.read_text()


def test_a_placeholder_for_a_key_leaves_answers_as_they_are(tmp_path, upstream, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "answer")
    with proxied(upstream, once()) as (url, _):
        asked = ask_teacher(questions(1), ask_of(url), tmp_path / "store.jsonl")
    assert "Therefore, the answer is" in next(iter(asked.attempts.values())).text


@pytest.mark.parametrize("key", ["sk-ключ", "sk-a\nb", "sk-a b", "sk-…"])
def test_a_key_that_cannot_be_sent_is_named_by_its_variable_alone(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as error:
        endpoint.Endpoint(ask_of("http://127.0.0.1:1/v1"))
    assert key not in str(error.value)


def test_no_key_is_an_error_before_openai_and_none_before_a_server_of_ones_own(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match=r"OPENAI_API_KEY .* holds no API key"):
        endpoint.Endpoint(AskConfig(model="m"))
    endpoint.Endpoint(ask_of("http://127.0.0.1:1/v1"))


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "http://", "http://127.0.0.1:99999/v1", "http://[bad/v1", "http://☃x/v1"]
)
def test_a_url_that_is_none_is_named_before_anything_is_asked(url):
    with pytest.raises(ConfigError, match=r"teacher\.ask\.base_url"):
        endpoint.Endpoint(ask_of(url))


def test_half_a_surrogate_pair_cannot_be_sent_and_stops_no_other_question(tmp_path, upstream):
    store = tmp_path / "store.jsonl"
    with proxied(upstream, once()) as (url, proxy):
        asked = ask_teacher([Question("broken", "How many \ud83d?", "1"), *questions(3)], ask_of(url), store)
        assert [asked.attempts[r.key].outcome for r in asked.requests] == ["bad request", *["answered"] * 3]
        assert len(proxy.seen) == 3


def test_an_answer_that_is_nested_too_deeply_is_no_completion(tmp_path):
    bodies = [b"[" * 200_000, b'{"choices": ' + b"9" * 5000 + b"}", b"null", b"\xff\xfe"]

    async def answer(call: Call) -> None:
        await (call.send(200, bodies.pop()) if bodies else canned()(call))

    with serving(answer) as url:
        ask_teacher(questions(1), ask_of(url), tmp_path / "store.jsonl")
    assert outcomes(tmp_path / "store.jsonl") == [["no completion"] * 4 + ["answered"]]
