"""The weight generator (Eq. 2-3): from a rationale's embeddings to the significance weight of every token."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

WIDTH = 128
HEADS = 4


class WeightGenerator(nn.Module):
    """e = Att(Emb(r)) (Eq. 2), then w_j = sigmoid(MLP(e_j)) (Eq. 3).

    Emb is the student's own pre-trained input embedding, frozen, projected to a narrow width; Att is one
    self-attention layer with a residual connection, so that a token's own identity stays in sight.

    Args:
        embeddings: The student's input embedding table, [vocabulary, features]; never trained.
    """

    def __init__(self, embeddings: Float[Tensor, "vocabulary features"]) -> None:
        super().__init__()
        self.table = nn.Parameter(embeddings.detach().float(), requires_grad=False)
        self.project = nn.Linear(embeddings.shape[1], WIDTH)
        self.norm_in = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm_out = nn.LayerNorm(WIDTH)
        last = nn.Linear(WIDTH, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), last)

    def logits(
        self, token_ids: Int[Tensor, "batch tokens"], real: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens"]:
        """What the sigmoid of Eq. 3 is taken of; 0 for every token of a fresh generator.

        Args:
            token_ids: Rationale tokens, padded on the right.
            real: False at padding.
        """
        features = self.norm_in(self.project(_standardised(self.table[token_ids])))
        attended, _ = self.attention(features, features, features, key_padding_mask=~real, need_weights=False)
        logits: Tensor = self.mlp(self.norm_out(features + attended)).squeeze(-1)
        return logits

    def forward(
        self, token_ids: Int[Tensor, "batch tokens"], real: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens"]:
        """Significance weights w_j in (0, 1): the probability that token j is kept."""
        return torch.sigmoid(self.logits(token_ids, real))


def _standardised(embeddings: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
    """Zero mean and unit variance per token: pre-trained tables differ in scale by orders of magnitude."""
    return nn.functional.layer_norm(embeddings, embeddings.shape[-1:])
