"""Several processes (accelerate launch, torchrun): who works, and who waits and reads the result."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from accelerate import PartialState

LONGEST_PHASE = timedelta(days=7)
"""How long processes wait for the first one; the back ends' own minutes are too few for a weighting phase."""


@contextmanager
def first_process_first() -> Iterator[None]:
    """The first process runs the block alone; the others run it afterwards, and find its files already there."""
    with PartialState(timeout=LONGEST_PHASE).main_process_first():
        yield


def is_first_process() -> bool:
    """Whether this is the process that writes reports."""
    return bool(PartialState(timeout=LONGEST_PHASE).is_main_process)
