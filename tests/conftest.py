"""What every test shares: one torch thread, and no network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

settings.register_profile("kpod", deadline=None, max_examples=50)  # a busy machine is not a broken law
settings.load_profile("kpod")
