"""A method over several seeds, and two methods on the same questions: intervals, paired differences, p-values."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Shaped
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, chi2, norm, permutation_test, sem
from scipy.stats import t as student_t

from kpod.evaluation.accuracy import wilson_interval
from kpod.records.errors import DataError
from kpod.records.outcomes import PairedDifference

NUM_RESAMPLES = 9999
RESAMPLES_AT_A_TIME = 1000
SETTLED = 0.02
"""The difference that a comparison should be able to tell from none: two points of accuracy."""
POWER = 0.8


def accuracy_interval(right: Bool[np.ndarray, "seeds questions"]) -> tuple[float, float]:
    """The 95 % interval of a method's accuracy over other seeds and other questions.

    Seeds and questions are both resampled (the pigeonhole bootstrap of Owen, 2007). All answers in one Wilson interval
    would count a question once for each seed: such an interval is right 60 to 90 % of the time, not 95 %.

    Args:
        right: Whether each question was answered correctly under each seed; at least one of both.

    Returns:
        Lower and upper end, in [0, 1]. Wilson's interval over the questions where there is one seed, or where all
        answers are right or all are wrong.

    Example:
        >>> accuracy_interval(np.array([[True, True, False, True]])) == wilson_interval(3, 4)
        True
    """
    seeds, questions = right.shape
    if seeds == 1 or right.all() or not right.any():
        return wilson_interval(int(right[0].sum()), questions)
    rng, table = np.random.default_rng(0), right.astype(float)
    means: list[NDArray[np.float64]] = []
    for start in range(0, NUM_RESAMPLES, RESAMPLES_AT_A_TIME):
        number = min(RESAMPLES_AT_A_TIME, NUM_RESAMPLES - start)
        of_seeds, of_questions = (rng.multinomial(n, [1 / n] * n, size=number) / n for n in (seeds, questions))
        means.append(np.einsum("rq,rq->r", of_seeds @ table, of_questions))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def paired_difference(
    one: Shaped[np.ndarray, "seeds questions"], other: Shaped[np.ndarray, "other_seeds other_questions"]
) -> PairedDifference:
    """Compare what two methods got right on the same questions, or another measure of them.

    Args:
        one: Whether the first method was right, seed by seed; or a number for each.
        other: The same of the second, under the same seeds.

    Raises:
        DataError: If they were not asked the same number of questions under as many seeds, or none.

    Example:
        >>> a, b = np.array([[True, True, True, False]]), np.array([[False, False, True, False]])
        >>> paired_difference(a, b).difference, paired_difference(a, b).p_value
        (0.5, 0.5)
    """
    if one.shape != other.shape or not one.size:
        asked = (f"{questions} questions under {seeds} seeds" for seeds, questions in (one.shape, other.shape))
        raise DataError(f"methods were asked {' and '.join(asked)}; compare the same ones")
    differences = one.astype(float) - other
    by_question, by_seed = differences.mean(axis=0), differences.mean(axis=1)
    seeds = tuple(by_seed.tolist())
    if len(by_question) == 1 or not by_question.any():  # a single question says nothing of others
        interval = (-1.0, 1.0) if len(by_question) == 1 else (0.0, 0.0)
        return PairedDifference(float(by_question.mean()), interval, seeds, _over_seeds(by_seed), 1.0)
    found = bootstrap(
        (by_question,), np.mean, n_resamples=NUM_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return PairedDifference(
        difference=float(by_question.mean()),
        interval=(float(found.low), float(found.high)),
        by_seed=seeds,
        seed_interval=_over_seeds(by_seed),
        p_value=_p_value(one, by_question),
    )


def _over_seeds(by_seed: NDArray[np.float64]) -> tuple[float, float] | None:
    if len(by_seed) == 1:
        return None
    middle, half = by_seed.mean(), student_t.ppf(0.975, len(by_seed) - 1) * sem(by_seed)
    return float(middle - half), float(middle + half)


def seeds_to_settle(by_seed: Sequence[float], difference: float = SETTLED) -> int | None:
    """How many seeds would tell a difference from none, at the spread over seeds that was seen.

    With so many, an interval over seeds (Student's t, 95 %) excludes 0 in four of five comparisons of methods that do
    differ by this much. The spread of few seeds is itself known roughly.

    Args:
        by_seed: The difference of two methods under each seed.
        difference: What they are assumed to differ by, above 0, in the same unit.

    Returns:
        At least 2; None where there are fewer than two seeds, which show no spread.

    Example:
        >>> seeds_to_settle([0.03, -0.01, 0.02, -0.02]), seeds_to_settle([0.01, 0.01]), seeds_to_settle([0.05])
        (14, 2, None)
    """
    if len(by_seed) < 2:
        return None
    spread = float(np.std(by_seed, ddof=1))
    least, most = 1, 2  # too few, and enough
    while _power(most, spread, difference) < POWER:
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if _power(middle, spread, difference) >= POWER else (middle, most)
    return most


def _power(seeds: int, spread: float, difference: float) -> float:
    """The chance that a t-test at 5 % finds a difference: over what spreads so many seeds may show."""
    if spread == 0:
        return 1.0
    shown = np.sqrt(chi2.ppf((np.arange(1000) + 0.5) / 1000, seeds - 1) / (seeds - 1))
    far, edge = difference * seeds**0.5 / spread, student_t.ppf(0.975, seeds - 1) * shown
    return float(np.mean(norm.sf(edge - far) + norm.cdf(-edge - far)))


def _p_value(one: Shaped[np.ndarray, "seeds questions"], by_question: NDArray[np.float64]) -> float:
    if len(one) == 1:
        better, worse = int((by_question > 0).sum()), int((by_question < 0).sum())
        return float(binomtest(better, better + worse).pvalue)
    flipped = permutation_test(
        (by_question,),
        np.mean,
        permutation_type="samples",
        n_resamples=NUM_RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(flipped.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm, 1979): together they err with the chance that one alone would.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected.tolist()
