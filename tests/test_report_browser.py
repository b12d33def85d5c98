"""What the report's script searches: rows as they are packed, first stages, paired answers, and two runs."""

import json
import re
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from types import SimpleNamespace
from zlib import decompress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod.commands.gathered import answered, coverage, epochs, paired
from kpod.commands.pages.browser import (
    ROWS,
    SCRIPT,
    Answered,
    Browsed,
    Explained,
    HeatMap,
    Paired,
    first_stages,
    packed,
)
from kpod.commands.pages.page import Epoch, Report, render_html, to_json
from kpod.commands.pages.pair import Agreement, Pair, pair_markdown, pair_to_json, render_pair
from kpod.commands.pages.tables import p_value
from kpod.commands.two_runs import _check_same_questions, agreement, recipe_differences
from kpod.evaluation.pairing import paired_difference
from kpod.recipe.loading import load_recipe
from kpod.records import Schedule
from kpod.records.errors import DataError
from kpod.records.outcomes import Accuracy, PairedDifference, Prediction
from kpod.records.shown import visible
from kpod.training.in_sample import InSample
from test_report import Page

HARD = {
    "script end": "</script><script>alert(1)</script>",
    "comment": "<!-- <script> -->",
    "quotes": '"it\'s" `so` \\ \\u003c',
    "lone surrogate": "a\ud800b",
    "hidden": "1\u202e2\u2028\x00\x1b[2J",
    "right to left": "كم تفاحة؟ שלום",
    "maths": r"$\frac{1}{2} < x \le 3$ & \(y\)",
    "two units": "🍎👩\u200d🚀 𝛼²",
    "white space": " \n\t  x \n\n",
    "template": "{{7*7}}{% for x in y %}",
}


def unpacked(texts):
    return [row for text in texts for row in json.loads(decompress(b64decode(text)))]


def prediction(id_="q", text="The answer is 4", answer="4", correct=True, **more) -> Prediction:
    return Prediction(id_, text, answer, "4", correct, True, **more)


