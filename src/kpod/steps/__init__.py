r"""Split a rationale into reasoning steps, and align the steps to tokens (method section 3).

The paper splits at ".", which also cuts 3.50, Mr. and e.g.; that stays available as the rule `period`. The default
rule `sentence` (kpod.steps.sentence_rule) ends a step where a reader would.

Steps are half-open character spans that tile the text, so nothing is ever re-joined from strings. Whitespace between
two steps belongs to the FOLLOWING one, as a BPE token carries its leading space; at the end, to the last step.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kpod.records import Span
from kpod.records.errors import DataError
from kpod.records.spans import check_spans_tile
from kpod.steps.sentence_rule import LINE_BREAK, ends_of, sentence_cuts

StepRule: TypeAlias = Literal["sentence", "line", "period"] | Callable[[str], list[Span]]
"""How a rationale is split; a callable returns half-open character spans that tile its text."""

PERIOD = re.compile(r"[^.\s][^.]*(?:\.[.\s]*|\Z)")
CUTTERS: dict[str, Callable[[str], list[int]]] = {
    "sentence": sentence_cuts,
    "line": partial(ends_of, LINE_BREAK),
    "period": partial(ends_of, PERIOD),
}
_DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]")
_FOREIGN = re.compile(r"(?![A-Za-z\u00aa-\u024f\u1e00-\u1eff])[^\W\d_]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_TWO_SENTENCES = 100
_LETTERS_OF_DENSE = 2  # a Chinese or Korean sign counts as so many letters


def split_steps(text: str, rule: StepRule = "sentence") -> list[Span]:
    r"""The reasoning steps of a rationale, as spans that tile its text.

    `sentence` splits at line breaks and sentence ends, also where a text lost its line breaks; it keeps
    `\[...\]`, `$$...$$`, `\(...\)` and code fences whole, and a list mark with what it heads. It knows the stops of
    every script, and the abbreviations of the language that the text seems to be in. Thai and Lao have no stops:
    there, long clauses with a space between them are steps. `line` makes one step of each line that is not blank.
    `period` is the paper's rule: a step ends after each "."; dots with nothing between them add no step, as they add
    none in the paper.

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


def unsplit(text: str) -> bool:
    """Whether the rule `sentence` finds one step in a text that is long enough for two or more, in a foreign script.

    A teacher that writes Khmer or Chinese without stops and line breaks gives such texts: a schedule has nothing to
    order in them. Texts in the Latin script are not looked at.

    Args:
        text: A rationale; may be blank.

    Returns:
        True where more than half of the letters are not Latin, they would fill over two sentences (100 letters, or 50
        Chinese, Japanese or Korean signs), and `split_steps` gives one step.

    Example:
        >>> unsplit("日" * 60), unsplit("日" * 30 + "。" + "日" * 30), unsplit("word " * 60)
        (True, False, False)
    """
    if text.isascii():
        return False
    foreign, latin = len(_FOREIGN.findall(text)), len(_LATIN.findall(text))
    weight = foreign + len(_DENSE.findall(text)) * (_LETTERS_OF_DENSE - 1)
    return foreign > latin and weight > _TWO_SENTENCES and len(split_steps(text)) == 1


def step_stops_of(step_spans: Sequence[Span], token_spans: Sequence[Span] | NDArray[np.int32]) -> tuple[int, ...]:
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
    spans = np.asarray(token_spans).reshape(-1, 2)
    starts, stops = spans.T
    inside = len(spans) and starts[0] >= 0 and (starts <= stops).all() and (stops <= length).all()
    if not (step_spans and inside and (starts[:-1] <= starts[1:]).all()):
        raise DataError(f"tokens must be given and rise from 0 to {length}; got spans {spans.tolist()}")
    firsts = np.searchsorted(starts, [start for start, _ in step_spans])  # of each step the first token in or behind it
    return tuple(sorted({*firsts.tolist(), len(spans)} - {0}))


def _tile(text: str, cuts: Iterable[int]) -> list[Span]:
    """Spans between rising cuts: blank pieces dropped, whitespace before a cut moved behind it."""
    pieces = [(start, text[start:stop].rstrip()) for start, stop in pairwise((0, *cuts, len(text)))]
    stops = [start + len(piece) for start, piece in pieces if piece]
    return list(pairwise((0, *stops[:-1], len(text))))
