"""Seconds and memory of all that a run does before training, on very many rationales and on very long ones.

    KPOD_DATA=... python benchmarks/scale.py [--json] [--sizes 10000,1000000,traces]

The rationales are numbered copies of KPOD_DATA's, about 165 tokens of SmolLM2-135M each. `traces` are 2000 rationales
of about 8000 tokens, made of such copies. Each size has a process of its own:

- `check_s`: `kpod check FILE`;
- `read_s`: what the pipeline reads anew at each start, with the hash of it;
- `tokens_s`: the phase `tokens`; `tokens_vs_tokenizer` is that time over the time of the bare fast tokenizer on the
  same texts, in the same batches. Both have one thread;
- `plan_s`: weights by the digit rule, step difficulties, clusters, and the progressive schedule. Log-probabilities
  are drawn, since a student would take hours;
- `peak_gb`: the most memory that the process held at a time, files that are mapped into it included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

SIZES = ("10000", "1000000", "traces")
NUM_TRACES, TRACE, NUMBER = 2000, 7800, 9
"""Traces, their tokens (with question and closing they stay below the 8192 that the student reads), and those of
"Case 1234. "."""
SHORTEST, LONGEST = 500, 800
"""Characters of the rationales that are copied."""


def copied(root: Path) -> list[dict[str, Any]]:
    """The rows of KPOD_DATA that are numbered."""
    rows = []
    for path in sorted(root.glob("*/train.*.jsonl")):
        with path.open(encoding="utf-8") as file:
            rows += [row for row in map(json.loads, file) if SHORTEST <= len(row["rationale"] or "") <= LONGEST]
    return [row for row in rows if row.get("teacher_answer") == row["answer"] and not row.get("choices")]


def numbered(rows: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    """A copy whose question and rationale are no other's."""
    row = rows[number % len(rows)]
    text = f"Case {number}. {row['rationale']}"
    return {**row, "id": f"n{number}", "question": f"Case {number}. {row['question']}", "rationale": text}


def traces(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Numbered copies one below the other."""
    from kpod import Recipe, load_layout

    texts = [row["rationale"] for row in rows]
    sizes = [len(ids) + NUMBER for ids in load_layout(Recipe().student).tokenizer(texts).input_ids]
    number = 0
    for trace in range(NUM_TRACES):
        first, left, parts = numbered(rows, number), TRACE, []
        while left >= sizes[number % len(rows)]:
            left -= sizes[number % len(rows)]
            parts.append(numbered(rows, number)["rationale"])
            number += 1
        yield first | {"id": f"t{trace}", "rationale": "\n".join(parts)}


def write(path: Path, rows: Sequence[Mapping[str, Any]], size: str) -> None:
    """The file that a size is measured on."""
    made = traces(rows) if size == "traces" else (numbered(rows, number) for number in range(int(size)))
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in made)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measured(path: Path) -> dict[str, float]:
    """The figures of one file, in this process."""
    import numpy as np
    import torch

    from kpod import DataConfig, Pipeline, Recipe, load_layout, step_difficulties
    from kpod.commands.check import check_data
    from kpod.experiment import algorithm
    from kpod.lm.encoding import BATCH, CHARACTERS
    from kpod.records.columns import parts

    def drawn(_: object, tokens: Any, weights: Any) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        found = {}
        for one in tokens:
            surprise = torch.from_numpy(-rng.exponential(0.68, one.num_tokens).astype(np.float32))
            found[one.id] = step_difficulties(surprise, torch.tensor(weights[one.id]), one.step_stops).numpy()
        return found

    torch.set_num_threads(1)
    algorithm.assess_difficulties = drawn  # type: ignore[assignment]
    data = DataConfig(train=str(path), tests=(), max_length=8192)
    recipe = replace(Recipe(), name="scale", method="kpod-rule", runs=str(path.parent / "runs"), data=data)
    found = {"check_s": seconds(lambda: check_data(path, recipe))}
    run = Pipeline(recipe)
    found["read_s"] = seconds(lambda: run.keys)
    found["tokens_s"] = seconds(lambda: run.tokens)
    tokenizer = load_layout(recipe.student).tokenizer
    closing = recipe.data.prompt.closing
    texts = (f"{r.question.question} {r.text} {closing.format(answer=r.question.answer)}" for r in run.sources[0])
    found["tokenizer_s"] = sum(
        seconds(lambda batch=batch: tokenizer(batch))  # type: ignore[misc]
        for batch in parts(texts, len, BATCH, CHARACTERS)
    )
    found["tokens_vs_tokenizer"] = found["tokens_s"] / found["tokenizer_s"]
    found["plan_s"] = seconds(lambda: run.schedule)
    found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    found["rationales"] = float(len(run.tokens))
    found["mean_tokens"] = sum(one.num_tokens for one in run.tokens) / len(run.tokens)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--sizes", default=",".join(SIZES), help="numbers of rationales, or traces")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return
    if "KPOD_DATA" not in os.environ:
        sys.exit("this benchmark copies real rationales: set KPOD_DATA to their folder (docs/data.md)")
    rows = copied(Path(os.environ["KPOD_DATA"]))
    figures: dict[str, float] = {}
    for size in options.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rationales.jsonl"
            write(path, rows, size)
            command = [sys.executable, __file__, "--measure", str(path)]
            settings = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
            done = subprocess.run(command, env=settings, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        figures |= {f"{name}_{size}": value for name, value in found.items()}
    print(
        json.dumps(figures) if options.json else "\n".join(f"{name:28} {value:.4g}" for name, value in figures.items())
    )


if __name__ == "__main__":
    main()
