"""The words of a rationale that the causal oracle replaces, and whether a text reaches the gold answer.

A word is what white space parts, without brackets, quotes and stops at its edges. Signs alone are words only where
they are operators.
"""

import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kpod import (
    DataConfig,
    DataError,
    Rationale,
    TeacherConfig,
    extract_answer,
    filter_rationales,
    last_number,
    load_rationales,
    same_answer,
    split_steps,
)
from kpod.data.numbers import mentions, whole_number
from kpod.records import Span
from kpod.weighting import KEYPOINTS

FILES = ("asdiv", "svamp")
TEACHER = "gpt-3.5-turbo"
CHUNK = re.compile(r"\S+")
OPENING, CLOSING = "([{<\"'“‘*_`#", ")]}>\"'”’*_`,.;:!?"
FEWEST_WORDS, MOST_WORDS = 25, 50
"""Of a rationale of one step, and of any: short ones take fewer tokens to end."""
FEWEST_REPLACED = 6
"""A rationale that states its answer before so many words is left out: nothing in it could be ranked."""


@dataclass(frozen=True)
class Replaced:
    """What came of one word; one line of oracle.jsonl.

    Attributes:
        id: The rationale.
        file: One of FILES.
        start: The word's first character in the rationale.
        stop: The character behind it.
        replacement: The model's own word in its place.
        reached: Continuations behind the word that reach the gold answer.
        reached_replaced: Continuations behind the replacement that reach it.
        samples: Continuations of each kind.
    """

    id: str
    file: str
    start: int
    stop: int
    replacement: str
    reached: int
    reached_replaced: int
    samples: int

    def __post_init__(self) -> None:
        counts = (
            max(self.reached, self.reached_replaced) <= self.samples and min(self.reached, self.reached_replaced) >= 0
        )
        if not (counts and 0 <= self.start < self.stop and self.samples > 0):
            raise DataError(f"oracle, rationale {self.id!r}: no such word or count: {self}")

    @property
    def importance(self) -> float:
        """Share of continuations that reach the gold answer with the word, less the share without it; -1 to 1."""
        return (self.reached - self.reached_replaced) / self.samples


def right_rationales(file: str, teacher: str = TEACHER) -> list[Rationale]:
    """A teacher's rationales of one data set whose answer is right.

    Raises:
        DataError: If KPOD_DATA is not set.
    """
    if "KPOD_DATA" not in os.environ:
        raise DataError("this needs real rationales: set KPOD_DATA to the folder that docs/data.md describes")
    config = TeacherConfig(teacher)
    data = DataConfig(train=file, root=os.environ["KPOD_DATA"])
    kept, _ = filter_rationales(load_rationales(data, config).rationales, config)
    return kept


def candidates(file: str) -> list[Rationale]:
    """Right rationales that are long enough, in an order drawn with seed 0."""
    kept = [
        r
        for r in right_rationales(file)
        if (len(split_steps(r.text)) >= 2 or len(r.text.split()) >= FEWEST_WORDS)
        and len(r.text.split()) <= MOST_WORDS
        and len(replaceable(r)) >= FEWEST_REPLACED
    ]
    random.Random(0).shuffle(kept)
    return kept


def first_mention(text: str, answer: str) -> int | None:
    """The character at which a number is stated for the first time, by its value; None where it never is."""
    value = whole_number(answer)
    return min((mention.start for mention in mentions(text) if mention.worth == value), default=None)


def words_of(text: str) -> list[Span]:
    """Words, numbers and operators, each without the punctuation at its edges.

    Example:
        >>> text = "(17 plums) - 3 = $14."
        >>> [text[start:stop] for start, stop in words_of(text)]
        ['17', 'plums', '-', '3', '=', '$14']
    """
    found = []
    for match in CHUNK.finditer(text):
        chunk = match[0]
        start = match.start() + len(chunk) - len(chunk.lstrip(OPENING))
        stop = match.end() - len(chunk) + len(chunk.rstrip(CLOSING))
        if any(char.isalnum() or char in KEYPOINTS for char in text[start:stop]):
            found.append((start, stop))
    return found


def replaceable(rationale: Rationale) -> list[Span]:
    """The words that end before the answer is stated for the first time; those of all the text where it never is."""
    at = first_mention(rationale.text, rationale.question.answer)
    return [span for span in words_of(rationale.text) if at is None or span[1] <= at]


def drawn(words: list[Span], number: int, seed: int) -> list[Span]:
    """At most `number` words, one by chance from each of as many equal stretches of the text."""
    if len(words) <= number:
        return words
    rng = random.Random(seed)
    return [words[rng.choice(part.tolist())] for part in np.array_split(np.arange(len(words)), number)]


def plain(word: str) -> str:
    """A word without case, punctuation and repeated signs: two words that read the same are equal in it."""
    kept = "".join(char for char in word.casefold() if char.isalnum() or char in KEYPOINTS - {"$", "%"})
    return re.sub(r"(\W)\1+", r"\1", kept)


def is_another(word: str, replacement: str, gold: str) -> bool:
    """Whether a replacement reads as another word than the first, and does not state the answer.

    The same word in other case, with other punctuation or with another ending ("week" and "weeks") is no other word,
    nor is the same number written in another way.

    Example:
        >>> [is_another("week", word, "3") for word in ("Week,", "weeks", "day", "3")]
        [False, False, True, False]
    """
    one, other = sorted((plain(word), plain(replacement)), key=len)
    if not plain(replacement) or one == other or (len(one) > 2 and one.isalpha() and other.startswith(one)):
        return False
    value = whole_number(word)
    if value is not None and value == whole_number(replacement):
        return False
    return whole_number(gold) not in [mention.worth for mention in mentions(replacement)]


def reaches(text: str, gold: str) -> bool:
    """Whether a text states the gold answer, or, where it states none, comes to it in its last number."""
    return same_answer(extract_answer(text) or last_number(text), gold)


def by_id(files: Mapping[str, str]) -> dict[str, Rationale]:
    """The rationales of some ids, each with the file it stands in.

    Raises:
        DataError: If KPOD_DATA is not set, or a rationale is not there.
    """
    found = {r.id: r for file in sorted(set(files.values())) for r in right_rationales(file)}
    for id_, file in files.items():
        if id_ not in found:
            raise DataError(f"oracle: {file} has no right rationale {id_!r}; use the data that docs/data.md describes")
    return {id_: found[id_] for id_ in files}
