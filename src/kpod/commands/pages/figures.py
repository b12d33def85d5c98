"""The report's figures: SVG text without script, address or date, coloured by the page's own style sheet.

The same numbers give the same bytes. A figure holds no text of the user's, so nothing in it can be mistaken for markup.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from itertools import cycle, groupby
from typing import Any

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from kpod.commands.pages.tables import LossPoint
from kpod.records import Schedule, StageRecord

MAX_SHOWN_STEPS = 7
SMOOTHED_PART = 40

# matplotlib writes these colours and `_svg` replaces them by the page's variables: one drawing for light and dark.
COLOURS = {
    name: f"#0102{index:02x}" for index, name in enumerate(("muted", "line", "accent", "soft", "band", "good", "bad"))
}
SEQUENCE = {f"step-{index}": f"#0103{index:02x}" for index in range(MAX_SHOWN_STEPS + 1)}

STYLE: Mapping[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["line"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelpad": 6,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9.5,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.labelcolor": COLOURS["muted"],
    "svg.fonttype": "none",
    "text.color": COLOURS["muted"],
    "xtick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.color": COLOURS["muted"],
    "ytick.major.size": 0,
}


def budget_figure(stages: Sequence[StageRecord], name: str = "budget") -> Markup:
    """The schedule's budget D(t) (Eq. 10) against the difficulty that is really trained, in nats.

    Args:
        stages: One record per stage, as in `Schedule.stages`; at least one.
        name: What the figure's ids start with; no two figures of a page may share it.
    """

    def paint(axes: Axes) -> None:
        t = [record.stage for record in stages]
        axes.bar(
            t, [record.remaining_difficulty for record in stages], 0.62, color=COLOURS["soft"], label="trained, Σ h"
        )
        axes.plot(
            t, [record.budget for record in stages], "o-", color=COLOURS["accent"], ms=4, lw=1.8, label="budget D(t)"
        )
        axes.set(xlabel="stage t", ylabel="difficulty, nats")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(THOUSANDS)
        _legend_above(axes, ncols=2, title=None)

    return _svg(name, "The budget of difficulty per stage, and how much of it is used", paint)


def trained_steps_figure(schedule: Schedule, num_steps: Sequence[int], name: str = "trained") -> Markup:
    """How many questions write 0, 1, 2, ... of their last steps at each stage, as stacked bars.

    Args:
        schedule: The given steps c_i(t).
        num_steps: n_i of each of the schedule's questions, in its order.
        name: What the figure's ids start with; no two figures of a page may share it.
    """
    trained = np.minimum(np.asarray(num_steps) - schedule.input_steps, MAX_SHOWN_STEPS)

    def paint(axes: Axes) -> None:
        stages = np.arange(len(trained))
        below = np.zeros(len(trained), dtype=np.int64)
        for steps, colour in enumerate(SEQUENCE.values()):
            questions = np.count_nonzero(trained == steps, axis=1)
            if not questions.any():
                continue
            label = f"{steps}+" if steps == MAX_SHOWN_STEPS else str(steps)
            axes.bar(stages, questions, 0.78, bottom=below, color=colour, label=label)
            below += questions
        axes.set(xlabel="stage t", ylabel="questions")
        _count_whole_things(axes)
        _legend_above(axes, ncols=MAX_SHOWN_STEPS + 1, title="steps trained")

    return _svg(name, "How many questions train how many steps at each stage", paint)


def num_steps_figure(num_steps: Sequence[int]) -> Markup:
    """How many reasoning steps the rationales have.

    Args:
        num_steps: n_i of each rationale; at least one.
    """

    def paint(axes: Axes) -> None:
        values, counts = np.unique(np.asarray(num_steps), return_counts=True)
        axes.bar(values, counts, 0.78, color=COLOURS["accent"])
        axes.set(xlabel="steps in the rationale", ylabel="rationales")
        _count_whole_things(axes)

    return _svg("steps", "How many rationales have how many steps", paint, height=2.3)


def loss_figure(loss_curve: Sequence[LossPoint]) -> Markup:
    """The training loss as logged, with a running mean that never looks across a change of stage.

    Args:
        loss_curve: Points in the order of training; at least one. Losses that are not finite leave a gap.
    """
    window = max(1, len(loss_curve) // SMOOTHED_PART)

    def paint(axes: Axes) -> None:
        for index, (stage, points) in enumerate(groupby(loss_curve, key=lambda point: point[2])):
            steps, losses, _ = (np.asarray(values) for values in zip(*points, strict=True))
            if index % 2 == 0:
                axes.axvspan(steps[0] - 0.5, steps[-1] + 0.5, color=COLOURS["band"], lw=0)
            middle = (float(steps[0]) + float(steps[-1])) / 2
            axes.text(middle, 1.01, str(stage), transform=axes.get_xaxis_transform(), ha="center", va="bottom")
            axes.plot(steps, losses, color=COLOURS["soft"], lw=0.8)
            axes.plot(steps, running_mean(losses, window), color=COLOURS["accent"], lw=1.8)
        axes.margins(x=0.01)
        axes.set(xlabel="optimiser step", ylabel="loss")
        axes.xaxis.set_major_formatter(THOUSANDS)
        axes.text(0, 1.09, "stage t", transform=axes.transAxes, ha="left", va="bottom")

    return _svg("loss", "Training loss by optimiser step, stage by stage", paint, width=9.6, height=3.4)


LINES = [(colour, dash) for dash in ("-", "--", ":") for colour in ("accent", "good", "bad", "muted")]
"""What tells curves from one another; beyond a dozen they repeat."""


def curves_figure(curves: Mapping[str, Sequence[tuple[float, float]]], xlabel: str, name: str) -> Markup:
    """Accuracy on the validation questions against what training has spent.

    Args:
        curves: Numbers or short labels -> points of x and accuracy (0 to 1); none is empty.
        xlabel: What x is.
        name: What the figure's ids start with.
    """

    def paint(axes: Axes) -> None:
        for (label, points), (colour, dash) in zip(curves.items(), cycle(LINES), strict=False):
            x, accuracies = zip(*points, strict=True)
            axes.plot(x, accuracies, dash, color=COLOURS[colour], lw=1.8, marker="o", ms=3, label=label)
        axes.set(xlabel=xlabel, ylabel="accuracy")
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_formatter(THOUSANDS)
        _legend_above(axes, ncols=6, title=None)

    return _svg(name, f"Validation accuracy by {xlabel}", paint)


def sweep_figure(points: Sequence[tuple[float, float, tuple[float, float]]], xlabel: str, name: str) -> Markup:
    """Accuracy at each value of a recipe key, with its interval.

    Args:
        points: Value, accuracy (0 to 1) and the ends of its interval; at least one.
        xlabel: The key.
        name: What the figure's ids start with.
    """

    def paint(axes: Axes) -> None:
        x, accuracies, intervals = zip(*sorted(points), strict=True)
        reach = np.abs(np.transpose(intervals) - accuracies)
        axes.errorbar(x, accuracies, reach, color=COLOURS["accent"], lw=1.8, elinewidth=1, marker="o", ms=4)
        axes.set(xlabel=xlabel, ylabel="accuracy", xticks=x)
        axes.set_xticklabels([f"{value:g}" for value in x])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    return _svg(name, f"Accuracy by {xlabel}", paint)


def running_mean(values: NDArray[np.floating[Any]], window: int) -> NDArray[np.float64]:
    """Mean over the `window` values around each value, fewer at the ends.

    Example:
        >>> running_mean(np.array([1.0, 2.0, 6.0]), window=3).tolist()
        [1.5, 3.0, 4.0]
    """
    ones = np.ones(min(window, len(values)))
    sums = np.convolve(values, ones, mode="same")
    return np.asarray(sums / np.convolve(np.ones(len(values)), ones, mode="same"), dtype=np.float64)


THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.10g}")


def _count_whole_things(axes: Axes) -> None:
    """Whole numbers along both axes."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        axis.set_major_formatter(THOUSANDS)


def _legend_above(axes: Axes, ncols: int, title: str | None) -> None:
    """A legend over the drawing, from its left edge."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=ncols, title=title, alignment="left",
        columnspacing=1.1, handletextpad=0.45, borderpad=0, borderaxespad=0.6,
    )  # fmt: skip


def _svg(name: str, label: str, paint: Callable[[Axes], None], width: float = 5.4, height: float = 3.0) -> Markup:
    """Draw on fresh axes of `width` by `height` inches, whatever the user's matplotlibrc says, and return an <svg>."""
    text = StringIO()
    with matplotlib.style.context(["default", {**STYLE, "svg.hashsalt": name}]):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    # The page names the font and the line joins; HTML needs no XML namespaces.
    svg = re.sub(
        r'<defs>\s*<style.*?</style>\s*</defs>| font-family: [^;]*;| xmlns(:xlink)?="[^"]*"', "", svg, flags=re.DOTALL
    )
    # Several figures share one page, so their ids must differ.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    for variable, colour in {**COLOURS, **SEQUENCE}.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return Markup(svg)  # noqa: S704  # drawn above from numbers and our own words
