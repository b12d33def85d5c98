"""Train the student stage by stage (Algorithm 1, lines 5-11): start, go on after a kill, finish, export."""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging as logging_of_transformers
from transformers.utils.import_utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
)

from kpod.lm.models import LanguageModel, evaluating, with_lora
from kpod.recipe import TrainingConfig
from kpod.records import Schedule, TokenizedRationale
from kpod.records.errors import ConfigError, TrainingError, TrainingInterruptedError
from kpod.records.topk import TopK
from kpod.training.arguments import Precision, check_model_arguments, training_arguments
from kpod.training.averaging import WeightAverage
from kpod.training.batches import StageDataset
from kpod.training.best_by_accuracy import BestByAccuracy
from kpod.training.checkpoints import last_valid_checkpoint, refuse_other_inputs
from kpod.training.curriculum import ENDS_BY_ITSELF, Curriculum, CurriculumDataset, load_state
from kpod.training.curriculum_trainer import CurriculumTrainer
from kpod.training.export import drop_checkpoints, export, read_record
from kpod.training.guards import StopOnSignal, check_disk, explained_memory
from kpod.training.metrics import METRICS, read_updates
from kpod.training.objectives import Objective
from kpod.training.own_texts import OwnTexts
from kpod.training.trainer import KeypointTrainer
from kpod.training.updates_bar import UpdatesBar

log = logging.getLogger(__name__)

FLASH_ATTENTION = {
    "flash_attention_4": is_flash_attn_4_available,
    "flash_attention_3": is_flash_attn_3_available,
    "flash_attention_2": is_flash_attn_2_available,
}
"""Attention without padding, by transformers' name, and whether it is installed; none of them knows float32."""


def flash_attention() -> str | None:
    """The newest flash attention that is installed here, by transformers' name."""
    return next((name for name, is_available in FLASH_ATTENTION.items() if is_available()), None)


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """What a training run did.

    Attributes:
        updates: Optimiser steps, those before an interruption included.
        trained_tokens: Tokens with a loss, summed over all updates.
        final_loss: Mean loss of the last epoch's updates, in nats per token (or unit of weight).
        losses: Loss of every update.
    """

    updates: int
    trained_tokens: int
    final_loss: float
    losses: tuple[float, ...]


