"""vLLM behind the calls that transformers answers, driven through a stand-in for the package, which needs a GPU."""

import importlib.machinery
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from kpod.evaluation.generation import answer_questions
from kpod.experiment.keys import evaluation_key
from kpod.experiment.pipeline import Pipeline
from kpod.lm.decoding import continue_greedily
from kpod.lm.engines import ENGINES, load_vllm
from kpod.lm.models import load_model
from kpod.lm.student_prompts import prompt_ids
from kpod.recipe import EvaluationConfig, PromptConfig, Recipe
from kpod.records.errors import ConfigError
from tiny import END, tiny_llama, tiny_rationales, tiny_t5
from tiny_runs import recipe, write_tiny_data

PROMPT = PromptConfig(question="Q: {question} A:", cot_prompt="", closing="The answer is {answer}")
QUESTIONS = [rationale.question for rationale in tiny_rationales()]
STOP = 65
"""A second end token, of the checkpoint's settings; the tiny student writes it before long."""


@dataclass
class SamplingParams:
    """Of vLLM's, what is used here; an unknown argument is a TypeError there too."""

    n: int = 1
    temperature: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: Sequence[int] = ()
    detokenize: bool = True


class LLM:
    """One token at a time, without a cache, with the seeds and the endings of vLLM."""

    made: list["LLM"]

    def __init__(self, model: str, dtype: str, generation_config: str) -> None:
        assert generation_config == "vllm"
        self.lm = load_model(model, {"float32": "fp32", "bfloat16": "bf16"}[dtype])
        self.asked: list[SamplingParams] = []
        LLM.made.append(self)

    def generate(
        self, prompts: Sequence[Mapping[str, list[int]]], sampling_params: Sequence[SamplingParams], *, use_tqdm: bool
    ) -> list[SimpleNamespace]:
        assert not use_tqdm
        self.asked += sampling_params
        return [
            SimpleNamespace(outputs=[self.text(prompt["prompt_token_ids"], params, child) for child in range(params.n)])
            for prompt, params in zip(prompts, sampling_params, strict=True)
        ]

    @torch.no_grad()
    def text(self, prompt: list[int], params: SamplingParams, child: int) -> SimpleNamespace:
        assert params.temperature or params.n == 1, "n must be 1 when using greedy sampling"
        chance = torch.Generator().manual_seed(params.seed + child)
        written: list[int] = []
        while len(written) < params.max_tokens:
            logits = self.lm.model(torch.tensor([prompt + written])).logits[0, -1]
            if params.temperature:
                odds = (logits / params.temperature).softmax(0)
                written.append(torch.multinomial(odds, 1, generator=chance).item())
            else:
                written.append(logits.argmax().item())
            if written[-1] in params.stop_token_ids:
                return SimpleNamespace(token_ids=written, finish_reason="stop")
        return SimpleNamespace(token_ids=written, finish_reason="length")


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    LLM.made = []
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return LLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A causal student on the disk whose own settings sample wildly and know a second end token."""
    path, lm = tmp_path_factory.mktemp("student"), tiny_llama()
    lm.model.generation_config.update(do_sample=True, temperature=9.0, eos_token_id=[END, STOP])
    lm.model.save_pretrained(path)
    lm.tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def test_greedily_both_engines_write_the_same_texts(vllm: type[LLM], folder: str):
    ours, theirs = load_model(folder), load_vllm(folder)
    prompts = [prompt_ids(ours, question, PROMPT) for question in QUESTIONS]
    assert prompts == [prompt_ids(theirs, question, PROMPT) for question in QUESTIONS]
    texts = [texts for (texts,) in theirs.continue_prompts(prompts, 60)]
    assert texts == [continue_greedily(ours, [ids], 60)[0] for ids in prompts]
    assert {text.finished for text in texts} == {True, False}
    assert not any({END, STOP} & {*text.token_ids} for text in texts)


def test_answers_judged_and_kept_are_the_same_whichever_engine_writes(vllm: type[LLM], folder: str):
    config, kept = EvaluationConfig(max_new_tokens=20, batch_size=4), []
    ours = answer_questions(load_model(folder), QUESTIONS, PROMPT, replace(config, batch_size=1))
    theirs = answer_questions(load_vllm(folder), QUESTIONS, PROMPT, config, keep=kept.append)
    assert theirs == ours
    assert [len(batch) for batch in kept] == [4, 2]
    found = {prediction.id: prediction for prediction in kept[0]}
    again = load_vllm(folder)
    assert answer_questions(again, QUESTIONS, PROMPT, config, found) == ours
    assert len(vllm.made[-1].asked) == 2  # what was kept is not asked again


def test_every_drawn_text_has_a_seed_of_its_own(vllm: type[LLM], folder: str):
    lm = load_vllm(folder)
    prompts = [prompt_ids(lm, question, PROMPT) for question in QUESTIONS[:3]]

    def drawn(seed: int, temperature: float = 1.0) -> list[list[Any]]:
        return lm.continue_prompts(prompts, 6, number=4, temperature=temperature, seed=seed)

    first = drawn(0)
    seeds = [params.seed + child for params in vllm.made[-1].asked for child in range(params.n)]
    assert seeds == [*range(12)]
    assert drawn(0) == first != drawn(3)
    assert [len(texts) for texts in first] == [4, 4, 4]
    assert len({text.token_ids for text in first[0]}) > 1
    assert drawn(3, 1e-4) == [[text] * 4 for (text,) in lm.continue_prompts(prompts, 6)]


def test_the_majority_of_drawn_texts_answers(vllm: type[LLM], folder: str):
    config = EvaluationConfig(max_new_tokens=8, samples=3, temperature=1e-4)
    ours, theirs = (answer_questions(load(folder), QUESTIONS, PROMPT, config) for load in (load_model, load_vllm))
    assert [(p.id, p.text, p.votes) for p in theirs] == [(p.id, p.text, p.votes) for p in ours]


def test_the_self_check_asks_the_same_engine_again(vllm: type[LLM], folder: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        answer_questions(load_vllm(folder), QUESTIONS, PROMPT, EvaluationConfig(max_new_tokens=8, self_check=2))
    assert "the same 2 texts" in caplog.text
    assert len(vllm.made[-1].asked) == len(QUESTIONS) + 2


def test_weights_are_loaded_at_the_recipe_s_precision(vllm: type[LLM], folder: str):
    load_vllm(folder, "bf16")
    assert vllm.made[-1].lm.model.dtype == torch.bfloat16


def test_a_checkpoint_without_generation_settings_ends_where_its_config_says(vllm: type[LLM], tmp_path: Path):
    lm = tiny_llama()
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert load_vllm(str(tmp_path)).ends == {END}


def test_what_vllm_cannot_run_is_refused(vllm: type[LLM], folder: str, tmp_path: Path):
    lm = tiny_t5()
    lm.model.save_pretrained(tmp_path / "t5")
    lm.tokenizer.save_pretrained(tmp_path / "t5")
    with pytest.raises(ConfigError, match=r"evaluation\.engine is vllm, .* has an encoder: set it to transformers"):
        load_vllm(str(tmp_path / "t5"))
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds adapters: set training\.merge_lora true"):
        load_vllm(str(tmp_path / "lora"))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_vllm(str(tmp_path / "none"))
    tiny_llama().model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ConfigError, match="bare' cannot be loaded"):
        load_vllm(str(tmp_path / "bare"))
    assert vllm.made == []


def test_a_missing_vllm_is_told_before_anything_is_done(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    found = Pipeline(recipe(data, tmp_path, "llama", "--evaluation.engine", "vllm"))
    with pytest.raises(ConfigError, match=r"not installed: pip install 'kpod-distill\[vllm\]'.* or set it to transf"):
        found.run()
    assert not found.folder.path.exists()
    with pytest.raises(ConfigError, match="not installed"):
        found.evaluate("x", str(data / "llama"))


def test_the_pipeline_evaluates_with_the_recipe_s_engine(vllm: type[LLM], data: Path, tmp_path: Path):
    results = []
    for engine in ("transformers", "vllm"):
        found = Pipeline(recipe(data, tmp_path, "llama", "--evaluation.engine", engine))
        results.append(found.evaluate("x", str(data / "llama")))
        results.append(found.evaluation("x", *found.recipe.data.tests))
        assert len(vllm.made) == (engine == "vllm")
    assert results[:2] == results[2:]


def test_the_engine_belongs_to_the_key_of_an_evaluation():
    by_default = Recipe(evaluation=EvaluationConfig(samples=3))
    other = replace(by_default, evaluation=replace(by_default.evaluation, engine="vllm"))
    assert evaluation_key(other, "m", QUESTIONS) != evaluation_key(by_default, "m", QUESTIONS)


def test_every_engine_of_the_recipe_has_a_loader():
    assert {*ENGINES} == {*EvaluationConfig.__dataclass_fields__["engine"].type.__args__}
