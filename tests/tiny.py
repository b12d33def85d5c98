"""Random 40-kiloparameter models with a byte tokenizer, and rationales to go with them: what torch tests need."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from kpod.lm.models import LanguageModel
from kpod.recipe import WeightingConfig
from kpod.records import Question, Rationale, TokenizedRationale
from kpod.weighting.module import WeightGenerator

PAD, END, START = 256, 257, 258
VOCABULARY = 259

BRIEF = WeightingConfig(
    mask_loss_weight=1e-6,  # a random model's effects are tiny; at the paper's 0.5 masking every token pays
    warmup_updates=3,
    observations=24,
    prefixes=3,
    batch_size=2,
    lora_rank=2,
    generator_learning_rate=3e-2,
)


def byte_tokenizer(*, bos: bool = False, pad: Literal["own", "eos"] = "own") -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte (ids 0 to 255), then <pad>, </s> and <s>.

    Args:
        bos: Put <s> before a text, as Llama's tokenizer does.
        pad: eos: pad with the end token, as many causal models do.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(alphabet)}
    core = Tokenizer(BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<pad>", "</s>", "<s>"])
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>" if pad == "own" else "</s>",
        eos_token="</s>",
        bos_token="<s>" if bos else None,
        clean_up_tokenization_spaces=False,
    )


def tiny_llama(
    seed: int = 0, *, dropout: float = 0.0, bos: bool = False, pad: Literal["own", "eos"] = "own"
) -> LanguageModel:
    """A random causal student of 35k parameters, in evaluation mode."""
    return model_with(byte_tokenizer(bos=bos, pad=pad), seed, dropout=dropout)


def tiny_t5(seed: int = 0, *, dropout: float = 0.0) -> LanguageModel:
    """A random encoder-decoder student of 50k parameters, in evaluation mode; as in T5, decoding starts from <pad>."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        dropout_rate=dropout,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
    )
    return LanguageModel.of(T5ForConditionalGeneration(config).eval(), byte_tokenizer())


def int32(numbers: Sequence[int] | Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """Token ids or spans as a tokenised rationale has them."""
    return np.array(numbers, dtype=np.int32)


def tiny_tokens(
    lm: LanguageModel,
    id: str = "q0",  # noqa: A002 (the record's own field)
    steps: tuple[int, ...] = (4, 3),
    *,
    question: int = 6,
    closing: int = 2,
    answer: int = 2,
    seed: int = 0,
) -> TokenizedRationale:
    """A valid tokenised rationale of random bytes; every number is a count of tokens, `steps` one per step."""
    rng = random.Random(f"{id} {seed}")
    asked = [rng.randrange(256) for _ in range(question)]
    if lm.encoder_decoder:
        asked[-1] = lm.end_id
    written = [rng.randrange(256) for _ in range(sum(steps) + closing + answer)]
    rationale_stop = question + sum(steps)
    answer_stop = rationale_stop + closing + answer
    return TokenizedRationale(
        id=id,
        token_ids=int32([*asked, *written, lm.end_id]),
        segment_stops=(question, rationale_stop, rationale_stop + closing, answer_stop, answer_stop + 1),
        step_stops=tuple(int(stop) for stop in np.cumsum(steps)),
        char_spans=int32([(number, number + 1) for number in range(sum(steps))]),
    )


def tiny_tokens_of(lm: LanguageModel, ids: Sequence[int], id: str = "q0") -> TokenizedRationale:  # noqa: A002
    """One step of these tokens, after a random question and before a random answer."""
    made = tiny_tokens(lm, id, (len(ids),))
    start, stop = made.segment_stops[:2]
    return replace(made, token_ids=int32([*made.token_ids[:start], *ids, *made.token_ids[stop:]]))


def tiny_weights(tokens: TokenizedRationale, seed: int = 0) -> NDArray[np.float32]:
    """Random significance weights of a rationale's tokens, in (0, 1)."""
    return np.random.default_rng([seed, *tokens.token_ids]).uniform(0.05, 0.95, tokens.num_tokens).astype(np.float32)


def generator_of(lm: LanguageModel, alpha: float = 0.5) -> WeightGenerator:
    """An untrained weight generator on a tiny model's embeddings."""
    torch.manual_seed(0)
    return WeightGenerator(lm.model.get_input_embeddings().weight, alpha)  # type: ignore[operator]


def tiny_rationales() -> list[Rationale]:
    """Six word problems with rationales of one to four steps, written for these tests."""
    rows = (
        ("A tray holds 6 cups. How many cups do 4 trays hold?", "4 trays hold 4 * 6 = 24 cups.", "24"),
        ("Noor had 15 pens and lost 6. How many are left?", "Noor starts with 15 pens. 15 - 6 = 9 pens are left.", "9"),
        (
            "A ticket costs $3.50. What do 4 tickets cost after a $2 discount?",
            "4 tickets cost 4 * $3.50 = $14.00. With the discount, $14.00 - $2 = $12.00 is paid.",
            "12",
        ),
        (
            "Yara runs 3 km on each of 5 days and 10 km on Sunday. How far does she run?",
            "On 5 days she runs 5 * 3 = 15 km.\nOn Sunday she adds 10 km.\n15 + 10 = 25 km in total.",
            "25",
        ),
        (
            "A box has 12 eggs; half are used, then 3 break. How many are whole?",
            "Half of 12 is 12 / 2 = 6. So 6 eggs remain. Then 6 - 3 = 3 are whole. That is all.",
            "3",
        ),
        ("Is 7 even?", "7 / 2 = 3.5, which is no whole number, so 7 is odd.", "no"),
    )
    return [
        Rationale(f"tiny-{number}", Question(f"tiny-{number}", question, answer), text, "tests", answer)
        for number, (question, text, answer) in enumerate(rows)
    ]


def ascii_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each of the letters and digits, so that whatever a random model writes is a text."""
    letters = ["Ġ", *(chr(number) for number in range(33, 127))]
    core = Tokenizer(BPE({token: number for number, token in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<pad>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")


def model_with(
    tokenizer: PreTrainedTokenizerFast, seed: int = 5, context: int = 1024, dropout: float = 0.0
) -> LanguageModel:
    """A random causal model of a tokenizer's size, in evaluation mode."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        attention_dropout=dropout,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    return LanguageModel.of(LlamaForCausalLM(config).eval(), tokenizer)
