"""Tiny random models of many architectures of transformers, with the byte tokenizer of `tiny`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from kpod.lm.head import chunked_logprobs, has_linear_head, predictions_of
from kpod.lm.models import LanguageModel, evaluating
from kpod.lm.sequences import collate, example_at, logprobs, trained_positions
from kpod.records import TokenizedRationale
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.prefixes import Predictor
from tiny import END, PAD, START, byte_tokenizer

WINDOW = 16
"""Of attention that has one: less than the longest rationale of a test, so that it matters."""

LEFT_OUT = object()
"""A key of all configs that one architecture works out itself."""

IDS = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
CAUSAL: Mapping[str, Any] = {
    **IDS,
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}
SEQ2SEQ: Mapping[str, Any] = {
    **IDS,
    "vocab_size": 264,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
    "dropout": 0.0,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 1024,
    "decoder_start_token_id": PAD,
    "init_std": 0.2,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16, "mamba_chunk_size": 8}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": LEFT_OUT,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}


@dataclass(frozen=True)
class Species:
    """One architecture.

    Attributes:
        kind: `model_type` of its config.
        changes: Keys of its config beside those of all.
    """

    kind: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    encoder_decoder: bool = False


ZOO: Mapping[str, Species] = {
    # full attention with rotary or learnt positions
    "llama": Species("llama"),
    "llama-tied": Species("llama", {"tie_word_embeddings": True}),
    "qwen2": Species("qwen2", {"tie_word_embeddings": True}),
    "qwen3": Species("qwen3"),
    "qwen2-moe": Species("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3-moe": Species("qwen3_moe", EXPERTS),
    "mistral": Species("mistral", {"sliding_window": None}),
    "mixtral": Species("mixtral", EXPERTS),
    "gemma": Species("gemma"),
    "phi": Species("phi", {"partial_rotary_factor": 0.5}),
    "phi3": Species("phi3"),
    "phimoe": Species("phimoe", EXPERTS),
    "gpt2": Species("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 1024}),
    "gpt-neox": Species("gpt_neox"),
    "gpt-j": Species("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 1024, "rotary_dim": 8}),
    "codegen": Species("codegen", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024, "rotary_dim": 4}),
    "opt": Species("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "granite": Species("granite", {"embedding_multiplier": 3.0, "logits_scaling": 2.0}),
    "granite-moe": Species("granitemoe", EXPERTS),
    "smollm3": Species("smollm3"),
    "olmo": Species("olmo"),
    "olmo2": Species("olmo2"),
    "olmoe": Species("olmoe", EXPERTS),
    "stablelm": Species("stablelm"),
    "starcoder2": Species("starcoder2", {"sliding_window": None}),
    "gpt-bigcode": Species("gpt_bigcode", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 1024}),
    "cohere": Species("cohere", {"logit_scale": 0.25}),
    "deepseek-v2": Species("deepseek_v2", {**EXPERTS, **LATENT, "n_routed_experts": 4, "first_k_dense_replace": 1}),
    "deepseek-v3": Species(
        "deepseek_v3",
        {**EXPERTS, **LATENT, "n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 2},
    ),
    "glm": Species("glm"),
    "glm4": Species("glm4"),
    "ernie-4.5": Species("ernie4_5"),
    "hunyuan": Species("hunyuan_v1_dense"),
    "nemotron": Species("nemotron"),
    "helium": Species("helium"),
    "xglm": Species("xglm", {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 2, "dropout": 0.0}),
    "biogpt": Species("biogpt", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "falcon": Species(
        "falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False, "head_dim": LEFT_OUT}
    ),
    "apertus": Species("apertus"),
    "arcee": Species("arcee"),
    "seed-oss": Species("seed_oss"),
    "minicpm3": Species("minicpm3", LATENT),
    # windows and chunks
    "mistral-window": Species("mistral", {"sliding_window": WINDOW}),
    "ministral": Species("ministral", {"sliding_window": WINDOW}),
    "gemma2": Species("gemma2", {"sliding_window": WINDOW}),
    "gemma3": Species("gemma3_text", {"sliding_window": WINDOW}),
    "gemma3-vision": Species(
        "gemma3",
        {
            "text_config": {**CAUSAL, "sliding_window": WINDOW},
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            **dict.fromkeys(CAUSAL, LEFT_OUT),
            **IDS,
        },
    ),
    "gemma3n": Species(
        "gemma3n_text",
        {
            "sliding_window": WINDOW,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": 264,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0] * 4,
            "intermediate_size": [64] * 4,
        },
    ),
    "gemma4": Species(
        "gemma4_text",
        {
            "sliding_window": WINDOW,
            "global_head_dim": 16,
            "vocab_size_per_layer_input": 264,
            "hidden_size_per_layer_input": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
        },
    ),
    "gemma4-plain": Species(
        "gemma4_text",
        {
            "sliding_window": WINDOW,
            "global_head_dim": 16,
            "hidden_size_per_layer_input": 0,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
        },
    ),
    "gpt-oss": Species("gpt_oss", {**EXPERTS, "sliding_window": WINDOW}),
    "gpt-neo": Species(
        "gpt_neo",
        {"num_layers": 2, "num_heads": 2, "window_size": WINDOW, "attention_types": [[["global", "local"], 1]]},
    ),
    "cohere2": Species("cohere2", {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "exaone4": Species("exaone4", {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "olmo3": Species("olmo3", {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "llama4": Species(
        "llama4_text", {**EXPERTS, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 64, "moe_layers": [1]}
    ),
    # recurrence, convolutions and ALiBi
    "mamba": Species("mamba", {"state_size": 8}),
    "mamba2": Species("mamba2", {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 16, "chunk_size": 8}),
    "falcon-mamba": Species("falcon_mamba", {"state_size": 8}),
    "falcon-h1": Species("falcon_h1", {**MAMBA, "mamba_d_ssm": 64, "embedding_multiplier": 3.0}),
    "bamba": Species("bamba", {**MAMBA, "attn_layer_indices": [1], "attn_rotary_emb": 16}),
    "granite-hybrid": Species(
        "granitemoehybrid",
        {**MAMBA, **EXPERTS, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    ),
    "jamba": Species(
        "jamba",
        {**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 8},
    ),
    "zamba2": Species(
        "zamba2",
        {
            "attention_head_dim": 32,
            "attention_hidden_size": 64,
            "mamba_d_state": 16,
            "mamba_ngroups": 1,
            "n_mamba_heads": 4,
            "chunk_size": 8,
            "num_mem_blocks": 1,
            "layers_block_type": ["mamba", "hybrid"],
            "use_mem_rope": True,
        },
    ),
    "lfm2": Species("lfm2", {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "qwen3-next": Species("qwen3_next", {**EXPERTS, **DELTA, "shared_expert_intermediate_size": 32}),
    "qwen3.5": Species("qwen3_5_text", DELTA),
    "recurrent-gemma": Species(
        "recurrent_gemma", {"lru_width": 32, "attention_window_size": WINDOW, "block_types": ["recurrent", "attention"]}
    ),
    "rwkv": Species("rwkv", {"attention_hidden_size": 32, "context_length": 1024}),
    "bloom": Species("bloom", {"n_layer": 2, "n_head": 2}),
    "falcon-alibi": Species("falcon", {"alibi": True, "multi_query": False, "head_dim": LEFT_OUT}),
    "mpt": Species(
        "mpt",
        {
            "d_model": 32,
            "n_heads": 2,
            "n_layers": 2,
            "expansion_ratio": 2,
            "max_seq_len": 1024,
            "max_position_embeddings": LEFT_OUT,
        },
    ),
    # encoder and decoder
    "t5": Species("t5", SEQ2SEQ, encoder_decoder=True),
    "flan-t5": Species(
        "t5", {**SEQ2SEQ, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}, encoder_decoder=True
    ),
    "mt5": Species("mt5", SEQ2SEQ, encoder_decoder=True),
    "umt5": Species("umt5", SEQ2SEQ, encoder_decoder=True),
    "longt5": Species("longt5", {**SEQ2SEQ, "local_radius": WINDOW}, encoder_decoder=True),
    "switch": Species(
        "switch_transformers",
        {**SEQ2SEQ, "num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        encoder_decoder=True,
    ),
    "bart": Species(
        "bart", {**SEQ2SEQ, "forced_eos_token_id": None, "decoder_start_token_id": END}, encoder_decoder=True
    ),
    "mbart": Species(
        "mbart", {**SEQ2SEQ, "scale_embedding": True, "decoder_start_token_id": END}, encoder_decoder=True
    ),
    "pegasus": Species("pegasus", {**SEQ2SEQ, "scale_embedding": True}, encoder_decoder=True),
    "marian": Species("marian", {**SEQ2SEQ, "scale_embedding": True, "decoder_vocab_size": 264}, encoder_decoder=True),
    "blenderbot-small": Species("blenderbot-small", {**SEQ2SEQ, "scale_embedding": True}, encoder_decoder=True),
    "t5gemma": Species(
        "t5gemma",
        {
            "encoder": {**CAUSAL, "sliding_window": WINDOW},
            "decoder": {**CAUSAL, "sliding_window": WINDOW},
            **IDS,
            "vocab_size": 264,
        },
        encoder_decoder=True,
    ),
}


USUAL = [
    *("llama", "qwen2", "qwen3-moe", "qwen2-moe", "mixtral", "gemma2", "gemma3", "gpt2", "falcon", "bloom", "mamba"),
    *("falcon-h1", "llama4", "lfm2", "gemma3-vision", "t5", "mt5", "bart", "t5gemma"),
]
"""Of every way in which an architecture may be unlike Llama at least one."""


def build(name: str, seed: int = 0) -> LanguageModel:
    """A tiny random model of an architecture with its tokenizer, in evaluation mode.

    Args:
        name: A key of ZOO.
        seed: Of its parameters.
    """
    return LanguageModel.of(build_model(name, seed), byte_tokenizer())


def build_model(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """The model alone, with other keys of its config where they are given.

    Its weights are large enough that what a token sees changes its probabilities visibly.
    """
    species = ZOO[name]
    torch.manual_seed(seed)
    keys = {**({} if species.encoder_decoder else CAUSAL), **species.changes, **changes}
    config = AutoConfig.for_model(species.kind, **{k: v for k, v in keys.items() if v is not LEFT_OUT})
    family = AutoModelForSeq2SeqLM if species.encoder_decoder else AutoModelForCausalLM
    model: PreTrainedModel = family.from_config(config)
    _enlarge(model)
    return model.eval()


def some_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two rows of token ids."""
    ids = torch.arange(3, 17).reshape(2, 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**inputs, "decoder_input_ids": ids} if model.config.is_encoder_decoder else inputs


