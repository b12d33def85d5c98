"""The schedule c[stage, question]: how many steps each question is given at each stage (Eq. 9-11).

All difficulties are those of the untrained student, so the whole schedule is made before training. At each stage
the budget D(t) grows, and questions are selected to lose a few of their given steps, until the budget pays for no
further one. The selection alone leaves long rationales for the end, when one step of each of the few that are
left cannot use up the budget; the deadline rule moves them early enough. See `ScheduleConfig.pace`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from kpod.recipe import DiversityConfig, ScheduleConfig
from kpod.records import Schedule, StageRecord
from kpod.records.errors import ScheduleError
from kpod.schedule.clusters import by_first_appearance
from kpod.schedule.selection import Selection, select
from kpod.schedule.selectors import Selector, selector_of
from kpod.schedule.ticks import StepTicks, count_ticks

PAPER_BETA = 12.0
"""beta of Eq. 12 in nats, where a recipe says nothing (the paper's appendix A)."""


def make_schedule(
    ids: Sequence[str],
    difficulties: Sequence[Float[np.ndarray, " _"]],
    clusters: Int[np.ndarray, " questions"],
    config: ScheduleConfig,
    num_epochs: int,
    seed: int = 0,
) -> Schedule:
    """Plan which steps each question writes at each stage, from the easiest last steps to whole rationales.

    Args:
        ids: Rationale ids, unique.
        difficulties: d_k of each step of each rationale (Eq. 8), in nats per token, >= 0.
        clusters: The cluster C_k of each question (Eq. 12); any integers.
        config: T, C_0, p, beta, stride and pace.
        num_epochs: T is half of it, where the recipe does not set T.
        seed: Of the selector `random`; the others do not use it.

    Returns:
        T + 1 stages with a record each. At every stage the remaining difficulty stays within the budget, unless
        `min_output_steps` asks for more at the start; at stage T every rationale is whole.

    Raises:
        ScheduleError: If the inputs do not fit together, or a difficulty is negative or not finite.

    Example:
        >>> steps = [np.array([1.0, 1.0]), np.array([2.0, 1.0, 1.0])]
        >>> make_schedule(["a", "b"], steps, np.array([0, 1]), ScheduleConfig(ramp_stages=3), 6).input_steps
        array([[1, 3],
               [1, 2],
               [0, 1],
               [0, 0]], dtype=int8)
    """
    if not len(ids) == len(set(ids)) == len(difficulties) == len(clusters):
        raise ScheduleError(
            f"{len(ids)} rationales ({len(set(ids))} of them unique), {len(difficulties)} rows of difficulties and "
            f"{len(clusters)} clusters; a schedule needs one of each per rationale"
        )
    ticks = count_ticks(ids, difficulties)
    ramp_stages, pace = _pace(config, num_epochs)
    ramp = _Ramp(ticks, by_first_appearance(clusters), config, ramp_stages, selector_of(config.selector, seed))
    given = np.maximum(ticks.num_steps - config.min_output_steps, 0)
    rows, records = [], []
    for stage in range(ramp.ramp_stages + 1):
        before, (given, value, upper_bound) = given, ramp.enter(stage, given)
        rows.append(given)
        records.append(ramp.record(stage, before, given, value, upper_bound))
    beta, relative = ramp.diversity()
    return Schedule(tuple(ids), _compact(np.array(rows)), tuple(records), beta, relative, **pace)


def whole_rationales(ids: Sequence[str]) -> Schedule:
    """A schedule without progression: every rationale is trained whole from the first epoch.

    Args:
        ids: Rationale ids, unique.

    Example:
        >>> whole_rationales(["a", "b", "c"]).input_steps
        array([[0, 0, 0],
               [0, 0, 0]], dtype=int8)
    """
    return Schedule(tuple(ids), np.zeros((2, len(ids)), dtype=np.int8))


def linear_schedule(
    ids: Sequence[str], num_steps: Int[np.ndarray, " questions"], config: ScheduleConfig, num_epochs: int
) -> Schedule:
    """A schedule without budget or selection: every question's given steps fall evenly to none at stage T.

    c_i(t) = floor((1 - C_0 / B) n_i (1 - t / T)), so that at the start about as large a share is written as in
    `make_schedule`, of steps instead of difficulty.

    Args:
        ids: Rationale ids, unique.
        num_steps: n_i.
        config: T, C_0 / B and `min_output_steps`.
        num_epochs: T is half of it, where the recipe does not set T.

    Example:
        >>> linear_schedule(["a", "b"], np.array([2, 10]), ScheduleConfig(ramp_stages=2), 4).input_steps
        array([[1, 7],
               [0, 3],
               [0, 0]], dtype=int8)
    """
    ramp_stages, pace = _pace(config, num_epochs)
    left = 1 - np.arange(ramp_stages + 1)[:, None] / ramp_stages
    given = np.floor((1 - config.initial_fraction) * left * num_steps)
    most = np.maximum(num_steps - config.min_output_steps, 0)
    return Schedule(tuple(ids), _compact(np.minimum(given, most)), **pace)


def budget(stage: int, ramp_stages: int, total: int, initial_fraction: float, growth_exponent: float) -> int:
    """D(t), the difficulty that may be written at a stage (Eq. 10).

    D(t) = C_0 + (B - C_0) (t/T)^(p+1), which is the paper's u t^(p+1)/(p+1) + C_0 with u chosen such that D(T) = B.

    Args:
        stage: t, 0 to T.
        ramp_stages: T, at least 1.
        total: B in ticks.
        initial_fraction: C_0 / B, 0 to 1.
        growth_exponent: p, above -1. At 0 the budget grows evenly, above 0 slowly at first.

    Returns:
        Ticks, rounded down; exactly C_0 at stage 0, exactly B at stage T, and never falling.

    Example:
        >>> [budget(t, 4, total=1000, initial_fraction=0.3, growth_exponent=0.5) for t in range(5)]
        [300, 387, 547, 754, 1000]
    """
    initial = round(initial_fraction * total)
    if stage == ramp_stages:
        return total
    return initial + int((total - initial) * (stage / ramp_stages) ** (growth_exponent + 1))


@dataclass(frozen=True, slots=True)
class _Ramp:
    """What stays the same from stage to stage. `given` is c_i, one number per question, throughout."""

    ticks: StepTicks
    clusters: NDArray[np.int64]
    config: ScheduleConfig
    ramp_stages: int
    selector: Selector

    def budget(self, stage: int) -> int:
        """D(t) in ticks."""
        config = self.config
        return budget(stage, self.ramp_stages, self.ticks.total, config.initial_fraction, config.growth_exponent)

    def diversity(self) -> tuple[float, float]:
        """Beta in nats, and the same relative to B."""
        spread = float(np.sqrt(np.bincount(self.clusters)).sum())
        return _diversity(self.config.diversity, spread, self.ticks.to_nats(self.ticks.total))

    def enter(self, stage: int, given: NDArray[np.int64]) -> tuple[NDArray[np.int64], float, float]:
        """Advance questions until the stage's budget pays for no further chunk of steps.

        A round selects among all questions with given steps left, each at the cost of its next chunk, and
        advances the selected. A selection is maximal, so only what has just advanced can be affordable in the
        next round. Urgent questions sit out the first, as they have advanced already.

        Returns:
            c_i(t), and G and its upper bound in ticks, summed over the rounds.
        """
        limit = self.budget(stage)
        ramping = 0 < stage < self.ramp_stages
        urgent = np.zeros(len(given), dtype=bool)
        if self.config.pace == "deadline" and ramping:
            given, urgent = self._meet_deadline(stage, given, limit)
        value = upper_bound = 0.0
        while True:
            numbers, costs, left = self._affordable(given, limit)
            if not len(numbers):
                return given, value, upper_bound
            able = ~urgent[numbers]
            if able.any():
                given, selection = self._round(given, numbers[able], costs[able], left)
                value, upper_bound = value + selection.value, upper_bound + selection.upper_bound
            urgent = np.zeros(len(given), dtype=bool)
            if self.config.pace == "literal" and ramping:
                return given, value, upper_bound

    def record(
        self, stage: int, before: NDArray[np.int64], given: NDArray[np.int64], value: float, upper_bound: float
    ) -> StageRecord:
        """Sum up a stage, in nats."""
        selected = np.flatnonzero(given < before)
        return StageRecord(
            stage=stage,
            budget=self.ticks.to_nats(self.budget(stage)),
            remaining_difficulty=self.ticks.to_nats(self.ticks.remaining(given)),
            value=self.ticks.to_nats(value),
            upper_bound=self.ticks.to_nats(upper_bound),
            selected=len(selected),
            clusters_touched=len(np.unique(self.clusters[selected])),
        )

    def _affordable(self, given: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """The questions with given steps left whose next chunk fits, its cost, and what is left of the budget.

        The finished are not among them: they would be a bonus for nothing.
        """
        cost = self.ticks.cost(given, self.config.stride)
        left = limit - self.ticks.remaining(given)
        numbers = np.flatnonzero((given > 0) & (cost <= left))
        return numbers, cost[numbers], left

    def _round(
        self, given: NDArray[np.int64], numbers: NDArray[np.int64], costs: NDArray[np.int64], left: int
    ) -> tuple[NDArray[np.int64], Selection]:
        """Select among candidates what the budget left can pay (Eq. 13), and advance it by a stride (Eq. 11)."""
        beta = self.ticks.to_ticks(self.diversity()[0])
        selection = select(costs, self.clusters[numbers], left, beta, self.selector)
        given = given.copy()
        chosen = numbers[selection.indices]
        given[chosen] = np.maximum(given[chosen] - self.config.stride, 0)
        return given, selection

    def _meet_deadline(
        self, stage: int, given: NDArray[np.int64], limit: int
    ) -> tuple[NDArray[np.int64], Bool[np.ndarray, " questions"]]:
        """Advance the questions that a chunk in each later stage would not bring to the end by stage T.

        They advance by an even share of their given steps: those with most first, then the cheaper, then in
        order; what does not fit is left to the next stage.

        Returns:
            The steps given now, and which questions have advanced.
        """
        stages_left = self.ramp_stages - stage + 1
        share = -(-given // stages_left)
        cost = self.ticks.cost(given, share)
        urgent = np.flatnonzero(given > self.config.stride * (stages_left - 1))
        headroom = limit - self.ticks.remaining(given)
        advanced = np.zeros(len(given), dtype=bool)
        waiting = urgent[np.lexsort((cost[urgent], -given[urgent]))]
        while len(waiting):  # all up to the first that does not fit, then on behind it with what still could
            num = int(np.searchsorted(np.cumsum(cost[waiting]), headroom, side="right"))
            advanced[waiting[:num]] = True
            headroom -= int(cost[waiting[:num]].sum())
            waiting = waiting[num + 1 :]
            waiting = waiting[cost[waiting] <= headroom]
        return np.where(advanced, given - share, given), advanced


def _compact(steps: NDArray[Any]) -> NDArray[np.signedinteger[Any]]:
    """Numbers of steps in the narrowest signed type that holds them: mostly a byte a question and stage."""
    return steps.astype(np.min_scalar_type(-int(steps.max(initial=0)) - 1))


def _pace(config: ScheduleConfig, num_epochs: int) -> tuple[int, dict[str, Any]]:
    """T, and how the stages go with the epochs."""
    if config.stages is not None:
        return config.stages, {"first_stage": config.first_stage, "ramp_epochs": num_epochs / 2}
    return config.ramp_stages or max(1, num_epochs // 2), {"first_stage": config.first_stage}


def _diversity(config: DiversityConfig, spread: float, total: float) -> tuple[float, float]:
    """Beta in nats and relative to B (`total`, in nats), of which the recipe gives one; spread = sum_k sqrt(|C_k|)."""
    if config.relative is not None:
        return (config.relative * total / spread if spread else 0.0), config.relative
    beta = PAPER_BETA if config.beta is None else config.beta
    return beta, (beta * spread / total if total else 0.0)
