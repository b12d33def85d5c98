"""OpenAI's Batch API: requests go up in files, answers come back within a day, in any order and in two files.

A batch that was ordered is paid for. What was ordered is written down before it is (`<store>.batches.jsonl`), so that a
run that was killed at any moment finds its batches again instead of ordering them twice.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

import httpx2
import openai
from openai.pagination import SyncCursorPage
from openai.types import Batch, FileObject

from kpod.recipe import AskConfig
from kpod.records.errors import TeacherError
from kpod.records.files import whole_lines, write_text
from kpod.teacher.attempts import Attempt, Outcome
from kpod.teacher.clients import LONGEST_REPLY, ReplyError, synchronous_client
from kpod.teacher.connection import told, unreachable, url_of, why_unreachable
from kpod.teacher.credentials import Credentials
from kpod.teacher.failures import Failure, in_answer, of_status
from kpod.teacher.replies import attempt_of
from kpod.teacher.requests import Request, chat_arguments
from kpod.teacher.store import attempts_by_key

log = logging.getLogger(__name__)

REQUESTS_PER_BATCH = 10_000
ENDPOINT: Final = "/v1/chat/completions"
MARK = "kpod_order"
"""The name in a batch's metadata under which it carries its order's id."""
LONGEST_FILE = 4 << 30
"""Bytes of an output file: 10 000 answers of 400 kB each."""
LONGEST_DOWNLOAD = 3600.0
"""Seconds for such a file."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class BatchApi:
    """Orders batches, waits for them, and reads both of their files.

    Args:
        ask: Whose API, and how often it is looked at.
        store: The store's path; the orders are kept beside it.

    Raises:
        ConfigError: If there is no API key, or the environment's proxies or certificates cannot be used.
    """

    def __init__(self, ask: AskConfig, store: Path) -> None:
        self.config = ask
        self._credentials = Credentials.of(ask)
        self.client = synchronous_client(ask, self._credentials)
        self.store = store
        self.orders = store.with_name(f"{store.name}.batches.jsonl")
        self._forms: dict[str, str] = {}

    def ask(self, requests: Sequence[Request], keep: Callable[[Attempt], None]) -> None:
        """Fetch what earlier runs ordered, order what is missing, and wait for it.

        A batch that answers one of the requests is read to its end: what it says of others, that another recipe ordered
        for the same store, is paid for and kept too. The other batches are left to those who wait for them.

        Raises:
            TeacherError: If the API refuses a file or a batch, sends something else, or a batch ends as failed.
        """
        wanted = {request.key: request for request in requests}
        with self.client:
            try:
                ordered = dict(self._known_batches())
                under_way = {key for keys in ordered.values() for key in keys}
                missing = [request for key, request in wanted.items() if key not in under_way]
                for start in range(0, len(missing), REQUESTS_PER_BATCH):
                    part = missing[start : start + REQUESTS_PER_BATCH]
                    ordered[self._order(part)] = {request.key for request in part}
                concerned = {batch: keys for batch, keys in ordered.items() if keys & wanted.keys()}
                for number, (batch, keys) in enumerate(concerned.items(), start=1):
                    log.info("batch %d of %d: %s, %d requests", number, len(concerned), batch, len(keys))
                    self._fetch(batch, keys, keep)
            except (
                openai.OpenAIError,
                httpx2.HTTPError,
                json.JSONDecodeError,
            ) as error:  # broken JSON reaches us as it is
                raise TeacherError(f"the Batch API: {self._why(error)}; see {self.orders}") from None

    def _order(self, requests: Sequence[Request]) -> str:
        """Order a batch; returns its id. Its order is on the disk before it is sent."""
        order = {"order": uuid.uuid4().hex, "keys": [request.key for request in requests], "form": requests[0].form}
        self._write(order)
        lines = "".join(
            json.dumps({"custom_id": r.key, "method": "POST", "url": ENDPOINT, "body": chat_arguments(r, self.config)})
            + "\n"
            for r in requests
        )
        file = self.client.files.create(file=("requests.jsonl", lines.encode()), purpose="batch")
        if not isinstance(file, FileObject):
            raise self._no_answer(file)
        batch = self.client.with_options(max_retries=0).batches.create(  # a repetition might order it twice
            input_file_id=file.id,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={MARK: str(order["order"])},
        )
        if not isinstance(batch, Batch):
            raise self._no_answer(batch)
        self._write({"order": order["order"], "batch": batch.id})
        self._forms[batch.id] = requests[0].form
        return batch.id

    def _known_batches(self) -> Iterator[tuple[str, set[str]]]:
        """The batches of earlier runs that have not been read to their end, with their requests' keys."""
        keys: dict[str, set[str]] = {}
        forms: dict[str, str] = {}
        batches: dict[str, str] = {}
        read: set[str] = set()
        for row in map(json.loads, self._lines()):
            if "keys" in row:
                keys[row["order"]], forms[row["order"]] = set(row["keys"]), row.get("form", "")
            if "batch" in row:
                batches[row["order"]] = row["batch"]
            if "read" in row:
                read.add(row["read"])
        lost = keys.keys() - batches.keys()
        if lost:  # killed between ordering and writing the batch's id down
            for batch in self._batches():
                order = (batch.metadata or {}).get(MARK)
                if order in lost:
                    batches[order] = batch.id
                    self._write({"order": order, "batch": batch.id})
        self._forms |= {batch: forms[order] for order, batch in batches.items()}
        yield from ((batch, keys[order]) for order, batch in batches.items() if batch not in read)

    def _batches(self) -> SyncCursorPage[Batch]:
        try:
            return self.client.batches.list(limit=100)
        except AttributeError:  # the client's own way of not understanding a proxy's page
            raise self._no_answer("a list of batches that is none") from None

    def _fetch(self, batch_id: str, keys: set[str], keep: Callable[[Attempt], None]) -> None:
        """Wait for a batch and keep what it says of its requests; those it says nothing of stay unanswered."""
        batch = self._ended(batch_id)
        recorded = attempts_by_key(self.store)  # a run that was killed while it read the batch has kept some of it
        open_keys = set(keys)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            for attempt in self._attempts(file_id, self._forms.get(batch_id, "")):
                if attempt.key in open_keys:
                    open_keys.discard(attempt.key)
                    if attempt not in recorded.get(attempt.key, ()):
                        keep(attempt)
        self._write({"read": batch_id})
        if open_keys:
            log.warning("batch %s ended as %s and leaves %d requests open", batch_id, batch.status, len(open_keys))
        if batch.status == "failed" and len(open_keys) == len(keys):
            errors = "; ".join(e.message or "" for e in (batch.errors and batch.errors.data) or ())
            raise TeacherError(
                f"batch {batch_id} failed: {self._credentials.scrubbed(errors) or 'no reason was given'}"
            )

    def _ended(self, batch_id: str) -> Batch:
        """Wait for the end of a batch."""
        while True:
            batch = self.client.batches.retrieve(batch_id)
            if not isinstance(batch, Batch):
                raise self._no_answer(batch)
            if batch.status in ENDED:
                return batch
            done, total = (c := batch.request_counts) and c.completed, c and c.total
            log.info("batch %s: %s, %s of %s", batch_id, batch.status, done, total)
            time.sleep(self.config.poll_seconds)

    def _attempts(self, file_id: str, form: str) -> Iterator[Attempt]:
        """What an output or error file says; a line that is none is skipped, and its request stays unanswered."""
        with TemporaryFile() as file:
            self._download(file_id, file)
            for line in iter(lambda: file.readline(LONGEST_REPLY), b""):  # JSON may hold other line ends in a text
                try:
                    row = json.loads(line) if line.strip() else None
                except (ValueError, RecursionError):
                    log.warning("file %s of the Batch API: a line is no JSON", file_id)
                    continue
                if isinstance(row, Mapping):
                    yield self._credentials.cleaned(replace(self._attempt(row), form=form))

    def _download(self, file_id: str, file: IO[bytes]) -> None:
        ends, length = time.monotonic() + LONGEST_DOWNLOAD, 0
        with self.client.files.with_streaming_response.content(file_id) as response:
            for part in response.iter_bytes():
                length += len(part)
                if length > LONGEST_FILE:
                    raise ReplyError(f"file {file_id} is longer than {LONGEST_FILE >> 30} GiB")
                if time.monotonic() > ends:
                    raise ReplyError(f"file {file_id} did not come within {LONGEST_DOWNLOAD:g} s")
                file.write(part)
        file.seek(0)

    def _attempt(self, row: Mapping[str, Any]) -> Attempt:
        """A line of an output or error file."""
        key, response = str(row.get("custom_id")), _mapping(row.get("response"))
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            failure = in_answer(body)
            if failure is None:
                return attempt_of(key, body)
        else:
            error = row.get("error") or _mapping(body).get("error") or {}
            words = error if isinstance(error, str) else _mapping(error).get("message") or _mapping(error).get("code")
            failure = Failure(status if isinstance(status, int) else None, str(words or ""))
        detail = f"{failure.status or ''} {failure.words or 'no reason was given'}".strip()
        return Attempt(key, _outcome_of(failure), detail=self._credentials.scrubbed(detail)[:500])

    def _why(self, error: Exception) -> str:
        """What went wrong, and what to do."""
        if isinstance(error, openai.APIStatusError):
            return self._credentials.scrubbed(of_status(error).told)
        if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
            url = url_of(self.config)
            return why_unreachable(error, url) or unreachable(told(error.__cause__ or error), url)
        return self._credentials.scrubbed(str(error))

    def _no_answer(self, given: object) -> TeacherError:
        return TeacherError(f"the Batch API sent {self._credentials.scrubbed(str(given))[:200]!r}; see {self.orders}")

    def _write(self, row: dict[str, Any]) -> None:
        """Add a line to the orders; it is on the disk when this returns."""
        write_text(self.orders, "".join(f"{line}\n" for line in [*self._lines(), json.dumps(row)]))

    def _lines(self) -> list[str]:
        return whole_lines(self.orders) if self.orders.exists() else []


def _outcome_of(failure: Failure) -> Outcome:
    """What a failed line means; a refused key or model is mended elsewhere, so that its requests stay open."""
    return "server error" if failure.ends_run or failure.status is None else failure.outcome


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
