"""The terms that a loss is a sum of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kpod.lm.head import Predictions
from kpod.lm.sequences import Example
from kpod.records.errors import ConfigError
from kpod.training.agreement import kl_to_reference, pairs_of, symmetric_kl
from kpod.training.batches import StageExample, name_of
from kpod.training.token_rules import Rule, facts_of

LEAST_REST = 1e-6
"""What the tokens that a teacher's top k leave out have together at least: float16 rounds the others to 11 bits."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a term sees of a batch.

    Attributes:
        predictions: The student's, at the trained positions.
        labels: The tokens there.
        examples: What the batch was made of.
        start: What the student predicted there before training, where the loss asks for it.
        beside: What `kpod.training.beside.beside` finds of the examples, on the device.
    """

    predictions: Predictions
    labels: Int[Tensor, " trained"]
    examples: Sequence[Example]
    start: Callable[[], Predictions] | None = None
    beside: Mapping[str, Tensor] = field(default_factory=dict)


class Targets(NamedTuple):
    """A term as sum_k factor_jk * -log P_j(target_jk) + constant_j at each trained token j, all without gradients."""

    tokens: Int[Tensor, "trained k"]
    factors: Float[Tensor, "trained k"] | float
    constants: Float[Tensor, " trained"] | float = 0.0


@runtime_checkable
class TokenTerm(Protocol):
    """A term that is linear in log P at each trained token; it is weighed, and divided, as the NLL is."""

    @property
    def needs(self) -> frozenset[str]:
        """Of `teacher` and `reference` what each example must have."""

    def targets(self, seen: Seen) -> Targets:
        """The term at every trained token of a batch."""


@runtime_checkable
class GroupTerm(Protocol):
    """A term that is not linear in log P of single tokens; it has a mean of its own."""

    @property
    def needs(self) -> frozenset[str]:
        """`groups`, of which each example must have one, or `start`, the student before training."""

    def size(self, examples: Sequence[Example]) -> int:
        """How much a batch adds to what the sum is divided by."""

    def total(self, seen: Seen) -> Float[Tensor, ""]:
        """The sum over a batch, with gradients."""


@dataclass(frozen=True, slots=True)
class Nll:
    """The NLL of what was written.

    Attributes:
        rule: Multiplies the weights of the tokens; None leaves them as they are.
    """

    rule: Rule | None = None

    @property
    def needs(self) -> frozenset[str]:
        """Log P under a reference model where the rule asks for it."""
        return frozenset({"reference"} if self.rule and self.rule.reference else ())

    def targets(self, seen: Seen) -> Targets:
        """The tokens themselves."""
        if self.rule is None:
            return Targets(seen.labels[:, None], 1.0)
        reference = None
        if self.rule.reference:
            _given(seen, "reference", "log P under a reference model")
            reference = seen.beside["reference"]
        factors = self.rule.run(facts_of(seen.predictions, seen.labels, self.rule, reference))
        return Targets(seen.labels[:, None], factors[:, None])


@dataclass(frozen=True, slots=True)
class MatchDistribution:
    """KL(q || p) of the student's distribution p from a teacher's stored top-k q.

    Attributes:
        renormalised: Whether q sums to 1 over its entries (logit distillation), or is as the teacher had it
            (Specialized KD). A token without an entry counts for nothing.
    """

    renormalised: bool
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    def targets(self, seen: Seen) -> Targets:
        """The teacher's tokens, as probable as it found them."""
        _given(seen, "teacher", "top-k probabilities of a teacher")
        tokens, logs = seen.beside["teacher_ids"], seen.beside["teacher_logs"]
        has_entry = logs.isfinite()
        tokens = torch.where(has_entry, tokens, seen.labels[:, None])
        q = logs.exp()
        if self.renormalised:
            q = q / q.sum(dim=1, keepdim=True).clamp_min(torch.finfo(q.dtype).tiny)
        return Targets(tokens, q, torch.special.xlogy(q, q).sum(dim=1))


