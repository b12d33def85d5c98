"""What a student writes after a question, in the tokens of any model, with the characters of each; and two compared."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kpod.data.prompts import completion
from kpod.lm.alignment import token_spans
from kpod.lm.encoding import closing_its_thought
from kpod.lm.layout import TextLayout
from kpod.lm.student_prompts import asked_ids, leading, prompt_start, prompt_texts
from kpod.recipe import PromptConfig
from kpod.records import Question, Rationale
from kpod.records.errors import DataError


@dataclass(frozen=True, slots=True)
class Reading:
    """A question and what is written after it, in a model's tokens.

    Attributes:
        asked: The question; for an encoder where the model has one.
        ids: What is written, and the end token, int32 [written].
        spans: The characters of each, counted from the rationale's first one, int32 [written, 2]. A space before it
            has the number -1, and the end token stands behind the last character.
    """

    asked: tuple[int, ...]
    ids: NDArray[np.int32]
    spans: NDArray[np.int32]


def written_texts(layout: TextLayout, rationales: Sequence[Rationale], prompt: PromptConfig) -> list[str]:
    """What a student writes: rationale, closing words, answer and what ends them, as `encode_batch` puts it together.

    Args:
        layout: The student's.
        rationales: With their questions.
        prompt: The words around them.
    """
    prompts = prompt_texts(layout.tokenizer, [one.question for one in rationales], prompt)
    return [
        completion(one.text, one.question.answer, closing_its_thought(read, one.text, prompt)).text
        for one, read in zip(rationales, prompts, strict=True)
    ]


def read_texts(
    layout: TextLayout, questions: Sequence[Question], texts: Sequence[str], prompt: PromptConfig
) -> list[Reading | str]:
    """Texts after their questions in a model's tokens, the questions in the model's own chat template if it has one.

    Args:
        layout: Any model's.
        questions: What is asked.
        texts: What is written after each, from `written_texts`.
        prompt: The words around the questions.

    Returns:
        Of each a reading; or why the model cannot read it, in a few words.

    Raises:
        ConfigError: If the model's chat template fails.
    """
    if not questions:
        return []
    tokenizer, start = layout.tokenizer, prompt_start(layout.tokenizer, prompt)
    prompts = prompt_texts(tokenizer, questions, prompt)
    befores = ["" if layout.encoder_decoder else read for read in prompts]
    leads = [leading(tokenizer, before) for before in befores]
    wholes = [before + lead + text for before, lead, text in zip(befores, leads, texts, strict=True)]
    found = tokenizer(
        wholes, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    made: list[Reading | str] = []
    for question, asked, before, lead, whole, ids, offsets in zip(
        questions,
        asked_ids(layout, prompts),
        befores,
        leads,
        wholes,
        found["input_ids"],
        found["offset_mapping"],
        strict=True,
    ):
        try:
            spans = token_spans(offsets, whole, question.id, len(before))
        except DataError as error:
            made.append(str(error))
            continue
        num_asked = int(np.count_nonzero(spans[:, 1] <= len(before)))
        if before and ids[:num_asked] != asked:
            made.append("prompt and rationale merge into one token")
            continue
        written = [*ids[num_asked:], layout.end_id]
        stop = len(whole) - len(before)
        from_start = np.maximum(spans[num_asked:] - len(before), 0)
        reading = Reading(
            (*start, *asked),
            np.array(written, dtype=np.int32),
            np.concatenate([from_start, np.full((1, 2), stop, dtype=np.int32)]) - np.int32(len(lead)),
        )
        made.append(_unfit(layout, reading) or reading)
    return made


def _unfit(layout: TextLayout, reading: Reading) -> str:
    """Why the model cannot read it, in a few words, if it cannot."""
    if layout.vocabulary and max(*reading.asked, *reading.ids.tolist()) >= layout.vocabulary:
        return "holds a token that the model has no embedding for"
    length = len(reading.ids) + (0 if layout.encoder_decoder else len(reading.asked))
    longest = max(length, len(reading.asked))
    return f"longer than its context of {layout.context} tokens" if layout.context and longest > layout.context else ""


def aligned(student: NDArray[np.int32], teacher: NDArray[np.int32]) -> NDArray[np.int64]:
    """Of each of a student's tokens the teacher's token that covers exactly the same characters, or -1.

    Several tokens of one character share its span. They are paired in their order where both have as many of them.

    Args:
        student: Characters of each token, [tokens, 2].
        teacher: The same, of the same text.

    Example:
        >>> spans = [np.array(s, dtype=np.int32) for s in ([(0, 3), (3, 5), (5, 7)], [(0, 3), (3, 7)])]
        >>> aligned(*spans), aligned(*spans[::-1])
        (array([ 0, -1, -1]), array([ 0, -1]))
    """
    places = {name: number for number, name in enumerate(_names(teacher))}
    return np.array([places.get(name, -1) for name in _names(student)], dtype=np.int64)


def _names(spans: NDArray[np.int32]) -> list[tuple[int, int, int, int]]:
    """Each token's span, its number among those that share it, and how many they are."""
    pairs = [(start, stop) for start, stop in spans.tolist()]
    shared, seen, names = Counter(pairs), Counter[tuple[int, int]](), []
    for pair in pairs:
        names.append((*pair, seen[pair], shared[pair]))
        seen[pair] += 1
    return names
