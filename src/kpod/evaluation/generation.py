"""Answer test questions by greedy generation, in batches, and judge every text."""

from collections.abc import Sequence
from typing import cast

from tqdm import tqdm

from kpod.config import EvaluationConfig, PromptConfig
from kpod.errors import DataError
from kpod.evaluation.accuracy import judge
from kpod.lm.decoding import Continuation, continue_greedily
from kpod.lm.encoding import prompt_ids
from kpod.lm.models import LanguageModel
from kpod.records import Prediction, Question


def answer_questions(
    lm: LanguageModel,
    questions: Sequence[Question],
    prompt: PromptConfig,
    config: EvaluationConfig,
) -> list[Prediction]:
    """What the model answers to each question, in their order.

    The prompt is the one that the student was trained after. Questions are asked in the order of their prompts'
    lengths, the longest first, so that a batch holds little padding and too large a batch fails at once. The batch
    size changes no text in exact arithmetic; rounding may turn a near tie between two tokens, mostly in bf16.

    Args:
        lm: The student.
        questions: The test questions.
        prompt: The words around them.
        config: Batch size, and the length at which a text is broken off.

    Returns:
        One judged prediction per question; `finished` tells that the model ended its text itself.

    Raises:
        DataError: If a prompt leaves too little room in the model's context; nothing has been generated then.
    """
    prompts = [prompt_ids(lm, question, prompt) for question in questions]
    for question, ids in zip(questions, prompts, strict=True):
        _check_room(lm, question, len(ids), config.max_new_tokens)
    longest_first = sorted(range(len(questions)), key=lambda index: -len(prompts[index]))
    predictions: dict[int, Prediction] = {}
    with tqdm(total=len(questions), desc="evaluation", unit=" questions") as progress:
        for start in range(0, len(questions), config.batch_size):
            batch = longest_first[start : start + config.batch_size]
            written = continue_greedily(lm, [prompts[index] for index in batch], config.max_new_tokens)
            for index, continuation in zip(batch, written, strict=True):
                predictions[index] = _judged(lm, questions[index], continuation)
            progress.update(len(batch))
    return [predictions[index] for index in range(len(questions))]


def _check_room(lm: LanguageModel, question: Question, num_prompt: int, max_new_tokens: int) -> None:
    """Raise DataError unless prompt and text fit the context; an encoder and its decoder have one each."""
    needed = max(num_prompt, max_new_tokens) if lm.encoder_decoder else num_prompt + max_new_tokens
    if lm.context is not None and needed > lm.context:
        raise DataError(
            f"question {question.id!r}: a prompt of {num_prompt} tokens and up to {max_new_tokens} new ones do not fit "
            f"the model's context of {lm.context}; lower evaluation.max_new_tokens or leave the question out"
        )


def _judged(lm: LanguageModel, question: Question, written: Continuation) -> Prediction:
    ids = list(written.token_ids)
    text = lm.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return judge(question, cast("str", text).strip(), written.finished)