@torch.no_grad()
def _enlarge(model: nn.Module) -> None:
    """Give linear layers and embeddings weights of a common size; many configs say 0.02, and some layers start at 0."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 2 and weight.std() < 0.15:
            weight.normal_(0, 0.2)
    for name, parameter in model.named_parameters():
        if name.endswith("correct_output_scale"):  # Gemma 3n's per-layer inputs count for nothing at 0
            parameter.fill_(1)


# -- what transformers itself comes to ---------------------------------------------------------------------


def loss_difference(lm: LanguageModel, rationales: Sequence[TokenizedRationale]) -> float:
    """Largest difference of the loss at w = 1, c = 0 from that of transformers on the same labels, in nats per token.

    Args:
        lm: The model.
        rationales: They make one batch here, and one each for transformers.
    """
    whole = [np.ones(r.num_tokens, np.float32) for r in rationales]
    examples = [example_at(r, w, 0, encoder_decoder=lm.encoder_decoder) for r, w in zip(rationales, whole, strict=True)]
    batch = collate(examples, lm)
    with evaluating(lm.model):
        if has_linear_head(lm.model, batch):
            labels = batch["labels"][trained_positions(batch)][:, None]
            predictions = predictions_of(lm.model, batch, linear_head=True)
            found = predictions.weighted_nll(labels, torch.ones(labels.shape))[1][:, 0]
        else:
            found = logprobs(lm.model, batch)
        assert torch.allclose(chunked_logprobs(lm.model, batch), found, atol=1e-4), "as difficulties have it"
        sizes = [len(example.weights) for example in examples]
        gaps = [
            abs(float(part.mean()) + own_loss(lm, r)) for r, part in zip(rationales, found.split(sizes), strict=True)
        ]
    return max(gaps)


def own_loss(lm: LanguageModel, tokens: TokenizedRationale) -> float:
    """The mean NLL of a rationale's target as transformers has it."""
    question = tokens.segment_stops[0]
    ids = torch.from_numpy(tokens.token_ids)[None].long()
    if lm.encoder_decoder:
        return float(lm.model(input_ids=ids[:, :question], labels=ids[:, question:]).loss)
    labels = ids.clone()
    labels[:, :question] = -100
    return float(lm.model(input_ids=ids, labels=labels).loss)


