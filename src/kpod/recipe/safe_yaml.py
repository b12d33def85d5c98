"""YAML without its traps: `yaml.safe_load`, but a value means what it looks like or is refused.

PyYAML takes the last of two equal keys, reads 1e-5 as a text, 010 as 8 and 12:30 as 750, and lets a few lines of
aliases stand for gigabytes.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from kpod.records.errors import ConfigError

MAX_BYTES = 1 << 18
"""Longest YAML file that is read; a recipe has a few thousand bytes."""

_FLOAT_TAG = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z|[-+]?\.[0-9]+[eE][-+]?[0-9]+\Z")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not read: repeat the value", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if not _DECIMAL.fullmatch(node.value):
            problem = f"{node.value} would be read as {super().construct_yaml_int(node)}: write that, or quote it"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_yaml_int(node)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _class in (_Loader, _Dumper):  # the dumper must know what the loader takes for a number, so as to quote such texts
    _class.add_implicit_resolver(_FLOAT_TAG, _EXPONENT, list("-+.0123456789"))


def read_yaml(path: Path) -> Any:
    """What a YAML file says.

    Raises:
        ConfigError: If it cannot be read, is over MAX_BYTES long, or is no YAML; the message has file and line.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_BYTES:
            raise ConfigError(f"{path} has {len(raw)} bytes; more than {MAX_BYTES} are not read")
        return parse_yaml(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is no UTF-8: save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text says; `where` names it in errors.

    Raises:
        ConfigError: If it is no YAML, has an equal key twice, or a value that YAML would silently change.

    Example:
        >>> parse_yaml("learning_rate: 1e-5", "recipe.yaml")
        {'learning_rate': 1e-05}
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # control characters; 2024-99-99; deep nesting
        raise ConfigError(f"{where}: no readable YAML ({error})") from None


def dump_yaml(value: Any) -> str:
    r"""YAML that `parse_yaml` reads back as an equal value; keys keep their order.

    Characters that YAML takes for a line break beside \n are written as escapes: raw, they would be read as a space.
    """
    text = str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    if not any(character in text for character in "\x85\u2028\u2029"):
        return text
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=False))
