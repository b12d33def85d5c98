"""Questions and rationales by the names a recipe gives them: built-in sets, files, Hub data sets.

A name is resolved in this order:

| name | what it is |
|---|---|
| `hub:NAME[:split]` | a Hub data set, columns as in `data.columns` |
| `word_problems[:split]` | made by the package |
| `FILE.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` | a file, from the current folder; columns as in `data.columns` |
| a key of DATASETS `[:split]` | `<root>/<folder>/<split>.jsonl` with a root, else the Hub in the paper's splits |
| any other `[:split]` | a folder of the root |

The root is `data.root`, else the variable KPOD_DATA. Files below it have the default columns. Without `:split`,
training data come from the split train and tests from the split test.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from kpod.data.entries import Entry
from kpod.data.hub import DATASETS, named_rows, spec_rows, taken
from kpod.data.reader import EMPTY, Reading, base_id, read_entries, read_file
from kpod.data.rows import SUFFIX_NAMES, SUFFIXES, suffix_of
from kpod.data.word_problems import SIZES, make_word_problems
from kpod.data.word_problems import SOURCE as WORD_PROBLEMS
from kpod.recipe import ColumnsConfig, DataConfig, TeacherConfig
from kpod.records import Dropped, Question, Rationale
from kpod.records.errors import DataError


@dataclass(frozen=True, slots=True)
class Loaded:
    """The training rationales, before any filter.

    Attributes:
        rationales: In their source's order.
        dropped: What fell away while reading, with reasons.
        notes: What was recognised and what is not used, in plain English, each with its source.
    """

    rationales: list[Rationale]
    dropped: list[Dropped]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadedQuestions:
    """The questions of a data set; `dropped` and `notes` as in `Loaded`."""

    questions: list[Question]
    dropped: list[Dropped]
    notes: tuple[str, ...]


def load_questions(name: str, config: DataConfig) -> list[Question]:
    """The questions of a test set, the first `data.test_limit` of them.

    Args:
        name: As in a recipe's `data.tests`: a built-in set, a file, or `hub:NAME`, with `:split` or without.
        config: How it is read.

    Raises:
        DataError: If there is no such data set, or a row of it is wrong.

    Example:
        >>> [question.answer for question in load_questions("word_problems:test", DataConfig(test_limit=2))]
        ['13', '9']
    """
    return questions_and_notes(name, config).questions


def training_questions(config: DataConfig) -> list[Question]:
    """The questions of `data.train`, the first `data.train_limit` of them, for a teacher to explain.

    Raises:
        DataError: As `load_questions`.
    """
    return questions_and_notes(config.train, config, "train").questions


def questions_and_notes(name: str, config: DataConfig, split: Literal["train", "test"] = "test") -> LoadedQuestions:
    """As `load_questions` or `training_questions`, with rows that are dropped and what the reader has to say.

    Args:
        name: The data set.
        config: How it is read.
        split: What a name without a split means, and which limit counts.

    Raises:
        DataError: As `load_questions`.
    """
    reading = _reading(name, split, config, explained=False)
    limit = config.test_limit if split == "test" else config.train_limit
    return LoadedQuestions(_distinct(reading.entries)[:limit], reading.dropped, reading.notes)


def load_rationales(config: DataConfig, teacher: TeacherConfig) -> Loaded:
    """The training rationales, before any filter, what fell away, with reasons, and what the reader has to say.

    `data.train_limit` counts questions in the order of the training split, whether or not a teacher explained
    them; one without any row in the teacher's file is dropped as `no rationale`. A teacher's row that has no id of its
    own belongs to the question that it repeats.

    Args:
        config: The recipe's `data`: where the training questions are, and how files are read.
        teacher: The recipe's `teacher`; `rationales` names the file, None means that of the questions.

    Raises:
        DataError: If a source is missing or wrong, if a rationale's question is not worded as in `data.train`, or
            if no rationale is left.

    Example:
        >>> loaded = load_rationales(DataConfig(train="word_problems", train_limit=2), TeacherConfig())
        >>> [rationale.id for rationale in loaded.rationales]
        ['word-problems-train-0', 'word-problems-train-1']
    """
    if teacher.rationales is None:
        where = f"data.train {config.train}"
        reading = listing = _reading(config.train, "train", config, explained=True)
    else:
        path, columns = _teacher_file(config, teacher.rationales)
        where = str(path)
        reading = listing = read_file(path, columns, explained=True)
        if not _unlisted(config):
            listing = _reading(config.train, "train", config, explained=False)
    rationales, dropped = _explained(_distinct(listing.entries), config.train_limit, reading, where)
    if not rationales:
        raise DataError(_nothing_left(config, where, dropped))
    if listing is reading:
        return Loaded(rationales, dropped, reading.notes)
    return Loaded(rationales, [*listing.dropped, *dropped], (*listing.notes, *reading.notes))


def _reading(name: str, split: str, config: DataConfig, explained: bool) -> Reading:
    """All rows of a named source; `split` is used where the name has none."""
    if name.startswith("hub:"):
        hub, _, named = name.removeprefix("hub:").partition(":")
        rows = named_rows(hub, named or split)
        return read_entries(rows, name, config.columns, explained, named or split)
    if _is_file(name):
        return read_file(Path(name), config.columns, explained=explained)
    base, split = _split(name, split)
    if base == WORD_PROBLEMS:
        return _made(split)
    root = _root(config)
    if root is None and base in DATASETS:
        return read_entries(spec_rows(DATASETS[base], split), name, ColumnsConfig(), explained, split)
    return _offline(root, base, split, explained)


def _made(split: str) -> Reading:
    if split not in SIZES:
        raise DataError(f"{WORD_PROBLEMS} has no split {split!r}; choose one of {', '.join(SIZES)}")
    made = enumerate(make_word_problems(split), start=1)
    return Reading([Entry(line, problem.id, problem.question, problem) for line, problem in made], [], ())


def _offline(root: Path | None, base: str, split: str, explained: bool) -> Reading:
    """A split of the offline layout: its own file, or what it takes from other splits' files."""
    part = DATASETS[base].splits.get(split) if base in DATASETS else None
    if root is None or part is None or not part.files or (_folder(root, base) / f"{split}.jsonl").is_file():
        return read_file(_split_file(root, base, split), explained=explained)
    read = [_offline(root, base, file, explained) for file in part.files]
    entries = chain.from_iterable(reading.entries for reading in read)
    keyed = [(DATASETS[base].key(entry.question.id, entry.question.question), entry) for entry in entries]
    kept = taken(DATASETS[base], split, keyed, f"{_folder(root, base)} ({', '.join(part.files)})")
    dropped = [*chain.from_iterable(reading.dropped for reading in read)]
    return Reading(kept, dropped, tuple(chain.from_iterable(reading.notes for reading in read)))


