"""What a recipe may say, for editors (`kpod schema`) and for readers (`kpod explain`)."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from kpod.recipe import PRESETS, Recipe
from kpod.recipe.sections import SECTIONS, docs_of, unknown, words_for


@cache
def recipe_schema() -> Mapping[str, Any]:
    """The JSON Schema (2020-12) of a recipe: nested sections, defaults, allowed values, and what each key does.

    Example:
        >>> recipe_schema()["properties"]["precision"]["enum"]
        ['fp32', 'bf16']
    """
    schema = TypeAdapter(Recipe).json_schema()
    for key, section in SECTIONS.items():
        _describe(key, schema["$defs"][section.__name__] if key else schema)
    schema["properties"]["preset"] = {
        "description": "Values under the recipe's own keys; paper: the paper's choices where the defaults differ.",
        "enum": list(PRESETS),
        "type": "string",
    }
    training = schema["$defs"]["TrainingConfig"]
    del training["properties"]["arguments"]
    training |= {"additionalProperties": True, "propertyNames": {"pattern": r"^(?!arguments$)[A-Za-z_]\w*$"}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A recipe of kpod"}


def _describe(key: str, section: dict[str, Any]) -> None:
    """Add what keys do to their schemas; a section may be null, as it is where all its keys are commented out."""
    docs = docs_of(key)
    for name, schema in section["properties"].items():
        schema.pop("title", None)
        if name in docs:
            schema["description"] = docs[name]
        if "$ref" in schema:
            schema["anyOf"] = [{"$ref": schema.pop("$ref")}, {"type": "null"}]
            schema["description"] = str(SECTIONS[f"{key}.{name}".lstrip(".")].__doc__)


def explain(key: str) -> str:
    """What a recipe key does, what it may be, and its default; of a section, its keys.

    Raises:
        ConfigError: If there is no such key; the nearest one is named.

    Example:
        >>> print(explain("schedule.stride"))
        schedule.stride: a whole number above 0; by default 1
        delta_s of Eq. 11: how many steps a selected question advances.
    """
    schema = recipe_schema()
    found, inside = schema, schema["properties"]
    for name in key.split(".") if key else ():
        if name not in inside:
            raise unknown(key)
        found = inside[name]
        inside = _keys_in(schema, found)
    lines = [_line(key, found), found.get("description", "")] if key else []
    lines += [_line(f"{key}.{name}" if key else name, inner) for name, inner in inside.items()]
    if key == "training":
        lines.append("Any other key is passed to transformers.TrainingArguments.")
    return "\n".join(line for line in lines if line)


def every_key() -> Mapping[str, Mapping[str, Any]]:
    """Each key of a recipe by its dotted name, with its schema; sections are left out, their keys are not.

    Example:
        >>> every_key()["schedule.stride"]["default"]
        1
    """
    return dict(_keys_below("", recipe_schema()["properties"]))


def _keys_below(prefix: str, inside: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, schema in inside.items():
        if deeper := _keys_in(recipe_schema(), schema):
            yield from _keys_below(f"{prefix}{name}.", deeper)
        else:
            yield prefix + name, schema


def _keys_in(whole: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schemas of the keys in a section; none where a key is no section."""
    names = [option["$ref"].rpartition("/")[2] for option in schema.get("anyOf", ()) if "$ref" in option]
    return whole["$defs"][names[0]]["properties"] if names else {}


def _line(key: str, schema: Mapping[str, Any]) -> str:
    default = f"; by default {json.dumps(schema['default'], ensure_ascii=False)}" if "default" in schema else ""
    is_section = any("$ref" in option for option in schema.get("anyOf", ()))
    return f"{key}: {'a section' if is_section else words_for(schema)}{default}"
