"""What the built-in data sets look like on the Hub, and how a row there becomes a row of ours."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from kpod.data.findings import Row
from kpod.data.solutions import behind_hashes, plain_number, without_marks
from kpod.data.splits import divided, paper_splits, question_key
from kpod.records.errors import DataError
from kpod.records.hub_reach import check_hub_answers

HubRow: TypeAlias = Mapping[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Part:
    """A split of ours as some of the rows of a Hub split.

    Attributes:
        split: The Hub's name for the split; `train+test` for the rows of both.
        start: First row.
        stop: After the last row; None for all that follow.
        by_list: Take the rows that the paper's lists name for our split, or where they have none for it, the rows that
            they name for no split.
        files: Splits of the offline layout that together hold the rows, where it has no file for this one.
    """

    split: str
    start: int = 0
    stop: int | None = None
    by_list: bool = False
    files: tuple[str, ...] = ()


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
        by_id: Whether the source's rows have ids, by which the paper's lists name them.
    """

    hub: str
    folder: str
    splits: Mapping[str, Part]
    convert: Callable[[HubRow], HubRow | None]
    config: str | None = None
    by_id: bool = False

    def key(self, id_: str, question: str) -> str:
        """What the paper's lists call a row: its id in the source, or its question's key where the source has none."""
        return id_.removeprefix(f"{self.folder}-") if self.by_id else question_key(question)


def spec_rows(spec: DatasetSpec, split: str) -> list[Row]:
    """Download one of our splits of a built-in data set.

    Raises:
        DataError: If there is no such split, the Hub cannot be reached, or it lacks a row that the paper's lists name.
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
    keyed = [(spec.key(row.values["id"], row.values["question"]), row) for row in rows]
    return taken(spec, split, keyed, f"{spec.hub} ({part.split})")


def taken(spec: DatasetSpec, split: str, rows: Sequence[tuple[str, _T]], where: str) -> list[_T]:
    """Those of a data set's rows that one of our splits holds.

    Args:
        spec: The data set.
        split: One of `spec.splits`.
        rows: All that the split takes from, each with its key.
        where: What they come from, for errors.

    Raises:
        DataError: If a row that the paper's lists name is missing.
    """
    part = spec.splits[split]
    if part.by_list:
        return divided(rows, paper_splits(spec.folder), split, where)
    return [row for _, row in rows[part.start : part.stop]]


def named_rows(name: str, split: str) -> list[Row]:
    """Download a split of any Hub data set."""
    return [Row(number, row) for number, row in enumerate(download(name, None, split), start=1)]


def download(hub: str, config: str | None, split: str) -> Iterator[HubRow]:
    """The rows of a Hub data set, from the local cache where it has them.

    Raises:
        DataError: If it cannot be had; the message says both ways out.
    """
    check_hub_answers()
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
    marked = behind_hashes(row["answer"])
    if not marked:
        raise DataError(f"gsm8k: the answer {row['answer'][:40]!r} has no #### mark; is this the configuration `main`?")
    return {
        "question": row["question"],
        "answer": marked[1],
        "rationale": without_marks(marked[0]),
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


OFFICIAL_TEST = ("validation", "test")
DATASETS: Mapping[str, DatasetSpec] = {
    "gsm8k": DatasetSpec(
        hub="openai/gsm8k",
        config="main",
        folder="gsm8k",
        splits={
            "train": Part("train"),
            "validation": Part("test", stop=660),
            "test": Part("test", start=660),
            "mcc-validation": Part("test", by_list=True, files=OFFICIAL_TEST),
            "mcc-test": Part("test", by_list=True, files=OFFICIAL_TEST),
            "official": Part("test", files=OFFICIAL_TEST),
        },
        convert=gsm8k_row,
    ),
    "svamp": DatasetSpec(
        hub="ChilleD/SVAMP",
        folder="svamp",
        splits={split: Part("train+test", by_list=True) for split in ("train", "validation", "test")}
        | {"official-train": Part("train"), "official": Part("test")},
        convert=svamp_row,
        by_id=True,
    ),
    "asdiv": DatasetSpec(
        hub="EleutherAI/asdiv",
        folder="asdiv",
        splits={split: Part("validation", by_list=True) for split in ("train", "validation", "test")},
        convert=asdiv_row,
    ),
    "commonsense_qa": DatasetSpec(
        hub="tau/commonsense_qa",
        folder="csqa",
        splits={
            "train": Part("train", by_list=True),
            "validation": Part("train", by_list=True),
            "test": Part("validation"),
        },
        convert=commonsense_qa_row,
        by_id=True,
    ),
    "multiarith": DatasetSpec(
        hub="ChilleD/MultiArith",
        folder="multiarith",
        splits={"train": Part("train"), "test": Part("test")},
        convert=multiarith_row,
    ),
    "aqua": DatasetSpec(
        hub="deepmind/aqua_rat",
        config="raw",
        folder="aqua",
        splits={"train": Part("train"), "validation": Part("validation"), "test": Part("test")},
        convert=aqua_row,
    ),
    "strategyqa": DatasetSpec(
        hub="ChilleD/StrategyQA",
        folder="strategyqa",
        splits={"train": Part("train"), "test": Part("test")},
        convert=strategyqa_row,
    ),
}
"""Built-in data sets. The paper's four are divided as in its table 4, row by row as in MCC-KD's files (GSM8K's `mcc-`
splits; its plain ones divide the official test part in file order, in the same sizes). `official` is a whole test part,
where the paper divides it; SVAMP's stands in its Hub's own division and holds rows of the paper's train split. The last
three are there to test on, out of distribution."""
