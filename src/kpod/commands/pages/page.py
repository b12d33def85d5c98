"""A run as one self-contained HTML page, or as plain JSON.

The page holds text that models wrote, so it is treated as hostile: every value is escaped, hidden characters are
written out, nothing is loaded from elsewhere, and no script runs but the package's own, which the page names by hash.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from math import ceil
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kpod.commands.pages.browser import Browsed, HeatMap, Paired, script, script_hash
from kpod.commands.pages.tables import (
    BeforeAfter,
    LossPoint,
    TokenView,
    WordTypeTable,
    last_number_right,
    p_value,
    percent_range,
    percentage_interval,
    percentage_points,
    stage_rows,
)
from kpod.experiment.forecast import Forecast
from kpod.records import Schedule, StageRecord
from kpod.records.errors import DataError
from kpod.records.outcomes import Accuracy, MeanNll, Prediction
from kpod.records.shown import percent, visible

MAX_PREDICTIONS = 5
FILTERS = {
    "all": "all",
    "right": "right after training",
    "wrong": "wrong after training",
    "changed": "changed",
    "gained": "wrong → right",
    "lost": "right → wrong",
    "unread": "no answer found",
}
"""Which questions a page lists, by the names that its script knows."""
ONE_SIDED = ("all", "right", "wrong", "unread")


class Epoch(NamedTuple):
    """What the updates of an epoch trained.

    Attributes:
        number: Counted from 1.
        stages: The least and the greatest stage in `metrics.jsonl`.
        words: What these stages train, where a curriculum chooses it; else empty.
        updates: Optimiser steps.
        trained_tokens: Tokens with a loss.
        loss: Mean over the updates; None where none is finite.
        accuracy: Of the last validation in it, 0 to 1; None without one.
    """

    number: int
    stages: tuple[int, int]
    words: str
    updates: int
    trained_tokens: int
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What a run's page shows. Only the title is needed; a part left empty is left out or said to be missing.

    Attributes:
        title: Name of the run.
        method: The row of METHODS, or empty.
        recipe_yaml: The recipe as resolved.
        provenance: Versions, seed, hashes: name -> value.
        notes: Sentences a reader must know before the numbers.
        accuracies: Each test set before, where measured, and after training; the first makes the head line.
        held_out: When -> the NLL of held-out rationales, by class of token and step.
        num_read: How many rationales were read.
        dropped: Reason -> how many rationales were not trained on.
        forecast: What is used of every source, with the recipe keys that would change it.
        num_steps: Steps n_i of each rationale kept; with a schedule, in the order of its ids.
        heatmaps: Rationales with their token weights; a dozen reads well.
        word_types: Words of highest and lowest mean weight.
        schedule: Given steps c_i(t), and what happened at each stage.
        loss_curve: The training loss as logged, in the order of training.
        predictions: Judged outputs; the page shows the first five, also where no script runs.
        questions: Question id -> its text, to show above a prediction.
        paired: Of each test set that was asked before training, which questions are right before and after.
        browsed: All questions and rationales, for the page's script.
        epochs: What each epoch trained.
        coverage: How much of what the student writes has a teacher's distribution: the fields of
            `kpod.teacher.probabilities.Coverage`; empty where the method asks for none.
    """

    title: str
    method: str = ""
    recipe_yaml: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    accuracies: tuple[BeforeAfter, ...] = ()
    held_out: Mapping[str, Sequence[MeanNll]] = field(default_factory=dict)
    num_read: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    forecast: Forecast = field(default_factory=Forecast)
    num_steps: tuple[int, ...] = ()
    heatmaps: tuple[HeatMap, ...] = ()
    word_types: WordTypeTable = field(default_factory=WordTypeTable)
    schedule: Schedule | None = None
    loss_curve: tuple[LossPoint, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    questions: Mapping[str, str] = field(default_factory=dict)
    paired: tuple[Paired, ...] = ()
    browsed: Browsed = field(default_factory=Browsed)
    epochs: tuple[Epoch, ...] = ()
    coverage: Mapping[str, int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_kept < 0:
            raise DataError(
                f"report {self.title!r}: {self.num_read - self.num_kept} of {self.num_read} rationales dropped"
            )
        for before, after in self.accuracies:
            if before is not None and before.dataset != after.dataset:
                raise DataError(f"report {self.title!r}: compares {before.dataset!r} with {after.dataset!r}")
        if self.schedule is not None and self.num_steps:
            self._check_steps(self.schedule)

    def _check_steps(self, schedule: Schedule) -> None:
        """Raise DataError unless `num_steps` counts each scheduled rationale's steps."""
        if len(self.num_steps) != len(schedule.ids):
            raise DataError(
                f"report {self.title!r}: {len(self.num_steps)} step counts for {len(schedule.ids)} rationales"
            )
        for id_, steps, given in zip(schedule.ids, self.num_steps, schedule.input_steps[0], strict=True):
            if steps < given:
                raise DataError(f"rationale {id_!r} has {steps} steps, but the schedule gives {given} of them")

    @property
    def num_kept(self) -> int:
        """How many rationales were trained on."""
        return self.num_read - sum(self.dropped.values())


class Chip(NamedTuple):
    """A token as drawn: the coloured text between the white space around it, and the step that starts with it."""

    before: str
    text: str
    after: str
    weight: float
    step: int | None


def render_html(report: Report) -> str:
    """The report as one HTML page with nothing to load; the same report gives the same page.

    Args:
        report: What to show.

    Returns:
        A whole HTML document, to be written as UTF-8.

    Example:
        >>> page = render_html(Report(title="<b>first run</b>"))
        >>> "<title>&lt;b&gt;first run&lt;/b&gt;" in page
        True
    """
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            figures=_figures(report),
            axis_top=_axis_top(report.accuracies),
            predictions=report.predictions[:MAX_PREDICTIONS],
            filters=FILTERS if len(report.browsed.sides) > 1 else {key: FILTERS[key] for key in ONE_SIDED},
        )
    )


