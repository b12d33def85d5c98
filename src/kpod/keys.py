"""What each phase of a run is made from: a key that changes with any of it, so that nothing is done twice."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import kpod
from kpod.artifacts import key_of, question_row, rationale_row
from kpod.config import EvaluationConfig, Recipe
from kpod.lm.models import model_identity
from kpod.methods import LEARNING, METHODS, Weigh
from kpod.records import Question, Rationale

ANSWER_RULE = "first statement"
"""What `TokenizedRationale.before_answer` means; only prefixes, and so learnt weights, depend on it."""


def phase_keys(recipe: Recipe, rationales: Sequence[Rationale], validation: Sequence[Question]) -> Mapping[str, str]:
    """Of each phase up to the student the hash of all it is made from.

    Phases that do not depend on the method have the same key under every method, so that runs can share them.

    Args:
        recipe: The whole experiment.
        rationales: Those that are trained on.
        validation: The questions that choose the checkpoint.
    """
    data, method = recipe.data, METHODS[recipe.method]
    rows = [rationale_row(rationale) for rationale in rationales]
    text = key_of(rows, asdict(data.prompt), data.step_rule, data.max_steps, data.max_length)
    sequences = key_of(kpod.__version__, text, model_identity(recipe.student))
    tokens = key_of(sequences, ANSWER_RULE)
    predictor = model_identity(recipe.weighting.predictor) if recipe.weighting.predictor else None
    weights = key_of(tokens, asdict(recipe.weighting), predictor, recipe.seed, recipe.precision)

    def weighed(rule: Weigh) -> list[str]:
        return [rule.__name__, weights] if rule in LEARNING else [rule.__name__]

    difficulties = key_of(sequences, weighed(method.weigh_steps), recipe.precision)
    order = [method.order.__name__, asdict(recipe.schedule), recipe.training.num_train_epochs]
    plan = key_of(difficulties, order, recipe.seed)
    training = [asdict(method.training(recipe.training)), recipe.seed, recipe.precision]
    judging: list[object] = [[question_row(q) for q in validation]]  # which choose the checkpoint
    if validation and data.answer_words:
        judging.append(list(data.answer_words))
    return {
        "rationales": key_of(rows),
        "tokens": tokens,
        "weights": weights,
        "difficulties": difficulties,
        "plan": plan,
        "student": key_of(plan, weighed(method.weigh), training, *judging),
    }


def evaluation_key(recipe: Recipe, model: str, questions: Sequence[Question]) -> str:
    """What the answers of a model, by name or folder, to a set of questions are made from."""
    settings = asdict(replace(recipe.evaluation, before=True))
    if recipe.evaluation.engine == EvaluationConfig.engine:
        del settings["engine"]  # evaluations from before there was a choice stay done
    rows = [question_row(q) for q in questions]
    words = [list(recipe.data.answer_words)] if recipe.data.answer_words else []
    return key_of(model_identity(model), rows, asdict(recipe.data.prompt), settings, recipe.precision, *words)
