"""The language of a text, as far as its abbreviations differ from English ones, and where sentencex ends sentences.

English is assumed unless the script or several common words show another language, so no English text is read by the
rules of another language.
"""

import re
from functools import cache
from typing import NamedTuple

import sentencex

from kpod.records import Span
from kpod.steps.scripts import STOPS

_SAMPLE = 4000
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")


class _Language(NamedTuple):
    """What is known of a language besides the model that sentencex has of it.

    `words` are common ones, which tell it from the others. After `held` (regular expressions, without their last ".")
    no sentence ends; after `etc` one ends where a capital follows.
    """

    words: str = ""
    held: str = ""
    etc: str = "etc"


_GERMAN_STARTERS = (
    "Das|Die|Der|Er|Sie|Es|Wir|Ich|Also|Dann|Daher|Somit|Folglich|Insgesamt|Nun|Da|Dies|Diese|Danach|Jetzt|Am|Im|In|"
    "Jede[rs]?|Wenn|Um|Zusammen|Zuerst|Als|Eine?|Mit|Für|Nach|Von|Auf|Anschließend|Schließlich|Außerdem|Zum|Zur|Ihre?|"
    "Seine?|Pro|Ab|Bei|So|Damit|Deshalb|Deswegen|Weil|Und|Aber|Denn|Alle|Beide|Antwort"
)
_GERMAN_ORDINAL = (
    r"(?:am|der|die|das|dem|den|des|im|vom|zum|zur|beim|bis|ab|seit|\d\. (?:und|oder|bis)|jede[rmns]?|seine?[rmns]?"
    rf"|ihre?[rmns]?|eine?[rmns]?) \d{{1,3}}(?=\. (?!(?-i:{_GERMAN_STARTERS})\b))"
    r"|\d{1,2}(?=\. (?:Jan|Feb|März|April|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez))"
)
_LANGUAGES = {
    "en": _Language(
        "the of and is are was so has have he she they each for that this there we it with from were be by then if "
        "which answer will would total first to in on at as not you her his"
    ),
    "de": _Language(
        "der das und ist sind er sie es hat haben mit von ein eine einen nicht wenn auch also insgesamt im am zu für "
        "pro jede jeder jedes dann wir die den dem des antwort daher",
        r"z\. ?B|d\. ?h|u\. ?a|u\. ?U|z\. ?T|o\. ?ä|i\. ?d\. ?R|s\. ?o|v\. ?a|[nv]\. ?Chr|z\. ?Z|d\. ?J|bzw|ca|vgl|"
        rf"evtl|ggf|inkl|exkl|mind|zzgl|abzgl|nr|dr|prof|hr|fr|bspw|sog|insb|rd|usw|etc|{_GERMAN_ORDINAL}",
        rf"(?:usw|etc|u\. ?s\. ?w)(?=\. (?-i:{_GERMAN_STARTERS})\b)",
    ),
    "fr": _Language(
        "le la les des et est sont il elle avec une dans pour par donc chaque au aux du ce qui réponse nous ont "
        "combien de on en un",
        r"p\. ?ex|c\.[- ]?à[-. ]d|mme|mmes|mlle|mm|dr|pr|env|approx|ex|n°|art",
    ),
    "es": _Language(
        "el la los las es son tiene con una en por para cada que del entonces respuesta hay se al cuántas de tienen un",
        r"p\. ?ej|p\. ?e|[ad]\. ?C|ee\. ?uu|sr|sra|sres|srta|dr|dra|uds?|vd|ej|aprox|núm|nro|pág|prof|avda?",
    ),
    "pt": _Language(
        "os as são tem com uma em por para cada que do da dos das então resposta há ele ela de no na um total",
        r"p\. ?ex|sr|sra|srs|dr|dra|profa?|ex|aprox|núm|pág|av",
    ),
    "it": _Language(
        "il lo gli sono ha con una di per ogni che del della quindi risposta ci nel dei le la hanno un in",
        r"p\. ?es|sigg?|sig\.ra|dott|prof|es|ca|pag",
        "ecc|etc",
    ),
    "nl": _Language(
        "de het een en is zijn heeft hij zij ze met van voor elke dus per in op er dat antwoord niet wij we hebben",
        r"o\. ?a|d\. ?w\. ?z|m\. ?a\. ?w|dhr|mevr|bijv|ca|nr|incl|resp|dr",
        "enz|etc",
    ),
    "pl": _Language(
        "na jest są ma do że się więc każdy każda po nie odpowiedź to za ile od",
        r"np|tj|tzn|ok|dr|prof|św|wg|nr|m\. ?in",
        "itd|itp",
    ),
    "da": _Language(
        "og er har med til den det en et af på hver så for ikke svaret vi han hun altså",
        r"f\. ?eks|bl\. ?a|dvs|ca|nr|hr|dr",
        "osv|etc",
    ),
    "sv": _Language(
        "och är har med till den det en ett av på varje så för inte svaret vi han hon alltså",
        r"t\. ?ex|bl\. ?a|d\. ?v\. ?s|dvs|ca|nr|dr",
        "osv|etc",
    ),
    "fi": _Language("ja on ovat hänellä joten jokainen yhteensä vastaus se ei kuin niin hän", "esim|ts|klo", "jne"),
    "sk": _Language("je sú má na do sa teda každý odpoveď to za po koľko od", "napr|tj|resp|č|dr", "atď"),
    "ca": _Language(
        "el la els les és són té amb una en per cada que del llavors resposta hi ha", r"p\. ?ex|srs?|sra|dra?"
    ),
    "sw": _Language(
        "na ya wa ni kwa kila ana za la katika jibu hivyo kwamba jumla alikuwa alinunua", "bw|bi|dkt|sh|tsh|ksh", "nk"
    ),
    "tr": _Language("ve bir bu için ile her toplam cevap olarak var kaç kadar olur", "dr|örn|prof|sn|no", "vb|vs"),
    "id": _Language(
        "dan yang di ke dari adalah untuk dengan setiap jadi jawaban ada memiliki", "rp|dr|bpk|sdr", "dll|dsb|dst"
    ),
    "ru": _Language("", r"т\. ?[екно]|см|ср|рис|стр|им|ул|акад|проф|гл|напр|прибл|ок", r"т\. ?[дп]|др|пр"),
    "uk": _Language("", r"т\. ?зв|т\. ?ч|див|рис|стор|вул|акад|проф|напр|бл", r"т\. ?[дп]|ін"),
    "bg": _Language("", r"т\. ?[ен]|вж|ул|проф|напр|ок", r"т\. ?н|др"),
    "el": _Language("", r"π\. ?χ|δηλ|κ|κα|δρ|περ", r"κ\.?λ\.?π|κτλ"),
    "ar": _Language("", "د|م|أ|ص|ق\\. ?م"),
    "hi": _Language("", "डॉ|श्री|प्रो|पं|कु|रु|रू|कि\\. ?मी"),
    "bn": _Language("", "ডা|ডাঃ|ড|মি|মিঃ|মো|রু"),
    "pa": _Language("", "ਡਾ|ਰੁ|ਸ਼੍ਰੀ"),
    "gu": _Language("", "ડૉ|ડો|રૂ|શ્રી"),
    "ta": _Language("", "திரு|ரூ|டாக்டர்"),
    "te": _Language("", "డా|రూ|శ్రీ"),
    "kn": _Language("", "ಡಾ|ರೂ|ಶ್ರೀ"),
    "ml": _Language("", "ഡോ|രൂ|ശ്രീ"),
    "hy": _Language(),
    "my": _Language(),
    "am": _Language("", "ዶ/ር|ዶ\\.ር"),
    "ja": _Language(),
}
_BY_SCRIPT = {
    "ru": "\u0400-\u04ff",
    "el": "\u0370-\u03ff",
    "hy": "\u0530-\u058f",
    "ar": "\u0600-\u06ff",
    "hi": "\u0900-\u097f",
    "bn": "\u0980-\u09ff",
    "pa": "\u0a00-\u0a7f",
    "gu": "\u0a80-\u0aff",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "kn": "\u0c80-\u0cff",
    "ml": "\u0d00-\u0d7f",
    "my": "\u1000-\u109f",
    "am": "\u1200-\u137f",
    "ja": "\u3040-\u30ff",
}
_SCRIPTS = {code: re.compile(f"[{letters}]") for code, letters in _BY_SCRIPT.items()}
_WORDS = {code: frozenset(language.words.split()) for code, language in _LANGUAGES.items() if language.words}
_FEWEST_WORDS = 2

