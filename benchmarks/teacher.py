"""How much of a server's own speed the endpoint client leaves: `kpod.teacher` beside a bare load generator.

Both ask for the same answers at the same concurrency, in turns. The client fills templates, checks every answer and
flushes it to the disk; the bare one writes ready bytes into a socket and reads the answers. Between them stands the
openai library alone, which the client is built on. Servers: one of canned answers in a process of its own, which needs
no time, so that what is left is the client's own work; and `transformers serve` with SmolLM2-135M (needs
transformers[serving]; about 3 GB with continuous batching, 1 GB without).

    python benchmarks/teacher.py [--json] [--server canned|smollm2] [--no-batching] [--requests N] [--rounds 3]
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from openai import AsyncOpenAI

from kpod import AskConfig, Question, ask_teacher
from kpod.lm.models import smollm2_folder
from kpod.teacher.requests import chat_arguments, requests_for

CONCURRENCIES = (1, 8, 32)
BATCHING = ("--continuous-batching", "--cb-num-blocks", "128", "--cb-max-batch-tokens", "512")
"""Without the two limits the server takes 14 GB for SmolLM2."""


class Canned(asyncio.Protocol):
    """Sends the same completion for every request, at once."""

    message = {"role": "assistant", "content": "Two and two are four. Therefore, the answer is 4."}  # noqa: RUF012
    choice = {"index": 0, "message": message, "finish_reason": "stop"}  # noqa: RUF012
    body = json.dumps({"model": "canned", "choices": [choice], "usage": {"completion_tokens": 12}}).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, rest = self.received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if found and len(rest) >= length:
            self.received = rest[length:]
            self.transport.write(self.answer)


async def serve_canned() -> None:
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def canned_server() -> Iterator[str]:
    """The canned server in a process of its own; its URL."""
    process = subprocess.Popen([sys.executable, __file__, "--serve-canned"], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.terminate()
        process.communicate()


@contextlib.contextmanager
def transformers_server(folder: Path, *options: str, patience: float = 240.0) -> Iterator[str]:
    """`transformers serve` with a model while the block runs; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(sys.executable).with_name("transformers")
    command = [script, "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*map(str, command), "--dtype", "float32", "--default-seed", "0", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **quiet},
        )
        try:
            give_up = time.monotonic() + patience
            while not is_healthy(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > give_up:
                    log.seek(0)
                    raise RuntimeError(f"transformers serve does not start: {log.read()[-2000:]}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def questions(number: int, start: int = 0) -> list[Question]:
    return [
        Question(f"q{n}", f"Tom has {n} pens and buys {n + 2} more. How many has he?", str(2 * n + 2))
        for n in range(start, start + number)
    ]


def client_seconds(asked: Sequence[Question], ask: AskConfig) -> float:
    """What `kpod` needs for all, from questions to a store on the disk."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(open(os.devnull, "w")):  # noqa: PTH123
        start = time.perf_counter()
        ask_teacher(asked, ask, Path(folder) / "store.jsonl")
        return time.perf_counter() - start


def bare_seconds(asked: Sequence[Question], ask: AskConfig) -> float:
    """What the server needs for the same requests where nothing is made of the answers."""
    url = urlsplit(str(ask.base_url))
    calls = []
    for request in requests_for(asked, ask):
        body = json.dumps(chat_arguments(request, ask)).encode()
        head = f"POST {url.path}/chat/completions HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\n"
        calls.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    waiting = iter(calls)

    async def work() -> None:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        for call in waiting:
            writer.write(call)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b" 200 " in head.split(b"\r\n")[0], head
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        writer.close()

    async def load() -> float:
        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(min(ask.concurrency, len(calls)))))
        return time.perf_counter() - start

    return asyncio.run(load())


def library_seconds(asked: Sequence[Question], ask: AskConfig) -> float:
    """What the openai library needs, where nothing is made of the answers."""
    waiting = iter(requests_for(asked, ask))

    async def load() -> float:
        start = time.perf_counter()
        async with AsyncOpenAI(api_key="none", base_url=ask.base_url, max_retries=0, timeout=ask.timeout) as client:

            async def work() -> None:
                for request in waiting:
                    await client.chat.completions.with_raw_response.create(**chat_arguments(request, ask))

            await asyncio.gather(*(work() for _ in range(min(ask.concurrency, len(asked)))))
        return time.perf_counter() - start

    return asyncio.run(load())


CONTENDERS = {"client": client_seconds, "library": library_seconds, "bare": bare_seconds}


def compare(ask: AskConfig, number: int, rounds: int, names: Sequence[str]) -> list[dict[str, float]]:
    """All at every concurrency, in turns, every second round the other way round; the medians of all rounds."""
    for name in names:
        CONTENDERS[name](questions(2, 10**6), ask)
    found = []
    for concurrency in CONCURRENCIES:
        at = replace(ask, concurrency=concurrency)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            asked = questions(number, (len(found) * rounds + turn) * number)
            for name in names[:: 1 if turn % 2 else -1]:
                seconds[name].append(CONTENDERS[name](asked, at))
        pairs = list(zip(seconds["client"], seconds["bare"], strict=True))
        shares = [bare / client for client, bare in pairs]
        row: dict[str, float] = {"concurrency": concurrency}
        row |= {f"{name}/s": number / statistics.median(seconds[name]) for name in names}
        row |= {"share": statistics.median(shares), "lowest": min(shares), "highest": max(shares)}
        row["own ms"] = 1000 * statistics.median((client - bare) / number for client, bare in pairs)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--server", choices=("canned", "smollm2"), default="canned")
    parser.add_argument("--no-batching", action="store_true", help="smollm2: without continuous batching, in 1 GB")
    parser.add_argument("--requests", type=int, help="in a round; default: 400, smollm2: 24")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve-canned", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_canned:
        asyncio.run(serve_canned())
        return
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    if options.server == "canned":
        with canned_server() as url:
            ask = AskConfig(model="canned", base_url=url, timeout=600.0)
            rows = compare(ask, options.requests or 400, options.rounds, list(CONTENDERS))
    else:
        folder = smollm2_folder()
        with transformers_server(folder, *(() if options.no_batching else BATCHING)) as url:
            ask = AskConfig(model=str(folder), base_url=url, max_tokens=32, timeout=600.0)
            rows = compare(ask, options.requests or 24, options.rounds, ["client", "bare"])
    if options.json:
        versions = {name: importlib.metadata.version(name) for name in ("openai", "transformers")}
        print(json.dumps({"server": options.server, "batching": not options.no_batching, **versions, "rows": rows}))
        return
    print("requests per second; share: client / bare, median, lowest and highest round; own ms: more than bare, each")
    print(" | ".join(name.rjust(7) for name in rows[0]))
    for row in rows:
        print(" | ".join(f"{value:.3g}".rjust(max(7, len(name))) for name, value in row.items()))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
