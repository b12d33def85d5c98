"""The texts of tokens, by which the tokens of one model are found among those of another."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from kpod.lm.layout import TextLayout

TokenText: TypeAlias = bytes | str
"""The bytes that a token spells, its leading space included; of a special token its name."""

_BYTES = {letter: number for number, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


def token_texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, TokenText]:
    """What every token of a vocabulary spells, by its id.

    A token of a kind of tokenizer that does not say where words begin (WordPiece) counts by its name, like a special
    token: it is found in the same vocabulary and in no other.
    """
    added, spell = tokenizer.added_tokens_decoder, _speller(tokenizer)
    found = {id_: spell(token) for token, id_ in tokenizer.get_vocab().items() if id_ not in added}
    return found | {id_: one.content if one.special else one.content.encode() for id_, one in added.items()}


def ids_by_text(tokenizer: PreTrainedTokenizerBase) -> dict[TokenText, int]:
    """The id of every text that is one token; of two the last, since single bytes stand before letters."""
    return {text: id_ for id_, text in sorted(token_texts(tokenizer).items())}


def _speller(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], TokenText]:
    core = tokenizer.backend_tokenizer
    kinds = _kinds([json.loads(part.__getstate__()) for part in (core.decoder, core.pre_tokenizer) if part is not None])
    if "ByteLevel" in kinds:
        return lambda token: bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else token.encode()
    if "Metaspace" in kinds or ("Replace", "\u2581") in kinds:
        return lambda token: _of_pieces(token, "ByteFallback" in kinds)
    return str


def _kinds(parts: list[dict[str, Any]]) -> set[object]:
    """The kinds of a tokenizer's parts and of those inside them; of a replacement also what it replaces."""
    found: set[object] = set()
    for part in parts:
        replaced = (part.get("pattern") or {}).get("String")
        found |= {part["type"], (part["type"], replaced)}
        found |= _kinds([*part.get("decoders", ()), *part.get("pretokenizers", ())])
    return found


def _of_pieces(token: str, falls_back: bool) -> bytes:
    byte = _FALLBACK.fullmatch(token) if falls_back else None
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()


@dataclass(frozen=True, slots=True)
class Translation:
    """Which of a student's tokens each of a teacher's tokens is.

    Attributes:
        student_ids: Of every token of the teacher the student's, or -1 where the student has none, int64.
        size: How many tokens the student has.
    """

    student_ids: NDArray[np.int64]
    size: int

    def of(self, logprobs: Float[Tensor, "rows teacher"]) -> Float[Tensor, "rows student"]:
        """A teacher's log-probabilities as those of the student's tokens; of several that are one, their sum.

        What no token of the student stands for is left out, and the rest is not made larger.

        Args:
            logprobs: In nats.
        """
        wide = min(logprobs.shape[1], len(self.student_ids))
        numbers = np.arange(wide)
        known = numbers[self.student_ids[:wide] >= 0]
        targets = self.student_ids[known]
        if np.array_equal(targets, np.arange(self.size)) and np.array_equal(known, targets):
            return logprobs[:, : self.size]
        of_student = torch.from_numpy(targets).to(logprobs.device)
        found = logprobs[:, torch.from_numpy(known).to(logprobs.device)]
        empty = logprobs.new_full((len(logprobs), self.size), -torch.inf)
        if len(np.unique(targets)) == len(targets):
            return empty.index_copy_(1, of_student, found)
        return empty.exp_().index_add_(1, of_student, found.exp_()).log_().clamp_(max=0)


def translation(teacher: TextLayout, student: TextLayout) -> Translation:
    """The student's token for each of a teacher's: the same number where both have one vocabulary, else the same text.

    The teacher's end token is the student's, whatever their names.
    """
    of_teacher, of_student = teacher.tokenizer, student.tokenizer
    wide, size = teacher.vocabulary or len(of_teacher), student.vocabulary or len(of_student)
    ids = np.full(wide, -1, dtype=np.int64)
    if of_teacher.get_vocab() == of_student.get_vocab():
        ids[:size] = np.arange(min(wide, size))
    else:
        by_text = ids_by_text(of_student)
        for id_, text in token_texts(of_teacher).items():
            if id_ < wide and (found := by_text.get(text, size)) < size:
                ids[id_] = found
    ids[teacher.end_id] = student.end_id
    return Translation(ids, size)
