"""Which architectures of the installed transformers KPOD works on, and what becomes of the others.

One tiny random model of each is asked: is the loss transformers' own, are weights learnt from the right answers (in one
pass over all prefixes, or in separate ones), does packing change anything, are greedy answers the same in a batch and
alone, and does a whole run end. A refusal is an error of KPOD's own that comes before the paid work begins.

    python benchmarks/architectures.py [--json] [--only llama,gemma2] [--skip-runs]
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

import kpod.weighting.learn
from kpod import (
    KeypointTrainer,
    KpodError,
    LanguageModel,
    MaskedRationale,
    Pipeline,
    Predictor,
    Schedule,
    StageDataset,
    TokenizedRationale,
    WeightingConfig,
    assess_difficulties,
    uniform_weights,
)
from kpod.lm.decoding import continue_greedily
from kpod.lm.models import evaluating
from kpod.lm.sequences import collate, example_at, logprobs
from kpod.weighting.proof import prove
from tiny import BRIEF, byte_tokenizer, tiny_tokens
from tiny_runs import recipe, write_tiny_data
from zoo import ZOO, build_model, loss_difference, plain_nll

SAME_LOSS, SAME_WEIGHTS = 1e-4, 1e-3
"""Nats: per token for the loss, per answer for the weights, as the proofs have it."""


@dataclass
class Finding:
    """What became of one architecture.

    Attributes:
        loss: Largest difference of a token's NLL from transformers' own, in nats.
        weights: Largest difference of an answer's NLL from a plain pass over its prefix, in nats.
        mode: How prefixes are asked: "one pass" or "separate".
        packed: Largest difference of a token's log P in packed rows, in nats; None where packing is refused.
        greedy: Whether answers are the same in a batch and alone.
        run: "ok", or where and how a whole run ended.
        refused: Words of the refusals, by what was refused.
        raw: Errors that are not KPOD's own, or its own after the paid work began, by where they arose.
    """

    loss: float | None = None
    weights: float | None = None
    mode: str = ""
    packed: float | None = None
    greedy: bool | None = None
    run: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """What differs although nothing was refused."""
        found = []
        if self.loss is not None and not self.loss <= SAME_LOSS:
            found.append(f"loss off by {self.loss:.2g}")
        if self.weights is not None and not self.weights <= SAME_WEIGHTS:
            found.append(f"weights off by {self.weights:.2g}")
        if self.packed is not None and not self.packed <= SAME_WEIGHTS:
            found.append(f"packed off by {self.packed:.2g}")
        if self.greedy is False:
            found.append("batched answers differ")
        return found


def rationales(lm: LanguageModel) -> list[TokenizedRationale]:
    """Three of random bytes, one of them much longer than any window in the zoo."""
    return [
        tiny_tokens(lm, "long", (20, 15, 13), question=25, answer=3),
        tiny_tokens(lm, "short", (5, 4), question=8),
        tiny_tokens(lm, "middle", (9, 12), question=12, closing=3),
    ]


def weights_difference(lm: LanguageModel) -> tuple[float, str]:
    """Answers after prefixes as the predictor gives them, against plain passes over ids or masked embeddings."""
    tokens = rationales(lm)
    predictor = Predictor(lm).requires_grad_(requires_grad=False).eval()
    mode = "one pass" if prove(predictor, tokens, BRIEF, 0).one_pass else "separate"
    gaps = []
    with torch.no_grad():
        for one in tokens:
            length, rng = one.num_tokens, np.random.default_rng(1)
            keep = torch.from_numpy(rng.random((2, length)) < 0.6)
            keep[0] = True
            rows = [MaskedRationale(one, row, (length, length // 2, 1)) for row in keep]
            for found, row in zip(predictor(rows), rows, strict=True):
                for nll, prefix in zip(found, row.prefixes, strict=True):
                    gaps.append(abs(float(nll) - plain_nll(predictor, row, prefix)))
        mixed = [
            MaskedRationale(one, torch.ones(one.num_tokens, dtype=torch.bool), (one.num_tokens, 2)) for one in tokens
        ]
        for found, row in zip(predictor(mixed), mixed, strict=True):
            gaps += [abs(float(nll) - plain_nll(predictor, row, p)) for nll, p in zip(found, row.prefixes, strict=True)]
    return max(gaps), mode


def packed_difference(lm: LanguageModel) -> float:
    """Log P of packed examples against padded ones; raises as training does where it refuses them."""
    tokens = rationales(lm)
    schedule = Schedule(tuple(t.id for t in tokens), np.zeros((1, len(tokens)), dtype=np.int8), first_stage=0)
    dataset = StageDataset(tokens, uniform_weights(tokens), schedule, encoder_decoder=lm.encoder_decoder)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=1,
            learning_rate=0.0,
            per_device_train_batch_size=3,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            remove_unused_columns=False,
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = KeypointTrainer(
            lm.model, arguments, train_dataset=dataset, processing_class=lm.tokenizer, packing=True
        )  # type: ignore[arg-type]
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    examples = [example_at(r, np.ones(r.num_tokens, np.float32), 0, encoder_decoder=False) for r in tokens]
    with evaluating(lm.model):
        packed, padded = (logprobs(lm.model, collate(examples, lm, packed=packed)) for packed in (True, False))
    return float((packed - padded).abs().max())


def greedy_is_the_same(lm: LanguageModel) -> bool:
    prompts = [tokens.ids("question") for tokens in rationales(lm)]
    together = continue_greedily(lm, prompts, 8)
    return together == [continue_greedily(lm, [prompt], 8)[0] for prompt in prompts]


def whole_run(data: Path, runs: Path, name: str) -> None:
    """Rationales, weights, difficulties, schedule, student, accuracy."""
    brief = ("--weighting.observations", "8", "--weighting.masks", "6")
    short = ("--data.train_limit", "4", "--training.num_train_epochs", "2", "--evaluation.before", "false")
    Pipeline(recipe(data, runs, name, *brief, *short)).run()


@contextmanager
def watching_payment() -> Iterator[list[bool]]:
    """While active, the list says whether the predictor's warm-up, the first paid work, has begun."""
    begun: list[bool] = []
    original = kpod.weighting.learn.warm_up

    def warm_up(*args: object) -> Iterator[float]:
        begun.append(True)
        yield from original(*args)  # type: ignore[arg-type]

    with mock.patch.object(kpod.weighting.learn, "warm_up", warm_up):
        yield begun


