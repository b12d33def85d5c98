"""Whole runs on one process and on two that share the work; notes how each process ended. Run by test_processes.py.

One process imports everything once and forks the runs.
"""

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from killed_runs import fork_all
from kpod.experiment import evaluations
from kpod.experiment.pipeline import Pipeline
from kpod.lm.processes import process_number
from kpod.teacher import probabilities
from tiny_runs import recipe, write_tiny_data

BLOCK_OF_PROBABILITIES = 2
"""So that six rationales are three blocks, which two processes can share."""
Harm = Callable[[], None]


def nothing() -> None:
    """Live on."""


def die_answering() -> None:
    """The second process dies when it is to keep its second batch of answers."""
    inner, calls = evaluations.artifacts.PartialEvaluation.append, []

    def append(self, predictions):
        calls.append(1)
        if process_number() == 1 and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        inner(self, predictions)

    evaluations.artifacts.PartialEvaluation.append = append


def run(method: str, num_processes: int, data: Path, runs: Path, harm: Harm) -> None:
    """One start of the command."""
    logging.disable()
    probabilities.BLOCK = BLOCK_OF_PROBABILITIES
    options = {
        "--method": method,
        "--data.test_limit": "6",
        "--evaluation.batch_size": "1",
        "--training.per_device_train_batch_size": "1",
        "--training.gradient_accumulation_steps": str(2 // num_processes),
        "--teacher.logprobs.model": str(data / "llama"),
    }
    if num_processes > 1:
        options |= {"--training.ddp_backend": "gloo", "--training.ddp_timeout": "60"}
    found = recipe(data, runs, "llama", *(word for pair in options.items() for word in pair))
    harm()
    Pipeline(found).run()


RUNS: dict[str, tuple[str, list[tuple[int, Harm]]]] = {
    "one": ("kpod-rho-1", [(1, nothing)]),
    "two": ("kpod-rho-1", [(2, nothing)]),
    "killed": ("kpod-rho-1", [(2, die_answering), (2, nothing)]),
    "easiest-one": ("kpod-acl", [(1, nothing)]),
    "easiest-two": ("kpod-acl", [(2, nothing)]),
    "taught-one": ("logit-kd", [(1, nothing)]),
    "taught-two": ("logit-kd", [(2, nothing)]),
}


def main(root: Path) -> None:
    """Run everything and write report.json."""
    gc.freeze()  # or every run would search the libraries for garbage
    data, report = write_tiny_data(root / "data"), {}
    for name, (method, starts) in RUNS.items():
        report[name] = [
            fork_all(number, partial(run, method, number, data, root / name, harm)) for number, harm in starts
        ]
    (root / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
