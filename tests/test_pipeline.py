"""Whole runs on tiny models: every phase, skipping, redoing, methods, the command line, the audit."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from kpod.commands.command_line import main
from kpod.commands.evaluate import name_of
from kpod.commands.plan import schedule_if
from kpod.commands.report import gather, write_report
from kpod.evaluation import generation
from kpod.evaluation.accuracy import summarise
from kpod.evaluation.given_texts import judge_file
from kpod.experiment import artifacts
from kpod.experiment.methods import METHODS
from kpod.experiment.parts import Given, Order, linear, nll, progressive, uniform, whole
from kpod.experiment.pipeline import Pipeline, run
from kpod.recipe import Recipe
from kpod.recipe.loading import load_recipe
from kpod.records import Question
from kpod.records.columns import ById
from kpod.records.errors import ConfigError, DataError
from kpod.records.outcomes import Prediction
from tiny import tiny_rationales
from tiny_runs import recipe, write_tiny_data

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a causal student, an encoder-decoder student, and a rationale file that holds one wrong answer."""
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run of kpod on the causal student, with its report."""
    found = recipe(data, tmp_path_factory.mktemp("runs"))
    run(found)
    write_report(Pipeline(found))
    return found


def folder_of(recipe: Recipe) -> Path:
    return Path(recipe.runs) / recipe.name


# -- one run -----------------------------------------------------------------------------------------


def test_a_run_leaves_everything_that_the_run_folder_promises(finished: Recipe) -> None:
    folder = folder_of(finished)
    assert load_recipe(folder / "recipe.yaml") == finished
    tokens, _ = artifacts.load_tokens(folder / "tokens")
    weights = ById(folder / "weights" / artifacts.WEIGHTS)
    difficulties = ById(folder / "difficulties" / artifacts.DIFFICULTIES)
    schedule = artifacts.load_schedule(folder / "plan")
    assert [t.id for t in tokens] == [f"tiny-{n}" for n in range(6)] == list(schedule.ids) == list(weights)
    assert {t.id: t.num_tokens for t in tokens} == {key: len(w) for key, w in weights.items()}
    assert {t.id: t.num_steps for t in tokens} == {key: len(d) for key, d in difficulties.items()}
    assert schedule.ramp_stages == 2
    assert load_recipe(folder / "student" / "recipe.yaml") == finished
    assert AutoModelForCausalLM.from_pretrained(folder / "student").config.vocab_size == 259
    assert "<!DOCTYPE html>" in (folder / "report.html").read_text(encoding="utf-8")
    facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert facts["rationales"] == {"read": 7, "kept": 6, "dropped": {"wrong answer": 1}}


def test_the_report_holds_every_answer_and_every_rationale(finished: Recipe) -> None:
    pipeline = Pipeline(finished)
    found = gather(pipeline, num_browsed=4)
    browsed = found.browsed
    assert (browsed.sides, browsed.runs, browsed.num_left_out) == (("Before", "After"), ("tiny",), 2)
    test = finished.data.tests[0]
    assert [one.predictions for one in browsed.questions] == list(
        zip(*(pipeline.evaluation(when, test)[0] for when in ("before", "after")), strict=True)
    )
    assert all(one.question for one in browsed.questions)
    schedule = pipeline.schedule
    for number, one in enumerate(browsed.rationales):
        [heat], rationale = one.sides, pipeline.sources[0][number]
        assert heat is not None
        assert (one.id, heat.question, heat.answer) == (
            rationale.id, rationale.question.question, rationale.question.answer,
        )  # fmt: skip
        assert "".join(text for text, _, _ in heat.tokens) == rationale.text
        np.testing.assert_allclose([weight for _, weight, _ in heat.tokens], pipeline.weights.loss[one.id])
        np.testing.assert_allclose(heat.difficulties, pipeline.difficulties[one.id])
        column = schedule.ids.index(one.id)
        for stage in (1, 2):
            trained = sum(first <= stage for first in heat.stages)
            assert trained == heat.num_steps - schedule.input_steps[stage, column]
    assert [epoch.stages for epoch in found.epochs] == [(1, 1), (2, 2), (2, 2), (2, 2)]
    assert sum(epoch.updates for epoch in found.epochs) == 8
    assert [row.test for row in found.paired] == [test]


def test_two_runs_meet_on_one_page(data: Path, finished: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    """The second run differs in how it is asked, so that only its evaluation is made."""
    other = recipe(data, Path(finished.runs), "llama", "--name", "other", "--evaluation.max_new_tokens", "5")
    run(other)
    assert main(["report", str(folder_of(finished)), str(folder_of(other)), "--rationales", "5"]) == 0
    page = folder_of(finished) / "compared-with-other.html"
    assert str(page) in capsys.readouterr().out
    assert "1 more rationales are trained on" in page.read_text(encoding="utf-8")
    facts = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["runs"] == ["tiny", "other"]
    assert facts["recipe"] == {"evaluation.max_new_tokens": ["4", "5"]}
    assert facts["weights"]["correlation"] == pytest.approx(1)
    assert (facts["weights"]["num_rationales"], facts["weights"]["distance"]) == (6, 0)
    for words, message in ((["a", "b", "c"], "3 runs are named"), (["a", "--rationales", "-1"], "at least 0")):
        assert main(["report", *words]) == 2
        assert message in capsys.readouterr().err


def test_each_update_trains_the_stage_of_its_epoch(finished: Recipe) -> None:
    lines = artifacts.read_jsonl(folder_of(finished) / "student" / "metrics.jsonl")
    assert [line["stage"] for line in lines] == [1, 1, 2, 2, 2, 2, 2, 2]
    tokens = [line["trained_tokens"] for line in lines]
    assert sum(tokens[:2]) < sum(tokens[2:4]) == sum(tokens[4:6])


def test_a_second_run_does_nothing_again(finished: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished phase was made again")

    for name in ("encode_all", "weigh_rationales", "assess_difficulties", "train_student"):
        monkeypatch.setattr(f"kpod.experiment.{'pipeline' if name == 'train_student' else 'algorithm'}.{name}", refuse)
    monkeypatch.setattr("kpod.experiment.evaluations.answer_questions", refuse)
    written = (folder_of(finished) / "student" / "model.safetensors").stat().st_mtime_ns
    run(finished)
    assert (folder_of(finished) / "student" / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_changed_key_redoes_what_it_touches_and_keeps_the_old_student(data: Path, tmp_path: Path) -> None:
    phases = ("tokens", "difficulties", "plan")
    first = recipe(data, tmp_path, "llama", "--method", "kpod-wo-sig")
    run(first)
    stamps = [(folder_of(first) / phase / "stamp.json").stat().st_mtime_ns for phase in phases]
    run(recipe(data, tmp_path, "llama", "--method", "kpod-wo-sig", "--schedule.num_clusters", "1"))
    again = [(folder_of(first) / phase / "stamp.json").stat().st_mtime_ns for phase in phases]
    assert [before == after for before, after in zip(stamps, again, strict=True)] == [True, True, False]
    assert len(list((tmp_path / ".phases").glob("student-????????????????"))) == 2


@pytest.mark.slow
def test_two_runs_of_one_recipe_end_in_the_same_student(data: Path, finished: Recipe, tmp_path: Path) -> None:
    again = recipe(data, tmp_path)
    run(again)
    one, two = (folder_of(r) / "student" / "model.safetensors" for r in (finished, again))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_an_encoder_decoder_student_runs_through_every_phase(data: Path, tmp_path: Path) -> None:
    found = recipe(data, tmp_path, "t5")
    result = run(found)
    assert [after.num_questions for _, after in result.accuracies] == [2]
    assert AutoModelForSeq2SeqLM.from_pretrained(folder_of(found) / "student").config.is_encoder_decoder
    losses = [line["loss"] for line in artifacts.read_jsonl(folder_of(found) / "student" / "metrics.jsonl")]
    assert sum(losses[-2:]) < sum(losses[2:4])


# -- methods -------------------------------------------------------------------------------------------


def test_an_ablation_differs_from_kpod_in_one_part(data: Path, finished: Recipe, tmp_path: Path) -> None:
    kpod = METHODS["kpod"]
    ablations = {name: other for name, other in METHODS.items() if name.startswith(("kpod", "scotd"))}
    for name, other in ablations.items():
        if other.loss is not kpod.loss:
            continue  # a row of another loss
        weighs = (other.weigh, other.weigh_steps) != (kpod.weigh, kpod.weigh_steps)
        orders = (other.order, other.curriculum) != (kpod.order, kpod.curriculum)
        parts = (weighs, orders, other.weight_normalisation is not None)
        assert sum(parts) == (0 if name == "kpod" else 1 if name.startswith("kpod") else 2), name
    assert all(
        row.weigh is uniform and row.order in (whole, kpod.order)
        for row in METHODS.values()
        if row.loss is not nll and row.writes is None
    )
    plain = Pipeline(recipe(data, tmp_path, "llama", "--method", "scotd"))
    assert plain.schedule.input_steps.max() == 0
    assert all(w.tolist() == [1.0] * len(w) for w in plain.weights.loss.values())


def test_the_row_of_normalised_weights_is_kpod_with_that_key(data: Path, tmp_path: Path) -> None:
    row = Pipeline(recipe(data, tmp_path, "llama", "--method", "kpod-normalised"))
    key = Pipeline(recipe(data, tmp_path, "llama", "--training.weight_normalisation", "mean"))
    kpod = Pipeline(recipe(data, tmp_path, "llama"))
    assert row.keys == key.keys
    assert row.keys | {"student": kpod.keys["student"]} == kpod.keys != row.keys


@pytest.mark.parametrize(("method", "order"), [("scotd", whole), ("kpod-linear", linear)])
def test_an_order_that_only_counts_steps_needs_no_difficulties(
    method: str, order: Order, data: Path, finished: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is what it would be with them; every other order asks for them."""
    expected = Pipeline(finished).by(order)
    monkeypatch.setattr("kpod.experiment.algorithm.assess_difficulties", None)
    found = Pipeline(recipe(data, tmp_path, "llama", "--method", method)).schedule
    assert found.ids == expected.ids
    assert np.array_equal(found.input_steps, expected.input_steps)
    with pytest.raises(TypeError, match="not callable"):
        _ = Pipeline(recipe(data, tmp_path, "llama", "--method", "kpod-wo-sig")).schedule


