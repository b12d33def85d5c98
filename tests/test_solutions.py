"""Worked solutions taken apart, and chats: what is rationale, what is gold, what is left aside."""

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.data.cells import UnusableError
from kpod.data.chats import Turn, first_exchange, turns_of
from kpod.data.solutions import behind_hashes, plain_number, read_solution, without_marks, without_thought

TEXT = "6 + 2 = 8, so she has 8."


@pytest.mark.parametrize(
    ("text", "rationale", "answer"),
    [
        (f"{TEXT}\n#### 8", TEXT, "8"),
        (f"{TEXT} #### 1,200.50", TEXT, "1200.5"),
        (f"{TEXT}\n#### x + 1", TEXT, "x + 1"),
        ("6 + 2 = <<6+2=8>>8.\n#### 8", "6 + 2 = 8.", "8"),
        (f"{TEXT}\n#### 8\nThe answer is: 8", f"{TEXT}\n#### 8\nThe answer is: 8", "8"),
        (f"{TEXT} The answer is 8.", f"{TEXT} The answer is 8.", "8"),
        (rf"{TEXT} \boxed{{8}}", rf"{TEXT} \boxed{{8}}", "8"),
        (rf"{TEXT} $\boxed {{ 8 }}$.", rf"{TEXT} $\boxed {{ 8 }}$.", "8"),
        (r"So \boxed{\frac{1}{2}} it is, she said.", r"So \boxed{\frac{1}{2}} it is, she said.", r"\frac{1}{2}"),
        (r"First \boxed{3}, then \boxed{\{4\}} in all.", r"First \boxed{3}, then \boxed{\{4\}} in all.", r"\{4\}"),
        (r"First \boxed{3}. So the answer is 7.", r"First \boxed{3}. So the answer is 7.", "7"),
        (r"So \boxed{8} and \boxed{never closed", r"So \boxed{8} and \boxed{never closed", "8"),
        (r"So \boxed{} it is, she said.", r"So \boxed{} it is, she said.", None),
        ("She has some pens.", "She has some pens.", None),
        ("#### Step 1\nAdd six and two.", "#### Step 1\nAdd six and two.", None),
        ("8", "", "8"),
        ("18 dollars.", "", "18 dollars"),
        ("#### 8", "", "8"),
        ("6 + 2 = 8", "6 + 2 = 8", None),
    ],
)
def test_reasoning_and_answer_are_told_apart(text: str, rationale: str, answer: str | None):
    solution = read_solution(text)
    assert (solution.rationale, solution.answer, solution.set_aside) == (rationale, answer, False)


STYLES = ("\n#### {}", r" So $\boxed{{{}}}$.", " The answer is {}.", "\n#### {0}\nThe answer is: {0}", " Answer: {}")


@given(st.integers(-(10**6), 10**6), st.integers(0, 99), st.sampled_from(STYLES))
def test_every_style_states_any_number(whole: int, hundredths: int, style: str):
    solution = read_solution(TEXT + style.format(f"{whole}.{hundredths:02d}"))
    assert solution.answer is not None
    assert float(solution.answer) == float(f"{whole}.{hundredths:02d}")
    assert solution.rationale.startswith(TEXT)


OPENINGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<THINK>": "</THINK>",
    "[THINK]": "[/THINK]",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "": "</think>",
}


@pytest.mark.parametrize("opening", OPENINGS)
def test_every_tag_sets_a_thought_apart(opening: str):
    text = f"{opening}\nHm, six and two.\n{OPENINGS[opening]}\n\n{TEXT} The answer is 8."
    apart = read_solution(text)
    assert (apart.rationale, apart.answer, apart.set_aside) == (f"{TEXT} The answer is 8.", "8", True)
    taken = read_solution(text, thoughts="rationale")
    assert (taken.rationale, taken.answer, taken.set_aside) == ("Hm, six and two.", "8", False)


@pytest.mark.parametrize("said", ["8", "8 pens.", "The answer is 8.", r"\boxed{8}", "<answer>8</answer>", "#### 8"])
def test_a_thought_before_an_answer_alone_is_the_rationale(said: str):
    solution = read_solution(f"<think>Six and two are eight.</think>{said}")
    assert solution.rationale == "Six and two are eight."
    assert solution.answer in ("8", "8 pens")
    assert not solution.set_aside


