"""Signals that the process heeds: those that it was not told to ignore, as a shell does for background jobs."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | signal.Handlers


def heeded(*numbers: signal.Signals) -> dict[signal.Signals, Handler]:
    """The signals among these that are not ignored, with what handles them now."""
    handlers = {number: signal.getsignal(number) for number in numbers}
    return {
        number: signal.SIG_DFL if handler is None else handler  # None: it was not set from Python
        for number, handler in handlers.items()
        if handler is not signal.SIG_IGN
    }


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[Callable[[], None]]:
    """While active, these signals go to a handler, but for those ignored; yields what gives them back at once.

    Outside the main thread, whose alone signals are, nothing is handled.
    """
    before = heeded(*numbers) if threading.current_thread() is threading.main_thread() else {}

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    for number in before:
        signal.signal(number, handler)
    try:
        yield restore
    finally:
        restore()
