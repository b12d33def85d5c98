"""Mask learning: exact answers after prefixes, laws of masks, and weights that find planted keypoints."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kpod.lm.encoding import project_spans
from kpod.lm.models import LanguageModel, merged
from kpod.recipe import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.records.errors import ConfigError, DataError, WeightingError
from kpod.weighting import learn_weights, uniform_weights
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import balanced_masks, draw_batches, draw_prefixes
from kpod.weighting.module import WeightGenerator, compute_weights
from kpod.weighting.objective import keypoint_objective
from kpod.weighting.predictor import observe, warm_up, with_adapters
from kpod.weighting.prefixes import Predictor
from tiers import tiered
from tiny import BRIEF, generator_of, int32, tiny_llama, tiny_t5, tiny_tokens, tiny_tokens_of


def masked(tokens: TokenizedRationale, prefixes: tuple[int, ...], seed: int = 0) -> MaskedRationale:
    keep = torch.from_numpy(np.random.default_rng(seed).random(tokens.num_tokens) < 0.6)
    return MaskedRationale(tokens, keep, prefixes)


def alone(predictor: Predictor, row: MaskedRationale, prefix: int) -> float:
    """The answer's NLL after one prefix by a plain causal pass over question, prefix, closing and answer."""
    lm, tokens = predictor.lm, row.tokens
    written = tokens.ids("closing") + tokens.ids("answer")
    embedded = torch.cat([predictor.embed(row, prefix), predictor.embedding(torch.tensor(written))])
    answer = tokens.ids("answer")
    logits = lm.model(inputs_embeds=embedded[None]).logits[0, -len(answer) - 1 : -1]
    return -logits.log_softmax(dim=-1)[range(len(answer)), list(answer)].sum().item()


LLAMA = tiny_llama()


# -- all prefixes in one pass (Eq. 5) ------------------------------------------------------------------


@pytest.mark.parametrize("closing", [0, 2])
def test_one_pass_over_all_prefixes_equals_separate_passes(closing: int) -> None:
    predictor = Predictor(tiny_llama())
    rows = [
        masked(tiny_tokens(predictor.lm, "a", (4, 3), closing=closing, answer=3), (7, 1, 4, 6)),
        masked(tiny_tokens(predictor.lm, "b", (2, 1), closing=closing, answer=1, question=9), (3, 1, 2, 2), seed=1),
    ]
    if closing == 0:  # two copies of one prefix would be predicted by the same token
        rows[1] = replace(rows[1], prefixes=(3, 1, 2))
        rows[0] = replace(rows[0], prefixes=(7, 1, 4))
    with torch.no_grad():
        found = predictor(rows)
        expected = [[alone(predictor, row, prefix) for prefix in row.prefixes] for row in rows]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("closing", [0, 2])
def test_several_masks_of_one_rationale_read_the_question_once(closing: int) -> None:
    predictor = Predictor(tiny_llama())
    tokens = tiny_tokens(predictor.lm, "a", (4, 3), closing=closing, answer=3)
    rows = [masked(tokens, (7, 1, 4), seed=seed) for seed in range(3)]
    apart = torch.cat([predictor([row]) for row in rows]).detach()
    read: list[tuple[int, int]] = []
    strides: list[int] = []
    decoder = predictor.lm.model.get_decoder()  # type: ignore[operator]
    decoder.register_forward_pre_hook(
        lambda _, __, kwargs: strides.extend(
            [kwargs["attention_mask"].stride(0)] if kwargs.get("attention_mask") is not None else []
        ),
        with_kwargs=True,
    )
    decoder.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    with torch.no_grad():
        together = predictor(rows)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    question = tokens.segment_stops[0]
    assert read == [(1, question), (3, 7 + 3 * (closing + 3))]
    assert strides == [0]  # and share one attention mask


def test_the_rationale_is_written_in_the_same_pass() -> None:
    """The NLL of its own tokens by a plain causal pass over question and masked rationale; the answers stay theirs."""
    predictor = Predictor(tiny_llama())
    rows = [
        masked(tiny_tokens(predictor.lm, "a", (4, 3)), (7, 4)),
        masked(tiny_tokens(predictor.lm, "b", (2, 1), question=9), (3, 2), seed=1),
    ]
    with torch.no_grad():
        answers, found = predictor.write(rows)
        expected = []
        for row in rows:
            ids, start = row.tokens.ids("rationale"), row.tokens.segment_stops[0] - 1
            logits = predictor.lm.model(inputs_embeds=predictor.embed(row, len(ids))[None]).logits[0]
            chances = logits.log_softmax(dim=-1)[start : start + len(ids)]
            expected.append(-chances[range(len(ids)), list(ids)].sum())
        torch.testing.assert_close(answers, predictor(rows), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-5)


