"""A checkpoint is refused before any work, in one line with its name, if it cannot be what the recipe wants."""

import copy
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import kpod.lm.soundness
from kpod.lm.models import load_model, model_identity
from kpod.lm.precision import in_float32
from kpod.lm.sequences import example_at
from kpod.recipe import Recipe
from kpod.records.errors import ConfigError
from kpod.training.collation import check_packing, collator_of, language_model_of
from kpod.weighting.given import uniform_weights
from tiers import tiered
from tiny import byte_tokenizer, tiny_llama, tiny_tokens
from zoo import USUAL, ZOO, Species, build_model, some_inputs

LM = tiny_llama()


def saved(folder: Path, kind: str | None = None, **changes) -> Path:
    (build_model(kind, **changes) if kind else LM.model).save_pretrained(folder)
    (byte_tokenizer() if kind else LM.tokenizer).save_pretrained(folder)
    return folder


def change_tensors(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


UP = "model.layers.0.mlp.up_proj.weight"
FAULTS = {
    "a tensor is missing": (lambda f: change_tensors(f, lambda t: t.pop(UP)), f"lacks {UP}; fetch"),
    "many are missing": (
        lambda f: change_tensors(f, lambda t: [t.pop(name) for name in sorted(t)[:7]]),
        r"lacks .* and \d more tensors",
    ),
    "a tensor has another shape": (
        lambda f: change_tensors(f, lambda t: t.update({"model.norm.weight": torch.zeros(3)})),
        r"shapes differ .* model.norm.weight \(\(3,\), wanted \(32,\)\)",
    ),
    "all have": (lambda f: change_config(f, hidden_size=64), "shapes differ from its config.json"),
    "weights are cut off": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
        "SafetensorError",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
    "the config is torn": (lambda f: (f / "config.json").write_text("{"), "not a valid JSON file"),
    "the config is a list": (lambda f: (f / "config.json").write_text("[]"), "model_type"),
    "the config divides by zero": (lambda f: change_config(f, num_attention_heads=0), "ZeroDivisionError"),
    "a value has another type": (lambda f: change_config(f, hidden_size="x"), "expected int, got str"),
    "an unknown architecture": (lambda f: change_config(f, model_type="nonsense"), "does not recognize this arch"),
    "no text model": (lambda f: change_config(f, model_type="clip"), "is a clip model, which .* cannot load to write"),
    "an encoder": (lambda f: change_config(f, model_type="deberta-v2"), "is a deberta-v2 model, which"),
    "no tokenizer": (
        lambda f: [path.unlink() for path in f.glob("tok*")] + [path.unlink() for path in f.glob("special*")],
        "cannot be loaded",
    ),
    "an empty tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "KeyError: 'added_tokens'"),
    "a torn tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"version'), "Unterminated string"),
    "a pipe": (lambda f: os.mkfifo(f / "vocab.txt"), r"vocab\.txt is neither a file nor a folder"),
    "a device": (lambda f: (f / "merges.txt").symlink_to("/dev/zero"), r"merges\.txt is neither a file"),
    "a link to nothing": (lambda f: (f / "merges.txt").symlink_to("gone"), r"merges\.txt cannot be read"),
    "a template without end": (
        lambda f: (f / "chat_template.jinja").write_text("x" * (2 << 20)),
        r"chat_template\.jinja has 2,097,152 bytes",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_is_not_whole_is_refused_in_one_line(fault, tmp_path):
    damage, message = FAULTS[fault]
    damage(saved(tmp_path / "model"))
    with pytest.raises(ConfigError, match=message) as found:
        load_model(str(tmp_path / "model"))
    assert str(tmp_path / "model") in str(found.value)
    assert "\n" not in str(found.value)


def test_a_pipe_does_not_hang_the_run_folders_keys_either(tmp_path):
    os.mkfifo(saved(tmp_path / "model") / "vocab.txt")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        model_identity(str(tmp_path / "model"))


def test_tensors_that_nothing_reads_are_reported(tmp_path, caplog):
    change_tensors(saved(tmp_path), lambda tensors: tensors.update({"model.extra.weight": torch.zeros(3)}))
    load_model(str(tmp_path))
    assert "the model does not use model.extra.weight" in caplog.text


def test_a_file_is_not_a_model(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json is a file; name the folder"):
        load_model(str(saved(tmp_path) / "config.json"))


@pytest.mark.parametrize("kind", ["llama", "spm-t5"])
def test_a_tokenizer_that_is_a_sentencepiece_file_alone_says_what_to_install(kind, tmp_path, monkeypatch):
    saved(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    name = {"llama": "LlamaTokenizer", "spm-t5": "T5Tokenizer"}[kind]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, "eos_token": "</s>"}))
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    monkeypatch.setattr(kpod.lm.soundness.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install protobuf sentencepiece"):
        load_model(str(tmp_path))


# --- reading order ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_that_looks_ahead_is_refused_in_any_precision(precision, tmp_path, monkeypatch):
    monkeypatch.setitem(ZOO, "bert", Species("bert"))
    saved(tmp_path, "bert")
    with pytest.raises(ConfigError, match=r"is a bert model that looks ahead at later tokens"):
        load_model(str(tmp_path), precision)


@pytest.mark.parametrize("kind", [kind for kind in USUAL if kind not in ("gemma3", "mt5")])
def test_models_that_write_texts_are_loaded_in_bf16(kind, tmp_path):
    lm = load_model(str(saved(tmp_path, kind)), "bf16")
    assert {parameter.dtype for parameter in lm.model.parameters()} <= {torch.bfloat16, torch.float32}
    assert lm.encoder_decoder == lm.model.config.is_encoder_decoder


def test_a_decoder_starts_as_the_models_own_code_has_it(tmp_path):
    assert load_model(str(saved(tmp_path / "t5gemma", "t5gemma"))).decoder_start_id == 258
    assert load_model(str(saved(tmp_path / "bart", "bart"))).decoder_start_id == 257


def test_a_model_that_does_not_read_token_ids_is_refused(tmp_path, monkeypatch):
    def forward(*_, **__):
        raise ValueError("needs\npixel_values")

    saved(tmp_path)
    monkeypatch.setattr(type(LM.model), "forward", forward)
    with pytest.raises(ConfigError, match="cannot run on token ids alone: needs pixel_values"):
        load_model(str(tmp_path))


# --- float32 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", tiered(USUAL, [*USUAL][::2]))
def test_a_bf16_model_computes_in_float32_for_a_while_and_is_then_the_same(kind):
    model = build_model(kind).to(torch.bfloat16)
    exact = copy.deepcopy(model).float()
    inputs, before = some_inputs(model), {name: (p.data_ptr(), p.clone()) for name, p in model.named_parameters()}
    rounded, random = model(**inputs).logits, torch.get_rng_state()
    with in_float32(model):
        wide = model(**inputs, use_cache=False).logits
    assert wide.dtype == torch.float32
    assert torch.allclose(wide, exact(**inputs, use_cache=False).logits, atol=1e-5)
    after = dict(model.named_parameters())
    assert all(after[n].data_ptr() == pointer and torch.equal(after[n], p) for n, (pointer, p) in before.items())
    assert torch.equal(model(**inputs).logits, rounded)
    assert torch.equal(torch.get_rng_state(), random)


def test_float32_ends_where_it_began_even_after_an_error():
    model = build_model("llama").to(torch.bfloat16)
    handle = model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), in_float32(model):
        model(**some_inputs(model))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    handle.remove()
    assert model(**some_inputs(model)).logits.dtype == torch.bfloat16
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_one_layer_at_a_time_is_wide():
    model = build_model("llama").to(torch.bfloat16)
    wide: list[int] = []

    def count(*_):
        wide.append(sum(p.numel() for p in model.parameters() if p.dtype == torch.float32))

    for layer in model.model.layers:
        layer.mlp.register_forward_hook(count)
    with in_float32(model):
        model(**some_inputs(model))
    num = {name: sum(p.numel() for p in part.parameters()) for name, part in model.model.named_children()}
    outside = num["embed_tokens"] + num["norm"] + sum(p.numel() for p in model.lm_head.parameters())
    assert wide == 2 * [num["layers"] // 2 + outside]


# --- packing ---------------------------------------------------------------------------------------


def packed_examples(lm):
    tokens = [tiny_tokens(lm, f"q{number}", (4, 3)) for number in range(3)]
    weights = uniform_weights(tokens)
    return [example_at(t, weights[t.id], 0, encoder_decoder=False) for t in tokens]


LEAKS = ["lfm2", "qwen3.5", "falcon-h1", "mamba", "rwkv"]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "mixtral", *LEAKS])
def test_packing_is_refused_where_layers_mix_rationales_whatever_the_precision(kind, precision):
    model = build_model(kind, initializer_range=0.3).to(precision)
    collator = collator_of(language_model_of(model, byte_tokenizer()), packing=True)
    examples, device = packed_examples(collator.lm), torch.device("cpu")
    if kind not in LEAKS:
        check_packing(model, collator, examples, device, sharded=False)
        return
    with pytest.raises(ConfigError, match=r"training\.packing: this model lets packed rationales see one another"):
        check_packing(model, collator, examples, device, sharded=False)


def test_packing_is_proven_without_the_trainings_autocast():
    model = build_model("lfm2", initializer_range=0.3)
    own = model.forward

    def rounded(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return own(*args, **kwargs)

    model._original_forward, model.forward = own, rounded  # as accelerate prepares a model
    collator = collator_of(language_model_of(model, byte_tokenizer()), packing=True)
    with pytest.raises(ConfigError, match="packed rationales see one another"):
        check_packing(model, collator, packed_examples(collator.lm), torch.device("cpu"), sharded=False)
    assert vars(model)["forward"] is rounded


def test_a_wrapped_model_is_proven_too():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    model = Wrapper(build_model("llama").to(torch.bfloat16))
    collator = collator_of(language_model_of(model.module, byte_tokenizer()), packing=True)
    check_packing(model, collator, packed_examples(collator.lm), torch.device("cpu"), sharded=False)


# --- the recipe ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_what_random_generators_take(seed):
    with pytest.raises(ConfigError, match=f"seed is {seed}; it must be a whole number from 0 to 4294967295"):
        Recipe(seed=seed)