def examine(name: str, data: Path, *, runs: bool) -> Finding:
    """Everything about one architecture; an error in one question does not keep the others from being asked."""
    found = Finding()

    def ask(what: str, work: Callable[[], object]) -> object:
        with watching_payment() as begun, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return work()
            except KpodError as error:
                (found.raw if begun else found.refused)[what] = f"{type(error).__name__}: {error}"
            except Exception as error:  # what a user would see as a traceback
                found.raw[what] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return None

    def fresh() -> LanguageModel:
        return LanguageModel.of(build_model(name), byte_tokenizer())

    lm = ask("loading", fresh)
    if isinstance(lm, LanguageModel):
        found.loss = ask("loss", lambda: loss_difference(lm, rationales(lm)))  # type: ignore[assignment]
        pair = ask("weights", lambda: weights_difference(lm))
        found.weights, found.mode = pair if isinstance(pair, tuple) else (None, "")
        found.greedy = ask("greedy", lambda: greedy_is_the_same(lm))  # type: ignore[assignment]
        found.packed = ask("packing", lambda: packed_difference(fresh()))  # type: ignore[assignment]
    if runs:
        model = build_model(name)
        folder = data / "student"
        model.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        with tempfile.TemporaryDirectory() as runs_folder:
            ask("run", lambda: whole_run(data, Path(runs_folder), "student"))
        found.run = "refused" if "run" in found.refused else "error" if "run" in found.raw else "ok"
    return found


# -- memory ----------------------------------------------------------------------------------------------


def assess_extra_gb() -> float:
    """Peak memory that the difficulties of 8 rationales of 1000 tokens add, vocabulary 50 000, in a fresh process."""
    answer = subprocess.run([sys.executable, __file__, "--assess"], capture_output=True, text=True, check=True)
    return float(answer.stdout.split()[-1])


