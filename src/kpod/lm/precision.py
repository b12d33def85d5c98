"""Arithmetic in float32 for a proof, whatever a model's weights and the training's precision are."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LOW = (torch.float16, torch.bfloat16)


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """While active, a model computes in float32 and without flash attention, which knows no float32.

    Weights of lower precision are widened: those of a layer while it runs, the others (embeddings, head, last norm) for
    the whole time, since models cast to their type beforehand. So memory is needed for these and one layer. Afterwards
    every parameter holds the same storage as before.

    Args:
        model: Perhaps wrapped by DDP, or with a forward pass that accelerate runs in lower precision.
    """
    base: Any = getattr(model, "module", model)
    with ExitStack() as stack:
        stack.enter_context(_without_autocast(base))
        stack.enter_context(_exact_matmul())
        stack.enter_context(_padded_attention(base))
        layers = _layers(base)
        inner = {id(tensor) for layer in layers for tensor in _low(layer)}
        stack.enter_context(_widened([tensor for tensor in _low(base) if id(tensor) not in inner]))
        for layer in layers:
            stack.enter_context(_widened_while_it_runs(layer))
        yield


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of every stack of layers, each as a whole."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {id(module) for stack in stacks for module in stack.modules() if module is not stack}
    return [layer for stack in stacks if id(stack) not in inner for layer in stack]


def _low(module: nn.Module) -> list[Tensor]:
    """Its parameters and buffers of low precision."""
    return [tensor for tensor in [*module.parameters(), *module.buffers()] if tensor.dtype in LOW]


@contextmanager
def _widened(tensors: list[Tensor]) -> Iterator[None]:
    kept = [tensor.data for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = data


@contextmanager
def _widened_while_it_runs(layer: nn.Module) -> Iterator[None]:
    running = ExitStack()

    def widen(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        running.enter_context(_widened(_low(layer)))
        return _wide(args), _wide(kwargs)

    handles = [
        layer.register_forward_pre_hook(widen, with_kwargs=True),
        layer.register_forward_hook(lambda *_: running.close(), always_call=True),
    ]
    try:
        yield
    finally:
        running.close()
        for handle in handles:
            handle.remove()


def _wide(value: Any) -> Any:
    """A value with all tensors of low precision in it widened; caches and other objects as they are."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in LOW else value
    if isinstance(value, dict):
        return {key: _wide(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_wide(item) for item in value)
    return value


@contextmanager
def _without_autocast(model: nn.Module) -> Iterator[None]:
    """While active, the forward pass is the one that accelerate wrapped its autocast around."""
    own, original = vars(model).get("forward"), vars(model).get("_original_forward")
    if original is not None:
        vars(model)["forward"] = original
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        if original is not None:
            vars(model)["forward"] = own


@contextmanager
def _exact_matmul() -> Iterator[None]:
    """While active, a GPU multiplies in float32 rather than TF32."""
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def _padded_attention(model: Any) -> Iterator[None]:
    """While active, a model that uses flash attention uses transformers' eager one."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = str(getattr(getattr(inner, "config", None), "_attn_implementation", None))
    if "flash" not in own:
        yield
        return
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(own)
