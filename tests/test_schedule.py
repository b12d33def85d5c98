"""The schedule over all stages: Eq. 10 by hand, its laws, the deadline; and the clusters it is spread over."""

import dataclasses
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpod.experiment.parts import Given, prefix_first, progressive, progressive_unordered
from kpod.recipe import DiversityConfig, Recipe, ScheduleConfig
from kpod.records.errors import ConfigError, DataError, ScheduleError
from kpod.schedule import clusters as clusters_module
from kpod.schedule.clusters import by_first_appearance, cluster_embeddings, glove_embeddings
from kpod.schedule.progressive import budget, linear_schedule, make_schedule, whole_rationales
from kpod.schedule.selectors import SELECTORS
from kpod.schedule.ticks import count_ticks


def names(count):
    return [f"q{number}" for number in range(count)]


def word_problems(count, seed=0):
    """Difficulties like those of GSM8K: 2 to 9 steps, 0.68 nats in the mean; and clusters of uneven size."""
    rng = np.random.default_rng(seed)
    num_steps = np.clip(2 + rng.poisson(3.2, count), 2, 9)
    nats = rng.lognormal(np.log(0.68) - 0.18, 0.6, num_steps.sum())
    clusters = rng.choice(5, count, p=[0.064, 0.1, 0.16, 0.216, 0.46])
    return np.split(nats, np.cumsum(num_steps)[:-1]), clusters


def remaining(difficulties, given_steps):
    """Sum of h_i for one stage (Eq. 9), from its definition."""
    return sum(float(steps[count:].sum()) for steps, count in zip(difficulties, given_steps, strict=True))


@st.composite
def data_sets(draw):
    """Small data sets whose difficulties are multiples of 1/4, so that floating-point sums are exact."""
    steps = st.lists(st.integers(0, 8), min_size=1, max_size=6)
    rows = draw(st.lists(steps, min_size=0, max_size=9))
    clusters = draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    return [np.array(row) / 4.0 for row in rows], np.array(clusters, dtype=np.int64)


configs = st.builds(
    ScheduleConfig,
    ramp_stages=st.integers(1, 8),
    initial_fraction=st.sampled_from([0.0, 0.3, 0.77, 1.0]),
    growth_exponent=st.sampled_from([0.0, 0.5, 3.0]),
    diversity=st.sampled_from([DiversityConfig(), DiversityConfig(beta=0.0), DiversityConfig(beta=1e4)]),
    stride=st.integers(1, 3),
    pace=st.sampled_from(["deadline", "rounds", "literal"]),
    selector=st.sampled_from(sorted(SELECTORS)),
)


def plan(data_set, config):
    difficulties, clusters = data_set
    return make_schedule(names(len(difficulties)), difficulties, clusters, config, num_epochs=20)


# --- the budget (Eq. 10) ---


def test_the_budget_by_hand():
    # B = 1000, C_0 = 300, p = 1/2, T = 4: 300 + 700 (t/4)^1.5 with (1/4)^1.5 = 1/8 and (1/2)^1.5 = 0.35355.
    assert [budget(stage, 4, 1000, 0.3, 0.5) for stage in range(5)] == [300, 387, 547, 754, 1000]


def test_the_budget_is_the_paper_s_formula():
    # u = (B - C_0)(p + 1) / T^(p+1) = 700 * 1.5 / 8 = 131.25, and D(3) = u 3^1.5 / 1.5 + C_0.
    assert budget(3, 4, 1000, 0.3, 0.5) == int(131.25 * 3**1.5 / 1.5 + 300)


def test_the_budget_of_an_even_ramp():
    assert [budget(stage, 5, 100, 0.5, 0.0) for stage in range(6)] == [50, 60, 70, 80, 90, 100]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**52), st.floats(0, 1), st.floats(-0.9, 4))
def test_the_budget_starts_at_c0_ends_at_b_and_never_shrinks(ramp_stages, total, fraction, exponent):
    budgets = [budget(stage, ramp_stages, total, fraction, exponent) for stage in range(ramp_stages + 1)]
    assert budgets[0] == round(fraction * total)
    assert budgets[-1] == total
    assert budgets == sorted(budgets)


