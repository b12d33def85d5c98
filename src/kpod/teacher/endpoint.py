"""Ask any OpenAI-compatible endpoint: many requests at a time, with pauses after failures, and every answer saved."""

import asyncio
import contextlib
import json
import logging
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai

from kpod.recipe import AskConfig
from kpod.records.errors import TeacherError
from kpod.records.progress import ProgressBar
from kpod.records.signals import heeded
from kpod.teacher.attempts import Attempt, Outcome
from kpod.teacher.clients import ReplyError, asynchronous_client
from kpod.teacher.connection import (
    proxy_hint,
    shown,
    told,
    unreachable,
    url_of,
    why_unreachable,
)
from kpod.teacher.credentials import Credentials
from kpod.teacher.failures import Failure, in_answer, of_status
from kpod.teacher.replies import attempt_of
from kpod.teacher.requests import Request, chat_arguments
from kpod.teacher.streams import is_stream, joined

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before the first repetition, doubled each time, and at most."""
LONGEST_RETRY_AFTER = 900.0
"""Seconds that an endpoint may ask to wait; a run is stopped instead of sleeping longer."""


class Endpoint:
    """A server that is asked for one completion per request.

    Args:
        ask: The server and how it is asked.

    Raises:
        ConfigError: As `Credentials.of`; or if the server's URL is none.
    """

    def __init__(self, ask: AskConfig) -> None:
        self.ask_config = ask
        self._credentials = Credentials.of(ask)
        url_of(ask)

    def ask(self, requests: Sequence[Request], keep: Callable[[Attempt], None]) -> None:
        """Ask for every request; each attempt is handed to `keep` as soon as it is made.

        Ctrl-C and SIGTERM let the requests that are under way finish, which are paid for; a second one does not.

        Raises:
            ConfigError: If the environment's proxies or certificates cannot be used.
            TeacherError: If going on is of no use: the key or the model is refused, the account is empty, the endpoint
                cannot be reached or asks for too long a pause, or the budget of repetitions is spent.
        """

        def run() -> BaseException | None:
            return asyncio.run(_Session(self.ask_config, self._credentials, len(requests), keep).run(requests))

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            stopped = run()
        else:  # a notebook has a loop of its own in this thread
            with ThreadPoolExecutor(1) as thread:
                stopped = thread.submit(run).result()
        if stopped is not None:
            raise stopped


class _Session:
    """One run against an endpoint; lives and dies with an event loop, as its client must."""

    def __init__(self, ask: AskConfig, credentials: Credentials, number: int, keep: Callable[[Attempt], None]) -> None:
        self.config = ask
        self.credentials = credentials
        self.keep = keep
        self.repeats_left = ask.retry_budget if ask.retry_budget is not None else max(100, number)
        self.resume_at = 0.0
        self.stopped: BaseException | None = None
        self.stopping = asyncio.Event()
        self.client = asynchronous_client(ask, credentials)
        self.url = url_of(ask)

    async def run(self, requests: Sequence[Request]) -> BaseException | None:
        """Settle the requests; returns what stopped it, if anything did."""
        waiting = iter(requests)
        with (
            ProgressBar(total=len(requests), name="teacher", unit="requests") as progress,
            self._finishing_on_signals(),
        ):
            async with self.client:
                workers = range(min(self.config.concurrency, len(requests)))
                await asyncio.gather(*(self._work(waiting, progress) for _ in workers))
        return self.stopped

    def _stop(self, reason: BaseException) -> None:
        """Take no further request; those under way finish."""
        self.stopped = self.stopped or reason
        self.stopping.set()

    async def _rest(self, seconds: float) -> None:
        """Pause, unless the run is stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), max(0.0, seconds))

    async def _work(self, waiting: Iterator[Request], progress: ProgressBar) -> None:
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
            await asyncio.to_thread(self.keep, attempt)
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
            raise TeacherError(unreachable(attempt.detail, self.url))
        log.warning("question %r, sample %d: given up: %s", request.question_id, request.sample, attempt.detail)

    async def _ask_once(self, request: Request) -> tuple[Attempt, float | None]:
        """One attempt, and the pause that the endpoint asks for."""
        start = time.monotonic()
        attempt, wanted = await self._attempt(request)
        attempt = replace(attempt, form=request.form, seconds=round(time.monotonic() - start, 3))
        return self.credentials.cleaned(attempt), wanted

    async def _attempt(self, request: Request) -> tuple[Attempt, float | None]:
        arguments = chat_arguments(request, self.config)
        named = {name: arguments.pop(name) for name in ("model", "messages")}

        def failed(outcome: Outcome, detail: str) -> tuple[Attempt, None]:
            return Attempt(request.key, outcome, detail=self.credentials.scrubbed(detail)[:500]), None

        try:
            async with asyncio.timeout(self.config.timeout):  # httpx's own limits never end a slow trickle
                answer = await self.client.chat.completions.with_raw_response.create(**named, extra_body=arguments)
        except TimeoutError:
            return failed("timeout", f"no complete answer within {self.config.timeout:g} s")
        except openai.APIConnectionError as error:
            return failed(*self._unconnected(error))
        except openai.APIStatusError as error:
            return self._refused(request, of_status(error), str(error.response.request.url))
        except ReplyError as error:
            return failed("no completion", str(error))
        except UnicodeEncodeError as error:  # half a surrogate pair in the question
            return failed("bad request", f"it cannot be sent: {error}")
        try:
            text, kind = answer.text, answer.headers.get("content-type", "")
            body = joined(text) if is_stream(text, kind) else json.loads(text)
            failure, attempt = in_answer(body, answer.headers), attempt_of(request.key, body)
        except (ValueError, RecursionError) as error:  # a page of a proxy, or a body that breaks off
            page = f"; {shown(answer.url)} sent a web page" if answer.text.lstrip()[:1] == "<" else ""
            return failed("no completion", f"the answer is not JSON: {error}{page}")
        return (attempt, None) if failure is None else self._refused(request, failure, str(answer.url))

    def _unconnected(self, error: openai.APIConnectionError) -> tuple[Outcome, str]:
        """What a broken connection is; raises TeacherError where it will not pass."""
        if (why := why_unreachable(error, self.url)) is not None:
            raise TeacherError(why) from None
        cause = error.__cause__ or error
        if type(cause).__name__.startswith(("Connect", "Proxy")):
            return "no connection", told(cause)
        late = isinstance(error, openai.APITimeoutError)
        return "timeout" if late else "connection lost", told(cause) + proxy_hint(self.url)

    def _refused(self, request: Request, failure: Failure, url: str) -> tuple[Attempt, float | None]:
        """A refused request; raises TeacherError if every other request would be refused too."""
        hint = (
            proxy_hint(self.url) if failure.status in (403, 404, 405, 407) or failure.outcome == "server error" else ""
        )
        if failure.ends_run:
            raise TeacherError(self.credentials.scrubbed(f"{self._why(failure, url)}{hint}")) from None
        detail = self.credentials.scrubbed(f"{failure.told}{hint}")
        return Attempt(request.key, failure.outcome, detail=detail), failure.wait

    def _why(self, failure: Failure, url: str) -> str:
        """Why every request is refused, and what to look at."""
        start = f"the endpoint refuses the teacher: {failure.told}"
        if failure.no_money or failure.status not in (404, 405):
            return start
        model = rf"(?i)model|(?<![\w-]){re.escape(self.config.model)}(?![\w-])"
        if re.search(model, failure.words) or "model_not_found" in failure.names:
            return f"{start}; {shown(url)} has no model {self.config.model!r}: see teacher.ask.model"
        version = "" if re.search(r"/(v\d|deployments/)", url) else ", which usually ends in /v1"
        return f"{start}; there is nothing at {shown(url)}: see teacher.ask.base_url{version}"

    def _spend_repetition(self, attempt: Attempt) -> None:
        self.repeats_left -= 1
        if self.repeats_left < 0:
            raise TeacherError(
                "too many requests had to be repeated (teacher.ask.retry_budget), the last one after: "
                f"{attempt.outcome}, {attempt.detail}; finished answers are kept, run again to resume"
            )

    def _wait_for_all(self, seconds: float) -> None:
        if seconds > LONGEST_RETRY_AFTER:
            raise TeacherError(f"the endpoint asks to wait {seconds:.0f} s; run again after that")
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
            log.warning(
                "stopping: waiting for pending requests, which are paid for; send the signal again to drop them"
            )
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
