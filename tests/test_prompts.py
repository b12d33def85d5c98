"""Templates are filled literally, and the parts of a target tile it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.data.prompts import chat_message, completion, plain_prompt, question_text
from kpod.recipe import PromptConfig
from kpod.records import Question
from kpod.records.errors import DataError

QUESTION = Question("q", "2 + 2?", "4")
CLOSINGS = ["Therefore, the answer is {answer}", "So ({answer}).", "{answer}", "\n#### {answer}", "It is {answer} ! "]


def parts(rationale: str, answer: str, closing: str, leading: str = "") -> list[str]:
    target = completion(rationale, answer, PromptConfig(closing=closing), leading)
    return [target.text[slice(*span)] for span in (target.rationale, target.closing, target.answer, target.end)]


@pytest.mark.parametrize(
    ("closing", "expected"),
    [
        ("Therefore, the answer is {answer}", ["It is 4.", " Therefore, the answer is", " 4", ""]),
        ("Therefore, the answer is {answer}.", ["It is 4.", " Therefore, the answer is", " 4", "."]),
        ("The answer is ({answer}).", ["It is 4.", " The answer is (", "4", ")."]),
        ("{answer}", ["It is 4.", "", " 4", ""]),
        ("\n#### {answer}\n", ["It is 4.", "\n####", " 4", ""]),
    ],
)
def test_a_target_is_cut_into_its_parts_and_whitespace_goes_right(closing: str, expected: list[str]):
    assert parts("It is 4.", "4", closing) == expected


def test_a_leading_space_belongs_to_the_rationale_and_moves_it():
    target = completion("It is 4.", "4", PromptConfig(), leading=" ")
    assert target.text == " It is 4. Therefore, the answer is 4"
    assert target.rationale == (0, 9)
    assert target.text[target.rationale_offset :].startswith("It is 4.")


stripped = st.text(min_size=1, max_size=30).filter(lambda text: text == text.strip())


@given(stripped, stripped, st.sampled_from(CLOSINGS), st.sampled_from(["", " ", "\n"]))
def test_the_spans_tile_the_target_and_give_rationale_and_answer_back(rationale, answer, closing, leading):
    target = completion(rationale, answer, PromptConfig(closing=closing), leading)
    spans = [target.rationale, target.closing, target.answer, target.end]
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == len(target.text)
    assert target.text[target.rationale_offset : target.rationale[1]] == rationale
    assert target.text[slice(*target.answer)].lstrip() == answer


@pytest.mark.parametrize("rationale", ["  ", " a", "a\n"])
def test_outer_whitespace_in_a_rationale_is_refused(rationale: str):
    with pytest.raises(DataError, match="strip"):
        completion(rationale, "4", PromptConfig())


def test_the_plain_prompt_and_the_chat_message():
    assert plain_prompt(QUESTION, PromptConfig()) == "Q: 2 + 2?\nA: Let's think step by step."
    assert chat_message(QUESTION, PromptConfig()) == "2 + 2?\nLet's think step by step."


def test_a_prompt_has_no_trailing_whitespace():
    assert plain_prompt(QUESTION, PromptConfig(cot_prompt="")) == "Q: 2 + 2?\nA:"


def test_options_are_listed_with_their_letters():
    question = Question("q", "Which is red?", "A", {"A": "blood", "B": "grass"})
    assert question_text(question) == "Which is red?\nOptions:\n(A) blood\n(B) grass"
    assert plain_prompt(question, PromptConfig()).startswith("Q: Which is red?\nOptions:\n(A) blood\n(B) grass\nA: Let")


@pytest.mark.parametrize("text", ["{answer}", "{cot_prompt} {question}", "a {b} {0} {{c}}", r"\1 \g<0> %s", "{", "}{"])
def test_braces_in_a_users_text_come_through_literally(text: str):
    assert plain_prompt(Question("q", text, "4"), PromptConfig(cot_prompt="C")) == f"Q: {text}\nA: C"
    assert parts(text, text, "so {answer}.") == [text, " so", f" {text}", "."]
