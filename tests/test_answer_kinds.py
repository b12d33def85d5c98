"""Answers by kind: forms of writing a number, an option, a formula, a statement, each with many values.

The fault behind most wrong readings is a readable-looking value that is another value: whatever touches a number makes
the reading that whole expression, or its words.
"""

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kpod.data.answers import are_close, extract_answer, normalise_answer, same_answer
from kpod.data.numbers import plain_digits, whole_number
from kpod.data.statements import LANGUAGES
from kpod.evaluation.accuracy import judge
from kpod.records import Question
from tiers import tiered

PLACES = {"A": "bank", "B": "library", "C": "store", "D": "mall"}
WHOLE = st.integers(2, 999)
POSITIVE = st.one_of(st.integers(1, 10**7), st.decimals("0.01", "9999.99", places=2)).map(Fraction)


def read(statement: str) -> str | None:
    return extract_answer(f"They have 41 of these. The answer is {statement}.")


@given(
    POSITIVE,
    st.sampled_from(
        ["negative {}", "minus {}", "-{}", "- {}", "\u2212{}", "\u2212 {}", "-${}", "$-{}", "negative ${}"]
    ),
)
def test_signs(value: Fraction, form: str):
    assert read(form.format(plain_digits(value))) == plain_digits(-value)


SCALES = {
    "hundred": 2,
    "thousand": 3,
    "million": 6,
    "billion": 9,
    "hundred thousand": 5,
    "lakh": 5,
    "crore": 7,
    "万": 4,
    "тысяч": 3,
    "Millionen": 6,
    "K": 3,
}


@given(
    st.decimals("0.1", "99.9", places=1), st.sampled_from(sorted(SCALES)), st.sampled_from(["{}", "${}", "{} people"])
)
def test_scales(value: object, scale: str, form: str):
    written = f"{value}{'' if scale == 'K' else ' '}{scale}"
    assert read(form.format(written)) == plain_digits(Fraction(str(value)) * 10 ** SCALES[scale])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2.5k", "2500"),
        ("$7k", "7000"),
        ("1.2bn", "1200000000"),
        ("5 dozen eggs", "60"),
        ("half a dozen", "6"),
        ("two dozen", "24"),
        ("5 hundredths", "0.05"),
        ("3 fifths", "0.6"),
        ("twenty-five", "25"),
        ("one hundred and five", "105"),
        ("two thousand three hundred", "2300"),
        ("minus twelve", "-12"),
        ("a million", "1000000"),
        ("2 and a half", "2.5"),
        ("5 and 3/4", "5.75"),
        ("1\u20442", "0.5"),
        ("5 dollars and 50 cents", "5.5"),
        ("$5 and 50 cents", "5.5"),
        ("3 pounds 20 pence", "3.2"),
        ("7:00 pm", "7"),
    ],
)
def test_other_ways_to_write_a_value(written: str, value: str):
    answer = read(written)
    assert same_answer(answer, value), answer


def grouped(number: int, mark: str) -> str:
    return f"{number:,}".replace(",", mark)


def indian(number: int) -> str:
    head, tail = str(number)[:-3], str(number)[-3:]
    pairs = [head[max(0, stop - 2) : stop] for stop in range(len(head), 0, -2)][::-1]
    return ",".join([*pairs, tail])


@given(st.integers(1000, 10**9), st.integers(1, 99))
def test_separators_of_other_locales(number: int, cents: int):
    value, whole = f"{number}.{cents:02}", str(number)
    for written in (
        f"{grouped(number, ',')}.{cents:02}",
        f"{grouped(number, '.')},{cents:02}",
        f"{grouped(number, chr(39))}.{cents:02}",
    ):
        assert same_answer(read(f"{written} €"), value), written
    for mark in (",", "'", "\u2019", "\u00a0", "\u202f", "_"):
        assert read(grouped(number, mark)) == whole
    if number >= 10**6:
        assert read(grouped(number, ".")) == whole
    assert read(f"{indian(number)} rupees") == whole


