"""`kpod completion`: the script by which a shell completes the command line."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpod.commands.command_line import VERBS, parser_with
from kpod.commands.explain import refuse_keys
from kpod.commands.terminal import say
from kpod.recipe.descriptions import every_key
from kpod.records.errors import ConfigError

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def work(options: argparse.Namespace) -> None:
    """Print the script.

    Raises:
        ConfigError: If shtab, which writes it, is not installed.
    """
    refuse_keys(options)
    try:
        import shtab
    except ImportError:
        raise ConfigError("kpod completion needs the package shtab: pip install 'kpod-distill[completion]'") from None
    parser = parser_with(VERBS)
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for verb in verbs.choices.values():
        _complete(verb, every_key(), shtab.FILE)
    say(shtab.complete(parser, options.shell).rstrip("\n"))


def _complete(verb: argparse.ArgumentParser, keys: Mapping[str, Mapping[str, Any]], files: object) -> None:
    """Say what stands where: files for paths, and keys where a verb takes a recipe or describes a key."""
    for action in verb._actions:
        if action.type is Path:
            action.complete = files  # type: ignore[attr-defined]
        if action.dest == "key":
            action.choices = list(keys)
    if any(action.dest == "recipe" for action in verb._actions):
        for key, schema in keys.items():
            verb.add_argument(f"--{key}", choices=_values(schema), help=_first_sentence(schema))


def _values(schema: Mapping[str, Any]) -> list[str] | None:
    """What a key may be, if it is one of a few words."""
    options = [schema, *schema.get("anyOf", ())]
    words = [word for option in options for word in option.get("enum", ())]
    return words or (["true", "false"] if any(option.get("type") == "boolean" for option in options) else None)


def _first_sentence(schema: Mapping[str, Any]) -> str:
    """What a key is, as an argument's help; argparse reads a percent sign as the start of a value."""
    told: str = schema.get("description", "").replace("\n", " ").partition(". ")[0]
    return told.removesuffix(".").replace("%", "%%")