def hard_browsed(text: str) -> Browsed:
    said = prediction(text, text, text, choices={text: text})
    heat = HeatMap(text, text, ((text, 0.5, 1), (f" {text}", 1.0, 2)), text, (0.5, float("inf")), (2, 1))
    return Browsed(
        (text, text), (text,), (Answered(text, text, text, (None, said)),), (Explained(text, (heat,)),), num_left_out=3
    )


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_every_text_comes_out_as_it_is_shown_and_none_becomes_markup(text):
    browsed, shown = hard_browsed(text), visible(text)
    assert unpacked(browsed.packed("question")) == [
        [shown, shown, shown, "4", [[shown, shown]], [0, [shown, shown, 1, 1, None]]]
    ]
    lengths = [len(part.encode("utf-16-le")) // 2 for part in (shown, f" {shown}")]
    assert unpacked(browsed.packed("rationale")) == [
        [shown, shown, shown, [[f"{shown} {shown}", lengths, [50, 100], [1, 1], [0.5, None], [2, 1]]]]
    ]
    html = render_html(Report("t", browsed=browsed))
    plain = Page(render_html(Report("t", browsed=hard_browsed("plain"))))
    assert Page(html).tags == plain.tags
    html.encode()
    facts = re.search(r'<script type="application/json" id="facts">(.*?)</script>', html, re.DOTALL)
    assert facts is not None
    assert json.loads(facts[1]) == {"question": [shown] * 2, "rationale": [shown], "tests": 1, "stages": True}


@pytest.mark.parametrize("html", [render_html(Report("t", browsed=hard_browsed("x"))), render_pair(Pair(("a", "b")))])
def test_the_policy_allows_the_packages_script_and_no_other(html):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    [allowed] = re.findall(r"script-src ([^;]*)", policy[1])
    assert allowed == f"'sha256-{b64encode(sha256(SCRIPT.encode()).digest()).decode()}'"
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", html, re.DOTALL)
    run = [body for attributes, body in scripts if not attributes]
    assert run in ([], [SCRIPT])
    kinds = ('type="application/json" id="facts"', 'type="text/plain" data-rows="')
    assert all(attributes.strip().startswith(kinds) for attributes, _ in scripts if attributes)
    assert all(re.fullmatch(r"[A-Za-z0-9+/=]*", body) for attributes, body in scripts if "data-rows" in attributes)


def test_a_run_that_weighs_all_tokens_alike_says_so_and_can_be_searched():
    text = render_html(Report("t", browsed=hard_browsed("x")))
    assert "weighs all tokens the same" in text
    assert 'data-kind="rationale"' in text
    assert "No token weights" in render_html(Report("t"))


def test_the_script_never_makes_markup_of_text_and_reaches_nothing():
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|fetch\(|https?:", SCRIPT
    )
    assert "</script" not in SCRIPT
    assert "<!--" not in SCRIPT


@given(st.lists(st.tuples(st.text(max_size=6), st.floats(0, 1)), min_size=1, max_size=12), st.data())
def test_lengths_and_steps_tile_the_text(tokens, data):
    steps = np.cumsum([0, *data.draw(st.lists(st.integers(0, 1), min_size=len(tokens) - 1, max_size=len(tokens) - 1))])
    heat = HeatMap("r", "q", tuple((text, w, int(step) + 1) for (text, w), step in zip(tokens, steps, strict=True)))
    [[_, _, _, [[text, lengths, weights, sizes, _, _]]]] = unpacked(
        Browsed(rationales=(Explained("r", (heat,)),)).packed("rationale")
    )
    units = text.encode("utf-16-le")
    stops = 2 * np.cumsum([0, *lengths])
    assert [units[a:b].decode("utf-16-le") for a, b in pairwise(stops)] == [visible(token) for token, _ in tokens]
    assert (sum(sizes), len(sizes), len(weights)) == (len(tokens), heat.num_steps, len(tokens))
    assert all(0 <= weight <= 100 for weight in weights)


@pytest.mark.parametrize("number", [0, 1, ROWS, ROWS + 1, 2 * ROWS])
def test_rows_are_cut_into_parts_and_none_is_lost(number):
    texts = list(packed([[n] for n in range(number)]))
    assert len(texts) == -(-number // ROWS)
    assert unpacked(texts) == [[n] for n in range(number)]


# -- first stages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_steps", "num_steps", "settings", "stages"),
    [
        pytest.param([3, 2, 1, 0], 3, {}, (3, 2, 1), id="a step a stage"),
        pytest.param([2, 2, 0], 2, {}, (2, 2), id="nothing but the answer at first"),
        pytest.param([2, 1, 0], 3, {"first_stage": 0}, (2, 1, 0), id="from stage 0"),
        pytest.param([0], 2, {}, (0, 0), id="whole"),
        pytest.param([2, 1, 0], 2, {"trains": "prefix"}, (1, 2), id="first steps first"),
        pytest.param([0, 2, 0, 1, 0], 2, {"ordered": False}, (2, 2), id="in any order"),
    ],
)
def test_first_stages_by_hand(given_steps, num_steps, settings, stages):
    schedule = Schedule(("r",), np.array(given_steps)[:, None], **settings)
    assert first_stages(schedule, 0, num_steps) == stages


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6))
def test_a_step_is_trained_from_its_first_stage_on_and_never_before(falling):
    steps = [*sorted(falling, reverse=True), 0]
    first = first_stages(Schedule(("r",), np.array(steps)[:, None]), 0, 5)
    for stage in range(1, len(steps)):
        assert [step >= steps[stage] for step in range(5)] == [start <= stage for start in first]


def test_values_that_are_not_one_per_step_are_refused():
    tokens = (("a", 0.5, 1), ("b", 0.5, 2))
    with pytest.raises(DataError, match="'r': 1 difficulties for 2 steps"):
        HeatMap("r", "q", tokens, difficulties=(1.0,))
    with pytest.raises(DataError, match="'r': 3 first stages for 2 steps"):
        HeatMap("r", "q", tokens, stages=(1, 2, 3))


# -- before and after ----------------------------------------------------------------------------------


def test_answers_of_two_sides_meet_by_id_and_a_missing_side_stays_missing():
    before = {"t": [prediction("a"), prediction("b")], "u": None}
    after = {"t": [prediction("b", correct=False), prediction("c")], "u": [prediction("a")]}
    found = list(answered({"t": {"a": "A?", "b": "B?"}, "u": {}}, [before, after]))
    assert [(one.test, one.id, one.question) for one in found] == [
        ("t", "a", "A?"), ("t", "b", "B?"), ("t", "c", ""), ("u", "a", ""),
    ]  # fmt: skip
    assert [tuple(p and p.correct for p in one.predictions) for one in found] == [
        (True, None), (True, False), (None, True), (None, True),
    ]  # fmt: skip
    [one] = paired(found)
    assert one[:5] == ("t", 0, 0, 1, 0)


def test_paired_counts_by_hand():
    right = [(True, True)] * 3 + [(False, True)] * 5 + [(True, False)] + [(False, False)] * 2
    answers = [
        Answered("t", str(n), "?", tuple(prediction(str(n), correct=side) for side in sides))
        for n, sides in enumerate(right)
    ]
    [found] = paired(answers)
    assert found[:5] == ("t", 3, 5, 1, 2)
    assert found.difference.difference == pytest.approx(4 / 11)
    assert found.difference.p_value == pytest.approx(2 * 7 / 64)  # 5 or more of 6 heads, two-sided
    assert list(paired([replace(one, predictions=one.predictions[:1]) for one in answers])) == []


