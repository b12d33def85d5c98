"""Stepwise internalisation (ICoT-SI, Deng et al. 2024): the rationale's first tokens are removed until none is left."""

import math
from dataclasses import dataclass

import numpy as np

from kpod.records.errors import ConfigError
from kpod.training.curriculum import Curriculum, Cut, Moment

ALL = 2**31 - 1
"""More tokens than a rationale has."""


@dataclass
class Internalisation(Curriculum):
    """Leaves out the first s + o tokens of a rationale; s grows with the updates, o is drawn for each rationale.

    Attributes:
        tokens_per_epoch: By how much s grows in an epoch: by 1 every round(updates of an epoch / this) updates, and in
            every update where an epoch has fewer.
        all_from: From this s on the whole rationale is left out.
        smoothing: lambda of P(o) ~ exp(-lambda o), for o = 0, 1, ...
    """

    tokens_per_epoch: int = 8
    all_from: int = 39
    smoothing: float = 4.0

    def removed(self, moment: Moment) -> int:
        """s, at most `all_from`.

        Example:
            >>> [Internalisation().removed(Moment(0, 0, update, per_epoch=16)) for update in (0, 1, 2, 15, 16, 99)]
            [0, 0, 1, 7, 8, 39]
        """
        return min(moment.update // max(1, round(moment.per_epoch / self.tokens_per_epoch)), self.all_from)

    def offset(self, index: int, moment: Moment) -> int:
        """The offset o of a rationale in an epoch: a pure function of seed, epoch and index."""
        rng = np.random.default_rng((moment.seed, moment.epoch, index))
        return int(rng.geometric(-math.expm1(-self.smoothing))) - 1

    def cut(self, index: int, moment: Moment) -> Cut:
        """Without its first tokens; the stage is s."""
        removed = self.removed(moment)
        return Cut(removed, dropped=ALL if removed == self.all_from else removed + self.offset(index, moment))

    def describe(self, stage: int) -> str:
        """How much of a rationale is left.

        Example:
            >>> [Internalisation().describe(stage) for stage in (0, 8, 39)]
            ['whole rationales', 'rationales without their first 8 tokens', 'answers alone']
        """
        if stage >= self.all_from:
            return "answers alone"
        return f"rationales without their first {stage} tokens" if stage else "whole rationales"

    def starts_afresh(self, moment: Moment) -> bool:
        """Whether s has just grown."""
        before = Moment(moment.seed, moment.epoch, moment.update - 1, moment.per_epoch)
        return moment.update > 0 and self.removed(moment) != self.removed(before)

    def may_choose(self, moment: Moment) -> bool:
        """Whether nothing of the rationales was left in the update."""
        return self.removed(moment) == self.all_from

    def check(self, last: Moment) -> None:
        """Refuse a training that ends before the last rationale token is removed."""
        if not self.may_choose(last):
            every = max(1, round(last.per_epoch / self.tokens_per_epoch))
            epochs = math.ceil((self.all_from * every + 1) / last.per_epoch)
            raise ConfigError(
                f"training.num_train_epochs: {self.removed(last)} tokens of each rationale are removed when training "
                f"ends, and {self.all_from} must be; train {epochs} epochs or more"
            )
