"""KPOD: keypoint-based progressive chain-of-thought distillation (Feng et al., ICML 2024).

`import kpod` is light: what it offers is imported when it is first used, torch and transformers by `kpod.run`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kpod.experiment.pipeline import RunResult
    from kpod.recipe import Recipe
    from kpod.recipe.loading import load_recipe

__all__ = ["Recipe", "__version__", "load_recipe", "run"]
__version__ = "0.2.0.dev1"


_HOME = {"Recipe": "kpod.recipe", "load_recipe": "kpod.recipe.loading"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def run(recipe: "Recipe") -> "RunResult":
    """Distil as a recipe says; see `kpod.experiment.pipeline.run`."""
    from kpod.experiment.pipeline import run as run_pipeline

    return run_pipeline(recipe)
