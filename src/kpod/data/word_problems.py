"""Arithmetic word problems that the package makes itself: the demo's data, and a ground truth for weights.

Each problem is a chain of events; its rationale has two to five sentences, one per event and sometimes a closing
one, into which filler phrases are planted. Fillers carry no information, so significance weights must rank
digits above them: `filler_spans` tells where they stand.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kpod.records import Question, Rationale, Span

# In the order in which they are drawn.
SIZES = {"train": 2000, "test": 500, "validation": 500}
SOURCE = "word_problems"

OPENERS = (
    "Well, ",
    "Okay, so ",
    "Now, as we can see, ",
    "Alright then, ",
    "Basically, ",
    "You know, ",
    "To put it simply, ",
)
"""Fillers at the start of a step; the sentence goes on in its usual case."""
INSERTS = ("just simply need to see that ", "can easily note that ")
"""Fillers inside a step, after a `we` that belongs to them."""

NAMES = ("Ava", "Ben", "Carla", "Dmitri", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena")
ITEMS = ("apples", "marbles", "stickers", "pencils", "shells", "cookies", "coins", "cards", "beads", "stamps")
HOLDERS = ("bags", "boxes", "jars", "baskets")
PRICED = ("apples", "cookies", "pencils", "stickers", "cards")


@dataclass(frozen=True)
class Event:
    """One thing that happens: its sentence in the question, its equation, and how many there are afterwards."""

    told: str
    equation: str
    total: int


def _start(name: str, items: str, rng: random.Random) -> Event:
    if rng.random() < 0.5:
        total = rng.randint(4, 30)
        return Event(f"{name} has {total} {items}.", "", total)
    num, each = rng.randint(2, 6), rng.randint(2, 9)
    holders = rng.choice(HOLDERS)
    total = num * each
    return Event(f"{name} has {num} {holders} with {each} {items} in each.", f"{num} * {each} = {total}", total)


def _gain(name: str, items: str, total: int, rng: random.Random) -> Event:
    more = rng.randint(2, 20)
    verb = rng.choice(("buys", "finds", "is given"))
    return Event(f"{name} {verb} {more} more {items}.", f"{total} + {more} = {total + more}", total + more)


def _lose(name: str, items: str, total: int, rng: random.Random) -> Event:
    less = rng.randint(1, total - 1)
    told = rng.choice(
        (f"{name} gives {less} {items} to a friend.", f"Then {less} {items} get lost.", f"{name} sells {less} {items}.")
    )
    return Event(told, f"{total} - {less} = {total - less}", total - less)


def _double(name: str, items: str, total: int, rng: random.Random) -> Event:  # noqa: ARG001 (one signature for all events)
    told = f"After a week {name} has twice as many {items}."
    return Event(told, f"{total} * 2 = {2 * total}", 2 * total)


def _halve(name: str, items: str, total: int, rng: random.Random) -> Event:  # noqa: ARG001
    told = f"{name} puts half of the {items} away."
    return Event(told, f"{total} / 2 = {total // 2}", total // 2)


def _next_event(name: str, items: str, total: int, rng: random.Random) -> Event:
    makers: list[Callable[[str, str, int, random.Random], Event]] = [_gain, _gain]
    if total > 3:
        makers += [_lose, _lose]
    if total <= 30:
        makers.append(_double)
    if total % 2 == 0 and total > 3:
        makers.append(_halve)
    return rng.choice(makers)(name, items, total, rng)


def _sentence(body: str, rng: random.Random) -> str:
    """A step of the rationale, with fillers planted in about four of five."""
    draw = rng.random()
    if draw < 0.5:
        return rng.choice(OPENERS) + body
    if draw < 0.8:
        return f"We {rng.choice(INSERTS)}{body}"
    return body


def _problem(rng: random.Random) -> tuple[str, str, str]:
    """Question, rationale and answer."""
    name, items = rng.choice(NAMES), rng.choice(ITEMS)
    events = [_start(name, items, rng)]
    for _ in range(rng.choice((1, 2, 2, 3))):
        events.append(_next_event(name, items, events[-1].total, rng))
    total, unit = events[-1].total, items
    asked = f"How many {items} does {name} have now?"
    if items in PRICED and total <= 20 and rng.random() < 0.5:
        price = rng.randint(2, 9)
        events.append(Event("", f"{total} * ${price} = ${total * price}", total * price))
        asked = f"Each one is worth ${price}. How many dollars are all the {items} worth?"
        total, unit = total * price, "dollars"
    worded = [f"{name} has {e.equation} {unit if e.told == '' else items}." for e in events if e.equation]
    if len(worded) < 2 or (len(worded) < 5 and rng.random() < 0.2):
        worded.append(f"{name} ends up with {total} {unit}.")
    rationale = " ".join(_sentence(body, rng) for body in worded)
    question = " ".join([*(e.told for e in events if e.told), asked])
    return question, rationale, str(total)


def _stream(seed: int) -> Iterator[tuple[str, str, str]]:
    rng = random.Random(seed)
    while True:
        yield _problem(rng)


def make_word_problems(split: str) -> list[Rationale]:
    """All problems of a split, one of SIZES, always the same ones; no question is in two splits.

    Example:
        >>> problem = make_word_problems("test")[0]
        >>> problem.question.id, problem.source, problem.teacher_answer == problem.question.answer
        ('word-problems-test-0', 'word_problems', True)
    """
    start = sum(list(SIZES.values())[: list(SIZES).index(split)])
    stop = start + SIZES[split]
    unique: dict[str, tuple[str, str]] = {}
    for question, rationale, answer in _stream(seed=20240525):
        unique.setdefault(question, (rationale, answer))
        if len(unique) == stop:
            break
    made = []
    for number, (question, (rationale, answer)) in enumerate(list(unique.items())[start:]):
        key = f"word-problems-{split}-{number}"
        made.append(Rationale(key, Question(key, question, answer), rationale, SOURCE, answer))
    return made


_PLANTED = re.compile("|".join(re.escape(f) for f in (*OPENERS, *(f"We {i}" for i in INSERTS))))


def filler_spans(rationale: str) -> list[Span]:
    """Where planted fillers stand in a rationale, as character spans without the trailing space.

    Example:
        >>> filler_spans("Well, Ava has 2 + 3 = 5 apples.")
        [(0, 5)]
    """
    return [(found.start(), found.end() - 1) for found in _PLANTED.finditer(rationale)]
