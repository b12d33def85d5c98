# ruff: noqa: ARG002 (a callback is given more than it needs)
"""Operators that a training dispatches in one update, and how often its host would wait for a card.

A causal student on the CPU, four micro-batches of the same padded rationales, in kpod, transformers' Trainer and TRL's
SFTTrainer (needs the extra `peers`). The third update is counted, from its first micro-batch to the end of its
callbacks: earlier ones prove things once. A wait is an operator whose result the host reads (`item`, `nonzero`, an
index of booleans and so on), a tensor read by Python (`tolist`, `float`, `cpu`), or a tensor made from Python numbers,
which a card would be sent while the host waits.

    python benchmarks/launches.py [--json]

    syncs_per_micro_batch   waits in a forward and backward pass of kpod (wanted: 0)
    syncs_per_update        waits in a whole update of kpod (wanted: at most 1)
    ops_per_update          operators dispatched in a whole update of kpod
    ops_vs_trainer, _trl    their number over that of the peer (wanted: below 1)
    update_equal            largest difference of a parameter after three updates from a plain computation with whole
                            logits, autograd and the same optimiser, in float32 (wanted: at most 1e-6)
    waits                   which waits each trainer has in an update, and how many
"""

import argparse
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import trainers
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
)

from kpod import LanguageModel, TokenizedRationale

BATCH, ACCUMULATED = 4, 4
COUNTED = 3
VOCABULARY = 512
READ_BY_HOST = (
    *("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"),
    *("unique_consecutive", "repeat_interleave", "bincount", "lift_fresh"),
)
"""Operators that a host waits in; the last sends it a tensor that Python made."""
READS = ("tolist", "numpy", "cpu", "__array__")
"""Methods that copy a tensor to the host without an operator where it is there already."""


