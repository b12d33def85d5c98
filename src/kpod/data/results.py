"""Which mention of a number that the question gives is a result, and which only repeats the question.

In "Tom had 8 apples, 5 + 3 = 8 were sold" the first 8 is given and the second is worked out.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from kpod.data.statements import SENTENCE_END
from kpod.records import Span

BEFORE, AFTER = 80, 48
"""Characters beside a mention that say what it is."""
AHEAD = 200
"""Characters between a result that is stated ahead and the end of its calculation."""
NEAR = 12
"""Equations in which a name may have been worked out before."""

_OPERATOR = r"(?:[-+*/×÷·−–⋅]|\\times|\\div|\\cdot|x(?=\s?[\d($])|\b(?:plus|minus|times|multiplied by|divided by)\b)"
_AMOUNT = r"\\?[$€£]?\.?\d[\d,]{0,20}(?:\.\d{1,20})?%?"
_UNITS = r"(?:\s?\(?[A-Za-z'’]{1,15}(?:[ /][A-Za-z'’]{1,15}){0,3}\)?)?"
OPERATION = re.compile(
    rf"{_AMOUNT}{_UNITS}\)?\s?{_OPERATOR}\s?\(?{_AMOUNT}|\\frac\s?\{{[^{{}}]{{1,30}}\}}\{{"
    rf"|\b(?:half|twice|double|triple)\s(?:of\s)?{_AMOUNT}",
    re.IGNORECASE,
)
EQUALS = re.compile(r"(?<![<>!])=>?|≈|→|\\approx\b|\\Rightarrow\b")
BEHIND_EQUALS = re.compile(r"(?:=>?|≈|→|\\approx)[\s*_$\\({\[]*(?:(?:about|approximately|only|just|a total of)\s)?\Z")
OPERAND_AFTER = re.compile(
    rf"[xyzn](?![A-Za-z])|\(|{_UNITS}[\s)]*(?:(?:[+*×÷·⋅]|\\times|\\div|\\cdot)|[-−–/]\s?[\d($€£\\]|[-−–/]\s[A-Za-z]\b|x\s?[\d($]"
    r"|(?:plus|minus|times|multiplied|divided)\b)"
)
OPERAND_BEFORE = re.compile(
    r"(?:[\w)%.]\s?(?:[-+*/×÷·−–⋅]|\\times|\\div|\\cdot|(?<=\s)x)\s?[($\\]*"
    r"|\b(?:plus|minus|times|by|from|add|adding|added|subtract|subtracting|subtracted|divide|dividing|divided"
    r"|multiply|multiplying|multiplied)\s(?:the\s|another\s|all\s)?)\Z",
    re.IGNORECASE,
)
ATTRIBUTE = re.compile(
    r"(?:\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve))\s\Z", re.IGNORECASE
)
_FILLER = (
    r"(?:\s(?:us|you|him|her|them|me|it|with|at|a|an|the|total|sum|of|only|just|about"
    r"|approximately|exactly|be|[A-Z]\w{1,15})){0,4}"
)
TOLD_BEFORE = re.compile(
    r"\b((?:equal(?:s|\sto|ling)?|gives?|giving|(?:to|we|you|i)\sget|leaves?|leaving|left\swith|results?\sin"
    r"|resulting\sin|totals?|totall?ing|comes?\s(?:out\s)?to|works?\sout\s(?:to|as)|amounts?\sto|turns?\sout\sto"
    r"|yields?|which\s(?:is|makes|equals|means)|that(?:\sis|['’]s|\smakes)|(?i:answer)(?:\sis|:)?"
    r"|(?:total|difference|sum|average|result|product|remainder)\s(?:of|is)|ends?\sup\swith)"
    rf"){_FILLER}[\s:*_]*\Z"
)
TOLD_AFTER = re.compile(
    r"(?:\s[\w'’$-]{1,20}){0,5}?\s(left|remaining|remains?|altogether|in\stotal|in\sall|overall)\b", re.IGNORECASE
)
CONCLUDES = re.compile(
    r"\b(?:so|therefore|thus|hence|consequently|finally|in conclusion|as a result|(?:this|that|which) means|meaning"
    r"|we can conclude|conclude that)\b|\b(?:since|because|if|when)\b[^,.;]{1,70},",
    re.IGNORECASE,
)
GIVEN = re.compile(
    r"(?:^|[,;:]|\b(?:so|therefore|thus|hence)\b)\s*(?:since|because|if|when|given|with|as|after|while|although"
    r"|considering|knowing|out of)\b[^,;:]*\Z",
    re.IGNORECASE,
)
TOTAL = re.compile(r"(?:total|sum|altogether|in all|overall)", re.IGNORECASE)
IS = re.compile(r"\b(?:is|are|was|be|makes?)\s(?:(?:about|approximately|only|just)\s)?\Z")
JUSTIFIED = re.compile(r"[^=+*/÷×]*(?:\b(?:because|since|as)\b|[(:])[\s($\\]*\d[^;:]*=[\s$(*]*", re.DOTALL)
CLAUSE = re.compile(r"[,;]\s")
VARIABLE = re.compile(r"[\s*_$(\\]*([A-Za-z])[\s*_)]*")
LAST_WORD = re.compile(r"([\w'’]+)\W*\Z")
FIRST_WORD = re.compile(r"\W*([\w'’]+)")


class Results:
    """Tells results from repetitions among the mentions of one value in a rationale.

    Args:
        text: The rationale, of plain characters.
        question: The question, of plain characters.
        given: Where the question states the value.
    """

    def __init__(self, text: str, question: str, given: Sequence[Span]) -> None:
        self.text = text
        self.stops = [match.end() for match in SENTENCE_END.finditer(text)]
        self.operations = [match.span() for match in OPERATION.finditer(text)]
        self.equals = [match.start() for match in EQUALS.finditer(text)]
        self.last = len(text.rstrip(" \n\"'*."))
        concludes = CONCLUDES.search(text)
        self.first_conclusion = concludes.start() if concludes else len(text)
        beside = [(question[max(0, start - BEFORE) : start], question[stop : stop + AFTER]) for start, stop in given]
        self.given_before = {match[1].lower() for before, _ in beside if (match := TOLD_BEFORE.search(before))}
        self.given_after = {match[1].lower() for _, after in beside if (match := TOLD_AFTER.match(after))}
        self.given_words = {_neighbours(before, after) for before, after in beside}

    def first(self, places: Sequence[Span]) -> int | None:
        """Where the first result starts; where none of the mentions is told to be one, the last of them."""
        for position, (start, stop) in enumerate(places):
            if self.is_result(start, stop):
                return self._announced(places[:position], start)
        return max((start for start, _ in places), default=None)

    def _announced(self, places: Sequence[Span], start: int) -> int:
        """Where a sentence states the result ahead of its calculation: "he needs 8, because 5 + 3 = 8"."""
        sentence, _ = self._sentence(start)
        near = places[bisect_left(places, (max(sentence, start - AHEAD), 0)) :]
        ahead = (one for one, stop in near if JUSTIFIED.fullmatch(self.text, stop, start))
        return next(ahead, start)

    def is_result(self, start: int, stop: int) -> bool:
        """Whether a mention states what was worked out rather than what the question gives."""
        sentence, end = self._sentence(start)
        before = self.text[max(sentence, start - BEFORE) : start]
        after = self.text[stop : min(end, stop + AFTER)]
        is_operand = bool(OPERAND_AFTER.match(after))
        if BEHIND_EQUALS.search(before):
            if self._worked_out(sentence, start, named_only=is_operand):
                return True
        elif OPERAND_BEFORE.search(before):
            is_operand = True
        if is_operand or ATTRIBUTE.search(before):
            return False
        return (
            self._is_told(start, before, after)
            or bool(IS.search(before) and self._has_operation(self._clause(sentence, start), start))
            or self._concludes(sentence, end, start, before, after)
        )

    def _sentence(self, at: int) -> Span:
        position = bisect_right(self.stops, at)
        start = self.stops[position - 1] if position else 0
        return start, self.stops[position] if position < len(self.stops) else len(self.text)

    def _worked_out(self, sentence: int, at: int, *, named_only: bool) -> bool:
        """Whether the left side of an equation is a calculation, or was one before: "sum = 3 + 5, sum = 8"."""
        sign = self.equals[bisect_left(self.equals, at) - 1]
        if self._has_operation(self._clause(sentence, sign), sign):
            return True
        position = bisect_left(self.equals, sign)
        if named_only or not position:
            return False
        left = self._left_side(sign)
        variable = VARIABLE.fullmatch(left)
        if variable or not left.strip(" \n*_$"):
            return True  # x = 8 behind another equation; a line that goes on with "= 8"
        return any(left == self._left_side(other) for other in self.equals[max(0, position - NEAR) : position])

    def _left_side(self, sign: int) -> str:
        """What stands before an equals sign on its line, as it was named before."""
        line = self.text[max(0, sign - BEFORE) : sign]
        return " ".join(re.split(r"[\n,;:=]|\.\s", line)[-1].lower().split())

    def _has_operation(self, start: int, stop: int) -> bool:
        position = bisect_left(self.operations, (start, 0))
        return position < len(self.operations) and self.operations[position][1] <= stop

    def _clause(self, sentence: int, stop: int) -> int:
        """Where the clause starts that a place stands in."""
        commas = [match.end() for match in CLAUSE.finditer(self.text, max(sentence, stop - BEFORE), stop)]
        return commas[-1] if commas else sentence

    def _is_told(self, start: int, before: str, after: str) -> bool:
        """Whether words beside a mention call it a result that do not stand beside it in the question too.

        A total does so only behind a calculation or a conclusion: it may be another name for what is given.
        """
        if GIVEN.search(before):
            return False
        told, rest = TOLD_BEFORE.search(before), TOLD_AFTER.match(after)
        words = [
            match[1].lower()
            for match, given in ((told, self.given_before), (rest, self.given_after))
            if match and match[1].lower() not in given
        ]
        return any(not TOTAL.search(word) or self._goes_before(start) for word in words)

    def _goes_before(self, start: int) -> bool:
        """Whether anything was calculated or concluded before."""
        calculated = bool(self.operations) and self.operations[0][1] <= start
        return calculated or self.first_conclusion < start

    def _concludes(self, sentence: int, end: int, start: int, before: str, after: str) -> bool:
        """Whether a mention stands in a conclusion, behind all that is calculated there."""
        position = bisect_left(self.operations, (start, 0))
        goes_on = position < len(self.operations) and self.operations[position][0] < end
        if goes_on or GIVEN.search(before):
            return False
        if sentence and end >= self.last:
            return True
        return bool(CONCLUDES.search(before)) and _neighbours(before, after) not in self.given_words


def _neighbours(before: str, after: str) -> tuple[str, str]:
    """The words right before and behind a mention."""
    last, first = LAST_WORD.search(before), FIRST_WORD.match(after)
    return (last[1].lower() if last else "", first[1].lower() if first else "")
