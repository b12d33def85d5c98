"""What each phase of a run is made from: a key that changes with any of it, so that nothing is done twice.

Keys follow from what phases and the parts of a method declare. Phases that do not depend on the method have the same
key under every method, so that runs can share them.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import kpod
from kpod.experiment.artifacts import key_of, question_row, rationale_row
from kpod.experiment.methods import METHODS, Method
from kpod.experiment.parts import Part
from kpod.lm.models import model_identity
from kpod.recipe import EvaluationConfig, Recipe
from kpod.records import Question, Rationale
from kpod.records.errors import require
from kpod.records.files import content_of
from kpod.teacher.gathering import Gathered

LOGGING = frozenset({"logging_strategy", "logging_steps", "logging_first_step", "report_to", "run_name", "project"})
SAVING = LOGGING | {"save_steps", "save_total_limit", "disable_tqdm"}
"""TrainingArguments that say what is saved and shown while a student is trained, whatever it becomes."""
BESIDE_TRAINING = ("save_strategy", "validation", "reference", "excess_share", "on_policy")
"""Keys of `training` that do not change what an update does, or that some losses alone read."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A row of Algorithm 1: what makes a phase, and from what.

    Attributes:
        name: Its folder's name too.
        make: Writes the run's files of it into a folder; None where that is not this row's work.
        load: From the run and the folder to what `make` wrote there.
        needs: Phases before it that it is made from.
        parts: Fields of the method that it is made by; what they need and read counts as its own.
        reads: Recipe keys, or sections of keys, that change it.
        after: Phases before it whose files it reads, though they change with keys that leave it as it is.
        sources: Recipe keys, or sections of keys, that lead to what is read anew each time and counts by its content.
        together: Whether several processes share the work of it; else the first one does it.
    """

    name: str
    make: Callable[[Any, Path], None] | None = None
    load: Callable[[Any, Path], Any] = lambda *_: None
    needs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    together: bool = False

    def parts_of(self, method: Method) -> list[Part[Any]]:
        """The method's parts that make the phase; a phase whose parts it lacks is not made."""
        return [part for field in self.parts for part in method.parts(field)]

    def is_of(self, method: Method) -> bool:
        """Whether the method has what makes the phase."""
        return not self.parts or bool(self.parts_of(method))


def needed(phases: Sequence[Phase], method: Method, last: str = "student") -> list[Phase]:
    """The phases that one of them is made from under a method, and itself, in their order."""
    wanted = {last}
    for phase in reversed(phases):
        if phase.name in wanted and phase.is_of(method):
            wanted.update(phase.needs, phase.after, *(part.needs for part in phase.parts_of(method)))
    return [phase for phase in phases if phase.name in wanted and phase.is_of(method)]


def touched(key: str, phases: Sequence[Phase], method: Method) -> tuple[list[str], list[str], list[str]]:
    """What a recipe key, or a section of keys, changes under a method, by what phases and parts declare.

    Returns:
        The phases that read it; those that may, since it leads to what is read anew; and those that follow from both.
    """
    read: list[str] = []
    sourced: list[str] = []
    following: list[str] = []
    for phase in needed(phases, method):
        items: list[Phase | Part[Any]] = [phase, *phase.parts_of(method)]
        declared = {name for item in items for name in item.reads} | ({"method"} if phase.parts else set())
        if any(_overlap(key, name) for one in declared for name in (one, *DEPENDS_ON.get(one, ()))):
            read.append(phase.name)
        elif any(_overlap(key, name) for name in phase.sources):
            sourced.append(phase.name)
        elif {name for item in items for name in item.needs} & {*read, *sourced, *following}:
            following.append(phase.name)
    return read, sourced, following


def _overlap(key: str, declared: str) -> bool:
    """Whether a key is one that is declared, or one of the two is a section that holds the other."""
    apart = tuple(f"training.{name}." for name in (*SAVING, *BESIDE_TRAINING))
    if f"{key}.".startswith(apart) and not f"{declared}.".startswith(apart):
        return False
    return f"{key}.".startswith(f"{declared}.") or f"{declared}.".startswith(f"{key}.")


def phase_keys(phases: Sequence[Phase], recipe: Recipe, sources: Mapping[str, str]) -> dict[str, str]:
    """Of each phase the hash of all that it is made from.

    Args:
        phases: Those that the recipe's method needs, in their order.
        recipe: The whole experiment.
        sources: The keys of the phases that are read anew each time: hashes of what was read.
    """
    keys: dict[str, str] = {}
    for phase in phases:
        made_from = [_declared(phase, keys, recipe), [_declared(p, keys, recipe) for p in phase.parts_of(_of(recipe))]]
        keys[phase.name] = sources.get(phase.name) or key_of(kpod.__version__, made_from)
    return keys


def _of(recipe: Recipe) -> Method:
    return METHODS[recipe.method]


