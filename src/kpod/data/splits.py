"""The paper's divisions of the public data sets, as lists of row keys that ship with the package.

The paper takes its validation and test rows from MCC-KD's files. `paper_splits.json` names them, each in the order of
those files; it holds no text. `benchmarks/paper_splits.py` makes it anew from the offline layout.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import chain
from typing import TypeVar

from kpod.records.errors import DataError

FILE = "paper_splits.json"
_T = TypeVar("_T")


def question_key(question: str) -> str:
    """Twelve hex digits that stand for a question, whatever its case, spaces and punctuation.

    Example:
        >>> question_key("How many pens?"), question_key("how  many pens")
        ('a11408f7f467', 'a11408f7f467')
    """
    letters = "".join(filter(str.isalnum, question.casefold()))
    return hashlib.sha256(letters.encode()).hexdigest()[:12]


def paper_splits(folder: str) -> Mapping[str, Sequence[str]]:
    """The listed splits of a data set: name -> row keys, in order."""
    lists = json.loads(files("kpod.data").joinpath(FILE).read_text(encoding="utf-8"))
    return {name.partition(":")[2]: keys for name, keys in lists.items() if name.partition(":")[0] == folder}


def divided(rows: Sequence[tuple[str, _T]], lists: Mapping[str, Sequence[str]], split: str, where: str) -> list[_T]:
    """The rows of one split: the listed ones, in the list's order; of a split without a list, those in no list.

    Args:
        rows: Each with its key. Of rows with the same key the first counts where it is listed; where it is not, all do.
        lists: As `paper_splits` gives them.
        split: Ours.
        where: The data set, for errors.

    Raises:
        DataError: If a listed row is missing; it might be among the others, in other words.
    """
    first = dict(reversed(rows))
    wanted = lists.get(split, [*chain.from_iterable(lists.values())])
    missing = [key for key in wanted if key not in first]
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of the {len(wanted)} rows that the paper's splits list are missing "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); the data set is another version than "
            "the paper's. Serve the paper's splits from files: set KPOD_DATA (docs/data.md)"
        )
    if split in lists:
        return [first[key] for key in wanted]
    listed = set(wanted)
    return [row for key, row in rows if key not in listed]
