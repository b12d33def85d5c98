"""How the student is trained and evaluated (Eq. 14-15): the keys under `training` and `evaluation`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kpod.records.errors import require, require_positive


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation, as in peft."""

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    """all-linear: every linear layer of the language model except its head and routers. Otherwise a module's name
    such as q_proj, a list of names, or a regular expression that matches a module's full name."""

    def __post_init__(self) -> None:
        require_positive(self, "training.lora", "rank", "alpha")
        require(0 <= self.dropout < 1, "training.lora.dropout", self.dropout, "at least 0 and below 1")
        names = self.target_modules
        is_given = bool(names) and all(names) and (isinstance(names, str) or all(isinstance(n, str) for n in names))
        require(is_given, "training.lora.target_modules", names, "all-linear, a module's name, or a list of names")


@dataclass(frozen=True)
class ValidationConfig:
    """Questions that are asked between epochs, to choose the checkpoint that answers best."""

    questions: str
    """A data set, named as in `data.tests`; none of its questions should be in a test set."""
    limit: int = 100
    """Ask this many questions, from the start."""
    every_epochs: int = 1
    patience: int | None = None
    """Stop after this many validations without a better accuracy, counted from stage T on; null: train all epochs."""
    student: Literal["best", "last"] = "best"
    """Which checkpoint becomes the student; last: accuracy is only watched, and nothing need be saved for it."""

    def __post_init__(self) -> None:
        require_positive(self, "training.validation", "limit", "every_epochs", "patience")
        best = self.student == "best" or self.patience is None
        require(best, "training.validation.patience", self.patience, "left out where the last student is taken")


@dataclass(frozen=True)
class TrainingConfig:
    """Student training (Eq. 15). Any other key is passed to transformers.TrainingArguments by its own name."""

    num_train_epochs: int = 20
    learning_rate: float = 1e-5
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    tokens_per_batch: int | None = None
    """Most tokens in a batch, padding included. Rationales of similar length are batched until it is full. One process
    only."""
    packing: bool = False
    """Put a batch's rationales into one row, without padding. This helps with flash attention, which is used if it is
    installed."""
    save_strategy: Literal["epoch", "steps", "no"] = "epoch"
    lora: LoraConfig | None = None
    """None: full fine-tuning."""
    merge_lora: bool = True
    """Write the final student with the adapters merged in."""
    weight_normalisation: Literal["none", "mean"] = "none"
    """none: w as learnt (the paper); mean: w rescaled to mean 1 over each rationale."""
    normaliser: Literal["tokens", "weights"] = "tokens"
    """What the summed loss of an optimiser step is divided by: trained tokens, or their summed weights."""
    given: Literal["encoder", "decoder"] = "encoder"
    """Where an encoder-decoder student reads the given steps (no effect on causal students)."""
    validation: ValidationConfig | None = None
    """The checkpoint with the best accuracy on these questions becomes the student; null: the last one."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further TrainingArguments; a recipe writes them straight under `training`."""

    def __post_init__(self) -> None:
        require_positive(self, "training", "num_train_epochs", "per_device_train_batch_size")
        require_positive(self, "training", "gradient_accumulation_steps", "tokens_per_batch")


@dataclass(frozen=True)
class EvaluationConfig:
    """Generation and accuracy."""

    before: bool = True
    """Also evaluate the student before training."""
    batch_size: int = 50
    max_new_tokens: int = 256
    samples: int = 1
    """Texts per question. If more than one, they are drawn at `temperature`, and the most frequent answer counts
    (self-consistency)."""
    temperature: float = 0.7
    self_check: int = 0
    """Ask this many questions again, one at a time, and report texts that batching changed."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the student when it is evaluated. vllm: causal students on a GPU, with the extra kpod-distill[vllm].
    vLLM batches by itself, so use a large batch_size."""

    def __post_init__(self) -> None:
        require_positive(self, "evaluation", "batch_size", "max_new_tokens", "samples", "temperature")
