"""Secrets that are sent to an endpoint and never written: the API key, and headers from the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kpod.recipe import VARIABLE_REFERENCE, AskConfig
from kpod.records.errors import ConfigError
from kpod.teacher.attempts import Attempt, TokenLogprob

NO_KEY = "none"
"""What self-hosted servers get instead of a key."""
SHORTEST_SECRET, SHORTEST_WORD = 8, 16
"""Least length of a secret that is also removed from answers, and of one that has only letters. Self-hosted servers
often get words like EMPTY as a key, which an answer may contain."""
SHORTEST_HEADER = 4
"""Least length of a header's value that is removed from messages. A single letter would garble them."""
INSTEAD_OF_THE_KEY = frozenset({"authorization", "api-key", "x-api-key"})
"""Headers that authenticate a request. If one of them is set, the key is not sent."""
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


@dataclass(frozen=True)
class Credentials:
    """The secrets of a recipe, as the environment has them.

    Attributes:
        key: The API key, or `NO_KEY`.
        headers: Further headers by their names.
        secrets: What no file, log or message may hold, the longest first.

    Example:
        >>> Credentials("sk-1234567890abcdef", {}).scrubbed("Incorrect key sk-1234567890abcdef")
        'Incorrect key ***'
    """

    key: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        found = {*self.secrets, self.key} - {NO_KEY, ""}
        object.__setattr__(self, "secrets", tuple(sorted(found, key=len, reverse=True)))

    @classmethod
    def of(cls, ask: AskConfig) -> "Credentials":
        """What a recipe names.

        Raises:
            ConfigError: As `api_key` and `extra_headers`.
        """
        headers, secrets = extra_headers(ask)
        return cls(api_key(ask, optional=bool(headers.keys() & INSTEAD_OF_THE_KEY)), headers, secrets)

    @property
    def replaces_key(self) -> bool:
        """Whether a header says who asks, so that the key is not sent."""
        return bool(self.headers.keys() & INSTEAD_OF_THE_KEY)

    def scrubbed(self, text: str) -> str:
        """A message without the secrets, also where their letters are written as escapes of JSON."""
        return _without(text, self.secrets)

    def cleaned(self, attempt: Attempt) -> Attempt:
        """An attempt without the secrets, which some servers echo.

        Words that any answer may hold, such as the `EMPTY` that some servers want for a key, are left in texts.
        """
        secrets = [secret for secret in self.secrets if _is_secret(secret)]
        text, reasoning = _without(attempt.text, secrets), _without(attempt.reasoning, secrets)
        tokens = attempt.logprobs if text == attempt.text else None
        return replace(
            attempt,
            text=text,
            reasoning=reasoning,
            detail=self.scrubbed(attempt.detail),
            model=_without(attempt.model, secrets) if attempt.model else None,
            finish_reason=_without(attempt.finish_reason, secrets) if attempt.finish_reason else None,
            logprobs=tokens and tuple(_without_in(token, secrets) for token in tokens),
        )


def api_key(ask: AskConfig, *, optional: bool = False) -> str:
    """The key from the environment; a placeholder for servers of one's own, which want none.

    Raises:
        ConfigError: If it cannot be sent; or is missing, the endpoint is OpenAI's, and it is not `optional`.
    """
    key = os.environ.get(ask.api_key_variable, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise ConfigError(
            f"the environment variable {ask.api_key_variable} (teacher.ask.api_key_variable) holds a character that an "
            "API key cannot have, such as a blank or one outside ASCII; copy the key again"
        )
    if not key and not optional and ask.base_url is None and not os.environ.get("OPENAI_BASE_URL"):
        raise ConfigError(
            f"the environment variable {ask.api_key_variable} (teacher.ask.api_key_variable) holds no API key; set it, "
            "or name another server in teacher.ask.base_url"
        )
    return key or NO_KEY


def extra_headers(ask: AskConfig) -> tuple[dict[str, str], tuple[str, ...]]:
    """The headers of a recipe under lower-case names, with the environment's values in them; and these values.

    Raises:
        ConfigError: If a variable is missing or cannot be sent; it is named, and its value is not.
    """
    secrets: set[str] = set()
    headers: dict[str, str] = {}
    for name, template in ask.extra_headers.items():
        where = f"teacher.ask.extra_headers.{name}"

        def value_of(reference: re.Match[str], where: str = where) -> str:
            variable = reference[1] or reference[2]
            value = os.environ.get(variable, "").strip()
            if not value:
                raise ConfigError(f"the environment variable {variable} ({where}) is missing; set it")
            if not all(" " <= letter <= "~" for letter in value):
                raise ConfigError(
                    f"the environment variable {variable} ({where}) holds a character that a header cannot"
                )
            if len(value) >= SHORTEST_HEADER:
                secrets.add(value)
            return value

        headers[name.lower()] = VARIABLE_REFERENCE.sub(value_of, template)
    return headers, tuple(secrets)


def _is_secret(value: str) -> bool:
    return len(value) >= (SHORTEST_WORD if value.isalpha() else SHORTEST_SECRET)


def _without(text: str, secrets: "tuple[str, ...] | list[str]") -> str:
    """A text in which *** stands for every secret."""
    if "\\u" in text:
        plain = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)
        if any(secret in plain and secret not in text for secret in secrets):
            text = plain
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _without_in(token: TokenLogprob, secrets: "tuple[str, ...] | list[str]") -> TokenLogprob:
    return replace(token, top={_without(text, secrets): logprob for text, logprob in token.top.items()})
