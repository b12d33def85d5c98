"""Find which modules of a model carry adapters, by looking at the modules, not at a list of architectures."""

import difflib
import logging
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kpod.recipe import LoraConfig
from kpod.records.errors import ConfigError

KEY = "training.lora.target_modules"
PLAIN_FORWARDS = (nn.Linear.forward, Conv1D.forward)
ROUTER = re.compile(r"router|gating|topk", re.IGNORECASE)
GATE = re.compile(r"(?:.*_)?(?:gate|router|wg)")
KNOWN_WARNINGS = (
    "`is_gradient_checkpointing` is deprecated",  # peft 0.21 asks transformers 5.24 for it by its former name
    "fan_in_fan_out is set to False but the target module is `Conv1D`",  # peft then does what GPT-2 needs
    "The following (rank|alpha)_pattern keys did not match",  # peft's own, for experts kept in one tensor
)
STATE_SPACE = ("A_log", "D")
"""Parameters of a state-space mixer. Its fast kernels bypass the modules of all its weights except `in_proj`."""

log = logging.getLogger(__name__)


def with_lora(model: PreTrainedModel, lora: LoraConfig) -> nn.Module:
    """The model with trainable low-rank adapters; its own parameters are frozen.

    Adapters are proven to work by a pass forward and backward over a few tokens.

    Raises:
        ConfigError: As `target_names`, or if peft or the model does not accept adapters on these modules.
    """
    targets = target_names(model, lora.target_modules)
    config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            for message in KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message)
            adapted = cast("nn.Module", get_peft_model(model, config))
        _prove(adapted, encoder_decoder=model.config.is_encoder_decoder)
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        others = ", ".join(_leaves(adaptable(model))) or "none"
        raise ConfigError(
            f"{KEY} is {lora.target_modules!r}, but adapters there do not work in {type(model).__name__}: {error}. "
            f"Modules that can carry adapters: {others}. Name them, or leave training.lora out"
        ) from error
    return adapted


def target_names(model: PreTrainedModel, wanted: str | Sequence[str]) -> list[str]:
    """The full names of the modules that get adapters.

    Args:
        model: Without adapters.
        wanted: `all-linear`: every linear layer of the language model but its head, routers and what a state-space
            mixer reads past its modules. Names, one as a text or several, each the end of a module's full name. A text
            with characters that names lack is a regular expression over full names.

    Raises:
        ConfigError: If nothing is left, a name matches nothing, or the head is tied to the input embeddings.
    """
    linear = adaptable(model)
    if wanted == "all-linear":
        if not linear:
            raise ConfigError(
                f"{KEY} is 'all-linear', but {type(model).__name__} has no linear layer that can carry adapters; name "
                "other modules, or leave training.lora out to train the whole student"
            )
        return _without_remapped(model, linear)
    known = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D | nn.Embedding)
    }
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    matched = {pattern: _matching(pattern, known) for pattern in patterns}
    experts = _fused_experts(model, [pattern for pattern, names in matched.items() if not names])
    for pattern, names in matched.items():
        if not names and pattern not in experts:
            raise _unknown(pattern, known)
        _refuse_tied(model, pattern, names)
    return sorted({name for names in matched.values() for name in names} | experts)


def adaptable(model: PreTrainedModel) -> list[str]:
    """Full names of the linear layers that `all-linear` stands for."""
    text, head = text_part(model), _head(model)
    inside = {id(module) for module in text.modules()}
    modules = dict(model.named_modules())
    return [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear | Conv1D)
        and id(module) in inside
        and module is not head
        and _multiplies(module)
        and not _is_router(module, name, modules, model)
        and not _is_read_past(name, modules)
    ]


def text_part(model: PreTrainedModel) -> nn.Module:
    """The language model inside a model that also sees or hears; any other model as it is."""
    config = model.config
    if config.is_encoder_decoder or config.get_text_config() is config:
        return model
    return cast("nn.Module", cast("Any", model).get_decoder())


def freeze_all_but_text(model: PreTrainedModel) -> None:
    """Freeze what no text reaches, such as a vision tower; several processes fail at a parameter without gradient."""
    text = text_part(model)
    if text is model:
        return
    parts = [part for part in (text, _head(model)) if part is not None]
    used = {id(parameter) for part in parts for parameter in part.parameters()}
    frozen = [parameter for parameter in model.parameters() if id(parameter) not in used]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if frozen:
        num = sum(parameter.numel() for parameter in frozen)
        log.info("%s: %d parameters outside the language model are not trained", type(model).__name__, num)


