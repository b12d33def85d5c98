"""`kpod weigh`: the significance weight of every rationale token, of a run, or of new rationales by its weigher.

With `--apply` every row of a file is written again, with `token_weights` beside it. The output is a rationale file that
`teacher.rationales` or `data.train` can name, for a student with any tokenizer.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kpod.commands.recipe_argument import recipe_of
from kpod.commands.terminal import say
from kpod.data.reader import read_rationales
from kpod.experiment.artifacts import key_of, rationale_row
from kpod.experiment.run_folder import RunFolder, check_unaltered
from kpod.records import Dropped, Rationale, WeightSpan
from kpod.records.errors import ConfigError, DataError
from kpod.records.files import flush_to_disk
from kpod.records.progress import ProgressBar

BATCH = 256
"""Rationales after which the output is flushed to disk."""

DECIMALS = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("recipe", type=Path, nargs="?", help="a recipe file, or a run folder")
    what.add_argument(
        "--apply", type=Path, metavar="RUN", help="weigh new rationales with the weigher that this run learnt"
    )
    parser.add_argument("--input", type=Path, help="with --apply: a rationale file")
    parser.add_argument("--output", type=Path, help="with --apply: a JSONL file; resumes after an interruption")


def work(options: argparse.Namespace) -> None:
    """Learn the weights of a recipe's rationales, or weigh new ones."""
    if options.apply:
        _apply(options)
        return
    recipe = recipe_of(options)
    if options.input or options.output:
        raise ConfigError("--input and --output belong to --apply RUN, not to a recipe")
    from kpod.experiment.pipeline import Pipeline  # takes seconds; a wrong recipe is told at once

    pipeline = Pipeline(recipe)
    pipeline.announce("train")
    num = sum(len(weights) for weights in pipeline.weights.loss.values())
    where = pipeline.folder.path / "weights" if pipeline.method.learns else f"{pipeline.recipe.method} learns none"
    say(f"{num} weights of {len(pipeline.tokens)} rationales: {where}")


def _apply(options: argparse.Namespace) -> None:
    if options.overrides:
        raise ConfigError(f"unexpected argument {options.overrides[0]!r}")
    if options.input is None or options.output is None:
        raise ConfigError("--apply needs --input FILE and --output FILE.jsonl")
    found = annotate(options.apply, options.input, options.output)
    for reason, num in found.dropped.items():
        say(f"dropped {num}: {reason}")
    say(f"{found.num_written} rationales with weights ({found.num_found} were there before): {options.output}")


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
    from kpod.weighting import Weigher  # takes seconds

    check_unaltered(run / "weights", "kpod weigh")
    weigher = Weigher.load(run / "weights" / "weigher")
    mark = key_of(RunFolder(run).key("weights"))
    rationales, empty = read_rationales(source)
    found = _already_written(target, mark)
    left = _left(rationales, found, target)
    dropped = Counter(item.reason for item in empty)
    written = len(found)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        target.open("a", encoding="utf-8", newline="\n") as file,
        ProgressBar(total=len(left), name="weights", unit="rationales") as bar,
    ):
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
