"""Read a recipe from YAML and the command line into the dataclasses of `kpod.recipe`, and write it back.

An own decoder of some hundred lines rather than jsonargparse, which was tried: it takes the last of two equal keys,
completes abbreviated ones, never names the nearest valid key, and cannot let `training` hold further keys.

YAML is read safely, and none of its silent conversions survives: 1e-5 is a number; 010 and 12:30, which PyYAML
would turn into 8 and 750, are refused; `no` is False where a bool is wanted and an error anywhere else. On the command
line a text needs no quotes: `--training.save_strategy no`.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from kpod.recipe import Recipe, TrainingConfig
from kpod.recipe.safe_yaml import dump_yaml, parse_yaml, read_yaml
from kpod.records.errors import ConfigError, require

_SECRET = re.compile(r"(^|_)(token|key|secret|password)$")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_Config = TypeVar("_Config")


PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "paper": {
        "data": {"step_rule": "period"},
        "weighting": {"estimator": "gumbel", "predictor": "google/flan-t5-large", "mask_loss_weight": 0.5},
        "schedule": {"selector": "ftgp", "pace": "literal"},
    }
}
"""What `preset:` sets before a recipe's own keys: the paper's choices where the defaults differ (docs/method.md). Its
GloVe vectors need a file: `schedule.embeddings`."""


class _Word(str):
    """An override's value as it was typed; whether it is a text or YAML depends on what the key wants."""


def load_recipe(path: Path | str | None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, or the default one, with keys set on the command line.

    Args:
        path: A YAML file, or None.
        overrides: Words such as `--schedule.num_clusters 8` or `--schedule.num_clusters=8`; the later one wins.

    Raises:
        ConfigError: On an unknown key (the nearest valid one is named), a value of the wrong type, a broken file.

    Example:
        >>> recipe = load_recipe(None, ["--schedule.num_clusters", "8", "--training.warmup_steps=10"])
        >>> recipe.schedule.num_clusters, recipe.training.arguments
        (8, {'warmup_steps': 10})
    """
    values = read_yaml(Path(path)) if path else None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold recipe keys such as `name: first`, not {values!r}")
    for key, word in _overrides(overrides):
        _set(values, key, _Word(word))
    if (preset := values.pop("preset", None)) is not None:
        require(preset in PRESETS, "preset", str(preset), f"one of {', '.join(PRESETS)}")
        values = _over(PRESETS[preset], values)
    return _decode_config(Recipe, values, "")


def dump_recipe(recipe: Recipe) -> str:
    """YAML that `load_recipe` reads back as an equal recipe.

    Raises:
        ConfigError: If `training.arguments` holds a key that is a key of `training` itself.
    """
    values = dataclasses.asdict(recipe)
    arguments = values["training"].pop("arguments")
    for key in arguments:
        _check_argument(key)
        require(
            key not in values["training"], f"training.arguments.{key}", arguments[key], "given as a key of training"
        )
    values["training"].update(arguments)
    values["data"]["tests"] = list(recipe.data.tests)
    return dump_yaml(values)


def _overrides(words: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of dotted key and value."""
    pairs = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"unexpected argument {word!r}; recipe keys are set as --section.key value")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value: --{key} VALUE, or --{key}=VALUE if it starts with --")
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


