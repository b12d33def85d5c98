"""Batched greedy generation: the same texts as one by one, whatever the checkpoint's own settings."""

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from kpod.data.prompts import completion
from kpod.evaluation.generation import answer_questions
from kpod.lm.decoding import continue_greedily, continue_sampled
from kpod.lm.encoding import encode
from kpod.lm.models import LanguageModel, with_lora
from kpod.lm.sequences import collate, example_at, logprobs
from kpod.lm.student_prompts import prompt_ids
from kpod.recipe import EvaluationConfig, LoraConfig, PromptConfig
from kpod.records import Question, Rationale, TokenizedRationale
from kpod.records.errors import DataError
from tiers import tiered
from tiny import END, PAD, START, VOCABULARY, byte_tokenizer, tiny_llama, tiny_rationales, tiny_t5
from zoo import build

PROMPT = PromptConfig(question="Q: {question} A:", cot_prompt="", closing="The answer is {answer}")
QUESTIONS = [rationale.question for rationale in tiny_rationales()]


def tiny_bart() -> LanguageModel:
    """An encoder-decoder student with absolute positions, which padding on the wrong side would move."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        init_std=0.5,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=END,
    )
    return LanguageModel.of(BartForConditionalGeneration(config).eval(), byte_tokenizer(bos=True))


RANDOM = pytest.mark.parametrize(
    "lm",
    [tiny_llama(), tiny_llama(pad="eos", bos=True), tiny_t5(), tiny_bart()],
    ids=["causal", "eos", "t5", "bart"],
)
TAUGHT = {"2 + 2?": ("Four.", "4"), "Is a rose a plant that grows?": ("It is.", "yes")}


@pytest.fixture(scope="module", params=tiered([tiny_llama, tiny_t5], [tiny_t5]), ids=["causal", "t5"])
def taught(request) -> LanguageModel:
    """A student that knows two rationales by heart, taught through the package's own sequences and loss."""
    lm = request.param()
    examples = []
    for question, (text, answer) in TAUGHT.items():
        rationale = Rationale(question, Question(question, question, answer), text)
        tokens = encode(lm, rationale, [(0, len(text))], PROMPT, 1000)
        assert isinstance(tokens, TokenizedRationale)
        ones = np.ones(tokens.num_tokens, dtype=np.float32)
        examples.append(example_at(tokens, ones, 0, encoder_decoder=lm.encoder_decoder))
    batch = collate(examples, lm)
    optimiser = torch.optim.Adam(lm.model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = -logprobs(lm.model, batch).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.05:
            break
    return lm


def test_what_a_student_was_taught_it_writes_and_ends(taught):
    questions = [Question(question, question, answer) for question, (_, answer) in TAUGHT.items()]
    predictions = answer_questions(taught, questions, PROMPT, EvaluationConfig(max_new_tokens=80))
    assert [p.text for p in predictions] == [completion(*known, PROMPT).text for known in TAUGHT.values()]
    assert [p.id for p in predictions] == list(TAUGHT)
    assert [p.answer for p in predictions] == ["4", "yes"]
    assert all(p.correct and p.finished for p in predictions)


def test_a_text_is_finished_only_if_its_end_token_came_in_time(taught):
    question = Question("q1", "2 + 2?", "4")
    needed = len(completion("Four.", "4", PROMPT, "" if taught.encoder_decoder else " ").text) + 1

    def asked(max_new_tokens: int):
        return answer_questions(taught, [question], PROMPT, EvaluationConfig(max_new_tokens=max_new_tokens))[0]

    assert asked(needed).finished
    assert not asked(needed - 1).finished
    assert asked(needed - 1).text == asked(needed).text


@RANDOM
def test_a_batch_writes_what_each_prompt_writes_alone(lm):
    lm.model.double()  # no near ties, so that rounding decides nothing
    prompts = [prompt_ids(lm, question, PROMPT) for question in QUESTIONS]
    assert len({len(ids) for ids in prompts}) > 3
    together = continue_greedily(lm, prompts, 12)
    assert together == [continue_greedily(lm, [ids], 12)[0] for ids in prompts]


@RANDOM
def test_predictions_come_in_the_order_of_the_questions_whatever_the_batch_size(lm):
    lm.model.double()
    found = [answer_questions(lm, QUESTIONS, PROMPT, EvaluationConfig(True, size, 8)) for size in (1, 4, 25)]
    assert found[0] == found[1] == found[2]
    assert [p.id for p in found[0]] == [question.id for question in QUESTIONS]
    assert [p.gold for p in found[0]] == [question.answer for question in QUESTIONS]


@RANDOM
def test_greedy_means_the_likeliest_token_at_every_place(lm):
    ids = prompt_ids(lm, QUESTIONS[0], PROMPT)
    found = continue_greedily(lm, [ids], 6)[0].token_ids
    for position, token in enumerate(found):
        if lm.encoder_decoder:
            read = {"decoder_input_ids": torch.tensor([[lm.decoder_start_id, *found[:position]]])}
            read["input_ids"] = torch.tensor([ids])
        else:
            read = {"input_ids": torch.tensor([[*ids, *found[:position]]])}
        with torch.no_grad():
            assert lm.model(**read).logits[0, -1].argmax().item() == token


def test_the_checkpoints_own_settings_change_nothing_and_stay_as_they_are(taught):
    wild = replace(taught, model=copy.deepcopy(taught.model))
    settings = wild.model.generation_config
    settings.update(do_sample=True, temperature=9.0, top_p=0.5, top_k=3, repetition_penalty=9.0, num_beams=3)
    settings.update(no_repeat_ngram_size=1, min_new_tokens=70, max_length=5, suppress_tokens=[END])
    before = settings.to_dict()
    heard: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = heard.append
    logging.getLogger("transformers").addHandler(listener)
    prompts = [prompt_ids(taught, Question(key, key, "4"), PROMPT) for key in TAUGHT]
    found = continue_greedily(wild, prompts, 80)
    logging.getLogger("transformers").removeHandler(listener)
    assert found == continue_greedily(taught, prompts, 80)
    assert all(continuation.finished for continuation in found)
    assert wild.model.generation_config is settings
    assert settings.to_dict() == before
    assert [record.getMessage() for record in heard] == []


def test_a_models_further_end_tokens_end_a_text_too(taught):
    ids = prompt_ids(taught, Question("q1", "2 + 2?", "4"), PROMPT)
    stop = ord("r")  # "Four. ..." is broken off after "Fou"
    lm = replace(taught, model=copy.deepcopy(taught.model))
    lm.model.generation_config.eos_token_id = [END, byte_id(lm, stop)]
    found = continue_greedily(lm, [ids], 80)[0]
    assert found.finished
    assert lm.tokenizer.decode(list(found.token_ids)).strip() == "Fou"


def byte_id(lm: LanguageModel, byte: int) -> int:
    return lm.tokenizer(chr(byte), add_special_tokens=False).input_ids[0]


def test_a_student_in_training_writes_without_dropout_and_trains_on():
    lm = tiny_llama(dropout=0.5)
    prompts = [prompt_ids(lm, question, PROMPT) for question in QUESTIONS]
    calm = continue_greedily(lm, prompts, 8)
    lm.model.train()
    assert continue_greedily(lm, prompts, 8) == calm
    assert lm.model.training


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_adapters_take_part_and_the_wrapper_is_no_hindrance(make):
    plain = make()
    prompts = [prompt_ids(plain, question, PROMPT) for question in QUESTIONS]
    expected = continue_greedily(plain, prompts, 8)
    lm = replace(plain, model=with_lora(plain.model, LoraConfig(rank=2, alpha=4)))
    assert continue_greedily(lm, prompts, 8) == expected
    for name, parameter in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data)
    assert continue_greedily(lm, prompts, 8) != expected


