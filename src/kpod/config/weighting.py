"""How significance weights are learnt (Eq. 2-7): the keys under `weighting`."""

from dataclasses import dataclass
from typing import Literal

from kpod.errors import require, require_positive


@dataclass(frozen=True)
class WeightingConfig:
    """Rationale token weighting (Eq. 2-7)."""

    predictor: str | None = None
    """The model that answers from masked rationales, named as `student`; null: the student's own backbone. With
    another tokenizer its weights are carried over to the student's tokens by characters."""
    precision: Literal["fp32", "bf16"] | None = None
    """Precision of the predictor; null: the recipe's. On a CPU with matrix units for bf16 (AMX), bf16 is twice as fast
    as fp32."""
    estimator: Literal[
        "score", "gradient", "regression", "antithetic", "control_variate", "hard_concrete", "gumbel"
    ] = "score"
    """How weights are learnt. `score`: by the score-function gradient of L_k under masks drawn from the weights.
    `gradient`: from the slope of the answer's NLL at random masks, with fewer passes and more noise. `regression`: from
    the NLL under random masks. The others are there to compare with: `antithetic` and `control_variate` are score
    functions too, `hard_concrete` has L0 gates, and `gumbel` is the paper's Eq. 4, generator and predictor together,
    without a warm-up."""
    mask_loss_weight: float = 1.0
    """alpha of Eq. 7: how strongly tokens are pushed to be masked. The paper's 0.5 keeps more that nobody needs."""
    kept_rate: float | None = None
    """Where every rationale's weights are centred, whatever alpha says: only differences are learnt then, which long
    rationales need, whose weights else all go to one end together. null: nowhere, as in the paper."""
    lora_rank: int = 16
    """Rank of the predictor's adapters."""
    warmup_updates: int = 100
    """Optimiser steps of the predictor under random masks."""
    rationale_loss_weight: float = 5.0
    """Weight of the mean NLL of the rationale's own tokens in the warm-up of a causal predictor, beside the NLL of the
    answer; 0 trains the answer alone (Eq. 5)."""
    observations: int = 600
    """How often the frozen predictor answers from a rationale, each time under `masks` masks; `score` takes
    `batch_size` of them for an update, and stops early where L_k no longer falls. More find finer effects."""
    prefixes: int = 4
    """K: prefixes of the masked rationale that each pass must answer from: the whole one, the one that ends before the
    answer is first stated as a result, and random ones over its whole length. From 3 on, one of the random ones is
    shorter than the second wherever there is room."""
    batch_size: int = 4
    """Rationales per update, of the predictor and of the generator."""
    masks: int = 8
    """Masks per observation; even, for antithetic pairs."""
    predictor_learning_rate: float = 1e-3
    generator_learning_rate: float = 1e-3
    temperature: float = 1.0
    """With `gradient` and `regression`: how soft the weights are around the threshold alpha / n, in units of the root
    mean square of the tokens' distances from it."""

    def __post_init__(self) -> None:
        require_positive(self, "weighting", "mask_loss_weight", "temperature", "warmup_updates", "observations")
        require_positive(self, "weighting", "prefixes", "batch_size", "lora_rank")
        require(self.rationale_loss_weight >= 0, "weighting.rationale_loss_weight", self.rationale_loss_weight, ">= 0")
        rate = self.kept_rate
        require(rate is None or 0 < rate < 1, "weighting.kept_rate", rate, "between 0 and 1, or null")
        require(self.masks >= 2 and self.masks % 2 == 0, "weighting.masks", self.masks, "an even number, at least 2")
