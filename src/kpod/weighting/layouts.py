"""Masked rationales, and where the tokens of a predictor's pass stand: positions, labels and what sees what.

Nothing here knows a model. `kpod.weighting.prefixes` adds the embeddings and asks the predictor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kpod.lm.buckets import cut_to_passes
from kpod.lm.sequences import IGNORED
from kpod.records import TokenizedRationale
from kpod.records.errors import WeightingError


@dataclass(frozen=True)
class MaskedRationale:
    """A rationale under one mask, and the prefixes after which its answer is asked.

    Attributes:
        tokens: The rationale.
        keep: m_j of Eq. 4, [tokens]: True or 1 where token j is kept. As floats it carries gradients, and between 0
            and 1 it mixes the token's embedding with the mask's.
        prefixes: Prefix lengths in rationale tokens, each 1 to n.
        writes: Whether `Predictor.write` also scores the rationale's own tokens. Of several parts of one rationale,
            each with some of its prefixes, only one does.
    """

    tokens: TokenizedRationale
    keep: Bool[Tensor, " tokens"] | Float[Tensor, " tokens"]
    prefixes: tuple[int, ...]
    writes: bool = True

    @property
    def answer_size(self) -> int:
        """Tokens of closing and answer."""
        return self.tokens.segment_stops[3] - self.tokens.segment_stops[1]

    @property
    def length(self) -> int:
        """Tokens that a causal predictor reads: question, rationale, and a copy of closing and answer per prefix."""
        return self.tokens.segment_stops[1] + len(self.prefixes) * self.answer_size

    @property
    def longest(self) -> int:
        """Tokens of question, longest prefix, closing and answer: the longest of the separate sequences."""
        return self.tokens.segment_stops[0] + max(self.prefixes) + self.answer_size


@dataclass(frozen=True)
class SequenceLayout:
    """Where the tokens of one sequence stand.

    Attributes:
        labels: What the output at each position must predict, or IGNORED.
        owner: What each label belongs to: row x (K + 1) + k for the answer after prefix k, row x (K + 1) + K for the
            rationale's own tokens.
        positions: Position ids. None: as the model counts them.
        sees: Whether a position (first axis) attends to another. None: to every earlier one.
    """

    labels: Int[Tensor, " length"]
    owner: Int[Tensor, " length"]
    positions: Int[Tensor, " length"] | None = None
    sees: Bool[Tensor, "length length"] | None = None


def one_pass_layout(row: MaskedRationale, index: int, *, writes: bool) -> SequenceLayout:
    """Question, rationale, and one copy of closing and answer per prefix, which sees no other copy.

    Args:
        row: The rationale with its K prefixes.
        index: The row's number in its batch.
        writes: Whether the rationale's own tokens are labels too.

    Raises:
        WeightingError: If two equal prefixes would have the same token predict an answer's start.
    """
    tokens, num, size = row.tokens, len(row.prefixes), row.answer_size
    question, body = tokens.segment_stops[:2]
    positions = torch.arange(row.length)
    labels = torch.full((row.length,), IGNORED)
    owner = torch.zeros(row.length, dtype=torch.long)
    sees = torch.ones(row.length, row.length, dtype=torch.bool).tril()
    answer = torch.tensor(tokens.ids("answer"))
    if writes:
        labels[question - 1 : body - 1] = torch.tensor(tokens.ids("rationale"))
        owner[question - 1 : body - 1] = index * (num + 1) + num
    for k, prefix in enumerate(row.prefixes):
        start, stop = body + k * size, body + (k + 1) * size
        positions[start:stop] = question + prefix + torch.arange(size)
        sees[start:stop, question + prefix : start] = False
        before = torch.arange(stop - len(answer), stop) - 1
        if len(answer) == size:  # nothing stands before the answer: the prefix's last token predicts its first
            if prefix in row.prefixes[:k]:
                raise WeightingError(
                    f"rationale {tokens.id!r} has fewer tokens than weighting.prefixes, and data.prompt.closing "
                    "has no words before the answer; add some, or lower weighting.prefixes"
                )
            before[0] = question + prefix - 1
        labels[before], owner[before] = answer, index * (num + 1) + k
    return SequenceLayout(labels, owner, positions, sees)


def separate_layouts(row: MaskedRationale, index: int, *, writes: bool) -> list[tuple[int, SequenceLayout]]:
    """Of each prefix its length and its own sequence: question, prefix, closing and answer.

    The rationale's own tokens are labels of the first sequence that holds all of them, or of one more sequence where
    none does.

    Args:
        row: The rationale with its K prefixes.
        index: The row's number in its batch.
        writes: Whether the rationale's own tokens are labels too.
    """
    tokens, num = row.tokens, len(row.prefixes)
    question, body = tokens.segment_stops[:2]
    answer = torch.tensor(tokens.ids("answer"))
    found = []
    for k, prefix in enumerate(row.prefixes):
        length = question + prefix + row.answer_size
        labels, owner = torch.full((length,), IGNORED), torch.zeros(length, dtype=torch.long)
        before = slice(length - len(answer) - 1, length - 1)
        labels[before], owner[before] = answer, index * (num + 1) + k
        found.append((prefix, SequenceLayout(labels, owner)))
    if not writes:
        return found
    if tokens.num_tokens not in row.prefixes:
        length = body + row.answer_size
        found.append(
            (tokens.num_tokens, SequenceLayout(torch.full((length,), IGNORED), torch.zeros(length, dtype=torch.long)))
        )
    layout = next(layout for prefix, layout in found if prefix == tokens.num_tokens)
    layout.labels[question - 1 : body - 1] = torch.tensor(tokens.ids("rationale"))
    layout.owner[question - 1 : body - 1] = index * (num + 1) + num
    return found


def passes_of(rows: Sequence[MaskedRationale], *, one_pass: bool) -> list[Sequence[MaskedRationale]]:
    """Rows in their order, parted into passes of at most `TOKENS_PER_PASS` tokens, padding included.

    Args:
        rows: Rationales with the same number of prefixes.
        one_pass: Whether all prefixes of a row share one sequence, which cannot be parted. Separate sequences of one
            row that are too long together are parted into rows with some of its prefixes each.

    Returns:
        Passes whose rows, put one behind the other, hold the prefixes of `rows` in their order; none for no rows.
    """
    if not rows:  # of several processes one may have none
        return []
    if one_pass:
        return [rows[part] for part in cut_to_passes([max(row.length for row in rows)] * len(rows))]
    longest, num = max(row.longest for row in rows), len(rows[0].prefixes)
    parts = cut_to_passes([longest] * num)
    if len(parts) == 1:
        return [rows[part] for part in cut_to_passes([longest * num] * len(rows))]
    return [
        [replace(row, prefixes=row.prefixes[part], writes=row.writes and part.start == 0)]
        for row in rows
        for part in parts
    ]
