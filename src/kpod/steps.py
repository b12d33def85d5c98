r"""Split a rationale into reasoning steps, and align the steps to tokens (method section 3).

The paper splits at ".", which also cuts 3.50, Mr. and e.g.; that stays available as the rule `period`. The default
rule `sentence` gathers every place where a step may end, refuses those inside a number, an abbreviation, maths or
code, and joins pieces that cannot stand alone to a neighbour.

Steps are half-open character spans that tile the text, so nothing is ever re-joined from strings. Whitespace between
two steps belongs to the FOLLOWING one, as a BPE token carries its leading space; at the end, to the last step.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, TypeAlias

import sentencex

from kpod.errors import DataError
from kpod.records import Span
from kpod.spans import check_spans_tile

StepRule: TypeAlias = Literal["sentence", "line", "period"] | Callable[[str], list[Span]]
"""How a rationale is split; a callable returns half-open character spans that tile its text."""

LINE_BREAK = re.compile(r"[\n\r\u2028\u2029]\s*")
PERIOD = re.compile(r"[^.\s][^.]*(?:\.[.\s]*|\Z)")
# `end` stays with the sentence; `gap` is all that lies before the next one's first letter or digit.
TERMINAL = re.compile(r"(?P<end>[.!?…:]+[\"'”’»)\]}*_]*(?:[ ]\))?)(?P<gap>(?:[\s\"'“‘«(\[{_<]|\*(?!\s))*)")
# sentencex hides what two "*" or nested brackets enclose, is slow at other marks than ", panics at "A\u00a0.".
WIDE_SPACES = "".join(chr(code) for code in range(0x80, 0x3001) if chr(code).isspace())
HIDDEN = str.maketrans({**dict.fromkeys("()[]{}<>*_`‘" + WIDE_SPACES, " "), **dict.fromkeys("“”«»「」", '"')})
SINGLE_QUOTE = re.compile(r"(?<!\w)'|'(?!\w)")

MATHS_OR_CODE = re.compile(r"```|\\[\[\]()]|\$\$|\n[ \t\r]*\n")
CLOSERS = {"```": "```", "\\[": "\\]", "\\(": "\\)", "$$": "$$"}
CAPITAL = re.compile(r"\s*[A-Z]")
LABEL = r"(?:Step|Day|Week|Month|Year|Case|Part)"
HEADS = re.compile(  # "= 48 Step 2: ...", "<Step 2>"
    rf"(?:\*\*)?{LABEL}[ ]\d{{1,3}}(?=:)|<[A-Z][A-Za-z]{{0,15}}(?:[ ][A-Za-z0-9]{{1,15}}){{0,2}}>"
)
REFERS = re.compile(r"(?:\A|\s)(?i:on|in|by|for|from|of|to|at|and|the|see|during|after|before)\s+\Z")
GLUED_LABEL = re.compile(r"(?<=[a-z])[A-Z][a-z]+(?=:[ ])")  # "12 loadsFriday: 6"
GLUED_RESULT = re.compile(r"[=+*/×][ ]?\$?\d[\d,.]*%?(?=[A-Z][a-z]+[ ,'’:])")  # "2 + 1 = 3Now we"
COUNTED = re.compile(r"\d[ ][a-z]+\Z")

ONE_MARK = (
    r"[ \t*_#>•–-]*(?:"
    r"\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})[.)][.):]?"
    rf"|{LABEL}[ ]?(?:\d{{1,3}}|[A-Za-z])[.):]?"
    r"|<[A-Z][A-Za-z0-9 ]{0,45}>"
    r"|[A-Z][A-Za-z]{1,15}(?:[ ][A-Za-z]{1,15})?[*_]{0,2}:"
    r"|(?i:so|or|and|but|then|thus|hence|therefore|where|now|next|first|finally)[,:]?"
    r")?[ \t*_:]*"
)
# What heads a step and is none: "1.", "(a)", "Step 2:", "-", "<Step 1>", "Therefore,", "Plan:" above "1.".
MARK = re.compile(rf"\s*{ONE_MARK}(?:\n\s*{ONE_MARK}){{0,2}}\s*|\s*#{{1,6}} [^\n]{{1,60}}\s*")
LONGEST_MARK = 80
LIST_NUMBER = re.compile(r"[\s*_(]*(\d{1,2})[.)][\s\"'*(]+(?=[A-Z])")
OPEN_END = re.compile(r"(?:[^\s=<>!+\-*/]\s*=|\s[+\-−*/×÷])\Z")
CONTINUES = re.compile(r"\s*(?:=(?![=>])|[×÷]|\+\s*[\d$(])")
WORD = re.compile(r"[^\W_]")

LAST_WORD = re.compile(r"[^\s(\[{\"'“‘]*[)\]}\"'”’]*\Z")
INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]|[A-Z]")
# The next three look at the word in lower case, and read "sq.ft" as "ft".
NEVER_LAST = re.compile(
    r"(?:\S*\.)?(?:mr|mrs|ms|dr|prof|rs|st|sen|gov|gen|capt|lt|col|sgt|rev|hon|mt|messrs|vs|v|cf)|\W*(?:e\.g|i\.e)"
)
UNIT = re.compile(r"(?:\S*\.)?(?:lbs?|ft|hrs?|mins?|secs?|oz|kg|km|cm|mm|ml|yds?|sq|approx|nos?|vol|fig|eq)|[cp]")
MATHS_OR_ETC = re.compile(r"(?:\A|[^a-z.])[a-z]\Z|etc\Z")
VARIABLE = re.compile(r"[a-z](?:\s*[+\-*/^<>]|\s+(?:is|are)\b|\w*\s*=)")
GLUED_SENTENCE = re.compile(r"(?:[A-Z][a-z'’]+|[AI])[ ,'’:]")
TIME_GOES_ON = re.compile(r"[A-Z]{2,4}\b|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|[^A-Z]")
STARTER = re.compile(
    r"(?:Th(?:e|is|at|[eo]se|ere|en|erefore|us|ey)|So|Hence|However|S?He|His|Her|It|We|You|In|If|Since|Because|When|"
    r"After|Before|Now|Next|First|Finally|Also|And|But|To|For|On|At|Let|As|Each|Both|All)\b"
)


def split_steps(text: str, rule: StepRule = "sentence") -> list[Span]:
    r"""The reasoning steps of a rationale, as spans that tile its text.

    `sentence` splits at line breaks and sentence ends, also where a text lost its line breaks; it keeps
    `\[...\]`, `$$...$$`, `\(...\)` and code fences whole, and a list mark with what it heads. English is
    assumed. `line` makes one step of each line that is not blank. `period` is the paper's rule: a step
    ends after each "."; dots with nothing between them add no step, as they add none in the paper.

    Args:
        text: The rationale r.
        rule: One of the three, or a callable that returns spans which tile the text.

    Returns:
        Half-open character spans. The first starts at 0, the last ends at len(text), none is blank. All
        but the last end in a visible character whatever the rule: whitespace that a callable leaves at
        the end of a span is moved to the next one.

    Raises:
        DataError: If the text is blank, or a callable's spans do not tile it or one of them is blank.

    Example:
        >>> text = "Mr. Li pays $3.50.  He has $1.50 left."
        >>> [text[start:stop] for start, stop in split_steps(text)]
        ['Mr. Li pays $3.50.', '  He has $1.50 left.']
    """
    if not text.strip():
        raise DataError("a blank rationale has no steps; drop it or write one")
    if not callable(rule):
        return _tile(text, CUTTERS[rule](text))
    spans = rule(text)
    check_spans_tile(spans, len(text), "step rule")
    if any(not text[start:stop].strip() for start, stop in spans):
        raise DataError(f"step rule: a step of {spans} is blank")
    return _tile(text, [stop for _, stop in spans])


def step_stops_of(step_spans: Sequence[Span], token_spans: Sequence[Span]) -> tuple[int, ...]:
    r"""Where each step stops, counted in tokens: from characters to `TokenizedRationale.step_stops`.

    A token belongs to the step that holds its FIRST character. Since whitespace leads a step, " Next"
    and a token of blank lines open the following step, while ".\n" closes its own.

    Args:
        step_spans: Steps as character spans that tile the text, from `split_steps`.
        token_spans: Characters of each token. Starts never fall; the byte-level tokens of one
            character share its span.

    Returns:
        Exclusive and strictly rising stops; the last is the number of tokens. A step in which no token
        starts is merged into its neighbour, so there may be fewer stops than steps.

    Raises:
        DataError: If there are no tokens, they do not rise or leave the text, or the steps do not tile it.

    Example:
        >>> step_stops_of([(0, 5), (5, 11)], [(0, 4), (4, 5), (5, 10), (10, 11)])
        (2, 4)
    """
    length = step_spans[-1][1] if step_spans else 0
    check_spans_tile(step_spans, length, "steps")
    edges = [0, *(start for start, _ in token_spans), length]
    inside = all(start <= stop <= length for start, stop in token_spans)
    if not (step_spans and token_spans and inside) or any(a > b for a, b in pairwise(edges)):
        raise DataError(f"tokens must be given and rise from 0 to {length}; got spans {list(token_spans)}")
    step_starts = [start for start, _ in step_spans]
    steps = [bisect_right(step_starts, start) for start, _ in token_spans]
    return (*(i for i, (left, right) in enumerate(pairwise(steps), 1) if left != right), len(steps))


def _tile(text: str, cuts: Iterable[int]) -> list[Span]:
    """Spans between rising cuts: blank pieces dropped, whitespace before a cut moved behind it."""
    pieces = [(start, text[start:stop].rstrip()) for start, stop in pairwise((0, *cuts, len(text)))]
    stops = [start + len(piece) for start, piece in pieces if piece]
    return list(pairwise((0, *stops[:-1], len(text))))


def _ends(pattern: re.Pattern[str], text: str) -> list[int]:
    return [match.end() for match in pattern.finditer(text)]


def _sentence_cuts(text: str) -> list[int]:
    """Where the pieces of the rule `sentence` end: all places that qualify, less those that cannot stand alone."""
    whole = _whole_spans(text)
    lines = [cut for cut in _ends(LINE_BREAK, text) if not _is_inside(cut, whole)]
    cuts = {*lines, *_head_cuts(text), *(stop for _, stop in whole if CAPITAL.match(text, stop))}
    for start, stop in pairwise((0, *lines, len(text))):
        cuts.update(start + end for end in _sentence_ends(text[start:stop]))
    return _join(text, sorted(cut for cut in cuts if 0 < cut < len(text) and not _is_inside(cut, whole)))


CUTTERS: dict[str, Callable[[str], list[int]]] = {
    "sentence": _sentence_cuts,
    "line": partial(_ends, LINE_BREAK),
    "period": partial(_ends, PERIOD),
}


def _whole_spans(text: str) -> list[Span]:
    """Maths and code that no step may cut. Maths ends at a blank line; an unclosed block reaches the text's end."""
    spans: list[Span] = []
    opener, start = "", 0
    for match in MATHS_OR_CODE.finditer(text):
        token = match.group()
        if not opener:
            opener, start = (token, match.start()) if token in CLOSERS else ("", 0)
        elif token == CLOSERS[opener]:
            spans.append((start, match.end()))
            opener = ""
        elif token.isspace() and opener != "```":
            opener = ""
    # A lone "$$" or "\(" is more likely a slip than maths that was cut off.
    return [*spans, (start, len(text))] if opener in ("```", "\\[") else spans