def test_weights_in_the_data_are_used_instead_of_learnt_ones(data: Path, tmp_path: Path) -> None:
    rows = artifacts.read_jsonl(data / "rationales.jsonl")[:6]
    artifacts.write_jsonl(tmp_path / "given.jsonl", [row | {"token_weights": [[0, 2, 0.25]]} for row in rows])
    found = Pipeline(recipe(data, tmp_path, "llama", "--data.train", str(tmp_path / "given.jsonl")))
    weights = found.weights.loss["tiny-1"]
    assert weights[:4].tolist() == [0.25, 0.25, 0.25, 0.0]  # the space before the text shares its first character
    artifacts.write_jsonl(tmp_path / "half.jsonl", [rows[0] | {"token_weights": [[0, 2, 0.25]]}, *rows[1:]])
    half = Pipeline(recipe(data, tmp_path / "half", "llama", "--data.train", str(tmp_path / "half.jsonl")))
    with pytest.raises(DataError, match="'tiny-1' has no token_weights but others have"):
        _ = half.weights


# -- evaluation ----------------------------------------------------------------------------------------


def test_an_interrupted_evaluation_goes_on_where_it_stopped(
    data: Path, finished: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the second batch; the line after it was torn."""
    found = Pipeline(replace(finished, runs=str(tmp_path), evaluation=replace(finished.evaluation, batch_size=1)))
    student = str(folder_of(finished) / "student")
    asked = []

    def stop(*args: object) -> object:
        asked.append(args)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return decoding(*args)

    decoding = generation.continue_greedily
    monkeypatch.setattr(generation, "continue_greedily", stop)
    with pytest.raises(KeyboardInterrupt):
        found.evaluate("x", student)
    (kept,) = (tmp_path / ".phases").glob(".evaluation-*.jsonl")
    with kept.open("ab") as file:
        file.write('{"id": "ö'.encode()[:-1])  # torn within a letter
    (accuracy,) = Pipeline(found.recipe).evaluate("x", student).values()
    assert (len(asked), accuracy.num_questions) == (3, 2)
    assert not list((tmp_path / ".phases").glob(".evaluation-*.jsonl"))


@pytest.mark.parametrize("samples", ["1", "3"])
def test_saved_texts_are_judged_by_the_rules_of_today(
    samples: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is generated again: neither for other words, nor where what is saved says something else."""
    student = str(data / "llama")
    found = Pipeline(recipe(data, tmp_path, "llama", "--evaluation.samples", samples))
    monkeypatch.setattr("kpod.evaluation.generation.decode", lambda *_: "I say 24, not 25.")
    (before,) = found.evaluate("x", student).values()
    monkeypatch.setattr("kpod.experiment.evaluations.answer_questions", lambda *_, **__: pytest.fail("asked again"))
    words = Pipeline(replace(found.recipe, data=replace(found.recipe.data, answer_words=("I say",))))
    (test,) = found.recipe.data.tests
    assert [p.answer for p in words.evaluation("x", test)[0]] == ["24", "24"]
    (after,) = words.evaluate("x", student).values()
    assert (before.num_correct, after.num_correct) == (0, 1)
    assert "the rules that read answers changed" in caplog.text
    folder = words.folder.path / artifacts.evaluation_phase("x", test)
    assert [row["answer"] for row in artifacts.read_jsonl(folder / "predictions.jsonl")] == ["24", "24"]
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["num_correct"] == 1


def test_predictions_of_earlier_versions_are_taken_as_they_are(data: Path, tmp_path: Path) -> None:
    found = Pipeline(recipe(data, tmp_path))
    (test,) = found.recipe.data.tests
    row = {"id": "q", "text": "B", "answer": "B", "gold": "B", "correct": True, "finished": True, "votes": None}
    old = Prediction(**row, drawn=None)
    folder = found.folder.path / artifacts.evaluation_phase("after", test)
    folder.mkdir(parents=True)
    artifacts.save_evaluation(folder, [old], summarise(test, [old]))
    artifacts.write_jsonl(folder / "predictions.jsonl", [row])
    assert found.evaluation("after", test)[0] == [old]


def test_texts_from_elsewhere_are_judged_like_the_students(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(data, tmp_path)
    file, given = str(tmp_path / "recipe-given.yaml"), tmp_path / "given.jsonl"
    questions = tiny_rationales()[:2]

    def evaluated(*rows: object) -> tuple[int, str, str]:
        given.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        code = main(["evaluate", file, "--predictions", str(given)])
        return code, *capsys.readouterr()

    right = {"id": questions[0].question.id, "text": f"So the answer is {questions[0].question.answer}."}
    empty = {"id": questions[1].question.id, "text": "", "finished": False}
    code, shown, _ = evaluated(empty, right)
    assert code == 0
    assert "50.0" in shown
    assert evaluated(right)[::2] == (
        2,
        f"kpod: {given}: 1 of 2 questions have no text, the first {empty['id']!r}; give an empty text where the model "
        "wrote none: it counts as wrong\n",
    )
    for rows, told in (
        ((right, right), ":2: id 'tiny-0': the question is answered twice"),
        (({"id": "x", "text": ""},), ":1: id 'x': no question has it"),
        (({"id": "x"},), ":1: a prediction has the columns id and text"),
        (({"id": "x", "text": 3},), ":1: `text` is a number; wanted text"),
        (({"id": "x", "text": "", "finished": "perhaps"},), ":1: `finished` is 'perhaps'; wanted true or false"),
    ):
        code, _, said = evaluated(*rows)
        assert code == 2
        assert told in said
    assert main(["evaluate", file, "--predictions", str(given), "--data.tests", "[]"]) == 2
    assert "data.tests is []; it must be at least one test set" in capsys.readouterr().err


def test_checkpoints_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    """By their whole paths; a Hub name is the same from every folder."""
    for run_name in ("a", "b"):
        (tmp_path / run_name / "student").mkdir(parents=True)
    names = {name_of(str(tmp_path / run_name / "student")) for run_name in ("a", "b")}
    assert len(names) == 2
    assert {name[:-7] for name in names} == {"of-student"}
    assert name_of("org/student") == name_of("org/student") not in names


def test_a_csv_says_true_and_false_in_words(tmp_path: Path) -> None:
    """And an id may be a whole number."""
    asked = [Question(str(n), "How many?", "4") for n in range(3)]
    (tmp_path / "given.csv").write_text("id,text,finished\n0,The answer is 4.,TRUE\n1,4 and,false\n2,,\n", "utf-8")
    found = judge_file(tmp_path / "given.csv", asked)
    assert [(p.correct, p.finished) for p in found] == [(True, True), (False, False), (False, True)]
    (tmp_path / "given.jsonl").write_text('{"id": 7, "text": null, "finished": null}\n', "utf-8")
    assert [p.text for p in judge_file(tmp_path / "given.jsonl", [Question("7", "How many?", "4")])] == [""]


# -- refusals ------------------------------------------------------------------------------------------


def test_a_wrong_recipe_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method is 'kpot'; it must be one of kpod, kpod-wo-sig"):
        Pipeline(recipe(data, tmp_path, "llama", "--method", "kpot"))
    with pytest.raises(ConfigError, match=r"unknown key training.learing_rate; did you mean training.learning_rate"):
        Pipeline(recipe(data, tmp_path, "llama", "--training.learing_rate", "1"))
    assert not (tmp_path / "tiny").exists()


def test_a_student_that_is_not_there_is_a_wrong_recipe(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere' cannot be loaded"):
        run(recipe(data, tmp_path, "nowhere"))
    found = Pipeline(recipe(data, tmp_path / "untrained"))
    with pytest.raises(
        ConfigError, match=r"student cannot be loaded: no student was trained from this recipe as it is"
    ):
        found.evaluate("after")


def test_data_without_a_right_rationale_is_refused(data: Path, tmp_path: Path) -> None:
    wrong = [artifacts.read_jsonl(data / "rationales.jsonl")[-1]]
    artifacts.write_jsonl(tmp_path / "wrong.jsonl", wrong)
    left = (
        r"no rationale is left to train on: 1 wrong answer \(teacher.filter: gold\); each is listed in .*dropped.jsonl"
    )
    with pytest.raises(DataError, match=left):
        run(recipe(data, tmp_path, "llama", "--data.train", str(tmp_path / "wrong.jsonl")))
    assert artifacts.read_jsonl(tmp_path / "tiny" / "dropped.jsonl") == [{"id": "wrong", "reason": "wrong answer"}]


# -- the command line ----------------------------------------------------------------------------------


def test_exit_codes_and_sentences(
    data: Path, finished: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(folder_of(finished))
    assert main(["report", folder]) == 0
    assert "| before | after | 95 % interval |" in capsys.readouterr().out
    assert main(["plan", folder, "--schedule.num_cluster", "3"]) == 2
    assert "did you mean schedule.num_clusters?" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "nothing.yaml")]) == 2
    assert "there is no recipe" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        main(["run", str(tmp_path / "nothing.yaml"), "--traceback"])


def test_plan_compares_with_a_schedule_that_was_not_trained(
    finished: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, runs = folder_of(finished), Path(finished.runs)
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file() and path.name != "schedule.html"}
    assert (
        main(["plan", str(folder), "--what-if", "schedule.initial_fraction=0", "--what-if", "schedule.stages=3"]) == 0
    )
    as_is, changed = capsys.readouterr().out.split("With schedule.initial_fraction=0, schedule.stages=3:")
    assert as_is.startswith("As in the recipe:\n\n| stage | budget D(t), nats |")
    assert [line.split(" | ")[1] for line in changed.splitlines() if line.startswith("| 0 ")] == ["0.000"]
    assert ("| 2 |" in as_is, "| 3 |" in as_is, "| 3 |" in changed) == (True, False, True)
    page = (folder / "schedule.html").read_text(encoding="utf-8")
    assert page.count("How many questions train how many steps") == 2
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert before == {
        path: path.read_bytes() for path in runs.rglob("*") if path.is_file() and path.name != "schedule.html"
    }


def test_what_if_clusters_anew_where_it_must(finished: Recipe) -> None:
    pipeline = Pipeline(finished)
    changed = replace(finished, schedule=replace(finished.schedule, num_clusters=4))
    clusters = pipeline.cluster(changed.schedule)
    made = {"difficulties": lambda: pipeline.difficulties, "clusters": lambda: clusters}
    expected = progressive.run(Given(pipeline.tokens, {}, changed, made))
    assert np.array_equal(schedule_if(pipeline, changed).input_steps, expected.input_steps)
    assert expected.relative_diversity != pipeline.schedule.relative_diversity


@pytest.mark.parametrize(
    "change", ["weighting.masks=4", "training.learning_rate=1", "method=scotd", "method=no-such", "data.max_steps=1"]
)
def test_what_if_refuses_what_needs_other_weights_or_training(
    finished: Recipe, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(folder_of(finished)), "--what-if", change]) == 2
    assert ("--what-if takes keys of schedule" in (told := capsys.readouterr().err)) != ("method is 'no-such'" in told)


