"""The way to a server: its URL, its proxy, and why requests do not reach it, in messages that say what to do."""

import os
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from kpod.recipe import AskConfig
from kpod.records.errors import ConfigError


def url_of(ask: AskConfig) -> str:
    """The server's URL.

    Raises:
        ConfigError: If it is none.
    """
    url = ask.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(httpx2.URL(url).host) and parts.port != 0
    except (ValueError, httpx2.InvalidURL):  # a port above 65535, half an IPv6 address, a host that cannot be one
        good = False
    if not good:
        raise ConfigError("teacher.ask.base_url (or OPENAI_BASE_URL) must be a URL such as http://127.0.0.1:8000/v1")
    return url


def shown(url: object) -> str:
    """A URL without user, password and query, which may be secrets."""
    parts = urlsplit(str(url))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def proxy_of(url: str) -> str | None:
    """The proxy that requests to a URL go through, which may hold a password; None where they go there directly."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    host = parts.hostname or ""
    if not proxy or proxy_bypass(host) or proxy_bypass(f"{host}:{parts.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def proxy_shown(url: str) -> str:
    """The same, without user and password, and the variable that names it."""
    scheme, divider, rest = (proxy_of(url) or "").rpartition("://")
    return f"the proxy {scheme}{divider}{rest.rpartition('@')[2]} ({proxy_variable(url)})"


def proxy_variable(url: str) -> str:
    """The environment variable that names the proxy of a URL."""
    for name in (f"{urlsplit(url).scheme}_proxy", "all_proxy"):
        for spelt in (name, name.upper()):
            if os.environ.get(spelt):
                return spelt
    return "the system's settings"


def proxy_hint(url: str) -> str:
    """What to know of a failure where a proxy stands between; empty where none does."""
    if proxy_of(url) is None:
        return ""
    return (
        f"; the request went through {proxy_shown(url)}: if the server needs no proxy, set "
        f"NO_PROXY={urlsplit(url).hostname}"
    )


def why_unreachable(error: BaseException, url: str) -> str | None:
    """What keeps every request from the server and does not pass: a certificate, or the wrong scheme; else None."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message or str(cause)
            remedy = (
                "set the environment variable SSL_CERT_FILE to a PEM file that holds it or its issuer's certificate"
            )
            if "expired" in why or "not yet valid" in why:
                remedy = "renew it, or correct this machine's clock"
            elif "match" in why or "valid for" in why:
                remedy = "use the server name of its certificate in teacher.ask.base_url"
            return f"the certificate of {shown(url)} is not trusted ({why}): {remedy}{proxy_hint(url)}"
        if isinstance(cause, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(cause):
            return f"{shown(url)} does not use https; write it with http:// in teacher.ask.base_url{proxy_hint(url)}"
    return None


def unreachable(detail: str, url: str) -> str:
    """Words for a server that does not take the call."""
    if hint := proxy_hint(url):
        return f"the endpoint {shown(url)} cannot be reached: {detail}{hint}"
    return f"the endpoint {shown(url)} cannot be reached: {detail}; start it and run again"


def told(error: BaseException) -> str:
    """A connection's failure in words."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return f"the host name is unknown ({cause.strerror})"
    return str(error) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
