"""What came of a teacher, in words and numbers: accuracy, what was kept and dropped, what it took."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kpod.records.shown import duration

BAR = 40
"""Characters of a histogram's longest bar."""


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a histogram: how many values lie in start <= value < stop."""

    start: int
    stop: int
    number: int


@dataclass(frozen=True, slots=True)
class Asking:
    """What asking took, all attempts of all runs together.

    Attributes:
        model: Who was asked.
        served: The names that answered -> how often.
        num_requests: Answers that were wanted.
        num_attempts: Requests that were sent.
        outcomes: Outcome -> attempts.
        prompt_tokens: Read.
        completion_tokens: Written.
        num_uncounted: Texts whose tokens the endpoint did not count.
        seconds: Of all answers, one after the other.
        cost: None without prices.
    """

    model: str
    served: Mapping[str, int]
    num_requests: int
    num_attempts: int
    outcomes: Mapping[str, int]
    prompt_tokens: int
    completion_tokens: int
    num_uncounted: int
    seconds: float
    cost: float | None


@dataclass(frozen=True, slots=True)
class RationaleReport:
    """What became of a recipe's rationales; rates are 0 to 1.

    Attributes:
        num_found: Rationales before the filter.
        num_kept: After it.
        dropped: Reason -> how many.
        num_questions: That have a kept rationale.
        num_judged: Rationales whose answer is compared with gold, where one that states none is wrong: neither hinted
            ones nor those that people wrote.
        num_right: Of these.
        interval: Wilson 95 % interval of their share; None where none is judged.
        words: Histogram of the kept rationales' words.
        steps: And of their steps.
        asking: None where nobody was asked.
    """

    num_found: int
    num_kept: int
    dropped: Mapping[str, int]
    num_questions: int
    num_judged: int
    num_right: int
    interval: tuple[float, float] | None
    words: Sequence[Bin]
    steps: Sequence[Bin]
    asking: Asking | None = field(default=None)


def histogram(values: Iterable[int], width: int = 1) -> list[Bin]:
    """Bins of equal width from 0 to the greatest value; empty ones at either end are left out.

    Example:
        >>> histogram([3, 4, 12], width=5)
        [Bin(start=0, stop=5, number=2), Bin(start=5, stop=10, number=0), Bin(start=10, stop=15, number=1)]
    """
    counts = Counter(value // width for value in values)
    if not counts:
        return []
    return [Bin(n * width, (n + 1) * width, counts[n]) for n in range(min(counts), max(counts) + 1)]


def rationales_markdown(report: RationaleReport) -> str:
    """The whole report for a terminal, in Markdown."""
    lines = []
    if report.asking is not None:
        lines += [*_asking_lines(report.asking), ""]
    if report.interval is not None:
        low, high = report.interval
        share = report.num_right / report.num_judged
        lines.append(
            f"teacher accuracy: {share:.1%} ({report.num_right} of {report.num_judged} rationales; "
            f"95 % interval {low:.1%} to {high:.1%})"
        )
    lines += [
        f"kept: {report.num_kept} rationales of {report.num_questions} questions",
        *(f"dropped, {reason}: {number}" for reason, number in sorted(report.dropped.items(), key=lambda i: -i[1])),
    ]
    for name, bins in (("words", report.words), ("steps", report.steps)):
        if bins:
            lines += ["", f"{name} of the kept rationales", *_bars(bins)]
    return "\n".join(lines)


def estimate_markdown(
    *,
    num_requests: int,
    num_open: int,
    prompt_tokens: int,
    completion_tokens: int,
    seconds: float,
    cost: float | None,
    num_measured: int,
    num_hinted: int,
    limited: bool = True,
) -> str:
    """What asking will take; the words tell what it rests on."""
    at_most = "" if num_measured else "at most " if limited else "very roughly "
    basis = (
        f"{num_measured} earlier answers"
        if num_measured
        else "4 characters a token, without the endpoint's own chat words, and 50 written tokens a second"
    )
    lines = [
        f"to ask: {num_open} of {num_requests} requests ({num_requests - num_open} are answered)",
        f"tokens: about {prompt_tokens:,} to read, {at_most}{completion_tokens:,} to write",
        f"time: {at_most}{duration(seconds)}",
        f"cost: {at_most if cost is not None else ''}{_money(cost)}",
        f"estimated from {basis}; nothing was asked",
    ]
    if num_hinted:
        lines.append(f"not counted: the questions of {num_hinted} that the teacher misses are asked again with a hint")
    return "\n".join(lines)


def _asking_lines(asking: Asking) -> list[str]:
    failures = ", ".join(f"{name} {number}" for name, number in asking.outcomes.items() if name != "answered")
    served = ", ".join(f"{name} ({number})" for name, number in asking.served.items())
    tokens = f"tokens: {asking.prompt_tokens:,} read, {asking.completion_tokens:,} written"
    if asking.num_uncounted:
        tokens += f", and those of {asking.num_uncounted} texts without a count"
    return [
        f"teacher: {asking.model}; answered: {served or 'nobody'}",
        f"requests: {asking.num_requests} wanted, {asking.num_attempts} sent, "
        f"{asking.num_attempts - asking.num_requests} of them repeated; answered {asking.outcomes.get('answered', 0)}"
        + (f"; {failures}" if failures else ""),
        f"{tokens}; {duration(asking.seconds)} of answering",
        f"cost: {_money(asking.cost)}",
    ]


def _money(cost: float | None) -> str:
    if cost is None:
        return "unknown without teacher.ask.prices"
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.4f}"


def _bars(bins: Sequence[Bin]) -> list[str]:
    most = max(one.number for one in bins)
    labels = [str(one.start) if one.stop == one.start + 1 else f"{one.start}-{one.stop - 1}" for one in bins]
    width = max(map(len, labels))
    return [
        f"{label:>{width}} {'#' * round(BAR * one.number / most)} {one.number}"
        for label, one in zip(labels, bins, strict=True)
    ]
