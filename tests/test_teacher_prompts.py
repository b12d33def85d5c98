"""What a teacher is asked: the templates, and the keys under which requests are known."""

import json
import re
import textwrap
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.commands.pages.asked_teacher import estimate_markdown
from kpod.recipe import AskConfig, PricesConfig, TeacherPromptConfig
from kpod.recipe.loading import dump_recipe, load_recipe
from kpod.records import Question
from kpod.records.errors import ConfigError, DataError
from kpod.teacher.estimate import TOKENS_PER_ANSWER, estimate
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
        {"temperature": None},
        {"top_p": None},
        {"max_tokens": None},
        {"extra_body": {"top_k": 20}},
        {"extra_body": {"enable_thinking": False}},
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
        {"seed": None},
        {"stop": None},
        {"extra_body": {}},
        {"extra_headers": {"x-title": "a study"}},
        {"extra_query": {"api-version": "1"}},
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


def forms(ask: AskConfig) -> set[str]:
    return {request.form for request in requests_for([PLAIN, CHOICE], ask)}


@pytest.mark.parametrize(
    "changed",
    [
        {"length_parameter": "max_completion_tokens"},
        {"seed": None},
        {"top_p": None},
        {"temperature": 0.9},
        {"stop": ("Q:",)},
        {"extra_body": {"top_k": 20}},
        {"model": "gpt-y"},
        {"prompt": TeacherPromptConfig(system="Hm.")},
    ],
    ids=str,
)
def test_requests_of_one_recipe_share_a_form_and_another_way_to_ask_has_another(changed):
    assert len(forms(BASE)) == 1
    assert forms(replace(BASE, **changed)) != forms(BASE)


@pytest.mark.parametrize(
    "changed",
    [{"extra_headers": {"x-title": "t"}}, {"base_url": "http://x/v1"}, {"timeout": 5.0}, {"backend": "batch"}],
    ids=str,
)
def test_what_an_endpoint_does_not_read_in_a_request_is_in_no_form(changed):
    assert forms(replace(BASE, **changed)) == forms(BASE)


def test_only_endpoints_know_forms():
    assert forms(replace(BASE, backend="local")) == forms(replace(BASE, backend="replay", replay="x")) == {""}


def test_an_extra_body_is_sent_as_it_stands_and_its_order_makes_no_key():
    body = {"top_k": 20, "provider": {"order": ["a"]}, "x": None}
    ask = replace(BASE, extra_body=body)
    assert chat_arguments(requests_for([PLAIN], ask)[0], ask).items() >= body.items()
    assert keys(ask) == keys(replace(BASE, extra_body=dict(reversed(body.items()))))


@pytest.mark.parametrize(
    "body",
    [
        {"model": "other"},
        {"messages": []},
        {"temperature": 1},
        {"seed": 7},
        {"max_completion_tokens": 9},
        {"n": 4},
        {"top_logprobs": 2},
        {"api_key": "sk-1"},
        {"provider": {"Api-Key": "sk-1"}},
        {"providers": [{"password": "sk-1"}]},
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": {1, 2}},
        {"x": b"1"},
        {"x": {7: "a"}},
    ],
    ids=str,
)
def test_an_extra_body_that_cannot_be_sent_or_holds_a_key_is_refused(body):
    with pytest.raises(ConfigError, match=r"teacher\.ask\.extra_body") as error:
        AskConfig("m", extra_body=body)
    assert "sk-1" not in str(error.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": "s3cret-1"},
        {"Authorization": "Bearer s3cret-1"},
        {"X-Api-Key": "s3cret-1"},
        {"Ocp-Apim-Subscription-Key": "s3cret-1"},
        {"cookie": "a=s3cret-1"},
        {"x-auth-token": "s3cret-1"},
        {"x-more": "Bearer s3cret-1"},
        {"x-more": "sk-s3cret-1"},
        {"x-more": "$azure_key s3cret-1"},
        {"x-more": "${AZURE_KEY s3cret-1"},
        {"x-more": "s3cret-1$"},
        {"x-more": "s3cret-1\r\nx-admin: 1"},
        {"x-more": "s3cret-1 ключ"},
        {"x more": "s3cret-1"},
        {"x-more:": "s3cret-1"},
        {"": "s3cret-1"},
        {"content-length": "7"},
        {"Transfer-Encoding": "chunked"},
        {"x-more": 7},
        {"x-more": None},
    ],
    ids=str,
)
def test_a_header_that_cannot_be_sent_or_holds_a_key_is_refused_without_being_shown(headers):
    with pytest.raises(ConfigError, match=r"teacher\.ask\.extra_headers") as error:
        load_recipe(None, ["--teacher.ask.model", "m", "--teacher.ask.extra_headers", json.dumps(headers)])
    assert "s3cret-1" not in str(error.value)


