"""Batches that keep together what is compared: views of one question, of which each epoch draws some."""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from kpod.records import Schedule
from kpod.records.errors import ConfigError
from kpod.training.batches import ByEpoch, StageKey


class GroupSampler(ByEpoch[list[StageKey]]):
    """Batches of whole groups in an order that only seed and epoch decide; each at the stage of its update.

    A batch holds as many groups as fit, so none is split over batches that are accumulated. Every epoch has the same
    number of batches. They are random, not of like length.

    Args:
        groups: The group of every example.
        schedule: Says which stage it is after so many epochs.
        seed: Of order and draws.
        batch_size: Examples of a batch, at most.
        update_size: Batches per optimiser step.
        drawn: How many of a group's examples an epoch draws, or all if it has fewer; None for always all of them.

    Raises:
        ConfigError: If a group does not fit into a batch.
    """

    def __init__(
        self,
        groups: Sequence[str],
        schedule: Schedule,
        seed: int,
        batch_size: int,
        update_size: int = 1,
        *,
        drawn: int | None = 2,
    ) -> None:
        super().__init__(schedule, seed)
        self.update_size = update_size
        self._members: dict[str, list[int]] = {}
        for index, group in enumerate(groups):
            self._members.setdefault(group, []).append(index)
        self._sizes = {name: min(len(found), drawn or len(found)) for name, found in self._members.items()}
        largest = max(self._sizes.values(), default=0)
        if largest > batch_size:
            raise ConfigError(
                f"training.per_device_train_batch_size is {batch_size}, but {largest} rationales of a question share a "
                f"batch; set it to {largest} or more"
            )
        self._plan = _plan(Counter(self._sizes.values()), batch_size)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[list[StageKey]]:
        rng, num = self.rng(), len(self._plan)
        names = np.array(list(self._members), dtype=object)[rng.permutation(len(self._members))]
        waiting = {size: [name for name in names if self._sizes[name] == size] for size in set(self._sizes.values())}
        batches = [[index for size in sizes for index in self._draw(waiting[size].pop(), rng)] for sizes in self._plan]
        order = rng.permutation(num)
        for start in range(0, num, self.update_size):
            stage = self.schedule.at_epoch(self.epoch + Fraction(start, num))
            for batch in order[start : start + self.update_size]:
                yield [(index, stage) for index in batches[batch]]

    def _draw(self, group: str, rng: np.random.Generator) -> list[int]:
        return [int(index) for index in rng.choice(self._members[group], self._sizes[group], replace=False)]


def num_alone(groups: Sequence[str]) -> tuple[int, int]:
    """How many groups have one example, and how many there are.

    Example:
        >>> num_alone(["a", "b", "a"])
        (1, 2)
    """
    sizes = Counter(groups)
    return sum(size == 1 for size in sizes.values()), len(sizes)


def _plan(left: Counter[int], batch_size: int) -> list[list[int]]:
    """Sizes of the groups of every batch: each is filled with the largest that still fit.

    Example:
        >>> _plan(Counter({2: 3, 1: 2}), 5)
        [[2, 2, 1], [2, 1]]
    """
    plan: list[list[int]] = []
    while left.total():
        batch: list[int] = []
        room = batch_size
        for size in sorted(left, reverse=True):
            taken = min(left[size], room // size)
            batch += [size] * taken
            left[size] -= taken
            room -= taken * size
        plan.append(batch)
    return plan
