r"""Read an answer off a text, and tell whether two answers are the same.

One rule for every task: the LAST statement of an answer ("the answer is", "answer:", "#### ", `\boxed{}`) counts,
and a text without one is unanswered; `last_number` is the flexible reading beside it. Options are read against
the question's own. Only maths that is no plain number or fraction goes to math-verify, and only where its size is
bounded, because its time limits work in the main thread alone.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import TypeAlias

from kpod.data.markup import tidy
from kpod.data.numbers import NUMBER, VULGAR, number_value, plain_digits, whole_number

Choices: TypeAlias = Mapping[str, str]
"""Option letter -> text."""

TOLERANCE = Fraction(1, 10_000)
"""Two numbers no further apart than this are the same answer."""
LONGEST_STATEMENT = 300
RETRACTION = 80
MOST_STATEMENTS = 20
LONGEST_MATHS = 80

ANCHOR = re.compile(
    r"\banswer(?: to (?:the|this|that|your) (?:question|problem))?[*_ ]{0,4}(?:(?:is|are)\b|[:=])"
    rf"|(?<!\#)\#{{4}}(?!\#)(?=\s{{0,3}}(?:[-+−–$€£(]{{0,3}}[\d.\\{VULGAR}]|\(?[a-z]\b|(?:yes|no|true|false)\b))"
    r"(?! ?\d{1,2}[.)] +[a-z])"
    r"|(?P<boxed>\\boxed ?\{)",
    re.IGNORECASE,
)
NEXT_QUESTION = re.compile(r"^[ \t]*(?:Q|Question)[ \t]*:", re.MULTILINE)
OPENING = re.compile(r"\A(?:[\s*_:]|\$\$|\\[(\[])+")
SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bRs)[.!?](?=[\s\"'”’)*]|\Z)|\n")
# "(but that is wrong)", not "(the others are wrong)" or "(A is wrong)"; "Wait, no", not the words "wait in line".
RETRACTED = re.compile(
    r"(?:\(|[,;–-]\s*(?:but|which|though)\b)\s*(?:(?!others?\b|rest\b|remaining\b|options\b|choices\b|answers\b"
    r"|(?-i:[B-HJ-Z]\b|A(?:,|\)? (?:is|was|and|or)\b)))[\w'’]+,?\s+){0,4}?(?:incorrect|wrong|not (?:correct|right))\b"
    r"|[(,;–.!?-]\s*(?:oh,? )?(?:wait|hmm)\b(?=\s*(?:[,.…!?:—–-]|\Z)"
    r"|\s+(?:no|that|this|there|it|i|we|let|actually|a (?:minute|moment|second))\b)",
    re.IGNORECASE,
)

HEDGE = re.compile(
    r"(?:(?:approximately|about|around|roughly|exactly|only|just|simply|likely|clearly|therefore|thus|that|equal to|"
    r"technically|definitely|definitively)[\s,]+){1,3}",
    re.IGNORECASE,
)
# A remark on an answer, not an answer.
REMARK = re.compile(r"(?:(?:in)?correct|wrong|unclear|given|not)\b", re.IGNORECASE)
OPERATOR = re.compile(r"\s?[-+*/^×÷]\s?(?:[\d(\\]|[A-Za-z]\b)|\s?\\|\(\d")
OR = re.compile(r"[^\d.]{0,20}?\bor\s+|\s?(?:,|and|&)\s?[$€£]?")
YES_NO = re.compile(r"(?:(yes|true)|no|false)\b(?! (?:more|less|fewer|longer|one)\b)", re.IGNORECASE)
EDGES = " \t\r\n,;:!?\"'“”‘’*_`<>"

# Maths of one-letter variables, without what makes sympy's work unbounded: powers of powers or of brackets, and
# products of many brackets; its parser takes seconds for a few nested ones.
MATHS = re.compile(
    r"(?:\\(?:frac|sqrt|pi|cdot|times|div|pm)(?![A-Za-z])|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|[\d\s.,+\-*/^(){}=])+"
)
HARD_MATHS = re.compile(r"[)}]\s*\^|\^(?!\{?-?\w\}?(?![\w^{]))|\d{20}|(?:\([^(]*){4}|(?:\^[^^]*){4}|(?:\{[^{]*){9}")


def extract_answer(text: str, choices: Choices | None = None) -> str | None:
    r"""The answer that a text states last, normalised; None where it states none.

    A statement is what follows "the answer is", "answer:" or "#### ", or stands in `\boxed{}`; one that holds nothing
    readable is passed over. None also where the last one names two different answers ("either (d) or (e)", "5 or
    6"), or is taken back straight away ("530 (wait, that's not correct...)") with none after it: an earlier answer
    is not what the text says in the end. A question that a model goes on to ask itself ("Q: ...") is cut off.

    Args:
        text: What a teacher or student wrote.
        choices: The question's options; None unless multiple choice.

    Returns:
        An option's letter; or else yes or no (also for true and false), a number in plain digits, or the statement's
        own text. Where other words come first, the last number of the statement's sentence counts.

    Example:
        >>> extract_answer("So 3 + 4 = 7. The answer is $1,234.50.")
        '1234.5'
        >>> extract_answer("So the answer is a bank.", {"A": "shop", "B": "bank"})
        'B'
    """
    for sentence, window in _statements(text):
        named = _plain_readings(_core(sentence)) if not choices else _named_options(_core(sentence), choices)
        if named:
            answer = named.pop()
            own = window.replace(choices[answer], "", 1) if choices else window
            return answer if not named and not RETRACTED.search(own[:RETRACTION]) else None
    return None


def last_number(text: str) -> str | None:
    """The last number in a text, in plain digits, whatever is said about it; None where there is none.

    The flexible reading of a numeric answer, to be reported beside `extract_answer`, never in its place. Numbers in
    words are passed over.

    Example:
        >>> last_number("Each gets 1,200 / 4 = 300 g.")
        '300'
    """
    values = (number_value(match) for match in reversed([*NUMBER.finditer(tidy(text))]))
    last = next((value for value in values if value is not None), None)
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
        >>> [normalise_answer(a) for a in ("$1,200.00", "1/4", "50 %", "True", "New York.")]
        ['1200', '0.25', '50', 'yes', 'new york']
    """
    core = _core(answer)
    if choices:
        named = _named_options(core, choices)
        if len(named) == 1:
            return named.pop()
    value = whole_number(core)
    if value is not None:
        return plain_digits(value)
    yes_no = YES_NO.fullmatch(core)
    return _yes_no(yes_no) if yes_no else _folded(core)


def same_answer(one: str | None, other: str | None, choices: Choices | None = None) -> bool:
    r"""Whether two answers are the same.

    Numbers are the same when they differ by at most `TOLERANCE`, in absolute terms; options when the letter is the
    same, however it is given; everything else when the normalised texts or, for LaTeX and formulas of bounded
    size, the mathematical objects are equal. No answer equals no answer: None and "" are never the same as anything.

    Example:
        >>> same_answer("$18.00", "18 dollars"), same_answer("0.5", r"\frac{1}{2}"), same_answer(None, None)
        (True, True, False)
    """
    if one is None or other is None:
        return False
    normal, other_normal = normalise_answer(one, choices), normalise_answer(other, choices)
    if not normal or not other_normal:
        return False
    if choices or normal == other_normal:
        return normal == other_normal
    value, other_value = whole_number(normal), whole_number(other_normal)
    if value is not None and other_value is not None:
        return abs(value - other_value) <= TOLERANCE
    return _same_maths(_core(one), _core(other))


def _statements(text: str) -> Iterator[tuple[str, str]]:
    """The statements of an answer, last first: the sentence that states it, and some text from there on."""
    blank = len(text) - len(text.lstrip())
    goes_on = NEXT_QUESTION.search(text, blank + 1)
    text = text[: goes_on.start()] if goes_on else text
    for match in [*ANCHOR.finditer(text)][: -MOST_STATEMENTS - 1 : -1]:
        window = OPENING.sub("", text[match.end() : match.end() + LONGEST_STATEMENT], count=1)
        yield _braced(window) if match["boxed"] else SENTENCE_END.split(window, maxsplit=1)[0], window


def _braced(text: str) -> str:
    """What stands before the brace that closes a group opened before the text; empty where none does."""
    depth = 1
    for match in re.finditer(r"(?<!\\)[{}]", text):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return text[: match.start()]
    return ""


def _core(answer: str) -> str:
    """An answer without LaTeX's text markup, and without punctuation or one pair of brackets around it."""
    if len(answer) > LONGEST_STATEMENT:
        return answer.strip(EDGES + ".")
    core = tidy(answer).strip(EDGES).rstrip(EDGES + ".")
    core = core[1:-1].strip() if re.fullmatch(r"\([^()]*\)", core) else core
    return HEDGE.sub("", core, count=1) if HEDGE.match(core) else core


def _plain_readings(core: str) -> set[str]:
    """What an answer without options may mean: nothing, one answer, or several."""
    yes_no = YES_NO.match(core)
    if yes_no:
        return {_yes_no(yes_no)}
    either = re.split(r"\s+or\s+", core)
    if len(either) > 1 and all("=" in part for part in either):  # x = 5 or x = 6
        return {reading for part in either for reading in _plain_readings(part)}
    core = re.split("[=≈]", core)[-1].strip() or core
    value = whole_number(core)
    if value is not None:
        return {plain_digits(value)}
    numbers = [(match, value) for match in NUMBER.finditer(core) if (value := number_value(match)) is not None]
    starts = bool(numbers) and numbers[0][0].start() == 0
    if not core or REMARK.match(core):
        return set()
    if not numbers or "\\" in core or (starts and OPERATOR.match(core, numbers[0][0].end())):
        return {core}
    if starts and len(numbers) > 1 and OR.fullmatch(core, numbers[0][0].end(), numbers[1][0].start()):
        return {plain_digits(numbers[0][1]), plain_digits(numbers[1][1])}
    return {plain_digits(numbers[0 if starts else -1][1])}


def _named_options(core: str, choices: Choices) -> set[str]:
    """The options that an answer names: by letter, or else by their whole text, or else by their number."""
    keys = {key.casefold(): key for key in choices}
    if core.casefold() in keys:
        return {keys[core.casefold()]}
    exact = {key for key, text in choices.items() if _folded(_core(text)) == _folded(core)}
    if len(exact) == 1:
        return exact
    head = re.split(r"\b(?:because|since|rather than|instead of|as opposed to)\b", core, maxsplit=1)[0]
    letter = "|".join(map(re.escape, sorted(keys, key=len, reverse=True)))
    opens = re.match(rf"\(?\s?((?i:{letter}))\s?\)?\s?[.:,–-]?\s+(?=\S)", core)
    if opens and _folded(core[opens.end() :]) == _folded(_core(choices[keys[opens[1].casefold()]])):
        return {keys[opens[1].casefold()]}  # whatever other letters the option's own text names
    # A bare letter must open the statement or follow "or": "a" is also an article, and A may be a name's initial.
    bare = rf"(?:\A|\b(?i:option|choice|letter|or|and)\s|[/,]\s?)((?i:{letter}))(?![\w'’])"
    pattern = rf"\(\s?((?i:{letter}))\s?\)|{bare}(?:(?<![AaIi])|(?!\s+(?!or\b|and\b)[a-z]))"
    stated = re.split(r"\bnot\b", head, maxsplit=1)[0]
    letters = {keys.get((match[1] or match[2]).casefold(), "") for match in re.finditer(pattern, stated)} - {""}
    return letters or _options_by_text(head, choices) or _options_by_number(head, choices)


def _options_by_text(head: str, choices: Choices) -> set[str]:
    said = _folded(head)
    texts = {key: _folded(_core(text)) for key, text in choices.items()}
    words = {key: text for key, text in texts.items() if text and not NUMBER.match(text)}
    found = {key: text for key, text in words.items() if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", said)}
    return {key for key, text in found.items() if not any(text != other and text in other for other in found.values())}


def _options_by_number(head: str, choices: Choices) -> set[str]:
    said = [value for match in NUMBER.finditer(head) if (value := number_value(match)) is not None]
    values = {key: whole_number(_core(text)) for key, text in choices.items()}
    return {
        key for key, value in values.items() if value is not None and any(abs(value - v) <= TOLERANCE for v in said)
    }


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _yes_no(match: re.Match[str]) -> str:
    return "yes" if match[1] else "no"


def _same_maths(one: str, other: str) -> bool:
    """Whether two formulas mean the same to math-verify; False for texts, and for formulas too large to be tried."""
    for formula in (one, other):
        if len(formula) > LONGEST_MATHS or not MATHS.fullmatch(formula) or HARD_MATHS.search(formula):
            return False
    if not any(re.search(r"[\\^+*/()-]", formula) for formula in (one, other)):
        return False
    parse, verify = _math_verify()
    gold, given = (parse(f"${formula}$", parsing_timeout=None) for formula in (one, other))
    return bool(gold and given and verify(gold, given, timeout_seconds=None))


@cache
def _math_verify() -> tuple[Callable[..., list[object]], Callable[..., bool]]:
    """math-verify's parse and verify: imported when first needed, as that takes a second."""
    import math_verify

    for module in ("parser", "grader"):
        # It warns at every call without a time limit; what bounds the work here is HARD_MATHS.
        logging.getLogger(f"math_verify.{module}").addFilter(lambda record: "Timeout is disabled" not in record.msg)
    return math_verify.parse, math_verify.verify