def wide_model(vocabulary: int) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=4096, **sizes)
    return LanguageModel.of(LlamaForCausalLM(config).eval(), byte_tokenizer())


def measure_assess() -> float:
    lm = wide_model(50_000)
    tokens = [tiny_tokens(lm, f"q{number}", (500, 500), question=40) for number in range(8)]
    small = [tiny_tokens(lm, "small", (2,))]
    assess_difficulties(lm, small, uniform_weights(small))
    before = peak_gb()
    assess_difficulties(lm, tokens, uniform_weights(tokens))
    return peak_gb() - before


def peak_gb() -> float:
    """The process's peak memory so far; what resource tells is inherited from the parent process."""
    (peak,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(peak.split()[1]) / 2**20


def largest_pass_tokens() -> int:
    """Most tokens of a pass while weights are learnt and difficulties measured, on rationales of 1500 tokens."""
    lm = wide_model(300)
    sizes: list[int] = []

    def look(_: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.ndim == (3 if value.is_floating_point() else 2):
                sizes.append(value.shape[0] * value.shape[1])
                return

    lm.model.get_decoder().register_forward_pre_hook(look, with_kwargs=True)  # type: ignore[operator]
    tokens = [tiny_tokens(lm, f"q{number}", (1500 - 10 * number,), question=40) for number in range(4)]
    config = WeightingConfig(warmup_updates=1, observations=4, lora_rank=2)
    kpod.weighting.learn.learn_weights(lm, tokens, config, 0)
    assess_difficulties(lm, tokens, uniform_weights(tokens))
    return max(sizes)


# -- the whole -------------------------------------------------------------------------------------------


def summary(findings: dict[str, Finding]) -> dict[str, object]:
    """Names by what became of them, and the two figures on memory."""

    def names(holds: Callable[[Finding], bool]) -> list[str]:
        return [name for name, found in findings.items() if holds(found)]

    return {
        "architectures": len(findings),
        "loss_equal": names(lambda f: f.loss is not None and f.loss <= SAME_LOSS),
        "weights_equal": names(lambda f: f.weights is not None and f.weights <= SAME_WEIGHTS),
        "one_pass": names(lambda f: f.mode == "one pass"),
        "runs": names(lambda f: f.run == "ok"),
        "refused_clearly": names(lambda f: f.run == "refused"),
        "raw_errors": names(lambda f: bool(f.raw)),
        "silently_wrong": names(lambda f: bool(f.wrong)),
        "largest_pass_tokens": largest_pass_tokens(),
        "assess_extra_gb": round(assess_extra_gb(), 3),
    }


def line(name: str, found: Finding) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1e}"

    packed = "refused" if "packing" in found.refused else number(found.packed)
    greedy = {True: "same", False: "DIFFER", None: "-"}[found.greedy]
    return (
        f"{name:27} {number(found.loss):>8} {number(found.weights):>8} {found.mode or '-':9} {packed:>8} {greedy:>6}  "
        f"{found.run or '-'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one object, and the table to stderr")
    parser.add_argument("--only", help="names, with commas between; default: all")
    parser.add_argument("--skip-runs", action="store_true", help="leave out the whole runs")
    parser.add_argument("--assess", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    if options.assess:
        print(measure_assess())
        return
    names = options.only.split(",") if options.only else list(ZOO)
    out = sys.stderr if options.json else sys.stdout
    print(f"{'architecture':27} {'loss':>8} {'weights':>8} {'prefixes':9} {'packed':>8} {'greedy':>6}  run", file=out)
    findings = {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = write_tiny_data(Path(folder))
        for name in names:
            found = findings[name] = examine(name, data, runs=not options.skip_runs)
            print(line(name, found), file=out, flush=True)
            for what, words in (*found.refused.items(), *found.raw.items()):
                print(f"    {what}: {words}", file=out, flush=True)
            if found.wrong:
                print(f"    WRONG: {', '.join(found.wrong)}", file=out, flush=True)
    told = summary(findings)
    print(json.dumps(told) if options.json else "\n".join(f"{key}: {value}" for key, value in told.items()))
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