def _over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `base` under those of `values`, section by section."""
    merged = {**base, **values}
    for key in base.keys() & values.keys():
        if isinstance(base[key], Mapping):
            own = _from_word(values[key], key)
            merged[key] = _over(base[key], own) if isinstance(own, Mapping) else base[key] if own is None else own
    return merged


def _set(values: dict[str, Any], dotted: str, word: _Word) -> None:
    section, _, key = dotted.partition(".")
    if not key:
        values[section] = word
        return
    inner = _from_word(values.get(section), section)
    if not isinstance(inner, dict | NoneType):
        raise ConfigError(f"--{dotted}: {section} is {inner!r} and has no keys")
    values[section] = inner or {}
    _set(values[section], key, word)


def _decode_config(cls: type[_Config], values: Any, prefix: str) -> _Config:
    """A config dataclass from a mapping; `prefix` is its dotted key with a final dot."""
    if values is None:
        values = {}  # a section whose keys are all commented out
    if isinstance(values, _Word):
        values = _from_word(values, prefix[:-1])
    if not isinstance(values, Mapping):
        raise _wrong(prefix[:-1], values, "a section with keys of its own")
    hints = get_type_hints(cls)
    known = {key: value for key, value in values.items() if key in hints and key != "arguments"}
    others = {key: value for key, value in values.items() if key not in known}
    decoded = {key: _decode(hints[key], value, f"{prefix}{key}") for key, value in known.items()}
    if cls is TrainingConfig:
        decoded["arguments"] = {_check_argument(key): _from_word(value, key) for key, value in others.items()}
    elif others:
        raise _unknown(f"{prefix}{next(iter(others))}")
    for needed in dataclasses.fields(cls):  # type: ignore[arg-type]
        if needed.default is needed.default_factory is dataclasses.MISSING and needed.name not in decoded:
            raise ConfigError(f"{prefix}{needed.name} is missing; {prefix[:-1]} needs it")
    return cls(**decoded)


def _decode(wanted: Any, value: Any, key: str) -> Any:
    """A value as its annotation wants it."""
    if get_origin(wanted) in (Union, UnionType):
        is_null = value is None or (isinstance(value, _Word) and value in ("null", "~", ""))
        if is_null and NoneType in get_args(wanted):
            return None
        options = [option for option in get_args(wanted) if option is not NoneType]
        wanted = options[0] if len(options) == 1 else _text_or_list(options, value)
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return _decode_config(wanted, value, f"{key}.")
    if wanted is str or get_origin(wanted) is Literal:
        return _decode_text(wanted, value, key)
    if get_origin(wanted) is Mapping:
        return _decode_mapping(wanted, value, key)
    value = _from_word(value, key)
    if get_origin(wanted) is tuple:
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise _wrong(key, value, 'a list of texts, such as ["gsm8k", "svamp"]')
        return tuple(value)
    return _decode_scalar(wanted, value, key)


def _text_or_list(options: Sequence[Any], value: Any) -> Any:
    """Which of a text and a list of texts a value is; on the command line a list stands in brackets."""
    is_list = value.startswith("[") and value.endswith("]") if isinstance(value, _Word) else isinstance(value, list)
    return next(option for option in options if (get_origin(option) is tuple) == is_list)


def _decode_text(wanted: Any, value: Any, key: str) -> str:
    options = get_args(wanted)
    description = f"one of {', '.join(options)}" if options else "a text"
    if not isinstance(value, str):
        raise _wrong(key, value, f"{description}; in YAML, put a text that reads as something else in quotes")
    if options and value not in options:
        raise _wrong(key, str(value), description)
    return str(value)


def _decode_mapping(wanted: Any, value: Any, key: str) -> dict[str, Any]:
    """A mapping with names of the user's own; its values may be secrets, and are not shown."""
    try:
        value = _from_word(value, key)
    except ConfigError:
        value = ""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a mapping, such as {{name: value}}; what stands there is not shown here")
    for name, inner in value.items():
        if not isinstance(name, str):
            raise ConfigError(f"{key}: the name {name!r} must be a text; put it in quotes")
        if get_args(wanted)[1] is str and not isinstance(inner, str):
            raise ConfigError(f"{key}.{name} must be a text; put it in quotes")
    if get_args(wanted)[1] is str:
        return {name: str(text) for name, text in value.items()}
    return {name: _plain(inner, f"{key}.{name}") for name, inner in value.items()}


def _plain(value: Any, key: str) -> Any:
    """JSON, with what stands in words of the command line read as YAML."""
    if isinstance(value, Mapping):
        return {name: _plain(inner, f"{key}.{name}") for name, inner in value.items()}
    return _from_word(value, key)


def _decode_scalar(wanted: type, value: Any, key: str) -> bool | int | float:
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if wanted is float:
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    raise _wrong(key, value, {bool: "true or false", int: "a whole number", float: "a number"}[wanted])


def _from_word(value: Any, key: str) -> Any:
    """What a word of the command line says in YAML; any other value as it is."""
    if not isinstance(value, _Word):
        return value
    return parse_yaml(str(value), key)


def _check_argument(key: object) -> str:
    """The name of a further training argument, which the training package checks against transformers."""
    if not isinstance(key, str) or not key.isidentifier():
        raise ConfigError(f"training.{key} is no name of a transformers.TrainingArguments field")
    if key == "arguments":
        raise ConfigError("training.arguments: write these keys straight under training")
    if _SECRET.search(key):
        raise ConfigError(f"training.{key}: a secret does not belong in a recipe; log in with `hf auth login` instead")
    return key


def _wrong(key: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"{key or 'the recipe'} is {value!r}; it must be {wanted}")


def _unknown(key: str) -> ConfigError:
    """Name the nearest key: in the same section if one is near, else one that is right but in another section."""
    known = _dotted_keys(Recipe, "")
    section = key.rpartition(".")[0]
    siblings = [other for other in known if other.rpartition(".")[0] == section]
    leaf = key.rpartition(".")[2]
    near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.75)
    near += [other for other in known if other.rpartition(".")[2] == leaf]
    hint = f"did you mean {near[0]}?" if near else f"keys there: {', '.join(siblings)}"
    return ConfigError(f"unknown key {key}; {hint}")


def _dotted_keys(cls: type, prefix: str) -> list[str]:
    keys = []
    for key, hint in get_type_hints(cls).items():
        keys.append(f"{prefix}{key}")
        for option in (hint, *get_args(hint)):
            if isinstance(option, type) and dataclasses.is_dataclass(option):
                keys += _dotted_keys(option, f"{prefix}{key}.")
    return keys
