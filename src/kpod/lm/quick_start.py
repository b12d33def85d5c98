"""Code for a model card that asks a student with transformers alone, after the prompt that it was trained after."""

from pathlib import Path

from kpod.data.prompts import question_text
from kpod.lm.decoding import end_ids
from kpod.lm.engines import generation_settings
from kpod.lm.layout import TextLayout
from kpod.lm.models import load_layout, model_config
from kpod.lm.student_prompts import prompt_ids, prompt_start, prompt_text
from kpod.recipe import PromptConfig
from kpod.records import Question
from kpod.records.errors import ConfigError

BLANK = "{question}"


def quick_start(folder: Path, name: str, question: Question, prompt: PromptConfig, max_new_tokens: int) -> str:
    """Python code that prints a student's answer to a question, token by token what kpod's evaluation writes.

    The prompt stands in the code as a text, rendered: a chat template that asks for today's date, or a newer version of
    transformers, would make another one.

    Args:
        folder: The student's.
        name: What the code loads: a name on the Hub, or a folder.
        question: An example.
        prompt: The words around a question.
        max_new_tokens: Where the answer is cut off.

    Raises:
        ConfigError: If the tokenizer reads the prompt as a text in another way than kpod does.
    """
    layout, config = load_layout(str(folder)), model_config(str(folder))
    template, special = _as_text(layout, question, prompt)
    family = "AutoModelForSeq2SeqLM" if layout.encoder_decoder else "AutoModelForCausalLM"
    answer = "written[0]" if layout.encoder_decoder else "written[0, inputs.input_ids.shape[1] :]"
    settings = {
        "max_new_tokens": max_new_tokens,
        "eos_token_id": sorted(end_ids(layout, generation_settings(str(folder), config))),
        "pad_token_id": layout.pad_id,
    }
    if layout.encoder_decoder:
        settings["decoder_start_token_id"] = layout.decoder_start_id
    given = "".join(f"\n    {key}={value}," for key, value in settings.items())
    return f"""from transformers import AutoTokenizer, {family}, GenerationConfig

name = {name!r}
tokenizer = AutoTokenizer.from_pretrained(name)
model = {family}.from_pretrained(name)
model.generation_config = GenerationConfig({given}
)  # greedy, as in the evaluation

question = {_literal(question_text(question))}
prompt = {_literal(template)}.replace({BLANK!r}, question)
inputs = tokenizer(prompt, add_special_tokens={special}, return_tensors="pt")
written = model.generate(inputs.input_ids, attention_mask=inputs.attention_mask)
print(tokenizer.decode({answer}, skip_special_tokens=True))
"""


def _as_text(layout: TextLayout, question: Question, prompt: PromptConfig) -> tuple[str, bool]:
    """A prompt with a blank for the question, and whether the tokenizer is to add its special tokens to it."""
    tokenizer, wanted = layout.tokenizer, list(prompt_ids(layout, question, prompt))
    text = prompt_text(tokenizer, Question(question.id, BLANK, question.answer), prompt)
    end = [layout.end_id] if layout.encoder_decoder else []
    before, after = map(tokenizer.convert_ids_to_tokens, (list(prompt_start(tokenizer, prompt)), end))
    for template, special in ((text, True), ("".join((*before, text, *after)), False)):
        whole = template.replace(BLANK, question_text(question))
        if tokenizer(whole, add_special_tokens=special).input_ids == wanted:
            return template, special
    raise ConfigError(
        f"{tokenizer.name_or_path}: its tokenizer reads the prompt {text[:60]!r} as a text in another way than in "
        "training, so no code for the model card can be written; choose another data.prompt or chat template"
    )


def _literal(text: str) -> str:
    """A text as Python code, a line of code for each of its lines."""
    lines = [repr(line) for line in text.splitlines(keepends=True)] or [repr(text)]
    return lines[0] if len(lines) == 1 else "(\n" + "".join(f"    {line}\n" for line in lines) + ")"
