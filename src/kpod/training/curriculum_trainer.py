# ruff: noqa: ARG002 (a callback is given more than it needs)
"""A KeypointTrainer that asks a curriculum what to train, tells it what happens, and saves what it remembers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kpod.lm.buckets import bucketed_order, cut_to_passes
from kpod.lm.head import chunked_logprobs
from kpod.lm.models import evaluating
from kpod.lm.processes import divided
from kpod.lm.sequences import at_trained, collate, trained_places
from kpod.records.errors import ConfigError, TrainingError
from kpod.training.batches import StageBatch, StageSampler
from kpod.training.collation import Collator
from kpod.training.curriculum import Curriculum, CurriculumDataset, Cut, Moment, save_state
from kpod.training.trainer import KeypointTrainer


class CurriculumTrainer(KeypointTrainer):
    """Trains a `CurriculumDataset`, or under a curriculum that orders nothing a `StageDataset`.

    Args:
        args: As for `KeypointTrainer`.
        curriculum: What to train when; it changes while training goes on.
        kwargs: As for `KeypointTrainer`.

    Raises:
        ConfigError: If the curriculum does not work in batches by tokens, or on a sharded model.
    """

    def __init__(self, *args: Any, curriculum: Curriculum, **kwargs: Any) -> None:
        self.curriculum = curriculum
        super().__init__(*args, **kwargs)
        if curriculum.orders and self.tokens_per_batch:
            raise ConfigError("training.tokens_per_batch: the method chooses the batches' rationales; leave it out")
        if self.is_sharded:
            raise ConfigError("the method goes by what happens in training, and does not work with FSDP or DeepSpeed")
        self._entered = -1
        self._updates = 1
        self.add_callback(_Forgetful(self))

    @property
    def _dataset(self) -> CurriculumDataset:
        return cast("CurriculumDataset", self.train_dataset)

    # -- epochs that differ in length ----------------------------------------------------------------

    def updates_in(self, epoch: int) -> int:
        """Optimiser steps of an epoch, counted from 0. Known once training is prepared."""
        if not self.curriculum.varies:
            return self._updates
        args, num = self.args, self.curriculum.length(epoch, len(self._dataset))
        size: int = args.train_batch_size * args.world_size
        batches = num // size if args.dataloader_drop_last else -(-num // size)
        return max(1, -(-batches // args.gradient_accumulation_steps))

    def epochs_at(self, update: int) -> tuple[int, int]:
        """How many epochs lie before an update, and how many updates of its own epoch."""
        epoch = 0
        while update >= (num := self.updates_in(epoch)):
            epoch, update = epoch + 1, update - num
        return epoch, update

    def moment(self, update: int) -> Moment:
        """When an update is."""
        epoch, _ = self.epochs_at(update)
        return Moment(self._order_seed, epoch, update, self.updates_in(epoch))

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader[Any]) -> Any:
        """As transformers', with the updates of epochs that differ, and what the curriculum refuses."""
        values: list[Any] = list(super().set_initial_training_values(args, dataloader))
        self._updates = values[1]
        if self.curriculum.varies:
            epochs = range(values[0])
            most = args.max_steps if args.max_steps > 0 else sum(map(self.updates_in, epochs))
            values[0], values[-1] = self.epochs_at(most - 1)[0] + 1, most
        self.curriculum.check(self.moment(values[-1] - 1))
        return tuple(values)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """As transformers', with the epoch and batch to go on from by epochs that differ."""
        found: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        if not self.curriculum.varies:
            return found
        epochs, updates = self.epochs_at(self.state.global_step)
        return epochs, updates * self.args.gradient_accumulation_steps

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Let the curriculum enter the epoch first, unless it had before training was interrupted."""
        epoch = kwargs["epoch"]
        if self._entered != epoch:
            self.curriculum.begin(epoch, self.losses)
            self._entered = epoch
        if self.curriculum.varies and self._sampler is not None:
            self._sampler.set_epoch(epoch)
            kwargs["steps_in_epoch"] = len(kwargs["train_dataloader"])
            kwargs["num_update_steps_per_epoch"] = self.updates_in(epoch)
        super()._run_epoch(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[Any] | None:
        usual = super()._get_train_sampler(train_dataset)
        if self.curriculum.orders and isinstance(usual, StageSampler):
            self._sampler = _CurriculumSampler(usual, self)
            return self._sampler
        return usual

    # -- what a curriculum is told and asked in training ---------------------------------------------

    def losses(self) -> Float[np.ndarray, " rationales"]:
        """The loss of every rationale under the student as it is: the weighted mean NLL of what it writes, in nats.

        Several processes share the passes.

        Raises:
            TrainingError: If one is not finite.
        """
        dataset, model, lm = self._dataset, cast("nn.Module", self.model), cast("Collator", self.data_collator).lm
        lengths = np.array([len(rationale.token_ids) + 1 for rationale in dataset.tokens])
        order, found = np.argsort(-lengths, kind="stable"), np.empty(len(lengths), dtype=np.float32)

        def of_pass(part: slice) -> list[np.float32]:
            examples = [dataset[(int(index), Cut())] for index in order[part]]
            batch = {name: t.to(self.args.device) for name, t in collate(examples, lm).items()}
            logps = chunked_logprobs(model, batch).cpu().numpy()
            stops = np.cumsum([len(example.weights) for example in examples])[:-1]
            return [
                -(example.weights * some).sum() / example.weights.sum()
                for example, some in zip(examples, np.split(logps, stops), strict=True)
            ]

        passes = list(cut_to_passes(lengths[order].tolist()))
        with evaluating(model), self.accelerator.autocast():
            for part, losses in zip(passes, divided(passes, of_pass), strict=True):
                found[order[part]] = losses
        if wrong := [t.id for t, loss in zip(dataset.tokens, found, strict=True) if not np.isfinite(loss)]:
            raise TrainingError(f"the loss of rationale {wrong[0]!r} is not finite; drop it, or train in fp32")
        return found

    def training_step(self, model: nn.Module, inputs: StageBatch, num_items_in_batch: Any = None) -> Tensor:
        """As transformers', with the curriculum's factors on the loss weights."""
        batch = self._prepare_inputs(inputs)
        if (factors := self.curriculum.factors(model, batch)) is not None:
            weighed = at_trained(batch, "weights") * factors
            flat = batch["weights"].flatten().index_copy(0, trained_places(batch), weighed)
            batch = {**batch, "weights": flat.view_as(batch["weights"])}
        return super().training_step(model, batch, num_items_in_batch)

    # -- checkpoints -----------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.is_world_process_zero():
            save_state(Path(output_dir), {**self.curriculum.state(), "entered": np.array(self._entered)})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with a curriculum from what a checkpoint holds of it."""
        self._entered = int(state["entered"])
        self.curriculum.restore(state)


