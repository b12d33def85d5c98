"""What a run reads anew each time, so that changed data is noticed: rationales to train on, and questions to ask."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from kpod.data.datasets import load_questions
from kpod.experiment import artifacts
from kpod.experiment.artifacts import DROPPED
from kpod.experiment.keys import rationales_key, told_key, validation_key
from kpod.experiment.methods import METHODS
from kpod.experiment.preflight import check_before_asking, check_some_are_kept, pays_a_teacher
from kpod.experiment.run_folder import RunFolder
from kpod.lm.models import load_model
from kpod.lm.processes import first_process_first, is_first_process
from kpod.lm.suitability import check_student
from kpod.recipe import Recipe
from kpod.recipe.loading import dump_recipe
from kpod.records import Dropped, Question
from kpod.records.files import write_text
from kpod.teacher.gathering import Gathered, gather_rationales
from kpod.weighting import check_predictor


def check_recipes_predictor(recipe: Recipe) -> None:
    """Load the model that is to learn a recipe's weights, and stop where it cannot, before anything is paid for.

    Raises:
        ConfigError: As `load_model`, or if it cannot carry adapters.
        WeightingError: If it cannot read embeddings as it reads token ids.
    """
    config = recipe.weighting
    lm = load_model(config.predictor or recipe.student, config.precision or recipe.precision)
    check_predictor(lm, config)


class Sources:
    """The data of a run.

    Args:
        recipe: The whole experiment.
        folder: The run's; what is trained on is listed there.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe, self.folder = recipe, folder

    @cached_property
    def gathered(self) -> Gathered:
        """The rationales, recorded or a teacher's, before and after the filter."""
        recipe = self.recipe
        with first_process_first():  # which asks the teacher, where one is asked
            self.folder.check_writable()
            check_student(recipe.student, recipe.data.prompt, recipe.training.lora)
            check_before_asking(recipe)
            if METHODS[recipe.method].learns and pays_a_teacher(recipe):
                check_recipes_predictor(recipe)
            gathered = gather_rationales(recipe.data, recipe.teacher, Path(recipe.runs))
        check_some_are_kept(recipe, gathered, (), self.folder.path / DROPPED)
        if is_first_process():
            write_text(self.folder.path / "recipe.yaml", dump_recipe(recipe))
            artifacts.write_jsonl(self.folder.path / "rationales.jsonl", map(artifacts.rationale_row, gathered.kept))
        return gathered

    def check_some_are_kept(self, unfit: Sequence[Dropped]) -> None:
        """Raise DataError if nothing is left to train on.

        Args:
            unfit: Rationales that passed the filter and could not be tokenised.
        """
        check_some_are_kept(self.recipe, self.gathered, unfit, self.folder.path / DROPPED)

    @property
    def bring_weights(self) -> bool:
        """Whether the data holds weights of rationale tokens, which are then not learnt."""
        return any(rationale.token_weights is not None for rationale in self.gathered.kept)

    @cached_property
    def validation(self) -> list[Question]:
        """The questions that choose the checkpoint; none where the last one is taken."""
        config, data = self.recipe.training.validation, self.recipe.data
        return load_questions(config.questions, replace(data, test_limit=config.limit)) if config else []

    def questions(self, test: str) -> list[Question]:
        """The questions of a test set."""
        return load_questions(test, self.recipe.data)

    @property
    def keys(self) -> Mapping[str, str]:
        """Hashes of what was read, by the phases that stand for it."""
        return {
            "rationales": rationales_key(self.gathered.kept),
            "counterfactual": rationales_key(self.gathered.counterfactual),
            "told": told_key(self.recipe, self.gathered),
            "validation": validation_key(self.recipe, self.validation),
        }
