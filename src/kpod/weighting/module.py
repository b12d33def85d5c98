"""The weight generator (Eq. 2-3): from a rationale's embeddings to the significance weight of every token."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

WIDTH = 128
HEADS = 4
EFFECT_UNIT = 0.05
"""Nats that one unit of the network's output stands for; about the effect of a digit, so that outputs are near 1."""


class WeightGenerator(nn.Module):
    """e = Att(Emb(r)) (Eq. 2), then w_j = sigmoid(MLP(e_j)) (Eq. 3), with the MLP's output read in nats.

    The MLP says by how many nats phi_j keeping token j lowers the answer's NLL. In L_k (Eq. 7, divided by n) a kept
    token costs alpha / n, so keeping token j pays where phi_j exceeds that price, and
    w_j = sigmoid((phi_j - alpha / n) / softness) is this decision, softened: the soft minimiser of L_k.

    Emb is the student's own pre-trained input embedding, frozen and projected to a narrow width; Att is one
    self-attention layer with a residual connection, so that a token's own identity stays in sight.

    Args:
        embeddings: The student's input embedding table, [vocabulary, features]; never trained.
        alpha: Weight of the mask loss L_m in Eq. 7.
    """

    def __init__(self, embeddings: Float[Tensor, "vocabulary features"], alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.table = nn.Parameter(embeddings.detach().float(), requires_grad=False)
        self.level = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.softness = nn.Parameter(torch.ones(()), requires_grad=False)
        self.project = nn.Linear(embeddings.shape[1], WIDTH)
        self.norm_in = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm_out = nn.LayerNorm(WIDTH)
        last = nn.Linear(WIDTH, 1)
        nn.init.zeros_(last.weight)  # at first every token has the mean effect: chance ranks no token before another
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), last)

    def effects(
        self, token_ids: Int[Tensor, "batch tokens"], real: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens"]:
        """phi_j in nats: the mean effect of any token, plus what is particular to this one.

        Args:
            token_ids: Rationale tokens, padded on the right.
            real: False at padding.
        """
        features = self.norm_in(self.project(_standardised(self.table[token_ids])))
        attended, _ = self.attention(features, features, features, key_padding_mask=~real, need_weights=False)
        particular: Tensor = self.mlp(self.norm_out(features + attended)).squeeze(-1)
        return self.level + EFFECT_UNIT * particular

    def forward(
        self, token_ids: Int[Tensor, "batch tokens"], real: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens"]:
        """Significance weights w_j in (0, 1): the probability that token j is kept."""
        price = self.alpha / real.sum(dim=1, keepdim=True)
        return torch.sigmoid((self.effects(token_ids, real) - price) / self.softness)


def _standardised(embeddings: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
    """Zero mean and unit variance per token: pre-trained tables differ in scale by orders of magnitude."""
    return nn.functional.layer_norm(embeddings, embeddings.shape[-1:])
