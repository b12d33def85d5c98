"""A user's rows as examples: texts and messages, weights by characters, given steps; and the example script itself."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kpod.records.errors import DataError
from kpod.training import RowDataset
from tiny import END, START, tiny_llama, tiny_t5

EXAMPLE = Path(__file__).parent.parent / "examples" / "keypoint_trainer.py"
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ROW = {"prompt": "Q: 2 + 3?\nA:", "completion": " So 2 + 3 = 5. It is 5.", "token_weights": [[4, 13, 0.5]]}


def decoded(lm, ids):
    return lm.tokenizer.decode([i for i in ids if i != END], skip_special_tokens=False)


def test_a_row_of_texts_by_hand():
    lm = tiny_llama()
    (example,) = RowDataset([ROW], lm)
    assert decoded(lm, example.token_ids) == ROW["prompt"] + ROW["completion"]
    assert example.token_ids[-1] == END
    assert example.first_trained == len(ROW["prompt"])
    completion = ROW["completion"]
    assert example.weights.tolist() == [0.5 if 4 <= c < 13 else 1.0 for c in range(len(completion))] + [1.0]


def test_given_steps_are_read_and_not_trained():
    lm = tiny_llama()
    (example,) = RowDataset([{**ROW, "input_steps": 1}], lm)
    assert decoded(lm, example.token_ids[example.first_trained :]) == " It is 5."
    assert len(example.weights) == len(" It is 5.") + 1


def test_an_encoder_reads_the_prompt_and_the_given_steps():
    lm = tiny_t5()
    (example,) = RowDataset([{**ROW, "input_steps": 1}], lm)
    assert decoded(lm, example.encoder_ids) == ROW["prompt"] + " So 2 + 3 = 5."
    assert example.encoder_ids[-1] == example.token_ids[-1] == END
    assert decoded(lm, example.token_ids) == " It is 5."


def test_messages_go_through_the_chat_template():
    lm = tiny_llama()
    lm.tokenizer.chat_template = CHAT
    asked, told = {"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "2 + 3 = 5. It is 5."}
    rows = [
        {"messages": [asked, told], "token_weights": [[0, 10, 0.25]]},
        {"prompt": [asked], "completion": [told], "token_weights": [[0, 10, 0.25]]},
    ]
    first, second = RowDataset(rows, lm)
    assert first.token_ids == second.token_ids
    assert decoded(lm, first.token_ids[first.first_trained :]) == told["content"]
    assert first.token_ids.count(END) == 2  # after the question and after the completion
    assert first.weights.tolist() == [0.25] * 10 + [1.0] * 10
    assert START not in first.token_ids


def test_a_text_starts_as_the_tokenizer_starts_texts():
    lm = tiny_llama(bos=True)
    (example,) = RowDataset([ROW], lm)
    assert example.token_ids[0] == START
    assert example.first_trained == 1 + len(ROW["prompt"])


def test_a_column_that_other_rows_fill_changes_nothing():
    """A `datasets.Dataset` gives every row all columns."""
    lm = tiny_llama(bos=True)
    first, second = RowDataset([ROW, {**ROW, "messages": None}], lm)
    assert first.token_ids == second.token_ids
    lm.tokenizer.chat_template = CHAT
    chat = {"messages": [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "It is 2."}]}
    first, second = RowDataset([chat, {**chat, "prompt": None, "completion": None}], lm)
    assert first.token_ids == second.token_ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": None}, "row 1 needs prompt and completion"),
        ({"completion": " "}, "row 1: its completion is blank"),
        ({"token_weights": [[0, 99, 0.5]]}, r"row 1: token_weights has \[0, 99, 0.5\]; wanted 0 <= start < stop <= 23"),
        ({"token_weights": [[0, 4, 1.5]]}, "row 1: token_weights"),
        ({"input_steps": 3}, "row 1: input_steps is 3, but the completion has 2 steps"),
        ({"prompt": [{"role": "user", "content": "a"}], "completion": []}, "row 1 needs prompt"),
        (
            {"messages": [{"role": "user", "content": "a"}]},
            "row 1 has messages, but the tokenizer has no",
        ),
    ],
)
def test_a_wrong_row_is_named(change, message):
    row = {key: value for key, value in {**ROW, **change}.items() if value is not None}
    if "messages" in change:
        row = change
    with pytest.raises(DataError, match=message):
        RowDataset([ROW, row], tiny_llama())


@pytest.mark.filterwarnings("ignore")
def test_the_example_script_trains_a_student(tmp_path, monkeypatch):
    lm = tiny_llama()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    spec = importlib.util.spec_from_file_location("keypoint_trainer_example", EXAMPLE)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    words = ["example", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "student")]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    before, after = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("model", "student"))
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    lines = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
