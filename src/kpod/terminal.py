"""What reaches the terminal: in any encoding, without raw control characters, and quietly where nobody reads on."""

import logging
import os
import sys
from io import TextIOWrapper
from typing import TextIO

from kpod.report.tables import visible

READER_GONE = 141
"""128 + SIGPIPE, the exit code of a program whose output nobody reads any more."""


class ReaderGoneError(Exception):
    """Whoever read the standard output has closed it, as `head` does."""


def print_anything(*streams: TextIO) -> None:
    r"""Let streams of any encoding take any text: what they cannot show is written as \u2423."""
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def log_to_terminal() -> None:
    """Log to the standard error, with hidden characters written out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_VisibleFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("httpx", "httpx2"):  # a line per request
        logging.getLogger(library).setLevel(logging.WARNING)


class _VisibleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text, on the standard output by default, with hidden characters written out.

    Raises:
        ReaderGoneError: If nobody reads the stream any more.
    """
    try:
        print(visible(text), file=stream or sys.stdout)
    except BrokenPipeError:
        _give_up(stream or sys.stdout)
        raise ReaderGoneError from None


def flush() -> None:
    """Write out what was printed.

    Raises:
        ReaderGoneError: If nobody reads it any more.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up(sys.stdout)
        raise ReaderGoneError from None


def _give_up(stream: TextIO) -> None:
    """Send what is left to nowhere: the interpreter would complain about it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
