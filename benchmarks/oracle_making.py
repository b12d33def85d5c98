"""Ask a model how often it still reaches the gold answer behind a replaced word: what makes oracle.jsonl.

The replacement of a word is the model's own. It reads the prompt and the rationale up to the white space before the
word, and gives its likeliest next tokens. A space that stands alone as a token is read on, so that digits are ranked
among the rest. Of these tokens, the first counts that is another one than the word's own first token, goes on after the
same white space, and that greedy writing completes within LONGEST tokens to a word that reads as another one
(`oracle_words.is_another`).
"""

import copy
import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from oracle_words import FILES, Replaced, candidates, drawn, is_another, reaches, replaceable, words_of
from transformers import DynamicCache

from kpod import LanguageModel, PromptConfig, Rationale
from kpod.lm.decoding import end_ids
from kpod.lm.student_prompts import prompt_ids
from kpod.records import Span

TEMPERATURE, NEW_TOKENS = 0.7, 80
LONGEST, TRIED = 6, 8
"""Tokens of a replacement, and how many of the model's likeliest ones are tried."""
FAIR, CHECKED = 0.5, 8
"""A rationale is kept where such a share of so many continuations from its middle reach the gold answer."""
SEQUENCES = 128
"""Continuations written at once."""
BLOCK = 1024
PROMPT = PromptConfig(
    chat_question="{question}\nThink step by step in one to three short sentences. End with: The answer is <number>."
)
"""Without a word on length and end the model goes on for hundreds of tokens, and seldom reaches an answer."""
STATED, STATEMENT = re.compile(r"answer is[^\n\d]{0,20}\d[\d,.]*[^\d,.]", re.IGNORECASE), 24
"""Where a continuation has stated its answer it ends; looked for in its last tokens, which are so many."""


class Asked:
    """A model that has read a question and its rationale, and goes on from any start of the rationale."""

    def __init__(self, lm: LanguageModel, rationale: Rationale) -> None:
        self.lm = lm
        self.model: Any = lm.model
        self.ends = end_ids(lm, self.model.generation_config)
        self.prompt = list(prompt_ids(lm, rationale.question, PROMPT))
        self.known = [*self.prompt, *self.ids(rationale.text)]
        self.cache = DynamicCache()
        with torch.no_grad():
            self.model(input_ids=torch.tensor([self.known]), cache=self.cache, logits_to_keep=1)

    def ids(self, text: str) -> list[int]:
        """A text in tokens."""
        return list(self.lm.tokenizer(text, add_special_tokens=False).input_ids)


class Reading:
    """Rows of a batch, each behind the question: what they hold so far, and the logits of their next tokens.

    What a row has in common with the rationale is not read again.

    Args:
        asked: The model.
        prefixes: What stands behind the question, in ids.
    """

    def __init__(self, asked: Asked, prefixes: Sequence[Sequence[int]]) -> None:
        self.asked = asked
        rows = [[*asked.prompt, *prefix] for prefix in prefixes]
        shared = torch.tensor([min(_num_common(row, asked.known), len(row) - 1) for row in rows])
        new = [row[num:] for row, num in zip(rows, shared.tolist(), strict=True)]
        longest, pad = max(map(len, new)), asked.lm.pad_id
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in new])
        real = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in new])
        seen = torch.arange(len(asked.known)) < shared[:, None]
        self.mask = torch.cat([seen.long(), real], dim=1)
        self.cache = copy.deepcopy(asked.cache)
        self.cache.batch_repeat_interleave(len(rows))
        self.next_position = torch.tensor([len(row) for row in rows])
        self.logits = self._forward(ids, (shared[:, None] + real.cumsum(dim=1) - 1).clamp(min=0))

    def repeat(self, number: int) -> None:
        """Each row `number` times, one behind the other."""
        self.cache.batch_repeat_interleave(number)
        self.mask, self.logits, self.next_position = (
            tensor.repeat_interleave(number, dim=0) for tensor in (self.mask, self.logits, self.next_position)
        )

    def keep(self, rows: torch.Tensor) -> None:
        """Leave out all other rows."""
        self.cache.batch_select_indices(rows)
        self.mask, self.logits, self.next_position = self.mask[rows], self.logits[rows], self.next_position[rows]

    def write(self, ids: torch.Tensor) -> None:
        """Append one token to each row."""
        self.mask = torch.cat([self.mask, torch.ones(len(ids), 1, dtype=torch.long)], dim=1)
        self.logits = self._forward(ids[:, None], self.next_position[:, None])
        self.next_position = self.next_position + 1

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        found = self.asked.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            cache=self.cache,
            logits_to_keep=1,
        )
        logits: torch.Tensor = found.logits[:, -1].float()
        return logits


