"""How the student is trained and evaluated (Eq. 14-15): the keys under `training` and `evaluation`."""

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kpod.recipe.sections import NUMBER, Count, Positive, Real, Share, Texts, Whole, section
from kpod.records.errors import ConfigError, require

_SECRET = re.compile(r"(^|_)(token|key|secret|password)$")


@section("training.lora")
class LoraConfig:
    """Low-rank adaptation, as in peft."""

    rank: Count = 64
    """Rank of the adapters."""
    alpha: Count = 128
    """Adapters are scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.0
    """Share of the adapters' inputs that is dropped in training."""
    target_modules: str | Texts = "all-linear"
    """all-linear: every linear layer of the language model except its head and routers. Otherwise a module's name
    such as q_proj, a list of names, or a regular expression that matches a module's full name."""

    def __post_init__(self) -> None:
        names = self.target_modules
        require(
            bool(names) and all(names),
            "training.lora.target_modules",
            names,
            "all-linear, a module's name, or a list of names",
        )


@section("training.validation")
class ValidationConfig:
    """Questions that are asked between epochs, to choose the checkpoint that answers best."""

    questions: str
    """A data set, named as in `data.tests`; none of its questions should be in a test set."""
    limit: Count = 100
    """Ask this many questions, from the start."""
    every_epochs: Count = 1
    """Epochs between two validations."""
    patience: Count | None = None
    """Stop after this many validations without a better accuracy, counted from stage T on; null: train all epochs."""
    student: Literal["best", "last"] = "best"
    """Which checkpoint becomes the student; last: accuracy is only watched, and nothing need be saved for it."""

    def __post_init__(self) -> None:
        best = self.student == "best" or self.patience is None
        require(best, "training.validation.patience", self.patience, "left out where the last student is taken")


@section("training.average")
class AverageConfig:
    """The student becomes the mean of its weights over the last updates; its last weights are kept too."""

    last: Share = 0.33
    """The share of all optimiser steps, counted from the end, after each of which the weights are averaged. With
    adapters it is the mean of the merged weights. It takes 4 bytes of memory for each trained parameter, with adapters
    for each parameter of the layers that carry them."""


@section("training.on_policy")
class OnPolicyConfig:
    """How students of the on-policy methods are trained on texts of their own."""

    starts_after: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.5
    """Share of the optimiser steps that train recorded rationales before the student's own texts are trained."""
    divergence: Literal["reverse", "forward"] = "reverse"
    """reverse: KL(student || teacher); forward: KL(teacher || student). Over the teacher's likeliest tokens."""
    max_new_tokens: Count = 256
    """Length in tokens at which a text is cut off."""
    temperature: Positive = 1.0
    """Sampling temperature of the student's texts."""


def check_argument(key: object) -> str:
    """The name of a further training argument, which the training package checks against transformers."""
    if not isinstance(key, str) or not key.isidentifier():
        raise ConfigError(f"training.{key} is no name of a transformers.TrainingArguments field")
    if key == "arguments":
        raise ConfigError("training.arguments: write these keys straight under training")
    if _SECRET.search(key):
        raise ConfigError(f"training.{key}: a secret does not belong in a recipe; log in with `hf auth login` instead")
    return key


@section("training")
class TrainingConfig:
    """Student training (Eq. 15). Any other key is passed to transformers.TrainingArguments by its own name."""

    num_train_epochs: Count = 20
    """Passes over the rationales."""
    learning_rate: Real = 1e-5
    """Peak learning rate of the student."""
    per_device_train_batch_size: Count = 4
    """Rationales in a batch of each device."""
    gradient_accumulation_steps: Count = 1
    """Batches per optimiser step."""
    tokens_per_batch: Count | None = None
    """Most tokens in a batch, padding included. Rationales of similar length are batched until it is full. One process
    only."""
    packing: bool = False
    """Put a batch's rationales into one row, without padding. This helps with flash attention, which is used if it is
    installed."""
    save_strategy: Literal["epoch", "steps", "no"] = "epoch"
    """When checkpoints are saved; with no, an interrupted training starts again."""
    lora: LoraConfig | None = None
    """null: full fine-tuning."""
    merge_lora: bool = True
    """Write the final student with the adapters merged in."""
    weight_normalisation: Literal["none", "mean"] = "none"
    """none: w as learnt (the paper); mean: w rescaled to mean 1 over each rationale."""
    normaliser: Literal["tokens", "weights"] = "tokens"
    """What the summed loss of an optimiser step is divided by: trained tokens, or their summed weights."""
    reference: str | None = None
    """The model that the rho-1 methods compare the student's loss with, with the student's tokenizer; null: the student
    before training."""
    excess_share: Annotated[float, Field(gt=0, le=1), NUMBER] = 0.6
    """Share of a batch's trained tokens that the rho-1 methods train: those with the largest loss in excess of the
    reference's."""
    on_policy: OnPolicyConfig = field(default_factory=OnPolicyConfig)
    """How the on-policy methods have the student write; no other method reads it."""
    given: Literal["encoder", "decoder"] = "encoder"
    """Where an encoder-decoder student reads the given steps (no effect on causal students)."""
    validation: ValidationConfig | None = None
    """The checkpoint with the best accuracy on these questions becomes the student; null: the last one."""
    average: AverageConfig | None = None
    """null: the student is what it is after the last optimiser step. Else it is the mean of its weights over the last
    steps, and the folder last_update in its own folder holds the last weights."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further TrainingArguments; a recipe writes them straight under `training`."""

    def __post_init__(self) -> None:
        if self.average is not None:
            best = self.validation is not None and self.validation.student == "best"
            wanted = "last where training.average is set: the mean over the last updates becomes the student"
            require(not best, "training.validation.student", "best", wanted)
            wanted = "true where training.average is set: a mean of adapters is no adapter of their rank"
            require(self.lora is None or self.merge_lora, "training.merge_lora", False, wanted)

    @model_validator(mode="before")
    @classmethod
    def _take_further(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given  # made in Python, where `arguments` has its name
        own = {key: value for key, value in given.items() if key in cls.__annotations__ and key != "arguments"}
        return own | {"arguments": {check_argument(key): given[key] for key in given if key not in own}}


@section("evaluation.held_out")
class HeldOutConfig:
    """Rationales that are not trained on, whose NLL is measured before and after training, by class of token and step.

    Rationales of a question that is trained on are left out, so `data.train_limit` holds the rest of the training
    questions out for it.
    """

    rationales: str
    """A source with rationales, named as in `data.train`; of a built-in set those of `teacher.rationales`, filtered by
    `teacher.filter`. The first rationale of each question counts."""
    limit: Annotated[int, Field(ge=2)] = 200
    """Measure this many rationales, from the start."""


@section("evaluation")
class EvaluationConfig:
    """Generation and accuracy."""

    before: bool = True
    """Also evaluate the student before training."""
    batch_size: Count = 50
    """Questions that are answered at a time."""
    max_new_tokens: Count = 256
    """Length in tokens at which an answer is cut off."""
    samples: Count = 1
    """Texts per question. If more than one, they are drawn at `temperature`, and the most frequent answer counts
    (self-consistency)."""
    temperature: Positive = 0.7
    """Sampling temperature, used if `samples` is more than 1."""
    self_check: Whole = 0
    """Ask this many questions again, one at a time, and report texts that batching changed."""
    held_out: HeldOutConfig | None = None
    """Also measure the NLL of rationales that are not trained on; null: none."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the student when it is evaluated. vllm: causal students on a GPU, with the extra kpod-distill[vllm].
    vLLM batches by itself, so use a large batch_size."""
