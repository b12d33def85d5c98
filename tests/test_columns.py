"""Tokens and weights on disk: written in batches, read as views, equal to what was written."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BatchEncoding, PreTrainedTokenizerFast

from kpod.lm.encoding import encode, encode_all, encode_batch, with_statement
from kpod.lm.models import LanguageModel
from kpod.recipe import DataConfig, PromptConfig
from kpod.records import Dropped, Question, Rationale, Span, TokenizedRationale, columns
from kpod.records.columns import ById, Tokens, parts, write_by_id, write_tokens
from kpod.records.errors import DataError
from kpod.steps import split_steps
from tiny import byte_tokenizer, tiny_llama, tiny_t5, tiny_tokens

LLAMA = tiny_llama()
MADE = [tiny_tokens(LLAMA, f"q{n}", (2, n + 1)) for n in range(7)]


@pytest.fixture(params=[1, 3, 100])
def tokens(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokens:
    """The same rationales in batches of one, of three, and in one batch."""
    monkeypatch.setattr(columns, "ROWS", request.param)
    write_tokens(tmp_path / "tokens.arrow", iter(MADE))
    return Tokens(tmp_path / "tokens.arrow")


def test_rows_come_back_as_they_were_in_their_order(tokens: Tokens) -> None:
    assert list(tokens) == MADE
    assert [tokens[n] for n in range(-7, 7)] == MADE * 2
    assert len(tokens) == 7


def test_a_view_reads_the_file_and_holds_plain_numbers(tokens: Tokens) -> None:
    view = tokens[3]
    assert view.token_ids.dtype == view.char_spans.dtype == np.int32
    assert not view.token_ids.flags.owndata
    assert [type(stop) for stop in (*view.segment_stops, *view.step_stops)] == [int] * 7


@pytest.mark.parametrize("part", [slice(2, 5), slice(None, None, -2), slice(5, 2), slice(-3, 100)])
def test_a_slice_is_such_a_sequence_again(tokens: Tokens, part: slice) -> None:
    assert isinstance(tokens[part], Tokens)
    assert list(tokens[part]) == MADE[part]
    assert list(tokens[part][1:]) == MADE[part][1:]


@pytest.mark.parametrize("number", [7, -8])
def test_a_row_that_is_not_there(tokens: Tokens, number: int) -> None:
    with pytest.raises(IndexError):
        tokens[number]


def test_a_worker_process_maps_the_file_itself(tokens: Tokens) -> None:
    sent = pickle.dumps(tokens)
    assert len(sent) < 400
    assert list(pickle.loads(sent)) == MADE


def test_a_file_without_rows(tmp_path: Path) -> None:
    write_tokens(tmp_path / "none.arrow", [])
    write_by_id(tmp_path / "numbers.arrow", "weights", [])
    assert list(Tokens(tmp_path / "none.arrow")) == []
    assert dict(ById(tmp_path / "numbers.arrow")) == {}


@pytest.mark.parametrize("content", [b"", b"not Arrow at all", None], ids=["empty", "other", "missing"])
def test_what_is_no_arrow_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokens.arrow"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"tokens\.arrow cannot be read as an Arrow file"):
        Tokens(path)


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("on_disk", [True, False])
def test_numbers_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, on_disk: bool) -> None:
    monkeypatch.setattr(columns, "ROWS", rows)
    given_rows = {f"é{n}": np.linspace(0, 1, n + 1, dtype=np.float32) for n in range(5)}
    write_by_id(tmp_path / "numbers.arrow", "weights", given_rows.items())
    found = ById(tmp_path / "numbers.arrow") if on_disk else ById.of(given_rows.items())
    assert list(found) == list(given_rows)
    assert {id_: row.tolist() for id_, row in found.items()} == {id_: row.tolist() for id_, row in given_rows.items()}
    assert all(row.dtype == np.float32 for row in found.values())
    assert "é4" in found
    assert found.get("other") is None
    again = pickle.loads(pickle.dumps(found))
    assert again["é2"].tolist() == [0, 0.5, 1]


@given(st.lists(st.integers(0, 9)), st.integers(1, 4), st.integers(1, 20))
def test_parts_tile_the_items_within_both_limits(sizes: list[int], most: int, largest: int) -> None:
    found = list(parts(sizes, lambda size: size, most, largest))
    assert [size for part in found for size in part] == sizes
    assert all(0 < len(part) <= most and (sum(part) <= largest or len(part) == 1) for part in found)


def test_rationales_in_tokens_are_equal_by_what_they_hold() -> None:
    first = MADE[0]
    assert first == replace(first, token_ids=first.token_ids.copy())
    assert hash(first) == hash(replace(first))
    assert first != replace(first, token_ids=first.token_ids + 1)
    assert first != replace(first, char_spans=first.char_spans + 1)
    assert first != replace(first, id="other")
    assert first != "q0"


# -- one by one or in batches --------------------------------------------------------------------------

TEXTS = (
    "6 * 7 = 42.\r\nDone.\r\n\r\nSo 42.",
    "x",
    "👩‍👧 has 3 🍎 and 4 🍏: 7 fruits. \u2028 é + e\u0301",
    "He said: 50 $.  Two  spaces.\tA tab.",
    "long " * 300 + "end.",
    "holds </s> inside",
    "half \ud83d of a pair",
    "。日本語。 数える。",
    ".",
)
RATIONALES = [
    Rationale(f"q{n}", Question(f"q{n}", "How many?" * (n % 3 + 1), "42"), text) for n, text in enumerate(TEXTS)
]


def in_a_batch(lm: LanguageModel, steps: list[list[Span]], prompt: PromptConfig) -> list[TokenizedRationale | Dropped]:
    found = zip(RATIONALES, encode_batch(lm, RATIONALES, steps, prompt, 900), strict=True)
    return [item if isinstance(item, Dropped) else with_statement(one, item) for one, item in found]


@pytest.mark.parametrize("lm", [LLAMA, tiny_llama(bos=True), tiny_t5()], ids=["causal", "bos", "t5"])
@pytest.mark.parametrize("prompt", [PromptConfig(), PromptConfig(opening="Well:"), PromptConfig(closing="{answer}")])
def test_a_batch_encodes_as_its_rationales_one_by_one(lm, prompt: PromptConfig) -> None:
    steps = [split_steps(rationale.text) for rationale in RATIONALES]
    alone = [encode(lm, one, spans, prompt, 900) for one, spans in zip(RATIONALES, steps, strict=True)]
    assert in_a_batch(lm, steps, prompt) == alone
    assert {type(item) for item in alone} == {TokenizedRationale, Dropped}


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_all_are_encoded_in_their_order_whatever_the_batch(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(encode_all(LLAMA, RATIONALES, DataConfig(max_length=900)))
    monkeypatch.setattr("kpod.lm.encoding.BATCH", batch)
    assert list(encode_all(LLAMA, RATIONALES, DataConfig(max_length=900))) == whole
    assert [item.id for item in whole] == [rationale.id for rationale in RATIONALES]


@pytest.mark.parametrize("blank", [0, 3, len(RATIONALES)])
def test_a_tokenizer_without_offsets_drops_in_a_batch_what_it_drops_alone(blank: int) -> None:
    """A tokenizer may lose its offsets for some texts alone."""
    lost = {rationale.text for rationale in RATIONALES[:blank]}

    class Lossy(PreTrainedTokenizerFast):
        def __call__(self, texts: Any, *given: Any, **settings: Any) -> BatchEncoding:
            found = super().__call__(texts, *given, **settings)
            for number, ids in enumerate(found.input_ids if "offset_mapping" in found else []):
                if any(one in texts[number] for one in lost):
                    found["offset_mapping"][number] = [(0, 0)] * len(ids)
            return found

    tokenizer = byte_tokenizer()
    tokenizer.__class__ = Lossy
    lm = replace(LLAMA, tokenizer=tokenizer)
    steps = [split_steps(rationale.text) for rationale in RATIONALES]
    alone = [encode(lm, one, spans, PromptConfig(), 900) for one, spans in zip(RATIONALES, steps, strict=True)]
    found = in_a_batch(lm, steps, PromptConfig())
    assert found == alone
    assert sum(isinstance(item, Dropped) for item in found) >= blank
