"""The words around question, rationale and answer (method section 1), and where each part of a target stands."""

import re
from dataclasses import dataclass
from typing import Literal

from kpod.recipe import PromptConfig
from kpod.records import Question, Rationale, Span
from kpod.records.errors import DataError

Written = Literal["all", "rationale", "answer"]
"""What a student writes: rationale and answer, or one of the two."""


@dataclass(frozen=True, slots=True)
class Completion:
    """The text that a student learns to write, and its parts as character spans.

    The four spans tile `text`. Whitespace where two parts meet belongs to the right-hand one, as tokenizers
    want it (" 42" is one token).

    Attributes:
        text: leading + rationale + closing + answer + end.
        rationale: `leading` and the rationale.
        rationale_offset: Where the rationale itself starts; its character c is `text[rationale_offset + c]`.
        closing: The fixed words before the answer; may be empty.
        answer: The answer.
        end: The fixed words after the answer, such as a full stop; may be empty.
    """

    text: str
    rationale: Span
    rationale_offset: int
    closing: Span
    answer: Span
    end: Span


def completion(rationale: str, answer: str | None, prompt: PromptConfig, leading: str = "") -> Completion:
    """Put a rationale and its answer together as the student writes them.

    Args:
        rationale: The reasoning, without outer whitespace, which is how `kpod.data.reader` reads it; empty where the
            answer is written alone.
        answer: The answer; None where the rationale is written alone, without the closing.
        prompt: Its `closing` stands behind the rationale, after a space unless it starts with whitespace itself.
        leading: What goes before the rationale: " " after a plain prompt, "" in a chat.

    Raises:
        DataError: If the rationale has outer whitespace, which would shift its steps and weights, or if there is
            neither rationale nor answer.

    Example:
        >>> target = completion("6 * 7 = 42.", "42", PromptConfig(closing="The answer is {answer}."))
        >>> [target.text[slice(*span)] for span in (target.rationale, target.closing, target.answer, target.end)]
        ['6 * 7 = 42.', ' The answer is', ' 42', '.']
    """
    if rationale != rationale.strip() or not (rationale or answer):
        raise DataError(f"strip the rationale {rationale[:40]!r} before it goes into a prompt")
    before, after = prompt.closing.rstrip().split("{answer}")
    if not rationale:
        before, leading = leading + before.lstrip(), ""
    elif not before[:1].isspace():
        before = f" {before}"
    words = before.rstrip()
    parts = (leading + rationale, words, before[len(words) :] + (answer or ""), after)
    if answer is None:
        parts = (leading + rationale, "", "", "")
    stops = [sum(len(part) for part in parts[: i + 1]) for i in range(len(parts))]
    spans = list(zip([0, *stops[:-1]], stops, strict=True))
    return Completion("".join(parts), spans[0], len(leading), *spans[1:])


def question_text(question: Question) -> str:
    r"""A question with its options, if it has any.

    Example:
        >>> question_text(Question("q", "Which is red?", "A", {"A": "blood", "B": "grass"}))
        'Which is red?\nOptions:\n(A) blood\n(B) grass'
    """
    if not question.choices:
        return question.question
    options = [f"({letter}) {text}" for letter, text in question.choices.items()]
    return "\n".join((question.question, "Options:", *options))


def plain_prompt(question: Question, prompt: PromptConfig, lead: str = "") -> str:
    r"""What a model without a chat template reads before the rationale; no trailing whitespace.

    Args:
        question: The question.
        prompt: The words around it.
        lead: What stands before all that, such as worked examples.

    Example:
        >>> plain_prompt(Question("q", "2 + 2?", "4"), PromptConfig())
        "Q: 2 + 2?\nA: Let's think step by step."
    """
    return lead + _filled(prompt.question, question, prompt)


def chat_message(question: Question, prompt: PromptConfig, lead: str = "") -> str:
    """What the user says in a chat; the assistant then writes a `completion`."""
    return lead + _filled(prompt.chat_question, question, prompt)


def worked_example(rationale: Rationale, prompt: PromptConfig, writes: Written = "all") -> str:
    r"""A rationale as an example in the prompt of another question, and the empty line after it.

    Example:
        >>> solved = Rationale("r", Question("q", "2 + 2?", "4"), "2 + 2 = 4.")
        >>> worked_example(solved, PromptConfig(cot_prompt="Think.", closing="The answer is {answer}.")).split("\n")
        ['Q: 2 + 2?', 'A: Think. 2 + 2 = 4. The answer is 4.', '', '']
    """
    asked, answer = plain_prompt(rationale.question, prompt), rationale.question.answer
    text = "" if writes == "answer" else rationale.text
    return f"{asked}{completion(text, None if writes == 'rationale' else answer, prompt, ' ').text}\n\n"


def _filled(template: str, question: Question, prompt: PromptConfig) -> str:
    """Fill a template in one pass, so that braces in a user's text come through as they are (str.format would trip)."""
    values = {"question": question_text(question), "cot_prompt": prompt.cot_prompt}
    return re.sub(r"\{(question|cot_prompt)\}", lambda match: values[match[1]], template).rstrip()
