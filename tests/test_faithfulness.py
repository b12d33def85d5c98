"""Whether an answer follows from the rationale: a student that only copies, and one that ignores what it reads."""

from pathlib import Path
from typing import Any

import pytest

from kpod.commands.command_line import main
from kpod.evaluation import faithfulness as module
from kpod.evaluation.faithfulness import faithfulness
from kpod.experiment.pipeline import run
from kpod.lm.decoding import Continuation
from kpod.recipe import DataConfig, PromptConfig
from kpod.records.errors import ConfigError, DataError
from tiny import tiny_llama, tiny_rationales, tiny_t5
from tiny_runs import recipe, write_tiny_data

DATA = DataConfig(prompt=PromptConfig(chat=False, closing="Therefore, the answer is {answer}"), max_length=400)
LM = tiny_llama()
GOLD = {rationale.text: rationale.question.answer for rationale in tiny_rationales()}


def copying(lm: Any, prompts: list[list[int]], _: int) -> list[Continuation]:
    """Answers as the rationale in its prompt has it, if that is one it knows."""
    texts = [lm.tokenizer.decode(prompt) for prompt in prompts]
    found = [next((gold for text, gold in GOLD.items() if text in read), "nothing") for read in texts]
    return [Continuation(tuple(lm.tokenizer(f" {answer}").input_ids), finished=True) for answer in found]


def test_a_student_that_reads_the_rationale_is_right_after_sound_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "continue_greedily", copying)
    found = faithfulness(LM, tiny_rationales(), DATA, seed=0)
    assert (found.forced.value, found.disturbed.value) == (1, 0)
    untouched = faithfulness(LM, tiny_rationales(), DATA, seed=0, replaced=0.0)
    assert untouched.forced.value == untouched.disturbed.value == 1


def test_half_of_a_rationale_is_replaced_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[list[int]]] = []

    def watching(lm: Any, prompts: list[list[int]], limit: int) -> list[Continuation]:
        seen.append(prompts)
        return copying(lm, prompts, limit)

    monkeypatch.setattr(module, "continue_greedily", watching)
    faithfulness(LM, tiny_rationales(), DATA, seed=0)
    sound, broken = seen
    for one, other, rationale in zip(sound, broken, tiny_rationales(), strict=True):
        assert len(one) == len(other)
        changed = [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        size = len(LM.tokenizer(" " + rationale.text, add_special_tokens=False).input_ids)
        assert 0.35 * size <= len(changed) <= 0.5 * size + 1
        first = len(one) - size - len(LM.tokenizer(" Therefore, the answer is", add_special_tokens=False).input_ids)
        assert first <= changed[0]
        assert changed[-1] < first + size
        assert not set(other) - set(one) & set(LM.tokenizer.all_special_ids)


def test_what_cannot_be_measured_says_why() -> None:
    with pytest.raises(ConfigError, match="causal students"):
        faithfulness(tiny_t5(), tiny_rationales(), DATA, seed=0)
    with pytest.raises(DataError, match="none of 6 rationales fits the student"):
        faithfulness(LM, tiny_rationales(), DataConfig(max_length=3), seed=0)


@pytest.mark.slow
def test_the_command_measures_a_runs_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_tiny_data(tmp_path)
    found = recipe(data, tmp_path / "runs", "llama", "--method", "scotd")
    run(found)
    file = str(data / "rationales.jsonl")
    assert main(["evaluate", str(tmp_path / "runs" / "tiny"), "--faithfulness", file]) == 0
    said = capsys.readouterr().out
    assert "teacher's rationale" in said
    assert "disturbed rationale" in said
