"""How a predictor is asked: proven on architectures that people use, in float32, leaving all else as it was."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kpod.lm.models import LanguageModel
from kpod.records import TokenizedRationale
from kpod.records.errors import WeightingError
from kpod.weighting import learn_weights
from kpod.weighting.layouts import MaskedRationale, passes_of
from kpod.weighting.masks import balanced_masks
from kpod.weighting.predictor import observe, warm_up, with_adapters
from kpod.weighting.prefixes import Predictor
from kpod.weighting.proof import Proof, embedding_factor, prove
from tiers import tiered
from tiny import BRIEF, tiny_llama, tiny_t5, tiny_tokens
from zoo import WINDOW, build, plain_nll

ONE_PASS = ["llama", "qwen3-moe", "gemma", "gpt2", "opt", "granite", "xglm"]
SEPARATE = [
    *("mistral-window", "gemma2", "gemma3", "gpt-oss", "cohere2", "llama4"),  # windows and chunks
    *("lfm2", "qwen3.5", "falcon-h1", "mamba2"),  # convolutions and recurrence
    *("bloom", "falcon-alibi", "mpt"),  # ALiBi
    *("t5", "umt5", "bart", "pegasus"),  # encoders
]
SCALED = {"gemma": 32**0.5, "xglm": 32**0.5, "mbart": 32**0.5, "pegasus": 32**0.5, "marian": 32**0.5, "falcon-h1": 3.0}
"""What each multiplies the rows of its embedding table by: in the embedding layer, or behind it."""


def long_and_short(lm: LanguageModel) -> list[TokenizedRationale]:
    return [
        tiny_tokens(lm, "long", (2 * WINDOW, 7), question=WINDOW, answer=3),
        tiny_tokens(lm, "short", (5,)),
    ]


def rows_of(tokens: Sequence[TokenizedRationale]) -> list[MaskedRationale]:
    """Each whole and masked, after its whole, half and first token."""
    rng = np.random.default_rng(0)
    return [
        MaskedRationale(one, keep, (one.num_tokens, one.num_tokens // 2, 1))
        for one in tokens
        for keep in (
            torch.ones(one.num_tokens, dtype=torch.bool),
            torch.from_numpy(rng.random(one.num_tokens) < 0.5),
        )
    ]


SLOW = ["granite", "xglm", "gemma3", "gpt-oss", "cohere2", "llama4", "qwen3.5", "falcon-h1"]
SLOW += ["falcon-alibi", "mpt", "umt5", "pegasus"]
"""Of each kind above some stay fast."""


@pytest.mark.parametrize("name", tiered([*ONE_PASS, *SEPARATE], SLOW))
def test_answers_are_those_of_plain_passes_on_every_architecture(name: str) -> None:
    lm = build(name)
    predictor, tokens = Predictor(lm), long_and_short(lm)
    assert prove(predictor, tokens, BRIEF, 0).one_pass == (name in ONE_PASS)
    rows = rows_of(tokens)
    with torch.no_grad():
        expected = [[plain_nll(predictor, row, prefix) for prefix in row.prefixes] for row in rows]
        found, (answers, _) = predictor(rows), predictor.write(rows)
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(answers, torch.tensor(expected), atol=1e-4, rtol=1e-5)
        shared = predictor(rows[:2])  # one rationale under two masks: the question is read once
    torch.testing.assert_close(shared, torch.tensor(expected[:2]), atol=1e-4, rtol=1e-5)


def test_a_window_that_no_sequence_of_the_run_fills_changes_nothing() -> None:
    """Question, rationale, closing and answer make WINDOW tokens, then one more and some; the others are shorter."""
    for length, fits in ((WINDOW - 10, True), (WINDOW, False)):
        lm = build("gpt-oss")
        tokens = [tiny_tokens(lm, "short", (2,)), tiny_tokens(lm, "long", (length,))]
        assert prove(Predictor(lm), tokens, BRIEF, 0).one_pass is fits


def test_the_fallback_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    lm = build("gpt-oss")
    found = prove(Predictor(lm), long_and_short(lm), BRIEF, 0)
    assert [record.message for record in caplog.records] == [
        f"weights: prefixes are answered one by one: {found.reason}"
    ]
    assert "in one pass the answer's NLL is off by" in found.reason
    assert found.difference is not None
    assert found.difference > 0.01
    caplog.clear()
    bloom = build("bloom")
    assert "one pass fails with" in prove(Predictor(bloom), long_and_short(bloom), BRIEF, 0).reason
    assert len(caplog.records) == 1
    caplog.clear()
    for lm in (tiny_llama(), tiny_t5()):
        assert not prove(Predictor(lm), long_and_short(lm), BRIEF, 0).reason
    assert not caplog.records


@pytest.mark.parametrize(("name", "fits"), [("llama", True), ("gpt-oss", False), ("pegasus", False)])
def test_it_is_proven_in_float32_and_the_precision_stays(name: str, fits: bool) -> None:
    lm = build(name)
    lm.model.bfloat16()
    lm.model.get_output_embeddings().float()  # type: ignore[operator]
    before = {key: tensor.clone() for key, tensor in lm.model.state_dict().items()}
    kinds: set[torch.dtype] = set()
    handle = lm.model.register_forward_hook(lambda _, __, output: kinds.add(output.logits.dtype))
    predictor = Predictor(lm)
    found = prove(predictor, long_and_short(lm), BRIEF, 0)
    handle.remove()
    assert kinds == {torch.float32}
    assert found.one_pass is fits
    assert fits is (found.difference is not None and found.difference < 1e-4)
    for key, tensor in lm.model.state_dict().items():
        assert tensor.dtype == before[key].dtype
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_random_numbers_dropout_and_modes_are_left_as_they_were(make: Any) -> None:
    lm = make(dropout=0.5)
    predictor = with_adapters(lm, BRIEF)
    predictor.train()
    predictor.embedding.eval()
    before = {name: module.training for name, module in predictor.named_modules()}
    trained = {name: parameter.requires_grad for name, parameter in predictor.named_parameters()}
    mask = predictor.mask_vector.detach().clone()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    prove(predictor, long_and_short(lm), BRIEF, 0)
    assert torch.equal(torch.rand(2), expected)
    assert {name: module.training for name, module in predictor.named_modules()} == before
    assert {name: parameter.requires_grad for name, parameter in predictor.named_parameters()} == trained
    assert torch.equal(predictor.mask_vector, mask)
    assert all(not module._forward_pre_hooks for module in predictor.modules())
    with torch.no_grad():
        rows = rows_of(long_and_short(lm))[:1]
        assert not torch.equal(predictor(rows), predictor(rows))  # dropout is at work again


def test_proving_changes_no_weight_of_a_model_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [tiny_tokens(tiny_llama(), f"q{n}", (3, 2 + n)) for n in range(3)]
    proven = learn_weights(tiny_llama(), tokens, BRIEF, 0)
    monkeypatch.setattr("kpod.weighting.learn.prove", lambda *_: Proof(one_pass=True))
    unproven = learn_weights(tiny_llama(), tokens, BRIEF, 0)
    assert proven.proof.one_pass
    assert proven.warmup_nll == unproven.warmup_nll
    for key, weights in proven.weights.items():
        assert weights.tobytes() == unproven.weights[key].tobytes()


@pytest.mark.parametrize("where", ["kpod.weighting.proof.in_float32", "kpod.weighting.proof._compare"])
def test_a_model_that_does_not_fit_in_float32_is_asked_one_by_one(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(where, no_memory)
    lm = build("falcon-h1")
    predictor = Predictor(lm)
    mean = predictor.mask_vector.detach().clone()
    found = prove(predictor, long_and_short(lm), BRIEF, 0)
    assert not found.one_pass
    assert "too little memory" in found.reason
    assert predictor.embedding_factor == pytest.approx(3, rel=1e-3)
    torch.testing.assert_close(predictor.mask_vector.detach(), 3 * mean, atol=1e-4, rtol=1e-3)


# -- embeddings, as the model reads them -----------------------------------------------------------------


@pytest.mark.parametrize("name", [*SCALED, "llama", "bart", "t5", "granite"])
def test_the_mask_vector_starts_at_the_mean_embedding_as_the_model_reads_it(name: str) -> None:
    """The model's first layer gets the same for a token id and for the embedding that the predictor gives it."""
    lm = build(name)
    predictor = Predictor(lm)
    prove(predictor, long_and_short(lm), BRIEF, 0)
    table = predictor.embedding.weight.detach()
    scale = SCALED.get(name, 1.0)
    torch.testing.assert_close(
        predictor.mask_vector.detach(), table.mean(dim=0) * scale, atol=1e-5, rtol=1e-4, check_dtype=False
    )
    given = predictor._embeddings([5, 6, 7]).detach()
    torch.testing.assert_close(given, table[[5, 6, 7]] * scale, atol=1e-5, rtol=1e-4)
    frozen = predictor.frozen(lambda model: model)
    torch.testing.assert_close(frozen.mask_vector, predictor.mask_vector)
    torch.testing.assert_close(frozen._embeddings([5, 6, 7]), given)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gemma4", "cannot read embeddings in place of token ids"),
        ("gemma3n", "does not read embeddings as it reads their token ids"),
    ],
)
def test_a_model_that_needs_token_ids_is_refused_before_anything_is_learnt(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpod.weighting.learn.warm_up", lambda *_: pytest.fail("paid for"))
    lm = build(name)
    with pytest.raises(WeightingError, match=rf"the predictor '.*' \({name}.*{words}.*weighting\.predictor"):
        learn_weights(lm, long_and_short(lm), BRIEF, 0)


def test_a_model_that_also_looks_at_the_ids_is_refused() -> None:
    """Its embeddings say only half: beside them it adds something for every id that it is given."""
    lm = tiny_llama()
    extra = nn.Embedding(259, 32)

    def add(_: nn.Module, __: object, kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]] | None:
        if kwargs.get("input_ids") is None:
            return None
        ids = kwargs.pop("input_ids")
        return (), {**kwargs, "inputs_embeds": lm.model.get_input_embeddings()(ids) + extra(ids)}  # type: ignore[operator]

    lm.model.get_decoder().register_forward_pre_hook(add, with_kwargs=True)  # type: ignore[operator]
    with pytest.raises(WeightingError, match=r"does not read embeddings as it reads their token ids.*nats"):
        prove(Predictor(lm), long_and_short(lm), BRIEF, 0)


