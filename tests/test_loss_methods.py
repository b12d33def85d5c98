"""Whole runs of the methods whose loss is another than KPOD's."""

from pathlib import Path

import pytest

from kpod.experiment import artifacts
from kpod.experiment.methods import METHODS
from kpod.experiment.parts import Given, nll
from kpod.experiment.pipeline import Pipeline, run
from kpod.recipe import Recipe
from kpod.records.errors import ConfigError
from tiny_runs import recipe, write_tiny_data

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

FAST = ("rho-1",)
ROWS = [name for name, method in METHODS.items() if method.loss is not nll]
KINDS = {
    "plain": (),
    "bf16": ("--precision", "bf16"),
    "LoRA": ("--training.lora.rank", "2", "--training.lora.alpha", "4"),
    "accumulated": ("--training.per_device_train_batch_size", "2", "--training.gradient_accumulation_steps", "2"),
    "packed": ("--training.packing", "true"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each question but the last with two rationales."""
    folder = write_tiny_data(tmp_path_factory.mktemp("data"))
    rows = artifacts.read_jsonl(folder / "rationales.jsonl")[:6]
    again = [row | {"id": f"{row['id']}/1", "rationale": f"Let us see. {row['rationale']}"} for row in rows[:5]]
    artifacts.write_jsonl(folder / "rationales.jsonl", [*rows, *again])
    return folder


def losses_of(data: Path, runs: Path, method: str, student: str = "llama", *words: str) -> list[float]:
    asked = METHODS[method].loss.needs | METHODS[method].loss.run(Given([], {}, Recipe(), {})).needs
    if asked & {"teacher_logprobs", "own_texts"}:
        words = ("--teacher.logprobs.model", str(data / "llama"), "--training.on_policy.max_new_tokens", "4", *words)
    found = recipe(data, runs, student, "--method", method, "--evaluation.before", "false", *words)
    run(found)
    lines = artifacts.read_jsonl(runs / found.name / "student" / "metrics.jsonl")
    return [line["loss"] for line in lines]


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ROWS]
)
def test_a_method_of_another_loss_runs_through_every_phase(method: str, data: Path, tmp_path: Path) -> None:
    losses = losses_of(data, tmp_path, method)
    assert len(losses) == 4 if METHODS[method].curriculum else len(losses) >= 4 * 3
    assert all(-0.1 < loss < 20 for loss in losses)  # a top k that sums to less than 1 may come to less than 0
    assert (tmp_path / "tiny" / "reference").exists() is ("reference" in METHODS[method].loss.needs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["eaft", "rho-1", "mcc-kd"])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_such_a_method_runs_with_what_recipes_ask_for(method: str, kind: str, data: Path, tmp_path: Path) -> None:
    assert all(0 <= loss < 20 for loss in losses_of(data, tmp_path, method, "llama", *KINDS[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dft", "kpod-rho-1", "mcc-kd"])
def test_such_a_method_runs_on_an_encoder_decoder_student(method: str, data: Path, tmp_path: Path) -> None:
    assert all(0 <= loss < 20 for loss in losses_of(data, tmp_path, method, "t5"))


def test_a_reference_with_other_tokens_is_refused(data: Path, tmp_path: Path) -> None:
    found = Pipeline(recipe(data, tmp_path, "llama", "--method", "rho-1", "--training.reference", str(data / "t5")))
    with pytest.raises(ConfigError, match=r"training\.reference: its tokens are not the student's"):
        found.made("reference")


@pytest.mark.parametrize("method", ["mcc-kd", "step-by-step"])
def test_what_shares_a_batch_cannot_be_cut_by_tokens(method: str, data: Path, tmp_path: Path) -> None:
    """Refused before any phase is made."""
    found = recipe(data, tmp_path, "llama", "--method", method, "--training.tokens_per_batch", "999")
    with pytest.raises(ConfigError, match=r"training\.tokens_per_batch: the texts of a question share a batch"):
        Pipeline(found)
