"""The training engine beside its peers: seconds, tokens per second and peak memory of one epoch on the same rationales.

SmolLM2-135M, fully trained, on GSM8K with the gemini-1.5-flash rationales of KPOD_DATA. Rounds interleave the
variants, on a CPU each in a process of its own, since what one has freed would count to the next one's peak. Memory is
that of the longest rationales in one batch, twice: at the first update Adam has no moments yet, and variants differ in
which batch comes first.

    trl             TRL's SFTTrainer, completion-only loss, its log-probabilities in chunks (needs the extra `peers`)
    trainer         transformers.Trainer with the question masked in the labels
    whole           kpod, whole rationales
    stage_0, _5, _10  kpod at stages of a schedule with T = 10
    logit_kd        kpod, the loss of the method logit-kd: 64 of a teacher's probabilities at every token
    packed, trl_packed  without padding, where flash attention is installed

    KPOD_DATA=... python benchmarks/training.py [--json] [--rationales 64] [--rounds 3] [--precision fp32]
        [--batch-size 8] [--peak-tflops T]

--peak-tflops, the card's, adds model FLOP utilisation.
"""

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trainers import ON_CARD, Given, arguments, variants

from kpod import (
    DataConfig,
    LanguageModel,
    PromptConfig,
    Schedule,
    ScheduleConfig,
    TeacherConfig,
    TokenizedRationale,
    assess_difficulties,
    encode_rationales,
    filter_rationales,
    load_model,
    load_rationales,
    make_schedule,
    uniform_weights,
)
from kpod.training import flash_attention

STUDENT = "smollm2-135m"
STAGES = (0, 5, 10)


def rationales(lm: LanguageModel, number: int) -> list[TokenizedRationale]:
    """The same rationales for all, in tokens."""
    data = DataConfig(train="gsm8k", root=os.environ["KPOD_DATA"])
    teacher = TeacherConfig("gemini-1.5-flash")
    kept, _ = filter_rationales(load_rationales(data, teacher).rationales, teacher)
    random.Random(0).shuffle(kept)
    how = DataConfig(prompt=PromptConfig(chat=False), max_length=512)
    return encode_rationales(lm, kept[: 2 * number], how)[0][:number]


def scheduled(tokens: list[TokenizedRationale]) -> Schedule:
    """A schedule of ten stages by the student's own difficulties."""
    difficulties = assess_difficulties(load_model(STUDENT), tokens, uniform_weights(tokens))
    config = ScheduleConfig(ramp_stages=10)
    return make_schedule(list(difficulties), list(difficulties.values()), np.arange(len(tokens)) % 5, config, 20)


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


def run(name: str, tokens: list[TokenizedRationale], given: dict[str, Given], options: argparse.Namespace) -> float:
    """Seconds of one epoch of a fresh student, on the longest rationales twice."""
    torch.manual_seed(0)
    if options.longest:
        chosen = np.argsort([-len(t.token_ids) for t in tokens], kind="stable")[: options.batch_size]
        tokens, given = [tokens[index] for index in chosen], {stage: steps[chosen] for stage, steps in given.items()}
    lm = load_model(STUDENT)
    if name.endswith("packed"):
        lm.model.set_attn_implementation(flash_attention())  # type: ignore[operator]
    with tempfile.TemporaryDirectory() as folder:
        common = arguments(folder, options.precision, options.batch_size)
        trainer = variants(given)[name](tokens, common | {"num_train_epochs": 1 + options.longest}, lm)
        peak_memory_gb(reset=True)
        start = time.perf_counter()
        trainer.train()
        if ON_CARD:
            torch.cuda.synchronize()
        return time.perf_counter() - start