def _head(model: PreTrainedModel) -> nn.Module | None:
    return cast("nn.Module | None", cast("Any", model).get_output_embeddings())


def _is_router(module: nn.Module, name: str, modules: Mapping[str, nn.Module], model: PreTrainedModel) -> bool:
    """Whether a layer chooses experts: it, or what holds it, is called a router, or a gate with a value per expert."""
    parent, _, leaf = name.rpartition(".")
    if ROUTER.search(type(module).__name__) or ROUTER.search(type(modules[parent]).__name__):
        return True
    config = model.config.get_text_config()
    counts = [getattr(config, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts")]
    return bool(GATE.fullmatch(leaf)) and _num_outputs(module) in (1, *counts)


@torch.no_grad()
def _multiplies(module: nn.Linear | Conv1D) -> bool:
    """Whether a layer does what its class is named for; one with a forward pass of its own is asked with a vector."""
    if type(module).forward in PLAIN_FORWARDS:
        return True
    weight = module.weight
    vector = torch.linspace(-1, 1, module.in_features if isinstance(module, nn.Linear) else module.nx).to(weight)
    plain = nn.Linear.forward if isinstance(module, nn.Linear) else Conv1D.forward
    try:
        found, wanted = module(vector[None]), plain(module, vector[None])  # type: ignore[arg-type]
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError):
        return False
    if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
        return False
    return weight.is_meta or torch.allclose(found.float(), wanted.float(), rtol=1e-2, atol=1e-2)


def _num_outputs(module: nn.Module) -> int:
    return int(module.out_features if isinstance(module, nn.Linear) else cast("Conv1D", module).nf)


def _is_read_past(name: str, modules: Mapping[str, nn.Module]) -> bool:
    parent, _, leaf = name.rpartition(".")
    own = dict(modules[parent].named_parameters(recurse=False))
    return all(key in own for key in STATE_SPACE) and leaf != "in_proj"


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Full names that a name ends, or a regular expression matches whole."""
    if re.fullmatch(r"[\w.-]+", pattern):
        return [name for name in names if name == pattern or name.endswith(f".{pattern}")]
    try:
        whole = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{KEY} is {pattern!r}; it must be names or a regular expression: {error}") from error
    return [name for name in names if whole.fullmatch(name)]


def _unknown(pattern: str, known: Mapping[str, nn.Module]) -> ConfigError:
    leaves = _leaves(known)
    near = difflib.get_close_matches(pattern.rpartition(".")[2], leaves, n=3, cutoff=0.4) or leaves
    return ConfigError(f"{KEY}: {pattern!r} matches no module of the student; did you mean {' or '.join(near)}?")


def _leaves(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def _refuse_tied(model: PreTrainedModel, pattern: str, names: Sequence[str]) -> None:
    """Refuse what shares its weights: adapters merged into one of the two would change the other."""
    head, embeddings = _head(model), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is not getattr(embeddings, "weight", None):
        return
    tied = [name for name in names if model.get_submodule(name) in (head, embeddings)]
    if tied:
        raise ConfigError(
            f"{KEY}: {pattern!r} matches {tied[0]}, which shares its weights with the "
            f"{'input embeddings' if model.get_submodule(tied[0]) is head else 'output head'}: merged adapters would "
            "change both; leave it out, as all-linear does"
        )


def _converted(model: PreTrainedModel, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """What peft makes of names in a model whose experts transformers keeps in one tensor: modules, and parameters."""
    config = PeftLoraConfig(target_modules=list(names))
    convert_peft_config_for_transformers(config, model, None)
    return set(config.target_modules or ()), set(config.target_parameters or ())


def _without_remapped(model: PreTrainedModel, names: list[str]) -> list[str]:
    """Names without those that peft would move to the fused experts, such as a shared expert's."""
    modules, parameters = _converted(model, names)
    return [name for name in names if name in modules] if parameters else names


def _fused_experts(model: PreTrainedModel, names: Sequence[str]) -> set[str]:
    """Those names that peft knows as parts of fused experts."""
    return set(names) - _converted(model, names)[0] if names else set()


def _prove(adapted: nn.Module, *, encoder_decoder: bool) -> None:
    """Run a few tokens forward and backward, and leave no trace."""
    modes = [(module, module.training) for module in adapted.modules()]
    device = next(adapted.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4]], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if encoder_decoder:
        inputs["decoder_input_ids"] = ids
    adapted.eval()
    try:
        adapted(**inputs, use_cache=False).logits.float().sum().backward()
    finally:
        for module, training in modes:
            module.training = training
        adapted.zero_grad(set_to_none=True)
