"""Where a rationale first states its answer as a result."""

import re
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

from kpod.data.answers import normalise_answer
from kpod.data.markup import plain_characters
from kpod.data.numbers import whole_number
from kpod.data.places import number_places, word_places
from kpod.data.results import Results
from kpod.records import Span

SAME_WORDS = {"yes": ("yes", "true"), "no": ("no", "false")}
LISTED = 3
"""Options that follow one another directly are a list of them from this number on."""
MOST_LISTED = 20
BETWEEN_LISTED = re.compile(
    r"[\s,;:/.()\[\]'\"“”*–-]{0,8}(?:(?:or|and|&|vs)\b[\s('\"]{0,3})?(?:(?:a|an|the)\s)?(?:\(?[A-Z][.):]\s{0,2})?",
    re.IGNORECASE,
)
LONGEST_BETWEEN = 24


def first_statement(text: str, answer: str, choices: Mapping[str, str] | None = None, question: str = "") -> int | None:
    """The character at which a rationale first states its answer as a result; None where it never mentions it.

    A number is found by its value, in digits or words; an option by its text, its number or its letter; yes and no
    also as true and false; any other answer as whole words. What is equal by chance counts: a "no" in "no one", and an
    intermediate result of the answer's value, for a predictor could copy it all the same. The letter A alone is an
    article, and options that are merely listed, three or more in a row, state nothing.

    Where the question does not give the answer's value, the first mention is the statement. Where it does, a mention
    mostly repeats the question. Then the first one counts that is a result (`kpod.data.results`):

    - behind an equals sign whose left side is a calculation, or was one before ("left = 13 - 5", "left = 8");
    - beside words for a result ("gives 8", "8 are left") that do not stand beside the value in the question too;
    - in the last sentence or behind "so" or "therefore", if nothing is calculated behind it there, and it stands
      beside no operator and not in a clause with "since", "if" or "when".

    Where no mention is a result, the last one counts.

    Args:
        text: A rationale.
        answer: The gold answer; of a multiple choice question the option's letter.
        choices: The question's options; None unless multiple choice.
        question: The question's text without its options.

    Example:
        >>> text = "Tom had 8 apples and 5 pears, 8 + 5 = 13. He ate 5, so 13 - 5 = 8 are left. That is eight."
        >>> text[: first_statement(text, "8", question="Tom has 8 apples and 5 pears. He eats 5. How many are left?")]
        'Tom had 8 apples and 5 pears, 8 + 5 = 13. He ate 5, so 13 - 5 = '
        >>> first_statement("People buy there. It is B.", "B", {"A": "bank", "B": "shop"})
        24
    """
    plain, asked = plain_characters(text), plain_characters(question)
    if choices is None:
        return _first(plain, asked, answer)
    found = [
        _first(plain, asked, choices[answer], _listed(plain, choices)),
        _first_letter(plain, asked, answer, _listed(plain, choices)),
    ]
    return min((at for at in found if at is not None), default=None)


def _first(text: str, question: str, answer: str, listed: Sequence[Span] = ()) -> int | None:
    """The first statement of a number or of words."""
    places = [place for place in _places(text, answer) if not _within(place, listed)]
    given = _places(question, answer)
    if given:
        return Results(text, question, given).first(places)
    return places[0][0] if places else None


def _places(text: str, answer: str) -> list[Span]:
    """Where an answer stands in a text, by its value or by its words."""
    normal = normalise_answer(answer)
    words = SAME_WORDS.get(normal, (plain_characters(answer).strip(),))
    if normal in SAME_WORDS and answer.strip().lower() not in words:
        words = (*words, answer.strip())
    found = {place for word in words for place in word_places(text, word)}
    value = whole_number(normal) if normal not in SAME_WORDS else None
    if value is not None:
        found = {*number_places(text, value)}
    return sorted(found)


def _first_letter(text: str, question: str, letter: str, listed: Sequence[Span]) -> int | None:
    """The first mention of an option by its letter.

    A letter in brackets, behind "option" or "answer is", or before a full stop, bracket or colon names an option. Any
    other capital does so too, but for A and I, which are words, and those that the question uses as names.
    """
    found = [*_marked(text, letter)]
    if letter not in "AI" and not word_places(question, letter, exactly=True):
        found += [match.span() for match in re.finditer(rf"(?<![\w'’-]){re.escape(letter)}(?![\w'’-])", text)]
    return min((start for start, stop in found if not _within((start, stop), listed)), default=None)


def _marked(text: str, letter: str) -> Iterator[Span]:
    one = re.escape(letter)
    pattern = (
        rf"(?<!\w)[(\[]\s?(?P<bracketed>(?i:{one}))\s?[)\]]"
        rf"|(?<!\w)(?i:option|choice|letter|answer(?:\sis|:)?|choose|select|pick)\s{{1,3}}[\"'“*(]{{0,3}}(?P<told>{one})"
        rf"(?=[\"'”*]{{0,3}}(?:[.,;:!)\n]|\Z|\s(?:is|because|as|since|would)\b))"
        rf"|(?<![\w'’-])(?P<dotted>{one})(?:[.):](?=\s|\Z|[\"'”*])|\Z|(?=\sis\s(?:the\s)?(?:correct|right|best|answer)\b))"
    )
    for match in re.finditer(pattern, text):
        yield match.span(str(match.lastgroup))


def _listed(text: str, choices: Mapping[str, str]) -> list[Span]:
    """Where options follow one another with nothing but commas, letters and "or" between them."""
    limit = min(LISTED, len(choices))
    texts = {key: plain_characters(option) for key, option in choices.items() if len(option.strip()) > 1}
    named = sorted(
        [(start, stop, key, True) for key, option in texts.items() for start, stop in word_places(text, option)]
        + [(start, stop, key, False) for key in choices for start, stop in _marked(text, key)]
    )
    runs: list[list[tuple[int, int, str, bool]]] = []
    for one in named:
        if runs and one[0] < runs[-1][-1][1]:
            continue  # a part of a longer option
        if runs and _goes_on(text, runs[-1], one):
            runs[-1].append(one)
        else:
            runs.append([one])
    return [(run[0][0], run[-1][1]) for run in runs if len({one[2] for one in run}) >= limit]


def _goes_on(text: str, run: Sequence[tuple[int, int, str, bool]], one: tuple[int, int, str, bool]) -> bool:
    """Whether a list of options goes on with another, rather than a sentence with one that was listed."""
    gap = text[run[-1][1] : one[0]]
    if len(gap) > LONGEST_BETWEEN or not BETWEEN_LISTED.fullmatch(gap):
        return False
    ends = re.search(r"[.!?]\s", gap if run[-1][3] else gap[1:])  # "A. bank" goes on, "(A). A bank" does not
    return not ends and all(one[2:] != other[2:] for other in run[-MOST_LISTED:])


def _within(place: Span, spans: Sequence[Span]) -> bool:
    """Whether one of some spans, which follow one another, holds a place."""
    position = bisect_right(spans, (place[0], sys.maxsize)) - 1
    return position >= 0 and place[1] <= spans[position][1]
