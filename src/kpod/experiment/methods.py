"""METHODS: one row per line of the paper's tables, controls that they lack, and other methods of the field."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kpod.experiment import method_views
from kpod.experiment.parts import (
    InTraining,
    Loss,
    Order,
    Part,
    Views,
    Weigh,
    Writes,
    adaptive_share,
    agreeing,
    close_to_start,
    dft,
    digit_rule,
    eaft,
    easiest_first,
    four_formats,
    in_sample,
    infosft,
    internalised,
    learned,
    linear,
    logit_matching,
    matching,
    mean_one,
    most_excess,
    nll,
    on_own_texts,
    own_texts,
    prefix_first,
    progressive,
    progressive_at_random,
    progressive_unordered,
    progressive_without_diversity,
    self_paced,
    shuffled,
    two_tasks,
    two_worlds,
    uniform,
    weighed_own_texts,
    whole,
)
from kpod.lm.models import LanguageModel, mean_input_embeddings
from kpod.recipe import DataConfig, PromptConfig, Recipe, ScheduleConfig, TrainingConfig
from kpod.records import EXPLAIN
from kpod.schedule.clusters import cluster_embeddings, glove_embeddings


def cluster_questions(
    lm: LanguageModel, questions: Sequence[str], config: ScheduleConfig, seed: int
) -> NDArray[np.int64]:
    """Groups of similar questions (C_k of Eq. 12), by the student's input embeddings or by GloVe vectors.

    Args:
        lm: The student before distillation.
        questions: Their texts.
        config: The recipe's `schedule`, which says how many groups and what is compared.
        seed: Of K-means.

    Returns:
        The group of each question, from 0, numbered by first appearance, [questions].

    Raises:
        DataError: If an embedding is not finite, or the GloVe file is wrong.
    """
    by_student = config.embeddings == "student"
    embeddings = _Embedded(lm, questions) if by_student else glove_embeddings(Path(config.embeddings), questions)
    return cluster_embeddings(embeddings, config.num_clusters, seed)


@dataclass(frozen=True, slots=True)
class _Embedded:
    """The embeddings of questions by a student, made when they are asked for: of a million they fill gigabytes."""

    lm: LanguageModel
    questions: Sequence[str]

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        some = self.questions[rows] if isinstance(rows, slice) else [self.questions[row] for row in rows]
        ids = self.lm.tokenizer(list(some), add_special_tokens=False, return_attention_mask=False).input_ids
        found: NDArray[np.float32] = mean_input_embeddings(self.lm, ids).numpy()
        return found


@dataclass(frozen=True, slots=True)
class Method:
    """One way to distil.

    Attributes:
        label: How the paper's tables call it.
        weigh: What weighs the tokens in the loss (Eq. 15).
        weigh_steps: What weighs them in the step difficulties (Eq. 8).
        order: What orders the steps.
        loss: What the student is trained on.
        weight_normalisation: What becomes of the loss weights while training; None: as the recipe says.
        views: The texts that rationales are made into; None: each is one text, with its question and its answer.
        shares: How much of the loss is each task's. Every task has a mean of its own.
        data: What becomes of the recipe's `data`: a method may have words of its own around question and answer.
        asks: How the student is asked: the first is what its accuracy means, the others are measured beside it.
        curriculum: What goes by what happens while the student is trained; None: nothing does.
        writes: Who writes what is trained, if it is not the teacher alone.
    """

    label: str
    weigh: Weigh
    weigh_steps: Weigh
    order: Order
    loss: Loss = nll
    weight_normalisation: Literal["none", "mean"] | None = None
    views: Views | None = None
    shares: Mapping[str, float] = field(default_factory=lambda: {EXPLAIN: 1.0})
    data: Callable[[DataConfig], DataConfig] = lambda data: data
    asks: Mapping[str, Callable[[PromptConfig], PromptConfig]] = field(
        default_factory=lambda: {EXPLAIN: method_views.explained}
    )
    curriculum: InTraining | None = None
    writes: Writes | None = None

    @property
    def learns(self) -> bool:
        """Whether it needs learnt weights; difficulties that its order does not ask for need none."""
        assesses = "difficulties" in self.order.needs
        return "weights" in self.weigh.needs | (self.weigh_steps.needs if assesses else frozenset())

    def parts(self, field: str) -> list[Part[Any]]:
        """The part under one of the fields above, if the method has it."""
        part = getattr(self, field)
        return [] if part is None else [part]

    @property
    def all_parts(self) -> list[Part[Any]]:
        """Every part that it has."""
        found = (getattr(self, one.name) for one in fields(self))
        return [part for part in found if isinstance(part, Part)]

    def recipe(self, recipe: Recipe) -> Recipe:
        """A recipe with the method's own words, the same where it has them already."""
        return replace(recipe, data=self.data(recipe.data))

    def training(self, config: TrainingConfig) -> TrainingConfig:
        """A recipe's training under this method."""
        how = self.weight_normalisation
        return config if how is None else replace(config, weight_normalisation=how)

    def asking(self, recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
        """The tasks that students are asked for, each with a recipe whose words ask for it."""
        for task, words in self.asks.items():
            yield task, replace(recipe, data=replace(recipe.data, prompt=words(recipe.data.prompt)))


METHODS: Mapping[str, Method] = {
    "kpod": Method("KPOD", learned, learned, progressive),
    "kpod-wo-sig": Method("KPOD w.o. sig", uniform, uniform, progressive),
    "kpod-wo-sig-dif": Method("KPOD w.o. sig-dif", learned, uniform, progressive),
    "kpod-wo-prog": Method("KPOD w.o. prog", learned, learned, whole),
    "kpod-wo-div": Method("KPOD w.o. div", learned, learned, progressive_without_diversity),
    "kpod-random": Method("KPOD, random schedule", learned, learned, progressive_at_random),
    "kpod-linear": Method("KPOD, linear schedule", learned, learned, linear),
    "kpod-unordered": Method("KPOD, suffixes in random order", learned, learned, progressive_unordered),
    "kpod-prefix": Method("KPOD, first steps first", learned, learned, prefix_first),
    "kpod-shuffled": Method("KPOD, weights shuffled", shuffled, learned, progressive),
    "kpod-rule": Method("KPOD, weights by the digit rule", digit_rule, digit_rule, progressive),
    "kpod-mean": Method("KPOD, each rationale's mean weight", mean_one, learned, progressive),
    "kpod-normalised": Method("KPOD, weights of mean 1", learned, learned, progressive, weight_normalisation="mean"),
    "scotd": Method("SCoTD", uniform, uniform, whole),
    "fine-tune-cot": Method("Fine-tune-CoT", uniform, uniform, whole, data=method_views.fine_tune_cot),
    "step-by-step": Method(
        "Distilling step-by-step",
        uniform,
        uniform,
        whole,
        views=two_tasks,
        shares={method_views.LABEL: 0.5, EXPLAIN: 0.5},
        asks={method_views.LABEL: method_views.predicting, EXPLAIN: method_views.explaining},
    ),
    "scott": Method(
        "SCOTT",
        uniform,
        uniform,
        whole,
        views=two_worlds,
        shares={EXPLAIN: 0.5, method_views.COUNTERFACTUAL: 0.5},
        asks={EXPLAIN: method_views.factual},
    ),
    "on-policy": Method("On-policy distillation", uniform, uniform, whole, on_own_texts, writes=own_texts),
    "kpod-on-policy": Method(
        "On-policy distillation, KPOD's weights", learned, uniform, whole, on_own_texts, writes=weighed_own_texts
    ),
    "logit-kd": Method("Logit distillation", uniform, uniform, whole, logit_matching),
    "specialised-kd": Method("Specialized KD", uniform, uniform, whole, matching, views=four_formats),
    "scotd-shuffled": Method("SCoTD, weights shuffled", shuffled, uniform, whole),
    "scotd-rule": Method("SCoTD, weights by the digit rule", digit_rule, uniform, whole),
    "dft": Method("DFT", uniform, uniform, whole, dft),
    "eaft": Method("EAFT", uniform, uniform, whole, eaft),
    "infosft": Method("InfoSFT", uniform, uniform, whole, infosft),
    "rho-1": Method("Rho-1", uniform, uniform, whole, most_excess),
    "mcc-kd": Method("MCC-KD", uniform, uniform, whole, agreeing),
    "kpod-dft": Method("KPOD, order alone, with DFT", uniform, learned, progressive, dft),
    "kpod-eaft": Method("KPOD, order alone, with EAFT", uniform, learned, progressive, eaft),
    "kpod-infosft": Method("KPOD, order alone, with InfoSFT", uniform, learned, progressive, infosft),
    "kpod-rho-1": Method("KPOD, order alone, with Rho-1", uniform, learned, progressive, most_excess),
    "adaptive-cl": Method("Adaptive CL", uniform, uniform, whole, close_to_start, curriculum=adaptive_share),
    "kpod-acl": Method("KPOD, easiest rationales first", learned, learned, whole, curriculum=easiest_first),
    "spl": Method("SPL", uniform, uniform, whole, curriculum=self_paced),
    "kpod-spl": Method("KPOD, self-paced", learned, learned, whole, curriculum=self_paced),
    "icl": Method("ICL", uniform, uniform, whole, curriculum=in_sample),
    "kpod-icl": Method("KPOD, in-sample curriculum", learned, learned, whole, curriculum=in_sample),
    "icot-si": Method("ICoT-SI", uniform, uniform, whole, curriculum=internalised),
}
