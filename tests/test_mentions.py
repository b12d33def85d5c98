"""Where a rationale first states its answer as a result."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.data.mentions import first_statement
from kpod.lm.encoding import encode
from kpod.recipe import PromptConfig
from kpod.records import Question, Rationale, TokenizedRationale
from kpod.records.errors import DataError
from tiny import tiny_llama, tiny_t5, tiny_tokens

OPTIONS = {"A": "river bank", "B": "shop", "C": "a", "D": "27", "E": "none of these"}
TOM = "Tom has 8 apples and 5 pears. He gets 5 more apples and eats 5. How many apples are left?"


def stated(text: str, answer: str, question: str = "", choices: dict[str, str] | None = None) -> str | None:
    """What stands before the first statement; None where there is none."""
    at = first_statement(text, answer, choices, question)
    return None if at is None else text[:at]


@pytest.mark.parametrize(
    ("text", "answer", "before"),
    [
        ("3 + 4 = 7, so 7 apples.", "7", "3 + 4 = "),
        ("The total is $1,200.00!", "1200", "The total is "),
        ("The total is 1{,}200 cm", "1200", "The total is "),
        ("The total is 1 200 cm", "1,200", "The total is "),
        ("It is **12** eggs", "12", "It is **"),
        ("So twelve eggs, 12", "12", "So "),
        ("Twelve eggs, 12", "12", ""),
        ("a dozen eggs", "12", ""),
        ("She has 3 dozen eggs", "36", "She has "),
        ("She has two and a half cups", "2.5", "She has "),
        ("She has 2 1/2 cups", "2.5", "She has "),
        ("It is twenty-five or 25", "25", "It is "),
        ("It is one hundred and five", "105", "It is "),
        ("It is one of 105", "1", "It is "),
        ("17 is not 7 here", "7", "17 is not "),
        ("17 and 71 are not it", "7", None),
        ("0.7, 7.5 and 1,007 are not it", "7", None),
        ("7 million or 7 1/2 are not it", "7", None),
        ("at 9:45 it rang", "45", None),
        ("half of it: 1/2 or 0.5 litres", "0.5", ""),
        ("It is 50% of it", "50", "It is "),
        ("It is 50 % of it", "0.5", "It is "),
        ("It costs 75 cents", "0.75", "It costs "),
        ("It costs 5 dollars and 50 cents", "5.5", "It costs "),
        ("it is -5 degrees", "5", None),
        ("it is -5 degrees", "-5", "it is "),
        ("10/2 = 5", "5", "10/2 = "),
        ("10/2 = 5", "10", ""),
        ("2. Add them.\nStep 2: 1 + 1 = 2", "2", "2. Add them.\nStep 2: 1 + 1 = "),
        ("None are left", "0", ""),
        ("So there are no more apples left", "0", "So there are "),
        ("7 comes first", "7", ""),
        ("So yes, it floats: YES.", "yes", "So "),
        ("So it is true.", "yes", "So it is "),
        ("Well, no one swims.", "no", "Well, "),
        ("nobody knows yesterday", "no", None),
        ("yesterday", "yes", None),
        ("He lives in New\nYork now", "new york", "He lives in "),
        ("所以答案是18个。", "18", "所以答案是"),
        ("答案是银行。", "银行", "答案是"),
        ("答案是１８个。", "18", "答案是"),
    ],
)
def test_answers_are_found_by_what_they_mean(text: str, answer: str, before: str | None) -> None:
    assert stated(text, answer) == before


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("Tom had 8 apples, 8 + 5 = 13, 13 - 5 = 8 apples.", "Tom had 8 apples, 8 + 5 = 13, 13 - 5 = "),
        ("8 apples plus 5 apples = 13 apples - 5 = 8.", "8 apples plus 5 apples = 13 apples - 5 = "),
        ("He has 8. 13 minus 5 is 8.", "He has 8. 13 minus 5 is "),
        ("He has 8. Taking 5 from 13 gives us 8 apples.", "He has 8. Taking 5 from 13 gives us "),
        ("He has 8. Eating 5 of 13 leaves Tom with eight.", "He has 8. Eating 5 of 13 leaves Tom with "),
        ("Of 8 and 5 he eats 5. So Tom keeps 8 apples. Fine.", "Of 8 and 5 he eats 5. So Tom keeps "),
        ("He has 8 and then 13.\nLeft = 13 - 5\nLeft = 8", "He has 8 and then 13.\nLeft = 13 - 5\nLeft = "),
        ("He has 8 and then 13.\n13 - 5\n= 8", "He has 8 and then 13.\n13 - 5\n= "),
        ("8 were there. 5 + x = 13. x = 8.", "8 were there. 5 + x = 13. x = "),
        ("Apples = 8. Pears = 5. 8 + 5 - 5 = $8.", "Apples = 8. Pears = 5. 8 + 5 - 5 = "),
        ("He keeps 8 apples, because 13 - 5 = 8.", "He keeps "),
        ("He had 8. He keeps 8 apples (8 + 5 - 5 = 8).", "He had 8. He keeps "),
        ("He had 8 apples. He got 5 and ate 5. He has 8 apples.", "He had 8 apples. He got 5 and ate 5. He has "),
        ("Since he has 8, he has 8 + 5 = 13. 13 - 5 = 8.", "Since he has 8, he has 8 + 5 = 13. 13 - 5 = "),
        ("So, since he has 8 apples, 8 + 5 - 5 = 8.", "So, since he has 8 apples, 8 + 5 - 5 = "),
        ("So 8 apples need 8 * 5 = 40. 40 / 5 = 8.", "So 8 apples need 8 * 5 = 40. 40 / 5 = "),
        ("He has 8 apples and then eats 8 * 5 pears.", "He has 8 apples and then eats "),
        ("Eight apples. The answer is eight.", "Eight apples. The answer is "),
        ("He has 8 x 5 = 40 and 40 ÷ 5 = **8**.", "He has 8 x 5 = 40 and 40 ÷ 5 = **"),
        ("13 is all. There are 8 apples left of 13.", "13 is all. There are "),
        ("He eats 5.", None),
    ],
)
def test_a_number_of_the_question_counts_where_it_is_a_result(text: str, before: str | None) -> None:
    assert stated(text, "8", TOM) == before


def test_words_that_stand_beside_the_number_in_the_question_are_no_sign_of_a_result() -> None:
    """The question says "8 left" itself."""
    question = "Tom had 16 apples, ate some and has 8 left. How many did he eat?"
    text = "Tom has 8 left. He ate 16 - 8 = 8 apples."
    assert stated(text, "8", question) == "Tom has 8 left. He ate 16 - 8 = "
    assert stated(text, "8", "Tom had 8 pears") == "Tom has "


@pytest.mark.parametrize(
    ("text", "answer", "before"),
    [
        ("Fish swim near a river bank. Option (A).", "A", "Fish swim near a "),
        ("A Fish is wet. It is option A.", "A", "A Fish is wet. It is option "),
        ("Fish are wet (a).", "A", "Fish are wet ("),
        ("One buys at (B), which is right.", "B", "One buys at ("),
        ("One buys there. B.", "B", "One buys there. "),
        ("One buys there: answer is B", "B", "One buys there: answer is "),
        ("Being a bee is nice", "B", None),
        ("A swim takes all day.", "A", None),
        (
            "It is river bank, shop, 27 or none of these. Shop fits.",
            "B",
            "It is river bank, shop, 27 or none of these. ",
        ),
        ("(A) river bank (B) shop (D) 27. So (B).", "B", "(A) river bank (B) shop (D) 27. So ("),
        ("A) river bank\nB) shop\nD) 27\nOne shops: shop", "B", "A) river bank\nB) shop\nD) 27\nOne shops: "),
        ("A shop or river bank", "B", "A "),
        ("Not (A), (C), (D) or (E). A shop is it.", "B", "Not (A), (C), (D) or (E). A "),
        ("3 * 9 = 27", "D", "3 * 9 = "),
        ("3 * 9 = twenty-seven", "D", "3 * 9 = "),
    ],
)
def test_options_are_found_by_text_number_or_letter_unless_listed(text: str, answer: str, before: str | None) -> None:
    assert stated(text, answer, "", OPTIONS) == before


def test_a_letter_that_names_something_in_the_question_is_not_an_option() -> None:
    choices = {"A": "4", "B": "6", "C": "9"}
    text = "B needs 3 days and A 1, so 3 * 2 = 6, option B."
    assert stated(text, "B", "A and B work. How long does it take B?", choices) == "B needs 3 days and A 1, so 3 * 2 = "
    assert stated(text, "B", "How long does it take?", choices) == ""


@given(st.text(max_size=60), st.text(min_size=1, max_size=5).filter(str.strip), st.text(max_size=20))
def test_any_text_has_its_statement_within_or_none(text: str, answer: str, question: str) -> None:
    at = first_statement(text, answer, None, question)
    assert at is None or 0 <= at < len(text)


PIECES = "Tom has 5 or three apples ; 13 - 5 + 31 , so he eats pears of 1.8 and 80 = therefore"
WORDS = st.lists(st.sampled_from(PIECES.split())).map(" ".join)


@given(WORDS, st.sampled_from(["8", "$8", "eight", "8.00"]), WORDS)
def test_nothing_is_stated_before_the_value_stands(before: str, said: str, after: str) -> None:
    text = f"{before} ; {said} . {after}"
    assert first_statement(text, "8") == len(before) + 3
    at = first_statement(text, "8", None, TOM)
    assert at == len(before) + 3


@given(WORDS, WORDS)
def test_a_text_that_goes_on_states_nothing_earlier(text: str, more: str) -> None:
    at = first_statement(f"{text} .", "5")
    longer = first_statement(f"{text} . {more}", "5")
    assert longer == at if at is not None else longer is None or longer >= len(text) + 2


@pytest.mark.parametrize("piece", ["8 8 ", "8/8/", "= 8 8", "1 000", "A. B", "so 8", "(8 =", "a, b", "no x"])
@pytest.mark.parametrize(("answer", "choices"), [("8", None), ("0.5", None), ("A", {"A": "a", "B": "8"})])
def test_four_times_the_text_takes_not_much_more_than_four_times_as_long(
    piece: str, answer: str, choices: dict[str, str] | None
) -> None:
    """Quadratic steps would take 16 times as long; the least of three times is hardly touched by other work."""

    def seconds(num: int) -> float:
        text, times = piece * num, []
        for _ in range(3):
            start = time.thread_time()
            first_statement(text, answer, choices, "He has 8 and half and A.")
            times.append(time.thread_time() - start)
        return min(times)

    assert seconds(200) < 10 * seconds(50) + 0.01


@pytest.mark.parametrize("lm", [tiny_llama(), tiny_t5()], ids=["causal", "encoder-decoder"])
@pytest.mark.parametrize(
    ("text", "before"),
    [("Now 3 + 4 = 7. It is 7.", "Now 3 + 4 ="), ("So $ 7.", "So"), ("7 it is.", None), ("It is 8", None)],
)
def test_no_token_of_the_prefix_holds_a_character_of_the_answer(lm: object, text: str, before: str | None) -> None:
    """One token per byte; the causal target opens with a space."""
    rationale = Rationale("q", Question("q", "What?", "7"), text)
    tokens = encode(lm, rationale, [(0, len(text))], PromptConfig(), 512)  # type: ignore[arg-type]
    assert isinstance(tokens, TokenizedRationale)
    if before is None:
        assert tokens.before_answer is None
    else:
        assert tokens.before_answer is not None
        stop = tokens.char_spans[tokens.before_answer - 1][1]
        assert text[:stop].rstrip() == before
        assert tokens.char_spans[tokens.before_answer][0] == stop


@pytest.mark.parametrize("before_answer", [0, 7, -1])
def test_an_answer_that_stands_outside_the_rationale_is_refused(before_answer: int) -> None:
    with pytest.raises(DataError, match=rf"'q': the answer cannot stand behind {before_answer} of 7 tokens"):
        replace(tiny_tokens(tiny_llama(), steps=(7,)), id="q", before_answer=before_answer)
