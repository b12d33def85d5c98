"""One id sequence per rationale, token by token; batches and the shift by one; loading models."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn, tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from kpod.config import LoraConfig, PromptConfig
from kpod.data.prompts import completion
from kpod.errors import ConfigError, DataError
from kpod.lm.encoding import encode, prompt_ids, prompt_text, tiling_offsets
from kpod.lm.models import LanguageModel, evaluating, load_model, mean_input_embeddings, with_lora
from kpod.lm.sequences import IGNORED, collate, example_at, logprobs, trained_positions
from kpod.records import Dropped, Question, Rationale, TokenizedRationale
from tests.tiny import END, START, tiny_llama, tiny_rationales, tiny_t5, tiny_tokens, tiny_weights

CAUSAL, T5 = tiny_llama(), tiny_t5()
BOTH = pytest.mark.parametrize("lm", [CAUSAL, T5], ids=["causal", "t5"])
PLAIN = PromptConfig(chat=False)
CHAT = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:{{ '\n' }}"
ROOM = 10_000


def rationale_of(text: str, answer: str = "42", question: str = "How many?") -> Rationale:
    return Rationale("q1", Question("q1", question, answer), text)


def encoded(lm, rationale, prompt=PLAIN, spans=None) -> TokenizedRationale:
    found = encode(lm, rationale, spans or [(0, len(rationale.text))], prompt, ROOM)
    assert isinstance(found, TokenizedRationale), found
    return found


def text_of(lm: LanguageModel, ids) -> str:
    return lm.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def chatting(lm: LanguageModel) -> LanguageModel:
    lm.tokenizer.chat_template = CHAT
    return lm


def with_merges(*merges: tuple[str, str]) -> LanguageModel:
    """The byte tokenizer with some pairs joined to one token, across words too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, "<pad>", "</s>", "<s>"])}
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    core = Tokenizer(models.BPE(vocabulary, list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<pad>", "</s>", "<s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")
    return replace(CAUSAL, tokenizer=tokenizer)


def metaspace_t5() -> LanguageModel:
    """An encoder-decoder model whose tokenizer works as T5's: it normalises, and marks words by a leading bar."""
    letters = [(char, -3.0) for char in "abcdefghijklmnopqrstuvwxyzAHQTL0123456789.,:?'+=-⁄"]
    core = Tokenizer(models.Unigram([("<unk>", -9.0), ("▁", -2.0), ("▁a", -2.0), *letters], unk_id=0))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\u200b", "")])
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.add_special_tokens(["<pad>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return replace(T5, tokenizer=tokenizer, end_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id)


# --- encode ----------------------------------------------------------------------------------------


@BOTH
def test_every_part_holds_its_own_text(lm):
    tokens = encoded(lm, rationale_of("6 × 7 = 42. Done."), replace(PLAIN, closing="So it is {answer}!"))
    prompt = "Q: How many?\nA: Let's think step by step."
    space = "" if lm.encoder_decoder else " "
    assert text_of(lm, tokens.ids("question")) == (prompt + "</s>" if lm.encoder_decoder else prompt)
    assert text_of(lm, tokens.ids("rationale")) == space + "6 × 7 = 42. Done."
    assert text_of(lm, tokens.ids("closing")) == " So it is"
    assert text_of(lm, tokens.ids("answer")) == " 42"
    assert text_of(lm, tokens.ids("end")) == "!</s>"


def test_steps_and_characters_follow_bytes_of_several_per_character():
    tokens = encoded(T5, rationale_of("½ é. Ok"), spans=[(0, 4), (4, 7)])
    assert tokens.char_spans == ((0, 1), (0, 1), (1, 2), (2, 3), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7))
    assert tokens.step_stops == (6, 9)


def test_the_space_after_a_plain_prompt_is_written_and_counts_to_the_first_character():
    tokens = encoded(CAUSAL, rationale_of("a b"), spans=[(0, 1), (1, 3)])
    assert text_of(CAUSAL, tokens.ids("rationale")) == " a b"
    assert tokens.char_spans == ((0, 1), (0, 1), (1, 2), (2, 3))
    assert tokens.step_stops == (2, 4)


@pytest.mark.parametrize("prompt", [PLAIN, PromptConfig()], ids=["plain", "chat"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_the_student_is_trained_after_exactly_what_it_is_asked(make, prompt):
    lm = chatting(make())
    for rationale in tiny_rationales():
        asked = prompt_ids(lm, rationale.question, prompt)
        assert encoded(lm, rationale, prompt).ids("question") == asked


def test_a_chat_template_is_used_where_there_is_one_and_wanted():
    lm, question = chatting(tiny_llama()), Question("q1", "How many?", "42")
    chat = "<s>user: How many?\nLet's think step by step.\nassistant:\n"
    assert prompt_text(lm.tokenizer, question, PromptConfig()) == chat
    assert prompt_text(lm.tokenizer, question, PLAIN).startswith("Q: How many?")
    assert prompt_text(CAUSAL.tokenizer, question, PromptConfig()).startswith("Q: How many?")
    tokens = encoded(lm, rationale_of("Six."), PromptConfig())
    assert text_of(lm, tokens.ids("rationale")) == "Six."


@pytest.mark.parametrize("prompt", [PLAIN, PromptConfig()], ids=["plain", "chat"])
def test_the_first_token_stands_there_once(prompt):
    lm = chatting(tiny_llama(bos=True))
    tokens = encoded(lm, tiny_rationales()[0], prompt)
    assert tokens.token_ids[0] == START
    assert tokens.token_ids.count(START) == 1
    assert encoded(tiny_llama(), tiny_rationales()[0]).token_ids.count(START) == 0


def test_no_space_follows_a_prompt_that_ends_in_a_special_token():
    lm = tiny_llama()
    lm.tokenizer.chat_template = "{{ messages[0].content }}<s>"
    assert text_of(lm, encoded(lm, rationale_of("Six."), PromptConfig()).ids("rationale")) == "Six."


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
STEP_TEXTS = st.lists(TEXT.filter(str.strip), min_size=1, max_size=5)


@given(STEP_TEXTS, st.booleans(), TEXT.filter(str.strip))
@example(["½ é. ", "\u2028x", "\u200b👩‍👧 7"], True, "</s")
def test_ids_decode_back_to_the_text_and_every_rationale_token_is_in_one_step(steps, causal, question):
    lm = CAUSAL if causal else T5
    steps = [steps[0].lstrip(), *steps[1:]]
    steps[-1] = steps[-1].rstrip()
    text, stops = "".join(steps), np.cumsum([len(step) for step in steps]).tolist()
    spans = list(pairwise([0, *stops]))
    rationale = rationale_of(text, question=question)
    tokens = encode(lm, rationale, spans, PLAIN, ROOM)
    if isinstance(tokens, Dropped):
        assert "</s>" in text
        return
    leading = " " if causal else ""
    target = completion(text, "42", PLAIN, leading)
    asked = prompt_text(lm.tokenizer, rationale.question, PLAIN) + ("" if causal else "</s>")
    assert text_of(lm, tokens.token_ids) == asked + target.text + "</s>"
    ids, starts = tokens.ids("rationale"), [0, *tokens.step_stops]
    assert len(starts) == len(steps) + 1
    assert starts[-1] == len(ids)
    written = [text_of(lm, ids[start:stop]) for start, stop in pairwise(starts)]
    assert written == [leading + steps[0], *steps[1:]]


def test_a_rationale_that_is_too_long_is_dropped_never_cut():
    rationale = tiny_rationales()[0]
    length = len(encoded(CAUSAL, rationale).token_ids)
    spans = [(0, len(rationale.text))]
    assert isinstance(encode(CAUSAL, rationale, spans, PLAIN, length), TokenizedRationale)
    assert encode(CAUSAL, rationale, spans, PLAIN, length - 1) == Dropped("tiny-0", f"longer than {length - 1} tokens")
    narrow = replace(CAUSAL, context=length - 1)
    assert encode(narrow, rationale, spans, PLAIN, ROOM) == Dropped("tiny-0", f"longer than {length - 1} tokens")


def test_a_prompt_that_merges_with_the_rationale_is_dropped():
    rationale = rationale_of("Six.")
    found = encode(with_merges((".", "Ġ")), rationale, [(0, 4)], PLAIN, ROOM)
    assert found == Dropped("q1", "prompt and rationale merge into one token")


def test_a_token_between_rationale_and_closing_counts_to_the_rationale():
    lm = with_merges(("!", "Ġ"))
    tokens = encoded(lm, rationale_of("Six!"), spans=[(0, 4)])
    assert text_of(lm, tokens.ids("rationale")) == " Six! "
    assert tokens.char_spans[-1] == (3, 4)
    assert text_of(lm, tokens.ids("closing")) == "Therefore, the answer is"


def test_a_token_between_answer_and_fixed_words_counts_to_the_answer():
    lm = with_merges(("$", "4"), ("2", "!"))
    tokens = encoded(lm, rationale_of("Six."), replace(PLAIN, closing="It is ${answer}!"))
    assert text_of(lm, tokens.ids("closing")) == " It is "
    assert text_of(lm, tokens.ids("answer")) == "$42!"
    assert tokens.ids("end") == (END,)


def test_an_answer_that_merges_with_the_rationale_is_dropped():
    lm = with_merges(("!", "Ġ"), ("!Ġ", "4"), ("!Ġ4", "2"))
    found = encode(lm, rationale_of("Six!"), [(0, 4)], replace(PLAIN, closing="{answer}"), ROOM)
    assert found == Dropped("q1", "rationale and answer merge into one token")


@BOTH
def test_a_rationale_that_would_end_the_text_early_is_dropped(lm):
    text = "Six.</s> Seven."
    assert encode(lm, rationale_of(text), [(0, len(text))], PLAIN, ROOM) == Dropped("q1", "holds the end token")


def test_a_tokenizer_like_t5s_tiles_the_text_it_normalises():
    lm = metaspace_t5()
    tokens = encoded(lm, rationale_of("½ is a half.\u200b  Then 2."), spans=[(0, 12), (12, 22)])
    pieces = lm.tokenizer.convert_ids_to_tokens(list(tokens.ids("rationale")))
    assert pieces[:6] == ["▁", "1", "⁄", "2", "▁", "i"]
    assert tokens.char_spans[:6] == ((0, 1), (0, 1), (0, 1), (0, 1), (1, 2), (2, 3))
    assert pieces[tokens.step_stops[0] - 1] == "."
    assert "".join(pieces[tokens.step_stops[0] :]).replace("▁", " ").split() == ["Then", "2."]
    assert lm.tokenizer.convert_ids_to_tokens(list(tokens.ids("answer"))) == ["▁", "4", "2"]


@pytest.mark.parametrize(
    ("offsets", "why"),
    [
        ([(0, 0), (0, 3)], "do not follow character 0"),
        ([(0, 3), (3, 3)], "do not follow character 3"),
        ([(0, 3), (1, 2), (4, 7)], "do not follow character 3"),
        ([(3, 7), (0, 3)], "do not follow character 0"),
        ([(0, 2), (4, 7)], "do not follow character 2"),
        ([(0, 3)], "miss its text after character 3"),
    ],
)
def test_wrong_offsets_are_told_with_the_id(offsets, why):
    with pytest.raises(DataError, match=f"'q7'.*{why}"):
        tiling_offsets(offsets, "Two six", "q7")


# --- examples and batches --------------------------------------------------------------------------


def counted(encoder_decoder: bool) -> TokenizedRationale:
    """Question 11 12 13 (an encoder's ends in 19), steps 1 2 | 3, closing 4, answer 5, end 9."""
    asked = (11, 12, 19) if encoder_decoder else (11, 12, 13)
    return TokenizedRationale("q1", (*asked, 1, 2, 3, 4, 5, 9), (3, 6, 7, 8, 9), (2, 3), ((0, 1), (1, 2), (2, 3)))


HALVES = np.array([0.25, 0.5, 0.75], dtype=np.float32)
N = IGNORED


@pytest.mark.parametrize(
    ("input_steps", "labels", "weights"),
    [
        (0, [N, N, 1, 2, 3, 4, 5, 9], [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]),
        (1, [N, N, N, N, 3, 4, 5, 9], [0, 0, 0, 0, 0.75, 1, 1, 1]),
        (2, [N, N, N, N, N, 4, 5, 9], [0, 0, 0, 0, 0, 1, 1, 1]),
    ],
)
def test_a_causal_student_reads_everything_and_writes_what_is_not_given(input_steps, labels, weights):
    batch = collate([example_at(counted(False), HALVES, input_steps, encoder_decoder=False)], CAUSAL)
    assert batch["input_ids"].tolist() == [[11, 12, 13, 1, 2, 3, 4, 5]]
    assert batch["labels"].tolist() == [labels]
    assert batch["weights"].tolist() == [weights]
    assert "decoder_input_ids" not in batch


@pytest.mark.parametrize(
    ("input_steps", "read", "labels"),
    [
        (0, [11, 12, 19], [1, 2, 3, 4, 5, 9]),
        (1, [11, 12, 1, 2, 19], [3, 4, 5, 9]),
        (2, [11, 12, 1, 2, 3, 19], [4, 5, 9]),
    ],
)
def test_an_encoder_reads_the_given_steps_after_the_question(input_steps, read, labels):
    batch = collate([example_at(counted(True), HALVES, input_steps, encoder_decoder=True)], T5)
    assert batch["input_ids"].tolist() == [read]
    assert batch["decoder_input_ids"].tolist() == [[T5.decoder_start_id, *labels[:-1]]]
    assert batch["labels"].tolist() == [labels]
    assert batch["weights"].tolist() == [[0.25, 0.5, 0.75, 1, 1, 1][-len(labels) :]]


@pytest.mark.parametrize(("input_steps", "labels"), [(0, [1, 2, 3, 4, 5, 9]), (1, [N, N, 3, 4, 5, 9])])
def test_or_the_decoder_has_the_given_steps_as_its_start(input_steps, labels):
    chosen = example_at(counted(True), HALVES, input_steps, encoder_decoder=True, given="decoder")
    batch = collate([chosen], T5)
    assert batch["input_ids"].tolist() == [[11, 12, 19]]
    assert batch["decoder_input_ids"].tolist() == [[T5.decoder_start_id, 1, 2, 3, 4, 5]]
    assert batch["labels"].tolist() == [labels]


@pytest.mark.parametrize("input_steps", [-1, 3])
def test_no_more_steps_are_given_than_there_are(input_steps):
    with pytest.raises(DataError, match="'q1' has 2 steps"):
        example_at(counted(False), HALVES, input_steps, encoder_decoder=False)


def mixed_batch(lm: LanguageModel, input_steps: int = 1):
    """Three rationales of different lengths, each as an example."""
    shapes = ((3, (2, 1)), (9, (4, 1, 7)), (5, (3, 3)))
    found = [tiny_tokens(lm, f"q{i}", steps, question=question) for i, (question, steps) in enumerate(shapes)]
    return [example_at(t, tiny_weights(t), input_steps, encoder_decoder=lm.encoder_decoder) for t in found]


@pytest.mark.parametrize("make", [lambda: tiny_llama(pad="eos"), tiny_t5], ids=["causal", "t5"])
def test_the_end_token_is_a_label_once_and_padding_never_even_where_both_are_one_token(make):
    lm = make()
    examples = mixed_batch(lm)
    batch = collate(examples, lm)
    trained = trained_positions(batch)
    assert ((batch["labels"] == END) & trained).sum(dim=1).tolist() == [1, 1, 1]
    assert [row[row != IGNORED][-1].item() for row in batch["labels"]] == [END] * 3
    assert trained.sum(dim=1).tolist() == [len(chosen.weights) for chosen in examples]
    lengths = [len(chosen.encoder_ids or chosen.token_ids[:-1]) for chosen in examples]
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert torch.all(batch["weights"][~trained] == 0)


@pytest.mark.parametrize("make", [lambda: tiny_llama(pad="eos"), tiny_llama, tiny_t5], ids=["eos", "causal", "t5"])
def test_padding_changes_nothing(make):
    lm = make()
    lm.model.double()
    examples = mixed_batch(lm)
    with torch.no_grad():
        together = logprobs(lm.model, collate(examples, lm))
        alone = [logprobs(lm.model, collate([chosen], lm)) for chosen in examples]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6, rtol=0)


@BOTH
def test_logprobs_are_those_of_a_plain_forward_pass(lm):
    batch = collate(mixed_batch(lm), lm)
    with torch.no_grad():
        found = logprobs(lm.model, batch)
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "weights")}
        table = lm.model(**inputs).logits.log_softmax(-1)
    wanted = [
        table[row, position, label].item()
        for row, labels in enumerate(batch["labels"].tolist())
        for position, label in enumerate(labels)
        if label != IGNORED
    ]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    assert torch.all(found <= 0)


class Successor(nn.Module):
    """Sure that every token is followed by the token of the next id, whatever stands before."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.head = nn.Linear(vocabulary, vocabulary, bias=False)
        nn.init.eye_(self.head.weight)

    def get_output_embeddings(self):
        return self.head

    def forward(self, decoder_input_ids=None, **inputs):
        read = inputs["input_ids"] if decoder_input_ids is None else decoder_input_ids
        sure = 50.0 * nn.functional.one_hot(read + 1, self.head.in_features).float()
        return type("Output", (), {"logits": self.head(sure)})


@pytest.mark.parametrize("encoder_decoder", [False, True], ids=["causal", "t5"])
@pytest.mark.parametrize("input_steps", [0, 1, 2])
def test_a_planted_model_is_right_about_every_label_so_nothing_is_shifted_twice(encoder_decoder, input_steps):
    start = 20 if encoder_decoder else None
    lm = LanguageModel(Successor(40), CAUSAL.tokenizer, pad_id=0, end_id=29, decoder_start_id=start)
    spans = tuple((number, number + 1) for number in range(4))
    rising = TokenizedRationale("q1", tuple(range(18, 29)), (3, 7, 8, 9, 11), (1, 4), spans)
    chosen = example_at(
        rising, np.ones(4, dtype=np.float32), input_steps, encoder_decoder=encoder_decoder, given="decoder"
    )
    found = logprobs(lm.model, collate([chosen], lm))
    assert len(found) == 8 - (0, 1, 4)[input_steps]
    assert torch.allclose(found, torch.zeros(len(found)), atol=1e-6)


# --- models ----------------------------------------------------------------------------------------


@BOTH
def test_adapters_start_as_nothing_train_alone_and_keep_the_shift(lm):
    batch = collate(mixed_batch(lm), lm)
    before = logprobs(lm.model, batch)
    adapted = with_lora((tiny_t5 if lm.encoder_decoder else tiny_llama)().model, LoraConfig(rank=2, alpha=4))
    after = logprobs(adapted.eval(), batch)
    assert torch.allclose(before, after, atol=1e-5)
    after.sum().backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


def test_a_texts_embedding_is_the_mean_of_its_tokens():
    table = CAUSAL.model.get_input_embeddings().weight
    found = mean_input_embeddings(CAUSAL, [(5, 7), (9,)])
    assert torch.allclose(found[0], (table[5] + table[7]) / 2)
    assert torch.equal(found[1], table[9])
    assert not found.requires_grad


def test_evaluation_ends_where_it_began_even_after_an_error():
    lm = tiny_llama(dropout=0.5)
    lm.model.train()
    with evaluating(lm.model):
        assert not lm.model.training
        assert not torch.is_grad_enabled()
    with pytest.raises(KeyError), evaluating(lm.model):
        raise KeyError
    assert lm.model.training
    assert torch.is_grad_enabled()


@BOTH
def test_a_saved_model_is_loaded_with_its_layout(lm, tmp_path):
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert not loaded.model.training
    layout = (loaded.pad_id, loaded.end_id, loaded.decoder_start_id, loaded.context)
    assert layout == (lm.pad_id, lm.end_id, lm.decoder_start_id, lm.context)
    batch = collate(mixed_batch(lm), lm)
    on_device = {key: value.to(loaded.device) for key, value in batch.items()}
    assert torch.allclose(logprobs(loaded.model, on_device).cpu(), logprobs(lm.model, batch), atol=1e-5)
    assert load_model(str(tmp_path), "bf16").model.dtype == torch.bfloat16


def test_a_model_that_is_not_there_is_a_wrong_recipe(tmp_path):
    with pytest.raises(ConfigError, match="'no/such' cannot be loaded"):
        load_model(str(tmp_path / "no/such").removeprefix(f"{tmp_path}/"))


def test_a_student_needs_an_end_token_and_a_start_token():
    endless = tiny_llama().tokenizer
    endless.eos_token = None
    with pytest.raises(ConfigError, match="no eos_token"):
        LanguageModel.of(CAUSAL.model, endless)
    config = T5Config(vocab_size=259, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ConfigError, match="no decoder_start_token_id"):
        LanguageModel.of(T5ForConditionalGeneration(config), T5.tokenizer)


def test_the_context_is_the_models_and_relative_positions_have_none():
    assert CAUSAL.context == 1024
    assert T5.context is None


def test_batches_are_integers_and_weights_single_precision():
    batch = collate(mixed_batch(CAUSAL), CAUSAL)
    assert {batch[key].dtype for key in ("input_ids", "labels", "attention_mask")} == {torch.int64}
    assert batch["weights"].dtype == torch.float32
    assert torch.equal(batch["attention_mask"][0, -1:], tensor([0]))
