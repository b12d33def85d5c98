"""What an endpoint's error status means: for the request, for the run, and how long to wait."""

import contextlib
import math
import time
from email.utils import parsedate_to_datetime

from openai import APIStatusError, AuthenticationError, NotFoundError, PermissionDeniedError

from kpod.teacher.attempts import Outcome

NO_MONEY = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_balance_exhausted"}
)


def ends_run(error: APIStatusError) -> bool:
    """Whether every other request would fare alike: the key or the model is refused, or the account is empty."""
    refused = isinstance(error, AuthenticationError | PermissionDeniedError | NotFoundError)
    return refused or error.status_code == 402 or error.code in NO_MONEY or error.type in NO_MONEY


def outcome_of(error: APIStatusError) -> Outcome:
    """What the status is to the one request."""
    if error.status_code == 429:
        return "rate limited"
    return "server error" if error.status_code >= 500 or error.status_code in (408, 409) else "bad request"


def told(error: APIStatusError) -> str:
    """The status and the endpoint's words; they may hold the API key."""
    body = error.body
    inner = body.get("message") if isinstance(body, dict) else None
    return f"{error.status_code}: {inner if isinstance(inner, str) else error.message}"


NO_KEY = "none"
"""What servers of one's own are given for a key."""


def scrubbed(text: str, key: str) -> str:
    """A text without the API key."""
    return text.replace(key, "***") if key != NO_KEY else text


def retry_after(error: APIStatusError) -> float | None:
    """Seconds to wait, as the endpoint says: as milliseconds, seconds, or a date."""
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with contextlib.suppress(ValueError):
            seconds = float(headers.get(name, "")) / unit
            return None if math.isnan(seconds) else max(0.0, seconds)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return None
