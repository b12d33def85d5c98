r"""Where a text states an answer: "the answer is", "#### ", `\boxed{}`, `<answer>`, and words of other languages.

The words of other languages stand in LANGUAGES; a user adds phrases of their own under `data.answer_words`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from kpod.data.markup import plain_characters
from kpod.data.numbers import VULGAR

LONGEST_STATEMENT = 300
MOST_STATEMENTS = 20
RETRACTION = 80


@dataclass(frozen=True, slots=True)
class Language:
    """How a language introduces an answer: one of the nouns, then one of the verbs, a colon or a dash."""

    nouns: tuple[str, ...]
    verbs: tuple[str, ...] = ()
    comma: bool = True
    """Whether decimals are written with a comma."""


LANGUAGES = {
    "Arabic": Language(("الإجابة", "الاجابة", "الجواب", "الناتج"), ("هي", "هو"), comma=False),
    "Bengali": Language(("উত্তর",), ("হল", "হলো", "হচ্ছে", "হবে"), comma=False),
    "Chinese": Language(("答案", "答"), ("就是", "应该是", "應該是", "是", "为", "為", "等于"), comma=False),
    "Dutch": Language(("antwoord",), ("is", "luidt")),
    "French": Language(("réponse", "reponse"), ("est", "serait", "sont", "vaut")),
    "German": Language(("antwort", "lösung"), ("ist", "lautet", "beträgt", "wäre", "sind")),
    "Hindi": Language(("उत्तर", "जवाब"), ("है", "होगा"), comma=False),
    "Indonesian": Language(("jawabannya", "jawaban"), ("adalah", "ialah")),
    "Italian": Language(("risposta",), ("è", "e'", "sarebbe", "sono")),
    "Japanese": Language(("答え", "答", "解答", "正解"), ("は", "が"), comma=False),
    "Korean": Language(("정답", "답"), ("은", "는", "이"), comma=False),
    "Polish": Language(("odpowiedź", "odpowiedz"), ("to", "brzmi", "wynosi")),
    "Portuguese": Language(("resposta",), ("é", "seria", "são")),
    "Russian": Language(("ответ",), ("это", "равен", "будет", "составляет")),
    "Spanish": Language(("respuesta",), ("es", "sería", "son")),
    "Swahili": Language(("jibu",), ("ni",), comma=False),
    "Telugu": Language(("సమాధానం", "జవాబు"), (), comma=False),
    "Thai": Language(("คำตอบ",), ("คือ", "เป็น"), comma=False),
    "Turkish": Language(("cevap", "yanıt"), ()),
    "Ukrainian": Language(("відповідь",), ("це", "дорівнює")),
    "Urdu": Language(("جواب",), ("ہے",), comma=False),
    "Vietnamese": Language(("đáp án", "đáp số", "câu trả lời"), ("là",)),
}
"""The eleven languages of MGSM but English, and some more."""

_SIGNED = rf"[-+−–$€£¥₹(]{{0,3}}[\d.\\{VULGAR}]"
_ALONE = r"\(?(?-i:[A-Z])\)?(?:[.,;:!)*_\n]|\Z)"
_ENGLISH = (
    r"(?<!step )(?<!step-)\banswer"
    r"(?: to (?:the|this|that|your) (?:\w+ )?(?:question|problem)|,? (?:in|to|for|rounded) [^\n.:;=?!]{1,40}?,?"
    r"(?= (?:is|equals)\b|[:=])| ?\([^()\n]{1,40}\))?[*_ ]{0,4}"
    r"(?:(?:is|are|was|were|equals|becomes|(?:would|will) be|(?:comes|works) out (?:to|as)(?: be)?"
    r"|comes to|reads|turns out to be)\b"
    rf"|:=|[:=：]|->|=>|[→⇒]|(?:should|must|has to) be\b(?=\s[*_]{{0,3}}(?:{_SIGNED}|{_ALONE})))"
    r"|\b(?:correct|right|best) (?:option|choice|statement)[*_ ]{0,4}(?:(?:is|would be)\b|[:=：])"
    r"|\bans\.?[*_ ]{0,4}[:=：]"
    rf"|\banswer(?: ?#?\d{{1,2}} ?[:)]|['’‘]s(?=\s[*_]{{0,3}}{_SIGNED}))"
    rf"|^[ \t>#*_-]{{0,6}}(?:final )?ans(?:wer|\.)?[*_]{{0,3}}[ \t]{{1,4}}(?:[-–—][ \t])?"
    rf"(?=[*_]{{0,3}}{_SIGNED})(?!\d{{1,2}}[.:)])"
)
_HEADING = (
    r"^[ \t]{0,3}(?:#{1,6}[ \t]*)?[*_]{0,3}(?:(?:the|my|final|correct)[ \t]+){0,2}answer"
    r"[ \t]*[*_]{0,3}[ \t]*[:：]?[*_]{0,3}[ \t]*(?:\n|\Z)"
)
_HASHES = (
    rf"(?<!\#)\#{{4}}(?!\#)(?=\s{{0,3}}[*_]{{0,3}}(?:{_SIGNED}|\(?[a-z]\b"
    rf"|(?:yes|no|true|false)\b))(?! ?\d{{1,2}}[.)] +[a-z])"
)
_TAG = r"(?P<tag>[<\[](?:final[_ ]?)?ans(?:wer)?[>\]])"
_BOXED = r"(?P<boxed>\\(?:boxed|fbox|framebox) ?\{)|(?P<box>\\(?:boxed|fbox) (?=[^\s{]))"
_JSON = r"(?P<json>[\"'](?:\w{1,20}_)?answer[\"']\s{0,3}:)"
_LETTER = r"\(?(?-i:[A-Z])\)?"
_REVERSED = (
    rf"(?<![\w(/.,])(?P<said>{_LETTER}|[$€£]?-?\d[\d,]*(?:\.\d+|/\d+)?%?(?: [a-z]+)?) is (?:the|our|my|your) "
    r"(?:(?:final|correct|right|best) )?(?:answer|option|choice)\b(?! to\b)"
    rf"|\b(?:option|choice) (?P<right>{_LETTER}) is (?:the )?(?:correct|right|best)\b"
)

WOULD = re.compile(r"\bwould be\Z", re.IGNORECASE)
SUPPOSED = re.compile(r"\b(?:if|otherwise|assum(?:e|es|ing)|unless|were)\b", re.IGNORECASE)
NEXT_QUESTION = re.compile(r"^[ \t]*(?:Q|Question)[ \t]*:", re.MULTILINE)
OPENING = re.compile(r"\A(?:[\s*_:：}]|\$\$|\\[(\[])+")
BULLET = re.compile(r"\A\s*\n\s*[-*•>]\s+")
# Boxes that stand in a row are one statement.
BOX_BEFORE = re.compile(
    r"\\boxed ?\{(?P<said>[^{}]{1,60}|[^{}]{0,40}\{[^{}]{0,40}\}[^{}]{0,40})\}\s?\$?"
    r"(?P<joint>,|\s(?:or|and)|,\s(?:or|and))\s\$?\Z"
)
JSON_VALUE = re.compile(r"\s*(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^,}\n]*))")
SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bRs)(?<!\bapprox)(?<!\bca)(?:[.?]|!(?!\s?[=+*/×÷]))(?=[\s\"'”’)*]|\Z)|[。！？｡।॥۔؟።]|\n"
)
# "(but that is wrong)", not "(the others are wrong)" or "(A is wrong)"; "Wait, no", not the words "wait in line".
RETRACTED = re.compile(
    r"(?:\(|[,;–-]\s*(?:but|which|though)\b)\s*(?:(?!others?\b|rest\b|remaining\b|options\b|choices\b|answers\b"
    r"|(?-i:[B-HJ-Z]\b|A(?:,|\)? (?:is|was|and|or)\b)))[\w'’]+,?\s+){0,4}?(?:incorrect|wrong|not (?:correct|right))\b"
    r"|[(,;–.!?-]\s*(?:oh,? )?(?:wait|hmm)\b(?=\s*(?:[,.…!?:—–-]|\Z)"
    r"|\s+(?:no|that|this|there|it|i|we|let|actually|a (?:minute|moment|second))\b)"
    r"|[,;.!–-]\s*(?:(?:actually|no|sorry),? (?:it|that|wait|i|the answer)\b|sorry\b|scratch that\b"
    r"|correction\b|i mean\b"
    r"|no,\s[-$]?\d)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of an answer.

    Attributes:
        said: What is stated: the rest of its sentence, or what stands in the box or the tag.
        window: Some text from there on, in which it may be taken back.
        is_boxed: Whether it stands in a box, where only mathematics is expected.
        comma: Whether its language writes decimals with a comma.
    """

    said: str
    window: str
    is_boxed: bool = False
    comma: bool = False