# --- laws of every schedule ---


@settings(deadline=None, max_examples=50)
@given(data_sets(), configs)
def test_given_steps_fall_from_at_most_all_to_none(data_set, config):
    schedule = plan(data_set, config)
    steps = schedule.input_steps
    assert steps.dtype == np.int8
    assert steps.shape == (config.ramp_stages + 1, len(data_set[0]))
    assert (steps >= 0).all()
    assert (steps[0] <= [len(row) for row in data_set[0]]).all()
    assert (np.diff(steps, axis=0) <= 0).all()
    assert (steps[-1] == 0).all()
    assert schedule.at_epoch(0) == 1
    assert schedule.at_epoch(100) == config.ramp_stages


@settings(deadline=None, max_examples=50)
@given(data_sets(), configs)
def test_the_budget_is_never_exceeded_and_is_met_exactly_at_the_end(data_set, config):
    schedule = plan(data_set, config)
    for record, steps in zip(schedule.stages, schedule.input_steps, strict=True):
        assert record.remaining_difficulty == remaining(data_set[0], steps) <= record.budget
        assert record.upper_bound >= record.value
    total = sum(float(row.sum()) for row in data_set[0])
    assert schedule.stages[-1].remaining_difficulty == schedule.stages[-1].budget == total
    assert [record.stage for record in schedule.stages] == list(range(config.ramp_stages + 1))
    assert schedule.stages[0].budget == pytest.approx(config.initial_fraction * total, rel=1e-12, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(data_sets(), configs)
def test_at_the_end_of_a_stage_no_next_chunk_is_affordable(data_set, config):
    schedule = plan(data_set, config)
    for record, steps in zip(schedule.stages, schedule.input_steps, strict=True):
        if config.pace == "literal" and 0 < record.stage < config.ramp_stages:
            continue
        left = record.budget - record.remaining_difficulty
        for row, count in zip(data_set[0], steps, strict=True):
            assert count == 0 or row[max(0, count - config.stride) : count].sum() > left


@settings(deadline=None, max_examples=30)
@given(data_sets(), configs)
def test_records_count_the_questions_that_moved(data_set, config):
    schedule = plan(data_set, config)
    moved = schedule.input_steps[:-1] > schedule.input_steps[1:]
    for record, mask in zip(schedule.stages[1:], moved, strict=True):
        assert record.selected == mask.sum()
        assert record.clusters_touched == len(set(data_set[1][mask]))


@settings(deadline=None, max_examples=30)
@given(data_sets(), configs)
def test_what_the_stages_add_is_all_that_was_hidden_at_the_start(data_set, config):
    records = plan(data_set, config).stages
    added = [later.remaining_difficulty - before.remaining_difficulty for before, later in pairwise(records)]
    assert sum(added) == records[-1].budget - records[0].remaining_difficulty
    assert all(step >= 0 for step in added)
    budgets = [record.budget for record in records]
    assert budgets == sorted(budgets)


@settings(deadline=None, max_examples=30)
@given(data_sets(), configs)
def test_no_question_moves_further_than_its_share_and_a_stride_each_round(data_set, config):
    """A round advances what has just advanced, if anything: there are no more of them than strides in the longest."""
    steps = plan(data_set, config).input_steps
    for stage, (before, after) in enumerate(pairwise(steps), start=1):
        rounds = -(-max(before, default=0) // config.stride)
        share = -(-before // (config.ramp_stages - stage + 1)) if config.pace == "deadline" else 0
        assert (before - after <= share + config.stride * rounds).all()
        assert (after[before == 0] == 0).all()


@settings(deadline=None, max_examples=20)
@given(data_sets(), configs)
def test_the_same_data_give_the_same_schedule(data_set, config):
    first, again = plan(data_set, config), plan(data_set, config)
    assert np.array_equal(first.input_steps, again.input_steps)
    assert first.stages == again.stages


def test_rationales_of_five_hundred_steps():
    rng = np.random.default_rng(0)
    difficulties = [rng.lognormal(0, 0.6, size) for size in rng.integers(300, 500, 20)]
    schedule = plan((difficulties, np.arange(20) % 3), ScheduleConfig(ramp_stages=10))
    assert schedule.input_steps.dtype == np.int16
    drops = -np.diff(schedule.input_steps, axis=0)
    assert drops.max() <= 2 * 500 / 10
    for record in schedule.stages:
        assert record.budget - record.remaining_difficulty <= 1e-3 * schedule.stages[-1].budget


@settings(deadline=None, max_examples=30)
@given(data_sets(), configs)
def test_without_the_deadline_questions_move_by_whole_strides(data_set, config):
    config = dataclasses.replace(config, pace="rounds")
    steps = plan(data_set, config).input_steps
    drop = steps[:-1] - steps[1:]
    assert ((drop % config.stride == 0) | (steps[1:] == 0)).all()


@settings(deadline=None, max_examples=30)
@given(data_sets(), configs)
def test_the_literal_reading_moves_a_question_by_one_stride_a_stage(data_set, config):
    config = dataclasses.replace(config, pace="literal")
    steps = plan(data_set, config).input_steps[:-1]
    assert (steps[:-1] - steps[1:] <= config.stride).all()


@settings(deadline=None, max_examples=4)
@given(st.integers(0, 10_000), st.permutations(range(5)))
def test_neither_cluster_names_nor_the_order_of_questions_matter(seed, labels):
    difficulties, clusters = word_problems(60, seed)
    ids, config = names(60), ScheduleConfig(ramp_stages=5)
    steps = make_schedule(ids, difficulties, clusters, config, 10).input_steps
    again = make_schedule(ids, difficulties, np.array(labels)[clusters], config, 10).input_steps
    order = np.random.default_rng(seed).permutation(60)
    shuffled = make_schedule(
        [ids[i] for i in order], [difficulties[i] for i in order], clusters[order], config, 10
    ).input_steps
    assert (steps == again).all()
    assert (steps[:, order] == shuffled).all()


# --- deadline and pace ---


@pytest.mark.parametrize("ramp_stages", [10, 50])
def test_on_gsm_like_data_the_deadline_spares_every_question_a_jump(ramp_stages):
    difficulties, clusters = word_problems(7473)
    schedule = plan((difficulties, clusters), ScheduleConfig(ramp_stages=ramp_stages))
    total = schedule.stages[-1].budget
    gaps = [(record.budget - record.remaining_difficulty) / total for record in schedule.stages]
    assert (schedule.input_steps[:-1] - schedule.input_steps[1:]).max() == 1
    assert max(gaps[:-1]) < 1e-6
    assert gaps[-1] == 0
    assert max(record.gap for record in schedule.stages) < 1e-5


def test_without_the_deadline_long_rationales_jump_in_the_end():
    schedule = plan(word_problems(2000), ScheduleConfig(ramp_stages=10, pace="rounds"))
    jumps = (schedule.input_steps[:-1] - schedule.input_steps[1:]).max(axis=0)
    assert (jumps >= 3).sum() > 50


def test_a_long_rationale_moves_by_an_even_share_when_strides_would_come_too_late():
    # At stage 1 of 3, three stages are left: 8 given steps need ceil(8/3) = 3 now, 2 given steps can wait.
    difficulties = [np.full(9, 0.1), np.full(3, 0.1)]
    config = ScheduleConfig(ramp_stages=3, initial_fraction=1 / 6, growth_exponent=0.0)
    steps = plan((difficulties, np.array([0, 1])), config).input_steps
    assert steps[0].tolist() == [8, 2]
    assert steps[1][0] == 5


def test_the_literal_reading_may_leave_budget_unused():
    difficulties = [np.ones(8), np.ones(1)]
    data_set = (difficulties, np.array([0, 0]))
    literal = plan(data_set, ScheduleConfig(ramp_stages=2, pace="literal"))
    rounds = plan(data_set, ScheduleConfig(ramp_stages=2, pace="rounds"))
    unused = [schedule.stages[1].budget - schedule.stages[1].remaining_difficulty for schedule in (literal, rounds)]
    assert unused[0] >= 1 > unused[1]


# --- edges and switches ---


def test_the_ramp_is_half_the_epochs_and_at_least_one_stage():
    for num_epochs, ramp_stages in ((20, 10), (3, 1), (1, 1)):
        schedule = make_schedule(["a"], [np.ones(3)], np.zeros(1, dtype=np.int64), ScheduleConfig(), num_epochs)
        assert schedule.ramp_stages == ramp_stages


def test_one_stage_is_a_start_and_whole_rationales():
    steps = plan(([np.ones(10)], np.array([0])), ScheduleConfig(ramp_stages=1)).input_steps
    assert steps.tolist() == [[7], [0]]


def test_a_minimum_of_output_steps_overrules_the_budget():
    data_set = ([np.ones(4), np.ones(1), np.ones(3)], np.array([0, 1, 2]))
    schedule = plan(data_set, ScheduleConfig(ramp_stages=4, initial_fraction=0.0, min_output_steps=2))
    assert schedule.input_steps[0].tolist() == [2, 0, 1]
    assert schedule.stages[0].remaining_difficulty == 5 > schedule.stages[0].budget
    assert schedule.stages[-1].remaining_difficulty == 8


def test_questions_without_difficulty_are_whole_from_the_start():
    steps = plan(([np.zeros(4), np.ones(4)], np.array([0, 0])), ScheduleConfig(ramp_stages=3)).input_steps
    assert steps[0].tolist() == [0, 3]


def test_an_empty_data_set_has_an_empty_schedule():
    schedule = plan(([], np.zeros(0, dtype=np.int64)), ScheduleConfig(ramp_stages=2))
    assert schedule.input_steps.shape == (3, 0)


def test_beta_is_twelve_nats_unless_the_recipe_says_otherwise():
    # B = 8 nats; two clusters of one and four questions: sum of roots 1 + 2.
    data_set = ([np.array([1.0, 0.6])] * 5, np.array([0, 1, 1, 1, 1]))
    default = plan(data_set, ScheduleConfig())
    relative = plan(data_set, ScheduleConfig(diversity=DiversityConfig(relative=0.75)))
    assert (default.diversity_weight, default.relative_diversity) == (12.0, pytest.approx(4.5))
    assert (relative.diversity_weight, relative.relative_diversity) == (pytest.approx(2.0), 0.75)


def test_a_schedule_does_not_change_with_the_unit_of_difficulty():
    difficulties, clusters = word_problems(300)
    config = ScheduleConfig(diversity=DiversityConfig(relative=0.0885))
    bits = [steps * 4.0 for steps in difficulties]
    assert (plan((difficulties, clusters), config).input_steps == plan((bits, clusters), config).input_steps).all()


def test_the_value_of_a_stage_by_hand():
    # C_0 = 2 of 4 nats pays for both last steps: 2 + 12 (sqrt 1 + sqrt 1).
    record = plan(([np.ones(2), np.ones(2)], np.array([0, 1])), ScheduleConfig(initial_fraction=0.5)).stages[0]
    assert (record.value, record.upper_bound, record.gap) == (26.0, 26.0, 0.0)
    assert (record.selected, record.clusters_touched) == (2, 2)


def test_whole_rationales_have_no_progression():
    schedule = whole_rationales(["a", "b"])
    assert schedule.input_steps.tolist() == [[0, 0], [0, 0]]
    assert schedule.ramp_stages == schedule.at_epoch(0) == schedule.at_epoch(7) == 1
    assert schedule.stages == ()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -0.5])
def test_a_broken_difficulty_names_its_rationale_and_step(broken):
    with pytest.raises(ScheduleError, match=r"rationale 'b': step 2 has difficulty"):
        make_schedule(["a", "b"], [np.ones(3), np.array([1.0, broken])], np.array([0, 0]), ScheduleConfig(), 4)


def test_a_rationale_without_steps_is_named():
    with pytest.raises(ScheduleError, match="rationale 'b' has no steps"):
        make_schedule(["a", "b"], [np.ones(3), np.zeros(0)], np.array([0, 0]), ScheduleConfig(), 4)


@pytest.mark.parametrize("ids", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_ids_must_be_unique_and_one_per_question(ids):
    with pytest.raises(ScheduleError, match="one of each per rationale"):
        make_schedule(ids, [np.ones(1), np.ones(1)], np.array([0, 0]), ScheduleConfig(), 4)


# --- ticks ---


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(0, 1e300), min_size=1, max_size=4), min_size=1, max_size=6))
def test_ticks_sum_below_the_float_limit_and_lose_nothing_that_counts(rows):
    ticks = count_ticks(names(len(rows)), [np.array(row) for row in rows])
    total = sum(map(sum, rows))
    assert ticks.total < 2**52
    assert ticks.to_nats(ticks.total) == pytest.approx(total, rel=1e-12)