@given(st.integers(0, 999), st.sampled_from(["1", "25", "75", "1234"]))
def test_a_decimal_comma(whole: int, decimals: str):
    assert same_answer(read(f"{whole},{decimals} km"), f"{whole}.{decimals}")


def test_a_language_with_decimal_commas_groups_with_points():
    assert extract_answer("Die Antwort lautet 1.234 Euro.") == "1234"
    assert extract_answer("La respuesta es 3,5.") == "3.5"
    assert extract_answer("The answer is 1.234.") == "1.234"


DIGITS = "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "০১২৩৪৫৬৭৮৯", "๐๑๒๓๔๕๖๗๘๙", "０１２３４５６７８９"


@given(st.integers(0, 10**6), st.sampled_from(DIGITS))
def test_digits_of_other_scripts(number: int, digits: str):
    written = str(number).translate(str.maketrans("0123456789", digits))
    assert read(written) == str(number)


@given(st.decimals("1", "9.9", places=1), st.integers(-9, 12))
def test_powers_of_ten(value: object, power: int):
    small = str(power).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    expected = plain_digits(Fraction(str(value)) * Fraction(10) ** power)
    forms = ["{} x 10^{}", "{} × 10^{{{}}}", r"{} \times 10^{{{}}}", "{}*10**{}", "{}e{}"]
    for form in forms:
        assert read(form.format(value, power)) == expected, form
    assert read(f"{value} · 10{small}") == expected


@given(st.integers(2, 12), st.integers(0, 9))
def test_powers(base: int, power: int):
    for form in ("{}^{}", "{}^{{{}}}", "{}**{}"):
        assert read(form.format(base, power)) == str(base**power)


NOT_THE_NUMBER = [
    "√{}",
    "∛{}",
    r"\sqrt{{{}}}",
    "{}π",
    "{} π",
    "2π + {}",
    r"{}\pi",
    "{}x",
    "{}n",
    "{} x",
    "{}!.",
    r"\boxed{{{}!}}",
    "{} ± 2",
    r"{} \pm 2",
    "{} remainder 2",
    "{} R 2",
    "{} squared",
    "{} cubed",
    "{} factorial",
    "{} to the power of 3",
    "the square root of {}",
    "log {}",
    "sin {}",
    "{} plus 3",
    "{} minus 3",
    "{} times 3",
    "{} divided by 7",
    "{} + x",
    "x + {}",
    "{} - y",
    "2^x + {}",
    "{}_8",
    "{} base 8",
    "{}:45",
    "{} : 7",
    "{} hours and 30 minutes",
    "{} feet 7 inches",
    "7 feet {} inches",
    "{} adults and 3 children",
    "May {}",
    "{} May",
    "{}/7/2020",
    "{}.7.1",
    "x{}",
    "{}% of 7",
    "{} out of 7",
    "{} point five",
    "({}, -7)",
    "(-7, {})",
    "[{}, 1000]",
    "{}, 1000, 1001",
    "x = {} + y",
    "y = {}x + 3",
    "x + {} = 0",
    "{}x - 7 = 0",
    "x > {}",
    "{}i + 2",
]


@given(WHOLE, st.sampled_from(NOT_THE_NUMBER))
def test_what_touches_a_number_makes_it_another_answer(number: int, form: str):
    assume(not ("!" in form and number in (1, 2)))  # 2! is 2
    for sentence in (f"So the answer is {form.format(number)}.", rf"\boxed{{{form.format(number).rstrip('.')}}}"):
        answer = extract_answer(sentence)
        assert answer is None or not same_answer(answer, str(number)), (sentence, answer)
        assert answer is None or not same_answer(answer, "0"), (sentence, answer)


