import json
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.records.errors import DataError
from kpod.records.spans import check_spans_tile
from kpod.steps import split_steps, step_stops_of
from kpod.steps.merging import merge_shortest

RULES = ("sentence", "line", "period")
PUNCTUATION = "ab A1 25.,:;!?…\"'()[]{}<>*_-=+/$%#\\`\n\r\t\u00a0\u2028\u200b\ufeff😀"
BITS = ["Mr.", "1.", "(a)", "Step", "2:", "a.m.", "e.g.", "=", "+", "$3.50", "$$", "\\[", "\\]", "```", "\n", "x"]
BITS += ["Bob", "...", ".5", "<A>", "U.S.", "So,", "ft.", "'", '"', ")", "-", "", ". A", "1.2. It"]
TEXTS = st.one_of(
    st.text(min_size=1, max_size=60),
    st.text(PUNCTUATION, min_size=1, max_size=60),
    st.lists(st.sampled_from(BITS), min_size=1, max_size=25).map(" ".join),
    st.lists(st.sampled_from(BITS), min_size=1, max_size=25).map("".join),
).filter(lambda text: bool(text.strip()))

# Written for these tests, after the hard cases of real teachers. The text is all pieces joined; a piece is a step.
CASES: dict[str, list[str]] = {
    "amounts below a dollar": [
        "Six pins cost 6 * $.75 = $4.50.",
        " Nine tags cost 9 * $.20 = $1.80.",
        "  In all that is $4.50 + $1.80 = $6.30.",
    ],
    "an amount ends a line, and the sum is cut off": [
        "The first ride costs $2.25.",
        " \n\nEach later ride costs $0.15 more, so the next is $2.40.",
        " \n\nNow we add them:",
        " \n\n2.25 +",
    ],
    "thousands": [
        "A mill makes 1200 * 6 = 7,200 mats.",
        " At $35 each that is 7,200 * 35 = $252,000.00 a week.",
        " So it earns $252,000.",
    ],
    "an ellipsis in a series": [
        "The pattern is 2, 4, 6, ..., and the ninth term is 18.",
        " The sum is 9 * 10 = 90.",
    ],
    "an ellipsis breaks off": ["You would hang a lantern so as to...", "\n\nA dark porch!"],
    "a hesitation goes on": ["Well... maybe 7 is too few, she says.", " It must be 8."],
    "for example": ["Dice games use several colours (e.g., blue and white).", " Chess does not."],
    "that is, and a stray dollar": [
        "You can rent 3 boats i.e. $(96/32) = 3 boats, in all.",
        " That leaves $0, vs. $5 before.",
    ],
    "a tag before the text, and so on at its end": [
        "<Solution Plan> The letter 'Q' pairs with 'U' in words like 'quit,' 'quiz,' etc.",
        " The wheel gives 'U' for free.",
    ],
    "titles": [
        "Mr. Ochoa planted 12 limes.",
        " \nMrs. Ochoa planted 9 more than Mr. Ochoa.",
        " \n\nSo Dr. Wu and Mrs. Ochoa planted 33.",
    ],
    "hours of the day": [
        "She lands at 11:00 p.m. ET on Friday because 7:00 p.m + 4 hours = 11:00 p.m.",
        "  Then she sleeps until 6:30 a.m. at home, or 7:00 a.m. Sunday.",
    ],
    "an hour ends a sentence under a heading": [
        "Step 1: Omar opens at 9:00 a.m. and closes at 1:00 p.m.",
        " This is 4 hours.",
        "\n\nStep 2: He adds 2 hours until 15:00, which is 3:00 p.m.",
        " So he works 6 hours.",
    ],
    "a country": ["Spain sent a crew to the U.S. Open.", " Only Peru and the U.S. sent a team.", " They won."],
    "units": [
        "The goat grazes 15 sq.ft. per hour.",
        " \n\nIt needs 4 hrs. and 20 min. to finish.",
        " The rope is 6 ft. 3 in. long.",
    ],
    "initials without a space": ["The bridge, drawn by B.R. Ahn, is made of oak.", " It is old."],
    "initials with a space": [
        "The prize went to Maria C. Duarte, who lived in Porto.",
        " J. P. Ruiz came second.",
        " Both of them wrote.",
    ],
    "rupees": [
        "The loan is Rs.480.",
        " \n\nHe pays Rs.42.50 a month, or Rs. 510 a year.",
        " \n\nThe interest is Rs. 30.",
    ],
    "equations that look like bullets": [
        "We solve this:",
        " \n\n250 = 10 * 25.50",
        " \n- 250 = -10 * 25.50",
        " \n250/10 = 25.50",
        " \n25 = 25.50",
    ],
    "a code fence": [
        "Ada had 84 stamps.",
        " Below is the sum:",
        "\n\n```\n  8 4   <- start. Then\n- 2 9   <- take\n\n-----\n  5 5\n```",
        "\n\nSo Ada has 55.",
    ],
    "bullets under a step": [
        "Step 1: Add up what Tim sold.",
        "\n- He sold 3 pies for $4 each, so 3 * 4 = $12.",
        "\n- He sold 2 cakes, so $12 + $10 = $22.",
    ],
    "headings and a numbered plan": [
        "Known:\nPay = $500",
        "\nRaise = 20%",
        "\n\nPlan:\n1. Find the pay after a year.",
        "\n2. Find the pay after two.",
        "\n\nResult:\nThe pay is $500 x (1.2)^2 = $720.00.",
    ],
    "list numbers alone on a line": ["1.\nAda reads 5 pages.", "\n2.\nBo reads 7 pages."],
    "a connective alone on a line": ["Pens = 8 + 4", "\n\nTherefore,\n\nPens = 12"],
    "a list that lost its line breaks": [
        "We go through it in detail:",
        "1. First, Lia has 24 caps in her bag.",
        "2. She lost 21 old caps.",
        "3. We subtract what she lost from what she has:    24 - 21 = 3.",
        "4. Therefore, Lia has 3 caps.",
    ],
    "decimals in a list that kept its spaces": [
        "1. Each pen costs 2.1 dollars.",
        " 2. Two pens cost 2.1 * 2 = 4.2.",
        " That is 2.1 more.",
        " 3. Three cost 6.3.",
    ],
    "a bold list in running text": [
        "1. **Ann's figs:** Ann has 4 more figs than Ben, who has 9.",
        " So Ann has 9 + 4 = 13 figs.",
        " 2. **Cy's figs:** Cy has 5 figs.",
        " Therefore, Ann has 13 - 5 = 8 more.",
    ],
    "inline and display maths": [
        "Step 1: Say Kim has \\( y \\) beads.",
        "\nStep 2: She keeps \\( 0.3y. Next \\) of them.",
        "\nStep 3: So we write:",
        "\n\\[\n0.3y = 30. Thus\ny = 100\n\\]",
        "\nStep 4: Solve for \\( y \\).",
    ],
    "display maths inside a sentence": [
        "Solution:\nLet $z=a+bi$.",
        "  Then \\[3(a+b)-2a=-4.\\]",
        "Expanding gives \\[3a+3b-2a=-4,\\]or \\[b=-2.5,\\quad\\text{and}\\quad a=3.5.\\]",
        "Solving gives $a=1$.",
        "  So $z=\\boxed{1-2i}$.",
    ],
    "maths between double dollars": [
        "First we divide:",
        " \n\n$$\\frac{30 - 6}{4} = 6. Or\n= \\frac{24}{4}$$",
        "\n\nNext we round:",
        " \n\n$$\\frac{6}{8} \\approx 0.7500000000001$$",
    ],
    "maths cut off, and dollars that are money": [
        "Ed saves $y per day, later $3y.",
        " \nSo we set up:",
        " \n$\\frac{1}{3} \\cdot 12 \\cdot y = 60$",
        "\n$7.5y = 60$",
        "\n$y = \\",
    ],
    "an unknown as a question mark": ["7 + 5 - 9 = ?", "\n\n7 + 5 - 9 = 3", "\n\nThis means that 3 birds left-"],
    "assignments without a full stop": [
        "pens = 40; box_1 = 15; box_2 = ?",
        "  box_2 = pens - box_1   40 - 15 = box_2 box_2 = 25",
    ],
    "emoji": [
        "Sold pies = 52   👉 As said, she sold 52 pies.",
        "\nMade pies = 60   👉 She made 60.",
        "\nSo 8 are left. 🎉",
    ],
    "accents": ["Zoë needs 4 * 2 = 8 eggs for the crêpes.", "  For the soufflé she needs 6."],
    "raised units": ["Ice has about 0.92 g/cm³, less than water; it floats.", " Lead has 11.3 g/cm³."],
    "glued labels": ["Monday: 3 trips", "Tuesday: 3 * 4 = 12 trips", "Total: 3 + 12 = 15 trips"],
    "glued days": ["Day 1: 2 fish", "Day 2: 2 * 3 = 6 fish", "Day 3: 6 * 3 = 18 fish.", "  On Day 4: none"],
    "glued sentences": [
        "Ivo saves $40 a month.",
        "Ada saves twice that (so $80).",
        "Together it is $120.",
        "So they can buy it.",
    ],
    "glued results": ["We add 12 + 18 = 30", "Now we halve it: 30 / 2 = 15", "The rest is 15."],
    "tags as separators": [
        "<Step 1> All birds - hidden birds = birds in sight",
        "<Step 2> 80 - 35 = 45<Final Answer>",
    ],
    "a retraction in brackets": [
        "The sum is 90 + 45 = 135.",
        " The answer is 135 ( no, that's off... )",
        " Oh, I added wrongly.",
    ],
    "equations that go on in the next line": [
        "Now we take the size of -9 - (-4) = \n|-9 - (-4)| = |-9 + 4| = 5",
        "\n\nPies: 40 + 2\n= 42",
        "\n=> x = 42",
    ],
    "exclamations and blank lines": ["The start is 30.", " \n\nAdd half of it.", " \n\n\nGood luck!"],
    "a change of mind": ["It is prime, so the answer is True.", " Wait, no!", " It is 51, which is 3 * 17."],
    "a quotation of two sentences": [
        'It says "The cat ran 3 miles. The cat ran 2 miles more than the cat."',
        ' It may mean "The dog..."',
        "\nAssume that.",
    ],
    "options in brackets": [
        "That rules out (A) and (D).",
        " Only (B) is left.",
        " So it is either (b) bank or (c) shop.",
    ],
    "unknowns": ["Let Ed's age be 'x'.", " Ann's is y.", " Then x + y = 36.", " y is 2x.", " So x = 12."],
    "products of brackets": ["Eve runs 6 * (30 / 60) = 3 miles.", " Then she runs 6 * (20 / 60) = 2 miles.", " So 5."],
    "factorials and ratios": [
        "There are 5! = 120 ways, and 3! * 2 = 12.",
        " The ratio is 2:1.",
        " So 12 is two thirds.",
    ],
    "steps separated by commas": [
        "40 degrees - 10 degrees = 30 degrees,  30 / 3 = 10 times, 10 times * 5% = 50% chance.",
        " 100% - 50% = 50%.",
        " 60% * 50% = 30% chance.",
    ],
    "odd whitespace": ["There are 9-7=2 more red\u00a0figs.", "\u2028So 2.", "\r\nDone here.", "\rYes.\u200b"],
    "one step": ["There is nothing to cut here"],
}


