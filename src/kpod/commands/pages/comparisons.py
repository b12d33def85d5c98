"""Tables and curves of a comparison, in the shape of the paper's: methods by test sets, over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from markupsafe import Markup

from kpod.commands.pages.page import environment
from kpod.records.outcomes import PairedDifference
from kpod.records.shown import visible


@dataclass(frozen=True, slots=True)
class ComparedMethod:
    """One method on one test set, over its seeds.

    Attributes:
        name: The method, or the value of a swept key.
        accuracies: One per seed, in [0, 1].
        interval: 95 % interval of the accuracy over other seeds and other questions; see `accuracy_interval`.
        against_base: What its answers are to those of the base, p-value not corrected; None for the base itself.
        corrected_p_value: That p-value, corrected for the number of comparisons on this test set; None for the base.
        updates: Optimiser steps, per seed.
        trained_tokens: Tokens that were trained on, per seed.
        seeds_to_settle: How many seeds would tell two points from none; None for the base and where one seed was run.
    """

    name: str
    accuracies: tuple[float, ...]
    interval: tuple[float, float]
    against_base: PairedDifference | None
    corrected_p_value: float | None
    updates: tuple[int, ...]
    trained_tokens: tuple[int, ...]
    seeds_to_settle: int | None = None

    @property
    def mean(self) -> float:
        """Mean accuracy over seeds."""
        return fmean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


def overview_markdown(tests: Mapping[str, Sequence[ComparedMethod]], base: str) -> str:
    """Methods by test sets, as the paper's tables have them; accuracies and differences in percent."""
    lines = [
        f"**accuracy, %**: mean over seeds +- s.d. (difference to `{base}`)",
        "",
        f"| | {' | '.join(map(visible, tests))} |",
        f"|---|{'---|' * len(tests)}",
    ]
    lines += [f"| {visible(name)} | {' | '.join(cells)} |" for name, cells in _overview(tests)]
    return "\n".join(lines) + "\n"


def _overview(tests: Mapping[str, Sequence[ComparedMethod]]) -> list[tuple[str, list[str]]]:
    """Each method and its cells, one per test set."""
    return [(rows[0].name, [_cell(row) for row in rows]) for rows in zip(*tests.values(), strict=True)]


def _cell(row: ComparedMethod) -> str:
    deviation = "" if row.deviation is None else f" +- {100 * row.deviation:.1f}"
    difference = "" if row.against_base is None else f" ({100 * row.against_base.difference:+.1f})"
    return f"{100 * row.mean:.1f}{deviation}{difference}"


