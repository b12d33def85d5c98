"""What the student reads and writes where a method has texts or words of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kpod.data.views import View
from kpod.recipe import DataConfig, PromptConfig
from kpod.records import Rationale

LABEL = "label"
"""The task of writing the answer without a rationale."""


def explained(prompt: PromptConfig) -> PromptConfig:
    """The recipe's own words: the student writes the rationale, then the answer."""
    return prompt


def predicting(prompt: PromptConfig) -> PromptConfig:
    """Ask for the answer alone: `predict:` before the question, and no words that ask for reasoning."""
    return replace(_behind("predict: ", prompt), cot_prompt="", opening="")


def explaining(prompt: PromptConfig) -> PromptConfig:
    """Ask for the rationale: `explain:` before the question."""
    return _behind("explain: ", prompt)


def _behind(tag: str, prompt: PromptConfig) -> PromptConfig:
    return replace(prompt, question=tag + prompt.question, chat_question=tag + prompt.chat_question)


def two_tasks(rationales: Sequence[Rationale], prompt: PromptConfig) -> Iterator[View]:
    """Distilling step-by-step: the answer after `predict:`, and the rationale after `explain:`.

    The first text's id is the rationale's with `#label`; both are trained in one batch.
    """
    predict, explain = predicting(prompt), explaining(prompt)
    for one in rationales:
        yield View(f"{one.id}#{LABEL}", one, predict, task=LABEL, group=one.id, writes="answer")
        yield View(one.id, one, explain, group=one.id, writes="rationale")


def fine_tune_cot(data: DataConfig) -> DataConfig:
    """The words of Fine-tune-CoT: `question ###`, then `rationale --> answer END`, never through a chat template."""
    prompt = replace(data.prompt, chat=False, question="{question} ###", opening="", closing="--> {answer} END")
    return replace(data, prompt=prompt, answer_words=tuple(dict.fromkeys((*data.answer_words, "-->"))))
