"""Examples, batches and the shift by one; loading models."""

import numpy as np
import pytest
import torch
from torch import nn, tensor
from transformers import AutoConfig, T5Config, T5ForConditionalGeneration

from kpod.lm.layout import layout_of
from kpod.lm.models import LanguageModel, evaluating, load_model, mean_input_embeddings, with_lora
from kpod.lm.sequences import IGNORED, beginning_at, collate, example_at, logprobs, trained_positions
from kpod.recipe import LoraConfig
from kpod.records import TokenizedRationale
from kpod.records.errors import ConfigError, DataError
from tiny import END, PAD, byte_tokenizer, int32, tiny_llama, tiny_t5, tiny_tokens, tiny_weights

CAUSAL, T5 = tiny_llama(), tiny_t5()
BOTH = pytest.mark.parametrize("lm", [CAUSAL, T5], ids=["causal", "t5"])


# --- examples and batches --------------------------------------------------------------------------


def counted(encoder_decoder: bool) -> TokenizedRationale:
    """Question 11 12 13 (an encoder's ends in 19), steps 1 2 | 3, closing 4, answer 5, end 9."""
    asked = (11, 12, 19) if encoder_decoder else (11, 12, 13)
    ids, spans = int32([*asked, 1, 2, 3, 4, 5, 9]), int32([(0, 1), (1, 2), (2, 3)])
    return TokenizedRationale("q1", ids, (3, 6, 7, 8, 9), (2, 3), spans)


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
    lm = LanguageModel(model=Successor(40), tokenizer=CAUSAL.tokenizer, pad_id=0, end_id=29, decoder_start_id=start)
    spans = tuple((number, number + 1) for number in range(4))
    rising = TokenizedRationale("q1", int32(range(18, 29)), (3, 7, 8, 9, 11), (1, 4), int32(spans))
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


@pytest.mark.parametrize(
    ("left_out", "target", "weights"),
    [(0, (1, 2, 3, 4, 5, 9), [0.25, 0.5, 0.75, 1, 1, 1]), (1, (1, 2), [0.25, 0.5]), (2, (1, 2), [0.25, 0.5])],
)
def test_the_start_of_a_rationale_by_hand(left_out, target, weights):
    causal = beginning_at(counted(False), HALVES, left_out, encoder_decoder=False)
    assert (causal.token_ids, causal.first_trained) == ((11, 12, 13, *target), 3)
    t5 = beginning_at(counted(True), HALVES, left_out, encoder_decoder=True)
    assert (t5.encoder_ids, t5.token_ids, t5.first_trained) == ((11, 12, 19), target, 0)
    assert causal.weights.tolist() == t5.weights.tolist() == weights


@pytest.mark.parametrize(
    ("kind", "values", "context"),
    [
        ("llama", {"max_position_embeddings": 70}, 70),
        ("gpt2", {"n_positions": 70}, 70),
        ("mpt", {"max_seq_len": 70}, 70),
        ("led", {"max_encoder_position_embeddings": 90, "max_decoder_position_embeddings": 70}, 70),
        ("bloom", {"seq_length": 70}, None),
        ("t5", {"n_positions": 70}, None),
    ],
)
def test_the_context_is_what_positions_reach_to_by_whatever_key(kind, values, context):
    config = AutoConfig.for_model(kind, decoder_start_token_id=PAD, **values)
    assert layout_of(byte_tokenizer(), config).context == context
