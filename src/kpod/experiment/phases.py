"""One phase of a run: made once from the same inputs, whichever run or command comes first."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kpod.experiment.run_folder import RunFolder
from kpod.lm.processes import agreed, first_process_first, is_first_process, wait_for_all
from kpod.records.shown import duration

log = logging.getLogger(__name__)


def do_phase(folder: RunFolder, phase: str, key: str, make: Callable[[Path], None], *, together: bool = False) -> Path:
    """Make a phase unless it is there, and link it into the run; on several processes, once.

    Args:
        folder: The run's.
        phase: Where the run's folder has its link.
        key: Stands for all that the phase is made from.
        make: Writes the phase's files into the folder it is given.
        together: Whether all processes make the phase, since its work is divided (`kpod.lm.processes.divided`), or the
            first one alone. What the others write is thrown away.

    Returns:
        The phase's folder.
    """
    with ExitStack() as held:
        is_missing = agreed(is_first_process() and _is_missing(folder, phase, key, held))
        if is_missing and is_first_process():
            _make_ready(folder, phase, key)
            started = time.monotonic()
            make(held.enter_context(folder.making(phase, key)))
            say_done(phase, started)
        elif is_missing and together:
            make(Path(held.enter_context(tempfile.TemporaryDirectory(dir=folder.phases, prefix=".other-"))))
    wait_for_all()
    with first_process_first():
        folder.show(phase, key)
    return folder.place(phase, key)


def _is_missing(folder: RunFolder, phase: str, key: str, held: ExitStack) -> bool:
    """Whether a phase must be made; if so, it is locked until `held` is left."""
    folder.make_way(phase)
    if folder.has(phase, key):
        log.info("%s: already done", phase)
        return False
    held.enter_context(folder.alone(phase, key))
    if folder.has(phase, key):
        log.info("%s: done by another process", phase)
        return False
    return True


def say_done(phase: str, started: float) -> None:
    """Log how long a phase took that began at `started`, by `time.monotonic`."""
    log.info("%s: done in %s", phase, duration(time.monotonic() - started))


def _make_ready(folder: RunFolder, phase: str, key: str) -> None:
    """Say what becomes of what was made before."""
    folder.keep_apart_if_altered(phase, key)
    if folder.key(phase) not in (None, key):
        log.warning("%s: the recipe or its data changed; what was made before stays in %s", phase, folder.phases)


@contextmanager
def in_place(folder: RunFolder, phase: str, key: str) -> Iterator[Path]:
    """Work in a phase's own folder, which may hold what an earlier start has left; the first process has its lock.

    The folder is linked into the run as soon as the work begins.
    """
    with ExitStack() as held:
        with first_process_first():
            place = folder.place(phase, key)
            if is_first_process():
                folder.make_way(phase)
                held.enter_context(folder.alone(phase, key))
                _make_ready(folder, phase, key)
                place.mkdir(parents=True, exist_ok=True)
                folder.show(phase, key)
        yield place
        if is_first_process():
            folder.show(phase, key)
