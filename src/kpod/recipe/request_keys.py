"""What a recipe may add to a teacher's requests. A recipe may not contain an API key."""

import json
import re
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from kpod.records.errors import ConfigError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
VARIABLE_REFERENCE = re.compile(rf"\$(?:({_VARIABLE.pattern})|\{{({_VARIABLE.pattern})\}})")
"""$NAME or ${NAME} in the value of a header."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SENT_BY_THE_CLIENT = frozenset(
    {"content-length", "content-type", "content-encoding", "transfer-encoding", "accept-encoding", "connection"}
)
_CREDENTIAL = re.compile(
    r"(?i)(.*[^a-z])?(authorization|auth|cookie|(api|access|subscription|secret|private|auth|x)[-_]?(key|token)|key"
    r"|token|secret|password|signature|sig)"
)
_CREDENTIAL_IN_BODY = re.compile(r"(?i)(api|access|auth|secret|private)[-_]?(key|token)|authorization|password|secret")
_LOOKS_SECRET = re.compile(r"(?i)(bearer|basic|token|apikey|api-key)\s|(sk|pk|hf|gsk|xai|ghp)[-_]|AIza")
_KEYS_OF_THEIR_OWN = {
    **{name: name for name in ("model", "temperature", "top_p", "seed", "stop", "logprobs", "max_tokens")},
    "max_completion_tokens": "length_parameter",
    "top_logprobs": "logprobs",
    "messages": "prompt",
    "n": "samples",
}
"""Names in a request -> the keys of teacher.ask that set them."""


def holds_credential(header: str) -> bool:
    """Whether a header of this name holds a key or a password.

    Example:
        >>> [holds_credential(name) for name in ("api-key", "Authorization", "X-Title")]
        [True, True, False]
    """
    return _CREDENTIAL.fullmatch(header) is not None


def check_variable(name: str) -> None:
    """Refuse what names no environment variable, without showing it."""
    if not _VARIABLE.fullmatch(name):  # which is not shown: it may be the key itself
        raise ConfigError(
            "teacher.ask.api_key_variable must be the NAME of an environment variable, in capitals, such as "
            "OPENAI_API_KEY; set that variable to the key. The value is not shown here, since it may be a key"
        )


def _named(name: str, of_texts: bool) -> BeforeValidator:
    """Refuse what is no mapping of texts, whose values may be secrets and are not shown."""
    key = f"teacher.ask.{name}"

    def check(value: Any) -> Any:
        if not isinstance(value, Mapping | NoneType):
            raise ConfigError(f"{key} must be a mapping, such as {{name: value}}; what stands there is not shown here")
        for name, inner in (value or {}).items():
            if not isinstance(name, str):
                raise ConfigError(f"{key}: the name {name!r} must be a text; put it in quotes")
            if of_texts and not isinstance(inner, str):
                raise ConfigError(f"{key}.{name} must be a text; put it in quotes")
        return dict(value or {})

    return BeforeValidator(check)


def _check_body(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse an extra_body that is not JSON, repeats a key of its own, or holds a secret."""
    try:
        json.dumps(dict(body), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"teacher.ask.extra_body holds a value that JSON cannot hold ({error}); put dates in quotes"
        ) from None
    for name in _names(body):
        if not isinstance(name, str):
            raise ConfigError(f"teacher.ask.extra_body: the name {name!r} must be a text; put it in quotes")
        if _CREDENTIAL_IN_BODY.fullmatch(name):
            raise ConfigError(
                f"teacher.ask.extra_body.{name}: a key does not belong in a recipe; send it as a header that names an "
                "environment variable, as in teacher.ask.extra_headers: {api-key: $MY_KEY}"
            )
    for name in body.keys() & _KEYS_OF_THEIR_OWN.keys():
        raise ConfigError(f"teacher.ask.extra_body.{name}: set teacher.ask.{_KEYS_OF_THEIR_OWN[name]} instead")
    return body


def _names(value: Any) -> Iterator[object]:
    """The names in a JSON value, at every depth."""
    if isinstance(value, Mapping):
        yield from value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in inner:
        yield from _names(item)


def _check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse headers that cannot be sent, and keys that stand in the recipe; no value is shown."""
    for name, value in headers.items():
        where = f"teacher.ask.extra_headers.{name}"
        if not _HEADER.fullmatch(name):
            raise ConfigError(f"teacher.ask.extra_headers: {name!r} cannot be the name of a header")
        if name.lower() in _SENT_BY_THE_CLIENT:
            raise ConfigError(f"{where} is sent by the client itself; leave it out")
        rest = VARIABLE_REFERENCE.sub("", value)
        if "$" in rest:
            raise ConfigError(f"{where}: $ must be followed by the NAME of an environment variable, in capitals")
        if rest == value and (holds_credential(name) or _LOOKS_SECRET.match(value)):
            raise ConfigError(
                f"{where}: a key does not belong in a recipe; set an environment variable to it and write its name, "
                f"as in {name}: $MY_KEY. The value is not shown here"
            )
        if not all(" " <= letter <= "~" for letter in rest):
            raise ConfigError(f"{where} holds a character that a header cannot hold, such as a line break")
    return headers


def check_query(base_url: str, query: Mapping[str, str]) -> None:
    """Refuse keys in the URL, which stand in logs and messages."""
    given = {"base_url": [pair.partition("=")[0] for pair in base_url.partition("?")[2].split("&")]}
    for key, names in {**given, "extra_query": list(query)}.items():
        for name in names:
            if _CREDENTIAL.fullmatch(name):
                raise ConfigError(
                    f"teacher.ask.{key}: {name!r} does not belong in a URL, since URLs appear in logs; send a key as a "
                    "header, as in teacher.ask.extra_headers: {api-key: $MY_KEY}"
                )


Body = Annotated[Mapping[str, Any], _named("extra_body", of_texts=False), AfterValidator(_check_body)]
Headers = Annotated[Mapping[str, str], _named("extra_headers", of_texts=True), AfterValidator(_check_headers)]
Query = Annotated[Mapping[str, str], _named("extra_query", of_texts=True)]
