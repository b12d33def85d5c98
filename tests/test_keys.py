"""What is made from what: every recipe key touches the phases that it changes, and no others."""

import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kpod.commands.command_line import main
from kpod.experiment import artifacts
from kpod.experiment.algorithm import PHASES
from kpod.experiment.keys import evaluation_key, needed, touched, value_of
from kpod.experiment.methods import METHODS
from kpod.experiment.parts import Given, InTraining, linear, progressive, progressive_at_random, whole
from kpod.experiment.pipeline import Pipeline
from kpod.recipe import (
    AskConfig,
    AverageConfig,
    HeldOutConfig,
    LogprobsConfig,
    LoraConfig,
    Recipe,
    ScheduleConfig,
    TeacherConfig,
    TrainingConfig,
    ValidationConfig,
)
from kpod.records import TokenizedRationale
from kpod.records.errors import ConfigError
from kpod.records.files import model_files
from kpod.teacher.requests import requests_for
from tiers import tiered
from tiny import tiny_rationales
from tiny_runs import recipe, write_tiny_data

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

ORDERS = {method.order.name: method.order for method in METHODS.values()}
CURRICULA = {m.curriculum.name: m.curriculum for m in METHODS.values() if m.curriculum is not None}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tokens(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TokenizedRationale]:
    return Pipeline(recipe(data, tmp_path_factory.mktemp("tokens"), "llama", "--method", "scotd")).tokens


@pytest.fixture(autouse=True)
def _any_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a hundred recipes would load the student's tokenizer once more, only to find that it suits."""
    monkeypatch.setattr("kpod.experiment.sources.check_student", lambda *_: None)


def changed(found: Recipe, key: str, value: object) -> Recipe:
    """A recipe with one key changed, however deep it stands."""
    head, _, rest = key.partition(".")
    return replace(found, **{head: changed(getattr(found, head), rest, value) if rest else value})


