"""A model in this process as the teacher, and a replay of what it wrote."""

from dataclasses import replace
from pathlib import Path

import pytest

from kpod.lm.decoding import continue_greedily, continue_sampled, decode
from kpod.lm.models import load_model
from kpod.lm.student_prompts import chat_ids
from kpod.recipe import AskConfig, TeacherPromptConfig
from kpod.records import Question
from kpod.records.errors import ConfigError, DataError, TeacherError
from kpod.teacher import local as local_module
from kpod.teacher.asking import ask_teacher, explanations, teacher_of
from kpod.teacher.attempts import Attempt
from kpod.teacher.local import LocalModel
from kpod.teacher.replay import Replay
from kpod.teacher.requests import Request, requests_for
from kpod.teacher.store import attempts_by_key, read_store
from tiers import tiered
from tiny import tiny_llama, tiny_t5

CHAT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
QUESTIONS = [Question(f"q{n}", "What is " + "1 + " * n + "1?", str(n + 1)) for n in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`plain` and `chat`, which differ in the chat template alone, and `t5`."""
    folder = tmp_path_factory.mktemp("models")
    for name, lm in (("plain", tiny_llama()), ("chat", tiny_llama()), ("t5", tiny_t5())):
        lm.tokenizer.chat_template = CHAT if name == "chat" else None
        lm.model.save_pretrained(folder / name)  # type: ignore[operator]
        lm.tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(params=tiered(["plain", "chat"], ["plain"]))
def ask(request, folder) -> AskConfig:
    prompt = TeacherPromptConfig(template="{{ question }}")
    return AskConfig(
        str(folder / request.param),
        backend="local",
        precision="fp32",
        temperature=0.0,
        max_tokens=12,
        batch_size=2,
        prompt=prompt,
    )


def written(ask: AskConfig, requests: list[Request]) -> dict[str, Attempt]:
    kept: dict[str, Attempt] = {}

    def keep(attempt: Attempt) -> None:
        assert attempt.key not in kept
        kept[attempt.key] = attempt

    LocalModel(ask).ask(requests, keep)
    return kept


def test_greedy_texts_are_those_of_the_model_one_by_one(ask):
    lm, requests = load_model(ask.model), requests_for(QUESTIONS, ask)
    kept = written(ask, requests)
    assert kept.keys() == {request.key for request in requests}
    for request in requests:
        ids = chat_ids(lm, request.messages)
        (alone,) = continue_greedily(lm, [ids], 12)
        attempt = kept[request.key]
        assert attempt.text == decode(lm, alone.token_ids)
        assert attempt.outcome == ("answered" if alone.finished else "truncated")
        assert (attempt.prompt_tokens, attempt.completion_tokens) == (len(ids), len(alone.token_ids))
        assert attempt.model == ask.model


def test_a_chat_template_is_used_where_there_is_one(folder):
    asked = Question("q", "2 + 2?", "4")
    for name, text in (("plain", "2 + 2?"), ("chat", "[user] 2 + 2?\n[assistant] ")):
        lm = load_model(str(folder / name))
        config = AskConfig(name, prompt=TeacherPromptConfig(template="{{ question }}"))
        assert lm.tokenizer.decode(chat_ids(lm, requests_for([asked], config)[0].messages)) == text


def test_samples_differ_and_are_the_same_in_every_run(ask):
    ask = replace(ask, temperature=1.0, top_p=0.9, samples=3, batch_size=3)
    requests = requests_for(QUESTIONS[:1], ask)
    kept = written(ask, requests)
    assert len({attempt.text for attempt in kept.values()}) == 3
    again = written(ask, requests)
    assert {key: a.text for key, a in again.items()} == {key: a.text for key, a in kept.items()}
    lm = load_model(ask.model)
    prompts = [chat_ids(lm, request.messages) for request in requests]
    drawn = continue_sampled(lm, prompts, 12, number=1, temperature=1.0, top_p=0.9, seed=requests[0].seed)
    assert [kept[request.key].text for request in requests] == [decode(lm, one.token_ids) for (one,) in drawn]


def test_a_prompt_that_leaves_no_room_is_a_bad_request_and_the_others_are_answered(ask):
    long = Question("long", "word " * 210, "1")  # 1024 tokens of context, a byte each
    requests = requests_for([*QUESTIONS[:2], long], ask)
    kept = written(ask, requests)
    attempt = kept[requests[2].key]
    assert attempt.outcome == "bad request"
    assert attempt.settled
    assert "do not fit 1024" in attempt.detail
    assert [kept[request.key].outcome for request in requests[:2]] != ["bad request"] * 2


def test_a_batch_in_which_nothing_fits_is_passed_over(ask):
    requests = requests_for([Question(f"q{n}", f"{n} " * 600, "1") for n in range(2)], ask)
    assert {attempt.outcome for attempt in written(ask, requests).values()} == {"bad request"}


def test_a_stop_text_cuts_what_was_written(ask):
    (request,) = requests_for(QUESTIONS[:1], ask)
    (whole,) = written(ask, [request]).values()
    stop = whole.text[4:6]
    (cut,) = written(replace(ask, stop=("\0never", stop)), [request]).values()
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.outcome, cut.finish_reason) == ("answered", "stop")


def test_a_model_that_writes_nothing_is_not_asked_forever(ask, tmp_path):
    (request,) = requests_for(QUESTIONS[:1], ask)
    (whole,) = written(ask, [request]).values()
    (cut,) = written(replace(ask, stop=(whole.text[0],)), [request]).values()
    assert (cut.outcome, cut.detail, cut.settled) == ("refused", "wrote nothing", True)


def test_no_requests_load_no_model(tmp_path):
    LocalModel(AskConfig(str(tmp_path / "none"), backend="local")).ask([], print)


def test_a_model_that_cannot_be_asked_is_named(folder, tmp_path):
    for model in (tmp_path / "none", folder / "t5"):
        ask = AskConfig(str(model), backend="local")
        with pytest.raises(ConfigError, match=rf"teacher\.ask\.model: .*{model.name}"):
            written(ask, requests_for(QUESTIONS[:1], ask))
    prompt = TeacherPromptConfig(system="Be brief.")
    ask = AskConfig(str(folder / "chat"), backend="local", precision="fp32", max_tokens=4, prompt=prompt)
    with pytest.raises(
        ConfigError, match=r"teacher\.ask\.prompt: .*no system role; set teacher\.ask\.prompt\.system to null"
    ):
        written(ask, requests_for(QUESTIONS[:1], ask))


def test_a_run_that_was_killed_goes_on_with_what_is_missing(ask, tmp_path, monkeypatch):
    store, written_batches = tmp_path / "s.jsonl", []
    monkeypatch.setattr(local_module, "_tokenise", counted := Counted(local_module._tokenise))
    write = LocalModel._write

    def dying(self, lm, batch, prompts):
        if len(written_batches) == 2:
            raise KeyboardInterrupt
        written_batches.append(batch)
        return write(self, lm, batch, prompts)

    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "_write", dying)
        with pytest.raises(KeyboardInterrupt):
            ask_teacher(QUESTIONS, ask, store)
    assert len(read_store(store)) == 4
    counted.requests.clear()
    asked = ask_teacher(QUESTIONS, ask, store)
    assert len(counted.requests) == 1
    assert {len(attempts) for attempts in attempts_by_key(store).values()} == {1}
    fresh = ask_teacher(QUESTIONS, ask, tmp_path / "fresh.jsonl")
    assert [asked.attempts[r.key].text for r in asked.requests] == [fresh.attempts[r.key].text for r in asked.requests]


class Counted:
    """A tokeniser that remembers what it was given."""

    def __init__(self, tokenise) -> None:
        self.tokenise = tokenise
        self.requests: list[Request] = []

    def __call__(self, lm, batch):
        self.requests += batch
        return self.tokenise(lm, batch)


def test_a_replay_gives_the_same_rationales_without_a_model(ask, tmp_path, monkeypatch):
    ask = replace(ask, stop=("e", "\x00", "a"), samples=2, temperature=1.0)  # short texts: most count as whole
    asked = ask_teacher(QUESTIONS, ask, tmp_path / "s.jsonl")
    rationales, dropped = explanations(asked, ask)
    monkeypatch.setattr(local_module, "load_model", None)
    replayed = replace(ask, backend="replay", replay=str(tmp_path / "s.jsonl"))
    assert isinstance(teacher_of(replayed, tmp_path / "new.jsonl"), Replay)
    again = ask_teacher(QUESTIONS, replayed, tmp_path / "new.jsonl")
    assert again == asked
    assert explanations(again, replayed) == (rationales, dropped)
    assert len(rationales) + len(dropped) == 10


def test_a_replay_leaves_open_what_was_not_recorded(ask, tmp_path):
    ask_teacher(QUESTIONS[:2], ask, tmp_path / "s.jsonl")
    replayed = replace(ask, backend="replay", replay=str(tmp_path / "s.jsonl"))
    with pytest.raises(TeacherError, match="1 of 3 answers are missing"):
        ask_teacher(QUESTIONS[:3], replayed, tmp_path / "new.jsonl")
    with pytest.raises(TeacherError, match="2 of 2 answers are missing"):
        ask_teacher(QUESTIONS[:2], replace(replayed, temperature=0.5), tmp_path / "new.jsonl")


def test_a_replay_needs_a_store(tmp_path):
    with pytest.raises(ConfigError, match=r"teacher\.ask\.replay: there is no file .*none\.jsonl"):
        Replay(AskConfig("m", backend="replay", replay=str(tmp_path / "none.jsonl")))
    path = tmp_path / "other.jsonl"
    path.write_text('{"id": "q"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"other\.jsonl:1: is no attempt"):
        Replay(AskConfig("m", backend="replay", replay=str(path)))
    with pytest.raises(ConfigError, match=r"teacher\.ask\.replay"):
        AskConfig("m", backend="replay")
    with pytest.raises(ConfigError, match=r"teacher\.ask\.replay"):
        AskConfig("m", replay=str(path))
