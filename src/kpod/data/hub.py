"""What the built-in data sets look like on the Hub, and how a row there becomes a row of ours."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

from kpod.data.rows import Row
from kpod.errors import DataError

HubRow: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A split of ours as a range of a Hub split's rows.

    Attributes:
        split: The Hub's name for the split.
        start: First row.
        stop: After the last row; None for all that follow.
    """

    split: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A built-in data set.

    Attributes:
        hub: Its Hub id.
        folder: Its folder in the offline layout.
        splits: Our split -> where its rows are; sizes as in the paper's table 4.
        convert: A Hub row -> a row with our columns, or None to leave it out. A row without an id is numbered within
            its Hub split, as `gsm8k-train-00012`.
        config: The Hub's name for the configuration, or None for the only one.
        shuffled: Put the rows in a fixed random order before dividing them, where the Hub has one split alone.
    """

    hub: str
    folder: str
    splits: Mapping[str, Part]
    convert: Callable[[HubRow], HubRow | None]
    config: str | None = None
    shuffled: bool = False


def spec_rows(spec: DatasetSpec, split: str) -> list[Row]:
    """Download one of our splits of a built-in data set.

    Raises:
        DataError: If there is no such split, or the Hub cannot be reached.
    """
    part = spec.splits.get(split)
    if part is None:
        raise DataError(f"{spec.folder} has no split {split!r}; choose one of {', '.join(spec.splits)}")
    rows = []
    for index, raw in enumerate(download(spec.hub, spec.config, part.split)):
        try:
            values = spec.convert(raw)
        except KeyError as error:
            raise DataError(f"{spec.hub} has no column {error} any more; its columns are {', '.join(raw)}") from None
        if values is not None:
            rows.append(Row(index + 1, {"id": f"{spec.folder}-{part.split}-{index:05d}", **values}))
    if spec.shuffled:
        Random(0).shuffle(rows)
    return rows[part.start : part.stop]


def named_rows(name: str, split: str) -> list[Row]:
    """Download a split of any Hub data set; a row without an id gets its number, as `train-00012`."""
    rows = enumerate(download(name, None, split))
    return [Row(index + 1, {"id": f"{split}-{index:05d}", **row}) for index, row in rows]


def download(hub: str, config: str | None, split: str) -> Iterator[HubRow]:
    """The rows of a Hub data set, from the local cache where it has them.

    Raises:
        DataError: If it cannot be had; the message says both ways out.
    """
    from datasets import load_dataset  # seconds that work on local files need not wait for

    try:
        yield from load_dataset(hub, config, split=split)
    except Exception as error:  # the Hub's client raises anything from OSError to its own and httpx's errors
        raise DataError(
            f"{hub} ({split}) could not be loaded from the Hub: {type(error).__name__}: {error}. Go online and unset "
            "HF_HUB_OFFLINE, or serve it from local files: set KPOD_DATA (or data.root) to a folder with "
            "<data set>/<split>.jsonl"
        ) from error


def gsm8k_row(row: HubRow) -> HubRow:
    """`reasoning <<48/2=24>>24 ... #### 72`: the writer's solution without calculator marks, and the answer."""
    solution, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise DataError(f"gsm8k: the answer {answer[:40]!r} has no #### mark; is this the configuration `main`?")
    return {
        "question": row["question"],
        "answer": plain_number(answer),
        "rationale": re.sub(r"<<.*?>>", "", solution),
        "source": "human",
    }


def svamp_row(row: HubRow) -> HubRow:
    """The body and the question in one; answers such as 145.0 without the zeros."""
    question = f"{row['Body'].strip()} {row['Question'].strip()}"
    return {"id": f"svamp-{row['ID']}", "question": question, "answer": plain_number(str(row["Answer"]))}


def asdiv_row(row: HubRow) -> HubRow | None:
    """`9 (apples)` as 9; rows whose answer does not hold exactly one number are left out, as in the paper."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", row["answer"])
    if len(numbers) != 1:
        return None
    question = f"{row['body'].strip()} {row['question'].strip()}"
    return {"question": question, "answer": plain_number(numbers[0])}


def commonsense_qa_row(row: HubRow) -> HubRow | None:
    """The official test split has no answers; such rows are left out."""
    if not row["answerKey"]:
        return None
    return {
        "id": f"csqa-{row['id']}",
        "question": row["question"],
        "answer": row["answerKey"],
        "choices": row["choices"],
    }


def multiarith_row(row: HubRow) -> HubRow:
    """A question and its number."""
    return {"question": row["question"], "answer": plain_number(str(row["final_ans"]))}


def aqua_row(row: HubRow) -> HubRow:
    """Options such as `A)21` by their letters."""
    options = (option.partition(")") for option in row["options"])
    return {
        "question": row["question"],
        "answer": row["correct"],
        "choices": {letter.strip(): text.strip() for letter, _, text in options},
        "rationale": row["rationale"],
        "source": "human",
    }


def strategyqa_row(row: HubRow) -> HubRow:
    """True as yes, false as no."""
    return {"id": f"strategyqa-{row['qid']}", "question": row["question"], "answer": "yes" if row["answer"] else "no"}


def plain_number(text: str) -> str:
    """A gold number without thousands separators and trailing zeros.

    Example:
        >>> plain_number(" 1,250.50"), plain_number("145.0"), plain_number("100")
        ('1250.5', '145', '100')
    """
    number = text.strip().replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number