@torch.no_grad()
def continuations(
    asked: Asked, prefixes: Sequence[str], number: int, rng: torch.Generator, new_tokens: int = NEW_TOKENS
) -> list[list[str]]:
    """Sampled texts behind each prefix; none goes on within the prefix's last word."""
    found: list[list[str]] = [[] for _ in prefixes]
    order = sorted(range(len(prefixes)), key=lambda index: len(prefixes[index]))
    size = max(1, SEQUENCES // number)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        reading = Reading(asked, [asked.ids(prefixes[index]) for index in part])
        reading.repeat(number)
        reading.logits[:, _goes_on(asked.lm)] = -torch.inf
        written = _sampled(reading, rng, new_tokens)
        texts = asked.lm.tokenizer.batch_decode(written, skip_special_tokens=True)
        for row, index in enumerate(part):
            found[index] = texts[row * number : (row + 1) * number]
    return found


def _sampled(reading: Reading, rng: torch.Generator, new_tokens: int) -> list[list[int]]:
    """Tokens of each row up to its end token, or up to its statement of the answer, at TEMPERATURE."""
    written: list[list[int]] = [[] for _ in reading.logits]
    rows = list(range(len(written)))
    for step in range(new_tokens):
        ids = draw(reading.logits / TEMPERATURE, rng)
        left = []
        for place, (row, token) in enumerate(zip(rows, ids.tolist(), strict=True)):
            if token in reading.asked.ends:
                continue
            written[row].append(token)
            if not STATED.search(reading.asked.lm.tokenizer.decode(written[row][-STATEMENT:])):
                left.append(place)
        if not left or step == new_tokens - 1:
            break
        if len(left) < len(rows):
            reading.keep(torch.tensor(left))
            rows, ids = [rows[place] for place in left], ids[left]
        reading.write(ids)
    return written


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def draw(logits: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """One token per row by its probability: first a block of tokens, then one of the block, by two numbers a row."""
    chances = (logits - logits.amax(dim=-1, keepdim=True)).exp_()
    blocks = torch.nn.functional.pad(chances, (0, -chances.shape[1] % BLOCK)).view(len(chances), -1, BLOCK)
    block = _place(blocks.sum(dim=-1), rng)
    inside = _place(blocks[torch.arange(len(blocks)), block], rng)
    return (block * BLOCK + inside).clamp(max=logits.shape[1] - 1)


def _place(chances: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """The number of one entry per row, drawn by its share of the row."""
    total = chances.double().cumsum(dim=-1)
    at = torch.rand(len(total), 1, generator=rng, dtype=torch.float64) * total[:, -1:]
    return torch.searchsorted(total, at, right=True)[:, 0].clamp(max=total.shape[1] - 1)


@lru_cache(maxsize=2)
def _texts(lm: LanguageModel) -> list[str]:
    """The text of every id that the model can write."""
    rows = int(lm.vocabulary or len(lm.tokenizer))
    known = lm.tokenizer.batch_decode([[index] for index in range(len(lm.tokenizer))])
    return (known + [""] * rows)[:rows]


@lru_cache(maxsize=2)
def _goes_on(lm: LanguageModel) -> torch.Tensor:
    """Which tokens would make the word before them another one: those that start with a letter or a digit.

    A token that starts within a character may be part of a letter, and counts too.
    """
    return torch.tensor([text[:1].isalnum() or text[:1] == "\ufffd" for text in _texts(lm)])


@torch.no_grad()
def replacements(asked: Asked, rationale: Rationale, words: Sequence[Span]) -> list[str | None]:
    """The model's own word for each place; None where none of its likeliest ones reads as another word."""
    text, gold = rationale.text, rationale.question.answer
    tried = likeliest(asked, text, words)
    found: list[str | None] = [None] * len(words)
    for number in range(TRIED):
        left = [i for i in range(len(words)) if found[i] is None and number < len(tried[i])]
        if not left:
            break
        for i, written in zip(left, _completed(asked, [tried[i][number] for i in left]), strict=True):
            word = first_word(written)
            if word and is_another(text[slice(*words[i])], word, gold):
                found[i] = word
    return found


def likeliest(asked: Asked, text: str, words: Sequence[Span]) -> list[list[tuple[list[int], list[int]]]]:
    """Of each word what stands before it, and the likeliest tokens in its place, best first; both in ids."""
    contexts = [text[:start].removesuffix(" ") for start, _ in words]
    leads = [text[len(before) : start] for before, (start, _) in zip(contexts, words, strict=True)]
    read = [asked.ids(before) for before in contexts]
    texts = _texts(asked.lm)
    space = texts.index(" ")
    logprobs = Reading(asked, read).logits.log_softmax(dim=-1)
    behind = Reading(asked, [[*ids, space] for ids in read]).logits.log_softmax(dim=-1)
    visible = torch.tensor([text[:1].strip() != "" for text in texts])
    spaced = torch.tensor([text[:1] == " " and text[1:2].strip() != "" for text in texts])
    found = []
    for row, (lead, (start, stop)) in enumerate(zip(leads, words, strict=True)):
        own = asked.ids(lead + text[start:stop])
        own = own[:2] if own[0] == space else own[:1]
        ranked = _ranked(logprobs[row], spaced if lead else visible)
        if lead:
            ranked += [(p + float(logprobs[row, space]), [space, *ids]) for p, ids in _ranked(behind[row], visible)]
        best = sorted(ranked, reverse=True)
        found.append([(read[row], ids) for _, ids in best if ids != own][:TRIED])
    return found


def _ranked(logprobs: torch.Tensor, allowed: torch.Tensor) -> list[tuple[float, list[int]]]:
    """The likeliest allowed tokens, one more than are tried."""
    values, ids = logprobs.masked_fill(~allowed, -torch.inf).topk(TRIED + 1)
    return [(value, [index]) for value, index in zip(values.tolist(), ids.tolist(), strict=True)]


def _completed(asked: Asked, tries: Sequence[tuple[list[int], list[int]]]) -> list[str]:
    """What greedy writing makes of tokens behind what stands before them; an end is a line break."""
    reading = Reading(asked, [[*before, *ids] for before, ids in tries])
    written = [list(ids) for _, ids in tries]
    for step in range(LONGEST):
        ids = reading.logits.argmax(dim=-1)
        for row, token in zip(written, ids.tolist(), strict=True):
            row.append(token)
        if step < LONGEST - 1:
            reading.write(ids)
    texts = []
    for row in written:
        stop = next((place for place, token in enumerate(row) if token in asked.ends), None)
        text: str = asked.lm.tokenizer.decode(row[:stop])
        texts.append(text if stop is None else text + "\n")
    return texts


def first_word(written: str) -> str | None:
    """The word that a text starts with; None where signs come first, or the word may go on behind the text.

    Example:
        >>> [first_word(text) for text in (" plums, and", " plums", " (17 plums)", " - 3")]
        ['plums', None, None, '-']
    """
    spans = words_of(written)
    if not spans:
        return None
    start, stop = spans[0]
    return written[start:stop] if not written[:start].strip() and stop < len(written) else None


def made(lm: LanguageModel, file: str, rationale: Rationale, number: int, samples: int) -> list[Replaced]:
    """What comes of at most `number` words of a rationale; empty where the model seldom reaches its answer."""
    seed = int(hashlib.sha256(rationale.id.encode()).hexdigest()[:8], 16)
    rng = torch.Generator().manual_seed(seed)
    text, gold = rationale.text, rationale.question.answer
    asked, words = Asked(lm, rationale), drawn(replaceable(rationale), number, seed)

    def reached(prefixes: Sequence[str], times: int) -> list[int]:
        texts = continuations(asked, prefixes, times, rng)
        return [sum(reaches(prefix + end, gold) for end in ends) for prefix, ends in zip(prefixes, texts, strict=True)]

    (fair,) = reached([text[: words[len(words) // 2][1]]], CHECKED)
    if fair < FAIR * CHECKED:
        return []
    pairs = [(span, new) for span, new in zip(words, replacements(asked, rationale, words), strict=True) if new]
    unchanged = [text[:stop] for (_, stop), _ in pairs]
    counts = reached(unchanged + [text[:start] + new for (start, _), new in pairs], samples)
    return [
        Replaced(rationale.id, file, *span, new, with_word, without, samples)
        for (span, new), with_word, without in zip(pairs, counts, counts[len(pairs) :], strict=False)
    ]


def make(
    lm: LanguageModel, found: Sequence[Replaced], per_file: int, number: int, samples: int
) -> Iterator[list[Replaced]]:
    """What is still missing of the oracle, rationale by rationale.

    Args:
        lm: The model that goes on.
        found: What an earlier run has made.
        per_file: Rationales of each data set.
        number: Words of each rationale, at most.
        samples: Continuations of each kind per word.
    """
    left = {file: iter(candidates(file)) for file in FILES}
    done = {file: {row.id for row in found if row.file == file} for file in FILES}
    known = {row.id for row in found}
    while left:
        for file in sorted(left, key=lambda name: len(done[name])):  # so that an early end leaves equal shares
            rationale = next((r for r in left[file] if r.id not in known), None)
            if rationale is None or len(done[file]) >= per_file:
                del left[file]
                continue
            if rows := made(lm, file, rationale, number, samples):
                done[file].add(rationale.id)
                yield rows
