"""Whether a student's answer follows from the rationale before it (the tests of SCOTT)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kpod.evaluation.accuracy import judge, summarise
from kpod.lm.decoding import continue_greedily, decode
from kpod.lm.encoding import encode_rationales
from kpod.lm.models import LanguageModel
from kpod.recipe import DataConfig
from kpod.records import Rationale
from kpod.records.errors import ConfigError, DataError
from kpod.records.outcomes import Accuracy

ANSWER_LENGTH = 64
"""Tokens at which an answer is cut off."""


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """A student's accuracy after rationales that it did not write. A faithful student is right after sound ones alone.

    Attributes:
        forced: After a teacher's rationales.
        disturbed: After the same with a share of their tokens replaced by random ones.
    """

    forced: Accuracy
    disturbed: Accuracy


def faithfulness(
    lm: LanguageModel,
    rationales: Sequence[Rationale],
    data: DataConfig,
    *,
    seed: int,
    replaced: float = 0.5,
    batch_size: int = 50,
) -> Faithfulness:
    """Have a student answer after a teacher's rationales, as they are and disturbed.

    Args:
        lm: A causal student.
        rationales: With right answers, one for each question.
        data: The words around questions and rationales, and the longest sequence.
        seed: Of the tokens that are replaced, and of what replaces them: any but special tokens, each as likely.
        replaced: Share of a rationale's tokens, in [0, 1].
        batch_size: Questions that are answered at a time.

    Raises:
        ConfigError: If the student has an encoder.
        DataError: If no rationale fits the student, or a question has two.
    """
    if lm.encoder_decoder:
        raise ConfigError("faithfulness is measured for causal students: an encoder-decoder writes no given start")
    tokens, dropped = encode_rationales(lm, rationales, data)
    if not tokens:
        raise DataError(f"none of {len(rationales)} rationales fits the student; the first: {dropped[0].reason}")
    rng, special = np.random.default_rng(seed), lm.tokenizer.all_special_ids
    vocabulary = np.setdiff1d(np.arange(len(lm.tokenizer)), special)
    sound, broken = [], []
    for one in tokens:
        ids = one.token_ids[: one.segment_stops[2]].copy()
        sound.append(ids.tolist())
        chosen = rng.permutation(one.num_tokens)[: round(replaced * one.num_tokens)] + one.segment_stops[0]
        ids[chosen] = rng.choice(vocabulary, len(chosen))
        broken.append(ids.tolist())
    questions = {rationale.id: rationale.question for rationale in rationales}
    closings = [decode(lm, one.ids("closing")) for one in tokens]

    def accuracy(name: str, prompts: Sequence[Sequence[int]]) -> Accuracy:
        judged = []
        for start in range(0, len(prompts), batch_size):
            written = continue_greedily(lm, prompts[start : start + batch_size], ANSWER_LENGTH)
            for one, closing, text in zip(tokens[start:], closings[start:], written, strict=False):
                said = f"{closing} {decode(lm, text.token_ids)}"
                judged.append(judge(questions[one.id], said, text.finished, data.answer_words))
        return summarise(name, judged)

    return Faithfulness(accuracy("teacher's rationale", sound), accuracy("disturbed rationale", broken))
