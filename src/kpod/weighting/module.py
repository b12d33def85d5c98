"""The weight generator (Eq. 2-3): from a rationale's embeddings to the significance weight of every token."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

WIDTH = 128
HEADS = 4


class WeightGenerator(nn.Module):
    """e = Att(Emb(r)) (Eq. 2), then w_j = sigmoid(MLP(e_j)) (Eq. 3), with the MLP's output read in nats.

    The MLP gives token j a score, and phi_j = level + scale * score_j says by how many nats keeping it lowers the
    answer's NLL. In L_k (Eq. 7, divided by n) a kept
    token costs alpha / n, so keeping token j pays where phi_j exceeds that price, and
    w_j = sigmoid((phi_j - alpha / n) / softness) is this decision, softened: the soft minimiser of L_k.

    Emb is the predictor's own pre-trained input embedding, frozen and projected to a narrow width; Att is one
    self-attention layer with a residual connection, so that a token's own identity stays in sight. Around the network
    goes a linear connection from Emb to phi, which is solved for exactly; the network adds what that cannot say.

    Args:
        embeddings: The predictor's input embedding table, [vocabulary, features]; never trained.
        alpha: Weight of the mask loss L_m in Eq. 7.
        kept_rate: Where every rationale's weights are centred, in (0, 1), whatever alpha says; None: nowhere.
    """

    def __init__(
        self, embeddings: Float[Tensor, "vocabulary features"], alpha: float, kept_rate: float | None = None
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.kept_rate = kept_rate
        table = embeddings.detach().bfloat16().float()  # rounded now, so that half the bytes save it exactly
        self.table = nn.Parameter(table, requires_grad=False)
        self.level = nn.Parameter(torch.zeros(()), requires_grad=False)
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
        effects = self.level + self.scale * self.scores(token_ids, real)
        num = real.sum(dim=1, keepdim=True)
        margins = (effects - self.alpha / num) / self.softness
        if self.kept_rate is not None:
            mean = torch.where(real, margins, 0).sum(dim=1, keepdim=True) / num
            margins = margins - mean + math.log(self.kept_rate / (1 - self.kept_rate))
        return torch.sigmoid(margins)
