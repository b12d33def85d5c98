"""Read the text of a data file: find its encoding, split its lines, and unpack compressed files within bounds."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kpod.records.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GZIP = ".gz"
MOST_UNPACKED = 64 * 2**20
"""Bytes that a compressed file may always unpack to."""
MOST_GROWTH = 200
"""How many times its own size a larger one may unpack to. Texts grow 3 to 20 times, a bomb grows 1000 times."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BROKEN = re.compile("[\udc80-\udcff]")
# What Windows-1252 text holds beyond ASCII: letters beside letters, and typographic marks.
_WINDOWS_1252 = re.compile(
    r"(?<=[A-Za-z])[À-ÖØ-öø-þŠŽšžŸŒœ]|[À-ÖØ-öø-þŠŽšžŸŒœ](?=[A-Za-z])|[€‚„…‘’“”•–—™\xa0£§©«®°±²³µ·¹º»¼½¾¿¡×÷]"
)


class UnreadableFileError(DataError):
    """A file whose text cannot be read as a whole."""


def text_lines(path: Path) -> Iterator[str]:
    r"""The lines of a file, with their ends; a line ends at "\n" only, since a text may hold "\r" or U+2028.

    UTF-8 is read, and UTF-16 and UTF-32 where a byte order mark says so or every other byte of the beginning is zero.
    A byte that is not UTF-8 becomes a lone surrogate, which no whole text holds.

    Raises:
        UnreadableFileError: If the file as a whole has another encoding, does not end with a whole character, or cannot
            be unpacked.
    """
    encoding = _encoding(path)
    if encoding == "utf-8":
        yield from _utf8_lines(path)
        return
    with opened(path) as raw, io.TextIOWrapper(raw, encoding, errors="surrogatepass", newline="\n") as lines:
        try:
            for number, line in enumerate(lines):
                yield line.removeprefix("\ufeff") if number == 0 else line
        except UnicodeDecodeError as error:
            raise UnreadableFileError(
                f"the text is {encoding.upper()} and ends within a character ({error.reason}): save it as UTF-8"
            ) from None


def opened(path: Path) -> io.BufferedReader:
    """The bytes of a file, unpacked where it is gzipped.

    Raises:
        UnreadableFileError: While reading, if a compressed file is broken or unpacks to far more than texts do.
    """
    if path.suffix.lower() != GZIP:
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path))


class _Unpacked(io.RawIOBase):
    """A gzipped file that ends with an error instead of filling the memory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed in close()
        self._left = max(MOST_UNPACKED, MOST_GROWTH * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        try:
            number = self._file.readinto(buffer)
        except (OSError, EOFError, zlib.error) as error:
            raise UnreadableFileError(f"not a valid gzip file ({error}): write the file again") from None
        self._left -= number
        if self._left < 0:
            raise UnreadableFileError(
                f"unpacks to over {MOST_GROWTH} times its size, far more than a text does: unpack it yourself"
            )
        return number

    def close(self) -> None:
        self._file.close()
        super().close()


def is_broken(text: str) -> bool:
    """Whether a text of `text_lines` holds bytes that are not UTF-8."""
    return bool(_BROKEN.search(text))


def _encoding(path: Path) -> str:
    with opened(path) as raw:
        start = raw.read(4)
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in start]
    if zeros == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False, True, False] else "utf-8"


def _utf8_lines(path: Path) -> Iterator[str]:
    asked = False
    with opened(path) as lines:
        for number, raw in enumerate(lines):
            text = raw.decode("utf-8", "surrogateescape")
            if not asked and not text.isascii() and is_broken(text):
                _refuse_other_encodings(path)
                asked = True
            yield text.removeprefix("\ufeff") if number == 0 else text


def _refuse_other_encodings(path: Path) -> None:
    """Raise UnreadableFileError where not a few rows are broken but the file as a whole is not UTF-8.

    That is certain where no line beyond ASCII is UTF-8 and at least two are not. In addition, all of these must read
    well as Windows-1252, or they must be at least half of the file.
    """
    broken, windows, lines = 0, 0, 0
    with opened(path) as file:
        for raw in file:
            lines += 1
            if raw.isascii():
                continue
            try:
                raw.decode("utf-8-sig" if lines == 1 else "utf-8")
            except UnicodeDecodeError:
                broken += 1
                windows += _is_windows_1252(raw)
            else:
                return
    if broken > 1 and windows == broken:
        raise UnreadableFileError(
            "the text is not UTF-8 but seems to be Windows-1252 (Latin-1): save the file as UTF-8"
        )
    if broken > 1 and 2 * broken >= lines:
        raise UnreadableFileError("the text is not UTF-8 and its encoding is unknown: save the file as UTF-8")


def _is_windows_1252(raw: bytes) -> bool:
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return not [char for char in _WINDOWS_1252.sub("", text) if not char.isascii()]
