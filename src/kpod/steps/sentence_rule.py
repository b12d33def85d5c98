r"""The rule `sentence`: where a reader would end the steps of a rationale, in whatever language it is.

Every place where a step may end is gathered; refused are those inside a number, an abbreviation, maths or code; and
pieces that cannot stand alone are joined to a neighbour.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from kpod.records import Span
from kpod.steps.languages import held_dots, language_of, likely_ends, with_closing_quotes
from kpod.steps.scripts import CLOSERS, OPENERS, clauses_in, is_inside, stops_in

LINE_BREAK = re.compile(r"[\n\r\u2028\u2029]\s*")
# `end` stays with the sentence; `gap` is all that lies before the next one's first letter or digit.
TERMINAL = re.compile(
    rf"(?P<end>[.!?…:]+[\"'”’»)\]}}*_{CLOSERS}]*(?:[ ]\)|[ \u00a0\u202f]»)?)"
    rf"(?P<gap>(?:[\s\"'“‘«(\[{{_<{OPENERS}]|\*(?!\s))*)"
)

MATHS_OR_CODE = re.compile(r"```|\\[\[\]()]|\$\$|\n[ \t\r]*\n")
BLOCK_ENDS = {"```": "```", "\\[": "\\]", "\\(": "\\)", "$$": "$$"}
VISIBLE = re.compile(r"\S")
LABEL = r"(?:Step|Day|Week|Month|Year|Case|Part)"
# The same in other languages, as far as teachers write it.
STEP_OF = (
    r"(?:Schritt|Étape|Paso|Passo|Stap|Krok|Steg|Hatua|Adım|Langkah|Bước|Шаг|Крок|Βήμα|चरण|ধাপ|దశ|படி|الخطوة|مرحله|단계)"
)
STEP_GLUED = (
    r"(?:第[一二三四五六七八九十\d]{1,3}步|步[骤驟]\s?[一二三四五六七八九十\d]{1,3}|ステップ\s?\d{1,2}"
    r"|ขั้นตอนที่\s?\d{1,2})"
)
HEADS = re.compile(  # "= 48 Step 2: ...", "<Step 2>"
    rf"(?:\*\*)?(?:{LABEL}[ ]\d{{1,3}}(?=:)|{STEP_OF}[ ]\d{{1,3}}(?=[ \u00a0]?:)|{STEP_GLUED}(?=[:：]))"
    r"|<[A-Z][A-Za-z]{0,15}(?:[ ][A-Za-z0-9]{1,15}){0,2}>"
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
    r"|(?=[ -~]{0,31}[^ -~])[^\s\d.,:：。!?]{1,16}(?:[ ][^\s\d.,:：。!?]{1,16})?[*_]{0,2}[:：]"  # any script's
    r"|[(（]?\d{1,3}[．、）]"
    rf"|{STEP_OF}[ ]\d{{1,3}}[ ]?[:.]?|{STEP_GLUED}[:：]?"
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
# What can end a sentence that a caseless letter follows without a space: three such letters, one Chinese, a digit.
CASELESS_END = re.compile(r"(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\d%）」』”]|(?:[^\W\d_a-zA-Z]\W{0,2}){3})\Z")
AMOUNT = re.compile(
    r"\d\s?(?:[kcm]?[mlg]|km|min|std|h|sec|sek|stk|шт|руб|коп|кг|г|см|км|мм|м|мл|л|ч|мин|сек|грн|zł|kr|tl)\Z"
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


def ends_of(pattern: re.Pattern[str], text: str) -> list[int]:
    """Where the matches of a pattern end."""
    return [match.end() for match in pattern.finditer(text)]


def sentence_cuts(text: str) -> list[int]:
    """Where the pieces of the rule `sentence` end: all places that qualify, less those that cannot stand alone.

    Example:
        >>> sentence_cuts("他有3．5个。他吃了2个。")
        [7]
    """
    whole = _whole_spans(text)
    language = language_of(text)
    lines = [cut for cut in ends_of(LINE_BREAK, text) if not is_inside(cut, whole)]
    cuts = {*lines, *_head_cuts(text), *(stop for _, stop in whole if _goes_high(text, stop))}
    for start, stop in pairwise((0, *lines, len(text))):
        cuts.update(start + end for end in _sentence_ends(text[start:stop], language))
    return _join(text, sorted(cut for cut in cuts if 0 < cut < len(text) and not is_inside(cut, whole)))


def _whole_spans(text: str) -> list[Span]:
    """Maths and code that no step may cut. Maths ends at a blank line; an unclosed block reaches the text's end."""
    spans: list[Span] = []
    opener, start = "", 0
    for match in MATHS_OR_CODE.finditer(text):
        token = match.group()
        if not opener:
            opener, start = (token, match.start()) if token in BLOCK_ENDS else ("", 0)
        elif token == BLOCK_ENDS[opener]:
            spans.append((start, match.end()))
            opener = ""
        elif token.isspace() and opener != "```":
            opener = ""
    # A lone "$$" or "\(" is more likely a slip than maths that was cut off.
    return [*spans, (start, len(text))] if opener in ("```", "\\[") else spans


