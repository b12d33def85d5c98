"""One id sequence per rationale, token by token, whatever the tokenizer."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kpod.data.prompts import completion
from kpod.lm.alignment import tiling_offsets
from kpod.lm.encoding import encode, encode_rationales
from kpod.lm.models import LanguageModel
from kpod.lm.sequences import collate, example_at
from kpod.lm.student_prompts import prompt_ids, prompt_text, unused_template
from kpod.recipe import DataConfig, PromptConfig
from kpod.records import Dropped, Question, Rationale, TokenizedRationale
from kpod.records.errors import DataError
from tiny import END, START, tiny_llama, tiny_rationales, tiny_t5

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


def pairs(spans) -> tuple[tuple[int, int], ...]:
    return tuple(map(tuple, spans.tolist()))


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
    return replace(CAUSAL, tokenizer=tokenizer, vocabulary=None)


def metaspace_t5() -> LanguageModel:
    """An encoder-decoder model whose tokenizer works as T5's: it normalises, and marks words by a leading bar."""
    letters = [(char, -3.0) for char in "abcdefghijklmnopqrstuvwxyzAHQTL0123456789.,:?'+=-⁄"]
    core = Tokenizer(models.Unigram([("<unk>", -9.0), ("▁", -2.0), ("▁a", -2.0), *letters], unk_id=0))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\u200b", "")])
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.add_special_tokens(["<pad>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return replace(T5, tokenizer=tokenizer, end_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id)


@BOTH
@pytest.mark.parametrize("chat", [False, True])
def test_a_thinking_target_is_opened_in_the_prompt_and_closed_by_the_student(lm, chat):
    if chat:
        lm = chatting(tiny_llama() if lm is CAUSAL else tiny_t5())
    prompt = PromptConfig(chat=chat, opening="<think>\n", closing="\n</think>\nThe answer is {answer}")
    tokens = encoded(lm, rationale_of("6 × 7 = 42."), prompt)
    before = (
        "<s>user: How many?\nLet's think step by step.\nassistant:\n"
        if chat
        else "Q: How many?\nA: Let's think step by step. "
    )
    end = "</s>" if lm.encoder_decoder else ""
    assert text_of(lm, tokens.ids("question")) == f"{before}<think>\n{end}"
    assert text_of(lm, tokens.ids("rationale")) == "6 × 7 = 42."
    assert text_of(lm, tokens.ids("closing")) == "\n</think>\nThe answer is"
    assert tokens.ids("question") == prompt_ids(lm, rationale_of("x").question, prompt)


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
    assert pairs(tokens.char_spans) == ((0, 1), (0, 1), (1, 2), (2, 3), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7))
    assert tokens.step_stops == (6, 9)


def test_the_space_after_a_plain_prompt_is_written_and_counts_to_the_first_character():
    tokens = encoded(CAUSAL, rationale_of("a b"), spans=[(0, 1), (1, 3)])
    assert text_of(CAUSAL, tokens.ids("rationale")) == " a b"
    assert pairs(tokens.char_spans) == ((0, 1), (0, 1), (1, 2), (2, 3))
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
    assert tokens.token_ids.tolist().count(START) == 1


def test_a_first_token_that_the_tokenizer_knows_but_does_not_set_is_not_set():
    lm = tiny_llama()
    lm.tokenizer.bos_token = "<s>"
    assert encoded(lm, tiny_rationales()[0]).token_ids.tolist().count(START) == 0


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
    by_recipe = f"longer than data.max_length {length - 1} tokens"
    by_student = f"longer than the student's context of {length - 1} tokens"
    narrow = replace(CAUSAL, context=length - 1)
    assert encode(CAUSAL, rationale, spans, PLAIN, length - 1) == Dropped("tiny-0", by_recipe)
    assert encode(narrow, rationale, spans, PLAIN, ROOM) == Dropped("tiny-0", by_student)
    assert encode(narrow, rationale, spans, PLAIN, length - 1) == Dropped("tiny-0", by_recipe)


def test_a_prompt_that_merges_with_the_rationale_is_dropped():
    rationale = rationale_of("Six.")
    found = encode(with_merges((".", "Ġ")), rationale, [(0, 4)], PLAIN, ROOM)
    assert found == Dropped("q1", "prompt and rationale merge into one token")


def test_a_token_between_rationale_and_closing_counts_to_the_rationale():
    lm = with_merges(("!", "Ġ"))
    tokens = encoded(lm, rationale_of("Six!"), spans=[(0, 4)])
    assert text_of(lm, tokens.ids("rationale")) == " Six! "
    assert tokens.char_spans[-1].tolist() == [3, 4]
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
    assert pairs(tokens.char_spans[:6]) == ((0, 1), (0, 1), (0, 1), (0, 1), (1, 2), (2, 3))
    assert pieces[tokens.step_stops[0] - 1] == "."
    assert "".join(pieces[tokens.step_stops[0] :]).replace("▁", " ").split() == ["Then", "2."]
    assert lm.tokenizer.convert_ids_to_tokens(list(tokens.ids("answer"))) == ["▁", "4", "2"]


@pytest.mark.parametrize(
    ("offsets", "why"),
    [
        ([(0, 0), (0, 0)], "miss its text after character 0"),
        ([(0, 3), (0, 0)], "do not follow character 3"),
        ([(0, 3), (3, 3)], "miss its text after character 3"),
        ([(0, 3), (1, 2), (4, 7)], "do not follow character 3"),
        ([(3, 7), (0, 3)], "do not follow character 0"),
        ([(0, 2), (4, 7)], "do not follow character 2"),
        ([(0, 3)], "miss its text after character 3"),
    ],
)
def test_wrong_offsets_are_told_with_the_id(offsets, why):
    with pytest.raises(DataError, match=f"'q7'.*{why}"):
        tiling_offsets(offsets, "Two six", "q7")


def test_an_end_token_inside_a_chat_prompt_is_read_although_it_also_pads():
    lm = tiny_llama(pad="eos")
    lm.tokenizer.chat_template = "{{ messages[0].content }}</s>assistant:{{ '\n' }}"
    tokens = [encoded(lm, rationale, PromptConfig()) for rationale in tiny_rationales()[:2]]
    ones = [np.ones(t.num_tokens, dtype=np.float32) for t in tokens]
    batch = collate([example_at(t, w, 0, encoder_decoder=False) for t, w in zip(tokens, ones, strict=True)], lm)
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(t.token_ids) - 1 for t in tokens]
    assert all(t.token_ids.tolist().count(END) == 2 for t in tokens)


