"""Check a checkpoint before it is used: real files, all its tensors, and that it can continue texts."""

import importlib.util
import logging
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from kpod.lm.precision import in_float32
from kpod.records.errors import ConfigError, KpodError

LONGEST_TEMPLATE = 1 << 20
"""Bytes of a chat template; the longest ones of public checkpoints have a twentieth of this."""
LONGEST_REASON = 400
NUM_NAMED = 3
PROBE = 6
AHEAD = 1e-4
"""Share of the largest logit by which rounding may move logits before the token that differs."""

log = logging.getLogger(__name__)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """While active, whatever goes wrong with a checkpoint's files is told in one line with the model's name.

    Raises:
        ConfigError: Instead of anything else: a broken file may make its reader raise anything.
    """
    try:
        yield
    except KpodError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise ConfigError(f"student or predictor {name!r} cannot be loaded: {kind}{reason}{_needed(reason)}") from error


def check_folder(folder: Path) -> None:
    """Refuse a folder with anything but regular files in it, since reading a pipe or a device may never end.

    Raises:
        ConfigError: Naming the file; or if the path is a file, or a chat template is absurdly long.
    """
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; name the folder that contains the model's config.json")
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        try:
            found = path.stat()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error}; restore it or remove it from the folder") from error
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ConfigError(f"{path} is neither a file nor a folder; remove it from the model's folder")
        if path.suffix == ".jinja" and found.st_size > LONGEST_TEMPLATE:
            raise ConfigError(f"{path} has {found.st_size:,} bytes, too many for a chat template; check the folder")


def check_architecture(name: str, config: PreTrainedConfig) -> None:
    """Refuse what transformers cannot load to continue texts.

    Raises:
        ConfigError: If neither a causal nor an encoder-decoder model of that kind exists.
    """
    causal, seq2seq = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    known = config.model_type in (seq2seq if config.is_encoder_decoder else causal)
    if not known and not getattr(config, "auto_map", None):
        raise ConfigError(
            f"student or predictor {name!r} is a {config.model_type} model, which transformers cannot load to write "
            "texts; name a model that writes texts, or save the language model inside it separately and name that"
        )


def check_tensors(name: str, info: Mapping[str, Collection[Any]]) -> None:
    """Refuse a checkpoint that lacks tensors or has others of the same name: they would start from random numbers.

    Args:
        name: Of the model.
        info: transformers' `output_loading_info`.

    Raises:
        ConfigError: Naming the tensors.
    """
    if missing := sorted(map(str, info["missing_keys"])):
        raise ConfigError(f"student or predictor {name!r} lacks {_listed(missing)}; fetch or save the checkpoint again")
    wrong = [f"{key} ({tuple(found)}, wanted {tuple(wanted)})" for key, found, wanted in info["mismatched_keys"]]
    if wrong:
        shapes = _listed(sorted(wrong))
        raise ConfigError(
            f"student or predictor {name!r} has tensors whose shapes differ from its config.json: {shapes}; fetch or "
            "save the checkpoint again"
        )
    if unexpected := sorted(map(str, info["unexpected_keys"])):
        log.warning("%s: the model does not use %s", name, _listed(unexpected))


@torch.no_grad()
def check_reading(name: str, model: PreTrainedModel) -> None:
    """Prove that a model reads token ids, and that nothing it says depends on tokens to come.

    Raises:
        ConfigError: If it cannot run on token ids alone, or looks ahead, as models that fill gaps do.
    """
    try:
        with in_float32(model):
            first, second = (_logits(model, last) for last in (1, 2))
    except (ValueError, TypeError, AttributeError, RuntimeError, LookupError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise ConfigError(f"student or predictor {name!r} cannot run on token ids alone: {reason}") from error
    ahead = float((first - second)[:, :-1].abs().max())
    if ahead > AHEAD * float(first.abs().max()):
        raise ConfigError(
            f"student or predictor {name!r} is a {model.config.model_type} model that looks ahead at later tokens, "
            "so it cannot continue texts; name a causal or an encoder-decoder model"
        )


def _logits(model: PreTrainedModel, last: int) -> Tensor:
    """The logits of a few tokens that end in a given one, [1, PROBE, vocabulary]."""
    device = next(model.parameters()).device
    ids = torch.tensor([[*range(3, 2 + PROBE), last]], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs = {"input_ids": torch.ones_like(ids), "decoder_input_ids": ids}
    logits: Tensor = nn.Module.__call__(model, **inputs, use_cache=False).logits
    return logits


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:NUM_NAMED])
    return shown if len(names) <= NUM_NAMED else f"{shown} and {len(names) - NUM_NAMED} more tensors"


def _needed(reason: str) -> str:
    """What to install where a checkpoint has a SentencePiece file alone."""
    asks = any(word in reason.lower() for word in ("sentencepiece", "tiktoken", "protobuf"))
    if not asks or (importlib.util.find_spec("google") and importlib.util.find_spec("google.protobuf")):
        return ""
    return (
        "; a tokenizer that is a SentencePiece file alone (tokenizer.model, spiece.model) needs two packages: "
        "pip install protobuf sentencepiece"
    )
