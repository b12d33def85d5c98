# ruff: noqa: ARG002 (a callback is given more than it needs)
"""The mean of the student's weights over the last updates of its training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kpod.records.errors import ConfigError, TrainingError

AVERAGE = "kpod_average.safetensors"
LAST_UPDATE = "last_update"
"""The folder inside a student's own that holds its weights after the last update, beside their mean."""


def num_averaged(share: float, updates: int) -> int:
    """Over how many of the last updates the weights are averaged: the share of all, rounded, and at least one.

    Example:
        >>> num_averaged(0.33, 300), num_averaged(0.33, 2), num_averaged(1.0, 7)
        (99, 1, 7)
    """
    return max(1, round(share * updates))


class _Averaged(NamedTuple):
    """A parameter of the finished model, and the adapter on it that is trained; None where it is trained itself."""

    parameter: nn.Parameter
    adapter: LoraLayer | None

    @property
    def trained(self) -> Tensor:
        """What is averaged: the parameter, or what the adapter adds to it: the product B A times alpha / rank."""
        if self.adapter is None:
            return self.parameter
        (name,) = self.adapter.active_adapters
        return cast("Tensor", cast("Any", self.adapter).get_delta_weight(name))


class WeightAverage(TrainerCallback):
    """A running mean of the weights after each of the last updates, in float32.

    With adapters it is the mean of their products: the finished student is the frozen weights plus the mean of B A
    times alpha / rank. That is the mean of the merged students, which the product of the mean A and the mean B is not.

    The mean stands beside the weights, on their device: 4 bytes for each trained parameter, with adapters for each
    parameter of the layers that carry them. Checkpoints hold it too, once it has begun. Of several processes the first
    keeps it.

    Args:
        model: As it is trained; whole, not sharded, and not quantised.
        share: Of all updates the last ones over which the mean is taken, above 0 and up to 1.

    Raises:
        ConfigError: If the model is quantised.

    Attributes:
        num: Updates that the mean holds.
        means: By the parameter's name.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        if any(getattr(module, "is_quantized", False) for module in model.modules()):
            raise ConfigError(
                "training.average: the student's weights are quantised, and have no mean in their format; leave the "
                "average out, or train a student that is not quantised"
            )
        self.share = share
        self.num = 0
        self.means: dict[str, Tensor] = {}
        self._parts = dict(_averaged(model))

    @property
    def size(self) -> int:
        """Numbers that the mean consists of."""
        return sum(part.parameter.numel() for part in self._parts.values())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See that the mean holds what it must at the update that training goes on from."""
        wanted = max(0, state.global_step - self._before(state))
        if state.is_world_process_zero and self.num != wanted:
            raise TrainingError(
                f"the checkpoint of update {state.global_step} averages {self.num} updates, not {wanted}; delete the "
                "student's folder to train afresh"
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take in the weights after the update, where it is one of the last."""
        if state.is_world_process_zero and state.global_step > self._before(state):
            self.take()

    @torch.no_grad()
    def take(self) -> None:
        """Take in the weights as they are: the mean moves by 1 / n of the way to the n-th of them."""
        self.num += 1
        for name, part in self._parts.items():
            now = part.trained.float()
            if name in self.means:
                self.means[name].lerp_(now, 1 / self.num)
            else:
                self.means[name] = now.clone(memory_format=torch.contiguous_format)

    def _before(self, state: TrainerState) -> int:
        """Updates before the first that counts."""
        return state.max_steps - num_averaged(self.share, state.max_steps)

    # -- the finished student ------------------------------------------------------------------------

    @torch.no_grad()
    def finish(self) -> None:
        """Make whole weights of the mean; called once, before adapters are merged into the frozen weights."""
        for name, (parameter, adapter) in self._parts.items():
            if adapter is not None:
                self.means[name].add_(parameter.float())

    @torch.no_grad()
    def put(self) -> None:
        """Put the whole weights into the model, in its precision."""
        for name, (parameter, _) in self._parts.items():
            parameter.data = self.means[name].to(parameter.dtype)

    # -- checkpoints -----------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the mean into a checkpoint, if it has begun."""
        if self.num:
            save_file(self.means, folder / AVERAGE, {"num": str(self.num)})

    def restore(self, folder: Path) -> None:
        """Go on from the mean of a checkpoint; one of before the last updates holds none."""
        if not (folder / AVERAGE).exists():
            return
        with safe_open(folder / AVERAGE, framework="pt") as found:
            self.num = int(found.metadata()["num"])
            for name, (parameter, _) in self._parts.items():
                self.means[name] = found.get_tensor(name).to(parameter.device)


def _averaged(model: nn.Module) -> Iterator[tuple[str, _Averaged]]:
    """What training changes of the finished model, by name."""
    adapters = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapters:
        layer = cast("Any", module)  # experts that share a tensor are a parameter of a module, not modules
        yield (
            name,
            _Averaged(layer.get_param() if hasattr(layer, "get_param") else layer.get_base_layer().weight, module),
        )
    if not adapters:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                yield name, _Averaged(parameter, None)
