"""The loss of an optimiser step: a sum of means, each over its own part of all that the step trains."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import TrainingArguments

from kpod.lm.head import Predictions
from kpod.lm.sequences import at_trained
from kpod.lm.waits import sent
from kpod.records.errors import ConfigError
from kpod.training.batches import StageBatch, StageDataset, StageExample
from kpod.training.beside import complete
from kpod.training.groups import num_alone
from kpod.training.loss import Normaliser, keypoint_loss, size
from kpod.training.row_dataset import RowDataset
from kpod.training.terms import GroupTerm, Nll, Seen, Targets, Term, TokenTerm

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Objective:
    """What a student is trained on: a sum of terms, each with its share.

    Attributes:
        terms: The first is the NLL of what was written, with share 0 where it is measured and not trained.

    Raises:
        ConfigError: If it is not, or a share is negative or not a number.

    Example:
        >>> from kpod.training.terms import MatchDistribution
        >>> Objective(((0.1, Nll()), (0.9, MatchDistribution(renormalised=True)))).needs
        frozenset({'teacher'})
    """

    terms: tuple[tuple[float, Term], ...] = ((1.0, Nll()),)

    def __post_init__(self) -> None:
        sound = all(math.isfinite(share) and share >= 0 for share, _ in self.terms)
        if not (sound and self.terms and isinstance(self.terms[0][1], Nll)):
            raise ConfigError(f"the terms {self.terms} of a loss need shares >= 0, and an Nll as the first of them")

    @property
    def needs(self) -> frozenset[str]:
        """`teacher`, `reference`, `groups`: what the dataset must have. `start`, `own_texts`: what the trainer has."""
        return frozenset().union(*(term.needs for _, term in self.terms))

    @property
    def of_tokens(self) -> list[tuple[float, TokenTerm]]:
        """The terms that are linear in log P of tokens, which share the means of the tasks."""
        return [(share, term) for share, term in self.terms if isinstance(term, TokenTerm)]

    @property
    def of_groups(self) -> list[tuple[float, GroupTerm]]:
        """The terms that are not linear in log P of tokens, each with a mean of its own."""
        return [(share, term) for share, term in self.terms if isinstance(term, GroupTerm)]


class Found(NamedTuple):
    """What `StepLoss` finds of a batch.

    Attributes:
        loss: The batch's share of the loss of its optimiser step.
        logprobs: Log P of every trained token, in nats, without gradients.
        means: The batch's share of each mean, without gradients, [means].
    """

    loss: Float[Tensor, ""]
    logprobs: Float[Tensor, " trained"]
    means: Float[Tensor, " means"]


class StepLoss:
    """What an optimiser step is trained on: sum_t share_t * (sum of w_j l_j over task t) / N_t.

    l_j is the objective at token j, by default its NLL. N_t is the size of task t over all accumulated batches and all
    processes: each task has a mean of its own, and the means are mixed (Distilling step-by-step). How long the texts of
    one task are does not change what another counts. A step that trains nothing of a task has the loss of the others.
    Terms that compare examples add a mean each, over the pairs of the whole step.

    Args:
        normaliser: What N_t counts: trained tokens, or their summed weights before any rule multiplies them.
        task_shares: What each task counts for; 1 where there is one task.
        objective: The terms.

    Raises:
        ConfigError: If a share is negative or not a number, all are 0, or a single one is not 1.
    """

    def __init__(
        self, normaliser: Normaliser, task_shares: Sequence[float] = (1.0,), objective: Objective | None = None
    ) -> None:
        sound = all(math.isfinite(share) and share >= 0 for share in task_shares) and any(task_shares)
        if not sound or (len(task_shares) == 1 and task_shares[0] != 1):
            raise ConfigError(
                f"task_shares is {list(task_shares)}; it must be a number >= 0 for each task, not 0 for all, and [1] "
                "where there is one task"
            )
        self.normaliser: Normaliser = normaliser
        self.num_tasks = len(task_shares)
        self.objective = objective or Objective()
        self.shares = (*task_shares, *(share for share, _ in self.objective.of_groups))
        self._on_device = torch.tensor(task_shares)

    @property
    def num_means(self) -> int:
        """How many means are mixed."""
        return len(self.shares)

    def sizes(self, batch: StageBatch) -> Float[Tensor, " means"]:
        """How much a batch adds to the size of each mean.

        Raises:
            ConfigError: If an example is of a task that has no share.
        """
        weights = batch["weights"]
        found = [size(at_trained(batch, "weights"), self.normaliser)]
        if self.num_tasks > 1:
            counted = at_trained(batch, "weights")
            counted = torch.ones_like(counted) if self.normaliser == "tokens" else counted
            tasks = self._tasks(complete(batch))
            found = [torch.where(tasks == task, counted, 0).sum() for task in range(self.num_tasks)]
        pairs = [weights.new_full((), term.size(batch["examples"])) for _, term in self.objective.of_groups]
        return torch.stack([*found, *pairs])

    def __call__(
        self,
        predictions: Predictions,
        batch: StageBatch,
        weights: Float[Tensor, " trained"],
        sizes: Float[Tensor, " means"],
        start: Callable[[], Predictions] | None = None,
    ) -> Found:
        """A batch's share of the loss.

        Args:
            predictions: Of the model at the batch's trained positions.
            batch: Of `Collator`.
            weights: w_j of every trained token.
            sizes: Of the whole optimiser step.
            start: What the student predicted before training, where a term asks for it.
        """
        batch = complete(batch)
        seen = Seen(predictions, at_trained(batch, "labels"), batch["examples"], start, batch["beside"])
        terms = [(share, term.targets(seen)) for share, term in self.objective.of_tokens]
        found = self._of_tokens(predictions, batch, weights, sizes[: self.num_tasks], terms)
        for (share, term), number in zip(self.objective.of_groups, sizes[self.num_tasks :], strict=True):
            mean = term.total(seen) / number.clamp_min(1)
            found = Found(found.loss + share * mean, found.logprobs, torch.cat([found.means, mean.detach()[None]]))
        return found

    def _of_tokens(
        self,
        predictions: Predictions,
        batch: StageBatch,
        weights: Float[Tensor, " trained"],
        sizes: Float[Tensor, " tasks"],
        terms: Sequence[tuple[float, Targets]],
    ) -> Found:
        """The sum of the terms that are linear in log P: one pass over the logits for all of them."""
        targets = _beside([term.tokens for _, term in terms])
        factors = _beside([_times(weights[:, None], share, term.factors) for share, term in terms])
        coefficients = factors / sizes if self.num_tasks == 1 else factors
        constants = sum(share * term.constants for share, term in terms) * weights if len(terms) > 1 else 0.0
        if self.num_tasks > 1:
            tasks = self._tasks(batch)
            rates = (self._task_shares(sizes.device) / sizes)[tasks]
            coefficients = factors * rates[:, None]
        if predictions.weight is None:
            found = predictions.logprobs(targets)
            loss, found = keypoint_loss(found, coefficients, 1), found.detach()
        else:
            loss, found = predictions.weighted_nll(targets, coefficients)
        if isinstance(constants, Tensor):
            loss = loss + (constants * rates if self.num_tasks > 1 else constants / sizes).sum()
        means = loss.detach()[None]
        if self.num_tasks > 1:
            of_each = constants - (factors * found).sum(dim=1)
            means = torch.zeros_like(sizes).index_add(0, tasks, of_each) / sizes.clamp_min(1e-30)
        return Found(loss, found[:, 0], means)

    def mixed(self, sums: Float[Tensor, " means"], sizes: Float[Tensor, " means"]) -> float:
        """The loss of a whole set from the sums and sizes of its means; a mean over nothing counts for nothing."""
        means = zip(self.shares, (sums / sizes).tolist(), sizes.tolist(), strict=True)
        return math.fsum(share * mean for share, mean, number in means if number or self.num_means == 1)

    def _task_shares(self, device: torch.device) -> Float[Tensor, " tasks"]:
        if self._on_device.device != device:
            self._on_device = sent(self._on_device, device)
        return self._on_device

    def _tasks(self, batch: StageBatch) -> Int[Tensor, " trained"]:
        last = max((e.task for e in batch["examples"] if isinstance(e, StageExample)), default=0)
        if last >= self.num_tasks:
            raise ConfigError(f"an example is of task {last}, but task_shares has {self.num_tasks} shares")
        found: Tensor | None = batch["beside"].get("tasks")
        return torch.zeros_like(at_trained(batch, "labels")) if found is None else found


def _beside(columns: Sequence[Tensor]) -> Tensor:
    """Columns side by side."""
    return torch.cat(list(columns), dim=1) if len(columns) > 1 else columns[0]


def _times(weights: Float[Tensor, "trained 1"], share: float, factors: Tensor | float) -> Float[Tensor, "trained k"]:
    """The factors, multiplied by share and weights; the plain NLL has its weights as they are."""
    return weights if share == 1 and isinstance(factors, float) and factors == 1 else share * factors * weights


def check_loss(loss: StepLoss, dataset: Any, args: TrainingArguments, *, by_tokens: bool) -> None:
    """Refuse what a loss cannot be trained on, and tell how many questions it leaves to the NLL alone.

    Args:
        loss: What an optimiser step is trained on.
        dataset: What it is trained on.
        args: Of the training.
        by_tokens: Whether batches are cut by tokens.

    Raises:
        ConfigError: If the dataset lacks what the loss needs, or examples that it compares cannot share a batch.
    """
    objective, has = loss.objective, dataset.has if isinstance(dataset, StageDataset) else frozenset()
    if loss.num_tasks > 1 and isinstance(dataset, RowDataset):
        raise ConfigError(f"task_shares has {loss.num_tasks} shares, but rows have one task; use a StageDataset")
    for name in sorted(objective.needs - has - {"start", "own_texts"}):
        raise ConfigError(f"this loss needs {NEEDS[name]}; give them as StageDataset(..., {name}=...)")
    if "groups" not in has:
        return
    compares = "groups" in objective.needs
    alone, num = num_alone(dataset.groups)
    if compares and alone == num:
        raise ConfigError(
            "this loss compares two rationales of a question, and no question has two; ask a teacher for more with "
            "teacher.ask.samples, and keep two or more with teacher.per_question"
        )
    if by_tokens:
        raise ConfigError(
            "training.tokens_per_batch: the texts of a question share a batch under this method; leave it out"
        )
    if args.world_size > 1:
        raise ConfigError(
            "the texts of a question share a batch under this method, on one process; leave accelerate out"
        )
    if compares and alone:
        log.warning("%d of %d questions have one rationale: they are trained without a comparison", alone, num)


NEEDS = {
    "teacher": "a teacher's top-k probabilities of every rationale",
    "reference": "log P of every rationale under a reference model",
    "groups": "the question of every rationale",
}
"""What a term may need, in words."""
