"""Several processes (accelerate launch, torchrun): who works, who waits, and how work is shared.

What is shared is divided before it begins, by its place in a list, so that each process does the same work wherever
it runs. With one process nothing is exchanged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

LONGEST_PHASE = timedelta(days=7)
"""How long processes wait for each other; the back ends' own minutes are too few for a weighting phase."""
EXCHANGED = 16
"""Results of each process that are exchanged at a time."""


def _state() -> PartialState:
    return PartialState(timeout=LONGEST_PHASE)


@contextmanager
def first_process_first() -> Iterator[None]:
    """The first process runs the block alone; the others run it afterwards, and find its files already there."""
    with _state().main_process_first():
        yield


def is_first_process() -> bool:
    """Whether this is the process that writes reports."""
    return bool(_state().is_main_process)


def process_number() -> int:
    """The number of this process, from 0."""
    return int(_state().process_index)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    _state().wait_for_everyone()


def agreed(value: _Item) -> _Item:
    """What the first process has, on every process; all of them must come here."""
    if _state().num_processes == 1:
        return value
    found: list[_Item] = broadcast_object_list([value])
    return found[0]


def own_share(items: Sequence[_Item]) -> Sequence[_Item]:
    """What this process does of some items: of n processes, each does every n-th."""
    state = _state()
    return items[state.process_index :: state.num_processes]


def divided(items: Sequence[_Item], work: Callable[[_Item], _Made]) -> Iterator[_Made]:
    """What work makes of each item, in their order, on every process; each process works on its share.

    All processes must take every result, since they exchange them on the way.

    Args:
        items: The same on all processes.
        work: Must not depend on the process, nor on what was done before. What it makes is pickled.
    """
    state = _state()
    if state.num_processes == 1:
        yield from map(work, items)
        return
    size = EXCHANGED * state.num_processes
    for start in range(0, len(items), size):
        block = items[start : start + size]
        shares = gather_object([[work(item) for item in own_share(block)]])
        for place in range(len(block)):
            yield shares[place % state.num_processes][place // state.num_processes]


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    total: Tensor = reduce(value, "sum")
    return total


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Give every process the sum of all processes' gradients; one that a process lacks counts as zero there."""
    if _state().num_processes == 1:
        return
    for parameter in parameters:
        parameter.grad = summed(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
