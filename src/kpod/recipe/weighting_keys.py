"""How significance weights are learnt (Eq. 2-7): the keys under `weighting`."""

import math
from typing import Annotated, Literal

from pydantic import Field

from kpod.recipe.sections import NUMBER, Count, NotNegative, Positive, Real, section
from kpod.records.errors import require


@section("weighting")
class WeightingConfig:
    """Rationale token weighting (Eq. 2-7)."""

    predictor: str | None = None
    """The model that answers from masked rationales, named as `student`; null: the student's own backbone. With
    another tokenizer its weights are carried over to the student's tokens by characters. A predictor finds only what it
    can use itself: one that can calculate also finds the words that name operations, where it gets about 240
    `observations`, under two seeds of three (benchmarks/RESULTS.md)."""
    precision: Literal["fp32", "bf16"] | None = None
    """Precision of the predictor; null: the recipe's. On a CPU with matrix units for bf16 (AMX), bf16 is twice as fast
    as fp32."""
    estimator: Literal["regression", "gumbel"] = "regression"
    """How weights are learnt. `regression`: the predictor learns under random masks and is frozen. The effect of each
    token on its answers is then estimated in rounds, under random masks that keep the keypoints found so far more
    often. `gumbel`: Eq. 4 as in the paper. Generator and predictor are trained together by straight-through masks."""
    mask_loss_weight: Positive = 1.0
    """alpha of Eq. 7: how strongly tokens are pushed to be masked; the paper's is 0.5. It decides the mean weight with
    `gumbel`, and with `regression` only where `kept_rate` is null: a token that is worth less than alpha / n nats to
    the answer then weighs less than 1/2."""
    kept_rate: Annotated[float, Field(gt=0, lt=1), NUMBER] | None = 0.6
    """Mean of all weights with `regression`: only differences between tokens are learnt. null: alpha decides, and on
    long rationales all weights may go to one end together. `gumbel` does not use it."""
    spread: Annotated[Real, Field(json_schema_extra={"exclusiveMinimum": 0, "exclusiveMaximum": 0.5})] = 0.25
    """Standard deviation of all weights with `regression`: the contrast between keypoints and fillers that the
    student's loss feels. The temperature of the sigmoid follows from it. Near 0 training is plain distillation; near
    its limit, sqrt(kept_rate (1 - kept_rate)), every weight is 0 or 1. `gumbel` does not use it."""
    lora_rank: Count = 16
    """Rank of the predictor's adapters."""
    warmup_updates: Count = 100
    """Optimiser steps of the predictor under random masks."""
    rationale_loss_weight: NotNegative = 5.0
    """Weight of the mean NLL of the rationale's own tokens in the warm-up of a causal predictor, beside the NLL of the
    answer; 0 trains the answer alone (Eq. 5)."""
    observations: Count = 160
    """How many rationales the frozen predictor answers from at most, each under `masks` masks. Learning stops earlier
    once the held-out L_k and the weights of a fixed set of rationales no longer change. More give finer effects."""
    prefixes: Count = 4
    """K: prefixes of the masked rationale that each pass must answer from: the whole one, the one that ends before the
    answer is first stated as a result, and random ones over its whole length. From 3 on, one of the random ones is
    shorter than the second wherever there is room."""
    batch_size: Count = 4
    """Rationales per update of the predictor, and with `gumbel` of the generator."""
    masks: Annotated[int, Field(ge=2)] = 8
    """Masks per observation, at least 2."""
    predictor_learning_rate: Real = 1e-3
    """Adam's, for the predictor."""
    generator_learning_rate: Real = 1e-3
    """Adam's, for what gives the weights."""

    def __post_init__(self) -> None:
        rate = self.kept_rate
        most = math.sqrt(rate * (1 - rate)) if rate is not None else 0.5
        limit = f"above 0 and below {most:.3g}, at which every weight is 0 or 1 (kept_rate is {rate})"
        require(0 < self.spread < most, "weighting.spread", self.spread, limit)
