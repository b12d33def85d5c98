"""A transformers.Trainer with the loss of Eq. 15, stages by epoch, and checkpoints that survive a kill."""

import logging
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput, rotate_checkpoints

from kpod.lm.head import Predictions, has_linear_head, predictions_of
from kpod.lm.sequences import Batch, Example, at_trained, run, trained_places
from kpod.lm.waits import reads_nothing_after
from kpod.records.errors import ConfigError, TrainingError
from kpod.training.agreement import Reference
from kpod.training.averaging import WeightAverage
from kpod.training.batches import StageBatch, StageDataset, StageSampler, TokenBatchSampler
from kpod.training.beside import complete
from kpod.training.checkpoints import STAGING, publish, seal
from kpod.training.collation import Collator, check_packing, collator_of, language_model_of
from kpod.training.groups import GroupSampler
from kpod.training.loss import Normaliser
from kpod.training.metrics import METRICS, MetricsFile
from kpod.training.objectives import Found, Objective, StepLoss, check_loss
from kpod.training.own_texts import OwnTexts
from kpod.training.row_dataset import RowDataset, holds_rows
from kpod.training.updates import Updates

log = logging.getLogger(__name__)


class KeypointTrainer(Trainer):
    """A transformers.Trainer whose loss is that of KPOD (Eq. 15), on a user's own rows or on a schedule.

    The loss of an optimiser step is divided once, by the trained tokens (or weights) of all its accumulated batches
    on all processes. With a `StageDataset` each epoch trains its stage. Every update adds a line to
    `metrics.jsonl` in the output folder: losses in nats, `rationale_loss` and `answer_loss` per token, unweighted.

    Arguments are those of transformers.Trainer, in its order, and seven more. `compute_metrics` gets logits and labels
    that stand side by side: the logits at position i predict `labels[i]`, for causal models too, so do not shift them.

    Args:
        model: Causal or encoder-decoder, perhaps wrapped by peft.
        args: Any but label smoothing. `remove_unused_columns` has no effect.
        data_collator: Makes a batch of examples; by default a `Collator`.
        train_dataset: Rows as `RowDataset` reads them (a list of dicts or a `datasets.Dataset`), a `StageDataset`, or
            any dataset of `kpod.lm.sequences.Example`s.
        eval_dataset: The same, or a dict of them by name.
        processing_class: The model's fast tokenizer, or a processor that has one.
        normaliser: What the loss is divided by: the number of trained tokens, or their summed weights.
        task_shares: What each task of a `StageDataset` counts for in the loss; see `StepLoss`.
        objective: What is trained on; by default the NLL.
        own_texts: Has the student write what it is trained on, with a teacher's distributions.
        fingerprint: Written into every checkpoint; says what it was made from.
        tokens_per_batch: Cut the batches of a `StageDataset` by tokens.
        packing: Put a batch's examples into one row; refused at the first batch where the model mixes them up.
        kwargs: As for transformers.Trainer, without `compute_loss_func`.

    Raises:
        ConfigError: On label smoothing, another loss, `tokens_per_batch` on several processes, or without tokenizer.
        DataError: If a row is wrong; see `RowDataset`.
        TrainingError: While training, if loss or gradient is not finite; the batch is saved and named.

    Example:
        trainer = KeypointTrainer(model=model, args=args, processing_class=tokenizer, train_dataset=rows)
        trainer.train()
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel | PeftModel | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[Sequence[Any]], StageBatch] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        *,
        normaliser: Normaliser = "tokens",
        task_shares: Sequence[float] = (1.0,),
        objective: Objective | None = None,
        own_texts: OwnTexts | None = None,
        fingerprint: str = "",
        tokens_per_batch: int | None = None,
        packing: bool = False,
        **kwargs: Any,
    ) -> None:
        args = args or TrainingArguments("tmp_trainer")  # as transformers' Trainer does
        if args.label_smoothing_factor:
            raise ConfigError("training.label_smoothing_factor: the loss of Eq. 15 has no smoothing; leave it out")
        if kwargs.get("compute_loss_func") is not None:
            raise ConfigError("compute_loss_func: KeypointTrainer has a loss of its own (Eq. 15); leave it out")
        if args.n_gpu > 1:
            log.warning("training on 1 of %d GPUs; use `accelerate launch` or torchrun for all", args.n_gpu)
            args._n_gpu = 1
        args.logging_nan_inf_filter = (
            False  # it asks the device about every batch, and such a loss stops the run anyway
        )
        if tokens_per_batch and args.world_size > 1:
            raise ConfigError("training.tokens_per_batch works on one process; leave it out on several")
        self.step_loss = StepLoss(normaliser, task_shares, objective)
        self.own_texts = own_texts
        self.fingerprint = fingerprint
        self.tokens_per_batch = tokens_per_batch
        self.average: WeightAverage | None = None
        self._staging: Path | None = None
        self._sampler: StageSampler | TokenBatchSampler | GroupSampler | None = None
        self._linear_head: bool | None = None
        self._needs_mask: bool | None = None
        self._packing_is_unproven = packing
        if args.dataloader_pin_memory:
            cast("Any", args.accelerator_config).non_blocking = True
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, processing_class, **kwargs)
        if data_collator is None:
            self.data_collator = collator_of(language_model_of(self.model, processing_class), packing)
        self.train_dataset, self.eval_dataset = self._examples(train_dataset), self._examples(eval_dataset)
        check_loss(self.step_loss, self.train_dataset, args, by_tokens=tokens_per_batch is not None)
        if own_texts is not None:
            own_texts.check(cast("Collator", self.data_collator).lm, args)
        self._start = Reference(cast("nn.Module", self.model)) if "start" in self.step_loss.objective.needs else None
        self.label_names = ["labels"]
        self._evaluated = torch.zeros(2, self.step_loss.num_means, device=args.device)
        alone = args.world_size == 1
        self._updates_found = Updates(self._folder, None if alone else args.process_index, self._total)
        self._metrics_file = MetricsFile(self._folder / METRICS, self._updates_found.take)
        self.add_callback(self._metrics_file)

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds the whole model."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    # -- the loss ----------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: StageBatch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The batch's share of Eq. 15, times the number of processes, over which gradients are averaged.

        Args:
            model: As wrapped for training.
            inputs: A batch of `Collator`.
            return_outputs: Also return what the model returns, with the logits of every position, [batch, length,
                vocabulary], and this loss under `loss`. That takes their memory, which the loss alone does not.
            num_items_in_batch: The normaliser of the optimiser step, one for each of `StepLoss`'s means; None for that
                of this batch alone.

        Returns:
            The loss in nats per token (or unit of weight), or loss and outputs.
        """
        inputs = complete(inputs)
        sizes = self._sizes(inputs, num_items_in_batch)
        found, outputs = self._loss(model, inputs, sizes, with_outputs=return_outputs)
        if self.is_in_train and model.training:
            self._updates_found.add(found, inputs["beside"]["parts"], inputs["examples"])
        else:
            self._evaluated += torch.stack([found.means * sizes, self.step_loss.sizes(inputs)])
        loss = found.loss if num_items_in_batch is None else found.loss * self.accelerator.num_processes
        if not return_outputs:
            return loss
        outputs["loss"] = loss
        outputs.move_to_end("loss", last=False)  # where transformers' own models have it
        return loss, outputs

    def _loss(
        self, model: nn.Module, inputs: StageBatch, sizes: Float[Tensor, " means"], *, with_outputs: bool
    ) -> tuple[Found, Any]:
        """The batch's share of the loss of a step of these sizes, and if wanted what the model returned."""
        batch = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        weights = at_trained(batch, "weights")
        predictions, outputs = self._predictions(model, batch, inputs["examples"], with_outputs=with_outputs)
        start = None
        if self._start is not None:
            start = partial(self._start.predictions, model, batch, linear_head=bool(self._linear_head))
        return self.step_loss(predictions, inputs, weights, sizes, start), outputs

    def _predictions(
        self, model: nn.Module, batch: Batch, examples: Sequence[Example], *, with_outputs: bool
    ) -> tuple[Predictions, Any]:
        """The model's predictions of a batch, and if wanted what it returned."""
        if self._packing_is_unproven:
            check_packing(model, self.data_collator, examples, self.args.device, sharded=self.is_sharded)
            self._packing_is_unproven = False
        if with_outputs:
            outputs = run(model, batch)
            return Predictions(outputs.logits.flatten(0, 1).index_select(0, trained_places(batch))), outputs
        if self._linear_head is None:
            # fp16's scaling of the loss comes too late for gradients made in the forward pass.
            general = self.is_sharded or self.args.fp16
            self._linear_head = not general and has_linear_head(model, batch)
        if self._needs_mask is None:
            ours = "attention_mask" in batch and "positions" in batch and "decoder_input_ids" not in batch
            self._needs_mask = self.is_sharded or not ours or not reads_nothing_after(model, batch["input_ids"][:1])
        if not self._needs_mask:
            batch.pop("attention_mask", None)
        return predictions_of(model, batch, linear_head=self._linear_head), None

    def _total(self, tensor: Tensor) -> Tensor:
        """Summed over all processes."""
        return cast("Tensor", self.accelerator.reduce(tensor, "sum")) if self.args.world_size > 1 else tensor

    def _sizes(self, batch: StageBatch, num_items: Tensor | float | int | None) -> Float[Tensor, " means"]:
        """The sizes of an optimiser step's means: those given, or those of a batch alone."""
        if num_items is None:
            return self.step_loss.sizes(batch)
        return torch.as_tensor(num_items).to(batch["weights"]).expand(self.step_loss.num_means)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[StageBatch], Any]:
        """As transformers', with texts of the student itself where it is time for them."""
        batches, sizes = super().get_batch_samples(*args, **kwargs)
        own, update = self.own_texts, self.state.global_step
        if own is None or not own.is_on(update, self.state.max_steps):
            return batches, sizes
        collator, model = cast("Collator", self.data_collator), cast("nn.Module", self.model)
        for number, batch in enumerate(batches):
            seed = int(np.random.SeedSequence((self._order_seed, update, number)).generate_state(1)[0])
            batches[number] = collator(own.of(collator.lm, model, batch["examples"], seed))
        return batches, self._get_num_items_in_batch(batches, self.args.device)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        self._updates_found.begin()
        found: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        return found

    def _get_num_items_in_batch(self, batch_samples: list[StageBatch], device: torch.device) -> Tensor:
        """The sizes of an optimiser step's means: over its accumulated batches, and over all processes."""
        return self._total(torch.stack([self.step_loss.sizes(batch) for batch in batch_samples]).sum(dim=0).to(device))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Keep an update that would make every parameter NaN from being made; `Updates` stops the run.

        Raises:
            TrainingError: If a batch's loss or the gradient's norm is not finite and that cannot be told later; fp16's
                scaler sees to the norm.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        scaled, whole = self.accelerator.scaler is not None, type(norm) is Tensor and not self.is_sharded
        known = None if scaled or norm is None else norm if whole else float(norm)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer) if whole and not scaled else None
        try:
            self._updates_found.check(known, optimizer, self.state.global_step + 1, self.state.epoch)
        except TrainingError:
            self._metrics_file.flush(self.state)  # what the updates before measured
            raise
        return norm

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As transformers', for the log and all trackers, with what metrics.jsonl has of the updates since the last."""
        if "loss" in logs:
            logs = logs | self._metrics_file.since_last_log(self.state)
        super().log(logs, *args, **kwargs)

    # -- evaluation: the same loss, divided once by the whole set's normaliser ---------------------

    def prediction_step(
        self,
        model: nn.Module,
        inputs: StageBatch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """As transformers', but where the loss alone is wanted no logits are made."""
        if not prediction_loss_only:
            found: tuple[Any, Any, Any] = super().prediction_step(model, inputs, False, ignore_keys)
            return found
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As transformers', with the loss of the set in place of its batches' mean."""
        self._evaluated = torch.zeros_like(self._evaluated)
        output = super().evaluation_loop(*args, **kwargs)
        sums = self._total(self._evaluated)
        if output.metrics is not None:
            output.metrics[f"{kwargs.get('metric_key_prefix', 'eval')}_loss"] = self.step_loss.mixed(sums[0], sums[1])
        return output

    # -- data ----------------------------------------------------------------------------------------

    def _examples(self, data: Any) -> Any:
        """Rows as examples for the model; a dataset of examples as it is, and each one of a dict of datasets."""
        if isinstance(data, dict):
            return {name: self._examples(one) for name, one in data.items()}
        if not holds_rows(data):
            return data
        return RowDataset(data, language_model_of(self.model, self.processing_class))

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        """As transformers', also of rows, which `evaluate` and `predict` may be given."""
        return super()._get_dataloader(self._examples(dataset), *args, **kwargs)

    # -- stages ------------------------------------------------------------------------------------

    @property
    def _order_seed(self) -> int:
        return int(self.args.seed if self.args.data_seed is None else self.args.data_seed)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[Any] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, StageDataset):
            return super()._get_train_sampler(train_dataset)
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        bucketed = self.args.train_sampling_strategy == "group_by_length"
        self._sampler = StageSampler(dataset.lengths, dataset.schedule, self._order_seed, together, bucketed=bucketed)
        return self._sampler

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As transformers', or with batches cut by tokens or made of groups."""
        dataset, args = self.train_dataset, self.args
        grouped = isinstance(dataset, StageDataset) and "groups" in dataset.has
        if not isinstance(dataset, StageDataset) or not (grouped or self.tokens_per_batch):
            return super().get_train_dataloader()
        per_update, seed = args.gradient_accumulation_steps, self._order_seed
        if grouped:
            drawn = 2 if "groups" in self.step_loss.objective.needs else None
            size = args.train_batch_size
            self._sampler = GroupSampler(dataset.groups, dataset.schedule, seed, size, per_update, drawn=drawn)
        else:
            tokens = self.tokens_per_batch or 0
            self._sampler = TokenBatchSampler(dataset.lengths, dataset.schedule, seed, tokens, per_update)
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )
        return cast("DataLoader[Any]", self.accelerator.prepare(loader))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Tell the sampler its epoch; accelerate does not reach it when several processes resume inside an epoch."""
        if self._sampler is not None:
            self._sampler.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    # -- checkpoints -------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save into a staging folder; seal, rename and only then delete older checkpoints, all on one process.

        No checkpoint counts an update that has not proven finite.
        """
        self._metrics_file.flush(self.state)
        folder, limit = Path(self._get_output_dir(trial)), self.args.save_total_limit
        first = self.is_world_process_zero()
        if first:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging, self.args.save_total_limit = folder / STAGING, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging, self.args.save_total_limit = None, limit
        self.accelerator.wait_for_everyone()
        name = f"checkpoint-{self.state.global_step}"
        best = self.state.best_model_checkpoint
        if best and Path(best).parent == folder / STAGING:
            self.state.best_model_checkpoint = str(folder / name)
        if first:
            self.state.save_to_json(str(folder / STAGING / name / TRAINER_STATE_NAME))
            if self.average is not None:
                self.average.save(folder / STAGING / name)
            seal(folder / STAGING / name, self.fingerprint, self.args.world_size)
            publish(folder / STAGING / name, folder / name)
            (folder / STAGING).rmdir()
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
