"""How much GPU memory the training of a recipe needs, and how long it takes, computed without a GPU or weights.

    python benchmarks/memory.py recipes/*.yaml

prints for each recipe the two lines that stand in its comments; tests/test_recipes.py compares them.

Memory. The student is built from its published config with fake tensors, which have shapes and no content. It reads
one batch under bf16 autocast. What autograd keeps for the backward pass is counted, tensor by tensor, at one and at
two layers; each further layer costs what the second did. The batch is the largest that the recipe allows: all
rationales are as long as `data.max_length`, half of it on each side of an encoder-decoder student. With
`activation_checkpointing` each layer keeps its input, and one layer at a time keeps all. Parameters that are trained
take 4 bytes, their gradients 4 and Adam's two averages 8; frozen ones take 2. The head takes a chunk of logits
(`kpod.lm.head`) in bf16, in float32 and as their gradient, and one gradient of its matrix. 1 GB is for CUDA itself.
Phases before training need less: their models are frozen except for adapters.

Time. 6 operations per parameter and token, 4 where most parameters are frozen, a third more with
`activation_checkpointing`, at 40 % of the 312 TFLOP/s that an A100 has in bf16. That is what a well-fed GPU does; small
batches do less, so this is a lower bound. Weights, difficulties and tests come on top and are not computed.
"""

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from kpod import Recipe, load_recipe
from kpod.lm.adapters import target_names
from kpod.lm.head import LOGITS_PER_CHUNK

GB = 1e9
CUDA = 1.0
"""GB that a process takes on a GPU before it does anything, and what kernels work with."""
CARDS = (8, 12, 16, 24, 40, 48, 80, 141)
"""Sizes of cards, in GB."""
FLOPS = 0.4 * 312e12

PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Qwen/Qwen2.5-1.5B-Instruct": {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        "meta-llama/Llama-3.2-1B-Instruct": {
            "model_type": "llama",
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "tie_word_embeddings": True,
        },
        "HuggingFaceTB/SmolLM2-360M-Instruct": {
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "tie_word_embeddings": True,
        },
        "google/flan-t5-large": {
            "model_type": "t5",
            "vocab_size": 32128,
            "d_model": 1024,
            "d_kv": 64,
            "d_ff": 2816,
            "num_layers": 24,
            "num_decoder_layers": 24,
            "num_heads": 16,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
        },
        "huggyllama/llama-7b": {
            "model_type": "llama",
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "tie_word_embeddings": False,
        },
    }
)
"""Of each student's published config what decides its size."""

TOKENS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "qwen2.5-1.5b": (7473, 210),
        "llama-3.2-1b": (7473, 210),
        "smollm2-360m": (7473, 170),
        "flan-t5-large": (484, 190),
        "r1-traces": (1000, 5000),
        "paper-llama-7b": (6792, 160),
    }
)
"""Rationales of a recipe and their mean tokens with the prompt: counted by SmolLM2's tokenizer for GSM8K and SVAMP,
with 40 more for a chat template, and a guess for R1's traces."""


@dataclass(frozen=True)
class Memory:
    """What training holds at once, in GB (10^9 bytes)."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        """With CUDA's own."""
        return sum(asdict(self).values()) + CUDA

    @property
    def card(self) -> int:
        """The smallest card that holds it."""
        return next(card for card in CARDS if card >= self.total)


@dataclass(frozen=True)
class Size:
    """Of a student cut to a few layers: parameters, those that are trained, those of its head, and bytes for a batch.

    Attributes:
        saved: What autograd keeps of a batch, in bytes.
        stream: The input of one layer, in bytes.
    """

    parameters: int
    trained: int
    head: int
    saved: int
    stream: int


def size_of(config: PreTrainedConfig, recipe: Recipe, batch: int, length: int) -> Size:
    """Build a student of fake tensors, and have it read a batch."""
    lora = recipe.training.lora
    saved: dict[int, torch.UntypedStorage] = {}
    family: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a former name
        base: Any = family.from_config(config, dtype=torch.float32 if lora is None else torch.bfloat16).train()
        if getattr(config, "scale_decoder_outputs", True) is False:
            base.lm_head.weight = nn.Parameter(base.lm_head.weight.clone())  # loading a FlanT5 unties it
        model: nn.Module = base
        if lora is not None:
            names = target_names(base, lora.target_modules)
            model = get_peft_model(base, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names))
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fill(model)
        owned = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in owned:
                saved[storage._cdata] = storage  # kept, so that no other takes its address
            return tensor

        counts = [parameter.numel() for parameter in model.parameters()]
        trained = [parameter.requires_grad for parameter in model.parameters()]
        ids = torch.zeros(batch, length, dtype=torch.long)
        head = base.get_output_embeddings()  # kept, so that no other tensor takes its storage's address
        if config.is_encoder_decoder:
            base.lm_head = nn.Identity()  # its logits are made by chunks
        body: Any = base if config.is_encoder_decoder else base.get_decoder()
        more = {"decoder_input_ids": ids} if config.is_encoder_decoder else {}
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16),
        ):
            body(input_ids=ids, use_cache=False, **more)
    return Size(
        parameters=sum(counts),
        trained=sum(count for count, trains in zip(counts, trained, strict=True) if trains),
        head=head.weight.numel(),
        saved=sum(storage.nbytes() for storage in saved.values()),
        stream=batch * length * config.hidden_size * (4 if lora is None else 2),
    )


