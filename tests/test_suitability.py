"""What is refused before any work, without reading a student's weights."""

from pathlib import Path

import pytest

from kpod.lm.suitability import check_student
from kpod.recipe import LoraConfig, PromptConfig
from kpod.records.errors import ConfigError
from tiny import byte_tokenizer
from zoo import USUAL, build_model


def saved(folder: Path, kind: str = "qwen2", template: str | None = None) -> str:
    """A student's folder without its weights."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    build_model(kind).config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", USUAL)
def test_a_student_that_can_be_trained_passes_without_its_weights(kind, tmp_path):
    check_student(saved(tmp_path, kind), PromptConfig(), LoraConfig())


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ("qproj", "'qproj' matches no module of the student; did you mean q_proj"),
        ("lm_head", "shares its weights with the input embeddings"),
    ],
)
def test_adapters_that_cannot_be_are_refused(lora, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        check_student(saved(tmp_path), PromptConfig(), LoraConfig(target_modules=lora))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ raise_exception('not today') }}",
            r"data\.prompt: .* messages: not today; set data\.prompt\.chat",
        ),
        ("{{ messages[0].content }}<think>\n", r"leave data\.prompt\.opening out"),
        ("{{ 'a' * 10 ** 10 }}", "memory"),
    ],
)
def test_chat_templates_that_cannot_be_used_are_refused(template, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        check_student(saved(tmp_path, template=template), PromptConfig(opening="<think>\n"))
