"""Files that are never seen half-written under their names, whatever kills the process."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file, and its folder where there is none, under a temporary name; flush it to disk and rename it.

    The text is written as it is, in UTF-8 and without translating line ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="")
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