def statements(text: str, words: Sequence[str] = ()) -> Iterator[Statement]:
    """The statements of an answer in a text, last first; a question that its writer goes on to ask is cut off.

    Args:
        text: What a teacher or student wrote.
        words: Further words that introduce an answer (`data.answer_words`).
    """
    text = plain_characters(text)
    blank = len(text) - len(text.lstrip())
    goes_on = NEXT_QUESTION.search(text, blank + 1)
    text = text[: goes_on.start()] if goes_on else text
    for match in anchors(text, words)[: -MOST_STATEMENTS - 1 : -1]:
        yield _statement(match, text)


def stated_at_end(text: str, words: Sequence[str] = ()) -> bool:
    """Whether the last statement of an answer in a text stands in its last sentence."""
    text = plain_characters(text).rstrip()
    found = anchors(text, words)
    if not found:
        return False
    rest = OPENING.sub("", text[found[-1].end() :], count=1)
    return not any(re.search(r"\d", sentence) for sentence in SENTENCE_END.split(rest)[1:])


def _statement(match: re.Match[str], text: str) -> Statement:
    raw = text[match.end() : match.end() + LONGEST_STATEMENT]
    before = match["said"] or match["right"]
    if before:
        return Statement(before, raw)
    if match["json"]:
        value = JSON_VALUE.match(raw)
        return Statement(next(filter(None, value.groups()), "") if value else "", "")
    window = OPENING.sub("", BULLET.sub("", raw, count=1), count=1)
    if match["boxed"]:
        return Statement(_boxes_before(text, match.start()) + _braced(window), window, is_boxed=True)
    if match["box"]:
        return Statement(re.split(r"[\s$]", window, maxsplit=1)[0], window, is_boxed=True)
    said = SENTENCE_END.split(window, maxsplit=1)[0]
    if match["tag"]:
        said = re.split(r"[<\[]/", window, maxsplit=1)[0].strip()
    return Statement(said, window, comma=match["comma"] is not None)


