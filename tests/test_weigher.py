"""Learnt weights outside their run: saved, on new rationales, in other tokenizers; and fixed rules beside them."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kpod.commands.command_line import main
from kpod.commands.weigh import annotate
from kpod.data.reader import read_rationales
from kpod.experiment.pipeline import Pipeline
from kpod.lm.encoding import project_spans
from kpod.records.errors import DataError
from kpod.weighting.given import digit_rule_weights, shuffled_weights, spans_of
from kpod.weighting.weigher import Weigher
from tiny import tiny_llama, tiny_rationales, tiny_tokens
from tiny_runs import recipe, write_tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weighed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run up to its weights."""
    pipeline = Pipeline(recipe(data, tmp_path_factory.mktemp("runs")))
    assert pipeline.weights.loss
    return pipeline


def folder_of(pipeline: Pipeline) -> Path:
    return pipeline.folder.path / "weights" / "weigher"


# -- saved, and on new rationales ----------------------------------------------------------------------


def test_a_saved_weigher_gives_the_weights_of_its_run(weighed: Pipeline) -> None:
    weigher = Weigher.load(folder_of(weighed))
    for rationale, spans in zip(tiny_rationales(), weigher.weigh(tiny_rationales()), strict=True):
        tokens = next(t for t in weighed.tokens if t.id == rationale.id)
        assert isinstance(spans, tuple)
        np.testing.assert_allclose(spans, spans_of(tokens, weighed.weights.loss[rationale.id]), atol=1e-6)
        assert "".join(rationale.text[start:stop] for start, stop, _ in spans) == rationale.text


def test_a_weigher_survives_being_saved_twice(weighed: Pipeline, tmp_path: Path) -> None:
    Weigher.load(folder_of(weighed)).save(tmp_path)
    assert (tmp_path / "weigher.safetensors").read_bytes() == (folder_of(weighed) / "weigher.safetensors").read_bytes()


@pytest.mark.parametrize("kept_rate", [0.6, None])
@pytest.mark.parametrize("prompt", ["the same", "of other keys"])
def test_a_weigher_of_an_older_version_is_refused(
    weighed: Pipeline, tmp_path: Path, kept_rate: float | None, prompt: str
) -> None:
    """Its facts say `kept_rate`, which centred each rationale by itself, and not whether the price is held."""
    Weigher.load(folder_of(weighed)).save(tmp_path)
    facts = json.loads((tmp_path / "weigher.json").read_text(encoding="utf-8"))
    assert facts.pop("held") is True
    if prompt == "of other keys":
        facts["prompt"] = {"words": "of old"}
    (tmp_path / "weigher.json").write_text(json.dumps(facts | {"kept_rate": kept_rate}), encoding="utf-8")
    with pytest.raises(DataError, match=rf"{tmp_path.name} was written by an older version, .*; weigh again"):
        Weigher.load(tmp_path)


