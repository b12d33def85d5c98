"""The loss without logits: the same numbers and gradients as by way of them, chunk by chunk."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kpod.lm import head
from kpod.lm.head import NUM_PROVEN, chunked_logprobs, has_linear_head, predictions_of
from kpod.lm.models import LanguageModel
from kpod.lm.sequences import collate, example_at, inputs_of, logprobs, trained_positions
from tiny import VOCABULARY, byte_tokenizer, tiny_llama, tiny_t5, tiny_tokens
from zoo import build

SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def gemma():
    """Caps its logits."""
    torch.manual_seed(0)
    return LanguageModel.of(Gemma2ForCausalLM(Gemma2Config(**SIZES, **HEADS, head_dim=16)).eval(), byte_tokenizer())


def cohere():
    """Scales its logits."""
    torch.manual_seed(0)
    return LanguageModel.of(CohereForCausalLM(CohereConfig(**SIZES, **HEADS)).eval(), byte_tokenizer())


def qwen():
    torch.manual_seed(0)
    return LanguageModel.of(Qwen2ForCausalLM(Qwen2Config(**SIZES, **HEADS)).eval(), byte_tokenizer())


def gpt2():
    """Positions are learnt, input and output embedding are one."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2, n_positions=512, eos_token_id=1)
    return LanguageModel.of(GPT2LMHeadModel(config).eval(), byte_tokenizer())


def bart():
    """Adds to its logits."""
    lm = build("bart")
    lm.model.final_logits_bias.normal_()
    return lm


def batch_of(lm, seed=0):
    rng = torch.Generator().manual_seed(seed)
    examples = []
    for number, steps in enumerate([(2, 3), (4,), (1, 2, 2)]):
        tokens = tiny_tokens(lm, f"q{number}", steps)
        weights = torch.rand(tokens.num_tokens, generator=rng).numpy()
        examples.append(example_at(tokens, weights, number % 2, encoder_decoder=lm.encoder_decoder))
    return collate(examples, lm)


def weighted_nll(model, batch, coefficients):
    """The chunked loss of the labels, and their log P."""
    labels = batch["labels"][trained_positions(batch)]
    loss, found = predictions_of(model, batch, linear_head=True).weighted_nll(labels[:, None], coefficients[:, None])
    return loss, found[:, 0]


