"""What a text that states no answer ends on: the result of its last sentence, or the option that it names last."""

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from kpod.data.answers import extract_answer
from kpod.data.markup import plain_characters, tidy
from kpod.data.numbers import NUMERAL, Mention, mentions, plain_digits, whole_number
from kpod.data.options import Choices, folded
from kpod.data.statements import LONGEST_STATEMENT, RETRACTED, SENTENCE_END, stated_at_end

EQUALS = re.compile(r"(?:(?<![<>!=])=(?!=)|≈)\s{0,3}[*_$€£(]{0,3}\s{0,2}\Z")
SCALED = re.compile(rf"(?P<numeral>{NUMERAL.pattern})\s?[^\W\d_]+\Z")
NAMED_AFTER = re.compile(rf"(?<![-+*/×÷] )(?<![\w.])(?P<numeral>{NUMERAL.pattern})\s?=\s?[A-Za-z](?![A-Za-z])")  # 8 = x
DIFFERENCE = re.compile(r"\b(?:difference|savings?|saved?|loss|lost|change)\b", re.IGNORECASE)
CENTS = re.compile(r"\bcents\b")
AFTER_SUM = re.compile(r"(?:\s(?!which|that)[^\d=≈,;]*)?[.\s]*")
ROUNDED = re.compile(
    r"\bround(?:ed|ing|s)?\b(?!.{0,20}\b(?:cent|tenth|hundredth)\b)|\b(?:fraction of|percent(?:age)?|whole number)\b",
    re.IGNORECASE,
)
SUM = re.compile(r"(?<![\d.=])(?P<sum>[$€£(]{0,2}\d[\d.,]*(?:\s?[-+*/×÷−]\s?[$€£(]{0,2}\d[\d.,]*\)?){1,7})(?![\d%])")
OPERATORS = str.maketrans({"×": "*", "÷": "/", "−": "-"})
WORK: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
YES_NO = re.compile(
    r"(?:\A|[.!?]\s+)[\s*_\"']*(?:(?:so|thus|therefore|hence|then)[,:]?\s+)?(yes|no|true|false)\b[,.!:;]?",
    re.IGNORECASE,
)


def reached_answers(text: str, gold: str, choices: Choices | None = None, words: Sequence[str] = ()) -> tuple[str, ...]:
    """What a rationale comes to, the likeliest first: what it states, or else what its end says; empty where unclear.

    A statement in the last sentence counts alone; after an earlier one the end counts too, as a text that reasons on
    may correct itself.

    Args:
        text: A rationale.
        gold: The question's answer; only its kind counts, a number or not.
        choices: The question's options; None unless multiple choice.
        words: Further words that introduce an answer (`data.answer_words`).

    Example:
        >>> reached_answers("40 + 450 = 490. The answer is 490.", "1"), reached_answers("So he has 7 of 9 pens.", "1")
        (('490',), ('9',))
    """
    stated = extract_answer(text, choices, words)
    if stated is None:
        return ending_answers(text, gold, choices)
    is_last = stated_at_end(text, words)
    return (stated,) if is_last else tuple(dict.fromkeys((stated, *ending_answers(text, gold, choices))))


def ending_answers(text: str, gold: str, choices: Choices | None = None) -> tuple[str, ...]:
    """What a rationale may be said to come to in its end, whatever it states, the likeliest first; empty where unclear.

    For a number: the result of the last equation in the last sentence that holds a number, or, where that sentence has
    none, the number in it that the text's last equation came to; then the sentence's last number, and a sum that is
    written there and not worked out. One with a scale ("405 million") may also mean the number before it, as questions
    ask for millions; one in cents, dollars; one that is said to be rounded, the next whole one; a
    negative difference, its size. For options: the one that the last sentence names, where the text names no other. For
    yes and no: what the last sentence begins with. How often that is right, per file, stands in the results of
    benchmarks/filters.py.

    Args:
        text: A rationale.
        gold: The question's answer; only its kind counts, a number or not.
        choices: The question's options; None unless multiple choice.

    Example:
        >>> ending_answers("40 + 450 = 490, so he teaches 490 students in 10 years.", "1")
        ('490', '10')
        >>> ending_answers("People keep money there. So it is a bank.", "A", {"A": "shop", "B": "bank"})
        ('B',)
    """
    if choices:
        option = _only_option(text, choices)
        return (option,) if option else ()
    if whole_number(tidy(plain_characters(gold))) is not None:
        return tuple(dict.fromkeys(map(plain_digits, _numbers(tidy(plain_characters(text))))))
    found = YES_NO.findall(text[-LONGEST_STATEMENT:])
    return ({"true": "yes", "false": "no"}.get(found[-1].lower(), found[-1].lower()),) if found else ()