def steps(text: str, rule: str = "sentence") -> list[str]:
    return [text[start:stop] for start, stop in split_steps(text, rule)]


@pytest.mark.parametrize("case", CASES)
def test_a_hard_text_is_cut_where_a_reader_would_cut_it(case: str):
    assert steps("".join(CASES[case])) == CASES[case]


def test_lines_are_steps_under_the_rule_line():
    assert steps("3 + 4 = 7. So 7.\n\n \u2028So\r\nit is 7.", "line") == [
        "3 + 4 = 7. So 7.",
        "\n\n \u2028So",
        "\r\nit is 7.",
    ]


def test_the_papers_rule_cuts_at_every_full_stop():
    assert steps("It is $3.50. Mr. Li pays... 7", "period") == ["It is $3.", "50.", " Mr.", " Li pays...", " 7"]
    assert steps("...a . b", "period") == ["...a .", " b"]
    assert steps("...", "period") == ["..."]


def test_whitespace_goes_with_the_following_step_and_at_the_end_with_the_last():
    assert steps(" One. \n\n Two.\n") == [" One.", " \n\n Two.\n"]


def test_a_callers_rule_is_checked_and_its_trailing_whitespace_moved():
    assert split_steps("ab; cd", lambda _: [(0, 4), (4, 6)]) == [(0, 3), (3, 6)]
    for spans in ([], [(0, 3)], [(0, 3), (4, 6)], [(0, 4), (3, 6)], [(0, 6), (6, 6)]):
        with pytest.raises(DataError, match="do not tile"):
            split_steps("ab; cd", lambda _, spans=spans: spans)
    with pytest.raises(DataError, match="blank"):
        split_steps("ab; cd", lambda _: [(0, 3), (3, 4), (4, 6)])


