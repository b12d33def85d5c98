"""Orders that go by what happens while the student is trained.

A curriculum chooses which rationales an epoch trains, in which order, and how many of their tokens are given or left
out. It is told the losses of rationales and the accuracy on validation questions. What it remembers is saved in every
checkpoint, so that a resumed run chooses the same. What it chooses inside an epoch depends on nothing that happens in
that epoch: batches are made ahead of the updates that train on them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from kpod.lm.sequences import Example, example_of
from kpod.records import TokenizedRationale
from kpod.training.batches import StageBatch, StageDataset, StageExample

STATE = "curriculum.npz"
"""What a curriculum remembers, as a file of a checkpoint."""

ENDS_BY_ITSELF = (
    "training.average: the method ends training by itself, so nobody knows beforehand which updates are the last; "
    "leave it out"
)
"""Why a method whose `over` is not None has no average."""

State: TypeAlias = dict[str, NDArray[Any]]
Losses: TypeAlias = Callable[[], Float[np.ndarray, " rationales"]]


@dataclass(frozen=True, slots=True)
class Cut:
    """What an update trains of a rationale.

    Attributes:
        stage: A number for `metrics.jsonl`.
        given: Share of the written tokens, from the first one, that is given and not trained, rounded down to whole
            tokens. The answer and the end token are always trained.
        dropped: Tokens of the rationale, from the first one, that the student neither reads nor writes.
    """

    stage: int = 0
    given: Fraction = Fraction(0)
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """When an update is.

    Attributes:
        seed: Of the run's order.
        epoch: From 0.
        update: Optimiser steps before it, in all epochs.
        per_epoch: Optimiser steps of its epoch.
    """

    seed: int
    epoch: int
    update: int
    per_epoch: int


class Curriculum:
    """Every rationale whole, once per epoch; what other curricula change is a method of theirs.

    Attributes:
        orders: Whether it chooses rationales or cuts them; if not, batches may be cut by tokens.
        asks: Whether it goes by the accuracy on `training.validation`.
        varies: Whether its epochs differ in length.
        over: Whether training has gone on for long enough; None: that is not for it to say.
    """

    orders: ClassVar[bool] = True
    asks: ClassVar[bool] = False
    varies: ClassVar[bool] = False
    over: bool | None = None

    def length(self, epoch: int, num: int) -> int:  # noqa: ARG002 (not every curriculum goes by the epoch)
        """How many of `num` rationales an epoch trains. Known before training begins."""
        return num

    def begin(self, epoch: int, losses: Losses) -> None:
        """Enter an epoch, which happens once however often training is resumed.

        Args:
            epoch: From 0.
            losses: Measures the loss of every rationale under the student as it is, in nats per token.
        """

    def order(self, epoch: int) -> NDArray[np.int64] | None:  # noqa: ARG002
        """The rationales of an epoch by index, in the order of training; None: all of them, in the usual order."""
        return None

    def cut(self, index: int, moment: Moment) -> Cut:  # noqa: ARG002
        """What an update trains of a rationale."""
        return Cut()

    def describe(self, stage: int) -> str:  # noqa: ARG002
        """What updates of a stage train, for people; empty where the stage says nothing.

        Args:
            stage: As in `Cut`.
        """
        return ""

    def starts_afresh(self, moment: Moment) -> bool:  # noqa: ARG002
        """Whether the optimiser forgets its moments before an update."""
        return False

    def factors(self, model: nn.Module, batch: StageBatch) -> Float[Tensor, " trained"] | None:  # noqa: ARG002
        """What the loss weights of a batch's trained tokens are multiplied by; None: by nothing."""
        return None

    def see(self, accuracy: float) -> None:
        """Hear the accuracy on the validation questions, in [0, 1]."""

    def may_choose(self, moment: Moment) -> bool:  # noqa: ARG002
        """Whether the student after an update may become the one that is kept."""
        return True

    def whole_from(self, num_epochs: int) -> int:  # noqa: ARG002
        """The first epoch from which validations without a better accuracy count towards `patience`."""
        return 0

    def check(self, last: Moment) -> None:
        """Refuse, before training begins, what cannot work.

        Args:
            last: The run's last update.

        Raises:
            ConfigError: Naming the recipe key.
        """

    def state(self) -> State:
        """What it remembers."""
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Remember what `state` returned."""


class CurriculumDataset(StageDataset):
    """Rationales as the examples of a curriculum. A key is (index, Cut); an index alone is the whole rationale."""

    def __getitem__(self, key: Any) -> StageExample:
        index, cut = key if isinstance(key, tuple) else (key, Cut())
        rationale = self.tokens[index]
        weights, seq2seq = self._loss_weights(rationale), self.encoder_decoder
        example = cut_example(rationale, weights, cut, encoder_decoder=seq2seq, given=self.given)
        return self._named(example, rationale, cut.stage, len(rationale.token_ids) - len(example.weights))


def cut_example(
    rationale: TokenizedRationale, weights: NDArray[np.float32], cut: Cut, *, encoder_decoder: bool, given: Any
) -> Example:
    """The example of a rationale under a cut.

    Args:
        rationale: In tokens.
        weights: w_j of its rationale tokens.
        cut: Which tokens are given, and which left out.
        encoder_decoder: Whether the question goes to an encoder.
        given: Where an encoder-decoder student reads the given tokens, as in `kpod.lm.sequences.example_of`.
    """
    start, _, before_answer = rationale.segment_stops[:3]
    target = tuple(rationale.token_ids[start:].tolist())
    whole = np.concatenate([weights, np.ones(len(target) - len(weights), dtype=np.float32)])
    dropped = min(cut.dropped, rationale.num_tokens)
    num_given = min(math.floor(cut.given * (len(target) - dropped)), before_answer - start - dropped)
    return example_of(
        rationale.ids("question"),
        target[dropped:],
        whole[dropped:],
        num_given,
        encoder_decoder=encoder_decoder,
        given=given,
    )


def save_state(folder: Path, state: State) -> None:
    """Write what a curriculum remembers into a checkpoint."""
    np.savez(folder / STATE, allow_pickle=False, **state)


def load_state(folder: Path) -> State:
    """What a curriculum remembered in a checkpoint."""
    with np.load(folder / STATE, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}