def _declared(item: Phase | Part[Any], keys: Mapping[str, str], recipe: Recipe) -> list[object]:
    """The name of a phase or part, the keys of its needs and the values of what it reads."""
    needs = {name: keys[name] for name in item.needs if name in keys}
    return [item.name, needs, {key: value_of(recipe, key) for key in item.reads}]


def value_of(recipe: Recipe, key: str) -> object:
    """What a recipe says under a key or a section of keys; models and files by their content, and defaults resolved."""
    if key in RESOLVED:
        return RESOLVED[key](recipe)
    found = reduce(getattr, key.split("."), recipe)
    return asdict(found) if is_dataclass(found) and not isinstance(found, type) else found


def _weighting(recipe: Recipe) -> object:
    config = recipe.weighting
    predictor = model_identity(config.predictor) if config.predictor else None
    return asdict(config) | {"predictor": predictor, "precision": config.precision or recipe.precision}


def _training(recipe: Recipe) -> object:
    """What changes any student: not what is saved and shown, chooses its checkpoint, or is read by some losses."""
    settings = asdict(_of(recipe).training(recipe.training))
    absent = {"merge_lora": recipe.training.lora is None, "average": recipe.training.average is None}
    for name in (*BESIDE_TRAINING, *(name for name, is_absent in absent.items() if is_absent)):
        del settings[name]
    settings["arguments"] = {name: value for name, value in settings["arguments"].items() if name not in SAVING}
    return settings


def _teacher_logprobs(recipe: Recipe) -> object:
    config = recipe.teacher.logprobs
    if config is None:  # those that came with the answers, which are hashed as they are read
        return None
    return [model_identity(config.model), config.top_k, config.precision or recipe.precision]


def _embeddings(recipe: Recipe) -> object:
    name = recipe.schedule.embeddings
    if name == "student":
        return [name, recipe.precision]
    require(Path(name).is_file(), "schedule.embeddings", name, "student, or a GloVe text file that exists")
    return content_of(Path(name))


def _selector(recipe: Recipe) -> object:
    name = recipe.schedule.selector
    return [name, recipe.seed] if name == "random" else name


RESOLVED: Mapping[str, Callable[[Recipe], object]] = {
    "student": lambda recipe: model_identity(recipe.student),
    "weighting": _weighting,
    "training": _training,
    "training.reference": lambda recipe: recipe.training.reference and model_identity(recipe.training.reference),
    "teacher.logprobs": _teacher_logprobs,
    "schedule.embeddings": _embeddings,
    "schedule.selector": _selector,
}
"""Keys whose value in the recipe is not all that they stand for."""
DEPENDS_ON: Mapping[str, tuple[str, ...]] = {
    "weighting": ("precision",),
    "schedule.embeddings": ("precision",),
    "schedule.selector": ("seed",),
}
"""Of the keys above the other keys that they stand for."""


def rationales_key(rationales: Iterable[Rationale]) -> str:
    """A hash of the rationales to train on, one after the other: all of them as one text would be as large again."""
    found = hashlib.sha256()
    for rationale in rationales:
        found.update(key_of(rationale_row(rationale)).encode())
    return found.hexdigest()[:16]


def told_key(recipe: Recipe, gathered: Gathered) -> str:
    """A hash of the log-probabilities that came with a teacher's answers, where no model is named that gives others."""
    found, ask = hashlib.sha256(), recipe.teacher.ask
    if recipe.teacher.logprobs is None and ask is not None and ask.logprobs is not None and gathered.asked is not None:
        found.update(str(ask.logprobs).encode())
        for rationale in gathered.kept:
            place = gathered.places[rationale.id]
            found.update(repr((place.start, gathered.asked.attempts[place.key].logprobs)).encode())
    return found.hexdigest()[:16]


def validation_key(recipe: Recipe, questions: Sequence[Question]) -> str:
    """A hash of what chooses the checkpoint: the questions, and how they are asked."""
    config = recipe.training.validation
    if config is None:
        return key_of(None)
    choice = {name: getattr(config, name) for name in ("every_epochs", "patience", "student")}
    asking = _asking(recipe.evaluation)
    return key_of([question_row(q) for q in questions], choice, asking, list(recipe.data.answer_words))


def evaluation_key(recipe: Recipe, model: str, questions: Sequence[Question]) -> str:
    """What the texts of a model on a set of questions are made from; they are judged whenever they are read.

    Args:
        recipe: The whole experiment.
        model: What tells the model from another: its identity, or the key that it was trained under.
        questions: What it is asked.
    """
    config, rows = recipe.evaluation, [question_row(question) for question in questions]
    how = _asking(config) | {"engine": config.engine, "self_check": config.self_check}
    return key_of(model, rows, asdict(recipe.data.prompt), how, recipe.precision)


def _asking(config: EvaluationConfig) -> dict[str, object]:
    """The keys of `evaluation` that change what a student writes."""
    temperature = config.temperature if config.samples > 1 else None
    names = ("batch_size", "max_new_tokens", "samples")
    return {name: getattr(config, name) for name in names} | {"temperature": temperature}
