"""The training engine beside its peers: seconds, tokens per second and peak memory of one epoch on the same rationales.

SmolLM2-135M, fully trained, on GSM8K with the gemini-1.5-flash rationales of KPOD_DATA. Rounds interleave the
variants, each in a process of its own, since what one has freed would count to the next one's peak. Memory is that of
the eight longest rationales in one batch, twice: at the first update Adam has no moments yet, and variants differ in
which batch comes first.

    trl             TRL's SFTTrainer, completion-only loss, its log-probabilities in chunks (needs the extra `peers`)
    trainer         transformers.Trainer with the question masked in the labels
    whole           kpod, whole rationales
    stage_0, _5, _10  kpod at stages of a schedule with T = 10

    KPOD_DATA=... python benchmarks/training.py [--json] [--rationales 64] [--rounds 3] [--precision fp32]
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from kpod.config import DataConfig, PromptConfig, ScheduleConfig, TeacherConfig
from kpod.data.datasets import load_rationales
from kpod.difficulty import assess
from kpod.lm.encoding import encode
from kpod.lm.models import LanguageModel, load_model
from kpod.records import Schedule, TokenizedRationale
from kpod.schedule.plan import make_schedule
from kpod.steps import split_steps
from kpod.teacher.recorded import filter_rationales
from kpod.training import KeypointTrainer, StageDataset
from kpod.weighting.given import uniform_weights

STUDENT = "smollm2-135m"
STAGES = (0, 5, 10)
BATCH_SIZE = 8


def rationales(lm: LanguageModel, number: int) -> list[TokenizedRationale]:
    """The same rationales for all, in tokens."""
    data = DataConfig(train="gsm8k", root=os.environ["KPOD_DATA"])
    kept, _ = filter_rationales(load_rationales(data, TeacherConfig("gemini-1.5-flash"))[0], "gold")
    random.Random(0).shuffle(kept)
    encoded = [encode(lm, r, split_steps(r.text), PromptConfig(chat=False), 512) for r in kept[: 2 * number]]
    return [tokens for tokens in encoded if isinstance(tokens, TokenizedRationale)][:number]


def scheduled(tokens: list[TokenizedRationale]) -> Schedule:
    """A schedule of ten stages by the student's own difficulties."""
    difficulties = assess(load_model(STUDENT), tokens, uniform_weights(tokens))
    config = ScheduleConfig(ramp_stages=10)
    return make_schedule(list(difficulties), list(difficulties.values()), np.arange(len(tokens)) % 5, config, 20)


def arguments(folder: str, precision: str) -> dict[str, Any]:
    """What all variants share: one epoch, Adam, batches of like length, nothing saved."""
    return {
        "output_dir": folder,
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "train_sampling_strategy": "group_by_length",
        "activation_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
    }


def masked_rows(tokens: list[TokenizedRationale]) -> list[dict[str, list[int]]]:
    """Rows of transformers' Trainer: the question's labels are -100."""
    return [
        {
            "input_ids": list(t.token_ids),
            "labels": [-100] * t.segment_stops[0] + list(t.token_ids[t.segment_stops[0] :]),
        }
        for t in tokens
    ]


def trl(lm: LanguageModel, tokens: list[TokenizedRationale], folder: str, precision: str) -> Trainer:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": list(t.token_ids),
            "completion_mask": [0] * t.segment_stops[0] + [1] * (len(t.token_ids) - t.segment_stops[0]),
        }
        for t in tokens
    ]
    config = SFTConfig(**arguments(folder, precision), completion_only_loss=True, max_length=None)
    return SFTTrainer(lm.model, config, train_dataset=Dataset.from_list(rows), processing_class=lm.tokenizer)


def plain(lm: LanguageModel, tokens: list[TokenizedRationale], folder: str, precision: str) -> Trainer:
    collator = DataCollatorForSeq2Seq(lm.tokenizer, pad_to_multiple_of=None)
    config = TrainingArguments(**arguments(folder, precision))
    return Trainer(lm.model, config, data_collator=collator, train_dataset=masked_rows(tokens))  # type: ignore[arg-type]


def ours(
    lm: LanguageModel, tokens: list[TokenizedRationale], folder: str, precision: str, given: np.ndarray[Any, Any]
) -> Trainer:
    steps = np.stack([given, np.zeros_like(given)])
    schedule = Schedule(tuple(t.id for t in tokens), steps, first_stage=0)
    dataset = StageDataset(tokens, uniform_weights(tokens), schedule, encoder_decoder=False)
    config = TrainingArguments(**arguments(folder, precision), remove_unused_columns=False)
    return KeypointTrainer(lm.model, config, dataset, processing_class=lm.tokenizer)  # type: ignore[arg-type]


def variants(
    tokens: list[TokenizedRationale], given: dict[str, np.ndarray[Any, Any]], precision: str
) -> dict[str, Callable[[LanguageModel, str], Trainer]]:
    """Trainers by name, made of a model and a folder."""
    makers: dict[str, Callable[[LanguageModel, str], Trainer]] = {
        "trainer": lambda lm, folder: plain(lm, tokens, folder, precision)
    }
    if find_spec("trl"):
        makers["trl"] = lambda lm, folder: trl(lm, tokens, folder, precision)
    for name, steps in given.items():
        makers[name] = lambda lm, folder, steps=steps: ours(lm, tokens, folder, precision, steps)  # type: ignore[misc]
    return makers


