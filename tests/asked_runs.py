"""Asks a teacher in processes that are killed, and notes what each left behind. Run by test_endpoint.py.

One process imports everything once and forks the askings, so that a kill costs no new import.
"""

import json
import logging
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from kpod.recipe import AskConfig
from kpod.records import Question
from kpod.teacher import endpoint
from kpod.teacher.asking import ask_teacher

CONCURRENCY, TIMEOUT = 16, float(os.environ.get("ASKED_RUNS_TIMEOUT", "2"))
MODEL = os.environ.get("ASKED_RUNS_MODEL", "teacher")
TORN = b'{"key": "0123", "outcome": "answ'


def questions(number: int) -> list[Question]:
    return [Question(f"q{n}", f"How much is {n} and {n}?", str(2 * n)) for n in range(number)]


def ask_of(url: str, **changes: object) -> AskConfig:
    values = {"model": "teacher", "base_url": url, "concurrency": 8, "timeout": 20.0, "max_tokens": 16, **changes}
    return AskConfig(**values)


def ask(url: str, store: Path, number: int) -> None:
    endpoint.FIRST_PAUSE = 0.01
    how = ask_of(url, model=MODEL, timeout=TIMEOUT, concurrency=CONCURRENCY, retries=12)
    ask_teacher(questions(number), how, store)


def num_lines(store: Path) -> int:
    return store.read_bytes().count(b"\n") if store.exists() else 0


def killed_after(lines: int, url: str, store: Path, number: int) -> float:
    """Ask in a child, kill it when the store has so many lines more; when it was dead."""
    wanted = num_lines(store) + lines
    child = os.fork()
    if not child:
        try:
            ask(url, store, number)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    while num_lines(store) < wanted:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return time.monotonic()


def main(mode: str, url: str, store: Path, number: int, kills: int = 0) -> None:
    """Ask; with kills, before that, be killed so often, leave a torn line each time and copies of the store."""
    if mode == "debug":
        logging.basicConfig(level=logging.DEBUG)
    store.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    died = []
    for kill in range(kills):
        died.append(killed_after(rng.randint(number // 20, number // 7), url, store, number))
        shutil.copy(store, store.with_name(f"killed-{kill}.jsonl"))
        with store.open("ab") as file:
            file.write(TORN)
    store.with_name("died.json").write_text(json.dumps(died))
    ask(url, store, number)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
