"""Two runs beside one another as one self-contained HTML page, Markdown or JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kpod.commands.pages.browser import Browsed, Paired
from kpod.commands.pages.page import environment
from kpod.commands.pages.tables import p_value, percent_range, percentage_points
from kpod.records.outcomes import Accuracy
from kpod.records.shown import percent, visible

MAX_DIFFERING = 20


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two runs weigh the tokens of the same rationales alike.

    Attributes:
        num_rationales: Rationales of both runs with the same tokens; the figures below are of them.
        num_tokens: Their tokens.
        num_other_tokens: Rationales of both runs that the two students' tokenizers cut differently.
        num_alone: Rationales that only the first run trains, and only the second.
        means: Mean weight of each run, 0 to 1; None without a token.
        correlation: Pearson's, over all tokens; None where a run weighs all tokens the same.
        rank_correlation: Spearman's, the mean over rationales in which both runs' weights differ; None without one.
        distance: Mean absolute difference of two weights, 0 to 1; None without a token.
    """

    num_rationales: int = 0
    num_tokens: int = 0
    num_other_tokens: int = 0
    num_alone: tuple[int, int] = (0, 0)
    means: tuple[float, float] | None = None
    correlation: float | None = None
    rank_correlation: float | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """What the page of two runs shows.

    Attributes:
        runs: Their names.
        recipe: Recipe key -> both values, where they differ; None where a recipe lacks the key.
        accuracies: Test set -> accuracy after training, for each run.
        paired: Of each test set that both were asked, which questions each answered correctly.
        agreement: Of the token weights.
        browsed: All questions and rationales, for the page's script.
    """

    runs: tuple[str, str]
    recipe: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    accuracies: tuple[Mapping[str, Accuracy], ...] = ({}, {})
    paired: tuple[Paired, ...] = ()
    agreement: Agreement = field(default_factory=Agreement)
    browsed: Browsed = field(default_factory=Browsed)

    @property
    def tests(self) -> dict[str, tuple[tuple[Accuracy | None, Accuracy | None], Paired | None]]:
        """Test set -> both accuracies and the paired difference, where they were measured."""
        first, second = self.accuracies
        differences = {one.test: one for one in self.paired}
        return {
            test: ((first.get(test), second.get(test)), differences.get(test))
            for test in dict.fromkeys((*first, *second))
        }


def render_pair(pair: Pair) -> str:
    """Two runs as one HTML page with nothing to load.

    Args:
        pair: What to show.

    Returns:
        A whole HTML document, to be written as UTF-8.
    """
    differing = [
        one
        for one in pair.browsed.questions
        if None not in one.predictions and len({found.correct for found in one.predictions if found}) > 1
    ]
    first, second = pair.runs
    filters = {
        "changed": "one run alone is right",
        "gained": f"only {second} is right",
        "lost": f"only {first} is right",
        "both": "both right",
        "neither": "both wrong",
        "all": "all",
    }
    template, shown = environment().get_template("pair.html.jinja"), differing[:MAX_DIFFERING]
    return template.render(pair=pair, differing=shown, num_differing=len(differing), filters=filters)


def pair_markdown(pair: Pair) -> str:
    """The table of accuracies for a terminal, ending in a line break."""
    names = [visible(name).replace("|", "\\|") for name in pair.runs]
    lines = [
        f"| test set | {names[0]} | {names[1]} | difference (95 % interval) | p |",
        "|---|--:|--:|--:|--:|",
    ]
    for test, (accuracies, paired) in pair.tests.items():
        cells = [f"{percent(a.value)} ({percent_range(a.interval)})" if a else "–" for a in accuracies]
        found = paired and paired.difference
        cells += [percentage_points(found.difference, found.interval), p_value(found.p_value)] if found else ["–", "–"]
        lines.append(f"| {visible(test)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def pair_to_json(pair: Pair) -> dict[str, Any]:
    """The page's tables in plain types that `json.dumps` takes; rates are 0 to 1."""
    return {
        "runs": list(pair.runs),
        "recipe": {key: list(values) for key, values in pair.recipe.items()},
        "tests": {
            test: {
                "accuracies": [asdict(found) | {"value": found.value} if found else None for found in accuracies],
                "paired": paired and {**paired._asdict(), "difference": asdict(paired.difference)},
            }
            for test, (accuracies, paired) in pair.tests.items()
        },
        "weights": asdict(pair.agreement),
    }
