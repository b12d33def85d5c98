"""Every kind of tokenizer: a text is encoded so that its tokens join its steps, or dropped by reason."""

import json
import unicodedata
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from kpod.experiment.pipeline import Pipeline
from kpod.lm.alignment import tiling_offsets
from kpod.lm.encoding import UNALIGNED, encode
from kpod.lm.layout import layout_of
from kpod.lm.models import LanguageModel, load_model
from kpod.recipe import PromptConfig, TrainingConfig
from kpod.records import Dropped, Question, Rationale, TokenizedRationale
from kpod.records.errors import ConfigError
from kpod.schedule.progressive import whole_rationales
from kpod.steps import split_steps
from kpod.training import train_student
from kpod.weighting.given import uniform_weights
from tiers import tiered
from tiny import tiny_llama, tiny_t5, tiny_tokens
from tiny_runs import recipe, write_tiny_data

CAUSAL, T5 = tiny_llama(), tiny_t5()
PLAIN = PromptConfig(chat=False)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789ABHLQT.,:;?!'\"+-=*/()<>é가か"


def byte_level(normalizer=None, *, trim_offsets=False, add_prefix_space=False) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    if normalizer:
        core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)
    core.post_processor = processors.ByteLevel(trim_offsets=trim_offsets, add_prefix_space=add_prefix_space)
    core.decoder = decoders.ByteLevel()
    return core


def unigram(normalizer=None, prepend="always", *, byte_fallback=False) -> Tokenizer:
    bytes_ = [(f"<0x{number:02X}>", -12.0) for number in range(256)] if byte_fallback else []
    pieces = [("<unk>", -20.0), ("▁", -2.0), ("▁a", -2.0), ("▁the", -2.0), *((char, -3.0) for char in LETTERS), *bytes_]
    core = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    if normalizer:
        core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    return core


def word_piece(normalizer) -> Tokenizer:
    words = ["[UNK]", *LETTERS, *(f"##{char}" for char in LETTERS)]
    core = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    return core


