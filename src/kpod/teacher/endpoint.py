"""Any OpenAI-compatible endpoint: many requests under way, failures waited out, and what was answered kept at once."""

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
from openai import AsyncOpenAI
from tqdm import tqdm

from kpod.config import AskConfig
from kpod.errors import ConfigError, TeacherError
from kpod.signals import heeded
from kpod.teacher.attempts import Attempt, Outcome
from kpod.teacher.failures import NO_KEY, ends_run, outcome_of, retry_after, scrubbed, told
from kpod.teacher.replies import attempt_of
from kpod.teacher.requests import Request, chat_arguments

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before the first repetition, doubled each time, and at most."""
LONGEST_CONNECTING = 20.0
"""Seconds until a server that does not even take the call counts as out of reach."""
LONGEST_RETRY_AFTER = 900.0
"""Seconds that an endpoint may ask to wait; a run is stopped instead of sleeping longer."""
BAD_REQUESTS = 5
"""So many refused requests before any other answer stop the run: all would be."""
SHORTEST_SECRET = 16
"""Letters of the key from which it is also taken out of answers; servers of one's own are given words like EMPTY."""


def api_key(ask: AskConfig) -> str:
    """The key from the environment; a placeholder for servers of one's own, which want none.

    Raises:
        ConfigError: If it is missing and the endpoint is OpenAI's, or cannot be sent.
    """
    key = os.environ.get(ask.api_key_variable, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise ConfigError(
            f"the environment variable {ask.api_key_variable} (teacher.ask.api_key_variable) holds what no API key can "
            "hold, such as a blank or a letter outside ASCII; copy the key again"
        )
    if not key and ask.base_url is None and not os.environ.get("OPENAI_BASE_URL"):
        raise ConfigError(
            f"the environment variable {ask.api_key_variable} (teacher.ask.api_key_variable) holds no API key; set it, "
            "or name a server of your own under teacher.ask.base_url"
        )
    return key or NO_KEY


class Endpoint:
    """A server that is asked for one completion per request.

    Args:
        ask: The server and how it is asked.

    Raises:
        ConfigError: As `api_key`; or if the server's URL is none.
    """

    def __init__(self, ask: AskConfig) -> None:
        self.ask_config = ask
        self._key = api_key(ask)
        url = ask.base_url or os.environ.get("OPENAI_BASE_URL")
        if url and not _is_url(url):
            raise ConfigError(
                "teacher.ask.base_url (or OPENAI_BASE_URL) must be a URL such as http://127.0.0.1:8000/v1"
            )

    def ask(self, requests: Sequence[Request], keep: Callable[[Attempt], None]) -> None:
        """Ask for every request; each attempt is handed to `keep` as soon as it is made.

        Ctrl-C and SIGTERM let the requests that are under way finish, which are paid for; a second one does not.

        Raises:
            TeacherError: If going on is of no use: the key or the model is refused, the account is empty, the endpoint
                cannot be reached or asks for too long a pause, or the budget of repetitions is spent.
        """

        def run() -> BaseException | None:
            return asyncio.run(_Session(self.ask_config, self._key, len(requests), keep).run(requests))

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            stopped = run()
        else:  # a notebook has a loop of its own in this thread
            with ThreadPoolExecutor(1) as thread:
                stopped = thread.submit(run).result()
        if stopped is not None:
            raise stopped


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port above 65535, half an IPv6 address
        return False


class _Session:
    """One run against an endpoint; lives and dies with an event loop, as its client must."""

    def __init__(self, ask: AskConfig, key: str, number: int, keep: Callable[[Attempt], None]) -> None:
        self.config = ask
        self.key = key
        self.keep = keep
        self.repeats_left = ask.retry_budget if ask.retry_budget is not None else max(100, number)
        self.resume_at = 0.0
        self.refused_first: list[Attempt] | None = []
        self.stopped: BaseException | None = None
        self.stopping = asyncio.Event()
        timeout = openai.Timeout(ask.timeout, connect=min(ask.timeout, LONGEST_CONNECTING))
        self.client = AsyncOpenAI(api_key=key, base_url=ask.base_url, max_retries=0, timeout=timeout)

    async def run(self, requests: Sequence[Request]) -> BaseException | None:
        """Settle the requests; returns what stopped it, if anything did."""
        waiting = iter(requests)
        with tqdm(total=len(requests), desc="teacher", unit=" requests") as progress, self._finishing_on_signals():
            async with self.client:
                workers = range(min(self.config.concurrency, len(requests)))
                await asyncio.gather(*(self._work(waiting, progress) for _ in workers))
                if self.stopped is None:
                    await self._keep_refused()
        return self.stopped

    def _stop(self, reason: BaseException) -> None:
        """Take no further request; those under way finish."""
        self.stopped = self.stopped or reason
        self.stopping.set()

    async def _rest(self, seconds: float) -> None:
        """Pause, unless the run is stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), max(0.0, seconds))

    async def _work(self, waiting: Iterator[Request], progress: "tqdm[Any]") -> None:
        """Take requests, one after the other, until there is none or the run is stopped."""
        for request in waiting:
            if self.stopped is None:
                try:
                    await self._settle(request)
                except Exception as error:  # raised again once the others have finished
                    self._stop(error)
            if self.stopped is not None:
                return
            progress.update()

    async def _settle(self, request: Request) -> None:
        """Ask until there is an answer, no repetition is left, or the run is stopped."""
        for repetition in range(self.config.retries + 1):
            while self.stopped is None and (pause := self.resume_at - time.monotonic()) > 0:
                await self._rest(pause)
            if self.stopped is not None:  # perhaps during the pause: what is not under way is not begun
                return
            attempt, wanted = await self._ask_once(request)
            await self._keep(attempt)
            if attempt.settled:
                return
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**repetition) * random.uniform(0.75, 1.25)
            if wanted is not None:
                self._wait_for_all(wanted)
                pause = max(pause, wanted)
            if repetition < self.config.retries:
                self._spend_repetition(attempt)
                await self._rest(pause)
        if attempt.outcome == "no connection":
            raise TeacherError(f"the endpoint cannot be reached: {attempt.detail}; start it and run again")
        log.warning("question %r, sample %d: given up: %s", request.question_id, request.sample, attempt.detail)

    async def _ask_once(self, request: Request) -> tuple[Attempt, float | None]:
        """One attempt, and the pause that the endpoint asks for."""
        start = time.monotonic()

        def failed(outcome: Outcome, detail: object) -> Attempt:
            text = scrubbed(str(detail), self.key)[:500]
            return Attempt(request.key, outcome, seconds=round(time.monotonic() - start, 3), detail=text)

        try:
            async with asyncio.timeout(self.config.timeout):  # httpx's own limits never end a slow trickle
                arguments = chat_arguments(request, self.config)
                answer = await self.client.chat.completions.with_raw_response.create(**arguments)
        except TimeoutError:
            return failed("timeout", f"no whole answer within {self.config.timeout:g} s"), None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            name = type(cause).__name__
            late: Outcome = "timeout" if isinstance(error, openai.APITimeoutError) else "connection lost"
            return failed("no connection" if name.startswith("Connect") else late, str(cause) or name), None
        except openai.APIStatusError as error:
            return failed(self._outcome_of(error), told(error)), retry_after(error)
        except UnicodeEncodeError as error:  # half a surrogate pair in the question
            return failed("bad request", f"it cannot be sent: {error}"), None
        try:
            text = answer.text if len(self.key) < SHORTEST_SECRET else scrubbed(answer.text, self.key)
            body = json.loads(text)
        except (ValueError, RecursionError) as error:  # a page of a proxy, or a body that breaks off
            return failed("no completion", f"the answer is no JSON: {error}"), None
        return attempt_of(request.key, body, time.monotonic() - start), None

    def _outcome_of(self, error: openai.APIStatusError) -> Outcome:
        """What a status means; raises TeacherError where every other request would fare alike."""
        if ends_run(error):
            raise TeacherError(f"the endpoint refuses the teacher: {scrubbed(told(error), self.key)}") from None
        return outcome_of(error)

    async def _keep(self, attempt: Attempt) -> None:
        """Hand an attempt on; refused requests only once another answer shows that not every one is refused.

        Where all are, what is wrong stands in the recipe, and the requests are asked again when it is mended.
        """
        if attempt.outcome == "bad request" and self.refused_first is not None:
            self.refused_first.append(attempt)
            if len(self.refused_first) >= BAD_REQUESTS:
                raise TeacherError(f"the endpoint refused the first {BAD_REQUESTS} requests: {attempt.detail}")
            return
        if attempt.settled:
            await self._keep_refused()
        await asyncio.to_thread(self.keep, attempt)

    async def _keep_refused(self) -> None:
        held, self.refused_first = self.refused_first or (), None
        for attempt in held:
            await asyncio.to_thread(self.keep, attempt)

    def _spend_repetition(self, attempt: Attempt) -> None:
        self.repeats_left -= 1
        if self.repeats_left < 0:
            raise TeacherError(
                "too many requests had to be repeated (teacher.ask.retry_budget), the last one after: "
                f"{attempt.outcome}, {attempt.detail}; what was answered is kept, run again to go on"
            )

    def _wait_for_all(self, seconds: float) -> None:
        if seconds > LONGEST_RETRY_AFTER:
            raise TeacherError(f"the endpoint asks to wait {seconds:.0f} s; run again then")
        self.resume_at = max(self.resume_at, time.monotonic() + seconds)

    @contextlib.contextmanager
    def _finishing_on_signals(self) -> Iterator[None]:
        """While active, the first signal lets what is under way finish; the second does what it always did."""
        loop = asyncio.get_running_loop()
        heard: list[signal.Signals] = []
        before = heeded(signal.SIGINT, signal.SIGTERM)

        def stop(number: signal.Signals) -> None:
            heard.append(number)
            if len(heard) > 1:  # the loop hears of every signal; a handler may sleep as long as the loop does
                restore()
                signal.raise_signal(number)
                return
            log.warning("stopping: waiting for the requests under way, which are paid for; once more to drop them")
            self._stop(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))

        def restore() -> None:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

        try:
            for number in before:
                loop.add_signal_handler(number, stop, number)
        except (NotImplementedError, RuntimeError, ValueError):  # not the main thread: signals are not ours
            yield
            return
        try:
            yield
        finally:
            restore()
