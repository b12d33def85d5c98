"""What every test shares: one torch thread, and no network."""

import gc
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

settings.register_profile("kpod", deadline=None, max_examples=50)  # a busy machine is not a broken law
settings.load_profile("kpod")


def pytest_collection_finish() -> None:
    """Put all libraries aside, or every training would search them for garbage."""
    gc.freeze()


@pytest.fixture
def in_the_foreground():
    """Python's own handler of Ctrl-C; a shell has what it runs in the background ignore it, the tests too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
