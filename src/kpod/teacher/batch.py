"""OpenAI's Batch API: requests go up in files, answers come back within a day, in any order and in two files.

A batch that was ordered is paid for. What was ordered is written down before it is (`<store>.batches.jsonl`), so that a
run that was killed at any moment finds its batches again instead of ordering them twice.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import openai
from openai import OpenAI

from kpod.config import AskConfig
from kpod.errors import TeacherError
from kpod.files import whole_lines, write_text
from kpod.teacher.attempts import Attempt
from kpod.teacher.endpoint import api_key
from kpod.teacher.replies import attempt_of
from kpod.teacher.requests import Request, chat_arguments

log = logging.getLogger(__name__)

REQUESTS_PER_BATCH = 10_000
ENDPOINT: Final = "/v1/chat/completions"
MARK = "kpod_order"
"""The name in a batch's metadata under which it carries its order's id."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class BatchApi:
    """Orders batches, waits for them, and reads both of their files.

    Args:
        ask: Whose API, and how often it is looked at.
        store: The store's path; the orders are kept beside it.

    Raises:
        ConfigError: If there is no API key.
    """

    def __init__(self, ask: AskConfig, store: Path) -> None:
        self.config = ask
        self._key = api_key(ask)
        self.client = OpenAI(api_key=self._key, base_url=ask.base_url, max_retries=ask.retries, timeout=ask.timeout)
        self.orders = store.with_name(f"{store.name}.batches.jsonl")

    def ask(self, requests: Sequence[Request], keep: Callable[[Attempt], None]) -> None:
        """Fetch what earlier runs ordered, order what is missing, and wait for it.

        Raises:
            TeacherError: If the API refuses a file or a batch, or a batch ends as failed.
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
                for number, (batch, keys) in enumerate(ordered.items(), start=1):
                    log.info("batch %d of %d: %s, %d requests", number, len(ordered), batch, len(keys))
                    self._fetch(batch, keys & wanted.keys(), keep)
            except openai.OpenAIError as error:
                raise TeacherError(f"the Batch API: {str(error).replace(self._key, '***')}") from None

    def _order(self, requests: Sequence[Request]) -> str:
        """Order a batch; returns its id. Its order is on the disk before it is sent."""
        order = {"order": uuid.uuid4().hex, "keys": [request.key for request in requests]}
        self._write(order)
        lines = "".join(
            json.dumps({"custom_id": r.key, "method": "POST", "url": ENDPOINT, "body": chat_arguments(r, self.config)})
            + "\n"
            for r in requests
        )
        file = self.client.files.create(file=("requests.jsonl", lines.encode()), purpose="batch")
        batch = self.client.with_options(max_retries=0).batches.create(  # a repetition might order it twice
            input_file_id=file.id,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={MARK: str(order["order"])},
        )
        self._write({"order": order["order"], "batch": batch.id})
        return batch.id

    def _known_batches(self) -> Iterator[tuple[str, set[str]]]:
        """The batches of earlier runs that have not been read to their end, with their requests' keys."""
        keys: dict[str, set[str]] = {}
        batches: dict[str, str] = {}
        read: set[str] = set()
        for row in map(json.loads, whole_lines(self.orders) if self.orders.exists() else ()):
            if "keys" in row:
                keys[row["order"]] = set(row["keys"])
            if "batch" in row:
                batches[row["order"]] = row["batch"]
            if "read" in row:
                read.add(row["read"])
        lost = keys.keys() - batches.keys()
        if lost:  # killed between ordering and writing the batch's id down
            for batch in self.client.batches.list():
                order = (batch.metadata or {}).get(MARK)
                if order in lost:
                    batches[order] = batch.id
                    self._write({"order": order, "batch": batch.id})
        yield from ((batch, keys[order]) for order, batch in batches.items() if batch not in read)

    def _fetch(self, batch_id: str, keys: set[str], keep: Callable[[Attempt], None]) -> None:
        """Wait for a batch and keep what it says of these requests; those it says nothing of stay unanswered."""
        while (batch := self.client.batches.retrieve(batch_id)).status not in ENDED:
            counts = batch.request_counts
            log.info(
                "batch %s: %s, %s of %s", batch_id, batch.status, counts and counts.completed, counts and counts.total
            )
            time.sleep(self.config.poll_seconds)
        told: set[str] = set()
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self.client.files.content(file_id).text.splitlines():
                if line.strip():
                    attempt = self._attempt(json.loads(line))
                    if attempt.key in keys - told:
                        keep(attempt)
                        told.add(attempt.key)
        self._write({"read": batch_id})
        if len(told) < len(keys):
            log.warning(
                "batch %s ended as %s and leaves %d requests open", batch_id, batch.status, len(keys) - len(told)
            )
        if batch.status == "failed" and not told:
            errors = "; ".join(e.message or "" for e in (batch.errors and batch.errors.data) or ())
            raise TeacherError(f"batch {batch_id} failed: {errors or 'no reason was given'}")

    def _attempt(self, row: Any) -> Attempt:
        """A line of an output or error file."""
        key, response, error = str(row.get("custom_id")), row.get("response") or {}, row.get("error")
        body = response.get("body")
        if response.get("status_code") == 200:
            return attempt_of(key, body)
        status = response.get("status_code") or 0
        inner = error or (body or {}).get("error") or {}
        detail = f"{status or ''} {inner.get('message') or inner.get('code') or 'no reason was given'}".strip()
        return Attempt(key, "bad request" if 400 <= status < 500 and status != 429 else "server error", detail=detail)

    def _write(self, row: dict[str, Any]) -> None:
        """Add a line to the orders; it is on the disk when this returns."""
        lines = whole_lines(self.orders) if self.orders.exists() else []
        write_text(self.orders, "".join(f"{line}\n" for line in [*lines, json.dumps(row)]))
