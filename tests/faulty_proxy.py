"""A proxy that spoils a share of an OpenAI-compatible server's answers, by plan, and notes what it did. And a server
of canned answers to put behind it."""

import asyncio
import contextlib
import json
import random
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Literal, TypeAlias, get_args
from urllib.parse import urlsplit

Fault: TypeAlias = Literal[
    # that may pass
    "429",
    "429 with Retry-After",
    "500",
    "408",
    "hang",
    "trickle",
    "drop",
    "torn",
    "torn JSON",
    "HTML",
    "no choices",
    "null content",
    # of one request
    "length",
    "content filter",
    "400",
    # of the whole account, and of a gateway
    "401",
    "402",
    "403",
    "404",
    "insufficient quota",
    "other model",
]
PASSING_FAULTS: Sequence[Fault] = get_args(Fault)[:12]
ROW_FAULTS: Sequence[Fault] = get_args(Fault)[12:15]
OUTCOMES: Mapping[str | None, str] = {
    None: "answered",
    "429": "rate limited",
    "429 with Retry-After": "rate limited",
    "500": "server error",
    "408": "server error",
    "hang": "timeout",
    "trickle": "timeout",
    "drop": "connection lost",
    "torn": "connection lost",
    "torn JSON": "no completion",
    "HTML": "no completion",
    "no choices": "no completion",
    "null content": "empty",
    "length": "truncated",
    "content filter": "filtered",
    "400": "bad request",
    "other model": "answered",
}
"""What each fault is to the client."""

Plan: TypeAlias = Callable[[int, int], Fault | None]
"""A request's seed, and how often it was seen before, to what goes wrong."""


def spoiling(share: float, faults: Sequence[Fault], seed: int = 0) -> Plan:
    """So many of the requests go wrong, whatever the order they come in."""

    def plan(request: int, nth: int) -> Fault | None:
        rng = random.Random(f"{seed} {request} {nth}")
        return rng.choice(faults) if rng.random() < share else None

    return plan


def once(*faults: Fault) -> Plan:
    """These, one after the other, for every request; then nothing."""

    def plan(_: int, nth: int) -> Fault | None:
        return faults[nth] if nth < len(faults) else None

    return plan


@dataclass
class Call:
    """A request that has come in, and its way back."""

    headers: Mapping[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    target: str = ""

    async def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        told = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        self.writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body)
        await self.writer.drain()

    async def hung_up(self) -> None:
        """Until the client closes the connection."""
        await self.reader.read(1)


async def read_message(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes] | None:
    """The first line, headers and body of the next request or answer on a connection; None at its end."""
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return first, headers, await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


