"""Answer test questions, in batches, greedily or by the majority of several texts, and judge every text."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from kpod.evaluation.accuracy import judge, majority
from kpod.lm.decoding import Continuation, continue_greedily, continue_sampled, decode
from kpod.lm.engines import Engine, VllmModel
from kpod.lm.layout import TextLayout
from kpod.lm.processes import divided, is_first_process
from kpod.lm.student_prompts import prompt_ids
from kpod.recipe import EvaluationConfig, PromptConfig
from kpod.records import Question
from kpod.records.errors import DataError
from kpod.records.outcomes import Prediction
from kpod.records.progress import ProgressBar

log = logging.getLogger(__name__)


def answer_questions(
    lm: Engine,
    questions: Sequence[Question],
    prompt: PromptConfig,
    config: EvaluationConfig,
    found: Mapping[str, Prediction] = MappingProxyType({}),
    keep: Callable[[Sequence[Prediction]], None] = lambda _: None,
    *,
    words: Sequence[str] = (),
) -> list[Prediction]:
    """What the model answers to each question, in their order.

    The prompt is the one that the student was trained after. Questions are asked in the order of their prompts'
    lengths, the longest first, so that a batch holds little padding and too large a batch fails at once. The batch
    size changes no text in exact arithmetic; rounding may turn a near tie between two tokens, mostly in bf16. Several
    processes share the batches, and each gets all predictions; vLLM shares nothing.

    Args:
        lm: The student, and with it what runs it.
        questions: The test questions.
        prompt: The words around them.
        config: Batch size, the length at which a text is broken off, and how many texts are drawn per question.
        found: What an interrupted evaluation has kept, by question id. A batch that it holds whole is not asked again;
            batches are the same with it and without, and so are the answers.
        keep: Called with each new batch's predictions as soon as they are there.
        words: Further words that introduce an answer (`data.answer_words`).

    Returns:
        One judged prediction per question; `finished` tells that the model ended its text itself.

    Raises:
        DataError: If a prompt leaves too little room in the model's context; nothing has been generated then.
    """
    prompts = [prompt_ids(lm, question, prompt) for question in questions]
    for question, ids in zip(questions, prompts, strict=True):
        _check_room(lm, question, len(ids), config.max_new_tokens)
    longest_first = sorted(range(len(questions)), key=lambda index: -len(prompts[index]))

    def answer(start: int) -> list[Prediction]:
        batch = longest_first[start : start + config.batch_size]
        if all(questions[index].id in found for index in batch):
            return [found[questions[index].id] for index in batch]
        asked, read = [questions[index] for index in batch], [prompts[index] for index in batch]
        judged = _answer_batch(lm, asked, read, config, seed=start, words=words)
        keep(judged)
        return judged

    starts = range(0, len(questions), config.batch_size)
    in_order: list[Prediction] = []
    with ProgressBar(total=len(questions), name="evaluation", unit="questions") as progress:
        for judged in map(answer, starts) if isinstance(lm, VllmModel) else divided(starts, answer):
            in_order += judged
            progress.update(len(judged))
    predictions = dict(zip(longest_first, in_order, strict=True))
    if config.self_check and config.samples == 1 and is_first_process():
        shortest = longest_first[-config.self_check :]  # padded most
        _tell_what_batching_changed(lm, [(prompts[index], predictions[index]) for index in shortest], config)
    return [predictions[index] for index in range(len(questions))]


def _answer_batch(
    lm: Engine,
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    config: EvaluationConfig,
    seed: int,
    words: Sequence[str],
) -> list[Prediction]:
    if config.samples == 1:
        written = _greedily(lm, prompts, config.max_new_tokens)
        return [_judged(lm, question, text, words) for question, text in zip(questions, written, strict=True)]
    draw = lm.continue_prompts if isinstance(lm, VllmModel) else partial(continue_sampled, lm)
    drawn = draw(prompts, config.max_new_tokens, number=config.samples, temperature=config.temperature, seed=seed)
    return [
        majority([_judged(lm, question, text, words) for text in texts], question)
        for question, texts in zip(questions, drawn, strict=True)
    ]


def _greedily(lm: Engine, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Continuation]:
    if isinstance(lm, VllmModel):
        return [texts[0] for texts in lm.continue_prompts(prompts, max_new_tokens)]
    return continue_greedily(lm, prompts, max_new_tokens)


def _tell_what_batching_changed(
    lm: Engine, answered: Sequence[tuple[Sequence[int], Prediction]], config: EvaluationConfig
) -> None:
    changed = []
    for prompt, prediction in answered:
        (alone,) = _greedily(lm, [prompt], config.max_new_tokens)
        if decode(lm, alone.token_ids) != prediction.text:
            changed.append(prediction.id)
    if changed:
        log.warning(
            "self-check: alone, the model answers %d of %d questions in other words than in a batch (%s): rounding "
            "turns near ties, mostly in bf16; where many change, compare with evaluation.batch_size 1",
            len(changed),
            len(answered),
            ", ".join(changed),
        )
    else:
        log.info("self-check: alone and in batches the same %d texts", len(answered))


def _check_room(lm: TextLayout, question: Question, num_prompt: int, max_new_tokens: int) -> None:
    """Raise DataError unless prompt and text fit the context; an encoder and its decoder have one each."""
    needed = max(num_prompt, max_new_tokens) if lm.encoder_decoder else num_prompt + max_new_tokens
    if lm.context is not None and needed > lm.context:
        raise DataError(
            f"question {question.id!r}: a prompt of {num_prompt} tokens and up to {max_new_tokens} new ones do not fit "
            f"the model's context of {lm.context}; lower evaluation.max_new_tokens or leave the question out"
        )


def _judged(lm: TextLayout, question: Question, written: Continuation, words: Sequence[str]) -> Prediction:
    return judge(question, decode(lm, written.token_ids), written.finished, words)
