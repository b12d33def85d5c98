"""The loss and the log-probabilities of trained tokens without all their logits: the output embedding, by chunks.

The gradients are made in the forward pass, where a chunk's logits are at hand, so that none outlives its chunk and none
is made twice. The loss is linear in the tokens' log-probabilities, so all the backward pass has to do is scale them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from kpod.lm.sequences import Batch, inputs_of, output_embedding, trained_positions

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


def weighted_nll(
    model: nn.Module, batch: Batch, coefficients: Float[Tensor, " trained"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " trained"]]:
    """sum_j c_j NLL_j over the batch's trained tokens, and their log P in nats without gradients.

    The same as `logprobs` and a product, for a model that `has_linear_head`.

    Args:
        model: Called once, so that wrappers such as DDP see one forward pass.
        batch: As `collate` makes it.
        coefficients: c_j of every trained token, row by row.
    """
    trained = trained_positions(batch).flatten().nonzero()[:, 0]  # looked for before the GPU is busy with the model
    labels, head = batch["labels"].flatten()[trained], output_embedding(model)
    with _head_input_at(head, trained) as taken:
        model(**inputs_of(batch), use_cache=False)
    kind = taken[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    loss, found = _ChunkedNll.apply(  # type: ignore[no-untyped-call]
        taken[0], head.weight, head.bias, labels, coefficients, dtype, torch.is_grad_enabled()
    )
    return loss, found


@torch.no_grad()
def chunked_logprobs(model: nn.Module, batch: Batch) -> Float[Tensor, " trained"]:
    """The same as `logprobs`, without gradients and with the logits of one chunk of positions at a time.

    Args:
        model: In evaluation mode.
        batch: As `collate` makes it.
    """
    labels = batch["labels"][trained_positions(batch)]
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
    trained = trained_positions(batch).flatten().nonzero()[:, 0]
    head, inputs = output_embedding(model), inputs_of(batch)
    with _head_input_at(head, trained) as taken:
        model(**inputs, use_cache=False)
    one_token = {name: tensor[:1, :1] for name, tensor in inputs.items()}
    num_rows = _rows_per_chunk(head)
    for start in range(0, len(trained), num_rows):
        part = slice(start, start + num_rows)
        with _head_given(head, taken[0][None, part]):
            logits = model(**one_token, use_cache=False).logits[0]
        yield part, logits.float()


def _rows_per_chunk(head: nn.Module) -> int:
    """Positions whose logits make a chunk."""
    weight: Any = head.weight
    most = LOGITS_PER_CHUNK.get(weight.device.type, LOGITS_PER_CHUNK["cpu"])
    return max(1, most // len(weight))


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
        labels: Int[Tensor, " trained"],
        coefficients: Float[Tensor, " trained"],
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
        found = torch.empty(len(labels), device=labels.device)
        most = LOGITS_PER_CHUNK.get(weight.device.type, LOGITS_PER_CHUNK["cpu"])
        num_rows = max(1, most // len(weight))
        for start in range(0, len(labels), num_rows):
            part = slice(start, start + num_rows)
            logits = functional.linear(read[part], table, offset).float()
            right = labels[part, None]
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            found[part] = (logits.gather(1, right) - normaliser)[:, 0]
            if not (of_hidden or of_weight or of_bias):
                continue
            gradient = logits.sub_(normaliser).exp_()  # of the NLL by the logits: P(.) less 1 at the label
            gradient.scatter_add_(1, right, -torch.ones_like(right, dtype=gradient.dtype))
            gradient.mul_(coefficients[part, None])
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