def train_student(
    lm: LanguageModel,
    tokens: Sequence[TokenizedRationale],
    weights: Mapping[str, NDArray[np.float32]],
    schedule: Schedule,
    config: TrainingConfig,
    *,
    seed: int,
    output_dir: Path,
    precision: Precision = "fp32",
    fingerprint: str | None = None,
    base_model: str | None = None,
    validate: Callable[[LanguageModel], float] | None = None,
    tasks: Mapping[str, int] | None = None,
    task_shares: Sequence[float] = (1.0,),
    objective: Objective | None = None,
    groups: Mapping[str, str] | None = None,
    teacher: Mapping[str, TopK] | None = None,
    reference: Mapping[str, NDArray[np.float32]] | None = None,
    own_texts: OwnTexts | None = None,
    curriculum: Curriculum | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    tensorboard: Path | None = None,
) -> TrainingSummary:
    """Train a student on its schedule with the loss of Eq. 15 and write it to `output_dir`.

    The same call after an interruption goes on from the last valid checkpoint and ends in the same bytes; after the
    end it only returns the summary.

    Args:
        lm: The student before training; its model is trained in place.
        tokens: The rationales.
        weights: Rationale id -> w_j of its tokens, in [0, 1] (`Weights.loss`).
        schedule: How many steps each rationale is given at each stage.
        config: The recipe's `training`.
        seed: Of adapters, order and dropout.
        output_dir: Holds checkpoints and metrics.jsonl while training, then the student in Hugging Face layout.
        precision: fp32, or bf16 arithmetic; parameters that are trained are kept in float32 while they are.
        fingerprint: Says from which data, weights, schedule and recipe; a checkpoint with another one is refused. None
            for a hash of all arguments, the student's parameters among them.
        base_model: Hub name for the model card.
        validate: The accuracy of a student as it is, in [0, 1]; needed where `config.validation` is set.
        tasks: Rationale id -> index of its task; 0 where it is not named.
        task_shares: What each task counts for in the loss; every task has a mean of its own (`StepLoss`).
        objective: What is trained on; by default the NLL.
        groups: Rationale id -> its question, where the objective compares rationales of a question.
        teacher: Rationale id -> a teacher's distributions, where the objective matches them.
        reference: Rationale id -> log P under a reference model, where a rule of the objective asks for it.
        own_texts: Has the student write what it is trained on, where the objective asks for that.
        curriculum: Chooses by what happens in training; it is made afresh for each call. None: the schedule alone does.
        callbacks: Further callbacks of transformers.
        tensorboard: Where TensorBoard's files go, if `training.report_to` names it; None: into `output_dir`.

    Raises:
        ConfigError: On arguments that cannot be passed to transformers, or an objective or curriculum that the data or
            the recipe does not fit.
        DataError: If a rationale has no weights or no place in the schedule.
        TrainingError: If the loss is not finite, a checkpoint belongs to another run, memory or disk do not suffice,
            or training was stopped early; TrainingInterruptedError where SIGTERM or SIGINT stopped it.
    """
    if fingerprint is None:
        settings = own_texts and own_texts.settings
        made_of = (objective or Objective(), tasks, task_shares, groups, curriculum, settings)
        models = [lm.model, *([own_texts.teacher.model] if own_texts else [])]
        beside: list[NDArray[Any]] = list((reference or {}).values())
        beside += [array for one in (teacher or {}).values() for array in (one.token_ids, one.logprobs)]
        fingerprint = _fingerprint(models, tokens, weights, schedule, (config, seed, precision, made_of), beside)
    if (found := finished(output_dir, fingerprint)) is not None:
        return found
    dataset = (CurriculumDataset if curriculum is not None and curriculum.orders else StageDataset)(
        tokens,
        weights,
        schedule,
        encoder_decoder=lm.encoder_decoder,
        normalisation=config.weight_normalisation,
        given=config.given,
        tasks=tasks,
        groups=groups,
        teacher=teacher,
        reference=reference,
    )
    arguments = training_arguments(config, output_dir, seed, precision)
    checkpoint = _checkpoint_to_resume(output_dir, fingerprint, arguments.world_size)
    loss = {"task_shares": task_shares, "objective": objective, "own_texts": own_texts}
    trainer = _trainer(lm, dataset, config, arguments, fingerprint, loss, callbacks, curriculum)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and tensorboard is not None:
            callback.logging_dir = callback.logging_dir or str(tensorboard)
    per_epoch = _updates_per_epoch(trainer)
    alone = arguments.world_size == 1  # and then nobody has to be asked, which would wait for the GPU
    stop = StopOnSignal(
        lambda number: (
            number if alone else int(trainer.accelerator.gather(torch.tensor(number, device=arguments.device)).max())
        )
    )
    trainer.add_callback(stop)
    selection = _selection(trainer, lm, schedule, config, per_epoch, validate)
    if isinstance(trainer, CurriculumTrainer) and checkpoint:
        trainer.restore(load_state(Path(checkpoint)))
    if config.average is not None:
        _average(trainer, config.average.last, curriculum, checkpoint)
    if not trainer.is_sharded:
        averaged = trainer.average.size if trainer.average else 0
        updates = per_epoch * config.num_train_epochs
        check_disk(output_dir, cast("nn.Module", trainer.model), arguments, updates, averaged)
    with _no_shard_bars():
        with stop.listening(), explained_memory(arguments):
            over = _train(trainer, checkpoint, selection)
        if not over:
            _check_finished(trainer, stop.received)
        export(trainer, lm, config, precision, base_model, {"updates_per_epoch": per_epoch})
    return _summary(output_dir, per_epoch)