def peak_memory_gb(*, reset: bool = False) -> float:
    """Peak memory since the last reset, in GiB: the card's, or the process's where there is none."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**30
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return peak
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def run(make: Callable[[LanguageModel, str], Trainer], epochs: int = 1) -> tuple[float, float]:
    """Seconds and peak memory of training a fresh student."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(load_model(STUDENT), folder)
        trainer.args.num_train_epochs = epochs
        peak_memory_gb(reset=True)
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start, peak_memory_gb()


def run_apart(name: str, options: argparse.Namespace, steps: Path) -> tuple[float, float]:
    """Seconds of an epoch, and peak memory of the largest batch, in processes of their own."""
    words = ["--variant", name, "--rationales", str(options.rationales), "--precision", options.precision]
    words += ["--given", str(steps)]
    runs = [
        subprocess.run([sys.executable, __file__, *words, *more], check=True, stdout=subprocess.PIPE, text=True)
        for more in ([], ["--longest"])
    ]
    timed, measured = (run.stdout.split()[-2:] for run in runs)
    return float(timed[0]), float(measured[1])


def matmul_flops(precision: str) -> float:
    """What a matrix product of the student's own shape reaches here, per second: the limit of what training can."""
    dtype, device = (
        (torch.bfloat16 if precision == "bf16" else torch.float32),
        "cuda" if torch.cuda.is_available() else "cpu",
    )
    left, right = torch.randn(2048, 576, dtype=dtype, device=device), torch.randn(576, 1536, dtype=dtype, device=device)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(2 * 2048 * 576 * 1536 / (time.perf_counter() - start))
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rationales", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--given", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--longest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "KPOD_DATA" not in os.environ:
        sys.exit("this benchmark needs real rationales: set KPOD_DATA (docs/data.md)")
    lm = load_model(STUDENT)
    if options.variant:
        tokens = rationales(lm, options.rationales)
        del lm
        given = dict(np.load(options.given))
        if options.longest:
            chosen = np.argsort([-len(t.token_ids) for t in tokens], kind="stable")[:BATCH_SIZE]
            tokens, given = [tokens[index] for index in chosen], {name: steps[chosen] for name, steps in given.items()}
        print(*run(variants(tokens, given, options.precision)[options.variant], 2 if options.longest else 1))
        return
    head = sum(p.numel() for p in lm.model.get_output_embeddings().parameters())  # type: ignore[operator]
    body = sum(p.numel() for p in lm.model.parameters()) - head
    tokens = rationales(lm, options.rationales)
    schedule = scheduled(tokens)
    given = {f"stage_{stage}": schedule.input_steps[stage].astype(np.int64) for stage in STAGES}
    given["whole"] = np.zeros(len(tokens), dtype=np.int64)
    makers = variants(tokens, given, options.precision)
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    memory: dict[str, list[float]] = {name: [] for name in makers}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "given.npz", **given)
        for round_ in range(options.rounds):
            for name in random.Random(round_).sample(sorted(makers), len(makers)):
                taken, peak = run_apart(name, options, Path(folder) / "given.npz")
                print(f"round {round_}: {name}: {taken:.1f} s, {peak:.2f} GiB", file=sys.stderr, flush=True)
                seconds[name].append(taken)
                memory[name].append(peak)

    processed = sum(len(t.token_ids) for t in tokens)
    figures: dict[str, Any] = {
        "num_rationales": len(tokens),
        "precision": options.precision,
        "processed_tokens": processed,
    }
    limit = figures["matmul_gflops"] = matmul_flops(options.precision) / 1e9
    whole = sum(len(t.token_ids) - t.segment_stops[0] for t in tokens)
    for name in makers:
        steps = given.get(name, given["whole"])
        read = sum(t.num_input_tokens(int(step)) for t, step in zip(tokens, steps, strict=True))
        trained, taken = whole - read, statistics.median(seconds[name])
        # The peers may project more positions than they train; what is counted is what the loss needs.
        gflops = 6 * (body * processed + head * trained) / taken / 1e9
        figures[name] = {
            "seconds": seconds[name],
            "peak_gib": memory[name],
            "trained_tokens": trained,
            "processed_per_s": processed / taken,
            "trained_per_s": trained / taken,
            "share_of_matmul_limit": gflops / limit,
        }
    peers = [name for name in ("trainer", "trl") if name in makers]

    def ratio(of: dict[str, list[float]], over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(of[over], of[under], strict=True))

    figures["speed_vs_best_peer"] = min(ratio(seconds, peer, "whole") for peer in peers)
    figures["memory_vs_best_peer"] = max(ratio(memory, "whole", peer) for peer in peers)
    figures["stage0_vs_whole"] = ratio(seconds, "whole", "stage_0")
    saved = figures["whole"]["trained_tokens"], figures["stage_0"]["trained_tokens"]
    figures["stage0_limit"] = (body * processed + head * saved[0]) / (body * processed + head * saved[1])
    print(json.dumps(figures) if options.json else json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
