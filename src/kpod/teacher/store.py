"""Every attempt ever made, in a file that only grows: what was answered is never bought again."""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from kpod.records.errors import DataError, TeacherError
from kpod.records.files import flush_to_disk, whole_lines
from kpod.teacher.attempts import Attempt


def read_store(path: Path) -> dict[str, Attempt]:
    """The attempt that counts of every request: the one that settled it, else the last. No file: none.

    A torn last line, left by a kill, does not count.

    Raises:
        DataError: If another line is no attempt, by line.
    """
    return {key: attempts[-1] for key, attempts in attempts_by_key(path).items()}


def attempts_by_key(path: Path) -> dict[str, list[Attempt]]:
    """All attempts of every request in their order, but one that settled it last.

    Raises:
        DataError: As `read_store`.
    """
    found: dict[str, list[Attempt]] = {}
    for attempt in _attempts(path):
        found.setdefault(attempt.key, []).append(attempt)
    return {key: sorted(attempts, key=lambda attempt: attempt.settled) for key, attempts in found.items()}


def _attempts(path: Path) -> Iterator[Attempt]:
    if not path.exists():
        return
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            yield Attempt.of_row(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: is no attempt of a teacher ({error}); name another file under teacher.ask.store"
            ) from error


class Store:
    """The file while it is written to; one writer at a time.

    Args:
        path: Made where it is missing.

    Raises:
        TeacherError: If another process writes to it, or its folder knows no locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writing = threading.Lock()
        self._lock = path.with_name(f".{path.name}.lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            why = "another process is asking the teacher; wait for it, or"
            if not isinstance(error, BlockingIOError):
                why = f"its folder cannot be locked ({error});"
            raise TeacherError(f"{path}: {why} name another teacher.ask.store") from error
        self._file = path.open("ab", buffering=0)  # what fails to be written must not be written later
        self._cut_torn_line()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.close()

    def append(self, attempt: Attempt) -> None:
        """Add an attempt; it is on the disk when this returns. Threads may call it side by side.

        Raises:
            OSError: If it cannot be written, as on a full disk; the file is then as it was.
        """
        line = json.dumps(attempt.row()) + "\n"  # in ASCII: a teacher may write half a surrogate pair
        with self._writing:
            whole = self._file.seek(0, os.SEEK_END)
            try:
                left = memoryview(line.encode())
                while left:
                    left = left[self._file.write(left) :]
            except OSError:
                self._file.truncate(whole)
                raise
            os.fsync(self._file.fileno())

    def _cut_torn_line(self) -> None:
        """Take a last line that a kill has torn out of the file: what is appended to it would be lost with it."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        flush_to_disk(self.path.parent)
