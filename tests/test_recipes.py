"""The recipes for models that people have: read, planned with a tiny model of their kind, and true about memory."""

import re
import sys
from pathlib import Path

import pytest

from kpod.commands.command_line import main
from kpod.experiment import artifacts
from kpod.recipe.loading import load_recipe
from tiers import tiered
from tiny import byte_tokenizer, tiny_rationales
from zoo import build_model

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import memory  # noqa: E402

KINDS = {
    "qwen2.5-1.5b": "qwen2",
    "llama-3.2-1b": "llama-tied",
    "smollm2-360m": "llama-tied",
    "flan-t5-large": "flan-t5",
    "r1-traces": "qwen2",
    "paper-llama-7b": "llama",
}
"""Recipe -> the tiny model of its student's architecture."""
PUBLISHED_SIZES = {
    "qwen2.5-1.5b": 1_543_714_304,
    "llama-3.2-1b": 1_235_814_400,
    "smollm2-360m": 361_821_120,
    "flan-t5-large": 783_150_080,
    "paper-llama-7b": 6_738_415_616,
}
"""Parameters, as the students' pages on the Hub have them."""


def path_of(name: str) -> Path:
    return ROOT / "recipes" / f"{name}.yaml"


@pytest.mark.parametrize("name", tiered(KINDS, slow=set(KINDS) - {"smollm2-360m", "flan-t5-large"}))
def test_a_recipe_is_planned_with_a_tiny_model_in_its_students_place(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From data that bring weights, since nothing is learnt of random models."""
    student, source = tmp_path / "student", tmp_path / "rationales.jsonl"
    model = build_model(KINDS[name])
    assert model.config.model_type == memory.config_of(load_recipe(path_of(name)).student).model_type
    model.save_pretrained(student)
    byte_tokenizer().save_pretrained(student)
    rows = [artifacts.rationale_row(one) | {"token_weights": [[0, 4, 0.5]]} for one in tiny_rationales()]
    artifacts.write_jsonl(source, rows)
    words = {
        "runs": tmp_path / "runs",
        "student": student,
        "data.train": source,
        "data.tests": f"[{source}]",
        "teacher.rationales": "null",
        "schedule.num_clusters": 2,
    }
    given = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    assert main(["plan", str(path_of(name)), *given]) == 0
    assert "| stage | budget D(t), nats |" in capsys.readouterr().out
    run = tmp_path / "runs" / name
    assert len(artifacts.load_schedule(run / "plan").ids) == 6
    assert (run / "schedule.html").is_file()


@pytest.mark.parametrize("name", tiered(KINDS, slow=set(KINDS) - {"smollm2-360m", "r1-traces"}))
def test_a_recipe_says_the_memory_and_time_that_are_computed(name: str) -> None:
    """If a key that they depend on changes, `python benchmarks/memory.py recipes/*.yaml` prints the new lines."""
    text = path_of(name).read_text(encoding="utf-8")
    assert "\n".join(memory.lines_of(load_recipe(path_of(name)))) in text
    assert text.startswith("# yaml-language-server: $schema=../docs/recipe.schema.json\n")
    table = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    found = memory.memory_of(load_recipe(path_of(name)))
    assert re.search(rf"`{name}\.yaml` \|.*\| {found.total:.0f} GB \| {found.card} GB \|", table)


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_the_students_that_are_computed_have_their_published_sizes(name: str) -> None:
    recipe = load_recipe(path_of(name))
    size = memory.whole_size(recipe, 1, 16)
    adapters = size.trained if recipe.training.lora else 0
    assert size.parameters - adapters == PUBLISHED_SIZES[name]


def test_adapters_of_a_known_size_are_counted() -> None:
    """Rank 64 in the seven matrices of LLaMA-7B's 32 layers: 64 (in + out) parameters each."""
    attention, feed_forward = 4 * 64 * (4096 + 4096), 3 * 64 * (4096 + 11008)
    size = memory.whole_size(load_recipe(path_of("paper-llama-7b")), 1, 16)
    assert size.trained == 32 * (attention + feed_forward)


@pytest.mark.parametrize("name", ["smollm2-360m", "flan-t5-large", "qwen2.5-1.5b"])
def test_two_layers_tell_what_four_keep(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(path_of(name))
    direct = memory.size_of(memory.config_of(recipe.student, 4), recipe, 2, 32)
    whole = memory.config_of
    monkeypatch.setattr(memory, "config_of", lambda student, layers=None: whole(student, layers or 4))
    assert memory.whole_size(recipe, 2, 32) == direct


def test_checkpointing_keeps_less_and_never_less_than_the_layers_inputs() -> None:
    recipe = load_recipe(path_of("r1-traces"))
    plain = load_recipe(path_of("r1-traces"), ["--training.activation_checkpointing", "false"])
    kept, all_of_it = (memory.whole_size(one, 1, 512) for one in (recipe, plain))
    assert 28 * kept.stream < kept.saved < all_of_it.saved
    assert (kept.parameters, kept.trained) == (all_of_it.parameters, all_of_it.trained)
