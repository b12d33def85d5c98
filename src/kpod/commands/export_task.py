"""`kpod export-task`: a run's test sets as tasks of lm-evaluation-harness."""

from pathlib import Path

from kpod.evaluation.lm_eval import export_task
from kpod.experiment.pipeline import Pipeline
from kpod.lm.encoding import prompt_text
from kpod.lm.models import load_tokenizer
from kpod.records.errors import require


def export_tasks(pipeline: Pipeline, folder: Path) -> dict[str, int]:
    """Write a task for every test set of a recipe; returns their names with how many questions they ask.

    Raises:
        ConfigError: If the recipe lets a majority of several texts answer; a task asks for one.
    """
    recipe = pipeline.recipe
    require(recipe.evaluation.samples == 1, "evaluation.samples", recipe.evaluation.samples, "1, for a task of lm-eval")
    tokenizer = load_tokenizer(recipe.student)
    written = {}
    for test in recipe.data.tests:
        questions = pipeline.data.questions(test)
        prompts = [prompt_text(tokenizer, question, recipe.data.prompt) for question in questions]
        name = export_task(folder, test, questions, prompts, recipe.evaluation.max_new_tokens, recipe.data.answer_words)
        written[name] = len(questions)
    return written