def plain_nll(predictor: Predictor, row: MaskedRationale, prefix: int) -> float:
    """The answer's NLL by a plain pass over question, prefix, closing and answer alone."""
    lm, tokens = predictor.lm, row.tokens
    question = tokens.segment_stops[0]
    written, answer = tokens.ids("closing") + tokens.ids("answer"), tokens.ids("answer")
    told = tokens.token_ids[question : question + prefix]
    read: dict[str, Tensor]
    if lm.encoder_decoder:
        *asked, end = tokens.ids("question")
        read = {"input_ids": torch.tensor([[*asked, *told, end]])}
        read["decoder_input_ids"] = torch.tensor([[lm.decoder_start_id, *written][:-1]])
    else:
        read = {"input_ids": torch.tensor([[*tokens.ids("question"), *told, *written]])}
    if not row.keep.all():
        embedded = predictor.embed(row, prefix)
        if not lm.encoder_decoder:
            copy = predictor.embedding(torch.tensor(written)) * predictor.embedding_factor
            embedded = torch.cat([embedded, copy])
        del read["input_ids"]
        read["inputs_embeds"] = embedded[None]
    logits = lm.model(**read, use_cache=False).logits[0]
    places = logits[-len(answer) :] if lm.encoder_decoder else logits[-len(answer) - 1 : -1]
    return -float(places.log_softmax(dim=-1)[range(len(answer)), list(answer)].sum())
