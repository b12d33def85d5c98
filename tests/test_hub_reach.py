import socket
import threading
from collections.abc import Iterator

import pytest

from kpod.data.hub import download
from kpod.lm.models import model_folder
from kpod.records import hub_reach
from kpod.records.errors import ConfigError
from kpod.records.hub_reach import check_hub_answers


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Hub that takes calls and answers none."""
    server = socket.create_server(("127.0.0.1", 0))
    calls: list[socket.socket] = []

    def take() -> None:
        try:
            while True:
                calls.append(server.accept()[0])
        except OSError:  # closed
            return

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub_reach, "LONGEST_WAIT", 0.2)
    check_hub_answers.cache_clear()
    yield endpoint
    check_hub_answers.cache_clear()
    server.close()
    for call in calls:
        call.close()


def test_a_hub_that_never_answers_is_named_for_data_and_models(silent: str):
    with pytest.raises(ConfigError, match=rf"the Hub \({silent}\) does not answer .* HF_HUB_OFFLINE=1"):
        next(download("me/set", None, "train"))
    with pytest.raises(ConfigError, match="does not answer"):
        model_folder("me/model")


def test_offline_and_out_of_reach_nothing_is_waited_for(silent: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_hub_answers()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens: the client itself fails at once
    check_hub_answers.cache_clear()
    check_hub_answers()