@given(
    WHOLE,
    st.sampled_from(
        [
            "{a} or {b}",
            "between {a} and {b}",
            "{a} to {b}",
            "{a}\u2013{b}",
            "${a} - ${b}",
            "from {a} to {b} days",
            "either {a} or {b}",
        ]
    ),
)
def test_two_numbers_are_no_answer(number: int, form: str):
    assert read(form.format(a=number, b=number + 5)) is None
    assert read("that it is " + form.format(a=number, b=number + 5)) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2 hours and 30 minutes", "2 hours 30 minutes", True),
        ("2 hours and 30 minutes", "150 minutes", True),
        ("2 hours and 30 minutes", "150", True),
        ("2 hours and 30 minutes", "2.5", True),
        ("2 hours and 30 minutes", "2", False),
        ("2 hours and 30 minutes", "30", False),
        ("5 feet 6 inches", "5'6\"", True),
        ("5 feet 6 inches", "66 inches", True),
        ("5 feet 6 inches", "5 feet 7 inches", False),
        ("3 dozen eggs", "36", True),
        ("3 dozen eggs", "3", True),
        ("3 dozen eggs", "12", False),
        ("1 week and 2 days", "9 days", True),
        ("4 adults and 3 children", "4", False),
    ],
)
def test_quantities_of_several_units(one: str, other: str, same: bool):
    assert same_answer(one, other) == same_answer(other, one) == same


FORMULAS = [
    "2k+2",
    "x^3+3x-6",
    "(15,-29)",
    "52_8",
    "15x - 80",
    "y=2x+3",
    "(3,4]",
    r"(-\infty, 2) \cup (3, \infty)",
    r"\{1\pm\sqrt{5},-2\}",
    r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}",
    "3, 5, 7",
    "-2,1",
    r"x \in [-2,7]",
    "5x-7y+11z+4=0",
    r"\frac{11+9a}{20}",
    "3-2i",
    "√2",
    "2π",
    "5!",
    "1010_2",
    r"\cot x",
    "a - b",
]


FORMS = [r"\boxed{{{}}}", "The answer is {}.", "The answer is ${}$.", "Final answer: $${}$$", "{}"]
READ_FAST = [(formula, FORMS[number % len(FORMS)]) for number, formula in enumerate(FORMULAS[::2])]
"""Every form with two formulas or three; each is compared with all other formulas."""
READ_SLOWLY = [(formula, form) for form in FORMS for formula in FORMULAS if (formula, form) not in READ_FAST]


@pytest.mark.parametrize("stated", tiered([*READ_FAST, *READ_SLOWLY], READ_SLOWLY))
def test_a_formula_is_read_whole(stated: tuple[str, str]):
    formula, form = stated
    text = form.format(formula) if form != "{}" else f"#### Work\n\n<answer>{formula}</answer>"
    answer = extract_answer(text)
    assert answer is not None
    assert "".join(answer.split()) == "".join(formula.split()) or same_answer(answer, formula)
    assert judge(Question("q", "?", formula), text, finished=True).correct
    others = [other for other in FORMULAS if other != formula]
    assert not any(judge(Question("q", "?", other), text, finished=True).correct for other in others)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x+4=0", "x-4=0", False),
        ("5x-7y+11z-4=0", "5x-7y+11z+4=0", False),
        ("x+4=0", "0", False),
        ("y = 2x + 3", "2x+3", True),
        ("y=2x+3", "y=2x-3", False),
        ("(3,4]", "[3,4]", False),
        ("(3,4)", "(4,3)", False),
        ("(8,-2)", "8,-2", False),
        ("(-2,1)", "1,-2", False),
        ("(8,-2)", "(-2,8)", False),
        ("-1", r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", False),
        ("3, 5, 7", "7, 5, 3", True),
        ("3 and 4", "4, 3", True),
        ("52_8", "52", False),
        ("52_8", "52_9", False),
        ("52_8", "52_{8}", True),
        ("√12", r"2\sqrt{3}", True),
        ("2π", r"2\pi", True),
        ("5!", "120", True),
        ("40 - 12", "28", True),
        (r"\frac59", "5/9", True),
        (r"\frac{1}{4}", "0.25", True),
        (r"1\frac{4}{5}", "9/5", True),
        ("11 5/6", "71/6", True),
        ("2 2/3", "2", False),
        ("4 10/3", "10", False),
        ("2.5", r"2\frac{1}{2}", True),
        ("p - q", "q - p", False),
        ("18 ± 2", "18", False),
    ],
)
def test_formulas_are_compared_as_mathematics(one: str, other: str, same: bool):
    assert same_answer(one, other) == same_answer(other, one) == same