def gradients(lm, loss):
    lm.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", [tiny_llama, qwen, gpt2, tiny_t5])
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_loss_and_gradients_are_those_of_the_logits_however_they_are_cut(make, rows, monkeypatch):
    monkeypatch.setattr(head, "LOGITS_PER_CHUNK", {"cpu": rows * VOCABULARY})
    lm = make()
    batch = batch_of(lm)
    assert has_linear_head(lm.model, batch)
    coefficients = torch.rand(int((batch["labels"] != -100).sum()), generator=torch.Generator().manual_seed(1))
    loss, found = weighted_nll(lm.model, batch, coefficients)
    expected = logprobs(lm.model, batch)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not found.requires_grad
    direct = -(coefficients @ expected)
    assert loss.item() == pytest.approx(direct.item(), rel=1e-6)
    here, there = gradients(lm, 3 * loss), gradients(lm, 3 * direct)
    assert here.keys() == there.keys()
    for name, gradient in there.items():
        assert (here[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), name


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 7), st.integers(2, 9), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_the_gradients_are_those_of_autograd_however_many_targets(rows, vocabulary, num_targets, biased, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, weight = draw(rows, 3).requires_grad_(), draw(vocabulary, 3).requires_grad_()
    bias = draw(vocabulary).requires_grad_() if biased else None
    targets = torch.randint(vocabulary, (rows, num_targets), generator=generator)
    coefficients = draw(rows, num_targets).float()
    found, _ = head._ChunkedNll.apply(hidden, weight, bias, targets, coefficients, torch.float64, True)
    found.backward()
    logits = nn.functional.linear(hidden, weight, bias)
    expected = -(coefficients.double() * logits.log_softmax(1).gather(1, targets)).sum()
    for parameter in (hidden, weight, *([bias] if biased else [])):
        (gradient,) = torch.autograd.grad(expected, parameter, retain_graph=True)
        assert torch.allclose(parameter.grad, gradient, atol=1e-5)


def test_no_logits_come_out_of_the_model():
    lm = tiny_llama()
    shapes = []
    handle = lm.model.get_output_embeddings().register_forward_hook(lambda _, __, logits: shapes.append(logits.shape))
    batch = batch_of(lm)
    weighted_nll(lm.model, batch, torch.ones(int((batch["labels"] != -100).sum())))
    handle.remove()
    assert [shape.numel() for shape in shapes] == [0]


@pytest.mark.parametrize("make", [gemma, cohere])
def test_a_model_that_caps_or_scales_its_logits_has_no_linear_head_and_does_so_itself(make):
    lm = make()
    batch = batch_of(lm)
    assert not has_linear_head(lm.model, batch)
    with torch.no_grad():
        table = lm.model(**inputs_of(batch)).logits.log_softmax(-1)
        found = logprobs(lm.model, batch)
    trained = batch["labels"] != -100
    expected = table[trained].gather(1, batch["labels"][trained][:, None])[:, 0]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("make", [tiny_llama, qwen, gpt2, tiny_t5, gemma, cohere, bart])
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_log_probabilities_by_chunks_are_those_of_all_logits(make, rows, monkeypatch):
    lm = make()
    vocabulary = len(lm.model.get_output_embeddings().weight)
    monkeypatch.setattr(head, "LOGITS_PER_CHUNK", {"cpu": rows * vocabulary})
    batch = batch_of(lm)
    expected = logprobs(lm.model, batch).detach()
    shapes = []
    handle = lm.model.get_output_embeddings().register_forward_hook(lambda _, __, logits: shapes.append(logits.shape))
    assert torch.allclose(chunked_logprobs(lm.model, batch), expected, atol=1e-5)
    handle.remove()
    assert max(shape.numel() for shape in shapes) <= rows * vocabulary
    assert sum(shape.numel() for shape in shapes) == len(expected) * vocabulary


def test_the_proof_of_a_linear_head_projects_few_positions():
    lm = tiny_llama()
    tokens = tiny_tokens(lm, steps=(400,))
    example = example_at(tokens, torch.ones(400).numpy(), 0, encoder_decoder=False)
    shapes = []
    lm.model.get_output_embeddings().register_forward_hook(lambda _, __, logits: shapes.append(logits.shape))
    assert has_linear_head(lm.model, collate([example], lm))
    assert shapes == [(1, NUM_PROVEN, VOCABULARY)]


def test_asking_leaves_the_random_numbers_alone():
    lm = tiny_llama(dropout=0.5)
    lm.model.train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    has_linear_head(lm.model, batch_of(lm))
    assert torch.equal(torch.rand(2), expected)


def test_without_gradients_there_are_none():
    lm = tiny_llama()
    batch = batch_of(lm)
    with torch.no_grad():
        loss, _ = weighted_nll(lm.model, batch, torch.ones(int((batch["labels"] != -100).sum())))
    assert not loss.requires_grad


def test_in_bf16_the_numbers_are_those_of_bf16():
    lm = tiny_llama()
    batch = batch_of(lm)
    coefficients = torch.full((int((batch["labels"] != -100).sum()),), 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, found = weighted_nll(lm.model, batch, coefficients)
        expected = logprobs(lm.model, batch)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)
    for name, gradient in gradients(lm, -(coefficients @ expected)).items():
        here = gradients(lm, weighted_nll_in_bf16(lm, batch, coefficients))[name]
        assert torch.allclose(here, gradient, rtol=0.05, atol=1e-3), name
    assert loss.item() == pytest.approx(-(coefficients @ expected).item(), rel=1e-5)


def weighted_nll_in_bf16(lm, batch, coefficients):
    with torch.autocast("cpu", torch.bfloat16):
        return weighted_nll(lm.model, batch, coefficients)[0]
