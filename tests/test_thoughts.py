"""What a model thought is set apart from what it says, whole, or the text is said to be unclear."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.data.characters import broken_character
from kpod.data.thoughts import part_thoughts
from kpod.recipe import AskConfig
from kpod.records import Question
from kpod.teacher.asking import Asked, explanations
from kpod.teacher.attempts import PASSING, Attempt
from kpod.teacher.replies import attempt_of
from kpod.teacher.requests import requests_for

PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<THINK>", "</THINK>"),
    ("<think >", "</think >"),
    ("<think>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<antThinking>", "</antThinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<SCRATCHPAD>", "</SCRATCHPAD>"),
    ("[THINK]", "[/THINK]"),
    ("[REASONING]", "[/REASONING]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel>thought\n", "<channel|>"),
]


def parted(written: str) -> tuple[str, str]:
    found = part_thoughts(written)
    assert found.is_clear
    assert "".join(written[start:stop] for start, stop in found.spans) == found.text
    return found.thought, found.text


@pytest.mark.parametrize(("opener", "closer"), PAIRS, ids=lambda tag: str(tag).strip())
def test_every_kind_of_tag_parts_a_thought_from_the_text(opener: str, closer: str):
    assert parted(f"{opener}4 * 5{closer}It is 20.") == ("4 * 5", "It is 20.")
    assert parted(f"\n{opener}\n4 * 5\n{closer}\n\nIt is 20.\n") == ("4 * 5", "It is 20.\n")
    assert parted(f"{opener}a{closer}5 * 4 = 2{opener}b{closer}0 jars.") == ("a\n\nb", "5 * 4 = 20 jars.")
    assert parted(f"First.\n{opener}b{closer}\nThen. {opener}c{closer} Last.") == ("b\n\nc", "First.\n\nThen. Last.")
    assert parted(f"It is 20. {opener}sure{closer}") == ("sure", "It is 20. ")
    assert parted(f"{opener}a {opener} b{closer} 20.") == (f"a {opener} b", "20.")
    assert parted(f"{opener}a{opener}b{closer}c{closer}20.") == (f"a{opener}b{closer}c", "20.")
    assert parted(f"{opener}{closer}20.") == ("", "20.")
    assert parted(f"{opener}4 * 5") == ("4 * 5", "")  # a limit left it open
    assert parted(f"4 * 5 is 20.\n{closer}\n\nIt is 20.") == ("4 * 5 is 20.", "It is 20.")  # the template opened it
    for quote in ("`{}`", '"{}"', "'{}'", "“{}”", "`a {} b`", "```\n{}\n```"):
        said = f"It is 20 (the tag {quote.format(closer)} ends a thought)."
        assert parted(said) == ("", said)
        assert parted(f"{opener}4 * 5{closer}{said}") == ("4 * 5", said)
        assert parted(f"{opener}why {quote.format(closer)} here{closer}It is 20.")[1] == "It is 20."


@pytest.mark.parametrize(("opener", "closer"), PAIRS, ids=lambda tag: str(tag).strip())
def test_tags_that_do_not_pair_up_are_told_and_nothing_is_cut(opener: str, closer: str):
    for written in (
        f"{opener}a{closer}It is{closer} 20.",
        f"It is 20. {opener}or is it",
        f"{opener}a{closer}It is 20. {opener}or is it",
        f"Note that the tag {closer} ends a thought. It is 20.",
        f"Write {opener}...{closer} first. It is 20.",
        f"{opener}the tag `{closer}` ends",
        f"a{closer}b{closer}c",
    ):
        found = part_thoughts(written)
        assert (found.thought, found.text, found.is_clear) == ("", written, False)


FRAMES = [
    (
        "<|begin_of_thought|>\n4 * 5\n<|end_of_thought|>\n\n<|begin_of_solution|>\nIt is 20.\n<|end_of_solution|>",
        "4 * 5",
        "It is 20.\n",
    ),
    ("<|START_THINKING|>4 * 5<|END_THINKING|><|START_RESPONSE|>It is 20.<|END_RESPONSE|>", "4 * 5", "It is 20."),
    ("<think>4 * 5</think>\n<answer>It is 20.</answer>", "4 * 5", "It is 20."),
    ("<think>4 * 5</think><response>\nIt is 20.</response>\n", "4 * 5", "\nIt is 20."),
    (
        "<|channel|>analysis<|message|>4 * 5<|end|><|start|>assistant<|channel|>final<|message|>It is 20.<|return|>",
        "4 * 5",
        "It is 20.",
    ),
    ("<|channel|>analysis<|message|>4 * 5<|channel|>final<|message|>It is 20.", "4 * 5", "It is 20."),
    (
        "<|start|>assistant<|channel|>analysis<|message|>4 * 5<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>wait<|end|><|start|>assistant<|channel|>final<|message|>It is 20.",
        "4 * 5\n\nwait",
        "It is 20.",
    ),
    ("<|channel|>final<|message|>It is 20.", "", "It is 20."),
    ("<|channel|>analysis<|message|>4 * 5", "4 * 5", ""),
    ("analysisWe need 4 * 5.assistantfinalIt is 20.", "We need 4 * 5.", "It is 20."),
    ("Here is my thought process:\n4 * 5\n\nHere is my response:\n\nIt is 20.", "4 * 5", "It is 20."),
    ("<thinking>a <reflection>b</reflection> c</thinking>It is 20.", "a <reflection>b</reflection> c", "It is 20."),
    ("<think>I would write </thought> here</think>It is 20.", None, None),
    ("The analysis shows that it is 20.", "", "The analysis shows that it is 20."),
    ("analysis of 4 * 5: It is 20.", "", "analysis of 4 * 5: It is 20."),
    ("a < b and x <thinker> y", "", "a < b and x <thinker> y"),
    (" It is 20.\n", "", " It is 20.\n"),
    ("", "", ""),
]


@pytest.mark.parametrize(("written", "thought", "text"), FRAMES)
def test_the_frames_of_whole_templates_are_read(written: str, thought: str | None, text: str | None):
    if thought is None:
        assert not part_thoughts(written).is_clear
    else:
        assert parted(written) == (thought, text)


UNCLEAR_CHANNELS = [
    "Sure. <|channel|>final<|message|>It is 20.",
    "<|channel|>analysis<|message|>a<|end|>It is 20.",
    "analysisWe needassistantfinalIt isassistantfinal 20.",
    "It is <|channel|> 20.",
]


@pytest.mark.parametrize("written", UNCLEAR_CHANNELS)
def test_text_outside_of_all_channels_is_unclear(written: str):
    found = part_thoughts(written)
    assert (found.text, found.is_clear) == (written, False)


WORDED = re.compile(r"\w")
TAGS = [tag for pair in PAIRS for tag in pair] + ["<|channel|>final<|message|>", "<|end|>", "`", '"', "```", "\n", " "]
TAGS += ["<|begin_of_solution|>", "analysis", "assistantfinal", "It is 20.", "a", "\ud83d", "<answer>", "</answer>"]


@given(st.lists(st.sampled_from(TAGS) | st.text(max_size=3), max_size=12).map("".join))
def test_no_text_is_lost_or_doubled(written: str):
    found = part_thoughts(written)
    assert "".join(written[start:stop] for start, stop in found.spans) == found.text
    assert all(one[1] <= other[0] for one, other in pairwise(found.spans))
    if not found.is_clear:
        assert (found.text, found.thought) == (written, "")


@given(
    st.lists(st.text("ab 12.\n", min_size=1, max_size=9).filter(WORDED.search), min_size=2, max_size=7), st.booleans()
)
def test_thought_and_text_hold_every_visible_character_but_the_tags(pieces: list[str], starts: bool):
    written = "".join(f"<think>{piece}</think>" if i % 2 == starts else piece for i, piece in enumerate(pieces))
    thought, text = parted(written)
    assert "".join(thought.split()) == "".join("".join(pieces[int(starts) :: 2]).split())
    assert "".join(text.split()) == "".join("".join(pieces[1 - int(starts) :: 2]).split())


@pytest.mark.parametrize(
    "tag", ["<think>", "</think>", "<think>a</think>b", "`</think>", "```", "<|channel|>", "<|", "[/"]
)
def test_tags_are_looked_for_in_linear_time(tag: str):
    part_thoughts(tag * (200_000 // len(tag)))
    part_thoughts("<|channel|>analysis<|message|>" + tag * (100_000 // len(tag)))


# --- what a teacher says ---


def attempt(content: str, finish: str = "stop", logprobs: object = None) -> Attempt:
    return attempt_of(
        "k", {"choices": [{"message": {"content": content}, "finish_reason": finish, "logprobs": logprobs}]}
    )


def test_an_attempt_with_an_unclear_thought_is_no_answer_and_is_kept_whole():
    written = "<think>a</think>It is</think> 20."
    found = attempt(written)
    assert (found.outcome, found.text, found.answered, found.settled) == ("unclear thought", written, False, True)
    assert Attempt.of_row(found.row()) == found
    assert attempt(written, "length").outcome == "truncated"
    assert "unclear thought" not in PASSING
    assert "empty" in PASSING


def test_log_probabilities_are_those_of_a_text_that_no_thought_interrupts():
    def of(*tokens: str) -> list[tuple[int, int]] | None:
        given_ = {"content": [{"token": token, "logprob": -1.0} for token in tokens]}
        found = attempt("".join(tokens), logprobs=given_).logprobs
        return None if found is None else [one.span for one in found]

    assert of("<think>", "a", "</think>", "It", " is") == [(0, 2), (2, 5)]
    assert of("It", " is", "<think>", "a", "</think>") == [(0, 2), (2, 5)]
    assert of("<answer>", "It") == [(0, 8), (8, 10)]
    assert of("<think>", "a", "</think>", "<answer>", "It", "</answer>") == [(0, 2)]
    assert of("It", "<think>", "a", "</think>", " is") is None
    assert of("It</think>", "a</think>") == [(0, 10), (10, 19)]


QUESTION = Question("q", "5 * 4?", "20")


def reasons(*attempts: Attempt, reasoning: str = "apart") -> list[str]:
    ask = AskConfig(model="m", samples=len(attempts), reasoning=reasoning, temperature=1.0)  # type: ignore[arg-type]
    requests = requests_for([QUESTION], ask)
    by_key = {
        request.key: Attempt(request.key, one.outcome, one.text, one.reasoning)
        for request, one in zip(requests, attempts, strict=True)
    }
    found, dropped = explanations(Asked(tuple(requests), by_key, {"q": QUESTION}), ask)
    assert all(one.rationale.text for one in found)
    return [item.reason for item in dropped]


GOOD = Attempt("k", "answered", "5 * 4 = 20.\tGood.\r\n The answer is 20.")
BROKEN = ["\ud83d", "\udc00", "\x00", "\x08", "\x0b", "\x0c", "\x1b", "\x1f", "\x7f"]


@pytest.mark.parametrize("character", BROKEN)
def test_an_answer_with_a_broken_character_is_dropped_also_out_of_the_store(character: str):
    broken = Attempt("k", "answered", f"5 * 4 {character}= 20. The answer is 20.")
    assert reasons(GOOD, broken, GOOD) == ["broken character"]
    thought = Attempt("k", "answered", "The answer is 20.", f"5 * 4 {character} = 20.")
    assert reasons(thought, reasoning="rationale") == ["broken character"]
    assert broken_character(broken.text) == f"U+{ord(character):04X}"


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))) | st.text("\t\r\n 😀é日"))
def test_what_every_file_can_hold_is_not_broken(text: str):
    assert broken_character(text) is None