# -- what a run recorded of its training -------------------------------------------------------------


def test_epochs_sum_their_updates_and_tell_what_the_curriculum_trained(tmp_path):
    lines = [
        {"step": 1, "epoch": 0.5, "stage": 0, "loss": 2.0, "trained_tokens": 10},
        {"step": 2, "epoch": 1.0, "stage": 0, "loss": float("nan"), "trained_tokens": 20},
        {"step": 2, "epoch": 1.0, "validation_accuracy": 0.25},
        {"step": 3, "epoch": 1.5, "stage": 1, "loss": 1.0, "trained_tokens": 30},
        {"step": 4, "epoch": 2.0, "stage": 2, "loss": 0.5, "trained_tokens": 40},
    ]
    method = SimpleNamespace(parts=lambda _: [InSample()])
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run = SimpleNamespace(method=method, by=lambda part: part, folder=SimpleNamespace(path=tmp_path))
    found = list(epochs(run))
    assert found == [
        Epoch(1, (0, 0), "all but the first 60.0 % of each text", 2, 30, 2.0, 0.25),
        Epoch(2, (1, 2), "all but the first 30.0 % of each text to whole texts", 2, 70, 0.75, None),
    ]
    text = "".join(Page(render_html(Report("t", epochs=tuple(found)))).text.split())
    assert "10allbutthefirst60.0%ofeachtext2302.000025.0%" in text
    assert "21–2allbutthefirst30.0%ofeachtexttowholetexts2700.7500–" in text
    assert to_json(Report("t", epochs=tuple(found)))["epochs"][0]["accuracy"] == 0.25


def test_without_a_curriculum_the_table_has_no_column_for_it():
    html = render_html(Report("t", epochs=(Epoch(1, (1, 1), "", 2, 30, None, None),)))
    assert "curriculum trains" not in html
    assert "Validation accuracy" not in html


def test_the_teachers_coverage_is_shown_where_it_was_recorded(tmp_path):
    facts = {"rationales": 6, "without": 1, "rows": 200, "one_hot": 50, "mass": 0.875}
    (tmp_path / "teacher_logprobs").mkdir()
    run = SimpleNamespace(folder=SimpleNamespace(path=tmp_path), keys={"teacher_logprobs": "k"})
    assert coverage(run) == {}
    (tmp_path / "teacher_logprobs" / "summary.json").write_text(json.dumps(facts), encoding="utf-8")
    assert coverage(run) == facts
    assert coverage(SimpleNamespace(folder=run.folder, keys={})) == {}
    text = " ".join(Page(render_html(Report("t", coverage=facts))).text.split())
    assert "Tokens with the teacher's distribution150 (75.0 %)" in text
    assert "Probability that is stored of these87.5 %" in text
    assert "teacher's probabilities" not in render_html(Report("t"))


# -- two runs ------------------------------------------------------------------------------------------


def test_recipe_keys_that_differ_come_with_both_values():
    one = load_recipe(None, ["--name", "a", "--runs", "x", "--method", "kpod"])
    words = ["--name", "b", "--runs", "y", "--method", "scotd", "--schedule.num_clusters", "9"]
    other = load_recipe(None, [*words, "--training.lora", "{rank: 8}"])
    found = dict(recipe_differences(one, other))
    assert found["method"] == ("kpod", "scotd")
    assert found["schedule.num_clusters"][1] == "9"
    assert found["training.lora"] == ("null", None)
    assert found["training.lora.rank"] == (None, "8")
    assert not {"name", "runs"} & set(found)
    assert list(recipe_differences(one, replace(one, name="c"))) == []


def heat(id_: str, *weights: float, texts: str = "abcdefgh") -> HeatMap:
    return HeatMap(id_, "q", tuple((text, weight, 1) for text, weight in zip(texts, weights, strict=False)))


def test_agreement_counts_what_is_the_same_and_leaves_the_rest_out():
    one = {key: heat(key, 0.0, 0.5, 1.0) for key in ("r", "s", "t")}
    other = {"s": heat("s", 1.0, 0.5, 0.0), "t": heat("t", 0.0, 0.5, 1.0, texts="xyz"), "u": heat("u", 0.1)}
    found = agreement(one, other)
    assert (found.num_rationales, found.num_tokens, found.num_other_tokens, found.num_alone) == (1, 3, 1, (1, 1))
    assert (found.correlation, found.rank_correlation) == pytest.approx((-1, -1))
    assert (found.means, found.distance) == ((0.5, 0.5), pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("one", "other"), [({"r": heat("r", 1.0, 1.0)}, {"r": heat("r", 0.2, 0.4)}), ({}, {}), ({"r": heat("r", 0.3)},) * 2]
)
def test_weights_that_never_change_have_no_correlation(one, other):
    found = agreement(one, other)
    assert (found.correlation, found.rank_correlation) == (None, None)
    assert (found.distance is None) == (not one)
    assert render_pair(Pair(("a", "b"), agreement=found))


