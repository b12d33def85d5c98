"""A run's folder, and the folder of phases that all runs beside it share.

    runs/
      .phases/<phase>-<key>/    one folder per phase, under a hash of all that it was made from, with its stamp.json
      <name>/<phase>            a link to the phase that the run uses

A stamp holds the key, and the size and hash of every file; it is written last, when all of them are on the disk. So a
phase is there whole or not at all, runs share what they have in common, and what a run had before it was changed is
found again when it is changed back. Nothing is deleted: a folder that is not as it was stamped is renamed.
"""

import fcntl
import json
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

from kpod.records.errors import ConfigError, DataError
from kpod.records.files import altered_file, flush_to_disk, flushed_files, write_text

STAMP = "stamp.json"
PHASES = ".phases"
POLL_SECONDS = 0.1

log = logging.getLogger(__name__)

_whole: dict[Path, object] = {}
"""Folder -> sizes and times of its files when they were last compared with the stamp."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, with links to its phases."""

    path: Path

    @property
    def phases(self) -> Path:
        """The folder of the phases of all runs."""
        return self.path.parent / PHASES

    def place(self, phase: str, key: str) -> Path:
        """The folder of a phase that was made, or is to be made, from what `key` stands for."""
        return self.phases / f"{phase.partition('/')[0]}-{key}"

    def key(self, phase: str) -> str | None:
        """The key of the phase that the run's link leads to, or None if there is none."""
        found = _stamp(self.path / phase).get("key")
        return None if found is None else str(found)

    def has(self, phase: str, key: str) -> bool:
        """Whether a phase was made from what `key` stands for, and is as it was then."""
        place = self.place(phase, key)
        return (place / STAMP).is_file() and fault_of(place, key) is None

    @contextmanager
    def alone(self, phase: str, key: str) -> Iterator[None]:
        """Work on a phase as the only process that does; waits while another works on it, and says so.

        The lock of a process that was killed is free.

        Raises:
            ConfigError: If files cannot be locked there.
        """
        place = self.place(phase, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.with_name(f".{place.name}.lock").open("a+", encoding="utf-8") as file:
            said = False
            while not _locked(file):
                if not said:
                    file.seek(0)
                    log.warning("%s: waiting for %s, which works on it", phase, file.read() or "another process")
                    said = True
                time.sleep(POLL_SECONDS)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    @contextmanager
    def making(self, phase: str, key: str) -> Iterator[Path]:
        """A fresh folder to write a phase into; it takes the phase's place, whole and stamped, when the block ends."""
        place = self.place(phase, key)
        staging = place.with_name(f".{place.name}.making")
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        staging.mkdir(parents=True)
        yield staging
        seal(staging, key)
        if place.exists():
            _retire(place)
        staging.rename(place)
        flush_to_disk(place.parent)

    def keep_apart_if_altered(self, phase: str, key: str) -> None:
        """Name what was altered in a stamped phase, and rename its folder, so that the phase can be made again."""
        place = self.place(phase, key)
        if (place / STAMP).exists() and (fault := fault_of(place, key)) is not None:
            kept = _renamed(place, "altered")
            log.warning("%s: %s in %s; it is kept as %s, and made again", phase, fault, place, kept.name)

    def show(self, phase: str, key: str) -> None:
        """Link a phase into the run's folder; where links cannot be made, a finished phase is copied."""
        link, place = self.path / phase, self.place(phase, key)
        target = os.path.relpath(place, link.parent)
        if link.is_symlink() and str(link.readlink()) == target:
            return
        fresh = link.with_name(f".{link.name}.{os.getpid()}.link")
        fresh.unlink(missing_ok=True)
        try:
            fresh.symlink_to(target, target_is_directory=True)
        except OSError:  # a file system without symbolic links
            if (place / STAMP).is_file() and self.key(phase) != key:
                shutil.copytree(place, link, copy_function=_hard_link)
            return
        fresh.replace(link)

    def make_way(self, phase: str) -> None:
        """Prepare the place of a phase's link. A folder that stands there is taken in or renamed.

        Raises:
            ConfigError: If something is there that kpod did not make, which is left as it is.
        """
        link = self.path / phase
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() or not link.exists():
            return
        with suppress(OSError):
            link.rmdir()  # an empty folder
            return
        if not any((link / mark).is_file() for mark in (STAMP, "recipe.yaml")):
            raise ConfigError(
                f"{link} was not made by kpod (it has no {STAMP}), so it is not replaced: move it, or change `name`"
            )
        found = self.key(phase)
        if found is not None and fault_of(link) is None:  # of a run that was copied, or where links cannot be made
            place = self.place(phase, found)
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists() and not _others(link):
                shutil.rmtree(link)
                return
            if not place.exists():
                link.rename(place)
                return
        with suppress(FileNotFoundError):  # another process was faster
            kept = _renamed(link, "before")
            log.warning("%s was made by an earlier version of kpod: it is kept as %s, and made again", link, kept.name)

    def check_writable(self) -> None:
        """Raise ConfigError if nothing can be written here: `runs` is a file, a disk is full or read-only."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(b"kpod")
        except OSError as error:
            raise ConfigError(f"runs, name: nothing can be written to {self.path} ({error.strerror})") from error


def seal(folder: Path, key: str) -> None:
    """Write all files of a folder through to the disk, and then its stamp."""
    (folder / STAMP).unlink(missing_ok=True)
    write_text(folder / STAMP, json.dumps({"key": key, "files": flushed_files(folder)}, indent=1))


def fault_of(folder: Path, key: str | None = None) -> str | None:
    """Why a stamped folder is not as it was when it was stamped, in a few words; None if it is.

    Args:
        folder: Files in it that the stamp does not name do not count.
        key: What it must be stamped with; None: with anything.
    """
    stamp = _stamp(folder)
    try:
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in stamp["files"].items()}
    except (KeyError, AttributeError, TypeError, ValueError):
        files = None
    if files is None or key not in (None, stamp.get("key")):
        return f"{STAMP} was changed or is of an earlier version"
    try:
        found = ((path, path.stat()) for path in sorted(folder.rglob("*")))
        signs = [(path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in found]
        if _whole.get(folder) == signs:
            return None
        fault = altered_file(folder, files)
    except FileNotFoundError as error:  # another process is replacing the folder
        return f"{error.filename} is missing"
    if fault is None:
        _whole[folder] = signs
    return fault


def check_unaltered(folder: Path, again: str) -> None:
    """Raise DataError if a stamped folder is not as it was stamped.

    Args:
        folder: One without a stamp, or with a stamp of an earlier version, is taken as it is.
        again: The command that makes it again.
    """
    if "files" in _stamp(folder) and (fault := fault_of(folder)) is not None:
        raise DataError(f"{folder}: {fault}; run {again} again")


def _stamp(folder: Path) -> dict[str, Any]:
    """What a folder is stamped with; empty where it has no stamp that can be read."""
    try:
        found = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _retire(place: Path) -> None:
    """Make room for a new version of a phase; what is not as kpod wrote it is kept under another name."""
    if _others(place) or fault_of(place) is not None:
        kept = _renamed(place, "altered")
        log.warning("%s is not as kpod wrote it; it is kept as %s", place, kept.name)
    else:
        shutil.rmtree(_renamed(place, "old"))


def _others(folder: Path) -> set[str]:
    """The files in a stamped folder that the stamp does not name: a user's own."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return files - {STAMP, *_stamp(folder).get("files", ())}


def _renamed(folder: Path, why: str) -> Path:
    """A folder under a free name beside its own."""
    names = (folder.with_name(f"{folder.name}.{why}{f'-{number}' if number else ''}") for number in count())
    kept = next(name for name in names if not name.exists())
    return folder.rename(kept)


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _locked(file: IO[str]) -> bool:
    """Whether this process has the lock of a file now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ConfigError(f"runs: files cannot be locked in {Path(file.name).parent} ({error.strerror})") from error
    return True