@pytest.mark.parametrize("blank", ["", " ", "\n\u2028\u00a0"])
def test_a_blank_text_has_no_steps(blank: str):
    with pytest.raises(DataError, match="blank rationale"):
        split_steps(blank)


@given(TEXTS, st.sampled_from(RULES))
def test_steps_tile_the_text_and_none_is_blank(text: str, rule: str):
    spans = split_steps(text, rule)
    check_spans_tile(spans, len(text), "steps")
    assert "".join(text[start:stop] for start, stop in spans) == text
    assert all(text[start:stop].strip() for start, stop in spans)
    assert all(not text[stop - 1].isspace() for _, stop in spans[:-1])


@given(TEXTS, st.integers(0, 10**9), st.sampled_from("$€"))
def test_an_amount_is_never_cut(text: str, cents: int, currency: str):
    amount = f"{currency}{cents / 100:,.2f}"
    start = len(text) + 1
    cuts = {stop for _, stop in split_steps(f"{text} {amount} {text}")}
    assert not cuts & set(range(start + 1, start + len(amount)))


@given(TEXTS, st.characters(min_codepoint=128), TEXTS)
def test_no_character_of_several_bytes_stops_the_splitter(before: str, character: str, after: str):
    assert split_steps(f"{before}A{character}. {after}")


