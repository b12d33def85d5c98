"""What a teacher is asked: a question's messages and a sample number make a request, with a key of its own."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kpod.data.counterfactuals import counterfactual_answer
from kpod.data.prompts import completion, question_text
from kpod.data.reader import read_rationales
from kpod.recipe import AskConfig, ContrastiveConfig, PromptConfig, TeacherPromptConfig
from kpod.records import Question
from kpod.records.errors import ConfigError, DataError
from kpod.records.files import model_files

Message = Mapping[str, str]
"""`role` and `content`."""

_CLOSING = PromptConfig(closing="Therefore, the answer is {answer}.")


@dataclass(frozen=True, slots=True)
class Request:
    """One answer that is wanted.

    Attributes:
        key: A hash of model, sampling parameters, messages and sample number: whoever asks the same has the same key.
            A local model's folder counts by its content.
        question_id: What it is about.
        sample: Its number among the question's requests, from 0.
        hinted: Whether the teacher is told the gold answer.
        messages: What the teacher reads.
        against: What a contrastive teacher reads beside it, with another answer; empty for any other teacher.
        counterfactual: The wrong answer that it is to explain; empty where it explains the gold one, or none.
        form: A hash of how an endpoint is asked: the parameters' names and values and the messages' roles, but not the
            words. Where an endpoint refuses every request of a form, the recipe is wrong and not the requests. Empty
            where no endpoint is asked.
    """

    key: str
    question_id: str
    sample: int
    hinted: bool
    messages: tuple[Message, ...]
    form: str = ""
    against: tuple[Message, ...] = ()
    counterfactual: str = ""

    @property
    def seed(self) -> int:
        """Another for every request, the same on every day; 31 bits."""
        return int(self.key[:8], 16) >> 1


def requests_for(questions: Sequence[Question], ask: AskConfig, *, hinted: bool = False) -> list[Request]:
    """`ask.samples` requests for every question, question by question.

    Args:
        questions: Each under an id of its own.
        ask: Who is asked, and how.
        hinted: Tell the teacher the gold answer (`ask.prompt.hint`), as `hint: always` does anyway.

    Returns:
        They, in that order. A contrastive teacher gets one for each question, and one for a wrong answer if wanted.

    Raises:
        ConfigError: If a template cannot be filled.
        DataError: If the file of solved examples is wrong, or a question has no wrong answer to argue against.
    """
    prompter = _Prompter(ask.prompt)
    form, model = _form(ask, [message["role"] for message in prompter.before]), _model(ask)
    made: list[Request] = []
    hinted = hinted or ask.hint == "always"
    for question in questions:
        if ask.contrastive is not None:
            made += _contrasted(question, questions, ask, ask.contrastive, model, prompter)
            continue
        messages = prompter.messages(question, hinted)
        made += [
            Request(_key(ask, model, messages, sample), question.id, sample, hinted, messages, form)
            for sample in range(ask.samples)
        ]
    return made


def _contrasted(
    question: Question,
    others: Sequence[Question],
    ask: AskConfig,
    config: ContrastiveConfig,
    model: str,
    prompter: "_Prompter",
) -> Iterator[Request]:
    """The gold answer against a wrong one, and the other way round if that is wanted."""
    draws = config.counterfactual or config.against == "other"
    wrong = counterfactual_answer(question, others, config.seed) if draws else ""
    for explained, other in [(question.answer, wrong), (wrong, question.answer)][: 1 + config.counterfactual]:
        messages = prompter.messages(question, True, explained)
        against = prompter.messages(question, True, other if config.against == "other" else "")
        key = _hash([_key(ask, model, messages, 0), "contrastive", float(config.weight), against])[:32]
        counterfactual = explained if explained is wrong else ""
        yield Request(key, question.id, 0, False, messages, against=against, counterfactual=counterfactual)


def chat_arguments(request: Request, ask: AskConfig) -> dict[str, Any]:
    """The request in the words of an OpenAI-compatible endpoint; never with `n`, which many servers ignore.

    A parameter that the recipe sets to null is left out.
    """
    arguments = {
        "model": ask.model,
        "messages": [dict(message) for message in request.messages],
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        ask.length_parameter: ask.max_tokens,
        "seed": request.seed if ask.seed else None,
        "stop": list(ask.stop) if ask.stop else None,
        "logprobs": None if ask.logprobs is None else True,
        "top_logprobs": ask.logprobs,
    }
    return {name: value for name, value in arguments.items() if value is not None} | dict(ask.extra_body)


def _model(ask: AskConfig) -> str:
    """What tells the model from others: its name, or what is in the folder of a local one."""
    is_folder = ask.backend in ("local", "replay") and Path(ask.model).is_dir()  # a replay asks what a local one asked
    return model_files(Path(ask.model)) if is_folder else ask.model


def _key(ask: AskConfig, model: str, messages: Sequence[Message], sample: int) -> str:
    how = [_number(ask.temperature), _number(ask.top_p), ask.max_tokens, list(ask.stop or ()), ask.logprobs]
    parts: list[Any] = [model, how, messages, sample]
    if ask.extra_body:  # without one, keys are those of stores that were written before there was any
        parts.append(ask.extra_body)
    return _hash(parts)[:32]


def _form(ask: AskConfig, roles: Sequence[str]) -> str:
    if ask.backend not in ("endpoint", "batch"):
        return ""
    alike = Request("0" * 32, "", 0, hinted=False, messages=())
    return _hash([chat_arguments(alike, ask), roles])[:16]


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _hash(parts: Sequence[Any]) -> str:
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class _Prompter:
    """Fills the templates.

    The sandbox lets a template neither change anything nor reach outside its variables, and a range in it is short. It
    does not bound time or memory otherwise: a recipe's author can waste both.
    """

    def __init__(self, prompt: TeacherPromptConfig) -> None:
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        self.templates: dict[str, Template] = {}
        for name in ("template", "hint"):
            try:
                self.templates[name] = environment.from_string(getattr(prompt, name))
            except (TemplateError, RecursionError) as error:
                raise ConfigError(f"teacher.ask.prompt.{name} is no template: {error}") from error
        self.before: list[Message] = [{"role": "system", "content": prompt.system}] if prompt.system else []
        if prompt.examples:
            rationales, _ = read_rationales(Path(prompt.examples))
            if not rationales:
                raise DataError(f"teacher.ask.prompt.examples: {prompt.examples} holds no rationale")
            for solved in rationales:
                written = completion(solved.text, solved.question.answer, _CLOSING).text
                self.before += [
                    {"role": "user", "content": self._filled("template", solved.question)},
                    {"role": "assistant", "content": written},
                ]

    def messages(self, question: Question, hinted: bool, answer: str | None = None) -> tuple[Message, ...]:
        """What is asked.

        Args:
            question: Whose words are filled in.
            hinted: Whether the answer is told.
            answer: Another one than the gold one.
        """
        name = "hint" if hinted else "template"
        filled = self._filled(name, question, question.answer if answer is None else answer)
        return (*self.before, {"role": "user", "content": filled})

    def _filled(self, name: str, question: Question, answer: str = "") -> str:
        choices = dict(question.choices or {})
        values: dict[str, Any] = {
            "question": question_text(question),
            "choices": choices,
            "letters": ", ".join(choices),
        }
        if name == "hint":
            values["answer"] = answer
        try:
            filled = self.templates[name].render(values).strip()
        except Exception as error:  # a template is a program, and may fail as one
            raise ConfigError(
                f"teacher.ask.prompt.{name} fails at question {question.id!r}: {error or type(error).__name__}"
            ) from error
        if not filled:
            raise ConfigError(f"teacher.ask.prompt.{name} leaves nothing to ask at question {question.id!r}")
        return filled
