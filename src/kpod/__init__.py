"""KPOD: keypoint-based progressive chain-of-thought distillation (Feng et al., ICML 2024).

`import kpod` is light: what it offers is imported when it is first used, torch and transformers by `kpod.run`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kpod.experiment.pipeline import RunResult
    from kpod.recipe import Recipe
    from kpod.recipe.loading import load_recipe

__version__ = "0.2.0.dev1"

_MODULES = {
    "config": "AskConfig ColumnsConfig DataConfig DiversityConfig EvaluationConfig LoraConfig PromptConfig Recipe "
    "ScheduleConfig TeacherConfig TrainingConfig ValidationConfig WeightingConfig",
    "data.answers": "extract_answer same_answer",
    "data.datasets": "load_questions load_rationales",
    "data.reader": "read_questions read_rationales",
    "difficulty": "assess_difficulties step_difficulties",
    "errors": "ConfigError DataError KpodError ScheduleError TeacherError TrainingError TrainingInterruptedError "
    "WeightingError",
    "evaluation.accuracy": "judge summarise wilson_interval",
    "evaluation.generation": "answer_questions",
    "evaluation.pairing": "paired_difference",
    "lm.encoding": "encode_rationales",
    "lm.models": "LanguageModel load_model",
    "methods": "METHODS cluster_questions",
    "outcomes": "Accuracy PairedDifference Prediction",
    "pipeline": "RunResult run",
    "recipe": "load_recipe",
    "records": "Dropped Question Rationale Schedule TokenizedRationale",
    "schedule.plan": "linear_schedule make_schedule whole_rationales",
    "steps": "split_steps",
    "teacher.filters": "filter_rationales",
    "teacher.gathering": "Gathered gather_rationales",
    "training.batches": "StageDataset",
    "training.loss": "keypoint_loss",
    "training.rows": "RowDataset",
    "training.student": "TrainingSummary train_student",
    "training.trainer": "KeypointTrainer",
    "weighting.given": "digit_rule_weights shuffled_weights uniform_weights weights_in_data",
    "weighting.learn": "Weighing learn_weights",
    "weighting.weigher": "Weigher",
}
"""Where the public names stand, for `__getattr__`; a test compares it with `__all__` and the imports above."""
_HOMES = {name: f"kpod.{module}" for module, names in _MODULES.items() for name in names.split()}

_HOME = {"Recipe": "kpod.recipe", "load_recipe": "kpod.recipe.loading"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def run(recipe: "Recipe") -> "RunResult":
    """Distil as a recipe says; see `kpod.experiment.pipeline.run`."""
    from kpod.experiment.pipeline import run as run_pipeline

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
