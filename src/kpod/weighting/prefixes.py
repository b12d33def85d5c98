"""The answer's NLL after prefixes of a masked rationale: L_p of Eq. 5 for given masks.

A causal predictor answers after all K prefixes in one forward pass. Its sequence is question, masked rationale,
then K copies of `closing answer`; copy k sees the question, the first k_k rationale tokens and itself, and its
positions continue from the prefix's end. Where a frozen predictor is asked about one rationale under several masks,
the question is read once for all of them.

Not every model keeps to such a mask: sliding windows, recurrent layers and ALiBi do not. `kpod.weighting.proof` finds
out, and a predictor that does not gets one sequence per prefix. So does an encoder-decoder predictor, one encoder
input per prefix, since a bidirectional encoder would let a prefix see what follows it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from kpod.lm.models import LanguageModel
from kpod.lm.sequences import IGNORED, Batch, logprobs, trained_positions
from kpod.weighting.layouts import MaskedRationale, SequenceLayout, one_pass_layout, passes_of, separate_layouts

MEAN_CHUNK = 4096
"""Embeddings averaged at a time, where a model scales them as it looks them up."""


class Predictor(nn.Module):
    """Answers from masked rationales. The mask is a learnt vector in place of a token's embedding.

    The vector starts at the mean embedding: pre-norm backbones hardly notice an embedding's scale, so a mask
    that scales embeddings or zeroes them would hide nothing. The mean is that of the embeddings as the model reads
    them, after whatever it multiplies them by.

    Args:
        lm: The model, perhaps wrapped by peft.

    Attributes:
        one_pass: Whether all prefixes of a rationale are answered in one pass. `kpod.weighting.proof` decides.
        embedding_factor: What the model multiplies its embeddings by before its first layer, where it does so for
            token ids alone and not for embeddings that it is given. `kpod.weighting.proof` finds it.
    """

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.lm = lm
        self.backbone = lm.model
        self.embedding: nn.Module = cast("PreTrainedModel", lm.model).get_input_embeddings()
        self.one_pass = not lm.encoder_decoder
        self.embedding_factor = 1.0
        self.mask_vector = nn.Parameter(mean_embedding(self.embedding))

    def forward(self, rows: Sequence[MaskedRationale]) -> Float[Tensor, "rows prefixes"]:
        """- sum_j log P(y_j | y_<j, masked r_<k, x) in nats, for every row and each of its K prefixes (Eq. 5).

        Only the answer's own tokens are scored; the fixed words before it are read. Without gradients the rows go
        through in passes of at most `TOKENS_PER_PASS` tokens.

        Args:
            rows: Masked rationales, all with the same number of prefixes.
        """
        num = len(rows[0].prefixes)
        parts = [rows] if torch.is_grad_enabled() else self.passes(rows)
        answers = [self._answer(part, writes=False)[:, :-1] for part in parts]
        return torch.cat([nll.flatten() for nll in answers]).view(len(rows), num)

    def write(
        self, rows: Sequence[MaskedRationale]
    ) -> tuple[Float[Tensor, "rows prefixes"], Float[Tensor, " rows"] | None]:
        """What `forward` returns; and of a causal predictor the NLL of each rationale's own tokens, 0 if not `writes`.

        - sum_j log P(r_j | masked r_<j, x) in nats: the true next token after what the mask leaves of those before it.
        """
        if self.lm.encoder_decoder:
            return self(rows), None
        nll = self._answer(rows, writes=True)
        return nll[:, :-1], nll[:, -1]

    def passes(self, rows: Sequence[MaskedRationale]) -> list[Sequence[MaskedRationale]]:
        """Rows in their order, parted into passes that hold `TOKENS_PER_PASS` tokens; see `passes_of`."""
        return passes_of(rows, one_pass=self.one_pass)

    def _answer(self, rows: Sequence[MaskedRationale], *, writes: bool) -> Float[Tensor, "rows owners"]:
        """The NLL after each prefix, and in the last column that of the rationale's own tokens."""
        shape = (len(rows), len(rows[0].prefixes) + 1)
        if not self.one_pass:
            return self._nll(self._one_by_one(rows, writes=writes), shape)
        batch = self._in_one_pass(rows, writes=writes)
        if not writes and self._question_is_shared(rows):
            batch = self._read_question(batch, rows[0].tokens.segment_stops[0])
        return self._nll(batch, shape)

    def _nll(self, batch: Batch, shape: tuple[int, int]) -> Float[Tensor, "rows owners"]:
        """The trained tokens' NLL, summed by what they belong to."""
        owner = batch.pop("owner")[trained_positions(batch)]
        sums = torch.zeros(shape[0] * shape[1], device=owner.device)
        return sums.index_add(0, owner, -logprobs(inside(self.backbone), batch)).view(shape)

    def frozen(self, merge: Callable[[nn.Module], nn.Module]) -> "Predictor":
        """The same predictor without gradients, its adapters merged into its weights: the same numbers, faster."""
        still = Predictor(replace(self.lm, model=merge(self.backbone)))
        still.mask_vector.data = self.mask_vector.data.clone()
        still.one_pass, still.embedding_factor = self.one_pass, self.embedding_factor
        return still.requires_grad_(requires_grad=False).eval()

    def embed(self, row: MaskedRationale, length: int) -> Float[Tensor, "tokens features"]:
        """Question and first `length` rationale tokens as embeddings, masked tokens replaced."""
        asked = self._embeddings(row.tokens.ids("question"))
        told = self._embeddings(row.tokens.ids("rationale")[:length])
        keep = row.keep[:length, None].to(told)
        masked = torch.lerp(self.mask_vector.to(told).expand_as(told), told, keep.expand_as(told))
        if not self.lm.encoder_decoder:
            return torch.cat([asked, masked])
        return torch.cat([asked[:-1], masked, asked[-1:]])  # the encoder's input ends in its end token

    def _embeddings(self, ids: Sequence[int]) -> Float[Tensor, "tokens features"]:
        embedded: Tensor = self.embedding(torch.tensor(ids, device=self.lm.device))
        return embedded if self.embedding_factor == 1 else embedded * self.embedding_factor

    def _in_one_pass(self, rows: Sequence[MaskedRationale], *, writes: bool) -> Batch:
        layouts = [one_pass_layout(row, index, writes=writes) for index, row in enumerate(rows)]
        read = []
        for row in rows:
            copy = self._embeddings(row.tokens.ids("closing") + row.tokens.ids("answer"))
            read.append(torch.cat([self.embed(row, row.tokens.num_tokens), copy.repeat(len(row.prefixes), 1)]))
        batch = self._padded(read, layouts)
        longest, kind = batch["labels"].shape[1], batch["inputs_embeds"].dtype
        alike = all(row.tokens is rows[0].tokens and row.prefixes == rows[0].prefixes for row in rows)
        seen = [layout.sees for layout in (layouts[:1] if alike else layouts)]
        sees = torch.stack([_padded_square(square, longest) for square in seen if square is not None])
        hidden = torch.zeros(sees.shape, dtype=kind).masked_fill(~sees, torch.finfo(kind).min)
        positions = [layout.positions for layout in layouts if layout.positions is not None]
        batch["position_ids"] = pad_sequence(positions, batch_first=True).to(self.lm.device)
        # Rows that are alike share one square.
        batch["attention_mask"] = hidden[:, None].to(self.lm.device).expand(len(rows), -1, -1, -1)
        return batch

    def _padded(self, read: Sequence[Float[Tensor, "_ features"]], layouts: Sequence[SequenceLayout]) -> Batch:
        """Embeddings, labels and owners, padded on the right."""
        labels, owner = [layout.labels for layout in layouts], [layout.owner for layout in layouts]
        batch = {
            "inputs_embeds": pad_sequence(list(read), batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "owner": pad_sequence(owner, batch_first=True),
        }
        return {name: tensor.to(self.lm.device) for name, tensor in batch.items()}

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

    def _one_by_one(self, rows: Sequence[MaskedRationale], *, writes: bool) -> Batch:
        if self.lm.encoder_decoder:
            return self._encoder_inputs(rows)
        read, layouts = [], []
        for index, row in enumerate(rows):
            copy = self._embeddings(row.tokens.ids("closing") + row.tokens.ids("answer"))
            for prefix, layout in separate_layouts(row, index, writes=writes and row.writes):
                read.append(torch.cat([self.embed(row, prefix), copy]))
                layouts.append(layout)
        return self._padded(read, layouts) | {"attention_mask": self._real(read)}

    def _encoder_inputs(self, rows: Sequence[MaskedRationale]) -> Batch:
        pairs = [(row, index, k) for index, row in enumerate(rows) for k in range(len(row.prefixes))]
        read = [self.embed(row, row.prefixes[k]) for row, _, k in pairs]
        targets = [(row.tokens.ids("closing"), row.tokens.ids("answer")) for row, _, _ in pairs]
        start = self.lm.decoder_start_id
        inputs = [torch.tensor([start, *closing, *answer][:-1]) for closing, answer in targets]
        layouts = []
        for (row, index, k), (closing, answer) in zip(pairs, targets, strict=True):
            labels = torch.tensor([*(IGNORED for _ in closing), *answer])
            layouts.append(SequenceLayout(labels, torch.full_like(labels, index * (len(row.prefixes) + 1) + k)))
        asked = pad_sequence(inputs, batch_first=True, padding_value=self.lm.pad_id).to(self.lm.device)
        return self._padded(read, layouts) | {"attention_mask": self._real(read), "decoder_input_ids": asked}

    def _real(self, read: Sequence[Float[Tensor, "_ features"]]) -> Int[Tensor, "rows length"]:
        """Where padded sequences are no padding, as the ones and zeros that models expect."""
        ones = [torch.ones(len(row), dtype=torch.long) for row in read]
        return pad_sequence(ones, batch_first=True).to(self.lm.device)


def inside(model: nn.Module) -> nn.Module:
    """The model that peft has wrapped, with its adapters at work; one that is not wrapped as it is.

    It is asked itself, since peft's wrapper takes no embeddings for MPT.
    """
    return model.get_base_model() if isinstance(model, PeftModel) else model


@torch.no_grad()
def mean_embedding(embedding: nn.Module) -> Float[Tensor, " features"]:
    """The mean of all embeddings as the layer gives them out, in float32.

    Some layers scale what they look up: Gemma's and XGLM's by the square root of the features.
    """
    table = cast("Tensor", embedding.weight).detach()
    ids = torch.arange(len(table), device=table.device)
    some = ids[:: max(1, len(ids) // 64)]
    if torch.equal(embedding(some), table[some]):
        return table.float().mean(dim=0)
    starts = range(0, len(ids), MEAN_CHUNK)
    sums = [embedding(ids[start : start + MEAN_CHUNK]).float().sum(dim=0) for start in starts]
    return torch.stack(sums).sum(dim=0) / len(ids)


def _padded_square(sees: Bool[Tensor, "length length"], longest: int) -> Bool[Tensor, "longest longest"]:
    """Padding sees itself alone, so that no row of the attention mask is empty (a softmax over nothing is NaN)."""
    square = torch.eye(longest, dtype=torch.bool)
    square[: len(sees), : len(sees)] = sees
    return square