def test_one_id_with_two_gold_answers_is_refused():
    two = (prediction(), replace(prediction(), gold="5"))
    with pytest.raises(DataError, match="'q' of 't' has the gold answers '4' and '5'"):
        _check_same_questions([Answered("t", "q", "?", two)])


def whole_pair(text: str = "run") -> Pair:
    said = tuple(prediction(text, text, text, side) for side in (False, True))
    heats = HeatMap(text, text, ((text, 0.25, 1),)), None
    difference = PairedDifference(0.25, (-0.1, 0.6), (0.25,), None, 0.00001)
    return Pair(
        runs=(text, f"{text}-2"),
        recipe={text: (text, None)},
        accuracies=({text: Accuracy(text, 4, 1, 0, 0, (0.05, 0.7))}, {text: Accuracy(text, 4, 2, 1, 0, (0.15, 0.85))}),
        paired=(Paired(text, 1, 1, 0, 2, difference),),
        agreement=Agreement(3, 40, 1, (2, 0), (0.5, 0.25), None, 0.5, 0.125),
        browsed=Browsed((text, text), (text, text), (Answered(text, text, text, said),), (Explained(text, heats),)),
    )


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_no_text_changes_the_page_of_two_runs(text):
    page, plain = Page(render_pair(whole_pair(text))), Page(render_pair(whole_pair("plain")))
    assert page.tags == plain.tags
    assert page.text.count(visible(text)) == plain.text.count("plain") >= 12


def test_the_page_of_two_runs_shows_the_numbers_given():
    text = " ".join(Page(render_pair(whole_pair())).text.split())
    for numbers in (
        "+25.0 points run-2 against run on 4 questions of run 95 % interval -10.0 to +60.0, p < 0.001",
        "run run 25.0 % 5.0–70.0 % 1 / 4 0.0 % 0.0 % run-2 50.0 % 15.0–85.0 % 2 / 4 25.0 % 0.0 %",
        "run 1 0 1 2 +25.0 points (-10.0 to +60.0) < 0.001",
        "3 rationales with 40 tokens are the same in both runs. 1 more are cut into other tokens. 2 are trained by run",
        "(Spearman, mean) 0.500 Mean absolute difference 0.125 Mean weight, run 0.500 Mean weight, run-2 0.250",
        "The first 1 of 1 questions that one run alone answers correctly.",
    ):
        assert numbers.replace(" ", "") in text.replace("\xa0", " ").replace(" ", "")
    table = pair_markdown(whole_pair("a|b")).splitlines()
    assert table[0] == "| test set | a\\|b | a\\|b-2 | difference (95 % interval) | p |"
    assert table[2].endswith("| 25.0 % (5.0–70.0 %) | 50.0 % (15.0–85.0 %) | +25.0 points (-10.0 to +60.0) | < 0.001 |")
    facts = json.loads(json.dumps(pair_to_json(whole_pair())))
    assert facts["tests"]["run"]["paired"]["gained"] == 1
    assert facts["tests"]["run"]["accuracies"][1]["value"] == 0.5


def test_runs_without_a_common_test_set_are_still_compared():
    pair = Pair(("a", "b"), accuracies=({"t": Accuracy("t", 1, 1, 0, 0, (0.2, 1.0))}, {}))
    text = Page(render_pair(pair)).text
    assert "no test question in common" in text
    assert "not asked" in text
    assert pair_markdown(pair).splitlines()[2] == "| t | 100.0 % (20.0–100.0 %) | – | – | – |"


@pytest.mark.parametrize(("value", "shown"), [(0.0, "< 0.001"), (0.0004, "< 0.001"), (0.0006, "0.001"), (1.0, "1.000")])
def test_a_p_value_is_never_shown_as_nothing(value, shown):
    assert p_value(value) == shown


def test_the_difference_is_that_of_the_pairing():
    answers = [
        Answered("t", str(n), "?", (prediction(str(n), correct=n % 2 == 0), prediction(str(n), correct=n % 3 == 0)))
        for n in range(12)
    ]
    one, other = (np.array([[n % k == 0 for n in range(12)]]) for k in (2, 3))
    [found] = paired(answers)
    assert found.difference == paired_difference(other, one)
