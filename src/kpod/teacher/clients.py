"""HTTP clients that read no reply without end, and send a recipe's headers to its own server alone."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx2
import openai

from kpod.recipe import AskConfig
from kpod.records.errors import ConfigError
from kpod.teacher.connection import proxy_of, proxy_shown, shown, url_of
from kpod.teacher.credentials import NO_KEY, Credentials

LONGEST_REPLY = 1 << 26
"""Bytes of a reply, 64 MiB: 40 000 written tokens with 20 alternatives each, or millions of words. What is longer comes
from a server gone wrong, and would fill the memory."""
MOST_REDIRECTS = 5
LONGEST_CONNECTING = 20.0
"""Seconds until a server that does not even take the call counts as out of reach."""

_Client = TypeVar("_Client")


class ReplyError(openai.OpenAIError):
    """A reply is too long, too slow, or leads nowhere."""


@dataclass
class _Body:
    """What has come of a reply."""

    limit: int
    seconds: float

    def __post_init__(self) -> None:
        self.parts: list[bytes] = []
        self.length = 0
        self.ends = time.monotonic() + self.seconds

    def add(self, part: bytes) -> None:
        self.length += len(part)
        if self.length > self.limit:
            raise ReplyError(f"the reply is longer than {self.limit >> 20} MiB")
        if time.monotonic() > self.ends:
            raise ReplyError(f"no whole reply within {self.seconds:g} s")
        self.parts.append(part)

    def response(self, given: httpx2.Response) -> httpx2.Response:
        """The reply, decoded."""
        headers = [(n, v) for n, v in given.headers.items() if n.lower() not in ("content-encoding", "content-length")]
        return httpx2.Response(given.status_code, headers=headers, content=b"".join(self.parts), request=given.request)


@dataclass
class _Way:
    """Where a client's requests go, and with which headers."""

    credentials: Credentials
    seconds: float
    origin: tuple[Any, ...] | None = None

    def lead(self, request: httpx2.Request) -> None:
        """Set the headers; another host, to which a server may redirect, gets none of them."""
        origin = (request.url.host, request.url.port, request.url.scheme)
        self.origin = self.origin or origin
        upgraded = (self.origin[0], None, "https") == origin and self.origin[1:] == (None, "http")
        if origin != self.origin and not upgraded:
            for name in self.credentials.headers:
                request.headers.pop(name, None)
            return
        if self.credentials.replaces_key or self.credentials.key == NO_KEY:
            request.headers.pop("authorization", None)
        request.headers.update(self.credentials.headers)

    def next(self, response: httpx2.Response, number: int) -> httpx2.Request | None:
        """The request that a redirect asks for."""
        request = response.next_request
        if request is None and response.has_redirect_location:
            raise ReplyError(f"{shown(response.request.url)} redirects to no URL")
        if request is not None and number >= MOST_REDIRECTS:
            raise ReplyError(f"{shown(response.request.url)} redirects without end")
        return request


class BoundedClient(openai.DefaultHttpxClient):
    """A client for the Batch API; a reply that is streamed is not bounded here."""

    way: _Way

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send, and read no reply without end."""
        for number in range(MOST_REDIRECTS + 1):
            self.way.lead(request)
            response = super().send(request, stream=True, **options | {"follow_redirects": False})
            try:
                following = self.way.next(response, number)
                if following is None and stream:
                    return response
                if following is None:
                    body = _Body(LONGEST_REPLY, self.way.seconds)
                    for part in response.iter_bytes():
                        body.add(part)
                    return body.response(response)
            except BaseException:
                response.close()
                raise
            finally:
                if not stream or response.next_request:
                    response.close()
            request = following
        raise AssertionError("the last redirect is refused")


class BoundedAsyncClient(openai.DefaultAsyncHttpxClient):
    """A client for many requests at a time."""

    way: _Way

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:  # noqa: ARG002
        """Send, and read no reply without end."""
        for number in range(MOST_REDIRECTS + 1):
            self.way.lead(request)
            response = await super().send(request, stream=True, **options | {"follow_redirects": False})
            try:
                following = self.way.next(response, number)
                if following is None:
                    body = _Body(LONGEST_REPLY, self.way.seconds)
                    async for part in response.aiter_bytes():
                        body.add(part)
                    return body.response(response)
            finally:
                await response.aclose()
            request = following
        raise AssertionError("the last redirect is refused")


def asynchronous_client(ask: AskConfig, credentials: Credentials) -> openai.AsyncOpenAI:
    """A client that repeats nothing by itself.

    Raises:
        ConfigError: If the environment's proxies or certificates cannot be used.
    """
    http = _made(BoundedAsyncClient, httpx2.AsyncHTTPTransport, url_of(ask))
    http.way = _Way(credentials, ask.timeout)
    timeout = openai.Timeout(ask.timeout, connect=min(ask.timeout, LONGEST_CONNECTING))
    return openai.AsyncOpenAI(
        api_key=credentials.key,
        base_url=url_of(ask).partition("?")[0],  # the library would set a query before the rest of the path
        max_retries=0,
        timeout=timeout,
        default_query={**dict(parse_qsl(urlsplit(url_of(ask)).query)), **ask.extra_query},
        http_client=http,
    )


def synchronous_client(ask: AskConfig, credentials: Credentials) -> openai.OpenAI:
    """A client that repeats a failed call as often as a recipe allows.

    Raises:
        ConfigError: As `asynchronous_client`.
    """
    http = _made(BoundedClient, httpx2.HTTPTransport, url_of(ask))
    http.way = _Way(credentials, ask.timeout)
    return openai.OpenAI(
        api_key=credentials.key,
        base_url=url_of(ask).partition("?")[0],  # the library would set a query before the rest of the path
        max_retries=ask.retries,
        timeout=ask.timeout,
        default_query={**dict(parse_qsl(urlsplit(url_of(ask)).query)), **ask.extra_query},
        http_client=http,
    )


def _made(client: Callable[..., _Client], transport: Callable[..., Any], url: str) -> _Client:
    """A client as the environment wants it; a proxy for other hosts, of whatever kind, is in nobody's way."""
    proxy = proxy_of(url)
    remedy = f"or add {urlsplit(url).hostname} to NO_PROXY, if the server needs no proxy"
    try:
        if proxy is None:
            return client(transport=transport(limits=openai.DEFAULT_CONNECTION_LIMITS))
        urlsplit(proxy).port  # noqa: B018 (raises ValueError where it is none)
        return client(proxy=proxy)
    except ImportError as error:
        if "socks" not in str(error):
            raise
        raise ConfigError(f"{proxy_shown(url)} needs another package: pip install socksio; {remedy}") from None
    except OSError as error:
        name = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), None)
        if name is None:
            raise ConfigError(f"the certificates of this machine cannot be read: {error}") from None
        raise ConfigError(
            f"the environment variable {name} names {os.environ[name]}, which holds no certificates that can be read "
            f"({error.strerror or error}); correct it or unset it"
        ) from None
    except (ValueError, httpx2.InvalidURL):  # whose words hold the URL, and a password in it
        raise ConfigError(f"{proxy_shown(url)} is not a URL such as http://host:3128; correct it, {remedy}") from None
