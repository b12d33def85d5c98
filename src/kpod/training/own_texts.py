"""On-policy distillation: the student writes texts, a teacher says what it expects at each of their tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import TrainingArguments

from kpod.lm.decoding import continue_sampled
from kpod.lm.forcing import expected
from kpod.lm.models import LanguageModel
from kpod.records import SEGMENTS
from kpod.records.errors import ConfigError
from kpod.records.topk import TopK
from kpod.training.batches import StageExample

Weighs = Callable[[Sequence[int], Sequence[int]], NDArray[np.float32]]
"""From the ids of a question and of a text to a weight for every token of the text."""


@dataclass(frozen=True)
class OwnTexts:
    """Texts of the student in place of recorded ones, with the teacher's distribution at each of their tokens.

    The teacher reads the ids that the student reads and writes, so both have the same template.

    Attributes:
        teacher: A causal model with the student's tokenizer.
        starts_after: Share of the updates that train recorded rationales before.
        max_new_tokens: Where a text is broken off; it then has no end token to train.
        temperature: Of the draws.
        top_k: How many tokens of the teacher's distribution are kept.
        weigh: What weighs the tokens of a text; None: each counts 1. An end token always counts 1.
    """

    teacher: LanguageModel
    starts_after: float = 0.5
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 64
    weigh: Weighs | None = None

    @property
    def settings(self) -> tuple[object, ...]:
        """All of it but the teacher, and whether tokens are weighed."""
        return self.starts_after, self.max_new_tokens, self.temperature, self.top_k, self.weigh is not None

    def check(self, student: LanguageModel, args: TrainingArguments) -> None:
        """Refuse a student that the teacher cannot read, and several processes.

        Raises:
            ConfigError: If their tokens differ, one has an encoder, or training runs on several processes.
        """
        if args.world_size > 1:
            raise ConfigError("on-policy distillation works on one process; leave accelerate out")
        if student.encoder_decoder or self.teacher.encoder_decoder:
            raise ConfigError("teacher.logprobs.model: on-policy distillation works with causal models alone")
        if student.tokenizer.get_vocab() != self.teacher.tokenizer.get_vocab():
            raise ConfigError(
                "teacher.logprobs.model: the teacher reads the student's own tokens, and its tokenizer has others; "
                "take a teacher with the student's tokenizer, or method: logit-kd, which aligns two tokenizers"
            )

    def is_on(self, update: int, updates: int) -> bool:
        """Whether an update, counted from 0, trains the student's own texts."""
        return update >= self.starts_after * updates

    def of(
        self, lm: LanguageModel, model: nn.Module, examples: Sequence[StageExample], seed: int
    ) -> list[StageExample]:
        """A text of the student for the question of each example.

        Args:
            lm: The student's tokenizer and special ids.
            model: The student as it is.
            examples: Of recorded rationales, whole.
            seed: Of the draws.
        """
        questions = [example.token_ids[: example.first_trained] for example in examples]
        drawn = continue_sampled(
            replace(lm, model=model), questions, self.max_new_tokens, number=1, temperature=self.temperature, seed=seed
        )
        ends = [(lm.end_id,) if text.finished else () for (text,) in drawn]
        texts = [(*text.token_ids, *end) for (text,), end in zip(drawn, ends, strict=True)]
        found = expected(self.teacher, list(zip(questions, texts, strict=True)), self.top_k)
        return [
            StageExample(
                encoder_ids=(),
                token_ids=(*question, *text),
                first_trained=len(question),
                weights=self._weights(question, text, len(end)),
                id=example.id,
                stage=example.stage,
                segments=np.full(len(text), SEGMENTS.index("rationale"), dtype=np.int8),
                teacher=TopK(one.token_ids, one.logprobs),
            )
            for example, question, text, end, one in zip(examples, questions, texts, ends, found, strict=True)
        ]

    def _weights(self, question: Sequence[int], text: Sequence[int], num_ends: int) -> NDArray[np.float32]:
        weights = np.ones(len(text), dtype=np.float32)
        body = text[: len(text) - num_ends]
        if self.weigh is not None and body:
            weights[: len(body)] = self.weigh(question, body)
        return weights
