"""A trained weigher on new rationales: every row of a file again, with `token_weights` beside it.

The output is a rationale file that `teacher.rationales` or `data.train` can name, for a student with any tokenizer.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from kpod.artifacts import key_of, rationale_row
from kpod.data.reader import read_rationales
from kpod.errors import DataError
from kpod.files import flush_to_disk
from kpod.records import Dropped, Rationale, WeightSpan
from kpod.run_folder import RunFolder, check_unaltered
from kpod.weighting import Weigher

BATCH = 256
"""Rationales after which the output is flushed to disk."""

DECIMALS = 6


@dataclass(frozen=True)
class Annotation:
    """What became of a file's rationales.

    Attributes:
        num_written: Rationales with weights in the output, those of earlier runs included.
        num_found: How many of them an earlier run had written.
        dropped: Reason -> how many rationales have no weights and are not in the output.
    """

    num_written: int
    num_found: int
    dropped: dict[str, int]


def annotate(run: Path, source: Path, target: Path) -> Annotation:
    """Write the rationales of a file with the weights of a run's weigher; goes on where it was stopped.

    Args:
        run: A run folder whose weights were learnt.
        source: A rationale file, as `kpod.data.reader` reads it.
        target: A JSONL file; rows that it holds already are not weighed again.

    Raises:
        DataError: If the run has no weigher or its files were altered, if the source is wrong, or if the target was
            written by another weigher or from other rationales.
    """
    check_unaltered(run / "weights", "kpod weigh")
    weigher = Weigher.load(run / "weights" / "weigher")
    mark = key_of(RunFolder(run).key("weights"))
    rationales, empty = read_rationales(source)
    found = _already_written(target, mark)
    left = _left(rationales, found, target)
    dropped = Counter(item.reason for item in empty)
    written = len(found)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a", encoding="utf-8", newline="\n") as file, tqdm(total=len(left), desc="weights") as bar:
        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            rows = []
            for rationale, weights in zip(batch, weigher.weigh(batch), strict=True):
                if isinstance(weights, Dropped):
                    dropped[weights.reason] += 1
                else:
                    rows.append(_row(rationale, weights, mark))
            file.writelines(rows)
            file.flush()
            os.fsync(file.fileno())
            written += len(rows)
            bar.update(len(batch))
    flush_to_disk(target.parent)
    return Annotation(written, len(found), dict(dropped))


def _row(rationale: Rationale, weights: Sequence[WeightSpan], mark: str) -> str:
    spans = [(start, stop, round(weight, DECIMALS)) for start, stop, weight in weights]
    row = rationale_row(rationale) | {"token_weights": spans, "weigher": mark}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _already_written(target: Path, mark: str) -> dict[str, str]:
    """The rationales that a file holds, by id; a last line that was cut off is then taken out of it.

    Raises:
        DataError: If another program, or another weigher, wrote any of it; the file stays as it is.
    """
    if not target.exists():
        return {}
    content = target.read_bytes()
    whole = content.rfind(b"\n") + 1
    found = {}
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            found[row["id"]] = row["rationale"]
            same = row["weigher"] == mark
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise DataError(f"{target}:{number}: was not written by this weigher; name another --output")
    if whole < len(content):
        if not content[whole:].startswith(b"{"):
            raise DataError(f"{target}: its last line was not written by this weigher; name another --output")
        with target.open("r+b") as file:
            file.truncate(whole)
    return found


def _left(rationales: Sequence[Rationale], found: Mapping[str, str], target: Path) -> list[Rationale]:
    """The rationales that are not in the output yet; raises DataError where one of its id has another text there."""
    for rationale in rationales:
        if found.get(rationale.id, rationale.text) != rationale.text:
            raise DataError(f"{target}: id {rationale.id!r} has another rationale there; name another --output")
    return [rationale for rationale in rationales if rationale.id not in found]