def _boxes_before(text: str, start: int) -> str:
    """The box that a box is joined to, with what joins them: "3 or " in "3 or 5", each in a box; mostly empty."""
    before = BOX_BEFORE.search(text, max(0, start - LONGEST_STATEMENT // 2), start)
    if before is None:
        return ""
    return f"{_boxes_before(text, before.start())}{before['said']}{before['joint']} "


def _braced(text: str) -> str:
    """What stands before the brace that closes a group opened before the text; empty where none does."""
    depth = 1
    for match in re.finditer(r"(?<!\\)[{}]", text):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return text[: match.start()]
    return ""


def anchors(text: str, words: Sequence[str] = (), start: int = 0, stop: int | None = None) -> list[re.Match[str]]:
    """What introduces an answer in a text of plain characters, between two characters of it, in its order.

    The matches' groups say how the answer is found: `boxed` and `box` (in a box), `tag` (in a tag), `said` and `right`
    (before the words), `comma` (behind words of a language with decimal commas); without any it follows. What an
    answer would be "if", or "otherwise", introduces none.
    """
    folded = text[start:stop].casefold()
    present = tuple(name for name, language in LANGUAGES.items() if any(noun in folded for noun in language.nouns))
    found = _anchor(tuple(words), present).finditer(text, start, len(text) if stop is None else stop)
    return [match for match in found if not (WOULD.search(match[0]) and _is_supposed(text, match.start()))]


def _is_supposed(text: str, start: int) -> bool:
    before = text[max(0, start - LONGEST_STATEMENT) : start]
    return bool(SUPPOSED.search(SENTENCE_END.split(before)[-1]))


@cache
def _anchor(words: tuple[str, ...], present: tuple[str, ...]) -> re.Pattern[str]:
    """The pattern for a user's words and some languages; one for all of them takes ten times as long."""
    of_comma = [_of_language(LANGUAGES[name]) for name in present if LANGUAGES[name].comma]
    patterns = [
        _ENGLISH,
        _HASHES,
        _HEADING,
        _TAG,
        _BOXED,
        _JSON,
        _REVERSED,
        rf"(?P<comma>{'|'.join(of_comma) or '(?!)'})",
        *(_of_language(LANGUAGES[name]) for name in present if not LANGUAGES[name].comma),
        *(rf"{_phrase(word)}[*_ ]{{0,4}}[:：=]?" for word in words if word.strip()),
    ]
    return re.compile("|".join(patterns), re.IGNORECASE | re.MULTILINE)


def _phrase(words: str) -> str:
    """A phrase as a pattern: any white space between its words, and no letter at an end that is one."""
    escaped = r"\s{1,4}".join(map(re.escape, plain_characters(words).split()))
    bound = "(?<![^\\W_])" if words.strip()[:1].isascii() and words.strip()[:1].isalnum() else ""
    return bound + escaped


def _of_language(language: Language) -> str:
    nouns, verbs = "|".join(language.nouns), [*map(_verb, language.verbs)]
    # Not the heading of a whole solution: "Schritt-für-Schritt-Antwort:", "ステップごとの答え:".
    head = r"(?<![^\W\d_]-)(?<!ごとの)(?<!ধাপে )(?<!దశలవారీగా )" + ("(?<![A-Za-zÀ-ÿ])" if nouns.isascii() else "")
    # "La respuesta final es": a word may stand between where words have spaces.
    between = r"(?: [^\W\d_]{1,15})?" if language.comma else ""
    follows = "|".join([*verbs, r"[:：=—–]", rf"(?=\s{{0,3}}{_SIGNED})"])
    return rf"{head}(?:{nouns})[*_]{{0,3}}{between}[ \t]{{0,3}}[*_]{{0,3}}(?:{follows})"


def _verb(verb: str) -> str:
    return re.escape(verb) + (r"(?![^\W_])" if verb[-1].isalpha() and verb[0] < "\u0700" else "")
