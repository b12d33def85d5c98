"""Chat templates: the same on every day, bounded in time and length, and a thought that they open is closed."""

from dataclasses import replace

import pytest

import kpod.lm.trial
from kpod.lm.encoding import encode
from kpod.lm.models import LanguageModel
from kpod.lm.student_prompts import chat_ids, prompt_text
from kpod.lm.templates import open_thought, render_chat
from kpod.recipe import PromptConfig
from kpod.records import Question, Rationale, TokenizedRationale
from kpod.records.errors import ConfigError
from kpod.training.row_dataset import RowDataset
from tiny import tiny_llama, tiny_t5

QUESTION = Question("q1", "How many?", "42")
RATIONALE = Rationale("q1", QUESTION, "6 * 7 = 42.")
TURNS = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
THOUGHTS = [
    ("<think>\n", "</think>"),
    ("<think>", "</think>"),
    ("<thinking>\n", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<reasoning>\n\n", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>\n", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
]


def chatting(template: str, make=tiny_llama) -> LanguageModel:
    lm = make()
    lm.tokenizer.chat_template = template
    return lm


def written(lm: LanguageModel, prompt: PromptConfig, rationale: Rationale = RATIONALE) -> str:
    tokens = encode(lm, rationale, [(0, len(rationale.text))], prompt, 10_000)
    assert isinstance(tokens, TokenizedRationale), tokens
    return lm.tokenizer.decode(tokens.token_ids[tokens.segment_stops[0] :], clean_up_tokenization_spaces=False)


# --- thoughts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
@pytest.mark.parametrize(("opens", "closes"), THOUGHTS)
def test_a_thought_that_the_template_opens_is_closed_before_the_answer(opens, closes, make):
    text = written(chatting(TURNS + opens, make), PromptConfig())
    assert text.strip() == f"6 * 7 = 42.\n{closes}\n\nTherefore, the answer is 42</s>"


def test_the_end_of_a_thought_is_trained_as_part_of_the_closing():
    lm = chatting(TURNS + "<think>\n")
    tokens = encode(lm, RATIONALE, [(0, len(RATIONALE.text))], PromptConfig(), 10_000)
    assert isinstance(tokens, TokenizedRationale)
    assert lm.tokenizer.decode(list(tokens.ids("closing"))) == "\n</think>\n\nTherefore, the answer is"


@pytest.mark.parametrize("chat", [True, False])
def test_a_thought_that_the_recipe_opens_is_closed_too(chat):
    prompt = PromptConfig(chat=chat, opening="<think>\n")
    assert written(chatting(TURNS), prompt).endswith("42.\n</think>\n\nTherefore, the answer is 42</s>")


@pytest.mark.parametrize(
    ("closing", "text"),
    [
        ("</think>\n{answer}", "6 * 7 = 42."),
        ("So {answer}", "6 * 7 = 42.\n</think>\nThe answer follows."),
    ],
)
def test_a_thought_is_never_closed_twice(closing, text):
    found = written(chatting(TURNS + "<think>\n"), PromptConfig(closing=closing), replace(RATIONALE, text=text))
    assert found.count("</think>") == 1


@pytest.mark.parametrize(
    "end", ["", "<think>\n\n</think>\n\n", "<s>", "<assistant>", "<think> first", "<|assistant|>\n", "a < think>"]
)
def test_a_template_that_leaves_no_thought_open_leaves_the_closing_alone(end):
    assert open_thought(f"assistant:{end}") is None
    assert "</" not in written(chatting(TURNS + end), PromptConfig()).removesuffix("</s>")


def test_a_thought_that_is_opened_twice_is_refused():
    with pytest.raises(ConfigError, match=r"data\.prompt\.opening is '<think>\\n', but .* leave data\.prompt\.opening"):
        prompt_text(chatting(TURNS + "<think>\n").tokenizer, QUESTION, PromptConfig(opening="<think>\n"))


def test_looking_for_a_thought_takes_constant_time():
    assert open_thought("<think" * 100_000 + " " * 100_000) is None


# --- dates -----------------------------------------------------------------------------------------

DATED = "Today is {{ strftime_now('%d %b %Y %H:%M') }}. " + TURNS


def test_a_template_reads_the_recipes_date_and_never_the_clock():
    lm = chatting(DATED)
    assert prompt_text(lm.tokenizer, QUESTION, PromptConfig()).startswith("Today is 26 Jul 2024 00:00.")
    later = PromptConfig(date="2026-02-03")
    assert prompt_text(lm.tokenizer, QUESTION, later).startswith("Today is 03 Feb 2026 00:00.")
    assert lm.tokenizer.decode(chat_ids(lm, [{"role": "user", "content": "6?"}])).startswith("Today is 26 Jul 2024")
    row = {"messages": [{"role": "user", "content": "6?"}, {"role": "assistant", "content": "7"}]}
    plain = chatting(DATED.replace("assistant:", "{% if add_generation_prompt %}<s>assistant: {% endif %}"))
    assert plain.tokenizer.decode(RowDataset([row], plain)[0].token_ids).startswith("Today is 26 Jul 2024")


def test_the_clock_is_back_after_the_prompt_is_made():
    tokenizer = chatting("{{ strftime_now('%Y') }}").tokenizer
    prompt_text(tokenizer, QUESTION, PromptConfig(date="1999-01-01"))
    message = [{"role": "user", "content": "6?"}]
    assert int(tokenizer.apply_chat_template(message, tokenize=False)) > 2020


@pytest.mark.parametrize("date", ["today", "26 Jul 2024", "2024-13-01", "20240726", ""])
def test_a_date_is_a_day_in_iso_form(date):
    with pytest.raises(ConfigError, match=r"data\.prompt\.date is .* a date such as 2024-07-26"):
        PromptConfig(date=date)


# --- faults and limits -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('no users here') }}", "no users here"),
        ("{{ messages[3].content.x }}", "has no element 3"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 'x'.encode('nonsense') }}", "LookupError"),
        ("{% for", "unexpected|expected"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "unsafe|undefined"),
    ],
)
def test_a_template_that_fails_is_told_with_what_to_do(template, why):
    with pytest.raises(
        ConfigError, match=rf"(?s)data\.prompt: the chat template of .*({why}).*data\.prompt\.chat: false"
    ):
        prompt_text(chatting(template).tokenizer, QUESTION, PromptConfig())


