"""Runs side by side: some at a time, each in a process of its own with a log of its own."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TypeAlias

import torch

from kpod.experiment.pipeline import Pipeline
from kpod.recipe import Recipe
from kpod.records.errors import KpodError
from kpod.records.signals import handled

LOG = "compare.log"
POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


Work: TypeAlias = Callable[[Sequence[Recipe]], None]


def in_processes(work: Work, tasks: Mapping[str, Sequence[Recipe]], jobs: int) -> None:
    """Do every task in a process of its own, some at a time; what fails is told when the others are done.

    Where this process is interrupted or told to end, so are those at work, which save a checkpoint; none is begun then.

    Args:
        work: A module's function, such as `distil`.
        tasks: Name -> the recipes that one process works on.
        jobs: How many at a time; each has its share of the processor's cores.

    Raises:
        KpodError: If any failed, or was killed; it names the first.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    failed: dict[str, BaseException] = {}
    stopping = threading.Event()
    pool = ThreadPoolExecutor(jobs)
    with _ended_by_sigterm():
        try:
            names = {
                pool.submit(_in_process, work, recipes, threads, stopping): name for name, recipes in tasks.items()
            }
            for number, future in enumerate(as_completed(names), start=1):
                error = future.exception()
                log.info("%d of %d: %s%s", number, len(names), names[future], f" failed: {error}" if error else "")
                if error:
                    failed[names[future]] = error
        finally:
            stopping.set()
            pool.shutdown(cancel_futures=True)
    if failed:
        name, error = next(iter(failed.items()))
        raise KpodError(
            f"{len(failed)} of {len(tasks)} failed, the first {name}: {error}; see {LOG} in the run's folder. "
            "The same command goes on with what is not finished"
        )


def _in_process(work: Work, recipes: Sequence[Recipe], threads: int, stopping: threading.Event) -> None:
    """Work in a process that does nothing else: what it has taken of memory goes with it, and its death is its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(sender, work, recipes, threads))
    process.start()
    sender.close()  # the process has its own end; without it nothing more can come
    while not receiver.poll(POLL_SECONDS):
        if stopping.is_set():
            process.terminate()
            break
    try:
        error = receiver.recv()
    except EOFError:
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        why = ", as is done where memory runs out" if killed else ""
        raise KpodError(f"its process ended with exit code {process.exitcode}{why}") from None
    process.join()
    if error is not None:
        raise error


def _tell(sender: Connection, work: Work, recipes: Sequence[Recipe], threads: int) -> None:
    """Work, and send the error that ended it, or None."""
    torch.set_num_threads(threads)
    try:
        work(recipes)
        error = None
    except Exception as found:
        error = found if isinstance(found, KpodError) else KpodError(f"{type(found).__name__}: {found}")
    sender.send(error)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """While active, SIGTERM ends the main thread's work as an exception, with the exit code that it stands for."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with handled(end, signal.SIGTERM):
        yield


def prepare(recipes: Sequence[Recipe]) -> None:
    """Learn the weights and make the schedule of each, in this process: what several runs share is so made once."""
    for recipe in recipes:
        with _logged(recipe):
            pipeline = Pipeline(recipe)
            _ = pipeline.weights, pipeline.schedule


def distil(recipes: Sequence[Recipe]) -> None:
    """Run each to its end, in this process."""
    for recipe in recipes:
        with _logged(recipe):
            Pipeline(recipe).run()


@contextmanager
def _logged(recipe: Recipe) -> Iterator[None]:
    """While active, everything the process prints goes to the run's log; processes would print into one another."""
    folder = Path(recipe.runs) / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    kept = os.dup(2)
    with (folder / LOG).open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except Exception:
            log.exception("failed")
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