def _fingerprint(
    models: Sequence[nn.Module],
    tokens: Sequence[TokenizedRationale],
    weights: Mapping[str, NDArray[np.float32]],
    schedule: Schedule,
    others: object,
    beside: Sequence[NDArray[Any]] = (),
) -> str:
    """A hash of all that a student is made from; of arrays by their bytes, since their repr leaves numbers out."""
    parts = [(one.id, one.segment_stops, one.step_stops, one.num_read) for one in tokens]
    found = hashlib.sha256(repr((parts, schedule, others, sorted(weights))).encode())
    ids = (one.token_ids for one in tokens)
    for array in (schedule.input_steps, *ids, *(weights[name] for name in sorted(weights)), *beside):
        found.update(np.ascontiguousarray(array).tobytes())
    for parameter in (parameter for model in models for parameter in model.parameters()):
        found.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def finished(folder: Path, fingerprint: str) -> TrainingSummary | None:
    """What a training run did that has ended; None if it has not.

    Raises:
        TrainingError: If the folder holds the student of another run.
    """
    record = read_record(folder)
    if record is None:
        return None
    if record["fingerprint"] != fingerprint:
        raise TrainingError(
            f"{folder} holds a student that was trained from other data, another schedule or another recipe; "
            f"delete {folder} to train afresh, or give the run another name"
        )
    drop_checkpoints(folder)
    return _summary(folder, record["updates_per_epoch"])


def _checkpoint_to_resume(folder: Path, fingerprint: str, num_processes: int) -> str | None:
    checkpoint, skipped = last_valid_checkpoint(folder)
    for line in skipped:
        log.warning("skipping %s", line)
    if checkpoint is None:
        return None
    refuse_other_inputs(checkpoint, fingerprint, num_processes)
    log.info("going on from %s", checkpoint)
    return str(checkpoint)


def _trainer(
    lm: LanguageModel,
    dataset: StageDataset,
    config: TrainingConfig,
    arguments: TrainingArguments,
    fingerprint: str,
    loss: Mapping[str, Any],
    callbacks: Sequence[TrainerCallback],
    curriculum: Curriculum | None,
) -> KeypointTrainer:
    model = cast("PreTrainedModel", lm.model)
    check_model_arguments(arguments, model.config.model_type)
    if config.packing and (arguments.bf16 or arguments.fp16) and (found := flash_attention()):
        model.set_attn_implementation(found)
    kind = KeypointTrainer if curriculum is None else partial(CurriculumTrainer, curriculum=curriculum)
    trainer = kind(
        _trainable(model, config, arguments.seed),
        arguments,
        train_dataset=dataset,
        processing_class=lm.tokenizer,
        normaliser=config.normaliser,
        **loss,
        fingerprint=fingerprint,
        tokens_per_batch=config.tokens_per_batch,
        packing=config.packing,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback):  # neither where the recipe has no bar, nor in a notebook
        trainer.add_callback(UpdatesBar())
    if config.lora and config.merge_lora and trainer.is_sharded:
        raise ConfigError(
            "training.merge_lora: adapters cannot be merged into a sharded model; set it to false and merge afterwards"
        )
    return trainer


def _trainable(model: PreTrainedModel, config: TrainingConfig, seed: int) -> PreTrainedModel | PeftModel:
    """The model as it is trained: with adapters if the recipe says so, and float32 wherever it learns.

    A bfloat16 parameter would swallow most updates: at a learning rate of 1e-5 they are below its rounding error.
    """
    set_seed(seed)
    trained = cast("PeftModel", with_lora(model, config.lora)) if config.lora else model
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trained


def _average(trainer: KeypointTrainer, share: float, curriculum: Curriculum | None, checkpoint: str | None) -> None:
    """Have the trainer average the weights over its last updates, or go on with that."""
    if trainer.is_sharded:
        raise ConfigError("training.average: no process holds the weights of a sharded student; leave it out")
    if curriculum is not None and curriculum.over is not None:
        raise ConfigError(ENDS_BY_ITSELF)
    trainer.average = WeightAverage(cast("nn.Module", trainer.model), share)
    if checkpoint and trainer.is_world_process_zero():
        trainer.average.restore(Path(checkpoint))
    trainer.add_callback(trainer.average)


