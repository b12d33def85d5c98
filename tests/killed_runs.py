# ruff: noqa: ARG002 (a callback is given more than it needs)
"""Trains tiny students in processes that kill themselves, and notes what each left behind. Run by test_resume.py.

One process imports everything once and forks the trainings, so that a kill costs no new import of torch.
"""

import gc
import json
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import TrainerCallback

from kpod.recipe import LoraConfig, TrainingConfig
from kpod.records import Schedule
from kpod.training import KeypointTrainer, last_valid_checkpoint, train_student
from tiny import tiny_llama, tiny_t5, tiny_tokens, tiny_weights

CONFIG = TrainingConfig(
    num_train_epochs=3,  # 6 rationales: 3 updates per epoch, 9 in all; checkpoints 2, 4 and 8 are inside an epoch
    learning_rate=1e-2,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=2,
    save_strategy="steps",
    arguments={"save_steps": 2, "save_total_limit": 1},
)
LONG = replace(CONFIG, num_train_epochs=7)
TWO = replace(
    CONFIG, gradient_accumulation_steps=1, arguments={**CONFIG.arguments, "ddp_backend": "gloo", "ddp_timeout": 60}
)
"""The same updates as CONFIG, when two processes share them."""

Kill = Callable[[], list[TrainerCallback]]


def in_training() -> list[TrainerCallback]:
    """Die in update 6, before its optimiser step."""

    class Die(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 5:
                os.kill(os.getpid(), signal.SIGKILL)

    return [Die()]


def in_save() -> list[TrainerCallback]:
    """Die inside the save after update 6: model and optimizer are written, the random states are not."""
    inner = KeypointTrainer._save_rng_state

    def save_rng_state(self, output_dir):
        if self.state.global_step == 6 and self.is_world_process_zero():
            os.kill(os.getpid(), signal.SIGKILL)
        inner(self, output_dir)

    KeypointTrainer._save_rng_state = save_rng_state
    return []


def in_export() -> list[TrainerCallback]:
    """Die when all of the finished student is in place but the file that makes it loadable."""
    inner = Path.replace

    def replace_path(self, target):
        if Path(target).name == "config.json":
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, target)

    Path.replace = replace_path
    return []


def at_random(seed: int) -> Kill:
    """Die in one of the next updates, or in the middle of one of the next saves; where, the seed decides."""

    def kill() -> list[TrainerCallback]:
        rng = random.Random(seed)
        left, inner = rng.randint(1, 3), KeypointTrainer._save_rng_state

        class Die(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, **kwargs):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        def save_rng_state(self, output_dir):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            inner(self, output_dir)

        if rng.random() < 0.5:
            return [Die()]
        KeypointTrainer._save_rng_state = save_rng_state
        return []

    return kill


def nowhere() -> list[TrainerCallback]:
    """Live on."""
    return []


def train(kind: str, config: TrainingConfig, folder: Path, kill: Kill) -> None:
    """One start of the command."""
    dropout = 0.0 if kind.startswith("plain") else 0.1
    lm = tiny_t5(dropout=dropout) if kind == "t5" else tiny_llama(dropout=dropout)
    tokens = [tiny_tokens(lm, f"q{n}", (2 + n % 3, 3)) for n in range(6)]
    steps = np.array([[2] * 6, [1] * 6, [0] * 6], dtype=np.int32)
    train_student(
        lm,
        tokens,
        {t.id: tiny_weights(t) for t in tokens},
        Schedule(tuple(t.id for t in tokens), steps),
        replace(config, lora=LoraConfig(rank=2, alpha=4, dropout=0.1)) if kind == "lora" else config,
        seed=3,
        output_dir=folder,
        precision="fp32",
        fingerprint="tiny",
        callbacks=kill(),
    )


def fork(work: Callable[[], None], environment: dict[str, str]) -> int:
    """Start work in a child; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.environ.update(environment)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def fork_all(num_processes: int, work: Callable[[], None]) -> list[int]:
    """Do the same in some processes that can reach each other, and wait for their ends; their exit codes."""
    environments: list[dict[str, str]] = [{}]
    if num_processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        shared |= {"WORLD_SIZE": str(num_processes)}
        environments = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]
    children = [fork(work, environment) for environment in environments]
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child]:  # as torchrun does
            for other in set(children) - set(codes):
                os.kill(other, signal.SIGKILL)
    return [codes[child] for child in children]


def start(kind: str, config: TrainingConfig, folder: Path, kill: Kill) -> dict[str, object]:
    """Start the command in one process or two, wait for its end, and say what it left."""
    codes = fork_all(2 if config is TWO else 1, lambda: train(kind, config, folder, kill))
    checkpoint, skipped = last_valid_checkpoint(folder)
    names = sorted(path.name for path in folder.iterdir())
    return {"codes": codes, "names": names, "valid": checkpoint and checkpoint.name, "skipped": skipped}


RUNS: dict[str, tuple[str, TrainingConfig, list[Kill]]] = {
    "causal": ("llama", CONFIG, [nowhere]),
    "causal-killed": ("llama", CONFIG, [in_training, in_save, in_export, nowhere]),
    "long": ("llama", LONG, [nowhere]),
    "long-killed": ("llama", LONG, [*map(at_random, range(12)), nowhere]),
    "t5": ("t5", CONFIG, [nowhere]),
    "t5-killed": ("t5", CONFIG, [in_training, nowhere]),
    "lora": ("lora", CONFIG, [nowhere]),
    "lora-killed": ("lora", CONFIG, [in_save, nowhere]),
    "plain": ("plain", CONFIG, [nowhere]),
    "plain-two": ("plain", TWO, [nowhere]),
    "two-killed": ("plain", TWO, [in_save, nowhere]),
}


def main(root: Path) -> None:
    """Run everything and write report.json."""
    gc.freeze()  # or every training would search the libraries for garbage
    report = {}
    for name, (kind, config, kills) in RUNS.items():
        report[name] = [start(kind, config, root / name, kill) for kill in kills]
    (root / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
