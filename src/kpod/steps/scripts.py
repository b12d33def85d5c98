"""Where a sentence ends in scripts with stops of their own, and where a clause ends in scripts that have no stop.

Chinese and Japanese put no space behind "。", so the mark alone shows the end. Thai and Lao have no stop, and put a
space between clauses. Nothing here needs a language model or a list of abbreviations.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from kpod.records import Span

# Unicode's sentence terminals (property STerm) that are not ASCII, with the Tibetan shad and the Greek question mark.
STOPS = (
    "。｡．！？﹒﹖﹗\u037e։؝؞؟۔।॥၊။።፧፨។៕།༎༏༐༑܀܁܂߹࠷࠹࠽࠾᙮᜵᜶᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫෴"
    "\U00011047\U00011048\U000110be\U000110c1\U000111c5\U000111c6"
)
CLOSERS = "」』）】》〉］｝〕〗｣›"
OPENERS = "「『（【《〈［｛〔〖｢‹„‚¿¡"

_STOP = re.compile(
    rf"(?:[{STOPS}]|፡፡"
    r"|(?<=[\u0900-\u0dff])\|{1,2}(?=\s)"  # typed for a danda
    r"|(?<=[\u0370-\u03ff\u1f00-\u1fff]);(?=\s+[«“\"]?[\u0386\u0388-\u038f\u0391-\u03a9])"  # a Greek question
    r"|(?<=[\u0561-\u0587]):(?=\s+[«“\"]?[\u0531-\u0556]))"  # typed for the Armenian stop
    rf"[{STOPS}!?…]*[{CLOSERS}”’»\"')\]}}*_]*"
)
_PAIRS = (("「", "」"), ("『", "』"), ("“", "”"), ("（", "）"), ("《", "》"))
_QUOTED = re.compile("|".join(rf"{a}[^{a}{b}\n]{{1,300}}{b}" for a, b in _PAIRS))
_GOES_ON = re.compile(
    r"\s*(?:[,;，、；：،؛=＝)）\]×÷])"
    r"|(?<=[」』”])(?:と|って|という|は|が|を|に|の|も|で|的|[^\W\d_]{0,3}(?:说|說|回答|[问問](?![题題])))"
)
_INITIAL = re.compile(r"(?<![^\W\d_])[A-ZＡ-Ｚ]．(?=[A-ZＡ-Ｚ])")

_TYPED_DECIMALS = re.compile(r"\d+[^\W\d_]")
_THAI_OR_LAO = re.compile(r"[\u0e01-\u0e4e\u0e81-\u0ece]")
_GAP = re.compile(
    r"(?<![ \t\u00a0])[ \t\u00a0]++(?=(?P<so>ดังนั้น|ฉะนั้น|เพราะฉะนั้น|คำตอบ|จากนั้น|หลังจากนั้น|ต่อมา|ต่อไป|สุดท้าย|ในที่สุด|ขั้นที่"
    r"|ขั้นตอนที่|ตอนนี้|สรุป|นั่นคือ|นั่นหมายความ|อันดับแรก|ก่อนอื่น|ດັ່ງນັ້ນ|ຄຳຕອບ|ຄໍາຕອບ|ຈາກນັ້ນ|ຕອນນີ້|ສະຫຼຸບ)"
    r"|(?!และ|หรือ|ที่|ซึ่ง|กับ|ของ|ว่า|คือ|เป็น|เท่ากับ|จำนวน|ราคา|ละ|ต่อ|จาก|ใน|ให้|ได้|เพื่อ|ແລະ|ຫຼື|ທີ່|ຂອງ)"
    r"[\u0e01-\u0e2e\u0e40-\u0e44\u0e81-\u0eae\u0ec0-\u0ec4])"
)
_SHORTEST_CLAUSE = 30
_SHORTEST_BEFORE_SO = 12
_SHORTEST_LAST = 8


def stops_in(line: str) -> Iterator[int]:
    """Where sentences end at the stops of scripts other than Latin, as offsets behind a stop and its closing quotes.

    A wide point between two digits (3．5) ends nothing, and neither does a stop inside a quotation or before a comma.
    """
    visible = (len(line) - len(line.lstrip()), len(line.rstrip()))
    quoted = [match.span() for match in _QUOTED.finditer(line) if match.span() != visible]
    initials = {match.end() - 1 for match in _INITIAL.finditer(line)}
    for match in _STOP.finditer(line):
        start, stop = match.span()
        if _is_decimal(line, start, stop) or start in initials or is_inside(stop, quoted) or _GOES_ON.match(line, stop):
            continue
        yield stop


def _is_decimal(line: str, start: int, stop: int) -> bool:
    """Whether a stop is a decimal point: 3．5, or 3。5公斤 as it is sometimes typed, but not 除以 2。80 / 2 = 40."""
    if stop - start != 1 or not line[start - 1 : start].isdigit() or not line[stop : stop + 1].isdigit():
        return False
    return line[start] not in "。｡" or bool(_TYPED_DECIMALS.match(line, stop))


def clauses_in(line: str) -> Iterator[int]:
    """Where clauses end in Thai and Lao: before a word such as "so", and between long stretches of letters."""
    start, end = 0, len(line.rstrip())
    for match in _GAP.finditer(line):
        follows_letter = _THAI_OR_LAO.match(line, match.start() - 1) if match.start() else None
        shortest = _SHORTEST_BEFORE_SO if match["so"] else _SHORTEST_CLAUSE
        left, right = match.start() - start, end - match.end()
        if (follows_letter or match["so"]) and left >= shortest and right >= _SHORTEST_LAST:
            yield match.start()
            start = match.start()


def is_inside(cut: int, spans: Sequence[Span]) -> bool:
    """Whether a cut lies within one of the rising spans, and at neither end of it."""
    index = bisect_left(spans, (cut, 0)) - 1
    return index >= 0 and cut < spans[index][1]
