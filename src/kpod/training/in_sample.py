"""In-sample curriculum learning (Jia et al., ACL 2023): the given start shrinks when validation finds no new best."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kpod.records.shown import percent
from kpod.training.curriculum import Curriculum, Cut, Moment, State


@dataclass
class InSample(Curriculum):
    """Gives the first share rho of what is written; rho falls by a step at every validation without a new best.

    Training is over when `patience` validations in a row found no new best, and the epoch before the last of them
    trained with rho = 0.

    Attributes:
        start: rho of the first epoch, 0 to 1.
        step: By how much it falls, above 0.
        patience: Validations in a row without a new best.
        falls: How often it has fallen.
        waited: Validations since the best one.
        best: The best accuracy; None before the first validation.
        over: Whether training has gone on for long enough.
    """

    start: Fraction = Fraction(6, 10)
    step: Fraction = Fraction(3, 10)
    patience: int = 3
    falls: int = field(default=0, repr=False)
    waited: int = field(default=0, repr=False)
    best: float | None = field(default=None, repr=False)
    over: bool | None = field(default=False, repr=False)

    asks: ClassVar[bool] = True

    @property
    def given(self) -> Fraction:
        """The share rho of what is written that is given now."""
        return max(self.start - self.falls * self.step, Fraction(0))

    def cut(self, index: int, moment: Moment) -> Cut:  # noqa: ARG002 (all are cut alike, for a whole epoch)
        """The first floor(rho |target|) tokens are given; the stage is the number of falls."""
        return Cut(self.falls, given=self.given)

    def describe(self, stage: int) -> str:
        """How much is given.

        Example:
            >>> [InSample().describe(stage) for stage in range(3)]
            ['all but the first 60.0 % of each text', 'all but the first 30.0 % of each text', 'whole texts']
        """
        given = max(self.start - stage * self.step, Fraction(0))
        return f"all but the first {percent(float(given))} of each text" if given else "whole texts"

    def see(self, accuracy: float) -> None:
        """Wait on, or lower rho."""
        trained_whole = self.given == 0
        if self.best is None or accuracy > self.best:
            self.best, self.waited = accuracy, 0
        else:
            self.waited += 1
            self.falls += not trained_whole
        self.over = self.waited >= self.patience and trained_whole

    def state(self) -> State:
        """What has been seen."""
        best = np.nan if self.best is None else self.best
        return {"counts": np.array([self.falls, self.waited, bool(self.over)]), "best": np.array(best)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from there."""
        self.falls, self.waited, over = state["counts"].tolist()
        self.over, best = bool(over), float(state["best"])
        self.best = None if np.isnan(best) else best
