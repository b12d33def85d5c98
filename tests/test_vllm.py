"""The real vLLM writes what transformers writes. CONTRIBUTING.md says how to install it, a GPU is not needed."""

import os

import pytest
import torch

pytest.importorskip("vllm")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; read when vLLM starts, without effect on a GPU
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from kpod.lm.decoding import continue_greedily
from kpod.lm.engines import VllmModel, load_vllm
from kpod.lm.models import load_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # vLLM and what it imports warn
STUDENT = "smollm2-135m"
TEXTS = (
    "Question: What is 2 + 3?\nAnswer: Let us think.",
    "The capital of France is",
    "Tom has 3 apples and buys 4 more. He now has",
    "Question: A pen costs 2 dollars. How much do 6 pens cost?\nAnswer:",
)


@pytest.fixture(scope="module")
def student() -> VllmModel:
    return load_vllm(STUDENT)


@pytest.fixture(scope="module")
def prompts(student: VllmModel) -> list[list[int]]:
    return [list(student.tokenizer(text)["input_ids"]) for text in TEXTS]


def test_greedily_vllm_writes_what_transformers_writes(student: VllmModel, prompts: list[list[int]]) -> None:
    found = [texts[0] for texts in student.continue_prompts(prompts, 48)]
    with torch.random.fork_rng():
        expected = continue_greedily(load_model(STUDENT), prompts, 48)
    assert found == expected
    assert {one.finished for one in found} == {True, False}, "both endings should be compared"


def test_draws_are_decided_by_the_seed_alone(student: VllmModel, prompts: list[list[int]]) -> None:
    """A prompt's draws do not depend on what else is asked; other seeds draw other texts."""
    together = student.continue_prompts(prompts, 16, number=3, temperature=1.0, seed=5)
    assert student.continue_prompts(prompts, 16, number=3, temperature=1.0, seed=5) == together
    assert student.continue_prompts(prompts[2:3], 16, number=3, temperature=1.0, seed=7) == together[2:3]
    assert student.continue_prompts(prompts, 16, number=3, temperature=1.0, seed=6) != together
    assert all(len({one.token_ids for one in texts}) == 3 for texts in together)