def _is_inside(cut: int, spans: Sequence[Span]) -> bool:
    index = bisect_left(spans, (cut, 0)) - 1
    return index >= 0 and cut < spans[index][1]


def _head_cuts(text: str) -> Iterator[int]:
    """Where a label begins a step in the middle of a line, as in texts that lost their line breaks."""
    for match in HEADS.finditer(text):
        if not REFERS.search(text[max(0, match.start() - 12) : match.start()]):
            yield match.start()
    for match in GLUED_LABEL.finditer(text):
        if COUNTED.search(text[max(0, match.start() - 24) : match.start()]):
            yield match.start()
    yield from _ends(GLUED_RESULT, text)


@dataclass(frozen=True, slots=True)
class _Place:
    """A punctuation mark in a line, what stands around it, and whether sentencex ends a sentence here."""

    word: str
    end: str
    is_spaced: bool
    after: str
    is_likely: bool


def _sentence_ends(line: str) -> Iterator[int]:
    """Where a sentence or an item of a numbered list ends within a line, given as offsets behind its punctuation."""
    plain = SINGLE_QUOTE.sub(" ", line.translate(HIDDEN))
    likely = [sentence["end_index"] for sentence in sentencex.get_sentence_boundaries("en", plain)]
    head = LIST_NUMBER.match(line)
    number, is_glued = (int(head[1]), False) if head else (0, False)
    for match in TERMINAL.finditer(line):
        word = LAST_WORD.findall(line[max(0, match.start() - 24) : match.start()])[0]
        after = line[match.end() : match.end() + 24]
        is_spaced = any(map(str.isspace, match["gap"]))
        is_likely = bisect_right(likely, match.start()) < bisect_right(likely, match.end())
        place = _Place(word, match["end"], is_spaced, after, is_likely)
        item = LIST_NUMBER.match(after)
        if item and _starts_item(place, int(item[1]), number + 1, is_glued):
            number, is_glued = int(item[1]), not place.is_spaced
            yield match.end("end")
        elif _ends_sentence(place):
            yield match.end("end")


