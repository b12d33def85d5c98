"""KPOD: keypoint-based progressive chain-of-thought distillation (Feng et al., ICML 2024).

`import kpod` is light: a name is imported when it is first used, and torch and transformers with it. From a recipe,
`run(load_recipe("recipe.yaml"))` does everything. The phases are functions of records, in the paper's order:

| Algorithm 1 | functions |
|---|---|
| rationales of a file, a data set or a teacher | `read_rationales`, `load_rationales`, `gather_rationales` |
| which of them are trained on | `filter_rationales` |
| their tokens and steps | `load_model`, `encode_rationales`, `split_steps` |
| significance weights (Eq. 2-7) | `learn_weights`, `Weigher`; `digit_rule_weights`, `uniform_weights` to compare |
| step difficulties (Eq. 8) | `assess_difficulties`, `step_difficulties` |
| the schedule (Eq. 9-13) | `cluster_questions`, `make_schedule`, `linear_schedule`, `whole_rationales` |
| the student (Eq. 14-15) | `train_student`; `KeypointTrainer` in your own script |
| its accuracy | `answer_questions`, `judge`, `summarise`, `wilson_interval`, `paired_difference` |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpod.data.answers import extract_answer, last_number, same_answer
    from kpod.data.datasets import load_questions, load_rationales
    from kpod.data.hub import DATASETS
    from kpod.data.mentions import first_statement
    from kpod.data.reader import read_questions, read_rationales
    from kpod.evaluation.accuracy import judge, summarise, wilson_interval
    from kpod.evaluation.faithfulness import faithfulness
    from kpod.evaluation.generation import answer_questions
    from kpod.evaluation.pairing import paired_difference
    from kpod.experiment.methods import METHODS, cluster_questions
    from kpod.experiment.pipeline import Pipeline, RunResult, run
    from kpod.lm.encoding import encode_rationales
    from kpod.lm.layout import TextLayout
    from kpod.lm.models import LanguageModel, load_layout, load_model
    from kpod.recipe import (
        AskConfig,
        ColumnsConfig,
        DataConfig,
        DiversityConfig,
        EvaluationConfig,
        LoraConfig,
        PromptConfig,
        Recipe,
        ScheduleConfig,
        TeacherConfig,
        TrainingConfig,
        ValidationConfig,
        WeightingConfig,
    )
    from kpod.recipe.loading import load_recipe
    from kpod.records import Dropped, Question, Rationale, Schedule, TokenizedRationale
    from kpod.records.errors import (
        ConfigError,
        DataError,
        KpodError,
        ScheduleError,
        TeacherError,
        TrainingError,
        TrainingInterruptedError,
        WeightingError,
    )
    from kpod.records.outcomes import Accuracy, PairedDifference, Prediction
    from kpod.schedule.clusters import cluster_embeddings
    from kpod.schedule.difficulty import assess_difficulties, step_difficulties
    from kpod.schedule.progressive import linear_schedule, make_schedule, whole_rationales
    from kpod.schedule.selectors import SELECTORS
    from kpod.steps import split_steps
    from kpod.teacher.asking import ask_teacher
    from kpod.teacher.equations import checked_equations
    from kpod.teacher.filters import filter_rationales
    from kpod.teacher.gathering import Gathered, gather_rationales
    from kpod.training.batches import StageDataset
    from kpod.training.loss import keypoint_loss
    from kpod.training.row_dataset import RowDataset
    from kpod.training.student import TrainingSummary, train_student
    from kpod.training.trainer import KeypointTrainer
    from kpod.weighting.given import digit_rule_weights, shuffled_weights, spans_of, uniform_weights, weights_in_data
    from kpod.weighting.layouts import MaskedRationale
    from kpod.weighting.learn import Weighing, learn_weights
    from kpod.weighting.module import WeightGenerator, compute_weights
    from kpod.weighting.prefixes import Predictor
    from kpod.weighting.weigher import Weigher

__version__ = "0.2.0.dev1"

_MODULES = {
    "data.answers": "extract_answer last_number same_answer",
    "data.datasets": "load_questions load_rationales",
    "data.hub": "DATASETS",
    "data.mentions": "first_statement",
    "data.reader": "read_questions read_rationales",
    "evaluation.accuracy": "judge summarise wilson_interval",
    "evaluation.faithfulness": "faithfulness",
    "evaluation.generation": "answer_questions",
    "evaluation.pairing": "paired_difference",
    "experiment.methods": "METHODS cluster_questions",
    "experiment.pipeline": "Pipeline RunResult run",
    "lm.encoding": "encode_rationales",
    "lm.layout": "TextLayout",
    "lm.models": "LanguageModel load_layout load_model",
    "recipe": "AskConfig ColumnsConfig DataConfig DiversityConfig EvaluationConfig LoraConfig PromptConfig Recipe "
    "ScheduleConfig TeacherConfig TrainingConfig ValidationConfig WeightingConfig",
    "recipe.loading": "load_recipe",
    "records": "Dropped Question Rationale Schedule TokenizedRationale",
    "records.errors": "ConfigError DataError KpodError ScheduleError TeacherError TrainingError "
    "TrainingInterruptedError WeightingError",
    "records.outcomes": "Accuracy PairedDifference Prediction",
    "schedule.clusters": "cluster_embeddings",
    "schedule.difficulty": "assess_difficulties step_difficulties",
    "schedule.progressive": "linear_schedule make_schedule whole_rationales",
    "schedule.selectors": "SELECTORS",
    "steps": "split_steps",
    "teacher.asking": "ask_teacher",
    "teacher.equations": "checked_equations",
    "teacher.filters": "filter_rationales",
    "teacher.gathering": "Gathered gather_rationales",
    "training.batches": "StageDataset",
    "training.loss": "keypoint_loss",
    "training.row_dataset": "RowDataset",
    "training.student": "TrainingSummary train_student",
    "training.trainer": "KeypointTrainer",
    "weighting.given": "digit_rule_weights shuffled_weights spans_of uniform_weights weights_in_data",
    "weighting.layouts": "MaskedRationale",
    "weighting.learn": "Weighing learn_weights",
    "weighting.module": "WeightGenerator compute_weights",
    "weighting.prefixes": "Predictor",
    "weighting.weigher": "Weigher",
}
"""Where the public names stand, for `__getattr__`; a test compares it with `__all__` and the imports above."""
_HOMES = {name: f"kpod.{module}" for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "DATASETS",
    "METHODS",
    "SELECTORS",
    "Accuracy",
    "AskConfig",
    "ColumnsConfig",
    "ConfigError",
    "DataConfig",
    "DataError",
    "DiversityConfig",
    "Dropped",
    "EvaluationConfig",
    "Gathered",
    "KeypointTrainer",
    "KpodError",
    "LanguageModel",
    "LoraConfig",
    "MaskedRationale",
    "PairedDifference",
    "Pipeline",
    "Prediction",
    "Predictor",
    "PromptConfig",
    "Question",
    "Rationale",
    "Recipe",
    "RowDataset",
    "RunResult",
    "Schedule",
    "ScheduleConfig",
    "ScheduleError",
    "StageDataset",
    "TeacherConfig",
    "TeacherError",
    "TextLayout",
    "TokenizedRationale",
    "TrainingConfig",
    "TrainingError",
    "TrainingInterruptedError",
    "TrainingSummary",
    "ValidationConfig",
    "Weigher",
    "Weighing",
    "WeightGenerator",
    "WeightingConfig",
    "WeightingError",
    "__version__",
    "answer_questions",
    "ask_teacher",
    "assess_difficulties",
    "checked_equations",
    "cluster_embeddings",
    "cluster_questions",
    "compute_weights",
    "digit_rule_weights",
    "encode_rationales",
    "extract_answer",
    "faithfulness",
    "filter_rationales",
    "first_statement",
    "gather_rationales",
    "judge",
    "keypoint_loss",
    "last_number",
    "learn_weights",
    "linear_schedule",
    "load_layout",
    "load_model",
    "load_questions",
    "load_rationales",
    "load_recipe",
    "make_schedule",
    "paired_difference",
    "read_questions",
    "read_rationales",
    "run",
    "same_answer",
    "shuffled_weights",
    "spans_of",
    "split_steps",
    "step_difficulties",
    "summarise",
    "train_student",
    "uniform_weights",
    "weights_in_data",
    "whole_rationales",
    "wilson_interval",
]

if not TYPE_CHECKING:  # a type checker would take any name for public

    def __getattr__(name: str) -> Any:
        """A public name, imported when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module 'kpod' has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(_HOMES[name]), name)
        return found

    def __dir__() -> list[str]:
        """The public names, also those that nobody has used yet."""
        return sorted({*globals(), *__all__})
