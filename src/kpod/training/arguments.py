"""`training` of the recipe as TrainingArguments: the paper's defaults, and nothing that breaks the method."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from kpod.recipe import TrainingConfig
from kpod.records.errors import ConfigError

Precision = Literal["fp32", "bf16"]

OWN = frozenset(field.name for field in dataclasses.fields(TrainingConfig)) - {"arguments"}
PASSED = (
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "save_strategy",
)
"""Keys of TrainingConfig that are TrainingArguments themselves."""

PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "optim": "adamw_torch_fused",  # without weight decay it is the paper's Adam
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "group_by_length",  # less padding; `random` is the other choice
        "logging_strategy": "epoch",  # metrics.jsonl has every update
        "save_total_limit": 2,
        "report_to": "none",
        "ddp_find_unused_parameters": False,  # a language model uses all its parameters; looking for others costs time
        "use_cache": True,  # the trainer writes it into the student's config; generation without a cache is slow
    }
)
"""Defaults that differ from transformers' own; a recipe may override them."""

STRATEGIES = ("group_by_length", "random")
"""Orders that a StageSampler can give."""

CHECKED_TRACKERS = frozenset(INTEGRATION_TO_CALLBACK) - {"flyte"}
"""Trackers that transformers says the installation of."""
TRACKER_PACKAGES = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml"}
"""What to install, where a tracker has another name than its package."""

_EVALUATION = "kpod evaluates the finished student by its answers; to watch a loss, use kpod.training.KeypointTrainer"
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "output_dir": "the run folder decides it",
        "seed": "it is the recipe's own key seed",
        "use_cpu": "a GPU is used where there is one; hide it with CUDA_VISIBLE_DEVICES= to train on the CPU",
        "resume_from_checkpoint": "an interrupted run goes on by itself when the same command is run again",
        "remove_unused_columns": "the loss needs the token weights that it would remove",
        "logging_nan_inf_filter": "it hides a NaN loss, which must stop the run",
        "label_smoothing_factor": "Eq. 15 is a weighted likelihood of the teacher's tokens, without smoothing",
        "auto_find_batch_size": "a run that changed its batch size could not be resumed exactly",
        "ignore_data_skip": "a resumed run would train on the same rationales again",
        "save_only_model": "a checkpoint without optimizer state cannot be resumed",
        "enable_jit_checkpoint": "it saves in the middle of an update, so a resumed run would differ; lower save_steps",
        "push_to_hub": "a half-trained student would be pushed; upload the finished one with `kpod push`",
        "hub_token": "a secret does not belong in a recipe; log in with `hf auth login`",
        "do_eval": _EVALUATION,
        "eval_strategy": _EVALUATION,
        "eval_on_start": _EVALUATION,
        "load_best_model_at_end": _EVALUATION,
    }
)
"""Arguments that would break the method or a promise of the package, and why."""


def check_arguments(config: TrainingConfig) -> None:
    """Refuse a recipe's training arguments before any work starts.

    Raises:
        ConfigError: On an unknown key, a refused one, or a value that transformers does not accept.

    Example:
        >>> check_arguments(TrainingConfig(arguments={"learing_rate": 1e-5}))
        Traceback (most recent call last):
        kpod.records.errors.ConfigError: unknown key training.learing_rate; did you mean training.learning_rate?
    """
    training_arguments(config, Path("student"), seed=0, precision="fp32")


def training_arguments(config: TrainingConfig, output_dir: Path, seed: int, precision: Precision) -> TrainingArguments:
    """What the Trainer is given: the recipe's keys over the paper's defaults.

    Args:
        config: The recipe's section; numbers written as text, such as "1e-5", are read as numbers.
        output_dir: Where checkpoints go. Nothing is created.
        seed: Of initialisation, order and dropout.
        precision: bf16 computes in bfloat16 and keeps trained parameters in float32.

    Raises:
        ConfigError: As `check_arguments`.
    """
    for key in config.arguments:
        _check_key(key)
    hints = {field.name: field.type for field in dataclasses.fields(TrainingArguments)}
    given = {key: _number(key, value, hints[key]) for key, value in config.arguments.items()}
    _check_strategy(given.get("train_sampling_strategy", PAPER["train_sampling_strategy"]))
    values: dict[str, Any] = {
        **PAPER,
        "bf16": precision == "bf16",
        **given,
        **{key: getattr(config, key) for key in PASSED},
        "output_dir": str(output_dir),
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
    }
    try:
        made = TrainingArguments(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"training: transformers refuses these arguments: {error}") from error
    _check_trackers([made.report_to] if isinstance(made.report_to, str) else made.report_to or [])
    if made.data_seed is not None and made.data_seed < 0:
        raise ConfigError(f"training.data_seed is {made.data_seed}; it must be a whole number of at least 0")
    return made


def check_model_arguments(arguments: TrainingArguments, model_type: str) -> None:
    """Raise ConfigError where an argument does not suit this kind of model: T5's activations overflow in fp16."""
    if arguments.fp16 and "t5" in model_type:
        raise ConfigError(f"training.fp16: {model_type} overflows to NaN in fp16; set precision: bf16 or train in fp32")


def _check_key(key: str) -> None:
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    if key in REFUSED:
        raise ConfigError(f"training.{key} cannot be set: {REFUSED[key]}")
    if key in OWN:
        raise ConfigError(f"training.arguments.{key}: write it straight under training")
    if key not in known:
        near = difflib.get_close_matches(key, sorted(OWN | known - set(REFUSED)), n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown key training.{key}; did you mean training.{near}?")


def _check_strategy(strategy: object) -> None:
    if strategy not in STRATEGIES:
        wanted = " or ".join(STRATEGIES)
        raise ConfigError(
            f"training.train_sampling_strategy is {strategy!r}; it must be {wanted}: others do not know the stages"
        )


def _check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that does not exist or is not installed: transformers asks for it only when training starts."""
    known = [*INTEGRATION_TO_CALLBACK, "all", "none"]
    installed: list[str] = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"training.report_to: transformers knows no tracker {name!r}; did you mean {near}?")
        if name in CHECKED_TRACKERS and name not in installed:
            package = TRACKER_PACKAGES.get(name, name)
            raise ConfigError(f"training.report_to: {name} is not installed: pip install {package}, or set it to none")


def _number(key: str, value: Any, hint: Any) -> Any:
    """A text as the number that the argument wants; anything else as it is."""
    kinds = {hint, *get_args(hint)} - {type(None)}
    if not isinstance(value, str) or str in kinds or not kinds <= {int, float}:
        return value
    try:
        return float(value) if float in kinds else int(value)
    except ValueError as error:
        raise ConfigError(f"training.{key} is {value!r}; it must be a number") from error
