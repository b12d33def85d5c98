"""The progressive schedule (Eq. 9-13): the keys under `schedule`."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from kpod.recipe.sections import NUMBER, Count, NotNegative, section
from kpod.records.errors import require


@section("schedule.diversity")
class DiversityConfig:
    """Weight of the diversity term of Eq. 12, in nats (`beta`) or without a unit (`relative`)."""

    beta: NotNegative | None = None
    """beta of Eq. 12; 12 where neither key is given."""
    relative: NotNegative | None = None
    """beta * sum_k sqrt(|C_k|) / B instead of beta."""

    def __post_init__(self) -> None:
        require(
            self.beta is None or self.relative is None,
            "schedule.diversity",
            self,
            "given as beta or as relative, not both",
        )


@section("schedule")
class ScheduleConfig:
    """The progressive schedule (Eq. 9-13)."""

    ramp_stages: Count | None = None
    """T: the stage at which rationales are whole; null: half the epochs, at least 1. Every stage is an epoch."""
    stages: Count | None = None
    """T, with the stages shared out evenly over the first half of training, some optimiser steps each: for runs of few
    epochs. null: every stage is an epoch."""
    first_stage: Annotated[int, Field(ge=0, le=1)] = 1
    """The stage that training starts with: 1 as in Algorithm 1, or 0 to train on C_0 too."""
    initial_fraction: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.3
    """C_0 / B."""
    growth_exponent: Annotated[float, Field(gt=-1), NUMBER] = 0.5
    """p of Eq. 10."""
    selector: Literal["count_prefix_fill", "ftgp", "density_greedy", "random"] = "count_prefix_fill"
    """What solves Eq. 13. count_prefix_fill: nearly exactly, with a certified bound. ftgp: the paper's kind of solver;
    density_greedy and random: to compare with."""
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    num_clusters: Count = 5
    """K of Eq. 12."""
    embeddings: str = "student"
    """What is clustered: student (its mean input embedding, centred), or a GloVe text file."""
    stride: Count = 1
    """delta_s of Eq. 11: how many steps a selected question advances."""
    pace: Literal["deadline", "rounds", "literal"] = "deadline"
    """literal: one selection per stage; rounds: until the budget is used; deadline: also in time for T."""
    min_output_steps: Annotated[int, Field(ge=0)] = 0
    """Steps that every question writes at least, whatever the budget."""

    def __post_init__(self) -> None:
        require(
            self.stages is None or self.ramp_stages is None,
            "schedule.stages",
            self.stages,
            "left out where ramp_stages is given: both are T",
        )