# sentencex hides what two "*" or nested brackets enclose, is slow at quotes other than ", and panics at "A\u00a0.".
_WIDE_SPACES = "".join(chr(code) for code in range(0x80, 0x3001) if chr(code).isspace())
_HIDDEN = str.maketrans(
    {**dict.fromkeys("()[]{}<>*_`‘‚‛‹›《》『』（）" + _WIDE_SPACES, " "), **dict.fromkeys("“”«»「」„‟", '"')}
)
_SINGLE_QUOTE = re.compile(r"(?<!\w)'|'(?!\w)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WINDOW = 4096


def language_of(text: str) -> str:
    """The code of a text's language: by its script, or by its common words; "en" where neither shows another.

    Example:
        >>> language_of("Er hat 5 Äpfel und isst 3."), language_of("У него 5 яблок."), language_of("It is 5.")
        ('de', 'ru', 'en')
    """
    sample = text[:_SAMPLE]
    if not sample.isascii():
        found, count = max((len(pattern.findall(sample)), code) for code, pattern in _SCRIPTS.items())[::-1]
        if count > len(_LATIN.findall(sample)):
            return _cyrillic(sample) if found == "ru" else found
    words = set(_LETTERS.findall(sample.lower()))
    hits = {code: len(words & common) for code, common in _WORDS.items()}
    best = max(hits, key=lambda code: hits[code])
    return best if hits[best] >= _FEWEST_WORDS else "en"


def _cyrillic(sample: str) -> str:
    if re.search("[іїєґІЇЄҐ]", sample):
        return "uk"
    return "bg" if "ъ" in sample and not re.search("[ыэЫЭ]", sample) else "ru"


@cache
def _abbreviations(language: str) -> re.Pattern[str]:
    known = _LANGUAGES[language]
    return re.compile(rf"(?<![^\s(\[\"'«“„{STOPS}])(?:(?P<etc>{known.etc})|{known.held or '(?!)'})\.", re.IGNORECASE)


def held_dots(line: str, language: str) -> tuple[list[Span], set[int]]:
    """The abbreviations of a language that is not English, and the last dots of those that may end a sentence.

    Returns:
        The spans of all, with their last dots, and where the last dots of such as "etc." are.
    """
    if language == "en":
        return [], set()
    matches = list(_abbreviations(language).finditer(line))
    return [match.span() for match in matches], {match.end() - 1 for match in matches if match["etc"]}


def likely_ends(line: str, language: str) -> list[int]:
    """Where sentencex ends the sentences of a line, in time linear in its length.

    sentencex counts characters from the start of its text at every end, so a long line goes to it in windows, each
    of which starts at a sentence's end.
    """
    plain = _SURROGATE.sub("\ufffd", _SINGLE_QUOTE.sub(" ", line.translate(_HIDDEN)))
    ends: list[int] = []
    start, size = 0, _WINDOW
    while True:
        window = plain[start : start + size]
        found = [start + sentence["end_index"] for sentence in sentencex.get_sentence_boundaries(language, window)]
        if start + size >= len(plain):
            return ends + found
        if len(found) > 1 and found[-2] > start:  # the last is where the window ends
            ends += found[:-1]
            start, size = found[-2], _WINDOW
        else:
            size *= 2


def with_closing_quotes(line: str) -> str:
    """A line of the same length in which „...“ and »...« close with the marks that close English and French quotes."""
    if "„" in line:
        line = re.sub(r"„([^„“\n]*)“", r"„\1”", line)
    return re.sub(r"»([^»«\n]*)«(?!\w)", r"«\1»", line) if re.search(r"(?<!\S)»\w", line) else line
