"""Files that are never seen half-written under their names, whatever kills the process."""

import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file, and its folder where there is none, under a temporary name; flush it to disk and rename it.

    The text is written as it is, in UTF-8 and without translating line ends.
    """
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """As `write_text`, of texts that come one after the other and bring their line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # two processes may write the same file
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)
    flush_to_disk(partial)
    partial.replace(path)
    flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that grows line by line; a last one that a kill has torn does not count."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1].decode("utf-8").split("\n")[:-1]


def content_of(path: Path) -> str:
    """The sha256 of a whole file; a large one is read once as long as it has its size and times."""
    found = path.stat()
    return _content(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=1024)
def _content(path: Path, *_: int) -> str:
    return _sha256(path)


MODEL_SUFFIXES = frozenset({".json", ".jinja", ".model", ".safetensors", ".txt", ".bin"})
NOTES = frozenset({"kpod_training.json", "stamp.json"})
"""What kpod notes beside a student, which says nothing about the model."""


def model_files(folder: Path) -> str:
    """A short hash of the files in a folder that make a model: weights, settings and tokenizer, wholly read."""
    named = sorted(p for p in folder.iterdir() if p.suffix in MODEL_SUFFIXES and p.name not in NOTES and p.is_file())
    lines = "".join(f"{path.name} {content_of(path)}\n" for path in named)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


Files = dict[str, tuple[int, str]]
"""Relative path -> size in bytes and sha256."""


def flushed_files(folder: Path) -> Files:
    """Write all files of a folder through to the disk; returns what `altered_file` compares them with."""
    files = {}
    for path in sorted(folder.rglob("*")):
        flush_to_disk(path)
        if path.is_dir():
            continue
        files[path.relative_to(folder).as_posix()] = (path.stat().st_size, _sha256(path))
    return files


def altered_file(folder: Path, files: Files) -> str | None:
    """The first file of a folder that is not as it was, in a few words; None if all are."""
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size or _sha256(path) != digest:
            return f"{name} was changed or cut short"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