class Operators(TorchDispatchMode):
    """Counts operators, and those that make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.all: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.all[name] += 1
        by_booleans = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            place is not None and place.dtype in (torch.bool, torch.uint8) for place in args[1]
        )
        if name in READ_BY_HOST or by_booleans:
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Counts what Python reads of tensors beside operators."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS:
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[Operators]:
    """While active, operators and waits are counted."""
    operators = Operators()
    with operators, Reads(operators.waits):
        yield operators


class Count(TrainerCallback):
    """Counts an update: in each of its micro-batches, and as a whole.

    Args:
        update: Its number, from 1.
    """

    def __init__(self, update: int = COUNTED) -> None:
        self.update = update
        self.steps: list[Counter[str]] = []
        self.operators = Operators()
        self._active: Any = None

    def watch(self, trainer: Trainer) -> Trainer:
        """The trainer, with this as the last of its callbacks and around its micro-batches."""
        step = trainer.training_step

        def training_step(*args: Any, **kwargs: Any) -> Tensor:
            before = self.operators.waits.copy()
            loss: Tensor = step(*args, **kwargs)
            if self._active is not None:
                self.steps.append(self.operators.waits - before)
            return loss

        trainer.training_step = training_step  # type: ignore[method-assign]
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self)
        return trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.update:
            self._active = counted()
            self.operators = self._active.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._active is not None:
            self._active.__exit__(None, None, None)
            self._active = None


def student(layers: int = 2) -> LanguageModel:
    """A random causal student of a usual shape, with grouped queries and a head of its own."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    core = Tokenizer(WordLevel({f"t{number}": number for number in range(VOCABULARY - 2)}, "t0"))
    core.add_special_tokens(["<pad>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_key_value_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LanguageModel.of(LlamaForCausalLM(config).eval(), tokenizer)


def rationales(updates: int = COUNTED + 1) -> list[TokenizedRationale]:
    """Random rationales of unlike length, so that batches are padded."""
    rng = np.random.default_rng(0)
    return [
        _rationale(f"q{index}", rng, 8 + index % 5, 10 + 3 * (index % 4))
        for index in range(updates * BATCH * ACCUMULATED)
    ]


def _rationale(name: str, rng: np.random.Generator, asked: int, told: int) -> TokenizedRationale:
    ids = rng.integers(0, VOCABULARY - 2, asked + told + 4)
    stops = (asked, asked + told, asked + told + 2, asked + told + 4, asked + told + 5)
    spans = np.stack([np.arange(told), np.arange(1, told + 1)], axis=1).astype(np.int32)
    return TokenizedRationale(name, np.array([*ids, VOCABULARY - 1], np.int32), stops, (told,), spans)


def trainer_of(name: str, lm: LanguageModel, tokens: list[TokenizedRationale], folder: str, **options: Any) -> Trainer:
    """One of `trainers.variants`, with accumulated batches in an order that all of them share."""
    common = trainers.arguments(folder, "fp32", BATCH) | {"gradient_accumulation_steps": ACCUMULATED, **options}
    given = {"whole": np.zeros(len(tokens), dtype=np.int64)}
    return trainers.variants(given)[name](tokens, common, lm)


def update_of(name: str) -> Count:
    """What an update of a trainer dispatches."""
    with tempfile.TemporaryDirectory() as folder:
        count = Count()
        count.watch(trainer_of(name, student(), rationales(), folder)).train()
    return count


def difference_from_plain(learning_rate: float = 1e-4, **options: Any) -> float:
    """How far three updates of kpod are from those by whole logits: the largest difference of a parameter."""
    lm, plain, seen = student(), student(), []
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = trainer_of("whole", lm, rationales(3), folder, learning_rate=learning_rate, **options)
        trainer.remove_callback(PrinterCallback)
        step = trainer.training_step

        def training_step(model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append([(example.token_ids, example.first_trained) for example in inputs["examples"]])
            return step(model, inputs, *args, **kwargs)

        trainer.training_step = training_step
        trainer.train()
    optimizer = (torch.optim.SGD if options.get("optim") == "sgd" else torch.optim.AdamW)(
        plain.model.parameters(), lr=learning_rate, weight_decay=0.0
    )
    train_plainly(plain.model, optimizer, seen)
    pairs = zip(lm.model.parameters(), plain.model.parameters(), strict=True)
    return max(float((one - other).detach().abs().max()) for one, other in pairs)


def train_plainly(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[list[tuple[Any, int]]]) -> None:
    """The same updates by definition: every rationale alone, all its logits, the mean NLL of all trained tokens."""
    model.train()
    for start in range(0, len(batches), ACCUMULATED):
        rows = [row for batch in batches[start : start + ACCUMULATED] for row in batch]
        size = sum(len(ids) - first for ids, first in rows)
        for ids, first in rows:
            whole = torch.tensor(ids)[None]
            logits = model(input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False).logits[0]
            nll = functional.cross_entropy(logits[first - 1 : -1], whole[0, first:], reduction="sum")
            (nll / size).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def measure(update: Callable[[str], Count] = update_of) -> dict[str, Any]:
    """The figures; a peer that is not installed has none."""
    names = ["whole", "trainer", *(["trl"] if find_spec("trl") else [])]
    counts = {name: update(name) for name in names}
    ours = counts["whole"]
    total = ours.operators.all.total()
    return {
        "syncs_per_micro_batch": max(step.total() for step in ours.steps),
        "syncs_per_update": ours.operators.waits.total(),
        "ops_per_update": total,
        "ops_vs_trainer": total / counts["trainer"].operators.all.total(),
        "ops_vs_trl": total / counts["trl"].operators.all.total() if "trl" in counts else None,
        "update_equal": difference_from_plain(),
        "waits": {name: dict(count.operators.waits) for name, count in counts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    figures = measure()
    if figures["ops_vs_trl"] is None and not options.json:
        print("TRL is not installed: pip install -e '.[peers]' for ops_vs_trl")
    print(json.dumps(figures) if options.json else json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