def _numbers(text: str) -> list[Fraction]:
    found = [*mentions(text)]
    whole = [mention for mention in found if mention.value is not None]
    ending = _last_sentence(text)
    sums = _written_sum(ending)
    start = max((match.end() for match in SENTENCE_END.finditer(text, 0, found[-1].start)), default=0) if found else 0
    of_sentence = [mention for mention in whole if mention.start >= start]
    named = [value for match in NAMED_AFTER.finditer(ending) for value in _values(match["numeral"])][-1:]
    if not of_sentence or RETRACTED.search(ending):
        return [*sums, *named]
    results, before = _results(text, of_sentence), _results(text, whole)
    if not results and before:
        known = before[-1].value in {mention.value for mention in of_sentence}
        results = before if known or text.rstrip().endswith(",") else []
    likely = [*results[-1:], of_sentence[-1]]
    values = [mention.worth for mention in likely if mention.worth is not None]
    unscaled = [value for mention in likely for value in _unscaled(text[mention.start : mention.stop])]
    size = [abs(value) for value in values[:1] if DIFFERENCE.search(ending)]
    cents = [values[0] / 100] if CENTS.search(ending) else []
    rounded = [whole for value in values[:1] for whole in _rounded(value)] if ROUNDED.search(ending) else []
    return [*values, *sums, *unscaled, *named, *size, *cents, *rounded]


def _last_sentence(text: str) -> str:
    """The last sentence of a text that holds a digit, with what follows it."""
    tail = text[-LONGEST_STATEMENT:]
    digit = max((match.start() for match in re.finditer(r"\d", tail)), default=0)
    return tail[max((match.end() for match in SENTENCE_END.finditer(tail, 0, digit)), default=0) :]


def _rounded(value: Fraction) -> list[Fraction]:
    """Whole numbers that a broken one may be rounded to."""
    return (
        []
        if value.denominator == 1
        else [Fraction(round(value)), Fraction(math.ceil(value)), Fraction(math.floor(value))]
    )


def _unscaled(written: str) -> list[Fraction]:
    """The numeral of a number alone, where more stands behind it: 405 of "405 million"."""
    scaled = SCALED.search(written)
    return _values(scaled["numeral"]) if scaled else []


def _values(numeral: str) -> list[Fraction]:
    return [mention.value for mention in mentions(numeral) if mention.value is not None]


def _written_sum(text: str) -> list[Fraction]:
    """The value of a sentence's last sum, where none is worked out in it: "so he has 148 - 103 left"."""
    written = [*SUM.finditer(text)][-1:]
    if not written or not AFTER_SUM.fullmatch(text, written[0].end()):
        return []
    if text[written[0].end() :].strip(". ") and re.search(r"[*/×÷]", written[0]["sum"]):
        return []  # of parts, such as "74 * 67 dollars off the shirts and 156 * 165 dollars off the others"
    plain = re.sub(r"[$€£,]", "", written[0]["sum"]).rstrip(". ").translate(OPERATORS)
    try:
        return [_worked_out(ast.parse(plain.strip(), mode="eval").body)]
    except (SyntaxError, ValueError, ZeroDivisionError):
        return []


def _worked_out(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(str(value))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in WORK:
            return WORK[type(op)](_worked_out(left), _worked_out(right))
    raise ValueError("not a sum of numbers")


def _results(text: str, found: Sequence[Mention]) -> list[Mention]:
    """The numbers that stand right behind an equals sign."""
    return [m for m in found if EQUALS.search(text, max(0, m.start - 12), m.start) or text[m.start] in "=≈"]


def _only_option(text: str, choices: Choices) -> str | None:
    """The option that the last sentence names, where it names one and the text names no other."""
    start = max((match.end() for match in SENTENCE_END.finditer(text.rstrip(" ."))), default=0)
    of_sentence, of_text = (_named(folded(part), choices) for part in (text[start:], text))
    return next(iter(of_text)) if len(of_sentence) == 1 and of_sentence == of_text else None


def _named(said: str, choices: Choices) -> set[str]:
    """The options that a text names, by their own words, also in the plural, or by a letter in brackets."""
    words = {key: re.escape(folded(option.strip(" ."))) for key, option in choices.items()}
    return {
        key
        for key, option in words.items()
        if re.search(rf"(?<!\w){option}(?:e?s)?(?!\w)|[(\[]{re.escape(key.casefold())}[)\]]", said)
    }