def _goes_high(text: str, stop: int) -> bool:
    """Whether a capital follows maths or code, or behind a block also a letter of a script without capitals."""
    visible = VISIBLE.search(text, stop)
    first = visible.group() if visible else ""
    return first.isupper() or (_is_caseless(first) and not text.endswith("\\)", 0, stop))


def _is_caseless(character: str) -> bool:
    return character.isalpha() and character.upper() == character.lower() and not character.isascii()


def _head_cuts(text: str) -> Iterator[int]:
    """Where a label begins a step in the middle of a line, as in texts that lost their line breaks."""
    for match in HEADS.finditer(text):
        if not REFERS.search(text[max(0, match.start() - 12) : match.start()]):
            yield match.start()
    for match in GLUED_LABEL.finditer(text):
        if COUNTED.search(text[max(0, match.start() - 24) : match.start()]):
            yield match.start()
    yield from ends_of(GLUED_RESULT, text)


class _Place(NamedTuple):
    """A punctuation mark in a line, what stands around it, and whether sentencex ends a sentence here."""

    word: str
    end: str
    is_spaced: bool
    after: str
    is_likely: bool
    is_abbreviation: bool = False


def _sentence_ends(line: str, language: str) -> Iterator[int]:
    """Where a sentence or an item of a numbered list ends within a line, given as offsets behind its punctuation."""
    if not line.isascii():
        line = with_closing_quotes(line)
        yield from stops_in(line)
        yield from clauses_in(line)
    marks = [match for match in TERMINAL.finditer(line) if match.end() < len(line)]  # nothing ends before nothing
    if not marks:
        return
    likely = likely_ends(line, language)
    before_digits = likely if language == "en" else likely_ends(line, "en")  # others have dates in mind
    held, may_end = held_dots(line, language)
    head = LIST_NUMBER.match(line)
    number, is_glued = (int(head[1]), False) if head else (0, False)
    for match in marks:
        before = line[max(0, match.start() - 24) : match.start()]
        after = line[match.end() : match.end() + 24]
        is_spaced = any(map(str.isspace, match["gap"]))
        ends = before_digits if after[:1].isdigit() else likely
        is_likely = bisect_right(ends, match.start()) < bisect_right(ends, match.end())
        is_likely = is_likely or match.start() in may_end or bool(language != "en" and AMOUNT.search(before))
        is_held = match.start() not in may_end and is_inside(match.start(), held)
        place = _Place(LAST_WORD.findall(before)[0], match["end"], is_spaced, after, is_likely, is_held)
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
    if ":" in place.end or not first or first in ",;=+*/×÷^%)]}|&，、；" or NEVER_LAST.fullmatch(word):
        return False
    if place.is_abbreviation:
        return False
    if not place.is_spaced:
        if _is_caseless(first) or (first.isdigit() and _is_caseless(place.word[-1:])):
            return bool(CASELESS_END.search(place.word))
        ends_low = place.word[-1:].islower() or place.word[-1:] in tuple("0123456789)%")
        return ends_low and bool(GLUED_SENTENCE.match(place.after))
    if first.islower() and not "\u10d0" <= first <= "\u10ff":  # Georgian has no capitals
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
