"""The weight generator (Eq. 2-3): from a rationale's embeddings to the significance weight of every token."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kpod.lm.buckets import cut_to_passes
from kpod.records import TokenizedRationale

WIDTH = 128
HEADS = 4


class WeightGenerator(nn.Module):
    """e = Att(Emb(r)) (Eq. 2), then w_j = sigmoid(MLP(e_j)) (Eq. 3), with the MLP's output read in nats.

    The MLP gives token j a score, and phi_j = scale * score_j says by how many nats keeping it lowers the answer's
    NLL. In L_k (Eq. 7, divided by n) a kept token costs alpha / n, so keeping token j pays where phi_j exceeds that
    price, and w_j = sigmoid((phi_j - price) / softness) is this decision, softened: it minimises the expected L_k less
    softness times the entropy of the masks. Where the kept rate is held, the price is the one at which the weights'
    mean is that rate; `kpod.weighting.contrast` sets it.

    Emb is the predictor's own pre-trained input embedding, frozen and projected to a narrow width; Att is one
    self-attention layer with a residual connection, so that a token's own identity stays in sight. Around the network
    goes a linear connection from Emb to phi, which is solved for exactly; the network adds what that cannot say.

    Args:
        embeddings: The predictor's input embedding table, [vocabulary, features]; never trained.
        alpha: Weight of the mask loss L_m in Eq. 7.
        held: Whether `price` is one number for all rationales, or alpha / n for a rationale of n tokens.
    """

    def __init__(self, embeddings: Float[Tensor, "vocabulary features"], alpha: float, *, held: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.held = held
        table = embeddings.detach().bfloat16().float()  # rounded now, so that half the bytes save it exactly
        self.table = nn.Parameter(table, requires_grad=False)
        self.price = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)  # see `forward`
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.intercept = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.direction = nn.Parameter(torch.zeros(embeddings.shape[1]), requires_grad=False)
        self.softness = nn.Parameter(torch.ones(()), requires_grad=False)
        self.project = nn.Linear(embeddings.shape[1], WIDTH)
        self.norm_in = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm_out = nn.LayerNorm(WIDTH)
        last = nn.Linear(WIDTH, 1)
        nn.init.zeros_(last.weight)  # at first the network adds nothing: chance ranks no token before another
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), last)

    def scores(
        self, token_ids: Int[Tensor, "batch tokens"], real: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens"]:
        """What is linear in a token's own embedding, and what the network adds; about 1 in size.

        Args:
            token_ids: Rationale tokens, padded on the right.
            real: False at padding.
        """
        embedded = self.embed(token_ids)
        features = self.norm_in(self.project(embedded * math.sqrt(embedded.shape[-1])))
        attended, _ = self.attention(features, features, features, key_padding_mask=~real, need_weights=False)
        particular: Tensor = self.mlp(self.norm_out(features + attended)).squeeze(-1)
        return self.intercept + embedded @ self.direction + particular

    def embed(self, token_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch features"]:
        """Embeddings of zero mean and unit length: pre-trained tables differ in scale by orders of magnitude."""
        standardised = nn.functional.layer_norm(self.table[token_ids], self.table.shape[-1:])
        return standardised / math.sqrt(self.table.shape[-1])

    def forward(
        self, token_ids: Int[Tensor, "batch tokens"], real: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens"]:
        """Significance weights w_j in (0, 1): the probability that token j is kept."""
        effects = self.scale * self.scores(token_ids, real)
        price = self.price if self.held else self.alpha / real.sum(dim=1, keepdim=True)
        # In float32 a price would be rounded by as much as a small softness: the mean of the weights would move.
        return torch.sigmoid(((effects.double() - price) / self.softness).float())


def padded(
    tokens: Sequence[TokenizedRationale], device: torch.device
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Rationale ids padded on the right, and where they are real."""
    ids = [torch.tensor(rationale.ids("rationale")) for rationale in tokens]
    real = [torch.ones(len(row), dtype=torch.bool) for row in ids]
    return pad_sequence(ids, batch_first=True).to(device), pad_sequence(real, batch_first=True).to(device)


def scores_of(generator: WeightGenerator, tokens: Sequence[TokenizedRationale]) -> list[Float[Tensor, " _"]]:
    """The score of every token of some rationales: its effect in the generator's own unit.

    Without gradients the rationales go through in passes of at most `TOKENS_PER_PASS` tokens.
    """
    lengths = [rationale.num_tokens for rationale in tokens]
    found = []
    for part in [slice(None)] if torch.is_grad_enabled() else cut_to_passes(lengths):
        rows = generator.scores(*padded(tokens[part], generator.table.device))
        found += [row[:length] for row, length in zip(rows, lengths[part], strict=True)]
    return found


def effects_of(generator: WeightGenerator, tokens: Sequence[TokenizedRationale]) -> list[Float[Tensor, " _"]]:
    """phi_j of every token of some rationales, in nats."""
    return [generator.scale * score for score in scores_of(generator, tokens)]


@torch.inference_mode()
def compute_weights(
    generator: WeightGenerator, tokens: Sequence[TokenizedRationale], batch_size: int = 64
) -> dict[str, NDArray[np.float32]]:
    """The weight w_j of every rationale token, computed once and without sampling.

    Args:
        generator: Trained.
        tokens: The rationales.
        batch_size: Rationales per pass, at most; a pass also holds at most `TOKENS_PER_PASS` tokens, or one rationale.
    """
    weights = {}
    for part in cut_to_passes([rationale.num_tokens for rationale in tokens], batch_size):
        batch = tokens[part]
        for rationale, row in zip(batch, generator(*padded(batch, generator.table.device)), strict=True):
            weights[rationale.id] = row[: rationale.num_tokens].cpu().numpy()
    return weights
