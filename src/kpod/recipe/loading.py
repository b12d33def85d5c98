"""Read a recipe from YAML and the command line, and write it back.

The dataclasses of `kpod.recipe` check what is read, as they check what Python gives them.

YAML is read safely, and none of its silent conversions survives: 1e-5 is a number; 010 and 12:30, which PyYAML
would turn into 8 and 750, are refused; `no` is False where a bool is wanted and an error anywhere else. On the command
line a text needs no quotes: `--training.save_strategy no`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic import TypeAdapter

from kpod.recipe import PRESETS, Recipe, check_argument
from kpod.recipe.safe_yaml import dump_yaml, parse_yaml, read_yaml
from kpod.recipe.sections import is_text, schema_of
from kpod.records.errors import ConfigError, require


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
        _set(values, key, word)
    if (preset := values.pop("preset", None)) is not None:
        require(preset in list(PRESETS), "preset", preset, f"one of {', '.join(PRESETS)}")
        values = _over(PRESETS[preset], values)
    return TypeAdapter(Recipe).validate_python(values)


def dump_recipe(recipe: Recipe) -> str:
    """YAML that `load_recipe` reads back as an equal recipe.

    Raises:
        ConfigError: If `training.arguments` holds a key that is a key of `training` itself.
    """
    values = asdict(recipe)
    arguments = values["training"].pop("arguments")
    for key in arguments:
        check_argument(key)
        require(
            key not in values["training"], f"training.arguments.{key}", arguments[key], "given as a key of training"
        )
    values["training"].update(arguments)
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


def _set(values: dict[Any, Any], dotted: str, word: str) -> None:
    """Set a key to what a word of the command line says."""
    *sections, key = dotted.split(".")
    for name in sections:
        if values.get(name) is None:
            values[name] = {}
        if not isinstance(values[name], dict):
            raise ConfigError(f"--{dotted}: {name} is {values[name]!r} and has no keys")
        values = values[name]
    values[key] = _said(word, dotted)


def _said(word: str, key: str) -> Any:
    """A word as the text that a key wants, or else as YAML."""
    schema = schema_of(key)
    kinds = {option.get("type") for option in schema.get("anyOf", [schema])}
    is_null = "null" in kinds and word in ("null", "~", "")
    is_list = "array" in kinds and word.startswith("[") and word.endswith("]")
    if (is_text(schema) and not is_null and not is_list) or key == "preset":
        return word
    try:
        return parse_yaml(word, key)
    except ConfigError:
        if "additionalProperties" in schema:
            return ""  # which is no mapping: what stands there may be a secret, and is not shown
        raise


def _over(base: Mapping[str, Any], values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Keys of `base` under those of `values`, section by section."""
    merged = {**base, **values}
    for key, below in base.items():
        if isinstance(below, Mapping) and isinstance(values.get(key, {}), Mapping | NoneType):
            merged[key] = _over(below, values.get(key) or {})
    return merged
