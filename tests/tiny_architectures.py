"""Random models of a few kiloparameters of the architectures that people train, each with the tests' byte tokenizer."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from tiny import END, PAD, START, VOCABULARY

IDS: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": END, "bos_token_id": START}
USUAL: dict[str, Any] = {
    **IDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
HEAD = {**USUAL, "head_dim": 8}
MAMBA = {**IDS, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
T5 = {**IDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": PAD}

CAUSAL: dict[str, dict[str, Any]] = {
    "llama": USUAL,
    "qwen2": {**USUAL, "tie_word_embeddings": True},
    "qwen3_moe": {**HEAD, **EXPERTS},
    "qwen2_moe": {**USUAL, **EXPERTS, "shared_expert_intermediate_size": 16},
    "mixtral": {**USUAL, "num_local_experts": 4},
    "gemma2": HEAD,
    "gemma3_text": HEAD,
    "gpt2": {**IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "bloom": {**IDS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": MAMBA,
    "falcon_h1": {
        **HEAD,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 4,
        "mamba_chunk_size": 8,
    },
    "llama4_text": {**HEAD, "intermediate_size_mlp": 48, "num_local_experts": 4, "interleave_moe_layer_step": 1},
    "lfm2": {**USUAL, "layer_types": ["conv", "full_attention"]},
    "gemma3": {
        "text_config": HEAD,
        "vision_config": {**VISION, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "pad_token_id": PAD,
        "eos_token_id": END,
    },
}
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "t5": T5,
    "mt5": T5,
    "bart": {
        **IDS,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 512,
        "decoder_start_token_id": END,
        "forced_eos_token_id": None,
    },
    "t5gemma": {**IDS, "encoder": HEAD, "decoder": HEAD},
}
ALL = [*CAUSAL, *SEQ2SEQ]


def tiny_model(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model of an architecture, by transformers' name for it, in evaluation mode."""
    torch.manual_seed(seed)
    family = AutoModelForSeq2SeqLM if kind in SEQ2SEQ else AutoModelForCausalLM
    config = AutoConfig.for_model(kind, **({**CAUSAL, **SEQ2SEQ}[kind] | changes))
    return family.from_config(config).eval()


def some_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Two rows of token ids."""
    ids = torch.arange(3, 17).reshape(2, 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**inputs, "decoder_input_ids": ids} if model.config.is_encoder_decoder else inputs