@dataclass(frozen=True, slots=True)
class Agreement:
    """The mean over pairs of 1/2 sum over answer tokens of KL(p_a || p_b) + KL(p_b || p_a) (MCC-KD)."""

    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    def size(self, examples: Sequence[Example]) -> int:
        """The number of pairs."""
        return len(pairs_of(examples))

    def total(self, seen: Seen) -> Float[Tensor, ""]:
        """Summed over the batch's pairs."""
        ours, theirs = (seen.beside.get(side) for side in ("ours", "theirs"))
        if ours is None or theirs is None or not len(ours):
            return seen.predictions.features.new_zeros((), dtype=torch.float32)
        return symmetric_kl(seen.predictions, ours, theirs).sum() / 2


@dataclass(frozen=True, slots=True)
class OnOwnTexts:
    """On the student's own texts KL(p || q) of its distribution p from a teacher's top-k q; on recorded ones the NLL.

    All tokens that the teacher's top k leave out count as one, so that the divergence is at least 0, and 0 only where
    the student agrees. Its gradient is exact, by p (log(p / q) - log(rest of p / rest of q)) at every token.

    Attributes:
        divergence: reverse: KL(p || q); forward: KL(q || p).
    """

    divergence: Literal["reverse", "forward"] = "reverse"
    needs: ClassVar[frozenset[str]] = frozenset({"own_texts"})

    def targets(self, seen: Seen) -> Targets:
        """The tokens of recorded texts, and the teacher's tokens on the student's own."""
        if "taught" not in seen.beside:
            return Targets(seen.labels[:, None], torch.ones_like(seen.labels[:, None], dtype=torch.float32))
        own, tokens, logs = (seen.beside[name] for name in ("taught", "teacher_ids", "teacher_logs"))
        tokens = torch.where(own[:, None] & logs.isfinite(), tokens, seen.labels[:, None])
        factors, constants = self._divergence(seen.predictions.logprobs_of(tokens), logs)
        certainly = torch.zeros_like(factors)
        certainly[:, 0].fill_(1)
        return Targets(tokens, torch.where(own[:, None], factors, certainly), torch.where(own, constants, 0))

    def _divergence(
        self, found: Float[Tensor, "trained k"], logs: Float[Tensor, "trained k"]
    ) -> tuple[Float[Tensor, "trained k"], Float[Tensor, " trained"]]:
        """Factors and constant of the divergence; entries that the teacher does not have count for nothing."""
        there = logs.isfinite()
        p, q = torch.where(there, found.exp(), 0), torch.where(there, logs.exp(), 0)
        ratio = torch.where(there, found - logs, 0)
        rest_p, rest_q = ((1 - x.sum(dim=1, keepdim=True)).clamp_min(LEAST_REST) for x in (p, q))
        rest = (rest_p / rest_q).log()
        if self.divergence == "reverse":
            factors, value = -p * (ratio - rest), (p * ratio).sum(dim=1) + (rest_p * rest)[:, 0]
        else:
            factors, value = q - rest_q / rest_p * p, -(q * ratio).sum(dim=1) - (rest_q * rest)[:, 0]
        return factors, value + (factors * torch.where(there, found, 0)).sum(dim=1)


@dataclass(frozen=True, slots=True)
class CloseToStart:
    """The mean over trained tokens of KL(student before training || student): adaptive CL's."""

    needs: ClassVar[frozenset[str]] = frozenset({"start"})

    def size(self, examples: Sequence[Example]) -> int:
        """The number of trained tokens."""
        return sum(len(example.weights) for example in examples)

    def total(self, seen: Seen) -> Float[Tensor, ""]:
        """Summed over the batch's trained tokens."""
        if seen.start is None:
            raise ConfigError("this loss needs the student before training; train with KeypointTrainer")
        return kl_to_reference(seen.start(), seen.predictions).sum()


Term = TokenTerm | GroupTerm


def _given(seen: Seen, name: Literal["reference", "teacher"], what: str) -> None:
    """Refuse examples without what a term needs."""
    for number, example in enumerate(seen.examples):
        if not isinstance(example, StageExample) or getattr(example, name) is None:
            raise ConfigError(f"{name_of(example, number)} has no {what}, which the loss of this method needs")
