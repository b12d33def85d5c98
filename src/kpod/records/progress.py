"""Show how far long work is: a bar on a terminal, now and then a plain line in a log or a pipe."""

import os
import sys
import time
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from kpod.records.shown import duration

if TYPE_CHECKING:
    Bar = tqdm[Any]
else:  # generic for type checkers alone
    Bar = tqdm

SECONDS_BETWEEN_LINES = 30.0
"""Where the standard error is no terminal, a line is written after this many seconds at the earliest."""
NARROW = 72
"""Columns below which a terminal has no room for a bar beside the time left."""
WITHOUT_BAR = "{desc}: {percentage:.0f}%, {remaining} left"


def speaks() -> bool:
    """Whether this process reports: of several that a launcher started, the first."""
    return os.environ.get("RANK", "0") == "0"


def on_terminal() -> bool:
    """Whether the standard error is a terminal that can write over a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class ProgressBar(Bar):
    r"""How much of some work is done, on the standard error.

    On a terminal it is tqdm's bar, as wide as the terminal. Elsewhere it is one line at the end, with the time that
    the work took, and at most one every 30 seconds before, with the time left. Such lines have no control characters.
    Of several processes the first shows it.

    Args:
        work: What to iterate over; None where `update` says how far the work is.
        name: What the work is called.
        unit: What is counted, in the plural.
        total: How many there are; by default the length of `work`.
        done: How many of them an earlier start has done.

    Example:
        >>> import contextlib, io
        >>> with contextlib.redirect_stderr(io.StringIO()) as log:
        ...     for _ in ProgressBar(range(3), name="weights", unit="rationales"):
        ...         pass
        >>> log.getvalue()
        'weights: 3 rationales in 0 s\n'
    """

    def __init__(
        self, work: Iterable[Any] | None = None, *, name: str, unit: str, total: int | None = None, done: int = 0
    ) -> None:
        self.plain = not on_terminal()
        self.began = time.monotonic()
        self.line_at = self.began + SECONDS_BETWEEN_LINES
        fixed: dict[str, Any] = {"miniters": 1, "mininterval": 0} if self.plain else {"dynamic_ncols": True}
        super().__init__(work, desc=name, unit=f" {unit}", total=total, initial=done, disable=not speaks(), **fixed)

    @property
    def format_dict(self) -> MutableMapping[str, Any]:
        """What tqdm writes; in few columns the time left goes before the bar."""
        found = dict(super().format_dict)
        return found | {"bar_format": WITHOUT_BAR} if (found.get("ncols") or NARROW) < NARROW else found

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draw the bar, or write a line if it is time for one."""
        if not self.plain:
            return super().display(msg, pos)
        if time.monotonic() >= self.line_at and self.n != self.total:  # `close` tells the end
            self.line_at = time.monotonic() + SECONDS_BETWEEN_LINES
            self._write(f"{self._counted()}{self._left()}")
        return True

    def close(self) -> None:
        """Leave the finished bar, or write the last line."""
        if self.plain and not self.disable:
            self._write(f"{self._counted()} in {duration(time.monotonic() - self.began)}")
            self.delay = float("inf")  # tells tqdm that there is no bar to take away
        super().close()

    def _counted(self) -> str:
        of = f" of {self.total}" if self.total not in (None, self.n) else ""
        return f"{self.desc}: {self.n}{of}{self.unit}"

    def _left(self) -> str:
        done = self.n - self.initial
        if self.total is None or done <= 0:
            return ""
        return f", {duration((time.monotonic() - self.began) * (self.total - self.n) / done)} left"

    def _write(self, told: str) -> None:
        beside = f" ({self.postfix})" if self.postfix else ""
        self.fp.write(f"{told}{beside}\n")
        self.fp.flush()
