"""A recipe says what it looks like, or is refused with the key and what to write instead."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpod.commands.command_line import main
from kpod.recipe import (
    DataConfig,
    DiversityConfig,
    LoraConfig,
    PromptConfig,
    Recipe,
    ScheduleConfig,
    TeacherConfig,
    TrainingConfig,
    WeightingConfig,
)
from kpod.recipe.descriptions import explain, recipe_schema
from kpod.recipe.loading import dump_recipe, load_recipe
from kpod.recipe.safe_yaml import MAX_BYTES, dump_yaml, parse_yaml, read_yaml
from kpod.recipe.sections import SECTIONS, keys_of
from kpod.records.errors import ConfigError


@pytest.fixture
def recipe_of(tmp_path: Path):
    def load(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text.encode())
        return load_recipe(path, overrides)

    return load


def test_no_file_and_an_empty_file_are_the_default_recipe(recipe_of):
    assert load_recipe(None) == recipe_of("") == recipe_of("data:\nschedule: # nothing set\n") == Recipe()


def test_a_whole_recipe(recipe_of):
    recipe = recipe_of(
        """
        name: gsm8k-kpod
        data: {train: gsm8k, train_limit: 300, tests: [gsm8k, "svamp:test"], prompt: {chat: false}}
        teacher: {rationales: gemini-1.5-flash}
        schedule: {diversity: {relative: 0.5}, initial_fraction: 0}
        training: {learning_rate: 1e-5, lora: {rank: 8}, warmup_steps: 10, weight_decay: 1e-2}
        """
    )
    assert recipe == Recipe(
        name="gsm8k-kpod",
        data=DataConfig(train="gsm8k", train_limit=300, tests=("gsm8k", "svamp:test"), prompt=PromptConfig(chat=False)),
        teacher=TeacherConfig(rationales="gemini-1.5-flash"),
        schedule=ScheduleConfig(diversity=DiversityConfig(relative=0.5), initial_fraction=0.0),
        training=TrainingConfig(
            learning_rate=1e-5, lora=LoraConfig(rank=8), arguments={"warmup_steps": 10, "weight_decay": 0.01}
        ),
    )


@pytest.mark.parametrize("number", ["1e-5", '"1e-5"', "1E-5", "1.0e-5", "0.00001", ".1e-4", "+1e-5"])
def test_every_spelling_of_a_float_is_that_float(recipe_of, number: str):
    assert recipe_of(f"training: {{learning_rate: {number}}}").training.learning_rate == 1e-5


def test_an_integer_is_a_float_where_one_is_wanted(recipe_of):
    alpha = recipe_of("weighting: {mask_loss_weight: 1}").weighting.mask_loss_weight
    assert alpha == 1.0
    assert isinstance(alpha, float)


def test_no_is_false_where_a_truth_value_is_wanted(recipe_of):
    assert recipe_of("evaluation: {before: no}").evaluation.before is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedule: {num_cluster: 8}", r"unknown key schedule\.num_cluster; did you mean schedule\.num_clusters\?"),
        ("num_clusters: 8", r"unknown key num_clusters; did you mean schedule\.num_clusters\?"),
        ("shedule: {}", r"unknown key shedule; did you mean schedule\?"),
        ("teacher: {api_key: x}", r"unknown key teacher\.api_key; did you mean teacher\.ask"),
        ("training: {lora: {rnk: 8}}", r"unknown key training\.lora\.rnk; did you mean training\.lora\.rank\?"),
        ("training: {hub_token: x}", r"training\.hub_token: a secret does not belong"),
        ("training: {arguments: {warmup_steps: 1}}", "straight under training"),
        ("training: {3: 4}", r"training\.3 is no name"),
        ("data: {columns: {3: x}}", r"unknown key data\.columns\.3"),
        ("training: {learning_rate: fast}", r"training\.learning_rate is 'fast'; it must be a number"),
        ("training: {learning_rate: .nan}", r"training\.learning_rate is nan; it must be a number"),
        ("training: {learning_rate: yes}", r"training\.learning_rate is True; it must be a number"),
        ("training: {num_train_epochs: 2.5}", r"training\.num_train_epochs is 2\.5; it must be a whole number"),
        ("seed: true", "seed is True; it must be a whole number"),
        ('seed: "1"', "seed is '1'; it must be a whole number"),
        ("seed: 010", r"recipe\.yaml:1: 010 would be read as 8"),
        ("training: {warmup_steps: 12:30}", r"recipe\.yaml:1: 12:30 would be read as 750"),
        ("name: no", "name is False; it must be a text; .*quotes"),
        ("name: 2024-01-01", r"name is datetime\.date.*quotes"),
        ("student: 1e5", r"student is 100000\.0; it must be a text; .*quotes"),
        (
            "training: {save_strategy: no}",
            r"training\.save_strategy is False; it must be one of epoch, steps, no; .*quotes",
        ),
        ("training: {save_strategy: never}", r"training\.save_strategy is 'never'; it must be one of epoch, steps, no"),
        ("evaluation: {before: 1}", r"evaluation\.before is 1; it must be true or false"),
        ("data: {tests: gsm8k}", r"data\.tests is 'gsm8k'; it must be a list of texts"),
        ("data: {tests: [1]}", r"data\.tests is \[1\]; it must be a list of texts"),
        ("data: {train: null}", r"data\.train is None; it must be a text"),
        ("data: gsm8k", "data is 'gsm8k'; it must be a section"),
        ("- name: x", r"recipe\.yaml must hold recipe keys"),
        ("schedule: {initial_fraction: 2}", r"schedule\.initial_fraction is 2\.0; it must be between 0 and 1"),
        ("seed: 1\nname: x\nseed: 2", r"recipe\.yaml:3: the key 'seed' stands twice"),
        ("data: {train: &a x, root: *a}", r"recipe\.yaml:1: aliases"),
        ("seed: [1", r"recipe\.yaml:1: expected"),
        ("seed: !!python/object:os.system x", "could not determine a constructor"),
        ("seed: \x07", "no readable YAML"),
        ("seed: 2024-99-99", "no readable YAML"),
        ("[" * 1000, "no readable YAML"),
        ("? {a: 1}\n: x", "found unhashable key"),
        ("#" * (MAX_BYTES + 1), "are not read"),
    ],
)
def test_what_a_recipe_may_not_say(recipe_of, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        recipe_of(text)


@pytest.mark.parametrize("name", ["", ".", "..", ".phases", "../../x", "a/b", "a b", "é", "a\n", "x" * 65])
def test_a_run_name_must_be_a_plain_file_name(name: str):
    with pytest.raises(ConfigError, match="name is"):
        load_recipe(None, [f"--name={name}"])
    with pytest.raises(ConfigError, match="name is"):
        Recipe(name=name)


def test_a_run_name_may_start_with_a_dot():
    assert load_recipe(None, ["--name", "..."]).name == "..."


def test_a_missing_or_undecodable_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read: No such file"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml: byte 9 is no UTF-8"):
        load_recipe(tmp_path / "latin.yaml")


def test_the_command_line_wins_over_the_file_and_the_later_word_over_the_earlier(recipe_of):
    text = "schedule: {num_clusters: 3, stride: 2}"
    schedule = recipe_of(text, "--schedule.num_clusters", "8", "--schedule.num_clusters=9").schedule
    assert (schedule.num_clusters, schedule.stride) == (9, 2)


def test_what_the_command_line_may_say():
    recipe = load_recipe(
        None,
        [
            *("--student", "010", "--training.save_strategy", "no", "--evaluation.before", "no"),
            *("--data.tests=['gsm8k:test', svamp]", "--data.train_limit", "null", "--teacher.rationales=null"),
            *("--schedule.diversity", "{relative: 1}", "--training.lora.rank", "8", "--training.warmup_steps=1e-2"),
            *("--data.prompt.closing", "So: {answer}", "--schedule.growth_exponent", "-0.5"),
        ],
    )
    assert recipe == Recipe(
        student="010",
        data=DataConfig(tests=("gsm8k:test", "svamp"), prompt=PromptConfig(closing="So: {answer}")),
        schedule=ScheduleConfig(diversity=DiversityConfig(relative=1.0), growth_exponent=-0.5),
        training=TrainingConfig(save_strategy="no", lora=LoraConfig(rank=8), arguments={"warmup_steps": 0.01}),
        evaluation=replace(Recipe().evaluation, before=False),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schedule.num_cluster", "8"], r"unknown key schedule\.num_cluster; did you mean schedule\.num_clusters\?"),
        (["schedule.num_clusters", "8"], "unexpected argument 'schedule.num_clusters'"),
        (["--seed"], "--seed needs a value"),
        (["--seed", "--name", "x"], "--seed needs a value"),
        (["--seed", "x"], "seed is 'x'; it must be a whole number"),
        (["--seed", "010"], "seed:1: 010 would be read as 8"),
        (["--data.tests", "[a"], r"data\.tests:1: expected"),
        (["--data.train.split", "x", "--data.train", "y", "--data.train.split", "x"], "has no keys"),
        (["--training.lora", "true"], r"training\.lora is True; it must be a section"),
        (["--", "x"], "unexpected argument"),
        (["--a..b", "x"], "unknown key a"),
    ],
)
def test_what_the_command_line_may_not_say(words: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_recipe(None, words)


texts = st.one_of(
    st.sampled_from(
        ["no", "1e-5", "010", "12:30", "null", "", "~", "2024-01-01", "<<", "=", "- a", "{x}", "\u2028", "\x85", "#"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
scalars = st.one_of(texts, st.booleans(), st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
names = texts.filter(bool)
target_modules = names | st.lists(names, min_size=1, max_size=3).map(tuple)
argument_names = st.sampled_from(["warmup_steps", "weight_decay", "bf16", "report_to", "optim_args"])


def adapters(rank: int, target_modules: str | tuple[str, ...]) -> LoraConfig:
    return LoraConfig(rank=rank, target_modules=target_modules)


@settings(max_examples=15)
@given(
    name=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    tests=st.lists(texts, max_size=3),
    text=texts,
    rate=st.floats(allow_nan=False, allow_infinity=False),
    alpha=st.floats(min_value=1e-300, allow_infinity=False),
    lora=st.none() | st.tuples(st.integers(min_value=1), target_modules),
    arguments=st.dictionaries(argument_names, scalars | st.lists(scalars, max_size=2), max_size=3),
)
def test_a_dumped_recipe_loads_as_an_equal_one(tmp_path_factory, name, tests, text, rate, alpha, lora, arguments):
    recipe = Recipe(
        name=name,
        student=text,
        data=DataConfig(tests=tuple(tests), root=text, prompt=PromptConfig(cot_prompt=text)),
        weighting=WeightingConfig(mask_loss_weight=alpha),
        training=TrainingConfig(learning_rate=rate, lora=lora and adapters(*lora), arguments=arguments),
    )
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_bytes(dump_recipe(recipe).encode())
    assert load_recipe(path) == recipe


def test_an_argument_that_is_a_key_of_training_cannot_be_dumped():
    recipe = Recipe(training=TrainingConfig(arguments={"learning_rate": 1.0}))
    with pytest.raises(ConfigError, match=r"training\.arguments\.learning_rate"):
        dump_recipe(recipe)


def test_a_preset_stands_under_the_recipes_own_keys(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("preset: paper\nschedule: {pace: deadline, num_clusters: 3}\ntraining:\n", encoding="utf-8")
    found = load_recipe(path, ["--weighting.predictor", "student"])
    assert (found.weighting.estimator, found.weighting.predictor) == ("gumbel", "student")
    assert (found.schedule.selector, found.schedule.pace, found.schedule.num_clusters) == ("ftgp", "deadline", 3)
    assert (found.data.step_rule, found.weighting.mask_loss_weight) == ("period", 0.5)
    assert load_recipe(None, ["--preset", "paper"]).schedule.pace == "literal"
    with pytest.raises(ConfigError, match="preset is 'papre'; it must be one of paper"):
        load_recipe(None, ["--preset", "papre"])


# -- one decoder -------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
NEEDED = {
    "teacher.ask": {"model": "m"},
    "teacher.logprobs": {"model": "m"},
    "teacher.ask.prices": {"prompt": 1.0, "completion": 1.0},
    "training.validation": {"questions": "q"},
    "evaluation.held_out": {"rationales": "r"},
}
BESIDE = {"teacher.ask.contrastive": {"backend": "local", "temperature": 0.0}}
"""What must stand beside a section, in the one that holds it."""
VALUES = (None, True, 3, -1, 2.5, "4", ["x"], {"x": 1})
KEYS = [f"{section}.{name}".lstrip(".") for section in SECTIONS for name in keys_of(section)]


def outcome(make: Callable[..., object], *given: object) -> object:
    try:
        return make(*given)
    except ConfigError as error:
        return str(error)


def instance(section: str, values: dict[str, object]) -> object:
    return SECTIONS[section](**values)


def around(section: str, inner: object, make: Callable[[str, dict[str, object]], object]) -> object:
    """What holds a section, made from the inside outwards."""
    while section:
        beside = BESIDE.get(section, {})
        section, _, part = section.rpartition(".")
        inner = make(section, NEEDED.get(section, {}) | beside | {part: inner})
    return inner


def made(section: str, values: dict[str, object]) -> object:
    return around(section, instance(section, values), instance)


def replaced(section: str, values: dict[str, object]) -> object:
    return around(section, replace(instance(section, NEEDED.get(section, {})), **values), instance)


@pytest.mark.parametrize("section", SECTIONS)
def test_python_a_file_and_replace_say_the_same_of_every_value_of_every_key(recipe_of, section: str):
    """Only `training.arguments` is written differently: a file has these keys straight under `training`."""
    for name in keys_of(section).keys() - {"arguments"}:
        for value in VALUES:
            values = NEEDED.get(section, {}) | {name: value}
            from_file = outcome(recipe_of, dump_yaml(around(section, values, lambda _, outer: outer)))
            assert outcome(made, section, values) == from_file, (name, value)
            assert outcome(replaced, section, values) == from_file, (name, value)
            if isinstance(from_file, str):
                assert f"{section}.{name}".lstrip(".") in from_file


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: WeightingConfig(prefixes="4"), r"^weighting\.prefixes is '4'; it must be a whole number above 0$"),
        (lambda: Recipe(student=3), "^student is 3; it must be a text; .*quotes$"),
        (lambda: Recipe(1), "^name is 1; it must be a text"),
        (lambda: WeightingConfig(prefix=4), r"^unknown key weighting\.prefix; did you mean weighting\.prefixes\?$"),
        (lambda: Recipe(weighting=ScheduleConfig()), "^weighting is ScheduleConfig.*; it must be a section"),
        (lambda: Recipe(weighting={"prefixes": 0}), r"^weighting\.prefixes is 0; it must be a positive number$"),
        (lambda: LoraConfig(target_modules=3), "it must be a text or a list of texts"),
        (lambda: ScheduleConfig(first_stage=True), "first_stage is True; it must be a whole number from 0 to 1$"),
        (lambda: TrainingConfig(learning_rate=10**400), "it must be a number$"),
    ],
)
def test_python_is_told_what_a_file_is_told(made: Callable[[], object], message: str):
    with pytest.raises(ConfigError, match=message):
        made()


def test_a_python_recipe_may_hold_what_yaml_makes():
    """Sections as mappings, lists for tuples, whole numbers for floats."""
    recipe = Recipe(data={"tests": ["svamp"]}, weighting={"spread": "2e-1"}, schedule=None)
    assert recipe == Recipe(data=DataConfig(tests=("svamp",)), weighting=WeightingConfig(spread=0.2))


@pytest.mark.parametrize("text", ["preset: [paper]", "preset: {a: 1}", "preset: 3"])
def test_a_preset_that_is_no_name_is_refused(recipe_of, text: str):
    with pytest.raises(ConfigError, match=r"preset is .*; it must be one of paper"):
        recipe_of(text)


def test_digits_without_end_are_no_number_soon(recipe_of):
    with pytest.raises(ConfigError, match="it must be a number"):
        TrainingConfig(learning_rate="1" * 100_000 + "x")


# -- kpod schema, kpod explain -----------------------------------------------------------------------------------------


def test_the_schema_in_docs_is_what_kpod_schema_prints(capsys: pytest.CaptureFixture[str]):
    """If it is not: kpod schema > docs/recipe.schema.json."""
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8")


def test_the_schema_allows_every_recipe_and_no_misspelt_key():
    validator = pytest.importorskip("jsonschema").Draft202012Validator(recipe_schema())
    validator.check_schema(validator.schema)
    for path in (ROOT / "recipes").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# yaml-language-server: $schema=../docs/recipe.schema.json\n")
        validator.validate(read_yaml(path))
    validator.validate(parse_yaml("data:\ntraining: {warmup_steps: 3, lora: null}\npreset: paper", "r"))
    values = ("seed: x", "weighting: {masks: 1}", "weighting: {spread: 0.5}", "precision: fp64", "training: {lora: 3}")
    keys = ("schedule: {num_cluster: 8}", "x: 1", "training: {lora: {rnk: 8}}", "training: {arguments: {}}")
    for wrong in (*values, *keys, "teacher: {ask: {samples: 2}}"):
        assert not validator.is_valid(parse_yaml(wrong, "r")), wrong


def test_every_section_but_training_is_closed_and_every_key_is_described_and_explained():
    schema = recipe_schema()
    sections = [schema, *schema["$defs"].values()]
    assert [s["title"] for s in sections if s["additionalProperties"] is not False] == ["TrainingConfig"]
    assert [key for s in sections for key, inner in s["properties"].items() if not inner.get("description")] == []
    for key in {*KEYS, "preset"} - {"training.arguments"}:
        assert explain(key).startswith(f"{key}: ")
        assert key.rpartition(".")[2] in explain(key.rpartition(".")[0])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["weighting.kept_rate"],
            0,
            "weighting.kept_rate: a number above 0 and below 1, or null; by default 0.6\nMean",
        ),
        (["data.prompt"], 0, 'data.prompt.opening: a text; by default ""'),
        ([], 0, "schedule: a section"),
        (["schedule.num_cluster"], 2, "did you mean schedule.num_clusters?"),
        (["shedule.num_clusters"], 2, "did you mean schedule.num_clusters?"),
        (["nothing.here"], 2, "keys there: name, method"),
        (["seed.x"], 2, "unknown key seed.x"),
        (["seed", "--seed", "1"], 2, "unexpected argument '--seed'"),
    ],
)
def test_what_kpod_explain_says(words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["explain", *words]) == code
    told = capsys.readouterr()
    assert said in told.out + told.err


def test_every_command_that_takes_keys_says_where_they_are(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "kpod explain" in capsys.readouterr().out
