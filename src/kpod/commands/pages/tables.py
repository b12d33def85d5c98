"""The words and numbers of the report: tokens with their weights, word types, accuracy tables."""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from statistics import fmean
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kpod.records import Rationale, Schedule, StageRecord, TokenizedRationale
from kpod.records.errors import DataError
from kpod.records.outcomes import Accuracy, MeanNll
from kpod.records.shown import percent, visible

TokenView: TypeAlias = tuple[str, float, int]
"""A rationale token as a reader sees it: its text with any space before it, its weight in [0, 1], its step from 1."""

LossPoint: TypeAlias = tuple[int, float, int]
"""An optimiser step counted over the whole run, its loss, and the stage it trained."""

BeforeAfter: TypeAlias = tuple[Accuracy | None, Accuracy]
"""One test set: the student before training, where that was measured, and after."""

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[^\w\s]|_")


class WordType(NamedTuple):
    """All occurrences of a word in the rationales: their mean significance weight, and how many there are."""

    word: str
    weight: float
    num_occurrences: int


class WordTypeTable(NamedTuple):
    """The word types that count most, from the highest down, and those that count least, from the lowest up."""

    highest: tuple[WordType, ...] = ()
    lowest: tuple[WordType, ...] = ()


def weighed_tokens(
    rationale: Rationale, tokens: TokenizedRationale, weights: NDArray[np.float32]
) -> tuple[TokenView, ...]:
    """A rationale's tokens as text, each with its weight and step; their texts joined are the rationale.

    Characters between two tokens' spans, usually a space, go to the later token. Of several
    tokens that share a character, the first shows it and the others have no text.

    Args:
        rationale: The text.
        tokens: The same rationale tokenised.
        weights: Significance w_j of each rationale token, in [0, 1].

    Returns:
        One view per rationale token.

    Raises:
        DataError: If there is not one weight per rationale token.
    """
    if len(weights) != tokens.num_tokens:
        raise DataError(f"rationale {tokens.id!r}: {len(weights)} weights for {tokens.num_tokens} tokens")
    edges = [0, *tokens.char_spans[:, 1].tolist()]
    edges[-1] = len(rationale.text)
    return tuple(
        (rationale.text[start:stop], float(weight), bisect_right(tokens.step_stops, index) + 1)
        for index, ((start, stop), weight) in enumerate(zip(pairwise(edges), weights, strict=True))
    )


def word_type_table(
    rationales: Iterable[Sequence[TokenView]], min_count: int = 5, num_shown: int = 12
) -> WordTypeTable:
    """Which words the weights single out, and which they pass over (the paper's Figure 2, as a table).

    A word weighs the mean of its tokens; upper and lower case are one type; a sign such as "+"
    is a word. Digits count token by token, because that is how the student reads a number.

    Args:
        rationales: The tokens of each rationale, as `weighed_tokens` gives them.
        min_count: Rarer types are left out: their mean says little.
        num_shown: How many types each half of the table holds at most; none is in both halves.

    Returns:
        The highest and the lowest types; ties in alphabetical order.

    Example:
        >>> tokens = [("Add", 0.2, 1), (" 4", 0.9, 1), (" add", 0.4, 1)]
        >>> [(w.word, round(w.weight, 3), w.num_occurrences) for w in word_type_table([tokens], min_count=1).highest]
        [('4', 0.9, 1), ('add', 0.3, 2)]
    """
    weights: defaultdict[str, list[float]] = defaultdict(list)
    for tokens in rationales:
        for word, weight in _words(tokens):
            weights[word].append(weight)
    types = [WordType(word, fmean(ws), len(ws)) for word, ws in sorted(weights.items()) if len(ws) >= min_count]
    types.sort(key=lambda word_type: -word_type.weight)
    rest = types[num_shown:]
    return WordTypeTable(tuple(types[:num_shown]), tuple(reversed(rest[-num_shown:])))


def _words(tokens: Sequence[TokenView]) -> Iterator[tuple[str, float]]:
    """Every word and digit token of a rationale with its weight."""
    texts = [text for text, _, _ in tokens]
    weights = [weight for _, weight, _ in tokens]
    for text, weight in zip(texts, weights, strict=True):
        yield from ((digits, weight) for digits in re.findall(r"\d+", text))
    stops = list(accumulate(map(len, texts)))
    for word in WORD.finditer("".join(texts)):
        first, last = bisect_right(stops, word.start()), bisect_left(stops, word.end())
        yield word[0].casefold(), fmean(weights[first : last + 1])


def percent_range(interval: tuple[float, float]) -> str:
    """An interval of rates as percentages, such as 15.4–28.6 %."""
    lower, upper = interval
    return f"{100 * lower:.1f}–{100 * upper:.1f} %"


def percentage_points(difference: float, interval: tuple[float, float] | None = None) -> str:
    """A difference of rates, with its interval where one is given.

    Example:
        >>> percentage_points(0.05, (-0.02, 0.12)), percentage_points(-0.5)
        ('+5.0 points (-2.0 to +12.0)', '-50.0 points')
    """
    ends = "" if interval is None else f" ({percentage_interval(interval)})"
    return f"{100 * difference:+.1f} points{ends}"


def percentage_interval(interval: tuple[float, float]) -> str:
    """The ends of an interval of differences in percentage points, such as -2.0 to +12.0."""
    low, high = interval
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def p_value(value: float) -> str:
    """A p-value with three decimals; one that would round to 0 as `< 0.001`."""
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def last_number_right(accuracy: Accuracy) -> str:
    """The flexible reading's share of the questions whose gold answer is a number, or a dash where there are none."""
    right, asked = accuracy.by_last_number or (0, 0)
    return percent(right / asked) if asked else "–"


