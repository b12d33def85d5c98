"""What makes a dataclass a section of the recipe: pydantic checks it however it is made, and says what is wrong.

A file, the command line and Python meet the same checks: types are strict, unknown keys are refused, and every failure
is a ConfigError with the dotted key, what stands there and what may stand there. What may stand there is read from the
JSON schema of the section, which `kpod schema` and `kpod explain` show too.
"""

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache, partial
from itertools import pairwise
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs, CoreSchema
from pydantic_core.core_schema import no_info_wrap_validator_function

from kpod.records.errors import ConfigError

_Section = TypeVar("_Section")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_CHECKED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_OUTSIDE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_KINDS = {
    "string": "a text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": 'a list of texts, such as ["gsm8k", "svamp"]',
    "object": "a mapping, such as {name: value}",
    "section": "a section with keys of its own",
}
_QUOTES = "; in YAML, put a text that reads as something else in quotes"

SECTIONS: dict[str, type] = {}
"""The dataclass of every section, under its dotted key; the recipe itself is under ""."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def section(key: str) -> Callable[[type[_Section]], type[_Section]]:
    """Make a class a frozen dataclass whose fields are the keys under a dotted key.

    Raises (when an instance is made):
        ConfigError: On an unknown key, a missing one, or a value that its annotation or `__post_init__` does not allow.

    Example:
        >>> from kpod.recipe import WeightingConfig
        >>> WeightingConfig(prefixes="4")
        Traceback (most recent call last):
        kpod.records.errors.ConfigError: weighting.prefixes is '4'; it must be a whole number above 0
    """

    def checked(_: type[_Section], source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        cast("dict[str, Any]", handler.resolve_ref_schema(schema))["strict"] = False
        return no_info_wrap_validator_function(partial(_checked, key), schema)  # a mapping may become a section

    def make(cls: type[_Section]) -> type[_Section]:
        cls.__get_pydantic_core_schema__ = classmethod(checked)  # type: ignore[attr-defined]
        SECTIONS[key] = dataclass(frozen=True, config=_CHECKED)(cls)
        return SECTIONS[key]

    return make


def _checked(key: str, value: Any, handler: Callable[[Any], Any]) -> Any:
    """A section from a mapping, from arguments, or from null where all its keys are commented out."""
    try:
        return handler({} if value is None else value)
    except ValidationError as error:
        raise _explained(key, value, error) from None


def _explained(section_key: str, value: Any, error: ValidationError) -> ConfigError:
    """What is wrong in a section, as one line for a reader."""
    found = error.errors(include_url=False)[0]
    if not found["loc"]:
        return ConfigError(f"{section_key or 'the recipe'} is {value!r}; it must be {_KINDS['section']}")
    fields = [*keys_of(section_key)]
    name = found["loc"][0]
    if isinstance(value, ArgsKwargs):
        name = fields[name] if isinstance(name, int) and name < len(fields) else name
        value = {**dict(zip(fields, value.args, strict=False)), **(value.kwargs or {})}
    key = f"{section_key}.{name}" if section_key else str(name)
    if name not in fields:
        return unknown(key)
    if found["type"] == "missing":
        return ConfigError(f"{key} is missing; {section_key} needs it")
    outside = found["type"] in _OUTSIDE
    stands = found["input"] if outside else value[name]
    wanted = words_for(keys_of(section_key)[name], of_a_number=outside)
    quotes = _QUOTES if is_text(keys_of(section_key)[name]) and not isinstance(stands, str) else ""
    return ConfigError(f"{key} is {stands!r}; it must be {wanted}{quotes}")


def unknown(key: str) -> ConfigError:
    """Name the nearest key: in the same section if one is near, else one that is right but in another section."""
    section_key, _, leaf = key.rpartition(".")
    known = [f"{section}.{name}".lstrip(".") for section in sorted(SECTIONS) for name in keys_of(section)]
    siblings = [other for other in known if other.rpartition(".")[0] == section_key]
    near = difflib.get_close_matches(key, siblings or known, n=1, cutoff=0.75)
    near += [other for other in known if other.rpartition(".")[2] == leaf]
    hint = f"did you mean {near[0]}?" if near else f"keys there: {', '.join(siblings or keys_of(''))}"
    return ConfigError(f"unknown key {key}; {hint}")


@cache
def keys_of(section_key: str) -> Mapping[str, Mapping[str, Any]]:
    """The keys of a section, each with its JSON schema; none where there is no such section."""
    if section_key not in SECTIONS:
        return {}
    return dict(TypeAdapter(SECTIONS[section_key]).json_schema()["properties"])


def schema_of(key: str) -> Mapping[str, Any]:
    """The JSON schema of one dotted key, also of a name of the user's own in a mapping; empty if nothing is known."""
    section_key, _, name = key.rpartition(".")
    schema = keys_of(section_key).get(name)
    if schema is None and section_key:
        inner = schema_of(section_key).get("additionalProperties")
        return inner if isinstance(inner, Mapping) else {}
    return schema or {}


def docs_of(section_key: str) -> dict[str, str]:
    """What the text under each key of a section says."""
    body: list[Any] = ast.parse(inspect.getsource(SECTIONS[section_key])).body[0].body  # type: ignore[attr-defined]
    texts = [pair for pair in pairwise(body) if isinstance(pair[0], ast.AnnAssign) and isinstance(pair[1], ast.Expr)]
    return {key.target.id: inspect.cleandoc(text.value.value) for key, text in texts}


def is_text(schema: Mapping[str, Any]) -> bool:
    """Whether a key may hold a text."""
    return any(is_text(option) for option in schema.get("anyOf", ())) or schema.get("type") == "string"


def words_for(schema: Mapping[str, Any], *, of_a_number: bool = False) -> str:
    """What a JSON schema allows, in words.

    Args:
        schema: Of one key.
        of_a_number: Whether the reader knows that a number is wanted, so that its limits are enough.

    Example:
        >>> words_for({"anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1}, {"type": "null"}]})
        'a number of at least 0 and below 1, or null'
    """
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    words = " or ".join(_one(option, of_a_number) for option in options)
    return f"{words}, or null" if len(options) < len(schema.get("anyOf", ())) else words


def _one(schema: Mapping[str, Any], of_a_number: bool) -> str:
    kind = schema.get("type", "section")
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(schema.get('enum', [schema.get('const')]))}"
    limits = {limit: schema[limit] for limit in _LIMITS if limit in schema}
    words = " and ".join(f"{_LIMITS[limit]} {value}" for limit, value in limits.items())
    if limits.keys() == {"minimum", "maximum"}:
        words = "from {minimum} to {maximum}" if kind == "integer" else "between {minimum} and {maximum}"
        words = words.format_map(limits)
    elif of_a_number and limits == {"exclusiveMinimum": 0}:
        return "a positive number"
    if of_a_number and not words.startswith("from"):
        return words
    return f"{_KINDS[kind]} {'of ' * words.startswith('at')}{words}".rstrip()


def _number(value: Any) -> Any:
    """A number that YAML takes for a text, such as "1e-5", and a whole one."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    try:
        return float(value) if is_whole or (isinstance(value, str) and _NUMBER.fullmatch(value)) else value
    except OverflowError:
        return value


NUMBER = BeforeValidator(_number)
"""Reads a number; the last annotation, since limits hold for what it makes."""
Real = Annotated[float, NUMBER]
Positive = Annotated[float, Field(gt=0), NUMBER]
NotNegative = Annotated[float, Field(ge=0), NUMBER]
Share = Annotated[float, Field(gt=0, le=1), NUMBER]
Count = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
