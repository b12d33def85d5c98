"""Self-paced learning (Wan et al., EMNLP 2020): tokens count by how sure the student is of them under its dropout."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kpod.lm.head import has_linear_head, predictions_of
from kpod.lm.sequences import Batch, at_trained
from kpod.lm.waits import sent
from kpod.records.errors import ConfigError
from kpod.training.batches import StageBatch
from kpod.training.curriculum import Curriculum


@dataclass
class SelfPaced(Curriculum):
    """Multiplies the loss weights of a batch by the student's confidence, of which the mean is 1.

    Attributes:
        passes: K, forward passes with dropout and without gradients, at least 2.
        exponent: e of both confidences.
    """

    passes: int = 5
    exponent: float = 2.0
    _is_noisy: bool = field(default=False, repr=False)
    _linear_head: bool | None = field(default=None, repr=False)

    orders: ClassVar[bool] = False

    def describe(self, stage: int) -> str:  # noqa: ARG002
        """The same in every stage."""
        return "all rationales, each token's weight times the student's confidence (not recorded)"

    def factors(self, model: nn.Module, batch: StageBatch) -> Float[Tensor, " trained"]:
        """`spl_factors`; at the first batch it is proven that there is noise.

        Raises:
            ConfigError: If the student draws no random numbers while it is trained.
        """
        if self._linear_head is None:
            self._linear_head = has_linear_head(model, _without_examples(batch))
        before = _random_state(batch["labels"].device)
        found = spl_factors(model, batch, self.passes, self.exponent, linear_head=self._linear_head)
        if not self._is_noisy and torch.equal(before, _random_state(batch["labels"].device)):
            raise ConfigError(
                "training.lora.dropout: this student has no dropout, so all its passes are the same and say nothing "
                "about its confidence; set training.lora.dropout, such as 0.1"
            )
        self._is_noisy = True
        return found


def spl_factors(
    model: nn.Module, batch: StageBatch, passes: int = 5, exponent: float = 2.0, *, linear_head: bool = False
) -> Float[Tensor, " trained"]:
    """What each trained token of a batch counts for, by the confidence of the student; their mean is 1.

    Args:
        model: As wrapped for training; it is put into training mode, which turns its dropout on.
        batch: As `Collator` makes it, on the model's device.
        passes: K.
        exponent: e.
        linear_head: Whether the model `has_linear_head`; then the logits are made by chunks.
    """
    inputs, lengths = _without_examples(batch), [len(example.weights) for example in batch["examples"]]
    model.train()
    with torch.no_grad():
        found = torch.stack([_logprobs(model, inputs, linear_head) for _ in range(passes)])
    return confidence_factors(found, lengths, exponent)


def confidence_factors(
    logprobs: Float[Tensor, "passes trained"], lengths: Sequence[int], exponent: float
) -> Float[Tensor, " trained"]:
    """Factors of a batch's trained tokens from their log-probabilities under several passes.

    A token's confidence is c_j = (1 - Var_k P_k(r_j))^e. A rationale's is C = (1 - Var_k S_k)^e, where S_k is the
    rationale's log P of pass k, divided by the least one of the batch in that pass. The factors are the softmax of
    c_j C over the batch, times its number of tokens, so none is more than e times another.

    Args:
        logprobs: In nats, <= 0; one row per pass, at least two.
        lengths: Trained tokens of every rationale of the batch, in order.
        exponent: e.

    Example:
        >>> from torch import tensor
        >>> confidence_factors(tensor([[0.0, -1.0], [0.0, -1.0]]), [1, 1], 2.0)
        tensor([1., 1.])
    """
    token = (1 - logprobs.exp().var(dim=0)) ** exponent
    whole = torch.stack([part.sum(dim=1) for part in torch.split(logprobs, list(lengths), dim=1)], dim=1)
    least = whole.min(dim=1, keepdim=True).values
    normalised = torch.where(least < 0, whole / least, torch.ones_like(whole))  # all are sure of all: 0 / 0
    sentence = (1 - normalised.var(dim=0)) ** exponent
    counts = sent(torch.tensor(lengths), logprobs.device)
    of_each = sentence.repeat_interleave(counts, output_size=len(token))  # whose size a GPU would be asked for
    return (token * of_each).softmax(dim=0) * len(token)


def _logprobs(model: nn.Module, batch: Batch, linear_head: bool) -> Float[Tensor, " trained"]:
    labels = at_trained(batch, "labels")[:, None]
    return predictions_of(model, batch, linear_head=linear_head).logprobs_of(labels)[:, 0]


def _without_examples(batch: StageBatch) -> Batch:
    return {name: tensor for name, tensor in batch.items() if name != "examples"}


def _random_state(device: torch.device) -> Tensor:
    """Of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
