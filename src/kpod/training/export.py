"""The finished student in Hugging Face layout: it loads with plain from_pretrained, and is never half there."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from kpod.lm.models import DTYPES, LanguageModel, merged
from kpod.recipe import TrainingConfig
from kpod.recipe.safe_yaml import dump_yaml
from kpod.records.errors import TrainingError
from kpod.records.files import flush_to_disk, flushed_files
from kpod.training.arguments import PASSED, Precision
from kpod.training.averaging import LAST_UPDATE
from kpod.training.metrics import METRICS, read_updates
from kpod.training.trainer import KeypointTrainer

STAGING = ".staging-final"
RECORD = "kpod_training.json"
MARKERS = ("config.json", "adapter_config.json")
"""A folder is a loadable model if and only if it holds one of these, so it arrives last."""

_CITATION = """@inproceedings{feng2024keypoint,
  title = {Keypoint-based Progressive Chain-of-Thought Distillation for {LLM}s},
  author = {Feng, Kaituo and Li, Changsheng and Zhang, Xiaolu and Zhou, Jun and Yuan, Ye and Wang, Guoren},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  note = {arXiv:2405.16064}
}"""


def read_record(folder: Path) -> dict[str, Any] | None:
    """What was noted about the finished student in a folder; None where no finished student is."""
    if not (folder / RECORD).exists() or not any((folder / marker).exists() for marker in MARKERS):
        return None
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def empty_staging(folder: Path) -> Path:
    """An empty folder inside the student's folder, to write model and tokenizer into."""
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def publish_student(folder: Path, card: str, record: Mapping[str, Any]) -> None:
    """Move a staged student into its folder and drop the checkpoints.

    Every file is flushed and renamed; the one that makes the folder loadable comes last.

    Args:
        folder: The student's folder, which holds its checkpoints and the filled staging folder.
        card: The model card.
        record: What `read_record` shall return; plain JSON values.

    Raises:
        TrainingError: If no weights were staged.
    """
    staging = folder / STAGING
    (staging / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody needs
    if not any(staging.glob("*.safetensors")):
        raise TrainingError(f"no weights were written to {staging}; the checkpoints in {folder} are kept")
    (staging / "README.md").write_text(card, encoding="utf-8")
    (staging / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    for path in sorted(staging.iterdir(), key=lambda path: path.name in MARKERS):
        if path.is_dir():
            flushed_files(path)
            shutil.rmtree(folder / path.name, ignore_errors=True)  # of an export that was killed
        flush_to_disk(path)
        path.replace(folder / path.name)
    flush_to_disk(folder)
    staging.rmdir()
    drop_checkpoints(folder)


def drop_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished run."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def model_card(
    base_model: str | None, library: str, settings: Mapping[str, object], outcome: Mapping[str, object]
) -> str:
    """README.md of a student: what it is, from which model, how it was trained, what came of it, whom to cite.

    Args:
        base_model: Hub name of the model it started from; None for a local folder, whose path tells others nothing.
        library: transformers or peft.
        settings: Hyper-parameters, in the order they are shown.
        outcome: Hashes and figures of the training, likewise.
    """
    head = {"library_name": library, "tags": ["kpod", "distillation"]}
    if base_model:
        head["base_model"] = base_model
    rows, figures = ("\n".join(f"| {name} | {value} |" for name, value in part.items()) for part in (settings, outcome))
    start = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "a local model"
    return f"""---
{dump_yaml(head).strip()}
---

# Student distilled with KPOD

Trained from {start} on a teacher's rationales by keypoint-based progressive chain-of-thought distillation
([arXiv:2405.16064](https://arxiv.org/abs/2405.16064)) with the package `kpod-distill`.

## Training

| setting | value |
|---|---|
{rows}

| outcome | value |
|---|---|
{figures}

## Citation

```bibtex
{_CITATION}
```
"""


def export(
    trainer: KeypointTrainer,
    lm: LanguageModel,
    config: TrainingConfig,
    precision: Precision,
    base_model: str | None,
    record: dict[str, Any],
) -> None:
    """Write the final student, on one process where the model is whole, on all where it is sharded."""
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    keeps_adapters, average = config.lora is not None and not config.merge_lora, trainer.average
    if average is not None and average.num:
        average.finish()
    if not keeps_adapters:
        model = merged(model)
    if not (keeps_adapters or trainer.is_sharded):
        model = model.to(DTYPES[precision])

    folder, first = Path(str(trainer.args.output_dir)), trainer.is_world_process_zero()
    library = "peft" if keeps_adapters else "transformers"
    card = model_card(base_model, library, _settings(config, trainer.args), _outcome(trainer, folder))
    staging = empty_staging(folder) if first else folder / STAGING
    trainer.accelerator.wait_for_everyone()
    if trainer.is_sharded:
        if trainer.is_fsdp_enabled:  # transformers writes no weights where checkpoints are sharded
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(staging), _internal_call=True)
    elif first:
        if average is not None:
            for part in (model, lm.tokenizer):
                part.save_pretrained(staging / LAST_UPDATE)
            average.put()
        model.save_pretrained(staging)
        lm.tokenizer.save_pretrained(staging)
    trainer.accelerator.wait_for_everyone()
    if first:
        publish_student(folder, card, {"fingerprint": trainer.fingerprint, **record})
    trainer.accelerator.wait_for_everyone()


def _settings(config: TrainingConfig, arguments: TrainingArguments) -> dict[str, object]:
    """Hyper-parameters for the model card."""
    shown = (*PASSED[:-1], "optim", "lr_scheduler_type", "weight_decay", "max_grad_norm", "seed")
    settings: dict[str, object] = {name: _plain(getattr(arguments, name)) for name in shown}
    settings |= {"num_processes": arguments.world_size, "mixed precision": arguments.mixed_precision}
    settings |= {"weight_normalisation": config.weight_normalisation, "normaliser": config.normaliser}
    return settings | ({f"lora {k}": v for k, v in asdict(config.lora).items()} if config.lora else {})


def _outcome(trainer: KeypointTrainer, folder: Path) -> dict[str, object]:
    """What a reader needs to tell this student from another; the same after a resumed run."""
    updates = read_updates(folder / METRICS)
    found: dict[str, object] = {
        "made from data, weights, schedule and recipe with the hash": trainer.fingerprint,
        "optimiser steps": len(updates),
        "trained tokens": sum(line["trained_tokens"] for line in updates),
        "loss of the last step": f"{updates[-1]['loss']:.4f}",
    }
    if trainer.average is not None:
        found["weights are the mean after each of the last"] = f"{trainer.average.num} optimiser steps"
    state = trainer.state
    if state.best_metric is not None:
        found |= {"validation accuracy": state.best_metric, "chosen after step": state.best_global_step}
    return found


def _plain(value: Any) -> object:
    return getattr(value, "value", value)