def test_an_encoders_prompt_has_the_special_tokens_that_its_tokenizer_sets():
    for lm, start in ((tiny_bart(), [START]), (tiny_t5(), [])):
        ids = prompt_ids(lm, QUESTIONS[5], PROMPT)
        assert list(ids) == [*start, *lm.tokenizer("Q: Is 7 even? A:", add_special_tokens=False).input_ids, END]


def test_a_prompt_without_room_is_told_before_anything_is_generated():
    lm = replace(tiny_llama(), context=100)
    lm.model.forward = None
    long = Question("long", "Why? " * 20, "4")
    with pytest.raises(DataError, match=r"'long': a prompt of \d+ tokens .* context of 100"):
        answer_questions(lm, [QUESTIONS[5], long], PROMPT, EvaluationConfig(max_new_tokens=8))
    with pytest.raises(DataError, match=r"lower evaluation\.max_new_tokens"):
        answer_questions(lm, [QUESTIONS[5]], PROMPT, EvaluationConfig(max_new_tokens=99))


def test_no_question_has_no_prediction():
    assert answer_questions(tiny_llama(), [], PROMPT, EvaluationConfig()) == []


def test_what_was_kept_is_not_asked_again_and_answers_stay_the_same(monkeypatch):
    lm, kept = tiny_llama(), []
    config = EvaluationConfig(True, 2, 8)
    whole = answer_questions(lm, QUESTIONS, PROMPT, config, keep=kept.append)
    assert [len(batch) for batch in kept] == [2, 2, 2]
    found = {p.id: p for p in (*kept[0], kept[1][0])}
    again = []
    assert answer_questions(lm, QUESTIONS, PROMPT, config, found, again.append) == whole
    assert again == kept[1:]  # a batch that was not kept whole is asked whole
    monkeypatch.setattr("kpod.evaluation.generation.continue_greedily", None)
    assert answer_questions(lm, QUESTIONS, PROMPT, config, {p.id: p for p in whole}) == whole