def test_hidden_and_remaining_difficulty_by_hand():
    ticks = count_ticks(["a", "b"], [np.array([1.0, 2.0, 4.0]), np.array([8.0])])
    assert ticks.to_nats(ticks.remaining(np.array([1, 1]))) == 6.0
    assert [ticks.to_nats(int(cost)) for cost in ticks.cost(np.array([2, 1]), np.array([1, 5]))] == [2.0, 8.0]


# --- clusters ---


def blobs(sizes=(5, 9, 3), seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return 100 + 10 * np.eye(len(sizes))[centres] + 0.1 * rng.normal(size=(sum(sizes), len(sizes))), centres


@pytest.mark.parametrize("large", [100_000, 10])
def test_clusters_find_groups_and_are_numbered_by_first_appearance(monkeypatch, large):
    monkeypatch.setattr(clusters_module, "LARGE", large)
    embeddings, centres = blobs()
    clusters = cluster_embeddings(embeddings, 3, seed=0)
    assert clusters.tolist() == by_first_appearance(centres).tolist()
    assert clusters[0] == 0
    assert clusters.tolist() == cluster_embeddings(embeddings, 3, seed=0).tolist()


def test_clusters_do_not_depend_on_a_common_offset():
    embeddings, _ = blobs()
    far = cluster_embeddings(embeddings + 1e6, 3, seed=0)
    assert far.tolist() == cluster_embeddings(embeddings, 3, seed=0).tolist()


def test_more_clusters_than_questions_make_one_each():
    assert cluster_embeddings(np.array([[0.0], [5.0], [9.0]]), 8, seed=0).tolist() == [0, 1, 2]


def test_equal_embeddings_make_one_cluster():
    assert cluster_embeddings(np.full((6, 4), 0.3, dtype=np.float32), 3, seed=0).tolist() == [0] * 6


def test_no_questions_make_no_clusters():
    assert cluster_embeddings(np.zeros((0, 4)), 5, seed=0).tolist() == []


def test_embeddings_that_are_not_finite_are_refused():
    embeddings = np.ones((4, 2))
    embeddings[2, 1] = np.nan
    with pytest.raises(DataError, match="1 questions are not finite, first at row 2"):
        cluster_embeddings(embeddings, 2, seed=0)


def test_no_clusters_at_all_are_refused():
    with pytest.raises(DataError, match=r"schedule\.num_clusters"):
        cluster_embeddings(np.ones((2, 2)), 0, seed=0)


# --- GloVe ---


@pytest.fixture
def glove(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("apples 1 0\n3.5 0 2\n. . . 9 9\n\u2028 7 7\nhas 3 4\napples 8 8\n", encoding="utf-8", newline="\n")
    return path


def test_a_question_is_the_mean_of_its_known_words(glove):
    embeddings = glove_embeddings(glove, ["Tom HAS 3.5 apples.", "apples, apples!", "???"])
    assert embeddings.dtype == np.float32
    assert embeddings.tolist() == [[pytest.approx(4 / 3), 2.0], [1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apples 1 0\nhas 3\n", ":2: expected a word and 2 numbers"),
        ("apples\n", ":1: expected a word and some numbers"),
        ("tom 1 2\napples 1 x\n", ":2: could not convert"),
        ("apples 1 nan\n", ":1: a number is not finite"),
        ("", "is empty"),
        ("pear 1 2\n", "knows no word of any question"),
    ],
)
def test_a_malformed_glove_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        glove_embeddings(path, ["apples"])
    assert str(path) in str(error.value)


def test_glove_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt"):
        glove_embeddings(tmp_path / "none.txt", ["apples"])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 1 2\n")
    with pytest.raises(DataError, match=r"latin\.txt"):
        glove_embeddings(tmp_path / "latin.txt", ["apples"])


# --- stages and epochs ---


def test_stages_share_the_first_half_of_training_evenly():
    """Ten stages in the first of two epochs: a tenth of it each, stage 10 from nine tenths on."""
    schedule = make_schedule(["q"], [np.ones(20)], np.array([0]), ScheduleConfig(stages=10), num_epochs=2)
    assert schedule.ramp_epochs == 1.0
    assert [schedule.at_epoch(Fraction(n, 10)) for n in range(12)] == [*range(1, 11), 10, 10]


def test_training_may_start_at_stage_0():
    config = ScheduleConfig(ramp_stages=2, first_stage=0)
    schedule = make_schedule(["q"], [np.ones(20)], np.array([0]), config, num_epochs=9)
    assert [schedule.at_epoch(n) for n in range(4)] == [0, 1, 2, 2]


def test_t_is_given_once():
    with pytest.raises(ConfigError, match=r"schedule\.stages.*left out where ramp_stages is given"):
        ScheduleConfig(stages=4, ramp_stages=2)


# --- curricula to compare with ---


@given(st.lists(st.integers(1, 30), max_size=9), st.integers(1, 12), st.floats(0, 1), st.integers(0, 3))
def test_a_linear_schedule_falls_evenly_to_whole_rationales(steps, ramp_stages, share, least):
    config = ScheduleConfig(ramp_stages=ramp_stages, initial_fraction=share, min_output_steps=least)
    schedule = linear_schedule(names(len(steps)), np.array(steps, dtype=np.int64), config, num_epochs=20)
    given = schedule.input_steps
    assert given.shape == (ramp_stages + 1, len(steps))
    assert not given[-1].any()
    for row, number in zip(given.T, steps, strict=True):
        assert row[0] <= max(number - least, 0)
        falls = -np.diff(row)
        assert falls.min(initial=0) >= 0
        assert falls.max(initial=0) <= np.ceil(number * (1 - share) / ramp_stages) + 1


def test_drawing_by_chance_keeps_the_budget_and_takes_fewer_questions():
    data_set = word_problems(2000)
    chosen, drawn = (
        plan(data_set, ScheduleConfig(ramp_stages=10, selector=s)) for s in ("count_prefix_fill", "random")
    )
    for ours, theirs in zip(chosen.stages, drawn.stages, strict=True):
        assert theirs.remaining_difficulty == pytest.approx(ours.remaining_difficulty, rel=1e-4)
    assert drawn.stages[1].selected < 0.6 * chosen.stages[1].selected


def test_unordered_suffixes_are_those_of_the_schedule_in_another_order():
    difficulties, clusters = word_problems(40)
    by_id = {str(number): steps.astype(np.float32) for number, steps in enumerate(difficulties)}
    recipe = Recipe(schedule=ScheduleConfig(ramp_stages=8))
    given = Given([], {}, recipe, {"difficulties": lambda: by_id, "clusters": lambda: clusters})
    ordered, mixed, prefix = (part.run(given) for part in (progressive, progressive_unordered, prefix_first))
    assert np.array_equal(np.sort(mixed.input_steps, axis=0), np.sort(ordered.input_steps, axis=0))
    assert np.array_equal(mixed.input_steps[[0, -1]], ordered.input_steps[[0, -1]])
    assert np.any(np.diff(mixed.input_steps.astype(int), axis=0) > 0)
    assert (mixed.ordered, mixed.trains, prefix.trains) == (False, "suffix", "prefix")
    assert np.array_equal(prefix.input_steps, ordered.input_steps)
