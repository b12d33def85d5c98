"""The answer's NLL after prefixes of a masked rationale: L_p of Eq. 5 for given masks.

A causal predictor answers after all K prefixes in one forward pass. Its sequence is question, masked rationale,
then K copies of `closing answer`; copy k sees the question, the first k_k rationale tokens and itself, and its
positions continue from the prefix's end. Where a frozen predictor is asked about one rationale under several masks,
the question is read once for all of them. An encoder-decoder predictor gets one encoder input per prefix, since
a bidirectional encoder would let a prefix see what follows it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from kpod.errors import WeightingError
from kpod.lm.models import LanguageModel
from kpod.lm.sequences import IGNORED, Batch, logprobs, trained_positions
from kpod.records import TokenizedRationale


@dataclass(frozen=True)
class MaskedRationale:
    """A rationale under one mask, and the prefixes after which its answer is asked.

    Attributes:
        tokens: The rationale.
        keep: m_j of Eq. 4, [tokens]: True or 1 where token j is kept. As floats it carries gradients, and between 0
            and 1 it mixes the token's embedding with the mask's.
        prefixes: Prefix lengths in rationale tokens, each 1 to n.
    """

    tokens: TokenizedRationale
    keep: Bool[Tensor, " tokens"] | Float[Tensor, " tokens"]
    prefixes: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that a causal predictor reads: question, rationale, and a copy of closing and answer per prefix."""
        _, body, _, answer, _ = self.tokens.segment_stops
        return body + len(self.prefixes) * (answer - body)