def measure(
    name: str, tokens: list[TokenizedRationale], given: dict[str, Given], options: argparse.Namespace, steps: Path
) -> tuple[float, float]:
    """Seconds of an epoch, and peak memory of the largest batch in GiB."""
    if ON_CARD:  # its allocator forgets a peak; and a process has its first seconds for itself
        found = []
        for longest in (True, False):
            taken = run(name, tokens, given, argparse.Namespace(**{**vars(options), "longest": longest}))
            found.append((taken, peak_memory_gb()))
            gc.collect()
            torch.cuda.empty_cache()
        return found[1][0], found[0][1]
    words = ["--variant", name, "--rationales", str(options.rationales), "--precision", options.precision]
    words += ["--batch-size", str(options.batch_size), "--given", str(steps)]
    runs = [
        subprocess.run([sys.executable, __file__, *words, *more], check=True, stdout=subprocess.PIPE, text=True)
        for more in ([], ["--longest"])
    ]
    timed, measured = (run.stdout.split()[-2:] for run in runs)
    return float(timed[0]), float(measured[1])


def matmul_flops(precision: str, rows: int) -> float:
    """What a matrix product of the student's own shape reaches here, per second: the limit of what training can."""
    dtype, device = torch.bfloat16 if precision == "bf16" else torch.float32, "cuda" if ON_CARD else "cpu"
    left, right = torch.randn(rows, 576, dtype=dtype, device=device), torch.randn(576, 1536, dtype=dtype, device=device)
    repeats = 100 if ON_CARD else 1
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(repeats):
            left @ right
        if ON_CARD:
            torch.cuda.synchronize()
        rates.append(repeats * 2 * rows * 576 * 1536 / (time.perf_counter() - start))
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rationales", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--variants", help="comma-separated, whole among them; by default all, which all ratios need")
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
        print(run(options.variant, tokens, dict(np.load(options.given)), options), peak_memory_gb())
        return
    head = sum(p.numel() for p in lm.model.get_output_embeddings().parameters())  # type: ignore[operator]
    body = sum(p.numel() for p in lm.model.parameters()) - head
    tokens = rationales(lm, options.rationales)
    schedule = scheduled(tokens)
    given = {f"stage_{stage}": schedule.input_steps[stage].astype(np.int64) for stage in STAGES}
    given["whole"] = np.zeros(len(tokens), dtype=np.int64)
    makers = variants(given)
    if options.variants:
        makers = {name: makers[name] for name in options.variants.split(",") if name in makers}
    del lm
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    memory: dict[str, list[float]] = {name: [] for name in makers}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "given.npz", **given)
        if ON_CARD:  # kernels are loaded when they are first used
            run("trainer", tokens[: 2 * options.batch_size], given, options)
        for round_ in range(options.rounds):
            for name in random.Random(round_).sample(sorted(makers), len(makers)):
                taken, peak = measure(name, tokens, given, options, Path(folder) / "given.npz")
                print(f"round {round_}: {name}: {taken:.1f} s, {peak:.2f} GiB", file=sys.stderr, flush=True)
                seconds[name].append(taken)
                memory[name].append(peak)

    processed = sum(len(t.token_ids) for t in tokens)
    figures: dict[str, Any] = {
        "num_rationales": len(tokens),
        "precision": options.precision,
        "batch_size": options.batch_size,
        "processed_tokens": processed,
    }
    rows = options.batch_size * processed // len(tokens)
    limit = figures["matmul_gflops"] = matmul_flops(options.precision, rows) / 1e9
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
        if options.peak_tflops:
            figures[name]["model_flop_utilisation"] = gflops / 1e3 / options.peak_tflops
    peers = [name for name in ("trainer", "trl", "trl_packed") if name in makers]

    def ratio(of: dict[str, list[float]], over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(of[over], of[under], strict=True))

    best = "packed" if "packed" in makers else "whole"
    if peers:
        figures["speed_vs_best_peer"] = min(ratio(seconds, peer, best) for peer in peers)
        figures["memory_vs_best_peer"] = max(ratio(memory, best, peer) for peer in peers)
    if "logit_kd" in makers:
        figures["logit_kd_memory_vs_whole"] = ratio(memory, "logit_kd", "whole")
    if "stage_0" not in makers:
        print(json.dumps(figures, indent=None if options.json else 2))
        return
    figures["stage0_vs_whole"] = ratio(seconds, "whole", "stage_0")
    saved = figures["whole"]["trained_tokens"], figures["stage_0"]["trained_tokens"]
    figures["stage0_limit"] = (body * processed + head * saved[0]) / (body * processed + head * saved[1])
    print(json.dumps(figures) if options.json else json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