def render_schedules(title: str, schedules: Mapping[str, Schedule], num_steps: Sequence[int]) -> str:
    """Schedules of the same rationales as one HTML page, with no script and nothing to load.

    Args:
        title: The page's.
        schedules: By the names that head them.
        num_steps: n_i of each of the schedules' questions, in their order.

    Returns:
        A whole HTML document, to be written as UTF-8.
    """
    parts = [
        (name, schedule, _schedule_figures(schedule, num_steps, f"-{number}"))
        for number, (name, schedule) in enumerate(schedules.items())
    ]
    return environment().get_template("plan.html.jinja").render(title=title, parts=parts, num_steps=num_steps)


@cache
def environment() -> Environment:
    """Of all pages' templates: whatever they print is escaped, and a name they do not know is an error."""
    environment = Environment(
        loader=PackageLoader("kpod", "commands/pages"),
        autoescape=True,
        finalize=_written_out,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"percent": percent, "range": percent_range, "last_number_right": last_number_right}
    environment.filters |= {"count": _count, "chips": _chips, "points": percentage_points, "p_value": p_value}
    environment.filters["interval_points"] = percentage_interval
    environment.globals |= {"stage_rows": stage_rows, "script": script, "script_hash": script_hash}
    return environment


def to_json(report: Report) -> dict[str, Any]:
    """The report's tables in plain types that `json.dumps` takes; rates are 0 to 1."""
    return {
        "title": report.title,
        "method": report.method,
        "provenance": dict(report.provenance),
        "notes": list(report.notes),
        "accuracy": [
            {"before": _accuracy_json(before) if before else None, "after": _accuracy_json(after)}
            for before, after in report.accuracies
        ],
        "held_out": {when: [asdict(part) for part in parts] for when, parts in report.held_out.items()},
        "rationales": {"read": report.num_read, "kept": report.num_kept, "dropped": dict(report.dropped)},
        "sources": report.forecast.to_json(),
        "word_types": {
            half: [word_type._asdict() for word_type in getattr(report.word_types, half)]
            for half in WordTypeTable._fields
        },
        "paired": [{**one._asdict(), "difference": asdict(one.difference)} for one in report.paired],
        "epochs": [epoch._asdict() for epoch in report.epochs],
        "teacher_probabilities": dict(report.coverage),
        "stages": [_stage_json(record) for record in report.schedule.stages] if report.schedule else [],
    }


def _accuracy_json(accuracy: Accuracy) -> dict[str, Any]:
    return {**asdict(accuracy), "interval": list(accuracy.interval), "value": accuracy.value}


def _stage_json(record: StageRecord) -> dict[str, Any]:
    return {**asdict(record), "gap": record.gap}


def _figures(report: Report) -> dict[str, Markup]:
    """Each figure that the report has the numbers for."""
    # matplotlib takes longer to import than the rest of kpod.commands.pages together.
    from kpod.commands.pages import figures

    drawn: dict[str, Markup] = {}
    if report.num_steps:
        drawn["num_steps"] = figures.num_steps_figure(report.num_steps)
    if report.schedule is not None:
        drawn |= _schedule_figures(report.schedule, report.num_steps)
    if report.loss_curve:
        drawn["loss"] = figures.loss_figure(report.loss_curve)
    return drawn


def _schedule_figures(schedule: Schedule, num_steps: Sequence[int], suffix: str = "") -> dict[str, Markup]:
    from kpod.commands.pages import figures

    drawn: dict[str, Markup] = {}
    if schedule.stages:
        drawn["budget"] = figures.budget_figure(schedule.stages, f"budget{suffix}")
    if num_steps:
        drawn["trained_steps"] = figures.trained_steps_figure(schedule, num_steps, f"trained{suffix}")
    return drawn


def _axis_top(accuracies: Sequence[BeforeAfter]) -> float:
    """Right end of the accuracy axis: the highest interval, rounded up to a tenth."""
    uppers = [accuracy.interval[1] for pair in accuracies for accuracy in pair if accuracy is not None]
    return ceil(round(10 * max(uppers, default=1.0), 6)) / 10


def _chips(tokens: Sequence[TokenView]) -> Iterator[Chip]:
    """Tokens as drawn: white space stays uncoloured, and a token of nothing but line breaks shows one arrow each."""
    last_step = 0
    for text, weight, step in tokens:
        body = text.strip()
        if body:
            before, _, after = text.partition(body)
        else:
            before, body, after = "", "↵" * text.count("\n") or text, "\n" if "\n" in text else ""
        yield Chip(before, body, after, weight, step if step != last_step else None)
        last_step = step


def _written_out(value: object) -> object:
    """What the page prints for a value: text has its hidden characters written out."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _count(number: int) -> str:
    return f"{number:,}"
