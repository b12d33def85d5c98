"""How surprised a student is by rationales that it was not trained on: NLL by class of token and by step.

It has far less noise than accuracy, and says where a student is better: in the words, in setting up what is calculated,
or in calculating it. It is read in the teacher's own words, so a student that is right in other words is not seen.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from kpod.lm.models import LanguageModel
from kpod.lm.surprise import rationale_logprobs
from kpod.records import Span, TokenizedRationale
from kpod.records.errors import DataError
from kpod.records.outcomes import MeanNll, Surprise

Role: TypeAlias = Literal["operand", "result", "word"]

_NUMBER = r"\d+(?:[.,:]\d+)*"
_NUMBERS = re.compile(_NUMBER)
_RESULT = re.compile(rf"(?:[=≈]|\bequals\b)[\s$€£]*(?P<result>[-−]?{_NUMBER})")
_OPERATOR = re.compile(r"(?<![^\W\d_])[-−–+*/×÷·=≈%^<>]|[-−–+*/×÷·=≈%^<>](?![^\W\d_])|(?<!\w)[xX](?!\w)")
"""A sign that does not join two words, as in half-price, or an x of its own."""
_BULLET = re.compile(r"^[ \t]*([-–*])(?=\s)", re.MULTILINE)

PARTS = {"operand": "operators and operands", "result": "results", "word": "words"}
NUM_STEPS = 6
"""Steps from the one of this number on are one part."""


def roles_of_characters(text: str) -> list[Role | None]:
    """What each character of a rationale is for; None for white space.

    A number right after "=", "≈" or "equals" is a result, with its sign. Any other number, and any operator, is what
    is calculated with. All other characters are words: punctuation, numbers in letters, and bullets at a line's start.

    Example:
        >>> [roles_of_characters("Add: 3 + 4 = 7.")[at] for at in (0, 3, 4, 5, 7, 11, 13)]
        ['word', 'word', None, 'operand', 'operand', 'operand', 'result']
    """
    found: list[Role | None] = [None if char.isspace() else "word" for char in text]
    for pattern in (_NUMBERS, _OPERATOR):
        for match in pattern.finditer(text):
            found[slice(*match.span())] = ["operand"] * len(match[0])
    for match in _BULLET.finditer(text):
        found[match.start(1)] = "word"
    for match in _RESULT.finditer(text):
        found[slice(*match.span("result"))] = ["result"] * len(match["result"])
    return found


def token_roles(char_spans: Sequence[Span], text: str) -> list[Role | None]:
    """The role of each token: that of most of its visible characters, of the first where they are as many.

    Args:
        char_spans: As in `TokenizedRationale`.
        text: The rationale.

    Returns:
        One role per token; None for a token of white space.

    Example:
        >>> token_roles([(0, 3), (3, 5), (5, 7), (7, 9), (9, 11), (11, 13), (13, 14)], "Add 3 + 4 = 7.")
        ['word', 'operand', 'operand', 'operand', 'operand', 'result', 'word']
    """
    by_character, found = roles_of_characters(text), list[Role | None]()
    for start, stop in char_spans:
        counts = Counter(role for role in by_character[start:stop] if role is not None)
        found.append(counts.most_common(1)[0][0] if counts else None)
    return found


def surprises(lm: LanguageModel, tokens: Sequence[TokenizedRationale], texts: Mapping[str, str]) -> Iterator[Surprise]:
    """Measure a model on rationales, longest first.

    Args:
        lm: The model; a token is judged after the rationale's own tokens before it.
        tokens: The rationales.
        texts: Rationale id -> its text.

    Raises:
        DataError: If a log P is not finite.
    """
    for rationale, logprobs in rationale_logprobs(lm, tokens, "held out"):
        nll = -logprobs.double().numpy()
        if not np.isfinite(nll).all():
            raise DataError(
                f"rationale {rationale.id!r}: its log P is not finite; set precision to fp32, or check the model's "
                "weights for NaN"
            )
        yield _surprise(rationale, nll, texts[rationale.id])


def _surprise(rationale: TokenizedRationale, nll: Float[np.ndarray, " tokens"], text: str) -> Surprise:
    spans = [(start, stop) for start, stop in rationale.char_spans.tolist()]
    roles = np.array([role or "" for role in token_roles(spans, text)])
    steps = np.minimum(np.searchsorted(rationale.step_stops, np.arange(len(nll)), side="right") + 1, NUM_STEPS)
    inside = {"all": np.ones(len(nll), dtype=bool)} | {name: roles == role for role, name in PARTS.items()}
    inside |= {_step(number): steps == number for number in range(1, NUM_STEPS + 1)}
    parts = {name: (int(mask.sum()), float(nll[mask].sum())) for name, mask in inside.items()}
    return Surprise(rationale.id, {name: part for name, part in parts.items() if part[0]})


def _step(number: int) -> str:
    return f"step {number}{' on' if number == NUM_STEPS else ''}"


PART_NAMES = ("all", *PARTS.values(), *(_step(number) for number in range(1, NUM_STEPS + 1)))


def mean_nll(measured: Sequence[Surprise]) -> list[MeanNll]:
    """The NLL of each part, in nats per token, with its standard error over rationales.

    The value is the ratio of summed nats to summed tokens, so a long rationale counts for more than a short one. The
    error is that of such a ratio: of what each rationale's nats are above or below the value times its tokens.

    Example:
        >>> [mean_nll([Surprise("a", {"all": (2, 4.0)}), Surprise("b", {"all": (2, 8.0)})])[0]]
        [MeanNll(part='all', value=3.0, error=1.0, num_rationales=2)]
    """
    found = []
    for name in PART_NAMES:
        rows = np.array([one.parts[name] for one in measured if name in one.parts])
        if len(rows):
            tokens, nats = rows.sum(axis=0)
            left, num = rows[:, 1] - rows[:, 0] * nats / tokens, len(rows)
            error = sqrt(num / (num - 1) * float(left @ left)) / float(tokens) if num > 1 else None
            found.append(MeanNll(name, float(nats / tokens), error, num))
    return found


def scores(measured: Sequence[Surprise], ids: Sequence[str], part: str) -> Float[np.ndarray, " rationales"]:
    """What each rationale adds to the NLL of a part: their mean is what `mean_nll` says.

    Args:
        measured: Of one model.
        ids: The rationales, in the order that is wanted; at least one has such tokens.
        part: One of PART_NAMES.

    Returns:
        Nats per token, times the rationale's share of the tokens over its share of the rationales; 0 without a token.
    """
    by_id = {one.id: one.parts.get(part, (0, 0.0)) for one in measured}
    rows = np.array([by_id[id_] for id_ in ids])
    scored: Float[np.ndarray, " rationales"] = rows[:, 1] * len(ids) / rows[:, 0].sum()
    return scored
