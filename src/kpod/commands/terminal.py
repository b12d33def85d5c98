"""Write to the terminal in any encoding, without raw control characters, and stop quietly at a closed pipe."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from kpod.records.progress import on_terminal, speaks
from kpod.records.shown import visible

READER_GONE = 141
"""128 + SIGPIPE, the exit code of a program whose output nobody reads any more."""


class ReaderGoneError(Exception):
    """Whoever read the standard output has closed it, as `head` does."""


def print_anything() -> None:
    r"""Let an output of any encoding take any text: what it cannot show is written as \u2423."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def log_to_terminal() -> None:
    """Log to the standard error, with hidden characters written out; of several processes, the first logs.

    Other libraries draw bars whether or not anybody can see them; where the standard error is no terminal they do not.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_VisibleFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if speaks() else logging.ERROR, handlers=[handler])
    for library in ("httpx", "httpx2"):  # a line per request
        logging.getLogger(library).setLevel(logging.WARNING)
    if not on_terminal():
        for library in ("HF_HUB", "HF_DATASETS"):  # transformers goes by the first
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")


class _VisibleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def say(text: str, *, error: bool = False) -> None:
    """Print a text with hidden characters written out.

    Args:
        text: One line or more.
        error: Print on the standard error instead of the standard output.

    Raises:
        ReaderGoneError: If nobody reads the output any more.
    """
    with _read_on():
        print(visible(text), file=sys.stderr if error else sys.stdout)


def flush() -> None:
    """Write out what was printed.

    Raises:
        ReaderGoneError: If nobody reads it any more.
    """
    with _read_on():
        sys.stdout.flush()


@contextmanager
def _read_on() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # the interpreter would complain of what is left when it ends
        os.close(nowhere)
        raise ReaderGoneError from None
