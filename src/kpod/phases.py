"""One phase of a run: made once, skipped where it is done, and taken from another run that made it from the same."""

import logging
from collections.abc import Callable
from pathlib import Path

from kpod.artifacts import RunFolder
from kpod.lm.processes import first_process_first

log = logging.getLogger(__name__)


def do_phase(folder: RunFolder, phase: str, key: str, make: Callable[[Path], None]) -> None:
    """Make a phase unless the run folder has it from the same inputs; on several processes, once.

    Args:
        folder: The run's.
        phase: The name of the phase's own folder.
        key: Stands for all that the phase is made from.
        make: Writes the phase's files into the folder it is given.
    """
    with first_process_first():
        if folder.has(phase, key):
            log.info("%s: already done", phase)
            return
        if (found := folder.adopt(phase, key)) is not None:
            log.info("%s: already done by %s", phase, found.name)
            return
        if folder.key(phase):
            log.warning("%s: the recipe or its data changed; it is made again", phase)
        with folder.making(phase, key) as staging:
            make(staging)