def test_what_if_of_another_order_of_the_same_weights(finished: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(folder_of(finished)), "--what-if", "method=kpod-wo-prog"]) == 0
    assert "every rationale is trained whole from the first epoch" in capsys.readouterr().out


def test_at_most_max_steps_are_told_apart(data: Path, tmp_path: Path) -> None:
    tokens = Pipeline(recipe(data, tmp_path, "llama", "--data.max_steps", "2")).tokens
    usual = Pipeline(recipe(data, tmp_path, "llama", "--name", "usual")).tokens
    assert [t.num_steps for t in tokens] == [min(2, t.num_steps) for t in usual]
    assert [t.token_ids.tolist() for t in tokens] == [t.token_ids.tolist() for t in usual]
    assert max(t.num_steps for t in usual) > 2


@pytest.mark.slow
def test_validation_questions_choose_the_student_and_belong_to_its_key(data: Path, tmp_path: Path) -> None:
    questions = ["--training.validation.questions", str(data / "rationales.jsonl")]
    found = recipe(data, tmp_path, "llama", *questions, "--training.validation.limit", "2")
    run(found)
    lines = artifacts.read_jsonl(folder_of(found) / "student" / "metrics.jsonl")
    assert [line["validation_accuracy"] for line in lines if "validation_accuracy" in line] == [0.0] * 4
    more = recipe(data, tmp_path, "llama", *questions, "--training.validation.limit", "3")
    assert Pipeline(more).keys["student"] != Pipeline(found).keys["student"]
    assert Pipeline(more).keys["plan"] == Pipeline(found).keys["plan"]