class Predictor(nn.Module):
    """Answers from masked rationales. The mask is a learnt vector in place of a token's embedding.

    The vector starts at the mean embedding: pre-norm backbones hardly notice an embedding's scale, so a mask
    that scales embeddings or zeroes them would hide nothing.
    """

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.lm = lm
        self.backbone = lm.model
        self.embedding: nn.Module = cast("PreTrainedModel", lm.model).get_input_embeddings()
        self.mask_vector = nn.Parameter(cast("Tensor", self.embedding.weight).detach().float().mean(dim=0))

    def forward(self, rows: Sequence[MaskedRationale]) -> Float[Tensor, "rows prefixes"]:
        """- sum_j log P(y_j | y_<j, masked r_<k, x) in nats, for every row and each of its K prefixes (Eq. 5).

        Only the answer's own tokens are scored; the fixed words before it are read.

        Args:
            rows: Masked rationales, all with the same number of prefixes.
        """
        if self.lm.encoder_decoder:
            return self._nll(self._one_by_one(rows), (len(rows), len(rows[0].prefixes)))
        batch = self._in_one_pass(rows, writes=False)
        if self._question_is_shared(rows):
            batch = self._read_question(batch, rows[0].tokens.segment_stops[0])
        return self._nll(batch, (len(rows), len(rows[0].prefixes) + 1))[:, :-1]

    def write(
        self, rows: Sequence[MaskedRationale]
    ) -> tuple[Float[Tensor, "rows prefixes"], Float[Tensor, " rows"] | None]:
        """What `forward` returns; and from the same pass of a causal predictor the NLL of each rationale's own tokens.

        - sum_j log P(r_j | masked r_<j, x) in nats: the true next token after what the mask leaves of those before it.
        """
        if self.lm.encoder_decoder:
            return self(rows), None
        nll = self._nll(self._in_one_pass(rows, writes=True), (len(rows), len(rows[0].prefixes) + 1))
        return nll[:, :-1], nll[:, -1]

    def _nll(self, batch: Batch, shape: tuple[int, int]) -> Float[Tensor, "rows owners"]:
        """The trained tokens' NLL, summed by what they belong to."""
        owner = batch.pop("owner")[trained_positions(batch)]
        sums = torch.zeros(shape[0] * shape[1], device=owner.device)
        return sums.index_add(0, owner, -logprobs(self.backbone, batch)).view(shape)

    def frozen(self, merge: Callable[[nn.Module], nn.Module]) -> "Predictor":
        """The same predictor without gradients, its adapters merged into its weights: the same numbers, faster."""
        still = Predictor(replace(self.lm, model=merge(self.backbone)))
        still.mask_vector.data = self.mask_vector.data.clone()
        return still.requires_grad_(requires_grad=False).eval()

    def embed(self, row: MaskedRationale, length: int) -> Float[Tensor, "tokens features"]:
        """Question and first `length` rationale tokens as embeddings, masked tokens replaced."""
        question, *_ = row.tokens.segment_stops
        asked = self._embeddings(row.tokens.token_ids[:question])
        told = self._embeddings(row.tokens.token_ids[question : question + length])
        keep = row.keep[:length, None].to(told)
        masked = torch.lerp(self.mask_vector.to(told).expand_as(told), told, keep.expand_as(told))
        if not self.lm.encoder_decoder:
            return torch.cat([asked, masked])
        return torch.cat([asked[:-1], masked, asked[-1:]])  # the encoder's input ends in its end token

    def _embeddings(self, ids: Sequence[int]) -> Float[Tensor, "tokens features"]:
        embedded: Tensor = self.embedding(torch.tensor(ids, device=self.lm.device))
        return embedded

    def _in_one_pass(self, rows: Sequence[MaskedRationale], *, writes: bool) -> Batch:
        parts = [self._row_in_one_pass(row, index, writes=writes) for index, row in enumerate(rows)]
        longest = max(len(part["labels"]) for part in parts)
        alike = all(row.tokens is rows[0].tokens and row.prefixes == rows[0].prefixes for row in rows)
        sees = torch.stack([_padded_square(part["sees"], longest) for part in (parts[:1] if alike else parts)])
        batch = {
            name: pad_sequence([part[name] for part in parts], batch_first=True, padding_value=value)
            for name, value in (("inputs_embeds", 0.0), ("position_ids", 0), ("labels", IGNORED), ("owner", 0))
        }
        floor = torch.finfo(batch["inputs_embeds"].dtype).min
        hidden = torch.zeros(sees.shape, dtype=batch["inputs_embeds"].dtype).masked_fill(~sees, floor)
        mask = hidden[:, None].to(self.lm.device).expand(len(rows), -1, -1, -1)  # alike rows share one square
        return {**batch, "attention_mask": mask}

    def _question_is_shared(self, rows: Sequence[MaskedRationale]) -> bool:
        """Whether one reading of the question serves all rows: none would pass gradients through it."""
        learns = torch.is_grad_enabled() and self.mask_vector.requires_grad
        return not (learns or self.lm.encoder_decoder) and all(row.tokens is rows[0].tokens for row in rows)

    def _read_question(self, batch: Batch, question: int) -> Batch:
        """The rest of a batch whose rows all start with the same question, and the keys and values of that question."""
        cache = DynamicCache()
        decoder: nn.Module = cast("PreTrainedModel", self.backbone).get_decoder()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            decoder(inputs_embeds=batch["inputs_embeds"][:1, :question], cache=cache, use_cache=True)
        cache.batch_repeat_interleave(len(batch["labels"]))
        mask = batch.pop("attention_mask")[:, :, question:]
        rest = {name: tensor[:, question:] for name, tensor in batch.items()}
        return {**rest, "attention_mask": mask, "cache": cast("Tensor", cache)}

    def _row_in_one_pass(self, row: MaskedRationale, index: int, *, writes: bool) -> dict[str, Tensor]:
        """One row's tensors; `owner` says which of the row's K prefixes, or of its own tokens, a label belongs to."""
        tokens, num = row.tokens, len(row.prefixes)
        question, length = tokens.segment_stops[0], tokens.num_tokens
        copy = tokens.ids("closing") + tokens.ids("answer")
        body, size = question + length, len(copy)
        embedded = torch.cat([self.embed(row, length), self._embeddings(copy).repeat(num, 1)])
        positions = torch.arange(body + num * size)
        labels = torch.full((body + num * size,), IGNORED)
        owner = torch.zeros(body + num * size, dtype=torch.long)
        sees = torch.ones(body + num * size, body + num * size, dtype=torch.bool).tril()
        answer = torch.tensor(tokens.ids("answer"))
        if writes:
            labels[question - 1 : body - 1] = torch.tensor(tokens.ids("rationale"))
            owner[question - 1 : body - 1] = index * (num + 1) + num
        for k, prefix in enumerate(row.prefixes):
            start, stop = body + k * size, body + (k + 1) * size
            positions[start:stop] = question + prefix + torch.arange(size)
            sees[start:stop, question + prefix : start] = False
            before = torch.arange(stop - len(answer), stop) - 1
            if len(answer) == size:  # nothing stands before the answer: the prefix's last token predicts its first
                if prefix in row.prefixes[:k]:
                    raise WeightingError(
                        f"rationale {tokens.id!r} has fewer tokens than weighting.prefixes, and data.prompt.closing "
                        "has no words before the answer; add some, or lower weighting.prefixes"
                    )
                before[0] = question + prefix - 1
            labels[before], owner[before] = answer, index * (num + 1) + k
        device = self.lm.device
        return {
            "inputs_embeds": embedded,
            "position_ids": positions.to(device),
            "labels": labels.to(device),
            "owner": owner.to(device),
            "sees": sees,
        }

    def _one_by_one(self, rows: Sequence[MaskedRationale]) -> Batch:
        pairs = [(row, prefix) for row in rows for prefix in row.prefixes]
        read = [self.embed(row, prefix) for row, prefix in pairs]
        targets = [(row.tokens.ids("closing"), row.tokens.ids("answer")) for row, _ in pairs]
        start = self.lm.decoder_start_id
        inputs = [torch.tensor([start, *closing, *answer][:-1]) for closing, answer in targets]
        labels = [torch.tensor([*(IGNORED for _ in closing), *answer]) for closing, answer in targets]
        batch = {
            "inputs_embeds": pad_sequence(read, batch_first=True),
            "attention_mask": pad_sequence([torch.ones(len(r), dtype=torch.long) for r in read], batch_first=True),
            "decoder_input_ids": pad_sequence(inputs, batch_first=True, padding_value=self.lm.pad_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }
        batch["owner"] = torch.arange(len(pairs))[:, None].expand_as(batch["labels"])
        return {name: tensor.to(self.lm.device) for name, tensor in batch.items()}


def _padded_square(sees: Bool[Tensor, "length length"], longest: int) -> Bool[Tensor, "longest longest"]:
    """Padding sees itself alone, so that no row of the attention mask is empty (a softmax over nothing is NaN)."""
    square = torch.eye(longest, dtype=torch.bool)
    square[: len(sees), : len(sees)] = sees
    return square
