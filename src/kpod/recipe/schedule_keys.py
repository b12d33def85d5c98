"""The progressive schedule (Eq. 9-13): the keys under `schedule`."""

from dataclasses import dataclass, field
from typing import Literal

from kpod.records.errors import require, require_positive


@dataclass(frozen=True)
class DiversityConfig:
    """Weight of the diversity term of Eq. 12, in nats (`beta`) or without a unit (`relative`)."""

    beta: float | None = None
    """beta of Eq. 12; 12 where neither key is given."""
    relative: float | None = None
    """beta * sum_k sqrt(|C_k|) / B instead of beta."""

    def __post_init__(self) -> None:
        require(
            self.beta is None or self.relative is None,
            "schedule.diversity",
            self,
            "given as beta or as relative, not both",
        )
        for name in ("beta", "relative"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"schedule.diversity.{name}", value, "at least 0")


@dataclass(frozen=True)
class ScheduleConfig:
    """The progressive schedule (Eq. 9-13)."""

    ramp_stages: int | None = None
    """T: the stage at which rationales are whole; None: half the epochs, at least 1. Every stage is an epoch."""
    stages: int | None = None
    """T, with the stages shared out evenly over the first half of training, some optimiser steps each: for runs of few
    epochs. None: every stage is an epoch."""
    first_stage: int = 1
    """The stage that training starts with: 1 as in Algorithm 1, or 0 to train on C_0 too."""
    initial_fraction: float = 0.3
    """C_0 / B."""
    growth_exponent: float = 0.5
    """p of Eq. 10."""
    selector: Literal["count_prefix_fill", "ftgp", "density_greedy", "random"] = "count_prefix_fill"
    """What solves Eq. 13. count_prefix_fill: nearly exactly, with a certified bound. ftgp: the paper's kind of solver;
    density_greedy and random: to compare with."""
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    num_clusters: int = 5
    """K of Eq. 12."""
    embeddings: str = "student"
    """What is clustered: student (its mean input embedding, centred), or a GloVe text file."""
    stride: int = 1
    """delta_s of Eq. 11: how many steps a selected question advances."""
    pace: Literal["deadline", "rounds", "literal"] = "deadline"
    """literal: one selection per stage; rounds: until the budget is used; deadline: also in time for T."""
    min_output_steps: int = 0
    """Steps that every question writes at least, whatever the budget."""

    def __post_init__(self) -> None:
        require_positive(self, "schedule", "ramp_stages", "stages", "num_clusters", "stride")
        require(
            self.stages is None or self.ramp_stages is None,
            "schedule.stages",
            self.stages,
            "left out where ramp_stages is given: both are T",
        )
        require(self.first_stage in (0, 1), "schedule.first_stage", self.first_stage, "0 or 1")
        require(0 <= self.initial_fraction <= 1, "schedule.initial_fraction", self.initial_fraction, "between 0 and 1")
        require(self.growth_exponent > -1, "schedule.growth_exponent", self.growth_exponent, "above -1")
        require(self.min_output_steps >= 0, "schedule.min_output_steps", self.min_output_steps, "at least 0")