@pytest.mark.parametrize("key", ["extra_body", "extra_headers", "extra_query"])
def test_a_name_that_is_no_text_is_told(key):
    with pytest.raises(ConfigError, match=rf"teacher\.ask\.{key}: the name 7 must be a text"):
        load_recipe(None, ["--teacher.ask.model", "m", f"--teacher.ask.{key}", "{7: a}"])


@pytest.mark.parametrize("written", ["sk-s3cret-1", '"Bearer s3cret-1"', "[s3cret-1]", "{s3cret-1", "7"])
def test_headers_that_are_no_mapping_are_not_shown(written):
    with pytest.raises(ConfigError, match=r"teacher\.ask\.extra_headers must be a mapping") as error:
        load_recipe(None, ["--teacher.ask.model", "m", "--teacher.ask.extra_headers", written])
    assert "s3cret-1" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["key", "api_key", "api-key", "access_token", "subscription-key", "sig", "code_secret"]
)
def test_a_key_in_the_url_is_refused_without_being_shown(name):
    with pytest.raises(ConfigError, match=r"teacher\.ask\.base_url: .* does not belong in a URL") as error:
        AskConfig("m", base_url=f"http://x/v1?a=1&{name}=s3cret-1")
    assert "s3cret-1" not in str(error.value)
    with pytest.raises(ConfigError, match=r"teacher\.ask\.extra_query: .* does not belong in a URL"):
        AskConfig("m", extra_query={name: "s3cret-1"})


@pytest.mark.parametrize("name", ["sk-abc123", "hf_abc", "$OPENAI_API_KEY", "openai_api_key", "A B", "", "1A", "KEY-1"])
def test_a_key_where_the_name_of_a_variable_belongs_is_refused_without_being_shown(name):
    with pytest.raises(ConfigError, match=r"teacher\.ask\.api_key_variable must be the NAME") as error:
        AskConfig("m", api_key_variable=name)
    assert not name or name == "$OPENAI_API_KEY" or name not in str(error.value)


def test_a_recipe_with_further_keys_is_written_and_read_back_without_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("AZURE_KEY", "s3cret-1")
    path = tmp_path / "r.yaml"
    path.write_text(
        "teacher:\n  ask:\n    model: m\n    top_p: null\n    seed: null\n    stop: null\n    max_tokens: null\n"
        "    extra_body: {enable_thinking: false, provider: {order: [a, b], allow_fallbacks: no}, x: null}\n"
        "    extra_headers: {api-key: $AZURE_KEY, X-Title: a study}\n    extra_query: {api-version: '2024-10-21'}\n"
    )
    recipe = load_recipe(path)
    assert recipe.teacher.ask is not None
    assert recipe.teacher.ask.extra_body["provider"] == {"order": ["a", "b"], "allow_fallbacks": False}
    path.write_text(dumped := dump_recipe(recipe))
    assert load_recipe(path) == recipe
    assert "$AZURE_KEY" in dumped
    assert "s3cret-1" not in dumped


TASKS = re.findall(
    r"```yaml\n(.*?)```", (Path(__file__).parent.parent / "docs" / "teacher.md").read_text("utf-8"), re.S
)


@pytest.mark.parametrize("block", TASKS)
def test_the_documents_tasks_are_recipes(block, tmp_path):
    path = tmp_path / "r.yaml"
    model = "" if "model:" in block else "    model: m\n"
    path.write_text(f"teacher:\n  ask:\n{model}" + textwrap.indent(block, "    "), encoding="utf-8")
    assert load_recipe(path).teacher.ask is not None
    assert len(TASKS) >= 5


@pytest.mark.parametrize("key", ["temperature", "top_p", "max_tokens", "seed"])
def test_a_local_model_needs_what_an_endpoint_may_decide(key):
    with pytest.raises(ConfigError, match=rf"teacher\.ask\.{key} is None; it must be given with backend: local"):
        AskConfig("m", backend="local", **{key: None})
    with pytest.raises(ConfigError, match=r"teacher\.ask\.extra_body .* left out with backend: local"):
        AskConfig("m", backend="local", extra_body={"top_k": 1})


def test_without_a_limit_an_estimate_rests_on_an_assumption():
    ask = replace(BASE, max_tokens=None)
    made = requests_for([PLAIN], ask)
    found = estimate(made, made, {}, ask)
    assert (found.completion_tokens, found.limited) == (2 * TOKENS_PER_ANSWER, False)
    assert "very roughly 1,024 to write" in estimate_markdown(**asdict(found))


def test_an_empty_stop_text_is_refused():
    with pytest.raises(ConfigError, match=r"teacher\.ask\.stop"):
        AskConfig("gpt-x", stop=("Q:", ""))
