"""What a batch brings for the loss beside its tokens, made where the batch is made: on the host, before it is sent."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from kpod.lm.sequences import Example
from kpod.lm.waits import sent
from kpod.records import SEGMENTS
from kpod.records.topk import TopK
from kpod.training.agreement import pairs_of
from kpod.training.batches import StageBatch, StageExample

RATIONALE, ANSWER = SEGMENTS.index("rationale"), SEGMENTS.index("answer")


def beside(examples: Sequence[Example]) -> dict[str, Tensor]:
    """What the examples of a batch carry, as tensors over its trained tokens, row by row.

    Returns:
        `parts`, always: see `parts_of`. `tasks` [trained], where one is not 0: the task of each token's example.
        `reference` [trained], where all have it. `teacher_ids` and `teacher_logs` [trained, k], where one has a
        teacher, and `taught` [trained]: whether a token's example has one. `ours` and `theirs` [pairs], where examples
        have groups: see `pairs_of`.
    """
    found = {"parts": parts_of(examples)}
    staged = [example for example in examples if isinstance(example, StageExample)]
    if any(example.task for example in staged):
        found["tasks"] = _repeated(
            torch.tensor([e.task if isinstance(e, StageExample) else 0 for e in examples]), examples
        )
    references = [example.reference for example in staged if example.reference is not None]
    if references and len(references) == len(examples):
        found["reference"] = torch.from_numpy(np.concatenate(references))
    if any(example.teacher for example in staged):
        found |= _taught(examples)
    if any(example.group for example in staged):
        pairs = pairs_of(examples)
        sides = zip(*pairs, strict=True) if pairs else ([np.zeros(0, np.int64)],) * 2
        found |= {
            name: torch.from_numpy(np.concatenate(side)) for name, side in zip(("ours", "theirs"), sides, strict=True)
        }
    return found


def complete(batch: StageBatch) -> StageBatch:
    """A batch with what stands beside its tokens; a user's own collator may have left it out."""
    if "beside" in batch:
        return batch
    device = batch["labels"].device
    return {**batch, "beside": {name: sent(tensor, device) for name, tensor in beside(batch["examples"]).items()}}


def parts_of(examples: Sequence[Example]) -> Float[Tensor, "3 trained"]:
    """What every trained token of a batch counts for: 1 of all; of rationale and answer 1 for those inside, else 0."""
    parts = [e.segments if isinstance(e, StageExample) else np.zeros(len(e.weights), np.int8) for e in examples]
    whole = np.concatenate(parts)
    return torch.from_numpy(np.stack([whole >= 0, whole == RATIONALE, whole == ANSWER]).astype(np.float32))


def _repeated(of_each: Tensor, examples: Sequence[Example]) -> Tensor:
    """A value of every example at each of its trained tokens."""
    return of_each.repeat_interleave(torch.tensor([len(example.weights) for example in examples]))


def _taught(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Teachers' distributions one below the other, as wide as the widest; log P is -inf where there is no entry."""
    tops = [example.teacher if isinstance(example, StageExample) else None for example in examples]
    rows = [
        TopK.one_hot(np.zeros(len(example.weights), np.int32), 1) if top is None else top
        for example, top in zip(examples, tops, strict=True)
    ]
    width = max(row.token_ids.shape[1] for row in rows)
    more = [(0, width - row.token_ids.shape[1]) for row in rows]
    ids = [functional.pad(torch.from_numpy(r.token_ids.astype(np.int64)), by) for r, by in zip(rows, more, strict=True)]
    logs = [
        functional.pad(torch.from_numpy(r.logprobs.astype(np.float32)), by, value=-torch.inf)
        for r, by in zip(rows, more, strict=True)
    ]
    taught = _repeated(torch.tensor([top is not None for top in tops]), examples)
    return {"teacher_ids": torch.cat(ids), "teacher_logs": torch.cat(logs), "taught": taught}