def _starts_item(place: _Place, number: int, expected: int, is_glued: bool) -> bool:
    """Whether a number, "." and a capital start the next item of a numbered list.

    In "in detail:1. Add: 3 + 1 = 4.2. Next" the "2." is an item because the list has lost its line breaks
    before and its turn has come; anywhere else 4.2 is a number.
    """
    after_digit = place.word[-1:].isdigit()
    if ":" in place.end:
        return number == 1 and (place.is_spaced or not after_digit)
    if place.is_spaced or after_digit:
        return number == expected and (place.is_spaced or is_glued)
    return not NEVER_LAST.fullmatch(place.word.lower())


def _ends_sentence(place: _Place) -> bool:
    """Whether a sentence ends at this punctuation: by rule where it follows an abbreviation, else as sentencex says."""
    first, word = place.after[:1], place.word.lower()
    if ":" in place.end or not first or first in ",;=+*/×÷^%)]}|&" or NEVER_LAST.fullmatch(word):
        return False
    if not place.is_spaced:
        ends_low = place.word[-1:].islower() or place.word[-1:] in tuple("0123456789)%")
        return ends_low and bool(GLUED_SENTENCE.match(place.after))
    if first.islower():
        return bool(VARIABLE.match(place.after))
    if first == "-":
        return bool(re.match(r"-\s*[A-Z]", place.after))
    if first.isdigit() and UNIT.fullmatch(word):
        return False
    if word in ("a.m", "p.m"):
        return not TIME_GOES_ON.match(place.after)
    if INITIALS.fullmatch(place.word):
        return bool(STARTER.match(place.after))
    if word[-1:] in tuple(")]}\"'”’"):
        return first.isalnum()
    return place.is_likely or (first.isupper() and bool(MATHS_OR_ETC.search(word)))


def _join(text: str, cuts: Sequence[int]) -> list[int]:
    """Drop the cuts beside a piece that cannot stand alone.

    A piece without a letter or digit joins the one before it, a mark joins what it heads, and an equation
    that goes on over a line break stays in one piece.
    """
    kept: list[int] = []
    start, has_word = 0, bool(WORD.search(text[: cuts[0]])) if cuts else True
    for cut, stop in pairwise((*cuts, len(text))):
        piece = text[cut:stop]
        piece_has_word = bool(WORD.search(piece))
        end = text[max(start, cut - LONGEST_MARK) : cut].rstrip()
        is_mark = cut - start <= LONGEST_MARK and MARK.fullmatch(end)
        if has_word and piece_has_word and not (is_mark or OPEN_END.search(end[-8:]) or CONTINUES.match(piece)):
            kept.append(cut)
            start, has_word = cut, True
        else:
            has_word = has_word or piece_has_word
    ends_in_mark = len(text) - start <= LONGEST_MARK and MARK.fullmatch(text[start:])
    return kept[:-1] if ends_in_mark else kept