SPACES = normalizers.Replace(Regex(" {2,}"), " ")
KINDS = {
    "Llama 3: bytes": byte_level(),
    "Qwen: NFC, bytes": byte_level(normalizers.NFC()),
    "NFD, bytes": byte_level(normalizers.NFD()),
    "NFKC, bytes": byte_level(normalizers.NFKC()),
    "RoBERTa: trimmed offsets": byte_level(trim_offsets=True),
    "BART: trimmed, first space": byte_level(trim_offsets=True, add_prefix_space=True),
    "T5: NFKC, metaspace": unigram(normalizers.Sequence([normalizers.NFKC(), SPACES])),
    "mT5: NFKD, metaspace first": unigram(normalizers.NFKD(), "first"),
    "Gemma: spaces, byte fallback": unigram(None, "never", byte_fallback=True),
    "Llama 2: prepended": unigram(
        normalizers.Sequence([normalizers.Prepend("▁"), SPACES]), "never", byte_fallback=True
    ),
    "drops zero width": unigram(normalizers.Replace(Regex("[\u200b-\u200f\ufe0f]"), ""), "never"),
    "BERT: WordPiece": word_piece(normalizers.BertNormalizer()),
    "accents stripped": word_piece(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
}
ODD = [
    "cafe\u0301 is 2",
    "e\u0301\u0301\u0323 1",
    "\u1100\u1161\u11a8 is 3",
    "\uff76\uff9e 4",
    "👩\u200d👧 and 👍🏽 and 🏳\ufe0f\u200d🌈",
    "½ of ㎏ is ﬁve",
    "a\u200b\u200d\ufeffb",
    "क्षि 5",
    "İ Σς ß",
    "x\u00a0=\u20037",
    "a\tb\r\nc",
    "\x07bell\x00nul",
    "نص عربي\u200f 8",
    "\u0301starts with a mark",
    "ends with a mark e\u0301",
]


def lm_with(core: Tokenizer, base: LanguageModel = CAUSAL) -> LanguageModel:
    core.add_special_tokens(["<pad>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")
    return replace(base, tokenizer=tokenizer, end_id=tokenizer.eos_token_id, vocabulary=None, context=None)


LMS = {name: (lm_with(core), lm_with(core, T5)) for name, core in KINDS.items()}


def encoded(lm: LanguageModel, text: str, spans=None) -> TokenizedRationale | Dropped:
    rationale = Rationale("q1", Question("q1", "How many?", "42"), text)
    return encode(lm, rationale, spans or split_steps(text), PLAIN, 100_000)


def starts_of(tokens: TokenizedRationale) -> list[int]:
    return [tokens.char_spans[stop, 0] for stop in (0, *tokens.step_stops[:-1])]


@pytest.mark.parametrize("causal", tiered([True, False], [False]), ids=["causal", "t5"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=st.text(max_size=25))
def test_a_text_of_any_characters_is_tiled_by_its_tokens_or_dropped(kind, causal, text):
    text = f"a{text}".strip()
    lm = LMS[kind][0 if causal else 1]
    tokens = encoded(lm, text)
    if isinstance(tokens, Dropped):
        assert tokens.reason in (UNALIGNED, "prompt and rationale merge into one token", "holds the end token")
        return
    spans, steps = tokens.char_spans.tolist(), split_steps(text)
    assert spans[0][0] == 0
    assert all(left == right or left[1] == right[0] for left, right in pairwise(spans))
    assert not text[spans[-1][1] :].strip()
    owners = [sum(start <= span[0] for start, _ in steps) for span in spans]
    assert list(tokens.step_stops[:-1]) == [at for at in range(1, len(spans)) if owners[at] != owners[at - 1]]


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "bytes" in kind or "trimmed" in kind])
def test_byte_level_tokenizers_take_every_character(kind, text):
    """But for a mark at the start, which composes with the space that parts it from the prompt, or with the prompt."""
    for lm in LMS[kind]:
        assert isinstance(encoded(lm, text), TokenizedRationale)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKD"])
@pytest.mark.parametrize("kind", KINDS)
def test_composed_and_decomposed_letters_join_the_same_steps(kind, form):
    text = unicodedata.normalize(form, "Le café coûte 2 €. Donc é = 3.\nVoilà: 가각 é.")
    steps = split_steps(text)
    for lm in LMS[kind]:
        tokens = encoded(lm, text)
        assert isinstance(tokens, TokenizedRationale)
        assert tokens.num_steps == len(steps)
        assert starts_of(tokens) == [start for start, _ in steps]


def test_a_mark_that_is_composed_away_counts_to_its_letter_and_a_space_to_the_next_word():
    assert tiling_offsets([(0, 1), (0, 1), (3, 4)], "e\u0301 a", "q") == [(0, 2), (0, 2), (2, 4)]


def test_a_token_of_trimmed_spaces_covers_them():
    assert tiling_offsets([(0, 1), (3, 3), (3, 4)], "a  b", "q") == [(0, 1), (1, 3), (3, 4)]


def test_a_token_of_no_character_shares_the_next_ones():
    assert tiling_offsets([(0, 0), (0, 1), (1, 2)], "ab", "q") == [(0, 1), (0, 1), (1, 2)]


def test_nothing_after_a_prompts_border_counts_to_the_prompt():
    assert tiling_offsets([(0, 1), (2, 3)], "a\u200bb", "q") == [(0, 2), (2, 3)]
    assert tiling_offsets([(0, 1), (2, 3)], "a\u200bb", "q", border=1) == [(0, 1), (1, 3)]


def test_long_texts_take_linear_time():
    text = "e\u0301" * 5_000
    spans = tiling_offsets([(2 * number, 2 * number + 1) for number in range(5_000)], text, "q")
    assert spans[-1] == (9_998, 10_000)
    assert tiling_offsets([(0, 1)], "e" + "\u0301" * 100_000, "q") == [(0, 100_001)]


@pytest.mark.parametrize("text", ["a \ud800 b", "\udfff = 3"])
def test_half_a_surrogate_pair_is_dropped(text):
    assert encoded(CAUSAL, text, [(0, len(text))]) == Dropped("q1", UNALIGNED)


def test_a_character_that_is_seen_and_has_no_token_is_dropped():
    bert = LMS["BERT: WordPiece"][0]
    assert encoded(bert, "a \ufffd b") == Dropped("q1", UNALIGNED)


def test_a_token_without_an_embedding_is_dropped():
    lm = replace(CAUSAL, vocabulary=200)
    reason = "holds a token that the student's 200 embeddings lack"
    assert encoded(lm, "a 200th byte: é") == Dropped("q1", reason)


# --- what a tokenizer must have --------------------------------------------------------------------


def test_a_pad_token_without_an_embedding_gives_way_to_the_end_token():
    tokenizer = tiny_llama().tokenizer
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == CAUSAL.vocabulary
    layout = layout_of(tokenizer, CAUSAL.model.config)
    assert layout.pad_id == layout.end_id
    tokenizer.pad_token = None
    assert layout_of(tokenizer, CAUSAL.model.config).pad_id == layout.end_id


@pytest.mark.parametrize("in_config", [True, False])
def test_a_student_whose_pad_token_has_no_embedding_is_loaded_trained_and_loaded_again(in_config, tmp_path):
    lm = tiny_llama()
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    lm.tokenizer.save_pretrained(tmp_path)
    if in_config:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": 259}))
    lm = load_model(str(tmp_path))
    assert (lm.pad_id, lm.tokenizer.pad_token) == (lm.end_id, "</s>")
    trained = tmp_path / "trained"
    tokens = [tiny_tokens(lm, f"q{number}") for number in range(4)]
    train_student(
        lm,
        tokens,
        uniform_weights(tokens),
        whole_rationales([t.id for t in tokens]),
        TrainingConfig(num_train_epochs=1),
        seed=0,
        output_dir=trained,
        precision="fp32",
        fingerprint="f",
    )
    assert load_model(str(trained)).pad_id == lm.end_id
    assert AutoModelForCausalLM.from_pretrained(trained).config.pad_token_id == lm.end_id


def test_an_end_token_without_an_embedding_is_refused():
    tokenizer = tiny_llama().tokenizer
    tokenizer.add_special_tokens({"eos_token": "[END]"})
    with pytest.raises(ConfigError, match="ends texts with token 259, but the model has 259 embeddings"):
        layout_of(tokenizer, CAUSAL.model.config)


def test_a_tokenizer_whose_offsets_are_all_empty_is_refused(monkeypatch):
    tokenizer = tiny_llama().tokenizer
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *_, **__: {"offset_mapping": [(0, 0), (0, 0)]})
    with pytest.raises(ConfigError, match="gives no offsets"):
        layout_of(tokenizer, CAUSAL.model.config)


@pytest.mark.slow
def test_odd_characters_in_every_rationale_do_not_end_a_whole_run(tmp_path):
    data = write_tiny_data(tmp_path)
    lm = tiny_llama()
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    lm.tokenizer.save_pretrained(data / "llama")
    rows = [json.loads(line) for line in (data / "rationales.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, odd in zip(rows, ("cafe\u0301 ", "e\u0301. ", "\u200b", "fi\u200d\ufb01 ", "\u0301", "", ""), strict=True):
        row["rationale"] = odd + row["rationale"]
    (data / "rationales.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    brief = ("--weighting.observations", "4", "--training.num_train_epochs", "2", "--evaluation.before", "false")
    pipeline = Pipeline(recipe(data, tmp_path / "runs", "llama", *brief))
    pipeline.run()
    assert len(pipeline.tokens) == 6
    assert [fallen.id for fallen in pipeline.dropped] == ["wrong"]