def accuracy_markdown(accuracies: Sequence[BeforeAfter]) -> str:
    r"""The accuracy table for a terminal, a model card or a pull request.

    Args:
        accuracies: Each test set before, where known, and after training.

    Returns:
        A Markdown table, one row per test set, ending in a line break.

    Example:
        >>> print(accuracy_markdown([(None, Accuracy("svamp", 10, 8, 1, 0, (0.490, 0.943), (9, 10)))]), end="")
        | test set | before | after | 95 % interval | correct / asked | last number right | no answer | unfinished |
        |---|--:|--:|--:|--:|--:|--:|--:|
        | svamp | – | 80.0 % | 49.0–94.3 % | 8 / 10 | 90.0 % | 10.0 % | 0.0 % |
    """
    rows = [
        "| test set | before | after | 95 % interval | correct / asked | last number right | no answer | unfinished |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for before, after in accuracies:
        cells = (
            re.sub(r"\s+", " ", visible(after.dataset)).replace("\\", "\\\\").replace("|", "\\|"),
            percent(before.value) if before else "–",
            percent(after.value),
            percent_range(after.interval),
            f"{after.num_correct} / {after.num_questions}",
            last_number_right(after),
            percent(after.num_unanswered / after.num_questions),
            percent(after.num_unfinished / after.num_questions),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


class StageRow(NamedTuple):
    """A stage of a schedule, as the tables tell it.

    Attributes:
        stage: t.
        record: Budget and selection, where there were any.
        advanced: Questions given fewer steps than at the stage before; at the start, than all of them.
        trained: Steps trained, of all questions together.
        whole: Questions trained whole.
    """

    stage: int
    record: StageRecord | None
    advanced: int
    trained: int
    whole: int


def stage_rows(schedule: Schedule, num_steps: Sequence[int]) -> list[StageRow]:
    """One row per stage.

    Args:
        schedule: Which steps are given.
        num_steps: n_i of each of the schedule's questions, in its order.
    """
    before, rows = np.asarray(num_steps), []
    for stage, given in enumerate(schedule.input_steps):
        record = schedule.stages[stage] if schedule.stages else None
        trained = int(np.sum(num_steps)) - int(given.sum())
        rows.append(StageRow(stage, record, int((given < before).sum()), trained, int((given == 0).sum())))
        before = given
    return rows


def schedule_markdown(schedule: Schedule, num_steps: Sequence[int]) -> str:
    """The schedule's stages for a terminal.

    Args:
        schedule: Which steps are given.
        num_steps: n_i of each of the schedule's questions, in its order.

    Returns:
        A Markdown table, one row per stage, ending in a line break; a sentence where every stage is whole.

    Example:
        >>> print(schedule_markdown(Schedule(("a", "b"), np.array([[1, 2], [0, 0]])), [2, 3]), end="")
        | stage | budget D(t), nats | used | gap to bound | questions advanced | steps trained | whole | clusters |
        |--:|--:|--:|--:|--:|--:|--:|--:|
        | 0 | – | – | – | 2 | 2 | 0 | – |
        | 1 | – | – | – | 2 | 5 | 2 | – |
    """
    if not schedule.input_steps.any():
        return "no schedule: every rationale is trained whole from the first epoch, unless the method says otherwise\n"
    lines = [
        "| stage | budget D(t), nats | used | gap to bound | questions advanced | steps trained | whole | clusters |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in stage_rows(schedule, num_steps):
        record = row.record
        budget, used, gap, clusters = ("–",) * 4
        if record is not None:
            budget, used = f"{record.budget:.3f}", f"{record.remaining_difficulty:.3f}"
            gap, clusters = f"{record.gap:.1e}", str(record.clusters_touched)
        cells = (row.stage, budget, used, gap, row.advanced, row.trained, row.whole, clusters)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def nll_markdown(measured: Mapping[str, Sequence[MeanNll]]) -> str:
    r"""The NLL of held-out rationales for a terminal; nothing where none was measured.

    Args:
        measured: When -> the parts of the rationales, in the same order.

    Example:
        >>> parts = [MeanNll("all", 1.25, 0.125, 40), MeanNll("results", 0.5, None, 1)]
        >>> print(nll_markdown({"before": parts}), end="")
        NLL of held-out rationales, nats per token, +- standard error over rationales:
        <BLANKLINE>
        | part | rationales | before |
        |---|--:|--:|
        | all | 40 | 1.250 +- 0.125 |
        | results | 1 | 0.500 |
    """
    if not measured:
        return ""
    lines = [
        "NLL of held-out rationales, nats per token, +- standard error over rationales:",
        "",
        f"| part | rationales | {' | '.join(measured)} |",
        f"|---|--:|{'--:|' * len(measured)}",
    ]
    for parts in zip(*measured.values(), strict=True):
        cells = [f"{one.value:.3f}" + ("" if one.error is None else f" +- {one.error:.3f}") for one in parts]
        lines.append(f"| {parts[0].part} | {parts[0].num_rationales} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def steps_markdown(test: str, counts: Mapping[int, tuple[int, int]]) -> str:
    """Accuracy by the number of steps that the model wrote, as `kpod.evaluation.accuracy.by_steps` counts it."""
    lines = [
        f"{visible(test)}, by the number of steps written:",
        "",
        "| steps | correct / asked | accuracy |",
        "|--:|--:|--:|",
    ]
    lines += [f"| {num} | {right} / {asked} | {percent(right / asked)} |" for num, (right, asked) in counts.items()]
    return "\n".join(lines) + "\n"
