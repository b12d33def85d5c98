"""KPOD: keypoint-based progressive chain-of-thought distillation (Feng et al., ICML 2024).

`import kpod` is light; `kpod.run` imports torch and transformers when it is called first.
"""

from typing import TYPE_CHECKING

from kpod.recipe import Recipe
from kpod.recipe.loading import load_recipe

if TYPE_CHECKING:
    from kpod.experiment.pipeline import RunResult

__all__ = ["Recipe", "__version__", "load_recipe", "run"]
__version__ = "0.2.0.dev1"


def run(recipe: Recipe) -> "RunResult":
    """Distil as a recipe says; see `kpod.experiment.pipeline.run`."""
    from kpod.experiment.pipeline import run as run_pipeline

    return run_pipeline(recipe)