def _fill(model: nn.Module) -> None:
    """Put fake tensors of the CPU, which autocast knows, in the place of those without a device."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, one in module._parameters.items():
            if one is not None:
                fresh = made.setdefault(id(one), nn.Parameter(torch.empty(one.shape, dtype=one.dtype)))
                module._parameters[name] = fresh.requires_grad_(one.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def config_of(student: str, layers: int | None = None) -> PreTrainedConfig:
    """A student's config, perhaps with fewer layers."""
    keys = dict(PUBLISHED[student])
    if layers is not None:
        for key in ("num_hidden_layers", "num_layers", "num_decoder_layers"):
            if key in keys:
                keys[key] = layers
    return AutoConfig.for_model(**keys)


def layers_of(config: PreTrainedConfig) -> int:
    """How many layers a student has; of an encoder-decoder on each side."""
    return int(config.num_hidden_layers)


def whole_size(recipe: Recipe, batch: int, length: int) -> Size:
    """The size of a recipe's student, from those of one and of two layers."""
    one, two = (size_of(config_of(recipe.student, layers), recipe, batch, length) for layers in (1, 2))
    more = layers_of(config_of(recipe.student)) - 1
    grown = {name: value + more * (asdict(two)[name] - value) for name, value in asdict(one).items()}
    if recipe.training.arguments.get("activation_checkpointing"):
        sides = 2 if config_of(recipe.student).is_encoder_decoder else 1
        grown["saved"] = two.saved + sides * more * one.stream + _weight_copies(recipe, one, two) * (more - 1)
    return Size(**grown)


def _weight_copies(recipe: Recipe, one: Size, two: Size) -> int:
    """What autocast's bf16 copies of a layer's trained weights take."""
    return 2 * (two.trained - one.trained) if recipe.training.lora is None else 0


def memory_of(recipe: Recipe) -> Memory:
    """What the training of a recipe needs at most."""
    training, length = recipe.training, recipe.data.max_length
    batch = training.per_device_train_batch_size
    if training.tokens_per_batch is not None:
        batch = max(1, training.tokens_per_batch // length)
    if config_of(recipe.student).is_encoder_decoder:
        length //= 2
    size = whole_size(recipe, batch, length)
    frozen = size.parameters - size.trained
    head_trains = training.lora is None
    logits = LOGITS_PER_CHUNK["cuda"] * (2 + 4 + 4)
    return Memory(
        weights=(4 * size.trained + 2 * frozen) / GB,
        gradients=4 * size.trained / GB,
        optimizer=8 * size.trained / GB,
        activations=size.saved / GB,
        head=(logits + 4 * size.head * head_trains) / GB,
    )


def hours_of(recipe: Recipe) -> float:
    """How long its training takes on an A100."""
    size = whole_size(recipe, 1, 16)
    rationales, tokens = TOKENS[recipe.name]
    operations = 6 if recipe.training.lora is None else 4
    again = 4 / 3 if recipe.training.arguments.get("activation_checkpointing") else 1
    trained = rationales * tokens * recipe.training.num_train_epochs
    return operations * again * size.parameters * trained / FLOPS / 3600


def lines_of(recipe: Recipe) -> list[str]:
    """What a recipe's comments say, wrapped as they are."""
    memory = memory_of(recipe)
    parts = [f"{name} {value:.1f}" for name, value in asdict(memory).items()]
    hours = hours_of(recipe)
    time = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return [
        f"# Memory of the training, computed: {memory.total:.0f} GB, for a card of {memory.card} GB.",
        f"# ({', '.join(parts)}, CUDA {CUDA:.1f}; benchmarks/memory.py)",
        f"# Time of the training, computed: at least {time} on an A100. Weights and tests come on top.",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    for path in parser.parse_args().recipes:
        found = load_recipe(path)
        if found.name in TOKENS:
            print(path, *lines_of(found), sep="\n")
