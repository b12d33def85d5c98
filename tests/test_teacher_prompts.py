"""What a teacher is asked: the templates, and the keys under which requests are known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.config import AskConfig, PricesConfig, TeacherPromptConfig
from kpod.errors import ConfigError, DataError
from kpod.records import Question
from kpod.teacher.requests import Request, chat_arguments, requests_for

PLAIN = Question("q", "What is 3 + 4?", "7")
CHOICE = Question("c", "Which is red?", "A", {"A": "blood", "B": "grass"})


def requests(question: Question = PLAIN, *, hinted: bool = False, **settings: Any) -> list[Request]:
    """Requests about one question; `prompt` takes the fields of TeacherPromptConfig."""
    prompt = TeacherPromptConfig(**settings.pop("prompt", {}))
    return requests_for([question], AskConfig(**{"model": "gpt-x", "prompt": prompt, **settings}), hinted=hinted)


def asked(question: Question = PLAIN, *, hinted: bool = False, **prompt: Any) -> str:
    """What the user's message says."""
    (request,) = requests(question, hinted=hinted, prompt=prompt)
    return request.messages[-1]["content"]


def test_the_default_asks_for_steps_and_an_answer_sentence():
    (request,) = requests()
    assert request.messages == (
        {
            "role": "user",
            "content": "What is 3 + 4?\n\nLet's think step by step. "
            'End with the words "Therefore, the answer is" and your answer.',
        },
    )
    assert asked(CHOICE) == (
        "Which is red?\nOptions:\n(A) blood\n(B) grass\n\nLet's think step by step. "
        'End with the words "Therefore, the answer is" and your answer, one of the letters A, B.'
    )


def test_a_template_of_ones_own_sees_question_and_choices():
    template = (
        "{% for letter, text in choices.items() %}{{ letter }}={{ text }};{% endfor %} {{ letters }} {{ question }}"
    )
    assert asked(CHOICE, template=template).startswith("A=blood;B=grass; A, B Which is red?")
    assert asked(template=template) == "What is 3 + 4?"  # outer blanks fall away


def test_the_system_message_stands_first():
    (request,) = requests(prompt={"system": "Be brief."})
    assert [message["role"] for message in request.messages] == ["system", "user"]
    assert request.messages[0]["content"] == "Be brief."


def test_braces_and_markup_in_a_question_come_through_as_they_are():
    text = "What is {{ 7 * 7 }} {% raw %} <b> & {x}?"
    assert text in asked(Question("q", text, "7"))


def test_the_hint_tells_the_answer_and_the_template_cannot():
    hint = asked(hinted=True)
    assert hint.count("7") == 2
    assert "the answer is 7" in hint
    with pytest.raises(ConfigError, match=r"prompt\.template fails at question 'q': 'answer' is undefined"):
        asked(template="{{ question }} {{ answer }}")
    assert "7" not in asked(template="{{ question }} {{ answer | default('?') }}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ question ",
        "{% if question %}",
        "{{ question | nofilter }}",
        "{% nonsense %} question",
        "{{ question }}" + "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    ],
    ids=lambda template: template[:30],
)
@pytest.mark.parametrize("name", ["template", "hint"])
def test_what_is_no_template_is_said_to_be_none(name, template):
    with pytest.raises(ConfigError, match=rf"teacher\.ask\.prompt\.{name} is no template"):
        requests(prompt={name: template})