def _selection(
    trainer: KeypointTrainer,
    lm: LanguageModel,
    schedule: Schedule,
    config: TrainingConfig,
    updates_per_epoch: int,
    validate: Callable[[LanguageModel], float] | None,
) -> BestByAccuracy | None:
    """What chooses the checkpoint, made part of the trainer; None where the recipe wants the last one."""
    under_curriculum = trainer if isinstance(trainer, CurriculumTrainer) else None
    if config.validation is None:
        if under_curriculum is not None and under_curriculum.curriculum.asks:
            raise ConfigError(
                "training.validation: the method goes by the accuracy between epochs; name its questions, such as "
                "training.validation: {questions: FILE}"
            )
        return None
    if validate is None or trainer.is_sharded:
        raise ConfigError("training.validation: a sharded student is not asked while it trains; leave it out")

    def accuracy(model: nn.Module) -> float:
        asked = replace(lm, model=trainer.accelerator.unwrap_model(model))
        with evaluating(model), trainer.accelerator.autocast():  # around all steps: weights are cast once, not at each
            found = torch.tensor(validate(asked), dtype=torch.float64, device=trainer.args.device)
        clear_device_cache()  # of what writing texts took, which other runs on the same GPU may want
        return float(trainer.accelerator.gather(found).flatten()[0])  # the first process's, should they ever differ

    selection = BestByAccuracy(accuracy, config.validation, schedule, updates_per_epoch, trainer.log, under_curriculum)
    trainer.add_callback(selection)
    trainer.args.load_best_model_at_end = config.validation.student == "best"
    return selection


def _updates_per_epoch(trainer: KeypointTrainer) -> int:
    """Of the last epoch, where they differ."""
    if isinstance(trainer, CurriculumTrainer) and trainer.curriculum.varies:
        return trainer.updates_in(math.ceil(trainer.args.num_train_epochs) - 1)
    return math.ceil(len(trainer.get_train_dataloader()) / trainer.args.gradient_accumulation_steps)


def _train(trainer: KeypointTrainer, checkpoint: str | None, selection: BestByAccuracy | None) -> bool:
    """Train, and say whether the selection ended it early; a run that was killed after that is not trained further."""
    if selection and checkpoint:
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if selection.is_over(state):
            trainer.state = state
            if trainer.args.load_best_model_at_end:
                trainer._load_best_model()
            else:
                trainer._load_from_checkpoint(checkpoint)
            return True
    trainer.train(resume_from_checkpoint=checkpoint)
    return selection is not None and selection.is_over(trainer.state)


def _check_finished(trainer: KeypointTrainer, received: int) -> None:
    """Refuse to export a half-trained student: transformers returns normally when a callback stops it early."""
    done, wanted = trainer.state.global_step, trainer.state.max_steps
    if done < wanted:
        told = (
            f"training stopped at update {done} of {wanted}; no student was written. "
            "Run the same command again to go on from the last checkpoint"
        )
        raise TrainingInterruptedError(told, received) if received else TrainingError(told)


@contextmanager
def _no_shard_bars() -> Iterator[None]:
    """Keep transformers' bars for written files from breaking up the training's own."""
    if not logging_of_transformers.is_progress_bar_enabled():
        yield
        return
    logging_of_transformers.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging_of_transformers.enable_progress_bar()  # type: ignore[no-untyped-call]


def _summary(folder: Path, updates_per_epoch: int) -> TrainingSummary:
    lines = read_updates(folder / METRICS)
    losses = tuple(line["loss"] for line in lines)
    return TrainingSummary(
        updates=len(losses),
        trained_tokens=sum(line["trained_tokens"] for line in lines),
        final_loss=float(np.mean(losses[-updates_per_epoch:])),
        losses=losses,
    )