def _split_file(root: Path | None, base: str, split: str) -> Path:
    """Where a split lies in the offline layout; raises DataError with what there is instead."""
    known = ", ".join((WORD_PROBLEMS, *DATASETS))
    if root is None or not (_folder(root, base).is_dir() or base in DATASETS):
        where = f"nor a folder of {root}" if root else "and neither data.root nor KPOD_DATA names a folder with more"
        raise DataError(f"{base!r} is no data set ({known}), no {SUFFIX_NAMES} file, {where}")
    path = _folder(root, base) / f"{split}.jsonl"
    if not path.is_file():
        splits = sorted(file.stem for file in path.parent.glob("*.jsonl") if "." not in file.stem)
        ways_out = "put it there, or unset data.root and KPOD_DATA to use the Hub"
        raise DataError(f"{path}: no such file (splits there: {', '.join(splits) or 'none'}); {ways_out}")
    return path


def _teacher_file(config: DataConfig, rationales: str) -> tuple[Path, ColumnsConfig]:
    """The file that `teacher.rationales` means, and the names of its columns."""
    if _is_file(rationales):
        return Path(rationales), config.columns
    base, split = _split(config.train, "train")
    root = _root(config)
    if root is None or _is_file(config.train) or not _folder(root, base).is_dir():
        raise DataError(
            f"teacher.rationales is {rationales!r}, neither a {SUFFIX_NAMES} file nor a teacher beside "
            f"data.train {config.train}: set KPOD_DATA (or data.root) to a folder with {base}/{split}.<teacher>.jsonl"
        )
    path = _folder(root, base) / f"{split}.{rationales}.jsonl"
    if not path.is_file():
        raise DataError(f"teacher.rationales: no {path}; {_teachers_there(root, base, split)}")
    return path, ColumnsConfig()