@pytest.mark.parametrize("space", "\x85\xa0\u1680\u2003\u2028\u202f\u3000")
def test_a_wide_space_before_a_full_stop_is_read_as_a_space(space: str):
    text = f"Point A{space}. It lies 3 m to the left."
    spans = split_steps(text)
    assert "".join(text[start:stop] for start, stop in spans) == text


@given(st.lists(st.sampled_from(["Add 3.", "x = 2.5", "It is 7!", "Mr. Li", "e.g. 4"]), min_size=1, max_size=9))
def test_every_line_break_ends_a_step_unless_an_equation_goes_on(lines: list[str]):
    text = "\n".join(lines)
    breaks = {match.start() for match in re.finditer("\n", text)}
    assert breaks <= {stop for _, stop in split_steps(text)}


@pytest.mark.parametrize(
    "unit",
    ["7", ".", "'", "`", "“", "\n", " ", "(", "= ", "\\[", "$$", "..[1 ", "111 ", "=\n", "1. ", "(a)", "Step 1: "],
)
def test_a_long_adversarial_text_is_split_in_one_go(unit: str):
    size = 100_000 if len(unit) == 1 else 10_000
    text = "x" + unit * (size // len(unit)) + "y"
    for rule in RULES:
        assert "".join(steps(text, rule)) == text


def test_a_token_belongs_to_the_step_of_its_first_character():
    spans = split_steps("One.\n\n Two is 2. So what")
    tokens = ["One", ".\n\n", " Two", " is", " 2", ".", " So", " what"]
    edges = [sum(map(len, tokens[:i])) for i in range(len(tokens) + 1)]
    assert spans == [(0, 4), (4, 16), (16, 24)]
    assert step_stops_of(spans, list(pairwise(edges))) == (2, 6, 8)


def test_byte_tokens_of_one_character_stay_together_and_a_step_without_a_token_is_merged():
    assert step_stops_of([(0, 1), (1, 3)], [(0, 1), (0, 1), (0, 1), (1, 3)]) == (3, 4)
    assert step_stops_of([(0, 2), (2, 3), (3, 6)], [(0, 1), (1, 4), (4, 6)]) == (2, 3)
    assert step_stops_of([(0, 2), (2, 3)], [(0, 3)]) == (1,)


def test_tokens_that_do_not_rise_or_leave_the_text_are_refused():
    tokens: list[tuple[int, int]]
    for tokens in ([], [(1, 2), (0, 1)], [(0, 4)], [(2, 1)]):
        with pytest.raises(DataError, match="tokens must be given and rise"):
            step_stops_of([(0, 1), (1, 3)], tokens)
    with pytest.raises(DataError, match="do not tile"):
        step_stops_of([(0, 1), (2, 3)], [(0, 3)])
    with pytest.raises(DataError):
        step_stops_of([], [(0, 0)])


@given(TEXTS, st.data())
def test_every_token_is_in_exactly_one_step(text: str, data: st.DataObject):
    cuts = data.draw(st.sets(st.integers(0, len(text)), max_size=20))
    copies = data.draw(st.integers(1, 3))
    tokens = [span for span in pairwise(sorted({0, len(text)} | cuts)) for _ in range(copies)]
    spans = split_steps(text)
    stops = step_stops_of(spans, tokens)
    owner = [next(k for k, (start, stop) in enumerate(spans) if start <= token < stop) for token, _ in tokens]
    assert [i for i in range(1, len(owner)) if owner[i] != owner[i - 1]] == list(stops[:-1])
    assert stops[-1] == len(tokens)
    assert all(a < b for a, b in pairwise((0, *stops)))


@pytest.mark.skipif("KPOD_DATA" not in os.environ, reason="KPOD_DATA names no folder of real rationales")
def test_no_number_of_a_real_rationale_is_cut():
    for path in sorted(Path(os.environ["KPOD_DATA"]).glob("*/validation*.jsonl")):
        for record in filter(None, path.read_bytes().split(b"\n")):
            text = json.loads(record)["rationale"]
            for start, stop in split_steps(text) if text.strip() else ():
                assert not (re.search(r"\d[.,]\Z", text[start:stop]) and text[stop : stop + 1].isdigit()), text


# --- at most so many steps ---


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 12))
def test_merged_steps_tile_the_text_and_end_where_steps_ended(lengths, most):
    stops = np.cumsum(lengths).tolist()
    steps = list(pairwise([0, *stops]))
    merged = merge_shortest(steps, most)
    assert len(merged) == min(most, len(steps))
    check_spans_tile(merged, stops[-1], "merged")
    assert {stop for _, stop in merged} <= set(stops)


def merged_one_by_one(steps, max_steps):
    """The definition, in quadratic time."""
    merged = list(steps)
    while len(merged) > max_steps:
        first = min(range(len(merged) - 1), key=lambda left: merged[left + 1][1] - merged[left][0])
        merged[first : first + 2] = [(merged[first][0], merged[first + 1][1])]
    return merged


@given(st.lists(st.integers(1, 5) | st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 70))
def test_the_heap_merges_what_the_definition_merges(lengths, most):
    stops = np.cumsum(lengths).tolist()
    steps = list(pairwise([0, *stops]))
    assert merge_shortest(steps, most) == merged_one_by_one(steps, most)


def test_very_many_steps_are_merged_in_a_moment():
    steps = [(start, start + 1) for start in range(30_000)]  # went over all steps at every join: minutes
    assert len(merge_shortest(steps, 7)) == 7


def test_the_shortest_neighbours_are_merged_first():
    steps = [(0, 10), (10, 12), (12, 20), (20, 23), (23, 26)]
    assert merge_shortest(steps, 4) == [(0, 10), (10, 12), (12, 20), (20, 26)]
    assert merge_shortest(steps, 3) == [(0, 10), (10, 20), (20, 26)]
    assert merge_shortest(steps, None) == steps