@pytest.mark.parametrize(
    "template",
    [
        "{{ question }} {{ typo }}",
        "{{ question }} {{ question.typo }}",
        "{{ question }} {{ choices['A'] }}",
        "{{ question }} {{ question + 1 }}",
        "{{ question }} {{ 1 / 0 }}",
        "{{ question | int | default(1) // 0 }}",
        "{{ question }} {% include 'x' %}",
        "{{ question }} {{ [][0] }}",
        "{{ question }} {% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        # out of the sandbox
        "{{ question.__class__.__mro__ }}",
        "{{ question }} {{ ''.__class__ }}",
        "{{ question }} {{ ''['__class__'] }}",
        "{{ question }} {{ '' | attr('__class__') }}",
        "{{ question }} {{ question.__init__.__globals__ }}",
        "{{ question }} {{ choices.__class__.__base__.__subclasses__() }}",
        "{{ question }} {{ self._TemplateReference__context }}",
        "{{ question }} {{ cycler.__init__.__globals__ }}",
        "{{ question }} {{ '{0.__class__}'.format(question) }}",
        "{{ question }} {{ choices.update({'A': 'x'}) }}",
        # without end
        "{{ question }} {% for i in range(10**9) %}x{% endfor %}",
        "{{ question }} {{ range(10**9) | list }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(template):
    with pytest.raises(ConfigError, match=r"teacher\.ask\.prompt\.template fails at question 'q': ."):
        asked(template=template)


def test_a_template_that_leaves_nothing_to_ask_is_refused():
    with pytest.raises(ConfigError, match="leaves nothing to ask at question 'q'"):
        asked(template="{% if choices %}{{ question }}{% endif %}")
    with pytest.raises(ConfigError, match=r"template with \{\{ question \}\}"):
        TeacherPromptConfig(template="Hello.")


def example_file(folder: Path, rationales: list[str]) -> str:
    rows = [
        {"id": f"e{n}", "question": f"What is {n} + 1?", "answer": str(n + 1), "rationale": text}
        for n, text in enumerate(rationales)
    ]
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_solved_examples_stand_before_the_question_in_the_order_of_their_file(tmp_path):
    examples = example_file(tmp_path, ["It is 1.", "", "2 + 1 = 3."])
    (request,) = requests(prompt={"examples": examples, "template": "Q: {{ question }}", "system": "Hm."})
    assert [tuple(message.values()) for message in request.messages] == [
        ("system", "Hm."),
        ("user", "Q: What is 0 + 1?"),
        ("assistant", "It is 1. Therefore, the answer is 1."),
        ("user", "Q: What is 2 + 1?"),
        ("assistant", "2 + 1 = 3. Therefore, the answer is 3."),
        ("user", "Q: What is 3 + 4?"),
    ]
    (hinted,) = requests(hinted=True, prompt={"examples": examples, "template": "Q: {{ question }}", "system": "Hm."})
    assert hinted.messages[:-1] == request.messages[:-1]


def test_a_file_without_solved_examples_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"teacher\.ask\.prompt\.examples: .* holds no rationale"):
        requests(prompt={"examples": example_file(tmp_path, ["", ""])})
    with pytest.raises(DataError):
        requests(prompt={"examples": str(tmp_path / "none.jsonl")})


def test_every_question_has_its_samples_one_after_the_other():
    made = requests_for([PLAIN, CHOICE], AskConfig("gpt-x", samples=3))
    assert [(request.question_id, request.sample, request.hinted) for request in made] == [
        (id_, sample, False) for id_ in ("q", "c") for sample in range(3)
    ]
    assert len({request.key for request in made}) == len({request.seed for request in made}) == 6
    assert all(0 <= request.seed < 2**31 for request in made)


BASE = AskConfig("gpt-x", samples=2)


def keys(ask: AskConfig = BASE, question: Question = PLAIN, *, hinted: bool = False) -> list[str]:
    return [request.key for request in requests_for([question], ask, hinted=hinted)]


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "gpt-y"},
        {"temperature": 0.8},
        {"top_p": 0.9},
        {"max_tokens": 513},
        {"stop": ("Q:",)},
        {"logprobs": 0},
        {"logprobs": 5},
        {"prompt": TeacherPromptConfig(system="Hm.")},
        {"prompt": TeacherPromptConfig(template="{{ question }}")},
    ],
    ids=str,
)
def test_what_changes_the_answer_changes_the_key(changed):
    assert not set(keys(replace(BASE, **changed))) & set(keys())


@pytest.mark.parametrize(
    "changed",
    [
        {"concurrency": 99},
        {"timeout": 5.0},
        {"base_url": "http://127.0.0.1:8000/v1"},
        {"backend": "batch"},
        {"backend": "local"},
        {"backend": "replay", "replay": "old.jsonl"},
        {"api_key_variable": "OTHER"},
        {"length_parameter": "max_completion_tokens"},
        {"retries": 0},
        {"retry_budget": 7},
        {"hint": True},
        {"reasoning": "rationale"},
        {"batch_size": 1},
        {"precision": "fp32"},
        {"poll_seconds": 1.0},
        {"store": "s.jsonl"},
        {"prices": PricesConfig(1.0, 2.0)},
        {"prompt": TeacherPromptConfig(hint="{{ question }} {{ answer }}")},
    ],
    ids=str,
)
def test_what_does_not_change_the_answer_does_not_change_the_key(changed):
    assert keys(replace(BASE, **changed)) == keys()


def test_more_samples_keep_the_keys_of_the_first():
    assert keys(replace(BASE, samples=5))[:2] == keys()


def test_a_key_is_of_the_content_not_of_the_id():
    assert keys(question=replace(PLAIN, id="other", answer="8")) == keys()
    assert keys(question=replace(PLAIN, question="What is 3 + 5?")) != keys()
    assert not set(keys(hinted=True)) & set(keys())


def test_a_key_is_the_same_on_every_day():
    """Answers that were paid for are found by it: a new way to make keys would buy them all again."""
    ask = replace(BASE, prompt=TeacherPromptConfig(template="Q: {{ question }}"), stop=("Q:",))
    assert keys(ask) == ["4030380a6593ce521438d2086685cc48", "5a45fc77742beb39309eb8591fa9e288"]


@given(st.text(st.characters(exclude_categories=[]), min_size=1).filter(str.strip))
def test_any_text_can_be_asked(text: str):
    first, again = (requests_for([Question("q", text, "7")], BASE) for _ in range(2))
    assert first == again
    json.dumps(chat_arguments(first[0], BASE))


def test_the_endpoint_is_told_what_the_recipe_says():
    ask = replace(BASE, stop=("Q:", "\n\n"), logprobs=3, length_parameter="max_completion_tokens", max_tokens=9)
    request = requests_for([PLAIN], ask)[1]
    assert chat_arguments(request, ask) == {
        "model": "gpt-x",
        "messages": [dict(message) for message in request.messages],
        "temperature": 0.7,
        "top_p": 1.0,
        "max_completion_tokens": 9,
        "seed": request.seed,
        "stop": ["Q:", "\n\n"],
        "logprobs": True,
        "top_logprobs": 3,
    }
    plain = chat_arguments(request, BASE)
    assert plain.keys() == {"model", "messages", "temperature", "top_p", "max_tokens", "seed"}


def test_an_empty_stop_text_is_refused():
    with pytest.raises(ConfigError, match=r"teacher\.ask\.stop"):
        AskConfig("gpt-x", stop=("Q:", ""))
