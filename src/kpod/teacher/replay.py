"""A recorded teacher: the attempts of another store, by the requests' keys."""

from collections.abc import Callable, Sequence
from pathlib import Path

from kpod.recipe import AskConfig
from kpod.records.errors import ConfigError
from kpod.teacher.attempts import Attempt
from kpod.teacher.requests import Request
from kpod.teacher.store import read_store


class Replay:
    """Answers what has been answered before, and nothing else.

    Args:
        ask: `replay` names the store.

    Raises:
        ConfigError: If there is no such file.
        DataError: If it is no store.
    """

    def __init__(self, ask: AskConfig) -> None:
        path = Path(ask.replay or "")
        if not path.is_file():
            raise ConfigError(f"teacher.ask.replay: there is no file {path}")
        self.recorded = read_store(path)

    def ask(self, requests: Sequence[Request], keep: Callable[[Attempt], None]) -> None:
        """Hand over the recorded attempts of these requests; the others stay unanswered."""
        for request in requests:
            if request.key in self.recorded:
                keep(self.recorded[request.key])