# -- parts say what they need --------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_method_works_with_the_phases_that_its_parts_declare(
    method: str, data: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others raise; what a phase asks for beyond the rows before it raises too."""
    asked = ("--training.validation", f"{{questions: {data / 'rationales.jsonl'}, limit: 2}}")
    more = asked if METHODS[method].curriculum is CURRICULA["in_sample"] else ()
    if METHODS[method].writes or METHODS[method].loss.needs:
        more = ("--teacher.logprobs.model", str(data / "llama"))
    found = Pipeline(recipe(data, tmp_path_factory.getbasetemp() / "shared", "llama", "--method", method, *more))
    wrong = tuple(replace(one, id=f"{one.id}/counterfactual") for one in found.sources[0][:2])
    wanted = {phase.name for phase in needed(PHASES, METHODS[method])}
    assert {phase.name for phase in found.phases} == wanted

    def refuse(*_: object) -> None:
        raise AssertionError("a phase that no part declares was made")

    rows = tuple(row if row.name in wanted or row.make is None else replace(row, make=refuse) for row in PHASES)
    monkeypatch.setattr("kpod.experiment.pipeline.PHASES", rows)
    found = Pipeline(replace(found.recipe, name=f"of-{method}"))
    found.data.gathered = replace(found.data.gathered, counterfactual=wrong)
    made = {"teacher" if name == "teacher_logprobs" else name for name in wanted}
    assert found.by(found.method.loss).needs <= {"groups", "start", "own_texts", *made}
    assert set(found.by(found.method.weigh)) == set(found.schedule.ids) == {t.id for t in found.tokens}
    kept = {"tokens", "views", "weights", "difficulties", "clusters", "plan"}
    assert {path.parent.name for path in found.folder.path.glob("*/stamp.json")} <= wanted & kept


def test_methods_without_a_phase_do_not_make_it() -> None:
    made = {name: {phase.name for phase in needed(PHASES, method)} for name, method in METHODS.items()}
    assert not made["scotd"] & {"weights", "difficulties", "clusters"}
    assert not made["kpod-linear"] & {"difficulties", "clusters"}
    assert "weights" in made["kpod-linear"]
    assert not made["kpod-wo-sig"] & {"weights"}
    others = {"counterfactual", "views", "reference", "told", "teacher_logprobs"}
    assert made["kpod"] == {phase.name for phase in PHASES} - others
    assert made["logit-kd"] - made["scotd"] == {"told", "teacher_logprobs"}
    assert made["step-by-step"] == made["scotd"] | {"views"}
    assert made["rho-1"] - made["scotd"] == {"reference"}


def test_what_a_part_does_not_declare_it_does_not_get(data: Path, tmp_path: Path) -> None:
    found = Pipeline(recipe(data, tmp_path, "llama", "--method", "scotd"))
    with pytest.raises(KeyError, match="weights"):
        _ = found.given(METHODS["scotd"].weigh).weights
    with pytest.raises(KeyError, match="difficulties"):
        found.by(replace(progressive, needs=frozenset({"clusters"})))


SLOW_ORDERS = ["progressive_without_diversity", "progressive_unordered", "prefix_first"]


@pytest.mark.parametrize("name", tiered(ORDERS, SLOW_ORDERS))
def test_an_order_reads_the_keys_that_it_declares(name: str, tokens: list[TokenizedRationale]) -> None:
    """Each of them can change its schedule, and no other key of the schedule can."""
    order = ORDERS[name]
    rng = np.random.default_rng(3)
    many = [replace(t, id=f"{n}-{t.id}") for n in range(5) for t in tokens]
    difficulties = {t.id: rng.lognormal(size=t.num_steps).astype(np.float32) for t in many}
    made = {"difficulties": lambda: difficulties, "clusters": lambda: np.arange(len(many)) % 3}
    base = Recipe(schedule=ScheduleConfig(ramp_stages=6, growth_exponent=1.0))

    def planned(found: Recipe) -> tuple[object, ...]:
        schedule = order.run(Given(many, {}, found, made))
        return schedule.input_steps.tolist(), schedule.first_stage, schedule.ramp_epochs, schedule.diversity_weight

    values: dict[str, Any] = {
        "schedule.ramp_stages": 5,
        "schedule.first_stage": 0,
        "schedule.initial_fraction": 0.6,
        "schedule.growth_exponent": 0.0,
        "schedule.selector": "density_greedy",
        "schedule.diversity.beta": 100.0,
        "schedule.stride": 2,
        "schedule.pace": "literal",
        "schedule.min_output_steps": 2,
        "schedule.num_clusters": 2,
        "schedule.embeddings": "glove.txt",
        "seed": 7,
    }
    before = planned(base)
    found = {key for key, value in values.items() if planned(changed(base, key, value)) != before}
    half = changed(base, "schedule.ramp_stages", None)
    found |= {"schedule.stages"} if planned(changed(half, "schedule.stages", 4)) != planned(half) else set()
    longer = planned(changed(half, "training.num_train_epochs", 9))
    found |= {"training.num_train_epochs"} if longer != planned(half) else set()
    assert {key.removesuffix(".beta") for key in found} == set(order.reads)


@pytest.mark.parametrize("part", CURRICULA.values(), ids=CURRICULA)
def test_a_curriculum_reads_the_keys_that_it_declares(part: InTraining) -> None:
    """The keys of `training` change the student in any case; those of validation are in the key of its questions."""
    base = Recipe(training=TrainingConfig(validation=ValidationConfig("questions")))

    def made(found: Recipe) -> str:
        return repr(part.run(Given((), {}, found, {})))

    others = ("data", "training.average")  # which does not go together with a choice of the best
    values: dict[str, Any] = {key: value for key, (value, _) in TOUCHED.items() if not key.startswith(others)}
    found = {key for key, value in values.items() if made(changed(base, key, value)) != made(base)}
    assert {key for key in found if not key.startswith("training")} == {
        key for key in part.reads if not key.startswith("training")
    }
    patient = changed(base, "training.validation", ValidationConfig("questions", patience=9))
    assert (made(patient) != made(base)) == (part.name == "in_sample")


# -- keys ----------------------------------------------------------------------------------------------

EVALUATION = {"evaluation"}
STUDENT = {"student", "evaluation"}
PLAN = {"plan", *STUDENT}
CLUSTERS = {"clusters", *PLAN}
STEPS = {"tokens", "difficulties", *PLAN}
WEIGHTS = {"weights", "difficulties", *PLAN}
TEXTS = {"texts", *STEPS, *WEIGHTS, *CLUSTERS}
ALL = {"rationales", *TEXTS}
NONE: set[str] = set()
VALIDATED = {"validation", *STUDENT}

TOUCHED: dict[str, tuple[object, set[str]]] = {
    "name": ("other", NONE),
    "precision": ("bf16", {*WEIGHTS, *CLUSTERS}),
    "seed": (1, {*WEIGHTS, *CLUSTERS}),
    "data.train_limit": (4, ALL),
    "data.test_limit": (1, EVALUATION),
    "data.prompt.chat": (False, TEXTS),
    "data.prompt.question": ("{question}", TEXTS),
    "data.prompt.chat_question": ("{question}", TEXTS),
    "data.prompt.cot_prompt": ("Think.", TEXTS),
    "data.prompt.opening": ("Well: ", TEXTS),
    "data.prompt.closing": ("So {answer}", TEXTS),
    "data.prompt.date": ("2025-01-01", TEXTS),
    "data.answer_words": (("So we get",), NONE),  # texts are judged when they are read,
    "data.step_rule": ("line", STEPS),
    "data.max_steps": (2, STEPS),
    "data.max_length": (300, TEXTS),
    "teacher.filter": ("none", ALL),
    "teacher.max_similarity": (None, NONE),
    "teacher.check_equations": (True, NONE),
    "teacher.per_question": (1, NONE),
    "teacher.strip_closing": (True, NONE),
    "weighting.precision": ("bf16", WEIGHTS),
    "weighting.estimator": ("gumbel", WEIGHTS),
    "weighting.mask_loss_weight": (0.5, WEIGHTS),
    "weighting.kept_rate": (0.5, WEIGHTS),
    "weighting.lora_rank": (3, WEIGHTS),
    "weighting.warmup_updates": (3, WEIGHTS),
    "weighting.rationale_loss_weight": (0.0, WEIGHTS),
    "weighting.observations": (25, WEIGHTS),
    "weighting.prefixes": (3, WEIGHTS),
    "weighting.batch_size": (3, WEIGHTS),
    "weighting.masks": (4, WEIGHTS),
    "weighting.predictor_learning_rate": (1e-2, WEIGHTS),
    "weighting.generator_learning_rate": (1e-2, WEIGHTS),
    "weighting.spread": (0.2, WEIGHTS),
    "schedule.ramp_stages": (3, PLAN),
    "schedule.stages": (3, PLAN),
    "schedule.first_stage": (0, PLAN),
    "schedule.initial_fraction": (0.5, PLAN),
    "schedule.growth_exponent": (1.0, PLAN),
    "schedule.selector": ("ftgp", PLAN),
    "schedule.diversity.beta": (1.0, PLAN),
    "schedule.diversity.relative": (0.1, PLAN),
    "schedule.num_clusters": (1, CLUSTERS),
    "schedule.stride": (2, PLAN),
    "schedule.pace": ("literal", PLAN),
    "schedule.min_output_steps": (1, PLAN),
    "training.num_train_epochs": (5, PLAN),
    "training.learning_rate": (1e-2, STUDENT),
    "training.per_device_train_batch_size": (3, STUDENT),
    "training.gradient_accumulation_steps": (2, STUDENT),
    "training.tokens_per_batch": (999, STUDENT),
    "training.packing": (True, STUDENT),
    "training.save_strategy": ("epoch", NONE),
    "training.lora": (LoraConfig(2, 4), STUDENT),
    "training.merge_lora": (False, NONE),  # without adapters
    "training.weight_normalisation": ("mean", STUDENT),
    "training.normaliser": ("weights", STUDENT),
    "training.given": ("decoder", STUDENT),
    "training.reference": ("other", NONE),  # which only some losses ask
    "training.excess_share": (0.5, NONE),
    "training.on_policy.starts_after": (0.1, NONE),  # which only the on-policy methods ask
    "training.on_policy.divergence": ("forward", NONE),
    "training.on_policy.max_new_tokens": (9, NONE),
    "training.on_policy.temperature": (0.5, NONE),
    "training.average": (AverageConfig(0.5), STUDENT),
    "training.arguments": ({"weight_decay": 0.1}, STUDENT),
    "evaluation.before": (False, NONE),
    "evaluation.batch_size": (1, EVALUATION),
    "evaluation.max_new_tokens": (5, EVALUATION),
    "evaluation.samples": (2, EVALUATION),
    "evaluation.temperature": (0.1, NONE),  # one text a question is written greedily
    "evaluation.self_check": (1, EVALUATION),
    "evaluation.engine": ("vllm", EVALUATION),
    "evaluation.held_out": (HeldOutConfig("word_problems"), NONE),  # no answer changes with it
}
"""Key -> another value, and the phases that are made again under it."""
IN_TESTS_OF_THEIR_OWN = {
    "method",
    "runs",
    "student",
    "data.train",
    "data.tests",
    "data.root",
    "data.columns.id",
    "data.columns.question",
    "data.columns.answer",
    "data.columns.rationale",
    "data.columns.choices",
    "data.columns.thoughts",
    "teacher.rationales",
    "teacher.ask",
    "teacher.logprobs",
    "weighting.predictor",
    "schedule.embeddings",
    "training.validation",
}
"""Names of files and folders, what changes the rationales alone, and sections that are null."""


def leaves(found: object, above: str = "") -> Iterator[str]:
    """Every key of a recipe, by its path."""
    for field in fields(found):  # type: ignore[arg-type]
        value, path = getattr(found, field.name), f"{above}{field.name}"
        if is_dataclass(value):
            yield from leaves(value, f"{path}.")
        else:
            yield path


KNOWN: dict[str, dict[str, str]] = {}


def keys_of(found: Recipe) -> dict[str, str]:
    """The key of every phase, the evaluation of the trained student included."""
    if repr(found) not in KNOWN:
        run = Pipeline(found)
        asked = evaluation_key(found, run.keys["student"], run.data.questions(found.data.tests[0]))
        KNOWN[repr(found)] = {**run.keys, "evaluation": asked}
    return KNOWN[repr(found)]


def remade(before: Recipe, after: Recipe) -> set[str]:
    old, new = keys_of(before), keys_of(after)
    return {phase for phase in old if old[phase] != new[phase]}


def test_a_student_of_before_the_weights_could_be_averaged_is_still_found() -> None:
    """What has no average has the key that it had before there was one."""
    assert "average" not in value_of(Recipe(), "training")
    averaged = Recipe(training=TrainingConfig(average=AverageConfig()))
    assert value_of(averaged, "training")["average"] == {"last": 0.33}


def test_every_key_of_a_recipe_is_tried() -> None:
    assert set(TOUCHED) | IN_TESTS_OF_THEIR_OWN == set(leaves(Recipe()))
    assert not set(TOUCHED) & IN_TESTS_OF_THEIR_OWN


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return recipe(data, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("key", TOUCHED)
def test_a_changed_key_remakes_what_it_touches(key: str, base: Recipe) -> None:
    value, phases = TOUCHED[key]
    assert reduce(getattr, key.split("."), base) != value
    again = {*phases, *EVALUATION} if key.startswith("data.prompt") else phases
    assert remade(base, changed(base, key, value)) == again


@pytest.mark.parametrize("key", TOUCHED)
def test_what_is_declared_of_a_key_is_what_it_touches(key: str) -> None:
    """Of what leads to a source, and of adapters, it is the most that may be touched."""
    read, sourced, following = touched(key, PHASES, METHODS["kpod"])
    declared, phases = {*read, *sourced, *following}, TOUCHED[key][1] - EVALUATION
    assert len(declared) == len(read) + len(sourced) + len(following)
    assert declared >= phases if sourced or key == "training.merge_lora" else declared == phases


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (
            "weighting.spread",
            "a run of the method kpod makes again: weights; and after that: difficulties, plan, student.",
        ),
        ("training.learning_rate", "a run of the method kpod makes again: student."),
        ("training.num_train_epochs", "a run of the method kpod makes again: plan, student."),
        ("method", "a run of the method kpod makes again: difficulties, plan, student."),
        ("schedule", "a run of the method kpod makes again: clusters, plan; and after that: student."),
        ("teacher.filter", "If a change leads to other rationales, a run makes again: rationales, texts,"),
        ("training.validation", "If a change leads to other validation, a run makes again: validation, student."),
        (
            "data.root",
            "If a change leads to other rationales or validation, a run makes again: rationales, validation,",
        ),
        *((key, "No phase of a run reads it.") for key in ("name", "training.save_strategy", "evaluation.before")),
    ],
)
def test_explain_says_what_a_change_makes_again(key: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", key]) == 0
    assert says in capsys.readouterr().out.splitlines()[-1]


def test_the_sources_count_by_what_was_read() -> None:
    """Whatever is said under data and teacher that only leads to rationales is read by no phase and no part."""
    parts = [part for method in METHODS.values() for row in PHASES for part in row.parts_of(method)]
    declared = {key for item in (*PHASES, *parts) for key in item.reads}
    sources = ("teacher", "data.train", "data.root", "data.columns", "data.answer_words")
    assert [key for key in declared if key.startswith(sources)] == ["teacher.logprobs"]  # a model that reads them


def test_files_count_by_their_content(base: Recipe, data: Path, tmp_path: Path) -> None:
    """The same rationales, questions or student under another name are the same; other content is not."""
    rows = artifacts.read_jsonl(data / "rationales.jsonl")
    moved, explained, asked = (str(tmp_path / f"{name}.jsonl") for name in ("moved", "explained", "asked"))
    artifacts.write_jsonl(Path(moved), rows)
    for key, value in {"data.train": moved, "data.tests": (moved,), "teacher": TeacherConfig(rationales=moved)}.items():
        assert remade(base, changed(base, key, value)) == NONE
    artifacts.write_jsonl(Path(explained), [rows[0] | {"rationale": "It is 24."}, *rows[1:]])
    assert remade(base, changed(base, "data.train", explained)) == ALL
    assert remade(base, changed(base, "data.tests", (explained,))) == NONE  # the questions are the same
    artifacts.write_jsonl(Path(asked), [rows[0] | {"question": "How many?"}, *rows[1:]])
    assert remade(base, changed(base, "data.tests", (asked,))) == EVALUATION


def flipped(path: Path, place: int) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_models_count_by_their_content(base: Recipe, data: Path, tmp_path: Path) -> None:
    """A folder moved is the same; one byte in the middle of its weights makes another model."""
    same, other = (shutil.copytree(data / "llama", tmp_path / name) for name in ("same", "other"))
    (same / "kpod_training.json").write_text('{"fingerprint": "x"}', encoding="utf-8")
    flipped(other / "model.safetensors", (other / "model.safetensors").stat().st_size // 2)
    assert remade(base, replace(base, student=str(same))) == NONE
    assert remade(base, replace(base, student=str(other))) == TEXTS
    with_predictor = changed(base, "weighting.predictor", str(same))
    assert remade(base, with_predictor) == WEIGHTS
    assert remade(with_predictor, changed(base, "weighting.predictor", str(data / "llama"))) == NONE
    assert remade(with_predictor, changed(base, "weighting.predictor", str(other))) == WEIGHTS
    assert remade(base, changed(base, "weighting.precision", base.precision)) == NONE


def test_a_large_file_counts_as_a_whole(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(5_000_000))
    assert model_files(one) == model_files(other)
    flipped(other / "model.safetensors", 2_500_000)
    assert model_files(one) != model_files(other)


def test_a_reference_counts_by_its_content_where_a_loss_asks_for_one(base: Recipe, data: Path, tmp_path: Path) -> None:
    referred = replace(base, method="rho-1")
    same, other = (shutil.copytree(data / "llama", tmp_path / name) for name in ("same", "other"))
    flipped(other / "model.safetensors", (other / "model.safetensors").stat().st_size // 2)
    named = changed(referred, "training.reference", str(same))
    assert remade(referred, named) == {"reference", *STUDENT}
    assert remade(named, changed(referred, "training.reference", str(data / "llama"))) == NONE
    assert remade(named, changed(referred, "training.reference", str(other))) == {"reference", *STUDENT}
    assert remade(referred, changed(referred, "training.excess_share", 0.5)) == STUDENT
    assert remade(replace(base, method="scotd"), replace(base, method="dft")) == STUDENT


def test_on_policy_keys_count_for_the_methods_that_read_them(base: Recipe, data: Path) -> None:
    taught = changed(replace(base, method="on-policy"), "teacher.logprobs", LogprobsConfig(str(data / "llama")))
    for name, value in (("starts_after", 0.1), ("divergence", "forward"), ("max_new_tokens", 9), ("temperature", 0.5)):
        assert remade(taught, changed(taught, f"training.on_policy.{name}", value)) == STUDENT
    other = changed(taught, "teacher.logprobs", LogprobsConfig(str(data / "llama"), top_k=3))
    assert remade(taught, other) == STUDENT


def test_word_vectors_count_by_their_content(base: Recipe, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.txt", "same.txt", "other.txt")]
    for file, text in zip(files, ("cups 1 2\n", "cups 1 2\n", "cups 1 3\n"), strict=True):
        file.write_text(text, encoding="utf-8")
    one, same, other = (changed(base, "schedule.embeddings", str(file)) for file in files)
    assert remade(base, one) == CLUSTERS
    assert remade(one, same) == NONE
    assert remade(one, other) == CLUSTERS
    with pytest.raises(ConfigError, match=r"schedule\.embeddings is '.*none\.txt'; it must be student, or a GloVe"):
        keys_of(changed(base, "schedule.embeddings", str(tmp_path / "none.txt")))


def test_a_local_teacher_counts_by_its_folder(data: Path, tmp_path: Path) -> None:
    questions = [rationale.question for rationale in tiny_rationales()]
    same, other = (shutil.copytree(data / "llama", tmp_path / name) for name in ("same", "other"))
    flipped(other / "model.safetensors", -1)
    first, again, changed_one = (
        requests_for(questions, AskConfig(str(folder), backend="local")) for folder in (data / "llama", same, other)
    )
    assert [request.key for request in first] == [request.key for request in again]
    assert not {request.key for request in first} & {request.key for request in changed_one}


def test_a_method_remakes_what_its_parts_touch(base: Recipe) -> None:
    expected = {
        "kpod-wo-sig-dif": {"difficulties", *PLAN},
        "kpod-shuffled": STUDENT,
        "kpod-normalised": STUDENT,
        "kpod-prefix": PLAN,
        "kpod-random": PLAN,
    }
    for method, phases in expected.items():
        assert remade(base, replace(base, method=method)) == phases


@pytest.mark.parametrize("method", ["kpod-random", "kpod-unordered"])
def test_what_is_drawn_by_chance_follows_the_seed(method: str, tokens: list[TokenizedRationale]) -> None:
    """And only there does the seed reach a plan whose difficulties and clusters are the same."""
    many = [replace(t, id=f"{n}-{t.id}") for n in range(9) for t in tokens]
    difficulties = {t.id: np.ones(t.num_steps, dtype=np.float32) for t in many}
    made = {"difficulties": lambda: difficulties, "clusters": lambda: np.arange(len(many)) % 3}
    recipes = [Recipe(seed=seed, schedule=ScheduleConfig(ramp_stages=4)) for seed in (0, 0, 1)]
    order = METHODS[method].order
    first, again, other = (order.run(Given(many, {}, found, made)).input_steps.tolist() for found in recipes)
    assert first == again != other
    assert "seed" in order.reads
    chosen = [replace(found, schedule=replace(found.schedule, selector="random")) for found in recipes]
    first, again, other = (progressive.run(Given(many, {}, found, made)).input_steps.tolist() for found in chosen)
    assert first == again != other


def test_what_a_method_overrules_is_not_in_its_key(base: Recipe) -> None:
    normalised = replace(base, method="kpod-normalised")
    assert remade(normalised, changed(normalised, "training.weight_normalisation", "mean")) == NONE
    drawn = replace(base, method="kpod-random")
    assert remade(drawn, changed(drawn, "schedule.selector", "ftgp")) == NONE
    even = replace(base, method="kpod-wo-div")
    assert remade(even, changed(even, "schedule.diversity.beta", 1.0)) == NONE
    plain = replace(base, method="scotd")
    for key in TOUCHED:
        if key.startswith(("weighting", "schedule")):
            assert keys_of(changed(plain, key, TOUCHED[key][0])) == keys_of(plain)
    assert (linear.needs, whole.reads, progressive_at_random.needs) == (frozenset(), (), progressive.needs)


def test_a_curriculum_changes_the_student_alone(base: Recipe, data: Path) -> None:
    watched = changed(base, "training.validation", ValidationConfig(str(data / "rationales.jsonl"), limit=2))
    for plain, names in {
        "scotd": ("adaptive-cl", "spl", "icl", "icot-si"),
        "kpod-wo-prog": ("kpod-acl", "kpod-spl", "kpod-icl"),
    }.items():
        keys = {name: keys_of(replace(watched, method=name)) for name in (plain, *names)}
        assert all(remade(replace(watched, method=plain), replace(watched, method=name)) == STUDENT for name in names)
        assert len({found["student"] for found in keys.values()}) == len(keys)
    ours = replace(base, method="kpod-acl")
    for key in ("schedule.initial_fraction", "schedule.ramp_stages"):
        assert remade(ours, changed(ours, key, TOUCHED[key][0])) == STUDENT
    for key in ("schedule.growth_exponent", "schedule.selector", "schedule.num_clusters"):
        assert remade(ours, changed(ours, key, TOUCHED[key][0])) == NONE
    theirs = replace(base, method="adaptive-cl")
    assert remade(theirs, changed(theirs, "schedule.initial_fraction", 0.5)) == NONE


def test_a_method_refuses_a_recipe_that_it_does_not_work_with(base: Recipe) -> None:
    """When the pipeline is made, before anything else."""
    by_tokens = changed(base, "training.tokens_per_batch", 999)
    for name in ("adaptive-cl", "kpod-acl", "icl", "kpod-icl", "icot-si"):
        with pytest.raises(ConfigError, match=r"training\.tokens_per_batch: the method chooses"):
            Pipeline(replace(by_tokens, method=name))
    for name in ("icl", "kpod-icl"):
        with pytest.raises(ConfigError, match=r"training\.validation: the method goes by the accuracy"):
            Pipeline(replace(base, method=name))
    with pytest.raises(ConfigError, match=r"schedule\.initial_fraction is 0\.0; it must be above 0"):
        Pipeline(replace(changed(base, "schedule.initial_fraction", 0.0), method="kpod-acl"))
    for name in ("spl", "kpod-spl", "adaptive-cl"):
        Pipeline(replace(by_tokens if "spl" in name else base, method=name))


def test_adapters_are_merged_or_not_in_another_student(base: Recipe) -> None:
    with_adapters = changed(base, "training.lora", LoraConfig(2, 4))
    assert remade(with_adapters, changed(with_adapters, "training.merge_lora", False)) == STUDENT
    for field, value in {"rank": 3, "alpha": 5, "dropout": 0.1, "target_modules": "q_proj"}.items():
        assert remade(with_adapters, changed(with_adapters, f"training.lora.{field}", value)) == STUDENT


def test_where_files_and_logs_go_is_no_part_of_a_student(base: Recipe) -> None:
    for arguments in ({"save_total_limit": 1}, {"report_to": "none"}, {"save_steps": 7}, {"logging_steps": 1}):
        assert remade(base, changed(base, "training.arguments", arguments)) == NONE


def test_what_validation_asks_belongs_to_the_student_where_it_is_on(base: Recipe, data: Path, tmp_path: Path) -> None:
    watched = changed(base, "training.validation", ValidationConfig(str(data / "rationales.jsonl"), limit=2))
    assert remade(base, watched) == VALIDATED
    for key, value in {"limit": 3, "every_epochs": 2, "patience": 5, "student": "last"}.items():
        assert remade(watched, changed(watched, f"training.validation.{key}", value)) == VALIDATED
    for key in ("batch_size", "max_new_tokens", "samples"):
        value, _ = TOUCHED[f"evaluation.{key}"]
        assert remade(watched, changed(watched, f"evaluation.{key}", value)) == VALIDATED
    assert remade(watched, changed(watched, "evaluation.temperature", 0.1)) == NONE
    drawn = changed(watched, "evaluation.samples", 2)
    assert remade(drawn, changed(drawn, "evaluation.temperature", 0.1)) == VALIDATED
    assert remade(watched, changed(watched, "data.answer_words", ("So we get",))) == VALIDATED
    for key in ("before", "self_check", "engine"):
        value, phases = TOUCHED[f"evaluation.{key}"]
        assert remade(watched, changed(watched, f"evaluation.{key}", value)) == phases
    moved = tmp_path / "same.jsonl"
    artifacts.write_jsonl(moved, artifacts.read_jsonl(data / "rationales.jsonl"))
    assert remade(watched, changed(watched, "training.validation.questions", str(moved))) == NONE
