"""What a student or a local teacher reads before it writes: prompts as texts and as ids."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from kpod.data.prompts import chat_message, plain_prompt
from kpod.lm.layout import TextLayout
from kpod.lm.templates import open_thought, render_chat, render_chats
from kpod.recipe import PromptConfig
from kpod.records import Question
from kpod.records.errors import ConfigError


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: Question, prompt: PromptConfig) -> str:
    """What the student reads before it writes: through its chat template where it has one, else the plain template.

    Raises:
        ConfigError: If the chat template fails, or opens a thought that `prompt.opening` opens again.
    """
    return prompt_texts(tokenizer, [question], prompt)[0]


def prompt_texts(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    prompt: PromptConfig,
    leads: Sequence[str] | None = None,
) -> list[str]:
    """Of each question what `prompt_text` says, behind what it is led by."""
    led = list(zip(questions, leads or [""] * len(questions), strict=True))
    if not _is_chat(tokenizer, prompt):
        texts = [plain_prompt(question, prompt, lead) for question, lead in led]
    else:
        messages = [[{"role": "user", "content": chat_message(question, prompt, lead)}] for question, lead in led]
        advice = "set data.prompt.chat: false for the plain prompt"
        texts = render_chats(tokenizer, messages, prompt.date, name="data.prompt", advice=advice)
    return [_opened(tokenizer, text, prompt) for text in texts]


def _opened(tokenizer: PreTrainedTokenizerBase, text: str, prompt: PromptConfig) -> str:
    """A prompt with the words that the answer is to begin with."""
    if not prompt.opening:
        return text
    if open_thought(text) and open_thought(prompt.opening):
        raise ConfigError(
            f"data.prompt.opening is {prompt.opening!r}, but the prompt already ends in {text[-20:]!r}, which opens "
            "the student's thought; leave data.prompt.opening out"
        )
    return text + ("" if prompt.opening[0].isspace() else leading(tokenizer, text)) + prompt.opening


def prompt_ids(layout: TextLayout, question: Question, prompt: PromptConfig) -> tuple[int, ...]:
    """The prompt as ids, behind what special tokens the tokenizer starts a text with; an encoder's ends in `end_id`."""
    text = prompt_text(layout.tokenizer, question, prompt)
    return (*prompt_start(layout.tokenizer, prompt), *asked_ids(layout, [text])[0])


def chat_ids(layout: TextLayout, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Messages as a chat model reads them before it answers; without a chat template, their texts one below the other.

    Args:
        layout: The tokenizer and its special ids.
        messages: Each with `role` and `content`.

    Raises:
        ConfigError: If the chat template refuses the messages.
    """
    tokenizer = layout.tokenizer
    if tokenizer.chat_template:
        has_system = any(message["role"] == "system" for message in messages)
        advice = (
            "set teacher.ask.prompt.system to null and put its words into teacher.ask.prompt.template"
            if has_system
            else "ask another model"
        )
        text = render_chat(tokenizer, messages, PromptConfig.date, name="teacher.ask.prompt", advice=advice)
        start: tuple[int, ...] = ()
    else:
        text, start = "\n\n".join(message["content"] for message in messages), start_ids(tokenizer)
    return [*start, *tokenizer(text, add_special_tokens=False, verbose=False).input_ids]


def asked_ids(layout: TextLayout, prompts: Sequence[str]) -> list[list[int]]:
    """The ids of prompts without what the tokenizer starts a text with; an encoder's end in `end_id`."""
    if not prompts:
        return []
    end = [layout.end_id] if layout.encoder_decoder else []
    found = layout.tokenizer(list(prompts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [[*ids, *end] for ids in found.input_ids]


def unused_template(layout: TextLayout, prompt: PromptConfig) -> str:
    """A sentence where a user has changed only the question template that the student does not read; else empty."""
    used, unused = (
        ("chat_question", "question") if _is_chat(layout.tokenizer, prompt) else ("question", "chat_question")
    )
    changed = [name for name in (used, unused) if getattr(prompt, name) != getattr(PromptConfig(), name)]
    if changed != [unused]:
        return ""
    why = "has a chat template" if layout.tokenizer.chat_template else "has no chat template"
    why = "is asked without its chat template (data.prompt.chat)" if not prompt.chat else why
    return f"data.prompt.{unused} is not used: the student {why}, and data.prompt.{used} is what it reads"


def _is_chat(tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig) -> bool:
    return bool(prompt.chat and tokenizer.chat_template)


def leading(tokenizer: PreTrainedTokenizerBase, before: str) -> str:
    """A space between prompt and rationale, unless the prompt is empty or ends in whitespace or a special token."""
    joined = not before or before[-1].isspace() or before.endswith(tuple(tokenizer.get_added_vocab()))
    return "" if joined else " "


def prompt_start(tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig) -> tuple[int, ...]:
    """Special tokens that stand before a prompt; a chat template brings its own."""
    return () if _is_chat(tokenizer, prompt) else start_ids(tokenizer)


def start_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Special tokens that the tokenizer puts before a plain text; a chat template writes its own."""
    bos = tokenizer.bos_token_id
    return () if bos is None or bos not in tokenizer("").input_ids[:1] else (bos,)
