"""Trainers of the same rationales: kpod's, transformers' own and TRL's, each as good as it can be set."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from kpod import KeypointTrainer, LanguageModel, Schedule, StageDataset, TokenizedRationale, uniform_weights
from kpod.records.topk import TopK
from kpod.training import flash_attention
from kpod.training.objectives import Objective
from kpod.training.terms import MatchDistribution, Nll

TOP_K = 64
"""Probabilities that a teacher tells of each token: the default of `teacher.logprobs`."""
ON_CARD = torch.cuda.is_available()

Given = np.ndarray[Any, Any]


def arguments(folder: str, precision: str, batch_size: int = 8) -> dict[str, Any]:
    """What all variants share: one epoch, Adam, batches of like length, nothing saved."""
    return {
        "output_dir": folder,
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch_size,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "train_sampling_strategy": "group_by_length",
        "activation_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # it waits for the loss of every batch
        "bf16": precision == "bf16",
        "use_cpu": not ON_CARD,
    }


def masked_rows(tokens: list[TokenizedRationale]) -> list[dict[str, list[int]]]:
    """Rows of transformers' Trainer: the question's labels are -100."""
    return [
        {
            "input_ids": t.token_ids.tolist(),
            "labels": [-100] * t.segment_stops[0] + t.token_ids[t.segment_stops[0] :].tolist(),
        }
        for t in tokens
    ]


def trl(
    tokens: list[TokenizedRationale], common: dict[str, Any], lm: LanguageModel, *, packed: bool = False
) -> Trainer:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": t.token_ids.tolist(),
            "completion_mask": [0] * t.segment_stops[0] + [1] * (len(t.token_ids) - t.segment_stops[0]),
        }
        for t in tokens
    ]
    config = SFTConfig(**common, completion_only_loss=True, max_length=None, padding_free=packed)
    return SFTTrainer(lm.model, config, train_dataset=Dataset.from_list(rows), processing_class=lm.tokenizer)


def plain(tokens: list[TokenizedRationale], common: dict[str, Any], lm: LanguageModel) -> Trainer:
    collator = DataCollatorForSeq2Seq(lm.tokenizer, pad_to_multiple_of=None)
    config = TrainingArguments(**common)
    return Trainer(lm.model, config, data_collator=collator, train_dataset=masked_rows(tokens))  # type: ignore[arg-type]


def ours(
    tokens: list[TokenizedRationale],
    common: dict[str, Any],
    lm: LanguageModel,
    *,
    given: Given,
    packed: bool = False,
    taught: bool = False,
) -> Trainer:
    steps = np.stack([given, np.zeros_like(given)])
    schedule = Schedule(tuple(t.id for t in tokens), steps, first_stage=0)
    teacher = {t.id: some_distributions(t, len(lm.tokenizer)) for t in tokens} if taught else None
    dataset = StageDataset(tokens, uniform_weights(tokens), schedule, encoder_decoder=False, teacher=teacher)
    config = TrainingArguments(**common, remove_unused_columns=False)
    terms = ((0.1, Nll()), (0.9, MatchDistribution(renormalised=True))) if taught else ((1.0, Nll()),)
    return KeypointTrainer(
        lm.model,
        config,
        train_dataset=dataset,
        processing_class=lm.tokenizer,  # type: ignore[arg-type]
        packing=packed,
        objective=Objective(terms),
    )


def some_distributions(tokens: TokenizedRationale, vocabulary: int, k: int = TOP_K) -> TopK:
    """A teacher's k most probable tokens wherever the student writes: the written one first, then its neighbours."""
    written = tokens.token_ids[tokens.segment_stops[0] :].astype(np.int64)
    ids = (written[:, None] + np.arange(k)) % vocabulary
    falling = -0.5 * np.arange(k) - np.log(np.exp(-0.5 * np.arange(k)).sum() * 1.05)
    return TopK(ids.astype(np.int32), np.tile(falling, (len(ids), 1)).astype(np.float16))


def variants(given: dict[str, Given]) -> dict[str, Callable[..., Trainer]]:
    """Makers of trainers by name; each is called with rationales, common arguments and a model."""
    makers: dict[str, Callable[..., Trainer]] = {"trainer": plain}
    makers |= {name: partial(ours, given=steps) for name, steps in given.items()}
    makers["logit_kd"] = partial(ours, given=given["whole"], taught=True)
    if find_spec("trl"):
        makers["trl"] = trl
    if flash_attention():
        makers["packed"] = partial(ours, given=given["whole"], packed=True)
        if find_spec("trl"):
            makers["trl_packed"] = partial(trl, packed=True)
    return makers
