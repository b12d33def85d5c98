"""Make kpod/data/paper_splits.json anew from the offline layout, to audit it: row keys alone, no text.

SVAMP, ASDiv and CommonsenseQA: the rows of validation and test, in file order. GSM8K: those of `mcc_kd_split.json`,
which names rows of the official test part by their numbers. CommonsenseQA's test rows need no list: they are the
official validation part.

    KPOD_DATA=... python benchmarks/paper_splits.py [--write]

Without --write it compares with the shipped file, and its exit code is 1 if they differ.
"""

import argparse
import json
import os
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

from kpod import DATASETS, read_questions
from kpod.data.splits import FILE

SPLITS = ("train", "validation", "test")


def keys_of(root: Path, name: str) -> dict[str, dict[str, str]]:
    """Split -> row id -> key; every key of a data set stands for one row."""
    spec = DATASETS[name]
    keys: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        questions = read_questions(root / spec.folder / f"{split}.jsonl")
        keys[split] = {question.id: spec.key(question.id, question.question) for question in questions}
    doubled = [key for key, count in Counter(key for ids in keys.values() for key in ids.values()).items() if count > 1]
    assert not doubled, f"{name}: several rows have the keys {doubled}"
    return keys


def paper_lists(root: Path) -> dict[str, list[str]]:
    """`folder:split` -> row keys, in order."""
    lists: dict[str, list[str]] = {}
    for name in ("svamp", "asdiv", "commonsense_qa"):
        keys = keys_of(root, name)
        for split, part in DATASETS[name].splits.items():
            if part.by_list and split != "train":
                lists[f"{DATASETS[name].folder}:{split}"] = [*keys[split].values()]
    keys = keys_of(root, "gsm8k")
    official = keys["validation"] | keys["test"]
    for split, ids in json.loads((root / "gsm8k" / "mcc_kd_split.json").read_text(encoding="utf-8")).items():
        lists[f"gsm8k:mcc-{split}"] = [official[id_] for id_ in ids]
    return lists


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="overwrite the shipped file")
    options = parser.parse_args()
    if "KPOD_DATA" not in os.environ:
        sys.exit("the lists are made from the offline layout: set KPOD_DATA (docs/data.md)")
    lists = paper_lists(Path(os.environ["KPOD_DATA"]))
    lines = [f"{json.dumps(name)}:{json.dumps(keys, separators=(',', ':'))}" for name, keys in sorted(lists.items())]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    for name, keys in sorted(lists.items()):
        print(f"{name:22} {len(keys)}")
    path = Path(str(files("kpod.data").joinpath(FILE)))
    if options.write:
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        sys.exit(f"{path.name} lists other rows")


if __name__ == "__main__":
    main()