def test_text_around_thoughts_is_kept_whole():
    text = "First. <think>a</think> Then. <think>b <think> c</think> Last."
    assert without_thought(text) == ("a\n\nb <think> c", "First. Then. Last.")


@pytest.mark.parametrize(
    "text", ["<think>Hm", "So. <think>Hm", "<think>a</think> b <think> c", "<|begin_of_thought|>x"]
)
def test_a_thought_without_an_end_is_no_solution(text: str):
    with pytest.raises(UnusableError, match=r"has a thought without an end|has thought tags that do not pair up"):
        read_solution(text)


@given(st.text(string.ascii_letters + " .", max_size=40), st.text(string.ascii_letters + " .", max_size=40))
def test_no_word_around_a_thought_is_lost(before: str, after: str):
    thought, said = without_thought(f"{before}<think>x</think>{after}")
    assert (thought, "".join(said.split())) == ("x", "".join((before + after).split()))


@pytest.mark.parametrize(
    ("text", "answer"),
    [("The answer is (B).", "B"), (r"So \boxed{blue}", "B"), (r"\boxed{B}", "B"), ("#### blue", "B"), ("blue", "B")],
)
def test_with_options_the_answer_is_a_letter(text: str, answer: str):
    assert read_solution(text, {"A": "red", "B": "blue"}).answer == answer


def test_an_answer_that_is_no_option_is_none():
    assert read_solution(r"So \boxed{green}", {"A": "red", "B": "blue"}).answer is None


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<<1+1=2>>2", "2"),
        ("a <<1>> b <<2>> c", "a  b  c"),
        ("1 << 2 and\n3 >> 2", "1 << 2 and\n3 >> 2"),
        ("<<a\nb>>", "<<a\nb>>"),
        ("<<<48=1>>>", ">"),
        ("<<>>", ""),
        ("a < b >> c", "a < b >> c"),
    ],
)
def test_calculator_marks_stand_on_one_line(text: str, plain: str):
    assert without_marks(text) == plain


@given(st.integers(-(10**9), 10**9), st.integers(0, 999))
def test_a_gold_number_has_one_form(whole: int, thousandths: int):
    number = f"{whole:,}.{thousandths:03d}"
    assert float(plain_number(number)) == float(number.replace(",", ""))
    assert "," not in plain_number(number)
    assert behind_hashes(f"So.\n#### {number}") == ("So.", plain_number(number))


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", r"\boxed{", "####", "<<", "<answer>", "<|begin_of_thought|>", "{"]
)
def test_a_hundred_thousand_characters_of_marks_are_read_in_no_time(piece: str):
    text = piece * (100_000 // len(piece))
    assert len(without_marks(text)) <= len(text)
    with suppress(UnusableError):
        assert read_solution(text + "</think>").answer is None


@pytest.mark.parametrize("user", ["user", "human", "Human", "prompter"])
@pytest.mark.parametrize("assistant", ["assistant", "gpt", "model", "GPT", "bot"])
@pytest.mark.parametrize(("who", "what"), [("role", "content"), ("from", "value")])
def test_roles_have_many_names(user: str, assistant: str, who: str, what: str):
    turns = turns_of([{who: user, what: "2?"}, {who: assistant, what: "2."}])
    assert turns == [Turn("user", "2?"), Turn("assistant", "2.")]


def test_messages_of_one_side_are_one_turn():
    parts = [{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 2?"}, {"type": "image", "image": "x"}]
    messages = [
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Add."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": "4.", "reasoning_content": "Two twos."},
    ]
    turns = turns_of(messages)
    assert turns is not None
    assert first_exchange(turns) == ("Add.\n\n2 + 2?", "<think>Two twos.</think>\n\n4.")


@pytest.mark.parametrize(
    "cell", ["text", None, 3, [], ["text"], [{"text": "x"}], {"role": "user"}, "[{]", '[{"a": 1}]']
)
def test_what_is_no_chat_is_none(cell: object):
    assert turns_of(cell) is None