@contextlib.contextmanager
def serving(answer: Callable[[Call], Awaitable[None]], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server on loopback in a thread of its own, while the block runs; its URL, ending in /v1."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    held: set[asyncio.Task[None] | None] = set()  # asyncio forgets the task of a client that is gone

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.add(task := asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while not writer.is_closing() and (message := await read_message(reader)):
                await answer(Call(message[1], message[2], reader, writer, message[0].split(" ")[1]))
        writer.close()
        held.discard(task)

    async def serve() -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        started.set_result((asyncio.get_running_loop(), stop, server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, stop, port = started.result(timeout=30)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}/v1"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def canned(delay: float = 0.0) -> Callable[[Call], Awaitable[None]]:
    """Answers every request, after so many seconds, with a sentence that names the request's seed."""

    async def answer(call: Call) -> None:
        asked = json.loads(call.body)
        await asyncio.sleep(delay)
        message = {"role": "assistant", "content": f"I add up. Therefore, the answer is {asked['seed']}."}
        reply = {
            "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7},
        }
        await call.send(200, json.dumps(reply).encode())

    return answer


@dataclass
class Exchange:
    """A request as the proxy saw it.

    Attributes:
        seed: Of the request, which tells it from all others.
        fault: What the proxy did to it.
        began: When it came, by the clock that all processes share (time.monotonic).
        delivered: Whether the upstream's good answer went out whole.
    """

    seed: int
    fault: Fault | None
    began: float
    delivered: bool = False


@dataclass
class FaultyProxy:
    """Forwards to `upstream` what the plan does not spoil.

    Attributes:
        upstream: The URL of a server, ending in /v1.
        plan: What goes wrong.
        retry_after: The header of "429 with Retry-After"; a callable gives it when it is sent.
        finish: Say that a good answer came to its end: a random model's texts never do.
        seen: Every request, in the order of arrival.
    """

    upstream: str
    plan: Plan
    retry_after: str | Callable[[], str] = "0.1"
    finish: bool = False
    seen: list[Exchange] = field(default_factory=list)

    @property
    def deliveries(self) -> Counter[int]:
        """Seed -> how often its good answer went out."""
        return Counter(exchange.seed for exchange in self.seen if exchange.delivered)

    async def answer(self, call: Call) -> None:
        seed = json.loads(call.body)["seed"]
        nth = sum(exchange.seed == seed for exchange in self.seen)
        fault = self.plan(seed, nth)
        exchange = Exchange(seed, fault, asyncio.get_running_loop().time())
        self.seen.append(exchange)
        if fault is None:
            await call.send(200, await self._forwarded(call))
            exchange.delivered = True
        elif fault.startswith(("4", "5")) or fault == "insufficient quota":
            await self._refuse(call, fault)
        elif fault in ("hang", "drop"):
            if fault == "hang":
                await call.hung_up()
            call.writer.transport.abort()
        elif fault == "HTML":
            page = f"<html><body>Bad gateway for {call.headers.get('authorization')}</body></html>"
            await call.send(200, page.encode(), {"content-type": "text/html"})
        elif fault == "no choices":
            await call.send(200, json.dumps({"headers": dict(call.headers), "choices": []}).encode())
        else:
            await self._spoil(call, fault, await self._forwarded(call))

    async def _refuse(self, call: Call, fault: Fault) -> None:
        """An error as OpenAI words it; it echoes the key, as careless servers do."""
        quota = fault == "insufficient quota"
        code = "insufficient_quota" if quota else "context_length_exceeded" if fault == "400" else None
        told = f"{fault} for {call.headers.get('authorization')}"
        error = {"message": told, "type": code, "code": code, "headers": dict(call.headers)}
        headers = {}
        if fault == "429 with Retry-After":
            headers["retry-after"] = self.retry_after if isinstance(self.retry_after, str) else self.retry_after()
        await call.send(429 if quota else int(fault[:3]), json.dumps({"error": error}).encode(), headers)

    async def _spoil(self, call: Call, fault: Fault, good: bytes) -> None:
        reply = json.loads(good)
        choice = reply["choices"][0]
        if fault in ("torn", "torn JSON"):  # with a length that shows it, and without
            headers = {"content-length": str(len(good) + 1)} if fault == "torn" else {"connection": "close"}
            if fault == "torn JSON":
                headers["content-length"] = str(len(good) // 2)
            await call.send(200, good[: len(good) // 2], headers)
            call.writer.close()
        elif fault == "trickle":
            await call.send(200, b"", {"content-length": str(len(good))})
            for byte in good:
                await asyncio.sleep(0.1)
                call.writer.write(bytes([byte]))
                await call.writer.drain()
        else:
            if fault == "null content":
                choice["message"]["content"] = None
            elif fault == "length":
                choice["finish_reason"] = "length"
            elif fault == "content filter":
                choice |= {"finish_reason": "content_filter", "message": {"role": "assistant", "content": ""}}
            else:
                reply["model"] = "fallback"
            await call.send(200, json.dumps(reply).encode())

    async def _forwarded(self, call: Call) -> bytes:
        url = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=2**24)
        try:
            head = f"POST {url.path}/chat/completions HTTP/1.1\r\nhost: {url.netloc}\r\nconnection: close\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(call.body)}\r\n\r\n"
            writer.write(head.encode() + call.body)
            answered = await read_message(reader)
        finally:
            writer.close()
        assert answered is not None
        assert " 200 " in answered[0], answered
        if not self.finish:
            return answered[2]
        reply = json.loads(answered[2])
        reply["choices"][0]["finish_reason"] = "stop"
        return json.dumps(reply).encode()


def http_date(timestamp: float) -> str:
    """As Retry-After may say it."""
    return formatdate(timestamp, usegmt=True)