@RANDOM
def test_draws_are_decided_by_their_seed_and_leave_other_random_numbers_alone(lm):
    prompts = [prompt_ids(lm, question, PROMPT) for question in QUESTIONS[:3]]
    torch.manual_seed(5)
    before = torch.get_rng_state()

    def drawn(seed, temperature=1.0):
        return continue_sampled(lm, prompts, 6, number=4, temperature=temperature, seed=seed)

    first = drawn(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(texts) for texts in first] == [4, 4, 4]
    assert drawn(1) == first != drawn(2)
    assert len({text.token_ids for text in first[0]}) > 1
    cold = drawn(3, temperature=1e-4)
    assert [[text] * 4 for text in continue_greedily(lm, prompts, 6)] == cold


def test_the_majority_of_drawn_texts_is_the_answer(taught):
    questions = [Question(question, question, answer) for question, (_, answer) in TAUGHT.items()]
    config = EvaluationConfig(max_new_tokens=80, samples=3, temperature=0.05)
    assert [(p.correct, p.votes) for p in answer_questions(taught, questions, PROMPT, config)] == [(True, 3)] * 2


def test_the_self_check_tells_what_batching_changed(monkeypatch, caplog):
    lm, config = tiny_llama(), EvaluationConfig(True, 3, 8, self_check=4)
    with caplog.at_level(logging.INFO):
        answer_questions(lm, QUESTIONS, PROMPT, config)
    assert "the same 4 texts" in caplog.text
    real = continue_greedily

    def batched_otherwise(model, prompts, limit):
        texts = real(model, prompts, limit)
        return texts if len(prompts) == 1 else [text._replace(token_ids=(65, *text.token_ids)) for text in texts]

    monkeypatch.setattr("kpod.evaluation.generation.continue_greedily", batched_otherwise)
    answer_questions(lm, QUESTIONS, PROMPT, config)
    assert "answers 4 of 4 questions in other words than in a batch" in caplog.text


# -- padding ----------------------------------------------------------------------------------------


PROMPT_IDS = [tuple(range(first, first + length)) for first, length in ((3, 9), (3, 30), (40, 9), (5, 14))]


@pytest.mark.parametrize("dtype", tiered([torch.float32, torch.bfloat16], [torch.bfloat16]), ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        *(("rwkv", [1, 1, 1, 1]), ("recurrent-gemma", [2, 1, 1]), ("mamba", [4]), ("llama", [4]), ("gpt-oss", [4])),
        *(("bloom", [4]), ("t5", [4])),
    ],
)
def test_prompts_share_a_batch_where_that_changes_nothing(name, read, dtype, monkeypatch, caplog):
    lm = build(name)
    lm.model.to(dtype)
    sizes = []
    real = type(lm.model).generate

    def count(self, input_ids, **how):
        sizes.append(len(input_ids))
        return real(self, input_ids, **how)

    together = continue_greedily(lm, PROMPT_IDS, 5)  # proves it
    told = [record.getMessage() for record in caplog.records if "are answered" in record.getMessage()]
    monkeypatch.setattr(type(lm.model), "generate", count)
    caplog.clear()
    assert continue_greedily(lm, PROMPT_IDS, 5) == together
    assert sizes == read
    assert len(told) == (len(read) > 1)
    assert not caplog.records  # it is said once
    if dtype == torch.float32:
        assert together == [continue_greedily(lm, [prompt], 5)[0] for prompt in PROMPT_IDS]


@pytest.mark.parametrize("name", ["rwkv", "recurrent-gemma"])
def test_samples_stay_with_their_prompts_where_batches_are_parted(name):
    lm = build(name)
    (cold, others) = (
        continue_sampled(lm, PROMPT_IDS, 4, number=3, temperature=temperature, seed=1) for temperature in (1e-4, 5.0)
    )
    assert cold == [[text] * 3 for text in continue_greedily(lm, PROMPT_IDS, 4)]
    assert all(len(texts) == 3 for texts in others)
    assert len({text for texts in others for text in texts}) > 4
    assert others == continue_sampled(lm, PROMPT_IDS, 4, number=3, temperature=5.0, seed=1)


@pytest.mark.parametrize(
    ("error", "how"),
    [(torch.OutOfMemoryError("full"), "in batches of one length"), (RuntimeError("no such kernel"), "one by one")],
)
def test_a_model_that_cannot_be_asked_for_the_proof_gets_fewer_prompts_at_a_time(error, how, monkeypatch, caplog):
    def fail(*_):
        raise error

    lm = tiny_llama()
    expected = continue_greedily(lm, PROMPT_IDS, 5)
    monkeypatch.setattr("kpod.lm.decoding.in_float32", fail)
    assert continue_greedily(tiny_llama(), PROMPT_IDS, 5) == expected
    assert f"prompts are answered {how}: " in caplog.text


def test_one_prompt_needs_no_proof(monkeypatch):
    monkeypatch.setattr("kpod.lm.decoding._what_changes", lambda *_: pytest.fail("asked"))
    assert len(continue_greedily(build("rwkv"), PROMPT_IDS[:1], 3)) == 1
