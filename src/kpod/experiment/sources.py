"""What a run reads anew each time, so that changed data is noticed: rationales to train on, and questions to ask."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from kpod.data.datasets import load_questions
from kpod.data.splits import question_key
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
from kpod.records import Dropped, Question, Rationale
from kpod.records.errors import DataError
from kpod.records.files import write_text
from kpod.teacher.gathering import Gathered, gather_rationales, recorded_beside
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


def _keys_of(rationale: Rationale) -> tuple[str, str]:
    """What its question is known by, whatever file it stands in: its id, and its words."""
    return rationale.question.id, question_key(rationale.question.question)


def held_out_rationales(recipe: Recipe, trained: Sequence[Rationale]) -> list[Rationale]:
    """Rationales to measure a student on, one for each question; none of a question that is trained on.

    Args:
        recipe: The whole experiment; without `evaluation.held_out` there are none.
        trained: The rationales that are trained on.

    Raises:
        DataError: If the source is wrong, or holds fewer than two of them.
    """
    config = recipe.evaluation.held_out
    if config is None:
        return []
    known = {key for one in trained for key in _keys_of(one)}
    found: dict[str, Rationale] = {}
    for rationale in recorded_beside(recipe.data, recipe.teacher, config.rationales):
        if not known.intersection(_keys_of(rationale)):
            found.setdefault(rationale.question.id, rationale)
    if len(found) < 2:
        raise DataError(
            f"evaluation.held_out.rationales: {config.rationales} holds {len(found)} rationales of questions that "
            "are not trained on, and at least 2 are needed; set data.train_limit, or name another source"
        )
    return list(found.values())[: config.limit]


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

    @cached_property
    def held_out(self) -> list[Rationale]:
        """What `held_out_rationales` finds; without the key nothing is gathered for it."""
        return held_out_rationales(self.recipe, self.gathered.kept) if self.recipe.evaluation.held_out else []

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
