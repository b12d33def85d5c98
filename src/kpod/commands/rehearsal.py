"""`kpod check RECIPE`: check a run before any work. No teacher is asked, and nothing is written."""

from pathlib import Path

from kpod.commands.checked import Checked
from kpod.experiment.forecast import Forecast, SourceUse, unused
from kpod.experiment.methods import METHODS
from kpod.experiment.pipeline import Pipeline
from kpod.experiment.preflight import attempt, pays_a_teacher, question_uses, training_use
from kpod.experiment.sources import check_recipes_predictor, held_out_rationales
from kpod.lm.encoding import encode_all
from kpod.lm.engines import require_engine
from kpod.lm.models import SMOLLM2, load_layout
from kpod.lm.student_prompts import unused_template
from kpod.lm.suitability import check_student
from kpod.recipe import Recipe
from kpod.records import Dropped, Rationale
from kpod.records.errors import ConfigError, KpodError, require
from kpod.teacher.asking import teacher_of
from kpod.teacher.gathering import recorded, store_of
from kpod.weighting import spans_in_data


def rehearse(recipe: Recipe, target: str) -> Checked:
    """Check a recipe, and forecast what its run would use of every source.

    Of a teacher's answers those count that the store holds already. Of the student only the tokenizer and the
    config are loaded; where they cannot be, a warning says so, and no rationale counts as too long. Where a teacher
    has yet to answer, the model that is to learn the weights is loaded too, unless the Hub has it, and is asked
    whether it can.

    Args:
        recipe: The whole experiment.
        target: What the user calls it.
    """
    errors: list[str] = []
    warnings: list[str] = []
    attempt(lambda: Pipeline(recipe), errors)
    recipe = METHODS[recipe.method].recipe(recipe) if recipe.method in METHODS else recipe
    attempt(lambda: require_engine(recipe.evaluation.engine), errors)
    attempt(lambda: _check_embeddings(recipe.schedule.embeddings), errors)
    if (predictor := recipe.weighting.predictor) is not None:
        attempt(lambda: load_layout(predictor), warnings)
    forecast = Forecast((_training(recipe, errors, warnings), *question_uses(recipe)))
    return Checked(target, forecast, errors=tuple(errors), warnings=tuple(warnings))


def _training(recipe: Recipe, errors: list[str], warnings: list[str]) -> SourceUse:
    try:
        gathered = recorded(recipe.data, recipe.teacher, Path(recipe.runs))
    except KpodError as error:
        return SourceUse(role="train", name=recipe.data.train, fault=str(error))
    learns = recipe.method not in METHODS or METHODS[recipe.method].learns
    if gathered.num_unasked:
        attempt(lambda: _check_teacher(recipe), errors)
        if learns:
            attempt(lambda: _check_predictor(recipe), errors)
    attempt(lambda: held_out_rationales(recipe, gathered.kept), errors)
    unfit = _unfit(recipe, gathered.kept, learns, errors, warnings)
    return training_use(recipe, gathered, learns).also_without(unused(unfit, recipe))


def _unfit(
    recipe: Recipe, rationales: list[Rationale], learns: bool, errors: list[str], warnings: list[str]
) -> list[Dropped]:
    """The rationales that do not fit the student or its tokenizer."""
    if not rationales:
        return []
    try:
        layout = load_layout(recipe.student)
    except ConfigError as error:
        warnings.append(f"{error}; rationales were not checked against the length that the student reads")
        return []
    attempt(lambda: check_student(recipe.student, recipe.data.prompt, recipe.training.lora), errors)
    if note := unused_template(layout, recipe.data.prompt):
        warnings.append(note)
    try:
        encoded = encode_all(layout, rationales, recipe.data)
        unfit = [item for item in encoded if isinstance(item, Dropped)]
    except KpodError as error:
        errors.append(str(error))
        return []
    if learns:
        left_out = {item.id for item in unfit}
        attempt(lambda: spans_in_data(rationales, [r.id for r in rationales if r.id not in left_out]), errors)
    return unfit


def _check_embeddings(embeddings: str) -> None:
    there = embeddings == "student" or Path(embeddings).is_file()
    require(there, "schedule.embeddings", embeddings, "student, or a GloVe text file that exists")


def _check_predictor(recipe: Recipe) -> None:
    """Raise what would end the run before a teacher is paid; a model of the Hub is not fetched for that."""
    name = recipe.weighting.predictor or recipe.student
    if pays_a_teacher(recipe) and (name == SMOLLM2 or Path(name).is_dir()):
        check_recipes_predictor(recipe)


def _check_teacher(recipe: Recipe) -> None:
    """Raise what asking would fail at before the first request, such as a missing API key."""
    ask = recipe.teacher.ask
    if ask is not None and ask.backend != "local":
        teacher_of(ask, store_of(ask, Path(recipe.runs)))
