"""Architectures that people use: the loss is transformers' own, and whole runs end."""

from pathlib import Path

import numpy as np
import pytest

from kpod.experiment.pipeline import Pipeline
from kpod.lm.decoding import continue_greedily
from tiers import tiered
from tiny import byte_tokenizer, tiny_tokens
from tiny_runs import recipe, write_tiny_data
from zoo import ZOO, build, build_model, loss_difference

DOZEN = [
    *("qwen3", "gemma2", "gemma3", "gpt-oss", "cohere2", "qwen3-moe", "lfm2", "qwen3.5", "falcon-h1", "bloom", "opt"),
    *("deepseek-v3", "flan-t5", "umt5", "bart", "mbart", "pegasus"),
]


SLOW = ["gpt-oss", "qwen3.5", "falcon-h1", "deepseek-v3", "umt5", "mbart", "pegasus"]
"""A mixture of experts, one with convolutions, a T5 and a BART are among those that stay fast."""


@pytest.mark.parametrize("name", tiered(DOZEN, SLOW))
def test_the_loss_is_transformers_own_and_a_batch_answers_as_one_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = build(name)
    tokens = [
        tiny_tokens(lm, "long", (20, 15), question=25, answer=3),
        tiny_tokens(lm, "short", (5, 4), question=8, closing=3),
    ]
    assert loss_difference(lm, tokens) < 1e-4
    monkeypatch.setattr("kpod.lm.head.LOGITS_PER_CHUNK", {"cpu": 5 * 264})
    assert loss_difference(lm, tokens) < 1e-4
    prompts = [one.ids("question") for one in tokens]
    assert continue_greedily(lm, prompts, 4) == [continue_greedily(lm, [prompt], 4)[0] for prompt in prompts]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "mt5", "umt5", "bart", "gpt-oss"])
def test_a_whole_run_from_rationales_to_accuracy(name: str, data: Path, tmp_path: Path) -> None:
    build_model(name).save_pretrained(data / name)
    byte_tokenizer().save_pretrained(data / name)
    brief = (
        "--weighting.observations",
        "8",
        "--weighting.masks",
        "6",
        "--training.num_train_epochs",
        "2",
        "--evaluation.before",
        "false",
    )
    pipeline = Pipeline(recipe(data, tmp_path, name, *brief))
    result = pipeline.run()
    assert pipeline.student.encoder_decoder == ZOO[name].encoder_decoder
    weights = np.concatenate(list(pipeline.weights.loss.values()))
    assert np.ptp(weights) > 0
    assert np.all((weights > 0) & (weights < 1))
    assert pipeline.schedule.ramp_stages >= 1
    assert [after.num_questions for _, after in result.accuracies] == [2]
    assert (result.folder / "student" / "model.safetensors").is_file()