def test_an_encoder_decoder_predictor_writes_no_rationale() -> None:
    predictor = Predictor(tiny_t5())
    row = masked(tiny_tokens(predictor.lm), (7, 2))
    answers, rationale = predictor.write([row])
    torch.testing.assert_close(answers, predictor([row]))
    assert rationale is None


def test_equal_prefixes_without_words_before_the_answer_are_refused() -> None:
    row = masked(tiny_tokens(LLAMA, closing=0), (7, 3, 3))
    with pytest.raises(WeightingError, match=r"'q0' has fewer tokens than weighting\.prefixes.*closing"):
        Predictor(LLAMA)([row])


def test_an_encoder_decoder_predictor_gets_one_encoder_input_per_prefix() -> None:
    predictor = Predictor(tiny_t5())
    rows = [
        masked(tiny_tokens(predictor.lm, "a"), (7, 2)),
        masked(tiny_tokens(predictor.lm, "b", (2,)), (2, 1), seed=1),
    ]
    with torch.no_grad():
        together = predictor(rows)
        apart = torch.cat([predictor([replace(row, prefixes=(p,))]) for row in rows for p in row.prefixes])
    torch.testing.assert_close(together, apart.view(2, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_a_prefix_sees_neither_later_tokens_nor_masked_ones(make: object) -> None:
    lm: LanguageModel = make()  # type: ignore[operator]
    predictor, tokens = Predictor(lm), tiny_tokens(lm)
    first = tokens.segment_stops[0]
    keep = torch.tensor([True, False, True, True, True, True, True])
    changed = list(tokens.token_ids)
    changed[first + 1] = (changed[first + 1] + 1) % 256  # masked
    changed[first + 5] = (changed[first + 5] + 1) % 256  # behind the prefix of 4
    other = replace(tokens, token_ids=int32(changed))
    with torch.no_grad():
        one, two = (predictor([MaskedRationale(t, keep, (7, 4))])[0] for t in (tokens, other))
    assert one[1].item() == pytest.approx(two[1].item(), abs=1e-6)
    assert one[0].item() != pytest.approx(two[0].item(), abs=1e-6)


def test_only_the_answers_own_tokens_are_scored() -> None:
    """With a head that gives every token the same chance, the NLL is (answer tokens) x log(vocabulary)."""
    lm = tiny_llama()
    nn.init.zeros_(lm.model.get_output_embeddings().weight)  # type: ignore[operator]
    row = masked(tiny_tokens(lm, answer=3, closing=5), (7, 2))
    with torch.no_grad():
        found = Predictor(lm)([row])
    torch.testing.assert_close(found, torch.full((1, 2), 3 * np.log(259), dtype=torch.float32), atol=1e-5, rtol=1e-6)


def test_the_mask_vector_starts_at_the_mean_embedding_and_is_learnt() -> None:
    predictor = Predictor(tiny_llama())
    table = predictor.embedding.weight
    torch.testing.assert_close(predictor.mask_vector.data, table.data.mean(dim=0))  # type: ignore[operator]
    predictor([masked(tiny_tokens(predictor.lm), (7, 3))]).sum().backward()
    assert predictor.mask_vector.grad is not None
    assert predictor.mask_vector.grad.abs().sum() > 0


# -- masks and prefixes ----------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 99), st.data())
def test_prefixes_are_the_whole_the_one_before_the_answer_and_others(
    num_tokens: int, num: int, seed: int, data: st.DataObject
) -> None:
    before_answer = data.draw(st.none() | st.integers(1, num_tokens - 1)) if num_tokens > 1 else None
    tokens = replace(tiny_tokens(tiny_llama(), steps=(num_tokens,)), before_answer=before_answer)
    prefixes = draw_prefixes(tokens, num, np.random.default_rng(seed))
    assert len(prefixes) == num
    assert prefixes[0] == num_tokens
    assert num == 1 or before_answer is None or prefixes[1] == before_answer
    assert all(1 <= length <= num_tokens for length in prefixes)
    assert len(set(prefixes)) == min(num, num_tokens)


@given(st.integers(2, 60), st.integers(3, 8), st.integers(0, 99), st.data())
def test_a_prefix_before_the_first_statement_is_drawn_besides_the_one_that_ends_there(
    num_tokens: int, num: int, seed: int, data: st.DataObject
) -> None:
    """Wherever there is room for one: the statement is not within the first two tokens."""
    before_answer = data.draw(st.integers(1, num_tokens - 1))
    tokens = replace(tiny_tokens(tiny_llama(), steps=(num_tokens,)), before_answer=before_answer)
    prefixes = draw_prefixes(tokens, num, np.random.default_rng(seed))
    assert any(length < before_answer for length in prefixes[2:]) == (before_answer > 1)


def test_prefixes_of_a_long_rationale_are_spread_over_it() -> None:
    """Of 4000 tokens, with 5 prefixes and no answer: the whole, and one from each thousand."""
    tokens = tiny_tokens(tiny_llama(), steps=(4000,))
    _, *others = draw_prefixes(tokens, 5, np.random.default_rng(0))
    assert [length // 1000 for length in others] == [0, 1, 2, 3]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(2, 12), st.integers(0, 99))
def test_copies_of_a_token_are_kept_or_hidden_together_as_often_as_its_chance_says(
    ids: list[int], num: int, seed: int
) -> None:
    """Rounded up or down; the chance is that of the first copy."""
    rng = np.random.default_rng(seed)
    chances = rng.random(len(ids)).astype(np.float32)
    masks = balanced_masks(tiny_tokens_of(LLAMA, ids), chances, num, rng)
    assert masks.shape == (num, len(ids))
    for token in set(ids):
        places = [place for place, other in enumerate(ids) if other == token]
        assert torch.equal(masks[:, places], masks[:, places[:1]].expand(-1, len(places)))
        wanted = num * chances[places[0]]
        assert masks[:, places[0]].sum().item() in (np.floor(wanted), np.ceil(wanted))


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.37, 0.6, 1.0])
def test_masks_keep_a_token_as_often_as_its_chance_says_on_average(chance: float) -> None:
    """Of 7 masks: 0.37 of them is between 2 and 3. Each mask by itself, and tokens independently of each other."""
    rng, tokens = np.random.default_rng(0), tiny_tokens_of(LLAMA, range(200))
    chances = np.full(200, chance, dtype=np.float32)
    masks = torch.stack([balanced_masks(tokens, chances, 7, rng) for _ in range(10)]).double()
    assert masks.mean().item() == pytest.approx(chance, abs=0.01)
    assert masks.mean(dim=(0, 2)).numpy() == pytest.approx(np.full(7, chance), abs=0.05)
    assert (masks[:, :, :100] * masks[:, :, 100:]).mean().item() == pytest.approx(chance**2, abs=0.03)


# -- effects, weights and objective (Eq. 3, 6, 7) --------------------------------------------------------


def test_a_token_worth_exactly_its_price_weighs_one_half() -> None:
    """n = 7 and alpha = 0.5: a token costs 1/14 nat in L_k. One worth 2 softnesses more weighs 1 / (1 + exp(-2))."""
    lm = tiny_llama()
    generator = generator_of(lm)
    nn.init.zeros_(generator.mlp[-1].weight)  # type: ignore[arg-type]
    generator.intercept.fill_(0.5 / 7)
    assert compute_weights(generator, [tiny_tokens(lm)])["q0"].tolist() == pytest.approx([0.5] * 7)
    generator.softness.fill_(0.1)
    generator.intercept.fill_(0.5 / 7 + 0.2)
    assert compute_weights(generator, [tiny_tokens(lm)])["q0"].tolist() == pytest.approx([0.8807971] * 7)


def test_a_held_price_is_the_same_for_rationales_of_any_length() -> None:
    """One worth a softness more than the price weighs 1 / (1 + exp(-1)), whatever alpha is."""
    lm = tiny_llama()
    tokens = [tiny_tokens(lm, "short", steps=(3,)), tiny_tokens(lm, "long", steps=(4, 5))]
    for alpha in (0.5, 50.0):
        generator = WeightGenerator(lm.model.get_input_embeddings().weight, alpha, held=True)  # type: ignore[operator]
        generator.intercept.fill_(0.7)
        generator.price.fill_(0.4)
        generator.softness.fill_(0.3)
        for weights in compute_weights(generator, tokens).values():
            assert weights.tolist() == pytest.approx([0.7310586] * len(weights))


MASKS = "weighting.masks is {}; it must be at least 2"
RATE = "weighting.kept_rate is {}; it must be {}above 0 and below 1, or null"
SPREAD = "weighting.spread is {}; it must be above 0 and below {}, at which every weight is 0 or 1 (kept_rate is {})"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kept_rate": 1.0}, RATE.format(1.0, "")),
        ({"kept_rate": 0.0}, RATE.format(0.0, "")),
        ({"kept_rate": -0.2}, RATE.format(-0.2, "")),
        ({"kept_rate": float("nan")}, RATE.format("nan", "a number ")),
        ({"spread": 0.0}, SPREAD.format(0.0, 0.49, 0.6)),
        ({"spread": -0.1}, SPREAD.format(-0.1, 0.49, 0.6)),
        ({"spread": float("nan")}, "weighting.spread is nan; it must be a number above 0 and below 0.5"),
        ({"spread": 0.5}, SPREAD.format(0.5, 0.49, 0.6)),
        ({"spread": 0.25, "kept_rate": 0.05}, SPREAD.format(0.25, 0.218, 0.05)),
        ({"spread": 0.5, "kept_rate": None}, SPREAD.format(0.5, 0.5, None)),
        ({"masks": 1}, MASKS.format(1)),
        ({"masks": 0}, MASKS.format(0)),
        ({"observations": 0}, "weighting.observations is 0; it must be a positive number"),
    ],
)
def test_values_that_cannot_be_are_refused_with_their_limits(keys: dict[str, float | None], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        WeightingConfig(**keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keys",
    [{"kept_rate": 0.5, "spread": 0.499}, {"kept_rate": None, "spread": 0.499}, {"kept_rate": 0.9}, {"masks": 2}],
)
def test_values_up_to_their_limits_are_taken(keys: dict[str, float | None]) -> None:
    assert WeightingConfig(**keys)  # type: ignore[arg-type]


def test_a_dearer_mask_loss_lowers_every_weight() -> None:
    lm = tiny_llama()
    low, high = (compute_weights(generator_of(lm, alpha), [tiny_tokens(lm)])["q0"] for alpha in (0.5, 5.0))
    assert np.all(high < low)


def test_the_objective_by_hand() -> None:
    """L_p = (2 + 4) / 2 = 3; L_m keeps 1 of 4 tokens: L_k = 3 + 0.5 / 4."""
    assert keypoint_objective(torch.tensor([[2.0, 4.0]]), torch.tensor([0.25]), 0.5).item() == pytest.approx(3.125)


# -- the whole of it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", tiered([tiny_llama, tiny_t5], [tiny_t5]))
def test_learning_is_a_function_of_its_seed(make: object) -> None:
    config = replace(BRIEF, observations=8)
    first, again, other = (
        learn_weights(lm, [tiny_tokens(lm, f"q{n}", (3, 2 + n)) for n in range(3)], config, seed)
        for lm, seed in ((make(), 0), (make(), 0), (make(), 1))  # type: ignore[operator]
    )
    for key, weights in first.weights.items():
        assert weights.tolist() == again.weights[key].tolist()
        assert np.all((weights > 0) & (weights < 1))
    assert any(w.tolist() != other.weights[key].tolist() for key, w in first.weights.items())
    assert len(first.warmup_nll) == 3
    assert set(first.objective) == {"learnt", "random", "all"}


@pytest.mark.slow
def test_a_predictor_in_bf16_answers_nearly_as_in_float32() -> None:
    lm, half = tiny_llama(), tiny_llama()
    half.model.bfloat16()
    tokens, rng = tiny_tokens(lm), np.random.default_rng(0)
    keep = balanced_masks(tokens, np.full(7, 0.5, dtype=np.float32), 4, rng)
    fine, coarse = (observe(with_adapters(one, BRIEF).frozen(merged), tokens, keep, (7, 3)) for one in (lm, half))
    torch.testing.assert_close(coarse.answer_nll, fine.answer_nll, atol=0.1, rtol=0.02)
    learnt = learn_weights(half, [tiny_tokens(half, f"q{n}", (3, 2 + n)) for n in range(3)], BRIEF, 0)
    assert all(np.isfinite(weights).all() for weights in learnt.weights.values())


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_long_rationales_are_learnt_from_in_several_passes(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same warm-up and the same observation whether rows go through at once or one by one."""
    found = []
    for limit in (4096, 1):
        monkeypatch.setattr("kpod.lm.buckets.TOKENS_PER_PASS", limit)
        lm, rng = make(), np.random.default_rng(0)  # type: ignore[operator]
        torch.manual_seed(0)
        tokens = [tiny_tokens(lm, f"q{n}", (3, 2 + n)) for n in range(3)]
        predictor = with_adapters(lm, BRIEF)
        nll = list(warm_up(predictor, tokens, BRIEF, rng))
        keep = balanced_masks(tokens[0], np.full(5, 0.5, dtype=np.float32), 4, rng)
        found.append((torch.tensor(nll), observe(predictor.frozen(merged), tokens[0], keep, (5, 2)).answer_nll))
    torch.testing.assert_close(*found, atol=2e-3, rtol=2e-3)


def test_weights_do_not_depend_on_the_batch() -> None:
    lm = tiny_llama()
    generator = generator_of(lm)
    generator.softness.fill_(0.01)
    tokens = [tiny_tokens(lm, f"q{n}", (1 + 3 * n,)) for n in range(4)]
    together, apart = compute_weights(generator, tokens), compute_weights(generator, tokens, batch_size=1)
    for key in together:
        np.testing.assert_allclose(together[key], apart[key], atol=1e-6)


def test_every_rationale_comes_once_before_any_comes_again() -> None:
    tokens = [tiny_tokens(tiny_llama(), f"q{n}") for n in range(5)]
    batches = draw_batches(tokens, 3, np.random.default_rng(0))
    seen = [r.id for _ in range(5) for r in next(batches)]
    assert all(sorted(seen[a:b]) == [f"q{n}" for n in range(5)] for a, b in pairwise((0, 5, 10, 15)))


def test_a_predictor_that_is_not_finite_stops_the_run_and_names_the_rationales() -> None:
    lm = tiny_llama()
    nn.init.constant_(lm.model.get_output_embeddings().weight, float("nan"))  # type: ignore[operator]
    with pytest.raises(WeightingError, match=r"update 1: the NLL is nan on 'q0'.*learning_rate"):
        learn_weights(lm, [tiny_tokens(lm)], BRIEF, 0)


def test_a_predictor_that_learnt_nothing_is_told_by_its_collapsed_weights(caplog: pytest.LogCaptureFixture) -> None:
    """It gives every answer the same chance, so that masks do nothing: no token is told from another."""
    lm = tiny_llama()
    nn.init.zeros_(lm.model.get_output_embeddings().weight)  # type: ignore[operator]
    for parameter in lm.model.parameters():
        parameter.data.zero_()
    learnt = learn_weights(lm, [tiny_tokens(lm, f"q{n}") for n in range(3)], BRIEF, 0)
    assert re.match(r"the weights collapsed: mean 0\.600, .*raise weighting.warmup_updates", learnt.verdict.refusal)
    assert "say nothing sure about what masks do" in caplog.text


def test_mean_and_spread_of_learnt_weights_are_held() -> None:
    lm = tiny_llama()
    tokens = [tiny_tokens(lm, f"q{n}", (9, 2 + n)) for n in range(4)]
    learnt = learn_weights(lm, tokens, replace(BRIEF, kept_rate=0.4, spread=0.3), 0)
    weights = np.concatenate(list(learnt.weights.values()))
    assert weights.mean() == pytest.approx(0.4, abs=1e-3)
    assert weights.std() == pytest.approx(0.3, abs=1e-3)
    assert set(learnt.facts) == {"penalty", "epochs", "explained", "surety"}
    assert [one.observed for one in learnt.rounds] == [8, 16, 24][: len(learnt.rounds)]


# -- weights that need no learning ---------------------------------------------------------------------


def test_given_spans_become_token_weights() -> None:
    tokens = tiny_tokens(tiny_llama(), steps=(2, 2))
    assert project_spans([(0, 1, 0.25), (2, 4, 1.0)], tokens.char_spans).tolist() == [0.25, 0.0, 1.0, 1.0]


def test_uniform_weights_are_one() -> None:
    tokens = tiny_tokens(tiny_llama())
    assert uniform_weights([tokens])["q0"].tolist() == [1.0] * 7
    with pytest.raises(DataError):
        replace(tokens, step_stops=(3,))
