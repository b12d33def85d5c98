"""Check a student before any work, from its config, its tokenizer and a model without weights."""

from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from kpod.lm.adapters import target_names
from kpod.lm.layout import layout_of
from kpod.lm.models import load_tokenizer, model_config
from kpod.lm.soundness import check_architecture, loading
from kpod.lm.student_prompts import prompt_text
from kpod.recipe import LoraConfig, PromptConfig
from kpod.records import Question

PROBE = Question("probe", "What is 6 times 7?", "42")


def check_student(name: str, prompt: PromptConfig, lora: LoraConfig | None = None) -> None:
    """Refuse a student that could not be asked or trained as the recipe has it; no weights are read.

    Args:
        name: A recipe's name for the student.
        prompt: Its `data.prompt`.
        lora: Its `training.lora`.

    Raises:
        ConfigError: If it is no model that writes texts, its tokenizer has no offsets or no end token, its chat
            template fails, never ends or opens a thought twice, or adapters cannot stand where the recipe wants them.
    """
    config, tokenizer = model_config(name), load_tokenizer(name)
    with loading(name):
        check_architecture(name, config)
        layout_of(tokenizer, config)
        prompt_text(tokenizer, PROBE, prompt)
        if lora is None:
            return
        family: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with torch.device("meta"):
            empty = family.from_config(config)
        target_names(cast("PreTrainedModel", empty), lora.target_modules)
