"""`kpod report A B`: what two runs did differently, gathered from what both saved."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kpod.commands.gathered import answered, heat_maps, paired, predictions_after, question_texts
from kpod.commands.pages.browser import Answered, Browsed, Explained, HeatMap
from kpod.commands.pages.pair import Agreement, Pair, pair_markdown, pair_to_json, render_pair
from kpod.commands.terminal import say
from kpod.recipe import Recipe
from kpod.records.errors import DataError
from kpod.records.files import write_text

if TYPE_CHECKING:
    from kpod.experiment.pipeline import Pipeline


def print_comparison(one: "Pipeline", other: "Pipeline", num_browsed: int) -> None:
    """Write the page of two finished runs into the first one's folder, and print its table.

    Raises:
        DataError: If a run was not evaluated, or the two asked different questions under one id.
    """
    pair = gather_pair(one, other, num_browsed)
    page = one.folder.path / f"compared-with-{other.folder.path.name}.html"
    write_text(page, render_pair(pair))
    write_text(page.with_suffix(".json"), json.dumps(pair_to_json(pair), indent=2, ensure_ascii=False))
    say(pair_markdown(pair))
    say(f"report: {page}")


def gather_pair(one: "Pipeline", other: "Pipeline", num_browsed: int) -> Pair:
    """Everything that the page of two runs shows."""
    runs, pipelines = _names(one, other), (one, other)
    after = [predictions_after(pipeline) for pipeline in pipelines]
    first, second = map(question_texts, pipelines)
    texts = {test: {**first.get(test, {}), **second.get(test, {})} for test in (*first, *second)}
    answers = list(answered(texts, after))
    _check_same_questions(answers)
    maps = [heat_maps(pipeline) for pipeline in pipelines]
    ids = list(dict.fromkeys(id_ for found in maps for id_ in found))
    rationales = tuple(Explained(id_, tuple(found.get(id_) for found in maps)) for id_ in ids[:num_browsed])
    return Pair(
        runs=runs,
        recipe=dict(recipe_differences(one.recipe, other.recipe)),
        accuracies=tuple(
            {test: pipeline.own_evaluation("after", test)[1] for test in pipeline.recipe.data.tests}
            for pipeline in pipelines
        ),
        paired=tuple(paired(answers)),
        agreement=agreement(*maps),
        browsed=Browsed(runs, runs, tuple(answers), rationales, max(0, len(ids) - num_browsed)),
    )


def recipe_differences(one: Recipe, other: Recipe) -> Iterator[tuple[str, tuple[str | None, str | None]]]:
    """The recipe keys that differ, with both values; None where a recipe lacks the key.

    The run's name and its folder are no difference.

    Example:
        >>> from kpod.recipe.loading import load_recipe
        >>> two = [load_recipe(None, ["--name", name, "--seed", seed]) for name, seed in (("a", "1"), ("b", "2"))]
        >>> list(recipe_differences(*two))
        [('seed', ('1', '2'))]
    """
    first, second = (dict(_leaves(asdict(recipe))) for recipe in (one, other))
    for key in dict.fromkeys((*first, *second)):
        values = first.get(key), second.get(key)
        if values[0] != values[1] and key not in ("name", "runs"):
            yield key, values


def agreement(one: Mapping[str, HeatMap], other: Mapping[str, HeatMap]) -> Agreement:
    """How far two runs weigh the tokens of the same rationales alike.

    Args:
        one: The first run's rationales.
        other: The second's.

    Example:
        >>> def heat(*weights):
        ...     return {"r": HeatMap("r", "q", tuple((str(n), weight, 1) for n, weight in enumerate(weights)))}
        >>> found = agreement(heat(0.0, 0.5, 1.0), heat(0.25, 0.5, 0.75))
        >>> found.num_tokens, round(found.correlation, 3), round(found.rank_correlation, 3), round(found.distance, 3)
        (3, 1.0, 1.0, 0.167)
    """
    common = [id_ for id_ in one if id_ in other]
    alike = [id_ for id_ in common if _texts(one[id_]) == _texts(other[id_])]
    pairs = [(_weights(one[id_]), _weights(other[id_])) for id_ in alike]
    first, second = (np.concatenate([pair[side] for pair in pairs] or [np.empty(0)]) for side in (0, 1))
    ranked = [found for a, b in pairs if (found := _correlation(_ranks(a), _ranks(b))) is not None]
    return Agreement(
        num_rationales=len(alike),
        num_tokens=len(first),
        num_other_tokens=len(common) - len(alike),
        num_alone=(len(one) - len(common), len(other) - len(common)),
        means=(float(first.mean()), float(second.mean())) if len(first) else None,
        correlation=_correlation(first, second),
        rank_correlation=float(np.mean(ranked)) if ranked else None,
        distance=float(np.abs(first - second).mean()) if len(first) else None,
    )


def _names(one: "Pipeline", other: "Pipeline") -> tuple[str, str]:
    names = one.recipe.name, other.recipe.name
    return names if names[0] != names[1] else (str(one.folder.path), str(other.folder.path))


def _check_same_questions(answers: Sequence[Answered]) -> None:
    for one in answers:
        golds = {prediction.gold for prediction in one.predictions if prediction is not None}
        if len(golds) > 1:
            raise DataError(
                f"question {one.id!r} of {one.test!r} has the gold answers {' and '.join(map(repr, sorted(golds)))} in "
                "the two runs; evaluate both on the same data"
            )


def _leaves(values: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{section}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            yield f"{section}{key}", text


def _texts(one: HeatMap) -> list[str]:
    return [text for text, _, _ in one.tokens]


def _weights(one: HeatMap) -> NDArray[np.float64]:
    return np.array([weight for _, weight, _ in one.tokens])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata  # takes a second

    found: NDArray[np.float64] = rankdata(values)
    return found


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Pearson's; None where one of the two never changes."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])
