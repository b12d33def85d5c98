"""What a model predicts at the trained positions of a batch, without all its logits: the output embedding, by chunks.

A loss that is linear in log-probabilities gets its gradients in the forward pass, where a chunk's logits are at hand.
So no logits outlive their chunk and none are made twice. All that the backward pass has to do is scale the gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from kpod.lm.sequences import Batch, at_trained, inputs_of, output_embedding, run, trained_logits, trained_places

LOGITS_PER_CHUNK = {"cpu": 2**24, "cuda": 2**26}
"""By kind of device: 64 and 256 MiB in float32, large enough for the matrix product and small beside a training."""
NUM_PROVEN = 16
"""Positions whose logits prove that a head is linear."""


def has_linear_head(model: nn.Module, batch: Batch) -> bool:
    """Whether the model's logits are what its output embedding gives, and that is a plain linear layer.

    Some models scale or cap their logits behind it; a sharded one holds no whole matrix. Asked with one row of the
    batch, of which a few positions are projected, without touching the random numbers that training draws.
    """
    head, seen = output_embedding(model), []
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter or head.weight.ndim != 2:
        return False
    handles = [
        head.register_forward_pre_hook(lambda _, args: (args[0][:, -NUM_PROVEN:], *args[1:])),
        head.register_forward_hook(lambda _, __, logits: seen.append(logits)),
    ]
    devices = [head.weight.device] if head.weight.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            logits = model(**{k: v[:1] for k, v in inputs_of(batch).items()}, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return len(seen) == 1 and torch.equal(logits.float(), seen[0].float())


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model predicts at the trained positions of a batch; `predictions_of` makes it in one forward pass.

    Attributes:
        features: What the output embedding reads at each position, or the logits themselves.
        weight: The output embedding; None where `features` are logits.
        bias: Its bias, if it has one.
        dtype: Of the matrix products that give logits.
    """

    features: Float[Tensor, "trained features"]
    weight: Float[Tensor, "vocabulary features"] | None = None
    bias: Float[Tensor, " vocabulary"] | None = None
    dtype: torch.dtype = torch.float32

    def weighted_nll(
        self, targets: Int[Tensor, "trained k"], coefficients: Float[Tensor, "trained k"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "trained k"]]:
        """sum_jk c_jk NLL_j(v_jk) by chunks, and log P of every target in nats without gradients.

        Where `features` are logits, use `logprobs`.

        Args:
            targets: v_jk, tokens at each position; one may stand there twice.
            coefficients: c_jk, any numbers; 0 where a position has fewer than k targets.
        """
        loss, found = _ChunkedNll.apply(  # type: ignore[no-untyped-call]
            self.features, self.weight, self.bias, targets, coefficients, self.dtype, torch.is_grad_enabled()
        )
        return loss, found

    def logprobs(self, targets: Int[Tensor, "trained k"]) -> Float[Tensor, "trained k"]:
        """Log P of tokens at each position in nats, with gradients, where `features` are logits."""
        logits = self.features.float()
        if targets.shape[1] == 1:
            return -functional.cross_entropy(logits, targets[:, 0], reduction="none")[:, None]
        return logits.log_softmax(dim=1).gather(1, targets)

    @torch.no_grad()
    def logprobs_of(self, targets: Int[Tensor, "trained k"]) -> Float[Tensor, "trained k"]:
        """Log P of tokens at each position in nats, by chunks and without gradients."""
        if self.weight is None:
            return self.logprobs(targets)
        return self.weighted_nll(targets, torch.zeros_like(targets, dtype=torch.float32))[1]

    def logits(self, rows: slice | Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """The logits of some positions in float32, with gradients."""
        some = self.features[rows]
        if self.weight is None:
            return some.float()
        bias = None if self.bias is None else self.bias.to(self.dtype)
        return functional.linear(some.to(self.dtype), self.weight.to(self.dtype), bias).float()

    @property
    def rows_per_chunk(self) -> int:
        """Positions whose logits fit beside a training."""
        vocabulary = self.features.shape[1] if self.weight is None else len(self.weight)
        return _rows_per_chunk(vocabulary, self.features.device)

    def chunks(self) -> Iterator[slice]:
        """The positions in parts of `rows_per_chunk`."""
        return (
            slice(start, start + self.rows_per_chunk) for start in range(0, len(self.features), self.rows_per_chunk)
        )


def predictions_of(model: nn.Module, batch: Batch, *, linear_head: bool) -> Predictions:
    """What a model predicts at the batch's trained positions, row by row.

    Args:
        model: Called once, so that wrappers such as DDP see one forward pass.
        batch: As `collate` makes it.
        linear_head: Whether it `has_linear_head`; logits of every position are made where it has none.
    """
    if not linear_head:
        return Predictions(trained_logits(model, batch))
    head: Any = output_embedding(model)
    with _head_input_at(head, trained_places(batch)) as taken:
        run(model, batch)
    kind = taken[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    return Predictions(taken[0], head.weight, head.bias, dtype)


@torch.no_grad()
def chunked_logprobs(model: nn.Module, batch: Batch) -> Float[Tensor, " trained"]:
    """The same as `logprobs`, without gradients and with the logits of one chunk of positions at a time.

    Args:
        model: In evaluation mode.
        batch: As `collate` makes it.
    """
    labels = at_trained(batch, "labels")
    found = torch.empty(len(labels), device=labels.device)
    for part, logits in logits_by_chunk(model, batch):
        found[part] = -functional.cross_entropy(logits, labels[part], reduction="none")
    return found


def logits_by_chunk(model: nn.Module, batch: Batch) -> Iterator[tuple[slice, Float[Tensor, "chunk vocabulary"]]]:
    """The logits at the batch's trained positions in float32, a chunk of positions at a time, each with its place.

    The model reads the batch once. Then it reads one token for every chunk, and its output embedding is given the
    chunk in place of that token: what the model does to its logits, such as a cap, it does itself.

    Args:
        model: In evaluation mode; it is called without gradients.
        batch: As `collate` makes it.
    """
    trained, head, inputs = trained_places(batch), output_embedding(model), inputs_of(batch)
    with _head_input_at(head, trained) as taken:
        run(model, batch)
    one_token = {name: tensor[:1, :1] for name, tensor in inputs.items()}
    num_rows = _rows_per_chunk(len(head.weight), trained.device)  # type: ignore[arg-type]
    for start in range(0, len(trained), num_rows):
        part = slice(start, start + num_rows)
        with _head_given(head, taken[0][None, part]):
            logits = model(**one_token, use_cache=False).logits[0]
        yield part, logits.float()


def _rows_per_chunk(vocabulary: int, device: torch.device) -> int:
    """Positions whose logits make a chunk."""
    return max(1, LOGITS_PER_CHUNK.get(device.type, LOGITS_PER_CHUNK["cpu"]) // vocabulary)


@contextmanager
def _head_given(head: nn.Module, hidden: Float[Tensor, "1 positions features"]) -> Iterator[None]:
    """While active, the output embedding projects these features, whatever the model would have it project."""
    handle = head.register_forward_pre_hook(lambda _, args: (hidden, *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _head_input_at(head: nn.Module, positions: Int[Tensor, " trained"]) -> Iterator[list[Tensor]]:
    """While active, the output embedding is given no rows, and what it would have read at `positions` is put aside.

    Positions count through the whole batch, row by row.
    """
    taken: list[Tensor] = []

    def put_aside(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        taken.append(args[0].flatten(0, 1).index_select(0, positions))
        return (args[0][:0], *args[1:])

    handle = head.register_forward_pre_hook(put_aside)
    try:
        yield taken
    finally:
        handle.remove()


class _ChunkedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "trained features"],
        weight: Float[Tensor, "vocabulary features"],
        bias: Float[Tensor, " vocabulary"] | None,
        targets: Int[Tensor, "trained k"],
        coefficients: Float[Tensor, "trained k"],
        dtype: torch.dtype,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        """Loss and log-probabilities; `dtype` is that of the matrix products, sums are in float32."""
        read, table = hidden.to(dtype), weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        of_hidden, of_weight, of_bias = (learns and needed for needed in ctx.needs_input_grad[:3])
        grad_hidden = torch.empty_like(read) if of_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
        grad_bias = torch.zeros(len(weight), device=weight.device) if of_bias else None
        found = torch.empty(targets.shape, device=targets.device)
        num_rows = _rows_per_chunk(len(weight), weight.device)
        for start in range(0, len(targets), num_rows):
            part = slice(start, start + num_rows)
            logits = functional.linear(read[part], table, offset).float()
            right, factors = targets[part], coefficients[part]
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            found[part] = logits.gather(1, right) - normaliser
            if not (of_hidden or of_weight or of_bias):
                continue
            gradient = logits.sub_(normaliser).exp_()  # by the logits: c P(.), less each c_k at its target
            if targets.shape[1] == 1:
                gradient.scatter_add_(1, right, -torch.ones_like(right, dtype=gradient.dtype))
                gradient.mul_(factors)
            else:
                gradient.mul_(factors.sum(dim=1, keepdim=True))
                gradient.scatter_add_(1, right, -factors.to(gradient.dtype))
            if grad_bias is not None:
                grad_bias += gradient.sum(dim=0)
            gradient = gradient.to(dtype)
            if grad_hidden is not None:
                grad_hidden[part] = gradient @ table
            if grad_weight is not None and dtype == torch.float32:
                grad_weight.addmm_(gradient.T, read[part])  # without a matrix of the vocabulary's size in between
            elif grad_weight is not None:
                grad_weight += gradient.T @ read[part]
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(found)
        return -(coefficients * found).sum(), found  # a product of vectors would be rounded under autocast

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The saved gradients, times that of the loss."""
        scaled = [
            None if saved is None else (grads[0] * saved).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None, None)
