r"""Read an answer off a text, and tell whether two answers are the same.

One rule for every task: the LAST statement of an answer (`kpod.data.statements`) counts, and a text without one is
unanswered; `last_number` is the flexible reading beside it. A statement is read as what it is: an option, yes or no,
a number with all that belongs to it, a quantity, a formula, or else its own words, never as a part of it that looks
like another value.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from kpod.data.formulas import is_formula, same_formula
from kpod.data.markup import plain_characters, tidy
from kpod.data.numbers import Mention, mentions, plain_digits, whole_number
from kpod.data.options import Choices, folded, named_options
from kpod.data.quantities import COMPOUND, NOT_ONE, quantity, same_quantity
from kpod.data.statements import LONGEST_STATEMENT, RETRACTED, RETRACTION, Statement, statements

TOLERANCE = Fraction(1, 10_000)
"""Two numbers no further apart than this are the same answer, unless they are small."""
SMALL_TOLERANCE = Fraction(1, 1_000)
"""Small numbers may differ by this share of the larger one."""

HEDGE = re.compile(
    r"(?:(?:approximately|about|around|roughly|exactly|only|just|simply|likely|clearly|therefore|thus|that|equal to|"
    r"technically|definitely|definitively|indeed|actually|probably|most likely|obviously|certainly|surely"
    r"|of course|also"
    r"|still|now|then|approx\.|ca\.|i think|given by|given as|found to be|calculated to be)[\s,]+|[~≈=]\s?){1,3}",
    re.IGNORECASE,
)
# A remark on an answer, not an answer.
REMARK = re.compile(r"(?:(?:in)?correct|wrong|unclear|given(?! (?:by|as)\b)|different|not|no longer)\b", re.IGNORECASE)
YES_NO = re.compile(
    r"(?:(yes|true)|no|false)\b(?! (?:more|less|fewer|longer|one|solutions?|real|integers?|roots?|such|number)\b)",
    re.IGNORECASE,
)
EDGES = " \t\r\n,;:?\"'“”‘’*_`"
DAY_HALF = re.compile(r"\d\s?([ap])\.?m\b")
NUMBERED = re.compile(r"\(?\d{1,2}\)\s+(?=\S)")
GROUPED = re.compile(r"[-+$€£]{0,2}\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:\s?[^\d,]*)")
EXCLAIMED = re.compile(r"(?<![\d)\s])\s*!+\Z")
# "5 or 6", "between 3 and 4", "$18 - $20", "3 to 4", "3–4": two numbers, and so no answer.
TWO_NUMBERS = re.compile(
    r"[^\d.]{0,20}?\bor\s(?:\D{0,12}\s)?|\s?(?:to|through|up to)\s[$€£]?|\s?(?:[–—~]|\.{1,3})\s?[$€£]?"
)
BETWEEN = re.compile(r"\b(?:between|from)\s(?:\w+\s){0,2}[$€£]?\Z", re.IGNORECASE)
EQUALS = re.compile(r"\s?(?:(?<![<>!=])=(?!=)|≈|\\approx(?![A-Za-z]))\s?")
NAME = re.compile(r"[^\W\d_](?:[_'][\w{}]{1,4})?|[^\W\d_]{2,}[^=]{0,60}|\w\([^()]{0,10}\)")
SUM = re.compile(r"[\d\s.,$€£%()+\-*/×÷·x−]+(?:\s?[^\W\d_]+[\s.,$€£%()+\-*/×÷·\d]*)*|.*\d.*[-+*/×÷·−!^²³√].*")
VARIABLE = re.compile(
    r"(?<![A-Za-z\\])(?![xX]\s?[\d($])[A-Za-z](?![A-Za-z'’.])\s?(?:[-+*/^]|\Z)|\d[A-Za-z](?![A-Za-z])(?!\s?\d)"
)


def extract_answer(text: str, choices: Choices | None = None, words: Sequence[str] = ()) -> str | None:
    r"""The answer that a text states last, normalised; None where it states none.

    A statement is what follows "the answer is", "answer:", "#### " or such words of another language, or stands in
    `\boxed{}` or `<answer>`; one that holds nothing readable is passed over. None also where the last one names two
    different answers ("either (d) or (e)", "5 or 6", "between 3 and 4"), or is taken back straight away ("530 (wait,
    that's not correct...)") with none after it: an earlier answer is not what the text says in the end. A question that
    a model goes on to ask itself ("Q: ...") is cut off.

    Args:
        text: What a teacher or student wrote.
        choices: The question's options; None unless multiple choice.
        words: Further words that introduce an answer, such as "So we get" (`data.answer_words`).

    Returns:
        An option's letter; or else yes or no (also for true and false), a number in plain digits, or the statement's
        own text: a formula, a quantity of several units, a range, words. Where other words come first, the last number
        of the statement's sentence counts.

    Example:
        >>> extract_answer("So 3 + 4 = 7. The answer is $1,234.50.")
        '1234.5'
        >>> extract_answer("So the answer is a bank.", {"A": "shop", "B": "bank"})
        'B'
        >>> [extract_answer(text) for text in (r"\boxed{2k+2}", "所以答案是 18 个。", "The answer is 3 to 4.")]
        ['2k+2', '18', None]
    """
    for statement in statements(text, words):
        core = _core(statement.said)
        named = _options(core, choices) if choices else _readings(core, statement)
        if named:
            answer = named.pop()
            own = statement.window.replace(choices[answer], "", 1) if choices else statement.window
            return answer if not named and not RETRACTED.search(own[:RETRACTION]) else None
    return None


def last_number(text: str) -> str | None:
    """The last number in a text, in plain digits, whatever is said about it; None where there is none.

    The flexible reading of a numeric answer, to be reported beside `extract_answer`, never in its place. Numbers in
    words are passed over, and so are those that are part of something else.

    Args:
        text: What a student or a teacher wrote.

    Example:
        >>> last_number("Each gets 1,200 / 4 = 300 g.")
        '300'
    """
    values = [mention.value for mention in mentions(tidy(plain_characters(text)))]
    last = next((value for value in reversed(values) if value is not None), None)
    return None if last is None else plain_digits(last)


def normalise_answer(answer: str, choices: Choices | None = None) -> str:
    """An answer in the form in which equal ones mostly read the same.

    Args:
        answer: A gold or a given answer, without words around it.
        choices: The question's options; None unless multiple choice.

    Returns:
        The option's letter for a letter or an option's text; plain digits for a number without its currency,
        thousands separators, percent sign and units; yes or no; else the text in lower case without the
        punctuation around it. Empty where nothing is left.

    Example:
        >>> [normalise_answer(a) for a in ("$1,200.00", "1/4", "50 %", "True", "New York.", "18 кг")]
        ['1200', '0.25', '50', 'yes', 'new york', '18']
    """
    core = _core(answer)
    if choices:
        named = _options(core, choices)
        if len(named) == 1:
            return named.pop()
    value = _value(core)
    if value is not None:
        return plain_digits(value)
    yes_no = YES_NO.fullmatch(core)
    return _yes_no(yes_no) if yes_no else folded(core)


def same_answer(one: str | None, other: str | None, choices: Choices | None = None) -> bool:
    r"""Whether two answers are the same.

    Numbers are the same when they differ by at most `TOLERANCE`, or, small ones, by at most a thousandth of the larger;
    options when the letter is the same, however it is given; quantities of several units when they come to the same;
    everything else when the normalised texts or, for formulas of bounded size, the mathematical objects are equal. No
    answer equals no answer: None and "" are never the same as anything.

    Args:
        one: An answer as a text states it, or None.
        other: Another.
        choices: The question's options; None unless multiple choice.

    Example:
        >>> same_answer("$18.00", "18 dollars"), same_answer("0.5", r"\frac{1}{2}"), same_answer(None, None)
        (True, True, False)
        >>> same_answer("2 hours and 30 minutes", "150 minutes"), same_answer("3.89e-10", "3.90e-10")
        (True, False)
    """
    if one is None or other is None:
        return False
    normal, other_normal = normalise_answer(one, choices), normalise_answer(other, choices)
    if choices or not normal or not other_normal:
        return bool(normal) and normal == other_normal
    core, other_core = _core(one), _core(other)
    if len({half for text in (core, other_core) for half in DAY_HALF.findall(text.casefold())}) > 1:
        return False
    if ("=" in core) != ("=" in other_core):  # x = 3 against 3, but not against y = 3
        core, other_core = _right_side(core), _right_side(other_core)
    if normal == other_normal:
        return True
    value, other_value = _value(core), _value(other_core)
    if value is not None and other_value is not None:
        return are_close(value, other_value)
    if same_quantity(core, other_core, other_value) or same_quantity(other_core, core, value):
        return True
    return same_formula(core, other_core)


def are_close(one: Fraction, other: Fraction) -> bool:
    """Whether two numbers count as the same."""
    return abs(one - other) <= min(TOLERANCE, SMALL_TOLERANCE * max(abs(one), abs(other)))


def _core(answer: str) -> str:
    """An answer without LaTeX's text markup, and without punctuation or one pair of brackets around it."""
    if len(answer) > LONGEST_STATEMENT:
        return answer.strip(EDGES + ".")
    core = EXCLAIMED.sub("", tidy(plain_characters(answer)).strip(EDGES).rstrip(EDGES + "."))
    core = _unwrapped(core)
    inner = core[1:-1].strip() if re.fullmatch(r"\([^()]*\)|\[[^\[\],]*\]", core) else ""
    # A pair in brackets is a point or an interval: the brackets belong to it.
    core = inner if inner and ("," not in inner or GROUPED.fullmatch(inner)) else core
    return HEDGE.sub("", core, count=1) if HEDGE.match(core) else core


def _unwrapped(core: str) -> str:
    """An answer without a pair of <> or of LaTeX's braces around it, and without a brace that closes nothing."""
    while re.fullmatch(r"<[^<>]*>|\{[^{},]*\}", core):
        core = core[1:-1].strip()
    return core.rstrip("}") if core.count("}") > core.count("{") and core.count("{") == 0 else core


def _value(core: str, *, comma: bool = False) -> Fraction | None:
    """The number that a whole answer is: a plain one, or an amount of money in two units."""
    value = None if core.endswith("!") else whole_number(core, comma=comma)  # 5! is a factorial
    if value is None and COMPOUND.match(core):
        amount = quantity(core)
        return amount.as_money if amount else None
    return value


def _options(core: str, choices: Choices) -> set[str]:
    return named_options(core, choices, _core, TOLERANCE)


def _readings(core: str, statement: Statement) -> set[str]:
    """What an answer without options may mean: nothing, one answer, or several."""
    yes_no = YES_NO.match(core)
    if yes_no:
        return {_yes_no(yes_no)}
    if not core or REMARK.match(core):
        return set()
    either = re.split(r"\s+or\s+", core)
    if len(either) > 1 and all("=" in part for part in either):  # x = 5 or x = 6
        return {reading for part in either for reading in _readings(part, statement)}
    if (
        statement.is_boxed
        and re.fullmatch(r"-?\d+(?:,\s?-?\d+)+", core)
        and not re.fullmatch(r"-?\d{1,3}(?:,\d{3})+", core)
    ):
        return {core}  # a list, in mathematics
    core = _right_side(core)
    value = _value(core, comma=statement.comma)
    if value is not None:
        return {plain_digits(value)}
    if is_formula(core):
        return {core}
    return _in_words(core, statement.comma)


def _right_side(core: str) -> str:
    """What an equation comes to, where its left side is a name or a sum of numbers; else the whole equation."""
    *lefts, right = map(str.strip, EQUALS.split(core))
    known = all(NAME.fullmatch(left) or (SUM.fullmatch(left) and not VARIABLE.search(left)) for left in lefts)
    return right if lefts and right and known and _starts_with_number(right) else core


def _starts_with_number(text: str) -> bool:
    first = next(mentions(text), None)
    return whole_number(text) is not None or (first is not None and first.start == 0 and first.value is not None)


def _in_words(core: str, comma: bool) -> set[str]:
    """The number of a statement in words: the first where it starts with it, else the last."""
    if NOT_ONE.match(core):
        return {core}
    numbered = NUMBERED.match(core)
    if numbered:
        return _in_words(core[numbered.end() :], comma)
    found = [*mentions(core, comma=comma)]
    if not found:
        return {core}
    if pair := _two_numbers(core, found):
        return pair
    compound = next((match for match in COMPOUND.finditer(core) if _counts(match, found)), None)
    if compound:
        amount = quantity(compound[0])
        money = amount.as_money if amount else None
        return {compound[0] if money is None else plain_digits(money)}
    chosen = found[0] if found[0].start == 0 else found[-1]
    if chosen.value is None or (chosen is found[0] and chosen.start == 0 and _is_listed(core, found)):
        return {core}
    return {plain_digits(chosen.value)}


def _two_numbers(core: str, found: Sequence[Mention]) -> set[str]:
    """The two numbers of an alternative or a range at the place that counts; empty where there is none."""
    if len(found) < 2:
        return set()
    one, other = found[:2] if found[0].start == 0 else found[-2:]
    gap = core[one.stop : other.start]
    is_range = TWO_NUMBERS.fullmatch(gap) or (gap.strip() in ("and", "to", "-") and BETWEEN.search(core, 0, one.start))
    prices = (
        core[one.start] in "$€£" and core[other.start :].lstrip("- ")[:1] == core[one.start] and not gap.strip(" -")
    )
    if not (is_range or prices):
        return set()
    return {
        core[mention.start : mention.stop] if mention.value is None else plain_digits(mention.value)
        for mention in (one, other)
    }


def _counts(compound: re.Match[str], found: Sequence[Mention]) -> bool:
    """Whether a quantity of several parts stands where the number that counts does."""
    place = found[0].start if found[0].start == 0 else found[-1].start
    return compound.start() <= place < compound.end()


def _is_listed(core: str, found: Sequence[Mention]) -> bool:
    """Whether numbers follow one another as a list: "3, 5, 7" or "3 and 4"."""
    return len(found) > 1 and bool(
        re.fullmatch(r"\s?(?:,|and|&|,\s?and)\s?[$€£]?", core[found[0].stop : found[1].start])
    )


def _yes_no(match: re.Match[str]) -> str:
    return "yes" if match[1] else "no"