def test_check_lists_all_findings_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(
        '{"id": "a", "question": "", "answer": "1"}\n{"id": "b", "question": "x"}\n{"id":', encoding="utf-8"
    )
    assert main(["check", str(path)]) == 2
    shown = capsys.readouterr().out
    assert all(f"{path}:{line}:" in shown for line in (1, 2, 3))
    assert "3 errors" in shown


def test_check_accepts_a_good_file(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(data / "rationales.jsonl")]) == 0
    assert "0 errors, 1 warning" in capsys.readouterr().out


# -- the audit -----------------------------------------------------------------------------------------


def inspected(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    assert main(["inspect", *arguments]) == 0
    _, _, *lines = capsys.readouterr().out.splitlines()
    return [line.split() for line in lines]


def test_inspect_shows_what_is_given_and_what_is_trained(finished: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    rows = inspected(capsys, str(folder_of(finished)), "--id", "tiny-2", "--given", "1")
    text = "".join(row[2] for row in rows if row[3] == "rationale").replace("␣", " ").strip()
    assert text == tiny_rationales()[2].text
    steps = [(row[4], row[5]) for row in rows if row[3] == "rationale"]
    assert set(steps) == {("1", "given"), ("2", "trained")}
    assert all(row[-2:] == ["given", "-"] for row in rows if row[3] == "question")
    weights = ById(folder_of(finished) / "weights" / artifacts.WEIGHTS)["tiny-2"]
    shown = [float(row[-1]) for row in rows if row[3] == "rationale" and row[5] == "trained"]
    assert shown == pytest.approx(weights[-len(shown) :].tolist(), abs=6e-4)
    assert [row[-1] for row in rows if row[3] in ("closing", "answer", "end")] == ["1.000"] * 29
    assert all(row[2] == row[-2] for row in rows if "trained" in row)


def test_inspect_shows_the_weights_that_training_makes_of_the_learnt_ones(
    finished: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    mean = ("--training.weight_normalisation", "mean")
    rows = inspected(capsys, str(folder_of(finished)), "--id", "tiny-2", "--given", "0", *mean)
    shown = [float(row[-1]) for row in rows if row[3] == "rationale"]
    assert np.mean(shown) == pytest.approx(1, abs=1e-3)
    assert np.std(shown) > 0


def test_inspect_shows_the_given_steps_in_the_encoder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(data, tmp_path, "t5")
    rows = inspected(capsys, str(tmp_path / "recipe-given.yaml"), "--id", "tiny-2", "--given", "1")
    encoder = [row for row in rows if row[1] == "encoder"]
    assert encoder[-1][2] == "</s>"
    assert {row[4] for row in encoder if row[3] == "rationale"} == {"1"}
    assert {row[4] for row in rows if row[1] == "decoder" and row[3] == "rationale"} == {"2"}
    assert all("trained" in row for row in rows if row[1] == "decoder")


def test_inspect_says_why_a_rationale_is_not_there(finished: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder_of(finished)), "--id", "wrong"]) == 2
    assert "'wrong' is not trained on: wrong answer" in capsys.readouterr().err
    assert main(["inspect", str(folder_of(finished)), "--id", "tiny-0", "--stage", "9"]) == 2
    assert "its stages are 0 to 2" in capsys.readouterr().err


def test_a_folder_that_kpod_did_not_make_is_left_as_it_is(data: Path, tmp_path: Path):
    own = tmp_path / "runs" / "tiny" / "tokens" / "notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tokens was not made by kpod"):
        _ = Pipeline(recipe(data, tmp_path / "runs")).tokens
    assert own.read_text(encoding="utf-8") == "mine"


def test_a_file_where_runs_should_be_is_named_before_any_work(data: Path, tmp_path: Path):
    changed = recipe(data, tmp_path / "given", "llama", "--runs", str(tmp_path / "runs"))
    (tmp_path / "runs").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"nothing can be written to .*runs"):
        _ = Pipeline(changed).sources
