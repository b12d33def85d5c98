"""Adaptive curriculum learning (Kong et al., ICCV 2021): a growing share of the rationales that are easiest by now."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kpod.records.shown import percent
from kpod.training.curriculum import Curriculum, Cut, Losses, Moment, State

log = logging.getLogger(__name__)


@dataclass
class EasiestFirst(Curriculum):
    """Epoch t, counted from 1, trains the floor(N min(p q^floor(t/r), 1)) rationales with the least loss, those first.

    A rationale's score is its loss under the student before training. Whenever so many epochs have been trained, the
    score moves towards its loss under the student as it is.

    Attributes:
        start: p, the share that training starts with, above 0.
        growth: q, what the share is multiplied by.
        epochs_per_growth: r, epochs between two growths.
        epochs_per_refresh: inv, epochs between two refreshments of the scores.
        refresh: a, the share of the new loss in a refreshed score.
        scores: s_i, in nats per token; empty before training.
    """

    start: float = 0.1
    growth: float = 1.2
    epochs_per_growth: int = 15
    epochs_per_refresh: int = 20
    refresh: float = 0.7
    scores: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)

    varies: ClassVar[bool] = True

    def share(self, epoch: int) -> float:
        """The share of all rationales that an epoch, counted from 0, trains.

        Example:
            >>> [round(EasiestFirst().share(epoch), 4) for epoch in (0, 13, 14, 193, 194)]
            [0.1, 0.1, 0.12, 0.8916, 1.0]
        """
        share = self.start * self.growth ** ((epoch + 1) // self.epochs_per_growth)
        return share if share < 1 - 1e-9 else 1.0  # p q^T of a q that was made for it may be just below 1

    def length(self, epoch: int, num: int) -> int:
        """N(t), at least 1."""
        return max(1, int(num * self.share(epoch) + 1e-9))  # 100 times 0.29 is just below 29

    def begin(self, epoch: int, losses: Losses) -> None:
        """Score the rationales, or refresh their scores where it is time to."""
        if not len(self.scores):
            self.scores = losses().astype(np.float64)
        elif epoch % self.epochs_per_refresh == 0:
            self.scores = (1 - self.refresh) * self.scores + self.refresh * losses()
        log.info("epoch %d trains the easiest %d of %d rationales", epoch, len(self.order(epoch)), len(self.scores))

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The easiest first; of equals the one that comes first in the data."""
        return np.argsort(self.scores, kind="stable")[: self.length(epoch, len(self.scores))]

    def cut(self, index: int, moment: Moment) -> Cut:  # noqa: ARG002 (all are trained alike)
        """Whole; the stage is the epoch, counted from 1."""
        return Cut(stage=moment.epoch + 1)

    def describe(self, stage: int) -> str:
        """How many of the rationales.

        Example:
            >>> EasiestFirst().describe(15), EasiestFirst(start=1.0).describe(1)
            ('the easiest 12.0 % of the rationales', 'all rationales')
        """
        share = self.share(stage - 1)
        return "all rationales" if share == 1 else f"the easiest {percent(share)} of the rationales"

    def whole_from(self, num_epochs: int) -> int:
        """The first epoch with all rationales."""
        return next((epoch for epoch in range(num_epochs) if self.share(epoch) == 1), num_epochs)

    def state(self) -> State:
        """The scores."""
        return {"scores": self.scores}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take the scores back."""
        self.scores = state["scores"]