def _teachers_there(root: Path, base: str, split: str) -> str:
    files = _folder(root, base).glob(f"{split}.*.jsonl")
    teachers = sorted(file.name.removeprefix(f"{split}.").removesuffix(".jsonl") for file in files)
    return f"teachers there: {', '.join(teachers) or 'none'}"


def _unlisted(config: DataConfig) -> bool:
    """Whether the offline layout has a teacher's file but not the questions' own: then the former lists them."""
    root = _root(config)
    if root is None or config.train.startswith("hub:") or _is_file(config.train):
        return False
    base, split = _split(config.train, "train")
    return base != WORD_PROBLEMS and not (_folder(root, base) / f"{split}.jsonl").is_file()


def _explained(
    questions: Sequence[Question], limit: int | None, reading: Reading, where: str
) -> tuple[list[Rationale], list[Dropped]]:
    """Join rationales to the first `limit` questions by id; those whose source has no ids, by the question's words."""
    known = {question.id: question for question in questions}
    worded = {question.question: question for question in reversed(questions)}
    unexplained = {question.id: question for question in questions[:limit]}
    wanted = set(unexplained)
    kept: list[Rationale] = []
    dropped = list(reading.dropped)
    for entry in reading.entries:
        question = known.get(entry.question.id) or known.get(entry.id)
        if entry.is_numbered and (question is None or question.question != entry.question.question):
            question = worded.get(entry.question.question)
        if question is None:
            dropped.append(Dropped(entry.id, "unknown question"))
            continue
        if question.question != entry.question.question:
            raise DataError(
                f"{where}:{entry.line}: id {entry.id!r} asks another question than data.train under this id"
            )
        if question.id in wanted:
            unexplained.pop(question.id, None)
            if entry.rationale is None:
                dropped.append(Dropped(entry.id, EMPTY))
            else:
                alike = entry.rationale.question is question
                kept.append(entry.rationale if alike else replace(entry.rationale, question=question))
    told = {base_id(item.id) for item in reading.dropped} | {item.id for item in reading.dropped}
    return kept, [*dropped, *(Dropped(id_, "no rationale") for id_ in unexplained if id_ not in told)]


def _nothing_left(config: DataConfig, where: str, dropped: Sequence[Dropped]) -> str:
    reasons = {item.reason for item in dropped}
    message = f"{where}: no rationale to train on; all {len(dropped)} rows fell away ({', '.join(sorted(reasons))}). "
    if "unknown question" in reasons:
        return message + f"Set data.train (now {config.train}) to the questions that this file explains"
    root = _root(config)
    base, split = _split(config.train, "train")
    there = f" ({_teachers_there(root, base, split)})" if root and not _is_file(base) else ""
    return message + f"Set teacher.rationales to a file or a teacher{there}"


def _distinct(entries: Sequence[Entry]) -> list[Question]:
    """Each question once, in order."""
    unique: dict[str, Question] = {}
    for entry in entries:
        unique.setdefault(entry.question.id, entry.question)
    return list(unique.values())


def _root(config: DataConfig) -> Path | None:
    named = config.root or os.environ.get("KPOD_DATA")
    if not named:
        return None
    if not Path(named).is_dir():
        raise DataError(f"{'data.root' if config.root else 'KPOD_DATA'} is {named!r}, which is no folder")
    return Path(named)


def _folder(root: Path, base: str) -> Path:
    return root / (DATASETS[base].folder if base in DATASETS else base)


def _split(name: str, default: str) -> tuple[str, str]:
    base, _, split = name.partition(":")
    return base, split or default


def has_own_rationales(name: str) -> bool:
    """Whether a source may hold rationales itself, so that no teacher's file stands beside it."""
    return name.startswith("hub:") or _is_file(name) or name.partition(":")[0] == WORD_PROBLEMS


def _is_file(name: str) -> bool:
    return suffix_of(Path(name)) in SUFFIXES