@given(st.fractions(-(10**6), 10**6, max_denominator=10**6), st.fractions(-(10**6), 10**6, max_denominator=10**6))
def test_closeness_is_symmetric_and_never_joins_signs(one: Fraction, other: Fraction):
    assert are_close(one, other) == are_close(other, one)
    assert not are_close(one, -one) or one == 0
    assert are_close(one, one)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3.89e-10", "3.90e-10", False),
        ("0.00005", "0", False),
        (".0000672", ".0000671", False),
        (".0000672", "6.72e-5", True),
        ("0.1667", "1/6", True),
        ("0.0556", "1/18", True),
        ("1000000.00005", "1000000", True),
    ],
)
def test_small_numbers_are_compared_by_their_size(one: str, other: str, same: bool):
    assert same_answer(one, other) == same_answer(other, one) == same


UNITS = [
    "Äpfel",
    "кг",
    "个",
    "人",
    "です",
    "टन",
    "টি",
    "₽",
    "개",
    "เครื่อง",
    "ดอลลาร์",
    "€",
    "m²",
    "cm^2",
    "km/h",
    "%",
    "apples (in all)",
]


@given(st.integers(0, 10**6), st.sampled_from(UNITS), st.sampled_from([" ", ""]))
def test_units_in_any_letters(number: int, unit: str, gap: str):
    written = f"{number}{gap if not unit[0].isascii() else ' '}{unit}"
    assert same_answer(str(number), written)
    assert normalise_answer(written) == str(number)
    assert read(written) == str(number)


STATEMENTS = [
    "The answer is {}.",
    "The answer would be {}.",
    "The answer will be {}",
    "The answer should be {}.",
    "The answer comes out to {}.",
    "Answer: {}",
    "Answer：{}",
    "ANSWER: {}",
    "Ans: {}",
    "**Answer:** {}",
    "**Final Answer**\n\n{}",
    "### Final Answer\n\n{}",
    "## Final answer:\n{}",
    "Final Answer\n{}",
    "<answer>{}</answer>",
    "<answer>\n{}\n</answer>",
    "<final_answer>{}</final_answer>",
    "[ANSWER]{}[/ANSWER]",
    "#### {}",
    r"\boxed{{{}}}",
    r"\boxed {}",
    r"\fbox{{{}}}",
    r"$\boxed{{{}}}$",
    "The answer → {}",
    "Thus {} is the answer.",
    "So {} is the correct answer.",
    "**Final Answer:** $$ \\text{{ANSWER: }} {} $$",
]
VALUES = ["18", "-7", "2,417.5", "3/4", "1.5"]


@pytest.mark.parametrize("form", STATEMENTS)
def test_forms_of_a_statement(form: str):
    for value in VALUES:
        text = f"There are 41.\n\n{form.format(value)}"
        assert same_answer(extract_answer(text), value), text
    for letter in PLACES:
        text = f"It is a place.\n\n{form.format(letter)}"
        assert extract_answer(text, PLACES) == letter, text


OPTIONS = [
    "{}",
    "({})",
    "[{}]",
    "（{}）",
    "{}.",
    "{})",
    "**{}**",
    "({}) {text}",
    "{}: {text}",
    "{}. {text}",
    "[{}] {text}",
    "option {}",
    "{text}",
    "a {text}",
]


@pytest.mark.parametrize(("form", "letter"), [*product(OPTIONS, "ABCD")])
def test_forms_of_an_option(form: str, letter: str):
    written = form.format(letter, text=PLACES[letter])
    for statement in (
        "The answer is {}.",
        "Answer: {}",
        "The correct option is {}.",
        "<answer>{}</answer>",
        "The best choice is {}",
    ):
        assert extract_answer(statement.format(written), PLACES) == letter
    wide = letter.translate({ord(letter): ord(letter) + 0xFEE0})
    assert extract_answer(f"The answer is {wide}.", PLACES) == letter


