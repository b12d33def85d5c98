"""Step difficulties as whole numbers, so that every sum and every comparison with a budget is exact."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from kpod.records.errors import ScheduleError

TICK_BITS = 51
"""All difficulties add up to less than 2^51 ticks before rounding, hence to less than 2^52 after it."""


@dataclass(frozen=True, slots=True)
class StepTicks:
    """The difficulty of every step of every question, in ticks.

    Attributes:
        starts: Where each question begins in the row of all steps.
        num_steps: n_i, how many steps each question has; at least 1.
        running: What all steps before each place of that row cost together; one longer than the row.
        exponent: A nat is 2^exponent ticks.
    """

    starts: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    running: NDArray[np.int64]
    exponent: int

    @property
    def total(self) -> int:
        """B, the difficulty of everything."""
        return int(self.running[-1])

    def cost(
        self, given: Int[np.ndarray, " questions"], taken: Int[np.ndarray, " questions"] | int
    ) -> NDArray[np.int64]:
        """What the last `taken` of the `given` steps of each question cost; all of them where there are fewer."""
        stops = self.starts + given
        cost: NDArray[np.int64] = self.running[stops] - self.running[np.maximum(stops - taken, self.starts)]
        return cost

    def remaining(self, given: Int[np.ndarray, " questions"]) -> int:
        """Sum of h_i (Eq. 9): the difficulty of all steps that are written rather than given."""
        return int(self.cost(self.num_steps, self.num_steps - given).sum())

    def to_ticks(self, nats: float) -> float:
        """Nats in ticks, not rounded."""
        return math.ldexp(nats, self.exponent)

    def to_nats(self, ticks: int | float) -> float:
        """Ticks in nats."""
        return math.ldexp(ticks, -self.exponent)


def count_ticks(ids: Sequence[str], difficulties: Sequence[Float[np.ndarray, " _"]]) -> StepTicks:
    """Round difficulties to ticks, the finest power of two that keeps their sum exact.

    Args:
        ids: The rationale of each entry of `difficulties`.
        difficulties: d_k of each step of a rationale (Eq. 8), in nats per token, >= 0.

    Raises:
        ScheduleError: If a rationale has no step, or a difficulty is negative or not finite.

    Example:
        >>> ticks = count_ticks(["a", "b"], [np.array([1.0, 0.5]), np.array([2.5])])
        >>> ticks.to_nats(ticks.total)
        4.0
    """
    num_steps = np.array([len(steps) for steps in difficulties], dtype=np.int64)
    if np.any(num_steps == 0):
        raise ScheduleError(f"rationale {ids[int(np.argmin(num_steps))]!r} has no steps, so nothing can be scheduled")
    stops = np.cumsum(num_steps)
    nats = np.concatenate([np.zeros(0), *difficulties]).astype(np.float64)
    broken = np.flatnonzero(~(np.isfinite(nats) & (nats >= 0)))
    if len(broken):
        question = int(np.searchsorted(stops, broken[0], side="right"))
        step = int(broken[0] - (stops - num_steps)[question]) + 1
        raise ScheduleError(
            f"rationale {ids[question]!r}: step {step} has difficulty {nats[broken[0]]}; it must be finite and not "
            "negative. Check the log-probabilities of the student."
        )
    exponent = TICK_BITS - math.frexp(nats.sum())[1]
    ticks = np.rint(np.ldexp(nats, exponent)).astype(np.int64)
    return StepTicks(stops - num_steps, num_steps, np.concatenate([[0], np.cumsum(ticks)]), exponent)