def comparison_markdown(test: str, rows: Sequence[ComparedMethod], base: str, num_questions: int) -> str:
    """The table of one test set; accuracies and differences in percent."""
    seeds = max(len(row.accuracies) for row in rows)
    lines = [
        f"**{visible(test)}**: {num_questions} questions, {seeds} seed{'s' * (seeds > 1)}; differences to `{base}`, "
        "p-values corrected for their number (Holm)",
        "",
        "| | accuracy, % | s.d. | 95 %, other seeds and questions | difference | 95 %, other questions "
        "| 95 %, other seeds | by seed | verdict | seeds for 2 points | updates | trained tokens |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        deviation = "" if row.deviation is None else f"{100 * row.deviation:.1f}"
        cells = [visible(row.name), f"{100 * row.mean:.1f}", deviation, _percent(row.interval), *_against_base(row)]
        cells += [f"{fmean(row.updates):.0f}", f"{fmean(row.trained_tokens):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _against_base(row: ComparedMethod) -> list[str]:
    """Cells of the difference: interval over questions, with p; over seeds; by seed; verdict; seeds to settle."""
    paired = row.against_base
    if paired is None:
        return [""] * 6
    by_seed = " ".join(f"{100 * difference:+.1f}" for difference in paired.by_seed)
    over_questions = f"{_percent(paired.interval, '+')} (p = {row.corrected_p_value:.3f})"
    over_seeds = _percent(paired.seed_interval, "+") or "unknown"
    settled = "unknown" if row.seeds_to_settle is None else str(row.seeds_to_settle)
    return [f"{100 * paired.difference:+.1f}", over_questions, over_seeds, by_seed, paired.verdict, settled]


@dataclass(frozen=True, slots=True)
class ComparedNll:
    """One method's NLL of a part of the held-out rationales, over its seeds.

    Attributes:
        part: As in `kpod.evaluation.held_out.PART_NAMES`.
        name: The method, or the value of a swept key.
        values: Nats per token, per seed.
        against_base: How much higher it is than the base's; its intervals are over rationales and over seeds. None for
            the base itself.
    """

    part: str
    name: str
    values: tuple[float, ...]
    against_base: PairedDifference | None


NLL_HEAD = ("part", "", "NLL, nats", "difference", "95 %, other rationales", "95 %, other seeds", "by seed")


def nll_cells(row: ComparedNll) -> list[str]:
    """The cells of NLL_HEAD."""
    cells, paired = [row.part, visible(row.name), f"{fmean(row.values):.3f}"], row.against_base
    if paired is None:
        return [*cells, "", "", "", ""]
    over_seeds = "unknown" if paired.seed_interval is None else _nats(paired.seed_interval)
    by_seed = " ".join(f"{one:+.3f}" for one in paired.by_seed)
    return [*cells, f"{paired.difference:+.3f}", _nats(paired.interval), over_seeds, by_seed]


def _nats(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def nll_comparison_markdown(rows: Sequence[ComparedNll], base: str, num_rationales: int) -> str:
    """The table of the held-out rationales; less is better."""
    seeds = max(len(row.values) for row in rows)
    lines = [
        f"**held-out rationales**: {num_rationales} rationales, {seeds} seed{'s' * (seeds > 1)}; NLL in nats per token "
        f"(less is better), differences to `{base}`",
        "",
        f"| {' | '.join(NLL_HEAD)} |",
        f"|{'---|' * len(NLL_HEAD)}",
        *(f"| {' | '.join(nll_cells(row))} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def render_comparison(
    title: str,
    tests: Mapping[str, Sequence[ComparedMethod]],
    curves: Mapping[str, Sequence[tuple[int, int, float]]],
    base: str,
    swept: str | None = None,
    nll: Sequence[ComparedNll] = (),
    num_held_out: int = 0,
) -> str:
    """A comparison as one HTML page, with no script and nothing to load: its tables, and its validation curves twice.

    Args:
        title: The page's.
        tests: Test set -> its methods.
        curves: Method -> optimiser steps, trained tokens and validation accuracy, mean over seeds; those without a
            validation are left out.
        base: The method that the others are compared with.
        swept: The recipe key whose values the methods are; accuracy is drawn against those that are numbers.
        nll: The NLL of held-out rationales.
        num_held_out: How many rationales those are.

    Returns:
        A whole HTML document, to be written as UTF-8.
    """
    drawn = {name: points for name, points in curves.items() if points}
    numbered = {str(number): points for number, points in enumerate(drawn.values(), start=1)}
    figures = []
    if drawn:
        from kpod.commands.pages.figures import curves_figure  # matplotlib takes a second

        by_step = {
            label: [(float(step), accuracy) for step, _, accuracy in points] for label, points in numbered.items()
        }
        by_token = {
            label: [(float(tokens), accuracy) for _, tokens, accuracy in points] for label, points in numbered.items()
        }
        figures = [
            curves_figure(by_step, "optimiser steps", "by-step"),
            curves_figure(by_token, "trained tokens", "by-token"),
        ]
    template = environment().get_template("comparison.html.jinja")
    return template.render(
        title=title,
        tests=tests,
        overview=_overview(tests),
        base=base,
        swept=swept,
        accuracies=_by_value(tests, swept) if swept else {},
        against_base=_against_base,
        names=list(drawn),
        nll_head=NLL_HEAD,
        nll=[nll_cells(row) for row in nll],
        num_held_out=num_held_out,
        figures=figures,
    )


def _by_value(tests: Mapping[str, Sequence[ComparedMethod]], swept: str) -> dict[str, Markup]:
    """Test set -> accuracy against the swept key's values; none where fewer than two are numbers."""
    from kpod.commands.pages.figures import sweep_figure  # matplotlib takes a second

    found = {}
    for number, (test, rows) in enumerate(tests.items(), start=1):
        values = [(_number(row.name.partition("=")[2]), row) for row in rows]
        points = [(value, row.mean, row.interval) for value, row in values if value is not None]
        if len(points) > 1:
            found[test] = sweep_figure(points, swept, f"swept-{number}")
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _percent(interval: tuple[float, float] | None, sign: str = "") -> str:
    if interval is None:
        return ""
    low, high = (f"{100 * end:{sign}.1f}" for end in interval)
    return f"{low} to {high}"
