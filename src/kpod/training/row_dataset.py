"""Rows as TRL has them, with two more columns, as examples: for a user's own script around `KeypointTrainer`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from kpod.lm.alignment import tiling_offsets
from kpod.lm.encoding import project_spans
from kpod.lm.layout import TextLayout
from kpod.lm.sequences import Example, example_of
from kpod.lm.student_prompts import start_ids
from kpod.lm.templates import render_chat
from kpod.recipe import PromptConfig
from kpod.records import Span, WeightSpan
from kpod.records.errors import DataError
from kpod.steps import StepRule, split_steps, step_stops_of

Row = Mapping[str, Any]


class RowDataset(Dataset[Example]):
    """Rows with `prompt` and `completion`, both texts or both lists of messages, or with `messages` alone.

    Of messages the last is what is trained, through the tokenizer's chat template; an end token follows every
    completion. Two more columns make a row KPOD's; both may be left out:

    - `token_weights`: `[start, stop, weight]` for spans of the completion's characters, each weight in [0, 1];
      characters in none weigh 1.
    - `input_steps`: how many of the completion's first reasoning steps are given and not trained.

    Args:
        rows: A list of dicts, or a `datasets.Dataset`. `KeypointTrainer` makes this dataset of them by itself.
        lm: The student, or its layout alone.
        rule: How a completion is split into steps.

    Raises:
        DataError: If a row has none of the formats, does not fit its weights or steps, or if prompt and completion
            merge into one token. It names the row by its number, from 0.
    """

    def __init__(self, rows: Iterable[Row], lm: TextLayout, rule: StepRule = "sentence") -> None:
        self.examples = [_example(row, f"row {number}", lm, rule) for number, row in enumerate(rows)]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def holds_rows(data: Any) -> bool:
    """Whether something can be looked up by index and its first item is a row, as in a list or `datasets.Dataset`."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and len(data) > 0 and isinstance(data[0], Mapping)


def _example(row: Row, name: str, lm: TextLayout, rule: StepRule) -> Example:
    before, text, part = _texts(row, name, lm.tokenizer)
    completion = text[slice(*part)]
    if not completion.strip():
        raise DataError(f"{name}: its completion is blank; drop it")
    starts = start_ids(lm.tokenizer) if _is_text(row) else ()
    if lm.encoder_decoder:
        asked = (*starts, *lm.tokenizer(before, add_special_tokens=False).input_ids, lm.end_id)
        text, part, num_before = text[len(before) :], (part[0] - len(before), part[1] - len(before)), 0
    else:
        num_before = len(before)
    encoding = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = tiling_offsets(encoding["offset_mapping"], text, name, num_before)
    num_asked = sum(stop <= num_before for _, stop in spans)
    if num_before and spans[num_asked][0] < num_before:
        raise DataError(
            f"{name}: prompt and completion merge into one token; end the prompt in no space, or start a line"
        )
    if not lm.encoder_decoder:
        asked = (*starts, *encoding.input_ids[:num_asked])
    target = (*encoding.input_ids[num_asked:], lm.end_id)
    chars = [_inside(span, part) for span in spans[num_asked:]]
    weights = np.ones(len(target), dtype=np.float32)
    inside = [index for index, span in enumerate(chars) if span is not None]
    told = cast("list[Span]", [chars[index] for index in inside])
    weights[inside] = project_spans(_weight_spans(row, name, len(completion)), told)
    num_given = _num_given(row, name, step_stops_of(split_steps(completion, rule), told))
    return example_of(
        asked, target, weights, inside[0] + num_given if num_given else 0, encoder_decoder=lm.encoder_decoder
    )


def _is_text(row: Row) -> bool:
    """Whether prompt and completion are texts; whatever other formats' columns, filled or not, stand beside them."""
    return isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str)


def _texts(row: Row, name: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, Span]:
    """The prompt as a text; prompt and completion as one, up to the end token; where in it the completion stands."""
    if _is_text(row):
        asked, told = str(row["prompt"]), str(row["completion"])
        return asked, asked + told, (len(asked), len(asked) + len(told))
    prompt, completion, messages = row.get("prompt"), row.get("completion"), row.get("messages")
    if messages:
        prompt, completion = messages[:-1], messages[-1:]
    if not (isinstance(prompt, list) and isinstance(completion, list) and completion):
        raise DataError(f"{name} needs prompt and completion, both texts or both lists of messages, or messages")
    if not tokenizer.chat_template:
        raise DataError(f"{name} has messages, but the tokenizer has no chat template; give texts instead")
    date, advice = PromptConfig.date, "give its output as prompt and completion"
    before = render_chat(tokenizer, prompt, date, name=name, advice=advice)
    whole = render_chat(tokenizer, [*prompt, *completion], date, name=name, advice=advice, generates=False)
    content = str(completion[-1]["content"])
    start = whole.find(content, len(before))
    if not whole.startswith(before) or start < 0:
        raise DataError(f"{name}: the chat template changes the messages; give its output as prompt and completion")
    return before, whole[: start + len(content)], (start, start + len(content))


def _inside(span: Span, part: Span) -> Span | None:
    """Characters of a token in the completion's own count; None for one before it."""
    start, stop = span[0] - part[0], span[1] - part[0]
    return (max(start, 0), stop) if stop > 0 else None


def _weight_spans(row: Row, name: str, length: int) -> list[WeightSpan]:
    """The row's spans over a ground of ones."""
    spans: list[WeightSpan] = [(0, length, 1.0)]
    for start, stop, weight in row.get("token_weights") or ():
        if not (0 <= start < stop <= length and 0 <= weight <= 1):
            raise DataError(
                f"{name}: token_weights has {[start, stop, weight]}; wanted 0 <= start < stop <= {length} and a weight "
                "from 0 to 1"
            )
        spans.append((int(start), int(stop), float(weight)))
    return spans


def _num_given(row: Row, name: str, step_stops: Sequence[int]) -> int:
    """Tokens of the steps that are given."""
    steps = row.get("input_steps") or 0
    if not 0 <= steps <= len(step_stops):
        raise DataError(f"{name}: input_steps is {steps}, but the completion has {len(step_stops)} steps")
    return step_stops[steps - 1] if steps else 0
