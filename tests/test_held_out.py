"""The NLL of held-out rationales: which token is what, mean and error by hand, and where it is measured and shown."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kpod.commands.command_line import main
from kpod.commands.grid import comparison
from kpod.commands.grid.comparison import compare, tabulate_nll
from kpod.commands.grid.variants import Grid, is_finished
from kpod.commands.report import held_out, write_report
from kpod.evaluation.held_out import (
    NUM_STEPS,
    PART_NAMES,
    PARTS,
    mean_nll,
    roles_of_characters,
    scores,
    surprises,
    token_roles,
)
from kpod.experiment import artifacts
from kpod.experiment.pipeline import Pipeline
from kpod.lm.encoding import encode_all
from kpod.recipe import AverageConfig, DataConfig, HeldOutConfig, Recipe
from kpod.recipe.loading import dump_recipe
from kpod.records.errors import ConfigError, DataError
from kpod.records.outcomes import Surprise
from test_comparison import in_this_process
from tiny import tiny_llama, tiny_rationales, tiny_t5
from tiny_runs import recipe, write_tiny_data

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

# -- classes -----------------------------------------------------------------------------------------------------------

MARKS = {"operand": "o", "result": "r", "word": "w", None: " "}


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        ("3 + 4 = 7", "o o o o r"),
        ("3+4=7.", "oooorw"),
        ("12 - 5 = $7", "oo o o o wr"),
        ("= -3", "o rr"),
        ("2 x 3 = 6", "o o o o r"),
        ("2X3", "owo"),  # a letter between digits is a word's: such a token is rare, and the rule is one line
        ("10 / 4 = 2.5", "oo o o o rrr"),
        ("2 * 500 = 1,000 m", "o o ooo o rrrrr w"),
        ("5 = 2 + 3 = 5", "o o r o o o r"),  # of a chain the number after each sign
        ("8 equals 8", "o wwwwww r"),
        ("unequals 8", "wwwwwwww o"),
        ("a = b", "w o w"),  # no number to its right
        ("half-price, and/or twenty-five", "wwwwwwwwwww wwwwww wwwwwwwwwww"),
        ("- We add 2", "w ww www o"),
        ("* 3 pens", "w o wwww"),
        ("3rd of 5", "oww ww o"),
        ("50% of 8 is 4", "ooo ww o ww o"),
        ("7 − 2 ≈ 5", "o o o o r"),
        ("", ""),
    ],
)
def test_characters_have_the_role_that_a_reader_gives_them(text, roles):
    assert "".join(MARKS[role] for role in roles_of_characters(text)) == roles


@given(st.text(alphabet="12.=$-+x a\n≈equals ", max_size=40))
def test_every_visible_character_has_a_role_and_a_digit_is_no_word(text):
    for char, role in zip(text, roles_of_characters(text), strict=True):
        assert (role is None) is char.isspace()
        assert role in ("operand", "result") or not char.isdigit()


@pytest.mark.parametrize(
    "text", ["=" * 100_000, "= " * 50_000, "1," * 50_000, "=" + " " * 100_000, "- " * 50_000, " " * 100_000]
)
def test_long_texts_of_signs_take_linear_time(text):
    assert len(roles_of_characters(text)) == len(text)


def test_a_token_has_the_role_of_most_of_its_characters_and_of_the_first_where_they_are_as_many():
    text = "so 12=12."
    assert token_roles([(0, 2), (2, 5), (5, 8), (8, 9), (2, 3), (5, 7)], text) == [
        "word",
        "operand",
        "result",
        "word",
        None,
        "operand",
    ]


# -- mean and error ----------------------------------------------------------------------------------------------------


def test_the_mean_is_nats_by_tokens_and_its_error_that_of_a_ratio():
    """By hand: 12 nats by 6 tokens; residuals 1 - 2, 5 - 4 and 6 - 6; sqrt(3 / 2 * 2) / 6."""
    measured = [Surprise(id_, {"all": part}) for id_, part in (("a", (1, 1.0)), ("b", (2, 5.0)), ("c", (3, 6.0)))]
    (found,) = mean_nll(measured)
    assert (found.part, found.value, found.num_rationales) == ("all", 2.0, 3)
    assert found.error == pytest.approx(3**0.5 / 6)


@given(st.lists(st.floats(0, 20), min_size=2, max_size=30), st.integers(1, 9))
def test_with_equal_lengths_it_is_the_mean_and_its_usual_standard_error(nats, length):
    (found,) = mean_nll([Surprise(str(n), {"all": (length, one)}) for n, one in enumerate(nats)])
    values = np.array(nats) / length
    assert found.value == pytest.approx(values.mean(), abs=1e-9)
    assert found.error == pytest.approx(values.std(ddof=1) / len(values) ** 0.5, abs=1e-9)


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 90)), min_size=2, max_size=30))
def test_scores_have_the_mean_of_the_ratio(parts):
    measured = [Surprise(str(n), {"all": one, "results": one}) for n, one in enumerate(parts)]
    measured.append(Surprise("none", {"all": (1, 0.0)}))
    ids = [one.id for one in measured]
    assert scores(measured, ids, "results").mean() == pytest.approx(mean_nll(measured)[1].value)
    assert scores(measured, ids, "results")[-1] == 0


def test_a_single_rationale_has_no_error_and_one_without_tokens_is_refused():
    assert mean_nll([Surprise("a", {"all": (2, 3.0)})])[0].error is None
    for parts in ({}, {"words": (1, 1.0)}, {"all": (0, 0.0)}):
        with pytest.raises(DataError, match="'a': no tokens"):
            Surprise("a", parts)


# -- of a model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_the_parts_sum_the_log_probabilities_of_their_tokens(make):
    """Against one plain pass of the model over each text."""
    lm, rationales = make(), tiny_rationales()
    texts = {one.id: one.text for one in rationales}
    tokens = list(encode_all(lm, rationales, DataConfig()))
    for one, found in zip(sorted(tokens, key=lambda t: -len(t.token_ids)), surprises(lm, tokens, texts), strict=True):
        ids, start = torch.tensor(one.token_ids.tolist())[None], one.segment_stops[0]
        with torch.no_grad():
            if lm.encoder_decoder:
                begin = torch.tensor([[lm.model.config.decoder_start_token_id]])
                read = {"input_ids": ids[:, :start], "decoder_input_ids": torch.cat([begin, ids[:, start:-1]], dim=1)}
                logits = lm.model(**read).logits[0]
            else:
                logits = lm.model(ids).logits[0, start - 1 : -1]
        picked = logits.log_softmax(-1).gather(1, ids[0, start:, None])[: one.num_tokens, 0]
        nll, roles = -picked.double().numpy(), token_roles(list(map(tuple, one.char_spans.tolist())), texts[one.id])
        wanted = {"all": (one.num_tokens, nll.sum())}
        for role, name in PARTS.items():
            inside = np.array([other == role for other in roles])
            wanted |= {name: (inside.sum(), nll[inside].sum())} if inside.any() else {}
        for number, (begun, stop) in enumerate(zip((0, *one.step_stops), one.step_stops, strict=False), start=1):
            assert number < NUM_STEPS
            wanted[f"step {number}"] = (stop - begun, nll[begun:stop].sum())
        assert found.id == one.id
        assert found.parts.keys() == wanted.keys() <= set(PART_NAMES)
        for name, (number, nats) in wanted.items():
            assert found.parts[name][0] == number
            assert found.parts[name][1] == pytest.approx(nats, abs=1e-3), name


def test_a_model_with_nan_is_named():
    lm = tiny_llama()
    lm.model.lm_head.weight.data.fill_(float("nan"))
    rationales = tiny_rationales()
    with pytest.raises(DataError, match="its log P is not finite"):
        list(surprises(lm, list(encode_all(lm, rationales, DataConfig())), {one.id: one.text for one in rationales}))


# -- in a run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def held(data: Path, runs: Path, *overrides: str) -> Recipe:
    """Trained on three questions of the file, and held out the rest of them; weights averaged."""
    file = str(data / "rationales.jsonl")
    found = recipe(data, runs, "llama", "--method", "scotd", "--data.train_limit", "3", *overrides)
    evaluation = replace(found.evaluation, held_out=HeldOutConfig(file))
    return replace(found, evaluation=evaluation, training=replace(found.training, average=AverageConfig(0.5)))


@pytest.fixture(scope="module")
def grid(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    runs = tmp_path_factory.mktemp("runs")
    found = held(data, runs)
    made = Grid.of({name: replace(found, method=name) for name in ("scotd", "dft")}, (0, 1), runs / "tiny-compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "in_processes", in_this_process)
        compare(made)
    return made


def test_rationales_of_trained_questions_are_left_out(data: Path, tmp_path: Path) -> None:
    """Also where they stand under another id; and of a question with two the first is measured."""
    rows = artifacts.read_jsonl(data / "rationales.jsonl")
    others = [row | {"id": f"other-{row['id']}", "question_id": f"other-{row['id']}"} for row in rows]
    again = [others[-2] | {"id": f"{others[-2]['id']}/1", "question_id": others[-2]["id"], "rationale": "Twice."}]
    other = tmp_path / "other.jsonl"
    artifacts.write_jsonl(other, [*others, *again])
    found = Pipeline(held(data, tmp_path))
    trained = {one.question.question for one in found.data.gathered.kept}
    wanted = [one for one in tiny_rationales() if one.question.question not in trained]
    assert len(wanted) >= 2
    assert [one.id for one in found.data.held_out] == [one.id for one in wanted]
    renamed = replace(found.recipe.evaluation, held_out=HeldOutConfig(str(other), limit=2))
    told = Pipeline(replace(found.recipe, evaluation=renamed)).data.held_out
    assert [one.id for one in told] == [f"other-{one.id}" for one in wanted[:2]]


def test_a_source_with_nothing_held_out_says_what_to_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation\.held_out\.rationales: .* set data\.train_limit"):
        _ = Pipeline(replace(held(data, tmp_path), data=recipe(data, tmp_path).data)).data.held_out
    with pytest.raises(ConfigError, match=r"evaluation\.held_out\.limit"):
        HeldOutConfig("word_problems", 1)


def test_a_wrong_source_is_told_before_anything_is_trained(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = held(data, tmp_path)
    found = replace(found, evaluation=replace(found.evaluation, before=False, held_out=HeldOutConfig("none.jsonl")))
    with pytest.raises(DataError, match=r"none\.jsonl"):
        Pipeline(found).run()
    assert not (tmp_path / found.name / "student").exists()
    (tmp_path / "wrong.yaml").write_text(dump_recipe(found), encoding="utf-8")
    assert main(["check", str(tmp_path / "wrong.yaml")]) == 2
    assert "none.jsonl" in capsys.readouterr().out


def test_a_run_measures_before_after_and_at_the_last_update_and_shows_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Pipeline(held(data, tmp_path))
    result = found.run()
    test = found.recipe.data.tests[0]
    names = [after.dataset for _, after in result.accuracies]
    assert names == [test, f"{test}, last update"]
    measured = held_out(found)
    assert list(measured) == ["before", "after", "last update"]
    after, last = (measured[when][0] for when in ("after", "last update"))
    assert after.num_rationales == len(found.data.held_out)
    assert after.value != last.value  # the mean of the weights is another student than the last ones
    student = found.folder.place("student", found.keys["student"])
    for folder, told in ((student, after), (student / "last_update", last)):
        model = type(tiny_llama().model).from_pretrained(folder)
        lm = replace(tiny_llama(), model=model.eval())
        tokens = [t for t in encode_all(lm, found.data.held_out, found.recipe.data) if hasattr(t, "token_ids")]
        (again, *_) = mean_nll(list(surprises(lm, tokens, {one.id: one.text for one in found.data.held_out})))
        assert again.value == pytest.approx(told.value, abs=1e-5)
    page = write_report(found).read_text(encoding="utf-8")
    assert "Held-out rationales" in page
    assert f"{after.value:.3f} +- {after.error:.3f}" in page
    changed = replace(found.recipe, training=replace(found.recipe.training, learning_rate=2e-3))
    with pytest.raises(DataError, match=r"held_out/after is not of the student of this recipe"):
        held_out(Pipeline(changed))  # of another student, before it was measured
    unasked = replace(found.recipe, evaluation=replace(found.recipe.evaluation, before=False))
    assert list(held_out(Pipeline(unasked))) == ["after", "last update"]
    assert "last update</th>" in page
    report = json.loads((found.folder.path / "report.json").read_text(encoding="utf-8"))
    assert report["held_out"]["after"][0]["value"] == after.value
    assert [pair["after"]["dataset"] for pair in report["accuracy"]] == names
    capsys.readouterr()
    assert main(["evaluate", str(found.folder.path)]) == 0
    said = capsys.readouterr().out
    assert f"| {test}, last update |" in said
    assert "| part | rationales | after | last update |" in said
    assert f"| all | {after.num_rationales} | {after.value:.3f} +- {after.error:.3f} |" in said


def test_without_the_key_nothing_is_measured(data: Path, tmp_path: Path) -> None:
    found = held(data, tmp_path)
    found = replace(found, evaluation=replace(found.evaluation, held_out=None))
    assert Pipeline(found).evaluations.measure("after", "x", "no such model") == []
    assert tabulate_nll(Grid.of({"scotd": found}, (0,), tmp_path)) == ([], 0)


@pytest.mark.slow
def test_a_comparison_has_the_nll_with_both_intervals(grid: Grid) -> None:
    rows, number = tabulate_nll(grid)
    assert number >= 2
    base, other = rows[:2]
    assert (base.part, base.name, base.against_base) == ("all", "scotd", None)
    means = [
        [mean_nll(Pipeline(run).evaluations.measured("after"))[0].value for run in grid.runs[name]]
        for name in grid.runs
    ]
    assert (base.values, other.values) == tuple(tuple(map(pytest.approx, values)) for values in means)
    paired = other.against_base
    assert paired is not None
    assert paired.difference == pytest.approx(np.mean(means[1]) - np.mean(means[0]))
    assert paired.seed_interval is not None
    tables = (grid.folder / "comparison.md").read_text(encoding="utf-8")
    assert "**held-out rationales**" in tables
    assert f"| all | dft | {np.mean(means[1]):.3f} | {paired.difference:+.3f} | {paired.interval[0]:+.3f} to " in tables
    assert ", last update**" in tables  # accuracies of both students
    page = (grid.folder / "comparison.html").read_text(encoding="utf-8")
    assert f"<td>{paired.difference:+.3f}</td>" in page
    facts = json.loads((grid.folder / "comparison.json").read_text(encoding="utf-8"))
    assert facts["held_out"][1]["against_base"]["difference"] == paired.difference


def test_a_run_that_was_not_measured_yet_is_not_finished(grid: Grid) -> None:
    run = grid.runs["scotd"][0]
    assert is_finished(Pipeline(run))
    fewer = replace(run, evaluation=replace(run.evaluation, held_out=replace(run.evaluation.held_out, limit=2)))
    assert not is_finished(Pipeline(fewer))


def test_without_the_key_another_checkpoint_is_asked_without_the_training_data(data: Path, tmp_path: Path) -> None:
    found = recipe(data, tmp_path, "llama", "--data.train", str(tmp_path / "none.jsonl"))
    (accuracy,) = Pipeline(found).evaluate("x", str(data / "llama")).values()
    assert accuracy.num_questions == 2
