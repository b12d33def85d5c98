"""A run's evaluations: a model's texts on every test set, made once, and judged whenever they are read."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from kpod.evaluation.accuracy import judge_again, summarise
from kpod.evaluation.generation import answer_questions
from kpod.evaluation.held_out import surprises
from kpod.experiment import artifacts
from kpod.experiment.keys import evaluation_key
from kpod.experiment.phases import do_phase
from kpod.experiment.run_folder import RunFolder, check_unaltered
from kpod.experiment.sources import Sources
from kpod.lm.encoding import encode_all
from kpod.lm.engines import ENGINES, Engine
from kpod.lm.models import LanguageModel, load_model
from kpod.lm.processes import agreed, first_process_first, is_first_process, process_number
from kpod.recipe import Recipe
from kpod.records import EXPLAIN, Question, TokenizedRationale
from kpod.records.outcomes import Accuracy, Prediction, Surprise

AFTER = "after"
LAST_UPDATE = "last-update"
"""The student after its last optimiser step, where weights are averaged and `after` stands for their mean."""

log = logging.getLogger(__name__)


def named(test: str, when: str) -> str:
    """What a test set is called in a table: by its name, and by what was asked where it was not the student."""
    return f"{test}, last update" if when == LAST_UPDATE else test


def of_last_update(key: str) -> str:
    """What tells the last update of a training from the student that its key stands for."""
    return f"{key}, last update"


def held_out_phase(when: str) -> str:
    """The folder of what was measured on held-out rationales."""
    return f"held_out/{when}"


class Evaluations:
    """The evaluations of one recipe.

    Args:
        recipe: The whole experiment.
        folder: The run's.
        data: Holds the questions.
        task: What the recipe's words ask of a student.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, data: Sources, task: str = EXPLAIN) -> None:
        self.recipe, self.folder, self.data, self.task = recipe, folder, data, task

    def evaluate(self, when: str, identity: str, name: str) -> dict[str, Accuracy]:
        """A model's accuracy on every test set.

        Args:
            when: What the evaluations are kept under.
            identity: What tells the model from others.
            name: Its name or folder; it is loaded where a text is missing.
        """
        loaded = cache(lambda: ENGINES[self.recipe.evaluation.engine](name, self.recipe.precision))
        return {test: self._evaluate_on(test, when, identity, loaded) for test in self.recipe.data.tests}

    def measure(self, when: str, identity: str, name: str) -> list[Surprise]:
        """How surprised a model is by the held-out rationales; nothing is measured where the recipe names none.

        Args:
            when: What it is kept under.
            identity: What tells the model from others.
            name: Its name or folder.
        """
        rationales, data = self.data.held_out, self.recipe.data
        if not rationales:
            return []

        def make(folder: Path) -> None:
            lm, texts = load_model(name, self.recipe.precision), {one.id: one.text for one in rationales}
            tokens = [one for one in encode_all(lm, rationales, data) if isinstance(one, TokenizedRationale)]
            if len(tokens) < len(rationales):
                log.warning("%d held-out rationales do not fit the student", len(rationales) - len(tokens))
            found = {one.id: one for one in surprises(lm, tokens, texts)}
            artifacts.save_surprises(folder, [found[one.id] for one in tokens])

        return artifacts.load_surprises(
            do_phase(self.folder, held_out_phase(when), self.held_out_key(identity), make, together=True)
        )

    def held_out_key(self, identity: str) -> str:
        """What the NLL of the held-out rationales under a model is made from."""
        data, rows = self.recipe.data, [artifacts.rationale_row(rationale) for rationale in self.data.held_out]
        read = [asdict(data.prompt), data.max_length, data.step_rule, data.max_steps]
        return artifacts.key_of(identity, rows, read, self.recipe.precision)

    def measured(self, when: str) -> list[Surprise]:
        """What `measure` saved.

        Raises:
            DataError: If there is nothing, or a file of it was altered.
        """
        folder = self.folder.path / held_out_phase(when)
        check_unaltered(folder, "kpod evaluate")
        return artifacts.load_surprises(folder)

    def key(self, identity: str, test: str) -> str:
        """What a model's texts on a test set are made from."""
        return evaluation_key(self.recipe, identity, self.data.questions(test))

    def accuracy_on_validation(self, lm: LanguageModel) -> float:
        """The accuracy on the questions that choose the checkpoint, in [0, 1]."""
        return summarise("validation", self._answer(lm, self.data.validation)).value

    def saved(self, when: str, test: str) -> tuple[list[Prediction], Accuracy]:
        """Predictions that were saved, judged by the rules of today, and their accuracy.

        Raises:
            DataError: If there are none, or a file of them was altered.
        """
        folder = self.folder.path / artifacts.evaluation_phase(when, test)
        check_unaltered(folder, "kpod evaluate")
        _, predictions, accuracy = self._judged(folder)
        return predictions, accuracy

    def _evaluate_on(self, test: str, when: str, identity: str, loaded: Callable[[], Engine]) -> Accuracy:
        questions, phase, key = (
            self.data.questions(test),
            artifacts.evaluation_phase(when, test),
            self.key(identity, test),
        )
        place = self.folder.place(phase, key)
        shared = self.recipe.evaluation.engine == "transformers"
        partial = artifacts.PartialEvaluation(place.with_name(f".{place.name}.jsonl"), process_number())

        def make(folder: Path) -> None:
            kept = partial.read() if is_first_process() else {}
            kept = agreed(kept) if shared else kept
            predictions = self._answer(loaded(), questions, kept, partial.append)
            artifacts.save_evaluation(folder, predictions, summarise(test, predictions))

        do_phase(self.folder, phase, key, make, together=shared)
        with first_process_first():
            partial.remove()
            saved, predictions, accuracy = self._judged(place)
            if predictions != saved:
                log.warning("%s: the rules that read answers changed; the saved texts are judged again", phase)
                with self.folder.alone(phase, key), self.folder.making(phase, key) as folder:
                    artifacts.save_evaluation(folder, predictions, accuracy)
        return accuracy

    def _judged(self, folder: Path) -> tuple[list[Prediction], list[Prediction], Accuracy]:
        """Predictions as they were saved and under the rules of today, and their accuracy."""
        saved, accuracy = artifacts.load_evaluation(folder)
        predictions = [judge_again(prediction, self.recipe.data.answer_words) for prediction in saved]
        return saved, predictions, accuracy if predictions == saved else summarise(accuracy.dataset, predictions)

    def _answer(self, lm: Engine, questions: Sequence[Question], *kept: Any) -> list[Prediction]:
        data = self.recipe.data
        return answer_questions(lm, questions, data.prompt, self.recipe.evaluation, *kept, words=data.answer_words)