@pytest.mark.parametrize(("one", "other"), [("A", "B"), ("C", "D"), ("(a)", "(c)"), ("the bank", "the mall")])
@pytest.mark.parametrize(
    "form", ["either {} or {}", "both {} and {}", "{} or {}", "{} and {}", "neither {} nor {}", "between {} and {}"]
)
def test_two_options_are_no_answer(form: str, one: str, other: str):
    assert extract_answer(f"The answer is {form.format(one, other)}.", PLACES) is None


IN_OTHER_WORDS = [
    "Die Antwort ist {}.",
    "Die Antwort lautet {} Äpfel.",
    "Antwort: {}",
    "La respuesta es {}.",
    "La respuesta final es {}.",
    "La réponse est {}.",
    "Réponse : {}",
    "答えは{}です。",
    "答案是 {}。",
    "所以，答案是{}。",
    "最终答案：{}",
    "答案为{}个。",
    "Ответ — {}.",
    "Ответ: {}",
    "Jibu ni {}.",
    "సమాధానం {}.",
    "คำตอบคือ {}",
    "উত্তর হল {}।",
    "A resposta é {}.",
    "La risposta è {}.",
    "Het antwoord is {}.",
    "정답은 {}입니다.",
    "답: {}",
    "उत्तर {} है।",
    "الإجابة هي {}.",
    "Đáp án là {}.",
    "Cevap: {}",
    "Odpowiedź to {}.",
    "Jawabannya adalah {}.",
]


@pytest.mark.parametrize("form", IN_OTHER_WORDS)
def test_answers_in_other_languages(form: str):
    for value in ("18", "7", "120"):
        assert extract_answer(f"6 + 5 = 11. {form.format(value)}") == value
    assert extract_answer(f"{form.format(5)} \n\n Wait. {form.format(9)}") == "9"


@pytest.mark.parametrize(
    "heading",
    ["Schritt-für-Schritt-Antwort:", "ステップごとの答え：", "ধাপে ধাপে উত্তর:", "దశలవారీగా సమాధానం:", "Step-by-Step Answer:"],
)
def test_the_heading_of_a_solution_states_nothing(heading: str):
    assert extract_answer(f"{heading} 5 + 6 = 11") is None


def test_every_language_has_a_noun_and_what_follows_it():
    for name, language in LANGUAGES.items():
        for noun in language.nouns:
            assert extract_answer(f"{noun}: 12") == "12", name
            for verb in language.verbs:
                assert extract_answer(f"{noun} {verb} 12") == "12", (name, verb)


def test_a_users_own_words_introduce_an_answer():
    assert extract_answer("6 * 4 = 24. So we get 24.") is None
    assert extract_answer("6 * 4 = 24. So we get 24.", words=("So we get",)) == "24"
    assert extract_answer("6 * 4 = 24. SO  we get: $24 in all.", words=("So we get",)) == "24"
    assert extract_answer("It is B. My pick: B", PLACES, ("my pick",)) == "B"
    question = Question("q", "?", "24")
    assert judge(question, "So we get 24.", finished=True, words=("So we get",)).correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 12. If he had 3 more, the answer would be 15.", "12"),
        ("The answer is False. Otherwise the answer would be True.", "no"),
        ("The answer is 2460, but the sum is off. The answer should be 1200.", "1200"),
        ("She got 54 correct answers. Rose got 56 correct answers.", None),
        ("The answer must be a place. The answer is 4.", "4"),
        ("The answer is 5! = 120.", "120"),
        ("The answer is 18!", "18"),
        ("Answer:\n- 12 apples", "12"),
    ],
)
def test_what_is_supposed_or_counted_is_no_statement(text: str, answer: str | None):
    found = extract_answer(text)
    assert found == answer or (answer is not None and same_answer(found, answer))


@given(st.text(max_size=60))
def test_numbers_of_any_text_are_read_without_error(text: str):
    value = whole_number(text)
    assert value is None or isinstance(value, Fraction)
    extract_answer(f"The answer is {text}")
    same_answer(text, f"{text} 5")
