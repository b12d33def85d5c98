"""Rationales by contrastive decoding, and the wrong answers that they are written against."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpod.data.answers import same_answer
from kpod.data.counterfactuals import counterfactual_answer
from kpod.lm import contrastive
from kpod.lm.contrastive import Contrast, continue_contrastively
from kpod.lm.decoding import continue_greedily, decode
from kpod.lm.models import LanguageModel
from kpod.recipe import AskConfig, ContrastiveConfig, DataConfig, TeacherConfig, TeacherPromptConfig
from kpod.records import Question
from kpod.records.errors import ConfigError, DataError
from kpod.teacher.asking import ask_teacher, explanations
from kpod.teacher.gathering import gather_rationales, recorded
from kpod.teacher.local import LocalModel
from kpod.teacher.requests import requests_for
from kpod.teacher.store import read_store
from tiny import END, ascii_tokenizer, model_with, tiny_llama
from tiny_runs import write_tiny_data

LLAMA = tiny_llama()
GOLD = [list(text) for text in (b"Q: 6 * 7? It is 42. ", b"Is 7 even? no. ", b"x")]
OTHER = [list(text) for text in (b"Q: 6 * 7? It is 40. ", b"Is 7 even? yes. ", b"yy")]


# -- decoding -----------------------------------------------------------------------------------------------


def one_by_one(lm: LanguageModel, gold: Sequence[int], other: Sequence[int], most: int, weight: float) -> list[int]:
    """The definition, without a cache, a batch or a library."""
    written: list[int] = []
    with torch.no_grad():
        while len(written) < most:
            plain, against = (
                lm.model(torch.tensor([[*prompt, *written]])).logits[0, -1].log_softmax(-1) for prompt in (gold, other)
            )
            chosen = int((plain - weight * against).argmax())
            if END in (chosen, int(plain.argmax())):
                break
            written.append(chosen)
    return written


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_each_token_is_the_one_with_the_largest_difference(weight: float) -> None:
    found = continue_contrastively(LLAMA, GOLD, OTHER, 12, weight=weight)
    wanted = [one_by_one(LLAMA, gold, other, 12, weight) for gold, other in zip(GOLD, OTHER, strict=True)]
    assert [list(one.token_ids) for one in found] == wanted
    assert [list(one.token_ids) for one in continue_greedily(LLAMA, GOLD, 12)] != wanted


def test_with_weight_zero_it_is_greedy_decoding_of_the_first_prompt() -> None:
    assert continue_contrastively(LLAMA, GOLD, OTHER, 12, weight=0.0) == continue_greedily(LLAMA, GOLD, 12)


A, B, STOP = range(3)


@pytest.mark.parametrize(
    ("gold", "other", "weight", "chosen"),
    [
        ((0.5, 0.4, 0.1), (0.6, 0.1, 0.3), 0.5, B),  # -0.44, 0.24, -1.70
        ((0.5, 0.4, 0.1), (0.6, 0.1, 0.3), 0.0, A),
        ((0.5, 0.4, 0.1), (0.5, 0.4, 0.1), 1.0, A),  # nothing between the two: the first of equals
        ((0.4, 0.1, 0.5), (0.1, 0.1, 0.8), 0.5, STOP),  # A has the larger score, but the first prompt would stop
        ((0.5, 0.1, 0.4), (0.9, 0.09, 0.01), 0.5, STOP),  # the first prompt would not, but the score does
        ((1.0, 0.0, 0.0), (0.9, 0.0, 0.1), 0.5, A),  # what the first prompt excludes is never written
        ((0.6, 0.4, 0.0), (0.0, 0.9, 0.1), 0.5, A),  # what the other excludes is the largest difference
    ],
)
def test_a_model_of_three_tokens(gold: tuple[float, ...], other: tuple[float, ...], weight: float, chosen: int) -> None:
    contrast = Contrast(weight, [STOP])
    scores = contrast(torch.zeros(2, 1, dtype=torch.long), torch.tensor([gold, other]).log())
    assert scores.argmax(dim=-1).tolist() == [chosen, chosen]


@pytest.mark.parametrize(
    ("gold", "other", "before", "chosen"),
    [
        ((0.5, 0.4, 0.1), (0.6, 0.1, 0.3), B, STOP),  # A, which holds a stop, is what the first prompt expects
        ((0.5, 0.4, 0.1), (0.5, 0.4, 0.1), B, A),  # what is chosen is written, since text may stand before the stop
        ((0.1, 0.8, 0.1), (0.1, 0.8, 0.1), A, STOP),  # and the answer ends behind it
        ((0.1, 0.8, 0.1), (0.1, 0.8, 0.1), B, B),
    ],
)
def test_a_token_that_holds_a_stop(gold: tuple[float, ...], other: tuple[float, ...], before: int, chosen: int) -> None:
    contrast = Contrast(0.5, [STOP], held=[A])
    start = torch.tensor([[A], [A]])  # a prompt may end in such a token
    free = torch.tensor([[0.1, 0.8, 0.1]] * 2).log()
    assert contrast(start, free).argmax(dim=-1).tolist() == [B, B]
    written = torch.tensor([[A, before], [A, before]])
    assert contrast(written, torch.tensor([gold, other]).log()).argmax(dim=-1).tolist() == [chosen, chosen]


def test_a_text_ends_at_a_token_that_holds_a_stop() -> None:
    (free,) = continue_contrastively(LLAMA, GOLD[:1], OTHER[:1], 12, weight=0.5)
    letter = next(text for id_ in free.token_ids[1:] if (text := decode(LLAMA, [id_])) and text.isascii())
    (found,) = continue_contrastively(LLAMA, GOLD[:1], OTHER[:1], 12, weight=0.5, stops=[letter])
    assert found.finished
    assert found.token_ids == free.token_ids[: len(found.token_ids)]
    assert letter not in decode(LLAMA, found.token_ids[:-1])
    assert letter in decode(LLAMA, found.token_ids) or len(found.token_ids) < len(free.token_ids)


def test_a_model_that_a_batch_changes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "company", lambda *_: "of one length")
    with pytest.raises(ConfigError, match=r"reads a prompt otherwise .* teacher\.ask\.contrastive"):
        continue_contrastively(LLAMA, GOLD, OTHER, 3, weight=0.5)


# -- wrong answers ------------------------------------------------------------------------------------------


def asked(*answers: str) -> list[Question]:
    return [Question(f"q{number}", "?", answer) for number, answer in enumerate(answers)]


OTHERS = asked("18", "7", "5", "250", "199", "-31", "2.5", "0", "Paris", "London", "no", "3")


@pytest.mark.parametrize(
    ("gold", "wrong"),
    [
        ("42", {"18"}),
        ("$42", {"18"}),
        ("eleven", {"18"}),
        ("4", {"7", "5", "0", "3"}),
        ("1,20", {"250", "199"}),
        ("300", {"250", "199"}),
        ("-40", {"-31"}),
        ("1.5", {"2.5"}),
        ("1/2", {"2.5"}),
        ("100000", {"250"}),  # none is as large: the nearest
        ("yes", {"no"}),
        ("No", {"Yes"}),
        ("TRUE", {"FALSE"}),
        ("false", {"true"}),
        ("Rome", {"Paris", "London"}),
        ("Paris", {"London"}),
    ],
)
def test_a_wrong_answer_is_of_the_kind_of_the_right_one(gold: str, wrong: set[str]) -> None:
    found = {counterfactual_answer(Question("x", "?", gold), OTHERS, seed) for seed in range(40)}
    assert found == wrong if gold != "1,20" else found <= {"250", "199", "2.5", "7", "5", "0", "3"}


def test_an_option_is_another_option() -> None:
    question = Question("x", "?", "B", {"A": "ant", "B": "bee", "C": "cat"})
    assert {counterfactual_answer(question, [], seed) for seed in range(30)} == {"A", "C"}
    with pytest.raises(DataError, match="'x' has one option only"):
        counterfactual_answer(Question("x", "?", "A", {"A": "ant"}), OTHERS, 0)


@given(st.integers(-(10**40), 10**40), st.lists(st.integers(-(10**40), 10**40).map(str)), st.integers(0, 99))
@settings(max_examples=15)
def test_a_wrong_number_is_never_the_right_one_and_always_the_same(gold: int, others: list[str], seed: int) -> None:
    question = Question("x", "?", str(gold))
    found = counterfactual_answer(question, asked(*others), seed)
    assert not same_answer(found, str(gold))
    assert found == counterfactual_answer(question, asked(*others), seed)
    assert found in {*others, str(gold + 1)}


def test_a_text_without_another_is_named() -> None:
    with pytest.raises(DataError, match="'x': no other question has a text"):
        counterfactual_answer(Question("x", "?", "Rome"), asked("7", "Rome", "yes"), 0)


# -- a teacher that decodes so --------------------------------------------------------------------------------

QUESTIONS = [Question(f"q{n}", "What is " + "1 + " * n + "1?", str(n + 1)) for n in range(5)]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> AskConfig:
    folder = tmp_path_factory.mktemp("teacher")
    lm = model_with(ascii_tokenizer())
    lm.model.save_pretrained(folder)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(folder)
    return AskConfig(
        str(folder),
        backend="local",
        precision="fp32",
        temperature=0.0,
        max_tokens=12,
        batch_size=2,
        stop=("e", "a", "."),
        contrastive=ContrastiveConfig(counterfactual=True),
        prompt=TeacherPromptConfig(hint="{{ question }} It is {{ answer }}."),
    )


def test_a_teacher_explains_the_gold_answer_and_a_wrong_one(ask: AskConfig, tmp_path: Path) -> None:
    requests = requests_for(QUESTIONS, ask)
    assert len({request.key for request in requests}) == 10
    for question, gold, wrong in zip(QUESTIONS, requests[::2], requests[1::2], strict=True):
        answer = counterfactual_answer(question, QUESTIONS, 0)
        texts = [f"{question.question} It is {one}." for one in (question.answer, answer)]
        assert [gold.messages[-1]["content"], gold.against[-1]["content"]] == texts
        assert [wrong.messages, wrong.against] == [gold.against, gold.messages]
        assert (gold.counterfactual, wrong.counterfactual) == ("", answer)
    told = ask_teacher(QUESTIONS, ask, tmp_path / "s.jsonl")
    lm = model_with(ascii_tokenizer())
    for request in requests:
        gold, other = (lm.tokenizer(m[-1]["content"]).input_ids for m in (request.messages, request.against))
        (alone,) = continue_contrastively(lm, [gold], [other], 12, weight=0.5, stops=ask.stop or ())
        text = re.split("[ea.]", decode(lm, alone.token_ids))[0]  # at the texts under stop
        assert told.attempts[request.key].text == text
    loose = replace(ask, max_tokens=200)
    found, _ = explanations(ask_teacher(QUESTIONS, loose, tmp_path / "s.jsonl"), loose)
    for one in found:
        is_wrong = one.rationale.id.endswith("/counterfactual")
        question = next(q for q in QUESTIONS if q.id == one.rationale.question.id)
        assert (one.rationale.question.answer == question.answer) is not is_wrong
        assert one.rationale.source == f"{ask.model} ({'counterfactual' if is_wrong else 'contrastive'})"


@pytest.mark.parametrize("changes", [{"weight": 0.25}, {"against": "empty"}, {"seed": 1}])
def test_other_settings_are_other_requests(ask: AskConfig, changes: dict[str, object]) -> None:
    other = replace(ask, contrastive=ContrastiveConfig(**{"counterfactual": True, **changes}))  # type: ignore[arg-type]
    keys = [{request.key for request in requests_for(QUESTIONS, found)} for found in (ask, other)]
    assert keys[0] != keys[1]
    assert not keys[0] & {request.key for request in requests_for(QUESTIONS, replace(ask, contrastive=None))}
    if changes == {"against": "empty"}:
        assert all(request.against[-1]["content"].endswith("It is .") for request in requests_for(QUESTIONS, other))


def test_a_killed_teacher_goes_on(ask: AskConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, batches = LocalModel._write, []

    def dying(*given):
        batches.append(given[2])
        if len(batches) == 3:
            raise KeyboardInterrupt
        return write(*given)

    store = tmp_path / "s.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "_write", dying)
        with pytest.raises(KeyboardInterrupt):
            ask_teacher(QUESTIONS, ask, store)
    assert len(read_store(store)) == 4
    resumed, fresh = ask_teacher(QUESTIONS, ask, store), ask_teacher(QUESTIONS, ask, tmp_path / "fresh.jsonl")
    assert {key: a.text for key, a in resumed.attempts.items()} == {key: a.text for key, a in fresh.attempts.items()}


def test_counterfactual_rationales_are_kept_apart(ask: AskConfig, tmp_path: Path) -> None:
    data = DataConfig(train=str(write_tiny_data(tmp_path) / "rationales.jsonl"))
    teacher = TeacherConfig(ask=replace(ask, max_tokens=200), filter="none")
    gathered = gather_rationales(data, teacher, tmp_path / "runs")
    assert gathered.counterfactual
    assert gathered.kept
    for one in gathered.counterfactual:
        assert one.id == f"{one.question.id}/counterfactual"
        assert gathered.places[one.id].rationale == one
    assert not [one.id for one in (*gathered.found, *gathered.dropped) if "/" in one.id]
    assert recorded(data, teacher, tmp_path / "runs") == gathered
    judged = gather_rationales(data, replace(teacher, filter="gold"), tmp_path / "runs")
    assert judged.counterfactual == ()  # a random model's texts come to nothing


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("backend", {"backend": "endpoint"}),
        ("backend", {"backend": "batch"}),
        ("temperature", {"temperature": 0.7}),
        ("samples", {"samples": 2, "temperature": 0.5}),
        ("hint", {"hint": True}),
        ("hint", {"hint": "always"}),
    ],
)
def test_what_contrastive_decoding_would_ignore_is_refused(
    ask: AskConfig, key: str, changes: dict[str, object]
) -> None:
    with pytest.raises(
        ConfigError, match=rf"teacher\.ask\.(temperature|{key}) .*where teacher\.ask\.contrastive is given"
    ):
        replace(ask, **changes)


def test_any_teacher_can_be_told_the_answer_from_the_start(ask: AskConfig) -> None:
    """Under the name of a hint, since nothing is decoded against another answer."""
    told = replace(ask, contrastive=None, hint="always")
    for samples in (1, 2):
        many = replace(told, samples=samples, temperature=1.0)
        requests = requests_for(QUESTIONS[:1], many)
        assert [request.hinted for request in requests] == [True] * samples
        assert requests[0].messages[-1]["content"] == "What is 1? It is 1."
        assert [request.against for request in requests] == [()] * samples