@pytest.mark.parametrize(
    ("has_template", "wanted", "changed", "unused"),
    [
        (False, True, [], ""),
        (False, True, ["question"], ""),
        (False, True, ["chat_question"], "data.prompt.chat_question is not used: the student has no chat template"),
        (False, True, ["question", "chat_question"], ""),
        (True, True, ["chat_question"], ""),
        (True, True, ["question"], "data.prompt.question is not used: the student has a chat template"),
        (True, False, ["chat_question"], "data.prompt.chat_question is not used: the student is asked without"),
    ],
)
def test_a_template_that_the_student_does_not_read_is_told(has_template, wanted, changed, unused):
    lm = chatting(tiny_llama()) if has_template else tiny_llama()
    found = unused_template(lm, PromptConfig(chat=wanted, **dict.fromkeys(changed, "{question}!")))
    assert found.startswith(unused)
    assert bool(found) == bool(unused)


def test_all_rationales_are_split_and_encoded_or_dropped():
    tokens, dropped = encode_rationales(CAUSAL, tiny_rationales(), DataConfig(max_length=200, max_steps=2))
    assert [t.id for t in tokens] + [item.id for item in dropped] == [
        "tiny-0",
        "tiny-1",
        "tiny-5",
        *(f"tiny-{n}" for n in (2, 3, 4)),
    ]
    assert all(item.reason.startswith("longer than ") for item in dropped)
    assert [t.num_steps for t in tokens] == [1, 2, 1]
