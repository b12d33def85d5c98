"""What an endpoint's refusal means: for the request, for the run, and how long to wait.

A refusal is an HTTP status with some words, or an `error` inside an answer with status 200, as gateways send it
if the model behind them failed.
"""

import contextlib
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from openai import APIStatusError

from kpod.teacher.attempts import Outcome

NO_MONEY = frozenset(
    {
        "insufficient_quota",
        "insufficient_credits",
        "insufficient_balance",
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "payment_required",
    }
)
_NO_MONEY = re.compile(
    r"(?i)\binsufficient[ _-](?:account[ _-])?(?:credit|balance|fund|quota)|credit balance is too low"
    r"|(?:out of|not enough|no) credits?\b"
)
_STATUSES: Mapping[str, int] = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limited": 429,
    "rate_limit": 429,
    "too_many_requests": 429,
    "throttlingexception": 429,
    "resource_exhausted": 429,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "unauthorized": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "forbidden": 403,
    "not_found_error": 404,
    "not_found": 404,
    "model_not_found": 404,
    "overloaded_error": 529,
    "overloaded": 529,
    "server_error": 500,
    "internal_server_error": 500,
    "internal_error": 500,
    "internalservererror": 500,
    "api_error": 500,
    "unavailable": 503,
    "service_unavailable": 503,
    "timeout": 504,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "bad_request": 400,
    "invalid_argument": 400,
    "context_length_exceeded": 400,
    **dict.fromkeys(NO_MONEY, 402),
}
"""Names of errors, in lower case, where no number is given."""
_WAITS: Mapping[str, float] = {
    "retry-after-ms": 1e-3,
    "retry_after_ms": 1e-3,
    "retry-after": 1.0,
    "retry_after": 1.0,
    "retry_after_seconds": 1.0,
    "retryafter": 1.0,
    "retrydelay": 1.0,
}
"""Names under which an endpoint says how long to wait, and their unit in seconds."""
LONGEST_WORDS = 400
"""Letters of an endpoint's words that are shown."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A refusal.

    Attributes:
        status: As HTTP has it; None where none is said.
        words: The endpoint's, which may hold the API key.
        names: Code and type of the error, in lower case.
        wait: Seconds that the endpoint asks to wait.
    """

    status: int | None
    words: str
    names: frozenset[str] = frozenset()
    wait: float | None = None

    @property
    def no_money(self) -> bool:
        """Whether the account is empty."""
        named = bool(self.names & NO_MONEY) or self.status == 402
        return named or (self.status in (None, 400, 403, 429) and _NO_MONEY.search(self.words) is not None)

    @property
    def ends_run(self) -> bool:
        """Whether every other request would fare alike: the key, model or URL is refused, or the account is empty."""
        return self.no_money or self.status in (401, 403, 404, 405, 407)

    @property
    def outcome(self) -> Outcome:
        """What the refusal is to the one request."""
        status = self.status
        if status == 429:
            return "rate limited"
        if status is None:
            return "no completion"
        return "bad request" if 400 <= status < 500 and status not in (408, 409) else "server error"

    @property
    def told(self) -> str:
        """Status and words."""
        words = self.words or "no reason was given"
        return f"{self.status}: {words}" if self.status else words


def of_status(error: APIStatusError) -> Failure:
    """The refusal that a status is."""
    body = error.body if isinstance(error.body, Mapping) else {}
    inner = _mapping(body.get("error")) or body
    words = _words(inner) or error.message
    names = _lower(error.code, error.type, inner.get("code"), inner.get("type"))
    wait = retry_after(error.response.headers)
    return Failure(error.status_code, _short(words), names, wait_in(inner) if wait is None else wait)


