"""Where a rationale states its answer for the last time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.config import PromptConfig
from kpod.data.mentions import last_mention
from kpod.errors import DataError
from kpod.lm.encoding import encode
from kpod.records import Question, Rationale, TokenizedRationale
from tiny import tiny_llama, tiny_t5

OPTIONS = {"A": "river bank", "B": "shop", "C": "a"}


@pytest.mark.parametrize(
    ("text", "answer", "before"),
    [
        ("3 + 4 = 7, so 7 apples.", "7", "3 + 4 = 7, so "),
        ("The total is $1,200.00!", "1200", "The total is "),
        ("17 is not 7 here", "7", "17 is not "),
        ("17 and 71 are not it", "7", None),
        ("half of it: 1/2 or 0.5 litres", "0.5", "half of it: 1/2 or "),
        ("it is -5 degrees", "5", None),
        ("7 comes first", "7", ""),
        ("So yes, it floats: YES.", "yes", "So yes, it floats: "),
        ("yesterday", "yes", None),
        ("He lives in New York now", "new york", "He lives in "),
    ],
)
def test_answers_are_found_by_what_they_mean(text: str, answer: str, before: str | None) -> None:
    at = last_mention(text, answer)
    assert (None if at is None else text[:at]) == before


@pytest.mark.parametrize(
    ("text", "answer", "before"),
    [
        ("Fish swim near a river bank. Option (A).", "A", "Fish swim near a "),
        ("One buys at (B), which is right.", "B", "One buys at ("),
        ("Being a bee is nice", "B", None),
    ],
)
def test_options_are_found_by_text_else_by_letter(text: str, answer: str, before: str | None) -> None:
    at = last_mention(text, answer, OPTIONS)
    assert (None if at is None else text[:at]) == before


@given(st.text(max_size=60), st.text(min_size=1, max_size=5).filter(str.strip))
def test_any_text_has_its_mention_within_or_none(text: str, answer: str) -> None:
    at = last_mention(text, answer)
    assert at is None or 0 <= at < len(text)


@pytest.mark.parametrize("lm", [tiny_llama(), tiny_t5()], ids=["causal", "encoder-decoder"])
def test_tokens_know_where_the_answer_is_stated(lm: object) -> None:
    """One token per byte; the causal target opens with a space."""
    text = "Now 3 + 4 = 7."
    rationale = Rationale("q", Question("q", "What?", "7"), text)
    tokens = encode(lm, rationale, [(0, len(text))], PromptConfig(), 512)  # type: ignore[arg-type]
    assert isinstance(tokens, TokenizedRationale)
    assert tokens.answer_at is not None
    assert text[: tokens.char_spans[tokens.answer_at][0]] == "Now 3 + 4 = "


@pytest.mark.parametrize("answer_at", [0, 7, -1])
def test_an_answer_that_stands_outside_the_rationale_is_refused(answer_at: int) -> None:
    with pytest.raises(DataError, match="'q': the answer cannot stand at token"):
        TokenizedRationale("q", (1,) * 10, (1, 8, 8, 9, 10), (7,), tuple((n, n + 1) for n in range(7)), answer_at)