class _CurriculumSampler(StageSampler):
    """The rationales that a curriculum chooses, each with its cut, in an order that is fixed when an epoch begins."""

    def __init__(self, usual: StageSampler, trainer: CurriculumTrainer) -> None:
        super().__init__(usual.lengths, usual.schedule, usual.seed, usual.update_size, bucketed=usual.bucketed)
        self.trainer = trainer

    def __len__(self) -> int:
        return self.trainer.curriculum.length(self.epoch, len(self.lengths))

    def __iter__(self) -> Iterator[Any]:
        trainer, size = self.trainer, self.update_size
        before = sum(map(trainer.updates_in, range(self.epoch)))
        order = trainer.curriculum.order(self.epoch)
        if order is None:
            rng = self.rng()
            order = bucketed_order(self.lengths, size, rng) if self.bucketed else rng.permutation(len(self.lengths))
        for number, start in enumerate(range(0, len(order), size)):
            moment = Moment(self.seed, self.epoch, before + number, trainer.updates_in(self.epoch))
            for index in order[start : start + size]:
                yield int(index), trainer.curriculum.cut(int(index), moment)


class _Forgetful(TrainerCallback):
    """Empties the optimiser's state before an update that the curriculum wants to start afresh."""

    def __init__(self, trainer: CurriculumTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget, where it is time to; the moments are zero in the update that follows."""
        if self.trainer.curriculum.starts_afresh(self.trainer.moment(state.global_step)):
            kwargs["optimizer"].state.clear()
