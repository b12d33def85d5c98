"""A model that cannot learn weights is refused before a teacher is paid and before a student is asked anything."""

from pathlib import Path

import pytest

from kpod.commands.rehearsal import rehearse
from kpod.experiment.pipeline import Pipeline
from kpod.recipe import Recipe
from kpod.records.errors import KpodError, WeightingError
from tiny import byte_tokenizer
from tiny_runs import recipe, write_tiny_data
from zoo import build_model

ASK = ("--teacher.ask.model", "theirs", "--teacher.ask.base_url", "http://127.0.0.1:9/v1", "--teacher.filter", "none")


class AskedError(Exception):
    """The teacher was about to be asked."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_data(tmp_path_factory.mktemp("data"))
    for name in ("gemma4", "gemma3n"):
        build_model(name).save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AskedError

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr("kpod.teacher.gathering.ask_teacher", asked)


def student_and_predictor(data: Path, runs: Path, student: str, predictor: str | None, *more: str) -> Recipe:
    named = ("--weighting.predictor", str(data / predictor)) if predictor else ()
    return recipe(data, runs, student, *named, *more)


UNFIT = [("gemma4", None, "cannot read embeddings"), ("llama", "gemma3n", "does not read embeddings as")]


@pytest.mark.parametrize(("student", "predictor", "words"), UNFIT)
def test_before_a_teacher_is_asked(student: str, predictor: str | None, words: str, data: Path, tmp_path: Path) -> None:
    found = student_and_predictor(data, tmp_path, student, predictor, *ASK)
    with pytest.raises(WeightingError, match=rf"{words}.*weighting\.predictor.*scotd"):
        Pipeline(found).run()
    (told,) = [error for error in rehearse(found, "recipe").errors if words in error]
    assert "weighting.predictor" in told


@pytest.mark.parametrize(
    ("student", "predictor", "more"),
    [("llama", None, ()), ("gemma4", "llama", ()), ("gemma4", None, ("--method", "scotd")), ("t5", None, ())],
)
def test_a_teacher_is_asked_where_weights_can_be_learnt_or_are_not_wanted(
    student: str, predictor: str | None, more: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    found = student_and_predictor(data, tmp_path, student, predictor, *ASK, *more)
    assert not [error for error in rehearse(found, "recipe").errors if "predictor" in error]
    with pytest.raises(AskedError):
        Pipeline(found).run()


@pytest.mark.parametrize(("student", "predictor", "words"), UNFIT)
def test_before_the_untrained_student_is_asked(
    student: str, predictor: str | None, words: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpod.experiment.evaluations.answer_questions", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(WeightingError, match=words):
        Pipeline(student_and_predictor(data, tmp_path, student, predictor)).run()


def test_no_weights_are_loaded_for_it_where_no_teacher_is_paid(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpod.experiment.sources.load_model", lambda *_: pytest.fail("loaded"))
    rehearse(recipe(data, tmp_path, "llama"), "recipe")
    replayed = recipe(data, tmp_path, "llama", *ASK, "--teacher.ask.backend", "replay", "--teacher.ask.replay", "none")
    rehearse(replayed, "recipe")
    with pytest.raises((AskedError, KpodError)):
        Pipeline(replayed).run()
