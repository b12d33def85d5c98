"""Which examples a stage trains on, and in which order: pure functions of rationale, stage, seed and epoch.

A run can be resumed exactly because nothing here is drawn or remembered. The stage travels with each index from the
sampler to the batch, so data loader workers and prefetching cannot mix up two stages.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from kpod.lm.buckets import batches_by_tokens, bucketed_order
from kpod.lm.sequences import Example, beginning_at, example_at
from kpod.records import SEGMENTS, Schedule, TokenizedRationale
from kpod.records.errors import DataError
from kpod.records.topk import TopK

StageKey: TypeAlias = tuple[int, int]
"""Index of a rationale, and the stage it is wanted at."""

StageBatch: TypeAlias = dict[str, Any]
"""A `kpod.lm.sequences.Batch` with the tuple of its examples under `examples`, and what `beside` finds of them."""


@dataclass(frozen=True, slots=True)
class StageExample(Example):
    """An example that knows whose it is, so that logs and errors can name it.

    Attributes:
        id: The rationale's id.
        stage: t, from which c_i(t) was taken.
        segments: For every trained token the index into SEGMENTS of its part.
        task: Index of the task whose mean it counts to, as in `task_shares`.
        group: What it is compared with inside a batch; empty for nothing.
        teacher: A teacher's distribution at every trained token.
        reference: Log P of every trained token under a reference model, in nats.
    """

    id: str
    stage: int
    segments: NDArray[np.int8]
    task: int = 0
    group: str = ""
    teacher: TopK | None = None
    reference: NDArray[np.float32] | None = None


class StageDataset(Dataset[StageExample]):
    """Rationales as examples of a stage (Eq. 15); everything is looked up by rationale id.

    A key is (index, stage); an index alone stands for the last stage, the whole rationale.

    Args:
        tokens: The rationales to train on.
        weights: Rationale id -> w_j of every rationale token, [tokens].
        schedule: c_i(t); may hold more rationales than `tokens`.
        encoder_decoder: Whether the student has an encoder.
        normalisation: none: w as given (the paper); mean: w rescaled to mean 1 over each rationale.
        given: Where an encoder-decoder student reads the given steps.
        tasks: Rationale id -> index of its task; 0 where it is not named.
        groups: Rationale id -> its question, for losses that compare rationales of a question.
        teacher: Rationale id -> a teacher's distributions, for losses that match them.
        reference: Rationale id -> log P under a reference model of every token after the question, [written].

    Raises:
        DataError: If a rationale has no weights, too many or too few, or only zeros to rescale, or is not scheduled; or
            if it has no group, distributions or log P, or too few, where others have.
    """

    def __init__(
        self,
        tokens: Sequence[TokenizedRationale],
        weights: Mapping[str, NDArray[np.float32]],
        schedule: Schedule,
        *,
        encoder_decoder: bool,
        normalisation: Literal["none", "mean"] = "none",
        given: Literal["encoder", "decoder"] = "encoder",
        tasks: Mapping[str, int] | None = None,
        groups: Mapping[str, str] | None = None,
        teacher: Mapping[str, TopK] | None = None,
        reference: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self.tokens = tokens
        self.schedule = schedule
        self.encoder_decoder = encoder_decoder
        self.given: Literal["encoder", "decoder"] = given
        self._columns = {id_: column for column, id_ in enumerate(schedule.ids)}
        for rationale in tokens:
            if rationale.id not in self._columns:
                raise DataError(f"rationale {rationale.id!r} is not in the schedule; make the plan again")
            normalised(_weights_of(rationale, weights), rationale.id, normalisation)
        self._weights = weights
        self._normalisation: Literal["none", "mean"] = normalisation
        self._tasks, self._groups, self._teacher, self._reference = tasks or {}, groups, teacher, reference
        for rationale in tokens:
            self._beside(rationale, slice(None))

    @property
    def has(self) -> frozenset[str]:
        """Of `groups`, `teacher` and `reference` those that were given."""
        given = {"groups": self._groups, "teacher": self._teacher, "reference": self._reference}
        return frozenset(name for name, found in given.items() if found is not None)

    @property
    def groups(self) -> list[str]:
        """The group of every rationale; empty texts where none were given."""
        return [(self._groups or {}).get(rationale.id, "") for rationale in self.tokens]

    @property
    def lengths(self) -> list[int]:
        """Tokens of every rationale, question and answer included."""
        return [len(rationale.token_ids) for rationale in self.tokens]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, key: StageKey | int) -> StageExample:
        index, stage = key if isinstance(key, tuple) else (key, self.schedule.ramp_stages)
        rationale = self.tokens[index]
        steps = int(self.schedule.input_steps[stage, self._columns[rationale.id]])
        weights, seq2seq = self._loss_weights(rationale), self.encoder_decoder
        if self.schedule.trains == "suffix":
            example = example_at(rationale, weights, steps, encoder_decoder=seq2seq, given=self.given)
            first = len(rationale.token_ids) - len(example.weights)
        else:
            example = beginning_at(rationale, weights, steps, encoder_decoder=seq2seq)
            first = rationale.segment_stops[0]
        return self._named(example, rationale, stage, first)

    def _loss_weights(self, rationale: TokenizedRationale) -> NDArray[np.float32]:
        return normalised(_weights_of(rationale, self._weights), rationale.id, self._normalisation)

    def _named(self, example: Example, rationale: TokenizedRationale, stage: int, first: int) -> StageExample:
        """The example with whose it is and which parts its tokens belong to, the first of them at `first`."""
        asked = rationale.segment_stops[0]
        return StageExample(
            encoder_ids=example.encoder_ids,
            token_ids=example.token_ids,
            first_trained=example.first_trained,
            weights=example.weights,
            id=rationale.id,
            stage=stage,
            segments=_segments(rationale)[first : first + len(example.weights)],
            task=self._tasks.get(rationale.id, 0),
            **self._beside(rationale, slice(first - asked, first - asked + len(example.weights))),
        )

    def _beside(self, rationale: TokenizedRationale, rows: slice) -> dict[str, Any]:
        """What else an example carries, of some of the tokens after the question."""
        found: dict[str, Any] = {}
        written = len(rationale.token_ids) - rationale.segment_stops[0]
        if self._groups is not None:
            found["group"] = _of(rationale, self._groups, "group")
        if self._teacher is not None:
            whole = _of(rationale, self._teacher, "top-k probabilities")
            _check_rows(rationale, "top-k probabilities", len(whole.token_ids), written)
            found["teacher"] = TopK(whole.token_ids[rows], whole.logprobs[rows])
        if self._reference is not None:
            found["reference"] = _of(rationale, self._reference, "log P under the reference model")[rows]
            if rows == slice(None):
                _check_rows(rationale, "log P under the reference model", len(found["reference"]), written)
        return found


_Drawn = TypeVar("_Drawn", covariant=True)


class ByEpoch(Sampler[_Drawn]):
    """An order that only seed and epoch decide."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self.schedule = schedule
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, that the next pass is."""
        self.epoch = epoch

    def rng(self) -> np.random.Generator:
        """The epoch's own randomness."""
        return np.random.default_rng((self.seed, self.epoch))