def test_a_template_without_a_system_role_says_so_to_a_local_teacher():
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}Hi"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6?"}]
    with pytest.raises(ConfigError, match=r"System role not supported; set teacher\.ask\.prompt\.system to null"):
        chat_ids(chatting(template), messages)
    assert chat_ids(chatting(template), messages[1:])


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end"),
        ("{{ 'a' * 10 ** 10 }}", "of memory"),
        (
            "{% set ns = namespace(s='a') %}{% for _ in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "of memory",
        ),
        ("{{ '%9000000000d' % 1 }}", "of memory"),
        ("{{ 'a' * 9000000 }}", "writes 9,000,000 characters"),
    ],
)
def test_a_template_that_never_ends_or_grows_without_bound_is_refused(template, why, monkeypatch):
    monkeypatch.setattr(kpod.lm.trial, "SECONDS", 1)
    monkeypatch.setattr(kpod.lm.trial, "MEMORY", 1 << 28)
    with pytest.raises(ConfigError, match=f"the chat template of .*{why}"):
        prompt_text(chatting(template).tokenizer, QUESTION, PromptConfig())


def test_a_template_is_tried_once(monkeypatch):
    lm = chatting(TURNS + "{# tried once #}")
    render_chat(lm.tokenizer, [{"role": "user", "content": "a"}], "2024-07-26", name="x", advice="y")
    monkeypatch.setattr(kpod.lm.trial, "subprocess", None)
    assert "b" in render_chat(lm.tokenizer, [{"role": "user", "content": "b"}], "2024-07-26", name="x", advice="y")


def test_what_transformers_adds_to_jinja_is_there_in_the_trial_too():
    template = (
        "{% generation %}{{ messages | tojson(indent=2) }}{% endgeneration %}{{ strftime_now('%d') }}"
        "{% for m in messages %}{% break %}{% endfor %}{{ bos_token }}"
    )
    assert kpod.lm.trial.check_template(template, {"messages": [], "bos_token": "<s>"}) is None
