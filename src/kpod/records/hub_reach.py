"""Whether the Hugging Face Hub answers at all, asked once, so that nobody waits minutes for its client to give up."""

import os
import urllib.error
import urllib.request
from functools import cache

from kpod.records.errors import ConfigError

LONGEST_WAIT = 20.0
"""Seconds until a Hub that has taken the call must have answered."""


@cache
def check_hub_answers() -> None:
    """Stop where the Hub takes a call and does not answer it; a Hub that cannot be reached fails fast by itself.

    Nothing is asked offline (HF_HUB_OFFLINE), where the local cache serves.

    Raises:
        ConfigError: If no answer comes within `LONGEST_WAIT`.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        return  # which the client itself explains
    try:
        request = urllib.request.Request(f"{endpoint}/api/whoami-v2", method="HEAD")  # noqa: S310
        with urllib.request.urlopen(request, timeout=LONGEST_WAIT):  # noqa: S310
            return
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise ConfigError(
                f"the Hub ({endpoint}) does not answer within {LONGEST_WAIT:.0f} s; run again later, or set "
                "HF_HUB_OFFLINE=1 to use what is in the local cache"
            ) from None