class StageSampler(ByEpoch[StageKey]):
    """Every rationale once per epoch, at the stage of its update, in an order that only seed and epoch decide.

    Args:
        lengths: Tokens of every rationale.
        schedule: Says which stage it is after so many epochs.
        seed: Of the order.
        update_size: Rationales per optimiser step; inside one the stage does not change.
        bucketed: Whether the rationales of a step are of like length.
    """

    def __init__(
        self, lengths: Sequence[int], schedule: Schedule, seed: int, update_size: int = 1, *, bucketed: bool = False
    ) -> None:
        super().__init__(schedule, seed)
        self.lengths = lengths
        self.update_size = update_size
        self.bucketed = bucketed

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[StageKey]:
        rng, num = self.rng(), len(self.lengths)
        order = bucketed_order(self.lengths, self.update_size, rng) if self.bucketed else rng.permutation(num)
        for start in range(0, num, self.update_size):
            stage = self.schedule.at_epoch(self.epoch + Fraction(start, num))
            for index in order[start : start + self.update_size]:
                yield int(index), stage


class TokenBatchSampler(ByEpoch[list[StageKey]]):
    """Batches that hold so many tokens, in an order that only seed and epoch decide; each at the stage of its update.

    Args:
        lengths: Tokens of every rationale.
        schedule: Says which stage it is after so many epochs.
        seed: Of the order.
        tokens: Tokens of a batch, padding included.
        update_size: Batches per optimiser step.
    """

    def __init__(
        self, lengths: Sequence[int], schedule: Schedule, seed: int, tokens: int, update_size: int = 1
    ) -> None:
        super().__init__(schedule, seed)
        self.batches = batches_by_tokens(lengths, tokens)
        self.update_size = update_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[StageKey]]:
        num = len(self.batches)
        order = self.rng().permutation(num)
        for start in range(0, num, self.update_size):
            stage = self.schedule.at_epoch(self.epoch + Fraction(start, num))
            for batch in order[start : start + self.update_size]:
                yield [(int(index), stage) for index in self.batches[batch]]


def normalised(weights: NDArray[np.float32], id_: str, normalisation: Literal["none", "mean"]) -> NDArray[np.float32]:
    """Loss weights of a rationale as the recipe wants them.

    `mean` keeps their ratios but lets the learning rate mean the same with and without weights: sigmoid weights
    below 1 shrink the rationale's loss against the answer's.

    Raises:
        DataError: If all weights are 0 and are to be rescaled.

    Example:
        >>> normalised(np.array([0.2, 0.6], dtype=np.float32), "q1", "mean").tolist()
        [0.5, 1.5]
    """
    if normalisation == "none":
        return weights
    mean = weights.mean()
    if not mean > 0:
        raise DataError(
            f"rationale {id_!r}: all weights are 0, they have no mean to divide by; drop it or weigh it again"
        )
    return np.asarray(weights / mean, dtype=np.float32)


def name_of(example: Example, number: int) -> str:
    """How an error calls an example: by its rationale's id, or its place in the batch where it has none."""
    return f"rationale {example.id!r}" if isinstance(example, StageExample) else f"example {number} of the batch"


def _weights_of(rationale: TokenizedRationale, weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    if rationale.id not in weights:
        raise DataError(f"rationale {rationale.id!r} has no weights; weigh the rationales again")
    found = weights[rationale.id]
    if found.shape != (rationale.num_tokens,):
        raise DataError(f"rationale {rationale.id!r}: weights of shape {found.shape} for {rationale.num_tokens} tokens")
    return found


def _of(rationale: TokenizedRationale, given: Mapping[str, Any], what: str) -> Any:
    if rationale.id not in given:
        raise DataError(f"rationale {rationale.id!r} has no {what}, though others have; make them again")
    return given[rationale.id]


def _check_rows(rationale: TokenizedRationale, what: str, number: int, written: int) -> None:
    if number != written:
        raise DataError(
            f"rationale {rationale.id!r}: {what} of {number} tokens, but {written} stand after the question"
        )


def _segments(rationale: TokenizedRationale) -> NDArray[np.int8]:
    """For every token the index into SEGMENTS of its part, [len(token_ids)]."""
    lengths = np.diff((0, *rationale.segment_stops))
    return np.repeat(np.arange(len(SEGMENTS), dtype=np.int8), lengths)
