"""Which questions and rationales, and the words around them: the keys under `data`."""

from dataclasses import field
from datetime import date
from typing import Literal

from kpod.recipe.sections import Count, Texts, section
from kpod.records.errors import require


@section("data.columns")
class ColumnsConfig:
    """How a file's columns are named.

    If `answer` and `rationale` name the same column, it holds solutions: rationale and gold answer are read from it.
    """

    id: str = "id"
    """The row's name, unique in the file."""
    question: str = "question"
    """The question, without its options."""
    answer: str = "answer"
    """The gold answer."""
    rationale: str = "rationale"
    """The text that explains the answer."""
    choices: str = "choices"
    """The options of a multiple-choice question."""
    thoughts: Literal["apart", "rationale", "whole"] = "apart"
    """What happens to <think> and similar tags in a rationale or solution. `apart`: the thought is left out if more
    than an answer follows it. `rationale`: the thought is the rationale. `whole`: the text is not changed and keeps its
    tags."""


@section("data.prompt")
class PromptConfig:
    """The words around question, rationale and answer (method section 1)."""

    chat: bool = True
    """Use the tokenizer's chat template where it has one; else, or if false, `question`."""
    question: str = "Q: {question}\nA: {cot_prompt}"
    """Plain template; {question} holds the options too."""
    chat_question: str = "{question}\n{cot_prompt}"
    """The user's message in a chat; the assistant's message is rationale, closing and answer."""
    cot_prompt: str = "Let's think step by step."
    """Zero-shot chain-of-thought prompt."""
    opening: str = ""
    """Fixed words between prompt and rationale, read and not written, such as "<think>\\n"."""
    closing: str = "Therefore, the answer is {answer}"
    """The sentence after the rationale, with the answer in it. If `opening` or the chat template opens a thought,
    "</think>" (or that tag's own end) is put before the sentence, unless the rationale or the sentence holds it."""
    date: str = "2024-07-26"
    """The date, as YYYY-MM-DD, that chat templates get if they ask for today's. It is the same for all runs, so a
    prompt never depends on the clock."""

    def __post_init__(self) -> None:
        for name in ("question", "chat_question"):
            value = getattr(self, name)
            require("{question}" in value, f"data.prompt.{name}", value, "a template with {question}")
        require(
            self.closing.count("{answer}") == 1, "data.prompt.closing", self.closing, "a template with one {answer}"
        )
        require(_is_date(self.date), "data.prompt.date", self.date, "a date such as 2024-07-26")


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@section("data")
class DataConfig:
    """Which questions and rationales, and how they are read."""

    train: str = "word_problems"
    """Training questions: a built-in name (word_problems, or a key of kpod.data.datasets.DATASETS), optionally
    with :split, or a JSONL, JSON, CSV or Parquet file, or a Hub data set as hub:NAME[:split]."""
    train_limit: Count | None = None
    """Use only this many training questions, from the start; null for all."""
    tests: Texts = ("word_problems:test",)
    """Test sets, named as in `train`; the first is the in-distribution one."""
    test_limit: Count | None = None
    """Use only this many questions of each test set, from the start; null for all."""
    root: str | None = None
    """Folder that serves the built-in names offline; default: the variable KPOD_DATA, else the Hub."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    answer_words: Texts = ()
    """Words that introduce an answer in your texts, such as "So we get". "The answer is", `\\boxed{}` and similar forms
    are known in English and 22 other languages (kpod.data.statements.LANGUAGES)."""
    step_rule: Literal["sentence", "line", "period"] = "sentence"
    """How rationales are split into steps; `period` is the paper's "."."""
    max_steps: Count | None = None
    """Merge the shortest neighbouring steps of a rationale that has more steps than this; null for no limit."""
    max_length: Count = 1024
    """Longest tokenised rationale, prompt included; longer ones are dropped and counted."""

    def __post_init__(self) -> None:
        words = self.answer_words
        require(all(map(str.strip, words)), "data.answer_words", words, "texts that are not blank")
