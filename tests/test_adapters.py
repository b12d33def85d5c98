"""Adapters stand on the language model's linear layers and nowhere else, whatever the architecture."""

import pytest
import torch
from transformers import PreTrainedModel

from kpod.lm.adapters import adaptable, freeze_all_but_text, target_names, with_lora
from kpod.lm.models import merged
from kpod.recipe import LoraConfig
from kpod.recipe.loading import dump_recipe, load_recipe
from kpod.records.errors import ConfigError
from tiers import tiered
from zoo import USUAL, build_model, some_inputs

RANK_2 = LoraConfig(rank=2, alpha=4)
LEAVES = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen3-moe": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "qwen2-moe": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "mixtral": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "bloom": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "mamba": {"in_proj"},
    "falcon-h1": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "in_proj"},
    "llama4": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gemma3-vision": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "t5": {"q", "k", "v", "o", "wi", "wo"},
}


def adapted_names(model: torch.nn.Module) -> set[str]:
    found = {name.split(".lora_")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name.removeprefix("base_model.model.") for name in found}


def leaves(names) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize("kind", tiered(USUAL, [*USUAL][1::2]))
def test_all_linear_adapters_start_as_nothing_learn_and_merge_to_what_they_were(kind):
    model = build_model(kind)
    inputs = some_inputs(model)
    before = model(**inputs).logits
    adapted = with_lora(model, RANK_2).eval()
    assert all(parameter.grad is None for parameter in adapted.parameters())
    assert torch.allclose(adapted(**inputs).logits, before, atol=1e-4)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    learnt = adapted(**inputs).logits
    learnt.square().sum().backward()
    adapters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in adapters)  # several processes fail at one without gradient
    assert not torch.allclose(learnt, before, atol=1e-4)
    assert torch.allclose(merged(adapted)(**inputs).logits, learnt, atol=1e-4)


@pytest.mark.parametrize("kind", LEAVES)
def test_all_linear_names_the_language_models_layers(kind):
    names = target_names(build_model(kind), "all-linear")
    assert leaves(names) == LEAVES[kind]
    assert not any("vision" in name or "projector" in name or "router" in name for name in names)


def test_adapters_stand_where_they_were_named():
    names = {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}
    for wanted in ("q_proj", ("q_proj",), "self_attn.q_proj", ".*q_proj", r".*\.(0|1)\..*q_proj"):
        assert set(target_names(build_model("llama"), wanted)) == names
    assert target_names(build_model("llama"), "layers.1.self_attn.q_proj") == ["model.layers.1.self_attn.q_proj"]
    assert leaves(target_names(build_model("llama"), ("q_proj", "down_proj"))) == {"q_proj", "down_proj"}
    assert adapted_names(with_lora(build_model("llama"), LoraConfig(rank=2, alpha=4, target_modules="q_proj"))) == names


def test_a_regular_expression_for_some_layers_of_a_mixture_of_experts_stays_with_them():
    assert target_names(build_model("qwen3-moe"), r".*\.1\..*q_proj") == ["model.layers.1.self_attn.q_proj"]


def test_fused_experts_carry_adapters_where_they_are_named():
    adapted = with_lora(
        build_model("qwen3-moe"), LoraConfig(2, 4, target_modules=("gate_proj", "up_proj", "down_proj"))
    )
    assert all(".mlp.experts" in name for name in adapted_names(adapted))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("qproj", "'qproj' matches no module of the student; did you mean .*q_proj"),
        (("q_proj", "v_prj"), "'v_prj' matches no module of the student; did you mean v_proj"),
        ("c_attn", "'c_attn' matches no module"),
        (".*nothing", "'.*nothing' matches no module"),
        ("(", r"'\('; it must be names or a regular expression"),
        ("self_attn", "'self_attn' matches no module"),
    ],
)
def test_a_name_that_matches_nothing_is_told_with_its_neighbours(wanted, message):
    with pytest.raises(ConfigError, match=rf"training\.lora\.target_modules.*{message}"):
        with_lora(build_model("llama"), LoraConfig(rank=2, alpha=4, target_modules=wanted))


@pytest.mark.parametrize("wanted", [".*(q_proj|lm_head)", "lm_head", ("q_proj", "lm_head"), "embed_tokens"])
def test_a_tied_head_carries_no_adapters(wanted):
    with pytest.raises(ConfigError, match=r"shares its weights with the .* merged adapters would change both"):
        target_names(build_model("qwen2"), wanted)


def test_a_head_of_its_own_may_carry_adapters_if_it_is_named():
    assert "lm_head" in target_names(build_model("llama"), ("q_proj", "lm_head"))
    assert "lm_head" not in adaptable(build_model("llama"))


def test_what_peft_or_the_model_cannot_do_is_told_with_what_can_be():
    with pytest.raises(ConfigError, match=r"target_modules is 'out_proj'.*Modules that can carry adapters: in_proj\."):
        with_lora(build_model("mamba"), LoraConfig(rank=2, alpha=4, target_modules="out_proj"))
    with pytest.raises(ConfigError, match=r"target_modules is 'router'.*Modules that can carry adapters: q_proj"):
        with_lora(build_model("llama4"), LoraConfig(rank=2, alpha=4, target_modules="router"))


def test_a_model_without_linear_layers_is_told_to_train_whole(monkeypatch):
    monkeypatch.setattr("kpod.lm.adapters.adaptable", lambda _: [])
    with pytest.raises(ConfigError, match="has no linear layer that can carry adapters"):
        target_names(build_model("llama"), "all-linear")


def test_proving_adapters_leaves_no_trace(monkeypatch):
    def drawn() -> torch.Tensor:
        adapted = with_lora(build_model("llama", attention_dropout=0.5), LoraConfig(rank=2, alpha=4, dropout=0.5))
        assert adapted.training
        assert not adapted.get_submodule("base_model.model.model").training
        return torch.rand(1)

    proven = drawn()
    monkeypatch.setattr("kpod.lm.adapters._prove", lambda *_, **__: None)
    assert torch.equal(proven, drawn())


def unused(model: PreTrainedModel) -> list[str]:
    model(**some_inputs(model)).logits.sum().backward()
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]


def test_of_a_model_that_also_sees_the_text_model_alone_is_trained():
    model = build_model("gemma3-vision")
    assert unused(model)
    model.zero_grad(set_to_none=True)
    freeze_all_but_text(model)
    assert not unused(model)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith("model.language_model.") for name in trained)


def test_a_text_model_is_trained_whole():
    model = build_model("llama")
    freeze_all_but_text(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


# --- the recipe's words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("q_proj", "q_proj"),
        ('["q_proj", "v_proj"]', ("q_proj", "v_proj")),
        ("[qv]_proj", "[qv]_proj"),
        (r".*\.(1\d|2\d)\..*_proj", r".*\.(1\d|2\d)\..*_proj"),
    ],
)
def test_a_recipe_names_one_module_or_several(word, found, tmp_path):
    recipe = load_recipe(None, ["--training.lora.target_modules", word])
    assert recipe.training.lora is not None
    assert recipe.training.lora.target_modules == found
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("key", "value"),
    [("rank", "0"), ("alpha", "0"), ("dropout", "1"), ("target_modules", "[]"), ("target_modules", "")],
)
def test_what_adapters_cannot_be_is_told_with_the_key(key, value):
    with pytest.raises(ConfigError, match=rf"training\.lora\.{key}"):
        load_recipe(None, [f"--training.lora.{key}", value])
