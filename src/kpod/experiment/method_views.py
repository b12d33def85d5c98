"""What the student reads and writes where a method has texts or words of its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kpod.data.prompts import Written, worked_example
from kpod.data.views import View
from kpod.recipe import DataConfig, PromptConfig
from kpod.records import Rationale, TokenizedRationale
from kpod.records.errors import ConfigError
from kpod.records.topk import TopK

LABEL = "label"
"""The task of writing the answer without a rationale."""
COUNTERFACTUAL = "counterfactual"
"""The task of writing the answer that a given rationale leads to, though it is wrong."""
NUM_EXAMPLES = 4
"""Worked examples in a prompt of Specialized KD."""


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


def factual(prompt: PromptConfig) -> PromptConfig:
    """Ask for what is true: `[factual]` before the question."""
    return _behind("[factual] ", prompt)


def two_worlds(
    rationales: Sequence[Rationale], counterfactual: Sequence[Rationale], prompt: PromptConfig
) -> Iterator[View]:
    """SCOTT: each rationale after `[factual]`; and each of a wrong answer after `[counterfactual]`, which is given.

    A counterfactual text trains its answer alone: the student learns to say what follows from a rationale.

    Raises:
        ConfigError: If no teacher explained wrong answers.
    """
    if not counterfactual:
        raise ConfigError(
            "teacher.ask.contrastive: this method also needs rationales of wrong answers; ask a local teacher with "
            "teacher.ask.backend: local and teacher.ask.contrastive: {counterfactual: true}"
        )
    right, wrong = factual(prompt), _behind("[counterfactual] ", prompt)
    for one in rationales:
        yield View(one.id, one, right)
    for one in counterfactual:
        yield View(one.id, one, wrong, task=COUNTERFACTUAL, trains="answer")


def four_formats(rationales: Sequence[Rationale], prompt: PromptConfig, seed: int) -> Iterator[View]:
    """Specialized KD: each rationale with and without worked examples, and so each question's answer alone.

    The worked examples are rationales of four other questions, drawn for each text by the seed; with fewer questions
    there are fewer examples.

    Args:
        rationales: What passed the filter.
        prompt: The recipe's words.
        seed: Of the worked examples.
    """
    rng, answering = np.random.default_rng(seed), replace(prompt, cot_prompt="", opening="")
    seen: set[str] = set()
    for one in rationales:
        yield View(one.id, one, prompt)
        yield View(f"{one.id}#examples", one, prompt, lead=_examples(rng, rationales, one, prompt, "all"))
        if one.question.id in seen:
            continue
        seen.add(one.question.id)
        yield View(f"{one.id}#{LABEL}", one, answering, writes="answer")
        lead = _examples(rng, rationales, one, answering, "answer")
        yield View(f"{one.id}#{LABEL}-examples", one, answering, writes="answer", lead=lead)


def _examples(
    rng: np.random.Generator, rationales: Sequence[Rationale], one: Rationale, prompt: PromptConfig, writes: Written
) -> str:
    """Worked examples of other questions, no question twice."""
    drawn: dict[str, Rationale] = {}
    for number in rng.choice(len(rationales), min(4 * NUM_EXAMPLES, len(rationales)), replace=False):
        other = rationales[number]
        if other.question.id != one.question.id and len(drawn) < NUM_EXAMPLES:
            drawn.setdefault(other.question.id, other)
    return "".join(worked_example(other, prompt, writes) for other in drawn.values())


def fine_tune_cot(data: DataConfig) -> DataConfig:
    """The words of Fine-tune-CoT: `question ###`, then `rationale --> answer END`, never through a chat template."""
    prompt = replace(data.prompt, chat=False, question="{question} ###", opening="", closing="--> {answer} END")
    return replace(data, prompt=prompt, answer_words=tuple(dict.fromkeys((*data.answer_words, "-->"))))


class TaughtViews(Mapping[str, TopK]):
    """A teacher's distributions for views: those of the rationale where a view writes its tokens, else certainty.

    Args:
        views: The views in tokens.
        plain: The rationales in tokens.
        taught: Rationale id -> the teacher's distributions.
    """

    def __init__(
        self, views: Sequence[TokenizedRationale], plain: Sequence[TokenizedRationale], taught: Mapping[str, TopK]
    ) -> None:
        self._views, self._taught = {view.id: number for number, view in enumerate(views)}, taught
        self._of_views, self._of_plain = views, plain
        self._plain = {one.id: number for number, one in enumerate(plain)}

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __getitem__(self, id_: str) -> TopK:
        written = _written(self._of_views[self._views[id_]])
        source = id_ if id_ in self._plain else id_.rpartition("#")[0]
        if source in self._taught and np.array_equal(written, _written(self._of_plain[self._plain[source]])):
            return self._taught[source]
        return TopK.one_hot(written, 1)


def _written(tokens: TokenizedRationale) -> NDArray[np.int32]:
    return tokens.token_ids[tokens.segment_stops[0] :]