def in_answer(body: object, headers: Mapping[str, str] | None = None) -> Failure | None:
    """The refusal that an answer with the status 200 holds; None where it is an answer.

    An `error` beside a whole text does not count: the text was paid for.

    Example:
        >>> found = in_answer({"error": {"code": 402, "message": "Insufficient credits"}})
        >>> found.status, found.ends_run, found.told
        (402, True, '402: Insufficient credits')
    """
    if not isinstance(body, Mapping):
        return None
    choices = body.get("choices")
    choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
    finish = choice.get("finish_reason")
    failed = isinstance(finish, str) and finish.lower() in ("error", "abort", "network_error")
    whole = bool(_mapping(choice.get("message")).get("content")) and not failed
    given = choice.get("error") or (None if whole else body.get("error") or _error_itself(body, choice))
    error = given if isinstance(given, Mapping) else {"message": given} if isinstance(given, str) else {}
    if not error or str(error.get("code")).lower() in ("0", "200", "success", "ok"):
        return None
    names = _lower(error.get("code"), error.get("type"), error.get("status"))
    status = _status(error) or next((_STATUSES[name] for name in sorted(names) if name in _STATUSES), None)
    if status is None and failed:
        status = 500
    wait = wait_in(error)
    if wait is None:
        wait = retry_after(headers or {})
    return Failure(status, _short(_words(error) or json.dumps(error, default=str)), names, wait)


def _error_itself(body: Mapping[str, Any], choice: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The body, where it is an error without a wrapping: `{"object": "error", "code": 400, "message": ...}`."""
    told = body.get("message") or body.get("msg") or body.get("detail")
    bare = not choice and isinstance(told, str) and (body.get("object") == "error" or _status(body) is not None)
    return body if bare else None


def _status(error: Mapping[str, Any]) -> int | None:
    for name in ("code", "status", "status_code", "http_status"):
        value = error.get(name)
        if isinstance(value, str) and re.fullmatch(r"[45]\d\d", value.strip()):
            value = int(value)
        if isinstance(value, int | float) and 400 <= value < 600:
            return int(value)
    return None


def _words(error: Mapping[str, Any]) -> str:
    """What an error says; a gateway's own words, and those of the model's server behind it."""
    names = ("message", "msg", "detail", "error", "error_description")
    said = next((error[name] for name in names if isinstance(error.get(name), str) and error[name]), "")
    raw = _mapping(error.get("metadata")).get("raw")
    if isinstance(raw, str) and raw and raw not in said:
        return f"{said}: {raw}" if said else raw
    if not said and isinstance(error.get("detail"), list):  # a validation error of FastAPI's
        return json.dumps(error["detail"], ensure_ascii=False, default=str)
    return said


def wait_in(error: Mapping[str, Any]) -> float | None:
    """Seconds to wait, as an error object says, itself or in its metadata."""
    metadata = _mapping(error.get("metadata"))
    for place in (error, metadata, _mapping(metadata.get("headers")), *_details(error)):
        given = {str(name).lower(): value for name, value in place.items()}
        if (seconds := retry_after({name: str(given[name]) for name in _WAITS if name in given})) is not None:
            return seconds
        reset = given.get("x-ratelimit-reset")  # milliseconds since 1970, as OpenRouter has it
        with contextlib.suppress(ValueError):
            if (moment := float(str(reset))) > 1e12:
                return max(0.0, moment / 1000 - time.time())
    return None


def _details(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Google's `details`, of which one may hold a retryDelay."""
    details = error.get("details")
    return [_mapping(detail) for detail in details] if isinstance(details, list) else []


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as the endpoint says: as milliseconds, seconds, or a date."""
    for name, unit in _WAITS.items():
        text = headers.get(name, "").strip()
        with contextlib.suppress(ValueError):
            seconds = float(text.removesuffix("s")) * unit
            return None if math.isnan(seconds) else max(0.0, seconds)
        with contextlib.suppress(ValueError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _lower(*names: object) -> frozenset[str]:
    return frozenset(name.lower() for name in names if isinstance(name, str))


def _short(words: str) -> str:
    return " ".join(words[: 4 * LONGEST_WORDS].split())[:LONGEST_WORDS]