def test_the_factor_is_one_where_nothing_is_scaled() -> None:
    with torch.no_grad():
        for lm in (tiny_llama(), tiny_t5()):
            assert embedding_factor(lm, long_and_short(lm)[0].token_ids) == 1


# -- separate prefixes within the token budget -------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt-oss", "bart"])
@pytest.mark.parametrize("limit", tiered([4096, 120, 1], [4096, 120]))
def test_separate_prefixes_go_through_in_passes_with_the_same_result(
    name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for budget in (10**9, limit):
        monkeypatch.setattr("kpod.lm.buckets.TOKENS_PER_PASS", budget)
        lm, rng = build(name), np.random.default_rng(0)
        torch.manual_seed(0)
        tokens = [tiny_tokens(lm, f"q{n}", (20 + n, 2)) for n in range(3)]
        predictor = with_adapters(lm, replace(BRIEF, warmup_updates=2))
        predictor.one_pass = False
        nll = torch.tensor(list(warm_up(predictor, tokens, replace(BRIEF, warmup_updates=2), rng)))
        frozen = predictor.frozen(lambda model: model)
        keep = balanced_masks(tokens[0], np.full(22, 0.5, dtype=np.float32), 4, rng)
        seen = observe(frozen, tokens[0], keep, (22, 9, 3))
        rows = [MaskedRationale(tokens[0], keep, (22, 9, 3)) for keep in seen.keep]
        with torch.no_grad():
            found.append((nll, seen.answer_nll, frozen(rows)))
    torch.testing.assert_close(*found, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(found[1][1], found[1][2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("steps", [(3,), (30, 10), (90,), (400,)])
def test_a_pass_holds_the_budget_or_one_sequence(
    one_pass: bool, steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpod.lm.buckets.TOKENS_PER_PASS", 200)
    tokens = tiny_tokens(tiny_llama(), steps=steps)
    num = tokens.num_tokens
    rows = [MaskedRationale(tokens, torch.ones(num), (num, num // 2, 1, 2)) for _ in range(5)]
    passes = passes_of(rows, one_pass=one_pass)
    assert [p for part in passes for row in part for p in row.prefixes] == [p for row in rows for p in row.prefixes]
    assert sum(row.writes for part in passes for row in part) == 5
    for part in passes:
        sizes = [row.length if one_pass else row.longest * len(row.prefixes) for row in part]
        assert len(part) * max(sizes) <= 200 or (len(part) == 1 and (one_pass or len(part[0].prefixes) == 1))


@pytest.mark.parametrize("name", tiered(["llama", "gpt-oss", "t5"], ["gpt-oss", "t5"]))
def test_no_pass_of_a_predictor_exceeds_the_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpod.lm.buckets.TOKENS_PER_PASS", 150)
    lm = build(name)
    sizes: list[int] = []

    def look(_: nn.Module, __: object, kwargs: dict[str, Any]) -> None:
        sizes.append(kwargs["inputs_embeds"].shape[:2].numel() if kwargs.get("inputs_embeds") is not None else 0)

    tokens = [tiny_tokens(lm, f"q{n}", (40 + n,)) for n in range(4)]
    lm.model.register_forward_pre_hook(look, with_kwargs=True)
    learn_weights(lm, tokens, replace(BRIEF, observations=4, masks=6, prefixes=4), 0)
    assert len(sizes) > 20
    assert max(sizes) <= 150


@pytest.mark.parametrize("estimator", ["gumbel", "regression"])
@pytest.mark.parametrize("name", tiered(["gpt-oss", "lfm2", "mpt", "bart"], ["gpt-oss", "mpt"]))
def test_every_estimator_learns_from_separate_prefixes(name: str, estimator: Any) -> None:
    lm = build(name)
    tokens = [tiny_tokens(lm, f"q{n}", (2 * WINDOW + n,)) for n in range(4)]
    config = replace(BRIEF, estimator=estimator, warmup_updates=1, observations=16, generator_learning_rate=3e-3)
    learnt = learn_weights(lm, tokens, config, 0)
    assert not learnt.proof.one_pass
    assert all(np.ptp(weights) > 0 for weights in learnt.weights.values())


@pytest.mark.slow
def test_rationales_shorter_than_their_prefixes_are_asked_one_by_one_where_no_words_precede_the_answer() -> None:
    """In one pass two equal prefixes would have the same token predict both answers."""
    lm = tiny_llama()
    tokens = [tiny_tokens(lm, f"q{n}", (2 + 9 * n,), closing=0) for n in range(3)]
    learnt = learn_weights(lm, tokens, BRIEF, 0)
    assert "'q0' has fewer tokens than weighting.prefixes" in learnt.proof.reason


@pytest.mark.parametrize("one_pass", [True, False])
def test_a_process_without_rows_makes_no_pass(one_pass: bool) -> None:
    """As where more processes share an update than it has rationales."""
    assert passes_of([], one_pass=one_pass) == []