def test_annotation_writes_a_rationale_file_with_weights(weighed: Pipeline, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "weighed.jsonl"
    found = annotate(weighed.folder.path, data / "rationales.jsonl", target)
    assert (found.num_written, found.num_found, found.dropped) == (7, 0, {})
    rationales, _ = read_rationales(target)
    own = {t.id: t for t in weighed.tokens}
    assert [r.id for r in rationales] == [*own, "wrong"]
    for rationale in rationales[:6]:
        assert rationale.token_weights is not None
        expected = spans_of(own[rationale.id], weighed.weights.loss[rationale.id])
        np.testing.assert_allclose(rationale.token_weights, expected, atol=1e-6)


def test_annotation_goes_on_where_it_was_stopped(weighed: Pipeline, data: Path, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    annotate(weighed.folder.path, data / "rationales.jsonl", whole)
    content = whole.read_bytes()
    expected = [read.token_weights for read in read_rationales(whole)[0]]
    for length in (0, 10, len(content) // 2, len(content) - 1, len(content)):
        torn.write_bytes(content[:length])
        found = annotate(weighed.folder.path, data / "rationales.jsonl", torn)
        assert found.num_found == content[:length].count(b"\n")
        again = [read.token_weights for read in read_rationales(torn)[0]]
        assert len(again) == len(expected)
        for weights, same in zip(again, expected, strict=True):  # a smaller batch rounds the last bits otherwise
            np.testing.assert_allclose(weights, same, atol=2e-6)


def test_annotation_refuses_a_file_that_another_weigher_wrote(weighed: Pipeline, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "other.jsonl"
    for row in ({"id": "q", "weigher": "another"}, {"id": "q"}, ["no", "row"]):
        target.write_text(json.dumps(row) + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"other\.jsonl:1: was not written by this weigher"):
            annotate(weighed.folder.path, data / "rationales.jsonl", target)
        assert json.loads(target.read_text(encoding="utf-8")) == row
    target.write_text("notes of mine", encoding="utf-8")
    with pytest.raises(DataError, match="its last line was not written by this weigher"):
        annotate(weighed.folder.path, data / "rationales.jsonl", target)
    assert target.read_text(encoding="utf-8") == "notes of mine"


def test_annotation_refuses_a_file_of_other_rationales(weighed: Pipeline, data: Path, tmp_path: Path) -> None:
    target, changed = tmp_path / "weighed.jsonl", tmp_path / "changed.jsonl"
    annotate(weighed.folder.path, data / "rationales.jsonl", target)
    content = (data / "rationales.jsonl").read_text(encoding="utf-8")
    changed.write_text(content.replace("4 trays hold 4 * 6", "Four trays hold 4 * 6"), encoding="utf-8")
    with pytest.raises(DataError, match=r"weighed\.jsonl: id 'tiny-0' has another rationale there"):
        annotate(weighed.folder.path, changed, target)


def test_a_run_without_learnt_weights_has_no_weigher(data: Path, tmp_path: Path) -> None:
    plain = Pipeline(recipe(data, tmp_path, "llama", "--method", "scotd"))
    assert plain.weights.loss
    with pytest.raises(DataError, match="holds no weigher"):
        annotate(plain.folder.path, data / "rationales.jsonl", tmp_path / "out.jsonl")


def test_the_command_line_applies_a_weigher(
    weighed: Pipeline, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = data / "rationales.jsonl"
    words = [
        "weigh",
        "--apply",
        str(weighed.folder.path),
        "--input",
        str(source),
        "--output",
        str(tmp_path / "o.jsonl"),
    ]
    assert main(words) == 0
    assert "7 rationales with weights (0 were there before)" in capsys.readouterr().out
    assert main(words[:3]) == 2
    assert "--apply needs --input FILE and --output FILE.jsonl" in capsys.readouterr().err
    assert main(["weigh", str(weighed.folder.path), "--input", str(source)]) == 2
    assert "belong to --apply RUN" in capsys.readouterr().err
    assert main([*words, "--seed=1"]) == 2
    assert "unexpected argument '--seed=1'" in capsys.readouterr().err


# -- another tokenizer ---------------------------------------------------------------------------------


def save_word_student(folder: Path) -> None:
    """A tiny student whose tokens are words and signs, unlike the other's bytes."""
    texts = [text for r in tiny_rationales() for text in (r.text, r.question.question, r.question.answer)]
    cut = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    words = sorted(
        {
            word
            for text in [*texts, "Q: A: Let's think step by step. Therefore, the answer is"]
            for word, _ in cut.pre_tokenize_str(text)
        }
    )
    core = Tokenizer(WordLevel({word: number for number, word in enumerate([*words, "<unk>", "</s>"])}, "<unk>"))
    core.pre_tokenizer = cut
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    model = tiny_llama().model
    assert isinstance(model, LlamaForCausalLM)
    model.save_pretrained(folder)


@pytest.mark.slow
def test_a_predictor_with_another_tokenizer_weighs_the_students_tokens(data: Path, tmp_path: Path) -> None:
    save_word_student(data / "words")
    brief = ("--weighting.predictor", str(data / "llama"))
    pipeline = Pipeline(recipe(data, tmp_path, "words", *brief))
    by_byte = Weigher.load(folder_of(Pipeline(recipe(data, tmp_path, "words", *brief)))) if pipeline.weights else None
    assert by_byte is not None
    for tokens, rationale in zip(pipeline.tokens, tiny_rationales(), strict=True):
        (spans,) = by_byte.weigh([rationale])
        assert isinstance(spans, tuple)
        assert len(spans) > tokens.num_tokens
        weight_of = {start: weight for start, _, weight in spans}
        means = [np.mean([weight_of[char] for char in range(*span)]) for span in tokens.char_spans]
        np.testing.assert_allclose(pipeline.weights.loss[tokens.id], means, atol=1e-6)


def test_weights_are_learnt_anew_where_the_predictor_changes(weighed: Pipeline, data: Path) -> None:
    other = Pipeline(recipe(data, Path(weighed.recipe.runs), "llama", "--weighting.predictor", str(data / "t5")))
    assert other.keys["weights"] != weighed.keys["weights"]
    assert other.keys["tokens"] == weighed.keys["tokens"]


# -- fixed rules ---------------------------------------------------------------------------------------


def test_the_digit_rule_by_hand() -> None:
    tokens = tiny_tokens(tiny_llama(), steps=(4, 5))
    assert digit_rule_weights([tokens], {"q0": "a 2+3 = 5"})["q0"].tolist() == pytest.approx(
        [0.3, 0.3, 1, 1, 1, 0.3, 1, 0.3, 1]
    )


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.integers(0, 99))
def test_shuffled_weights_keep_their_histogram(values: list[float], seed: int) -> None:
    weights = {"q": np.array(values, dtype=np.float32)}
    assert sorted(shuffled_weights(weights, seed)["q"].tolist()) == sorted(weights["q"].tolist())


@given(st.data())
def test_spans_give_the_tokens_weights_back(data: st.DataObject) -> None:
    tokens = tiny_tokens(tiny_llama(), steps=(data.draw(st.integers(1, 30)),))
    number = st.floats(0, 1, width=32)
    weights = np.array(data.draw(st.lists(number, min_size=tokens.num_tokens, max_size=tokens.num_tokens)), np.float32)
    spans = spans_of(tokens, weights)
    assert project_spans(spans, tokens.char_spans).tolist() == weights.tolist()
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
