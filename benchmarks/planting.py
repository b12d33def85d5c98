"""Filler phrases planted into real rationales: tokens of which it is known that they carry no reasoning."""

import random
import re

from kpod import Rationale, split_steps
from kpod.data.word_problems import OPENERS
from kpod.records import Span

IN_TRAINING = OPENERS
UNSEEN = (
    "Hmm, let me think, ",
    "Right, moving on, ",
    "Actually, it seems that ",
    "Of course, ",
    "Honestly, ",
    "As one may notice, ",
    "Needless to say, ",
)
"""Fillers of the test: none of their words but "as" stands in the list above."""
SHARE = 0.6
"""Of the steps that get a filler."""
LOWERED = re.compile(r"(A|After|At|Each|For|He|Her|His|If|In|It|She|So|That|The|Then|There|They|This)\b")
"""First words that lose their capital behind a filler; any other may be a name."""


def plant(text: str, fillers: tuple[str, ...], rng: random.Random) -> tuple[str, list[Span]]:
    """A rationale with fillers before some of its steps, and where they stand, without the trailing space."""
    out, spans = "", []
    for start, stop in split_steps(text):
        step = text[start:stop]
        body = step.lstrip()
        out += step[: len(step) - len(body)]
        if rng.random() < SHARE:
            filler = rng.choice(fillers)
            spans.append((len(out), len(out) + len(filler) - 1))
            out += filler
            if LOWERED.match(body):
                body = body[0].lower() + body[1:]
        out += body
    return out, spans


def planted(
    rationales: list[Rationale], fillers: tuple[str, ...], rng: random.Random
) -> tuple[list[Rationale], dict[str, list[Span]]]:
    """Rationales with fillers, and where they stand by rationale id."""
    found, spans = [], {}
    for rationale in rationales:
        text, spans[rationale.id] = plant(rationale.text, fillers, rng)
        found.append(Rationale(rationale.id, rationale.question, text, rationale.source, rationale.teacher_answer))
    return found, spans
