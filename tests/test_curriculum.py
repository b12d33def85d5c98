# ruff: noqa: ARG002 (a callback is given more than it needs)
"""Orders that go by what happens in training: by hand, in whole trainings, and after a kill."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import TrainerCallback

from kpod.lm.sequences import collate, example_at
from kpod.recipe import LoraConfig, TrainingConfig, ValidationConfig
from kpod.records.errors import ConfigError
from kpod.schedule.progressive import whole_rationales
from kpod.training import train_student
from kpod.training.checkpoints import last_valid_checkpoint
from kpod.training.collation import Collator
from kpod.training.curriculum import Curriculum, CurriculumDataset, Cut, Moment, cut_example, load_state
from kpod.training.curriculum_trainer import CurriculumTrainer
from kpod.training.easiest_first import EasiestFirst
from kpod.training.in_sample import InSample
from kpod.training.internalisation import ALL, Internalisation
from kpod.training.metrics import read_metrics, read_updates
from kpod.training.self_paced import SelfPaced, confidence_factors, spl_factors
from tiny import tiny_llama, tiny_t5, tiny_tokens, tiny_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

MAKERS = {"causal": tiny_llama, "encoder-decoder": tiny_t5}
CONFIG = TrainingConfig(
    num_train_epochs=4,
    learning_rate=1e-2,
    per_device_train_batch_size=2,
    save_strategy="no",
    validation=ValidationConfig("questions"),
)
RESUMED = replace(CONFIG, save_strategy="steps", arguments={"save_steps": 2, "save_total_limit": 2})
"""Checkpoints inside epochs, and at the end of every second one, where it must have heard the accuracy."""
NUM = 6


class Seen(TrainerCallback):
    """Which rationales each update trained, as (id, stage, trained tokens); and whether the optimiser knew nothing."""

    def __init__(self) -> None:
        self.updates: list[list[tuple[str, int, int]]] = []
        self.empty: list[bool] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.empty.append(not kwargs["optimizer"].state)


def watched(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Sees every batch that is trained."""
    seen, inner = Seen(), CurriculumTrainer.training_step

    def training_step(self, model, inputs, num_items_in_batch=None):
        seen.updates.append([(e.id, e.stage, len(e.weights)) for e in inputs["examples"]])
        return inner(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(CurriculumTrainer, "training_step", training_step)
    return seen


class Answers:
    """Accuracies in the order in which they are asked for."""

    def __init__(self, *accuracies: float) -> None:
        self.left = list(accuracies)

    def __call__(self, lm) -> float:
        return self.left.pop(0)


def run(folder: Path, curriculum: Curriculum, config=CONFIG, callbacks=(), answers=None, lm=None):
    lm = lm or tiny_llama(dropout=0.1)
    tokens = [tiny_tokens(lm, f"q{n}", (2 + n % 3, 3, 1 + n % 2)) for n in range(NUM)]
    return train_student(
        lm,
        tokens,
        {t.id: tiny_weights(t) for t in tokens},
        whole_rationales([t.id for t in tokens]),
        config,
        seed=3,
        output_dir=folder,
        fingerprint="f",
        validate=answers or Answers(*[0.9 - 0.01 * n for n in range(99)]),
        curriculum=curriculum,
        callbacks=callbacks,
    )


class Stop(TrainerCallback):
    """Ends the process's work at an update: before it, within its save, or after it."""

    def __init__(self, update: int, when: str) -> None:
        self.update, self.when = update, when

    def stop(self, when: str, update: int) -> None:
        if (when, update) == (self.when, self.update):
            raise KeyError("stopped")

    def on_step_begin(self, args, state, control, **kwargs):
        self.stop("begin", state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.stop("end", state.global_step)

    def on_save(self, args, state, control, **kwargs):
        self.stop("save", state.global_step)


MOMENT = Moment(seed=0, epoch=0, update=0, per_epoch=3)

# -- a resumed run is the same run -------------------------------------------------------------------------------------

SHORT = {"tokens_per_epoch": 3, "all_from": 4, "smoothing": 1.0}
KINDS: dict[str, Callable[[], Curriculum]] = {
    "easiest first": lambda: EasiestFirst(0.3, 1.6, 1, 1),
    "seldom refreshed": lambda: EasiestFirst(0.5, 1.3, 2, 2),
    "self-paced": SelfPaced,
    "in-sample": lambda: InSample(patience=2),
    "internalised": lambda: Internalisation(**SHORT),
}
SCORES = (0.2, 0.1, 0.1, 0.05)
"""Dev accuracies that let rho fall at every epoch but the first."""


STOPS = [
    *[(kind, "causal", 4, "save") for kind in KINDS if kind not in ("seldom refreshed", "in-sample")],
    pytest.param("seldom refreshed", "causal", 4, "save", marks=pytest.mark.slow),
    pytest.param("in-sample", "causal", 4, "save", marks=pytest.mark.slow),
    pytest.param("easiest first", "encoder-decoder", 1, "begin", marks=pytest.mark.slow),
    ("seldom refreshed", "causal", 6, "end"),
    ("in-sample", "causal", 6, "save"),
    pytest.param("in-sample", "encoder-decoder", 7, "begin", marks=pytest.mark.slow),
    pytest.param("internalised", "encoder-decoder", 3, "end", marks=pytest.mark.slow),
]
"""Before an update, after a save, and after an epoch's last update, before the accuracy is asked for."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str, str], tuple[Path, Curriculum]]:
    """The folder of a run that nothing stopped, and what its curriculum came to."""

    @cache
    def made(kind: str, student: str) -> tuple[Path, Curriculum]:
        folder, curriculum = tmp_path_factory.mktemp("whole"), KINDS[kind]()
        run(folder, curriculum, RESUMED, answers=Answers(*SCORES), lm=MAKERS[student](dropout=0.1))
        return folder, curriculum

    return made


@pytest.mark.parametrize(("kind", "student", "update", "when"), STOPS)
def test_a_run_that_was_stopped_and_goes_on_ends_in_the_same_bytes(kind, student, update, when, whole, tmp_path):
    lm, answers = MAKERS[student], Answers(*SCORES)
    with pytest.raises(KeyError):
        run(tmp_path, KINDS[kind](), RESUMED, [Stop(update, when)], answers=answers, lm=lm(dropout=0.1))
    checkpoint, _ = last_valid_checkpoint(tmp_path)
    done = int(checkpoint.name.partition("-")[2]) if checkpoint else 0
    lines = read_metrics(tmp_path / "metrics.jsonl", done)
    heard = sum("validation_accuracy" in line for line in lines)
    curriculum, (folder, expected) = KINDS[kind](), whole(kind, student)
    run(tmp_path, curriculum, RESUMED, answers=Answers(*SCORES[heard:]), lm=lm(dropout=0.1))
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes(), file
    states = curriculum.state(), expected.state()
    assert {name: array.tolist() for name, array in states[0].items()} == {n: a.tolist() for n, a in states[1].items()}


def test_a_run_under_a_curriculum_is_not_gone_on_with_under_another(tmp_path):
    """Without a fingerprint of the caller's the constants count."""
    from kpod.training.student import _fingerprint

    lm = tiny_llama()
    tokens = [tiny_tokens(lm, "q0")]
    schedule, weights = whole_rationales(["q0"]), {"q0": tiny_weights(tokens[0])}
    of = {_fingerprint([lm.model], tokens, weights, schedule, (CONFIG, c)) for c in (InSample(), InSample(patience=4))}
    heard = InSample()
    heard.see(0.5)
    assert len(of) == 2
    assert _fingerprint([lm.model], tokens, weights, schedule, (CONFIG, heard)) in of  # what it remembers does not


# -- adaptive curriculum learning --------------------------------------------------------------------------------------


def test_how_many_rationales_an_epoch_trains_by_hand():
    """CurML's constants on 1000 rationales: .1 for 14 epochs, then 1.2 times as many every 15; all from the 195th."""
    sizes = [EasiestFirst().length(epoch, 1000) for epoch in range(200)]
    firsts = [0, 14, 29, 44, 59, 74, 89, 104, 119, 134, 149, 164, 179, 194]
    assert [epoch for epoch in range(200) if epoch == 0 or sizes[epoch] != sizes[epoch - 1]] == firsts
    assert [sizes[e] for e in firsts] == [100, 120, 144, 172, 207, 248, 298, 358, 429, 515, 619, 743, 891, 1000]
    assert EasiestFirst().whole_from(200) == 194
    assert EasiestFirst().whole_from(20) == 20
    assert EasiestFirst().length(0, 3) == 1  # never none


@settings(max_examples=200)
@given(st.integers(1, 10**6), st.integers(1, 60), st.floats(0.01, 1))
def test_a_share_that_is_to_be_1_at_stage_t_is_1_there_and_never_falls(num, ramp, share):
    found = EasiestFirst(share, (1 / share) ** (1 / ramp), 1, 1)
    sizes = [found.length(epoch, num) for epoch in range(ramp + 2)]
    assert sizes == sorted(sizes)
    assert sizes[ramp - 1] == sizes[-1] == num


def test_scores_move_by_hand_and_the_easiest_come_first():
    """Epoch 0 takes the untrained losses; every second epoch moves by 0.7 of the way to the losses of then."""
    found = EasiestFirst(1.0, 1.0, 1, 2, 0.7)
    losses = iter([[3.0, 1.0, 2.0], [1.0, 3.0, 0.0]])
    asked = []

    def measure():
        asked.append(1)
        return np.array(next(losses), dtype=np.float32)

    orders = []
    for epoch in range(4):
        found.begin(epoch, measure)
        orders.append(found.order(epoch).tolist())
    assert found.scores.tolist() == pytest.approx([0.3 * 3 + 0.7, 0.3 + 0.7 * 3, 0.3 * 2])
    assert orders == [[1, 2, 0], [1, 2, 0], [2, 0, 1], [2, 0, 1]]
    assert len(asked) == 2
    assert EasiestFirst(scores=np.array([1.0, 0.0, 1.0, 0.0]), start=1.0).order(0).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("student", MAKERS)
def test_an_epoch_trains_the_easiest_rationales_in_their_order(student, tmp_path, monkeypatch):
    """By losses that transformers computes: the weighted mean NLL of rationale, closing, answer and end."""
    seen, lm = watched(monkeypatch), MAKERS[student]()
    tokens = [tiny_tokens(lm, f"q{n}", (2 + n % 3, 3, 1 + n % 2)) for n in range(NUM)]
    losses = []
    for rationale in tokens:
        example = example_at(rationale, tiny_weights(rationale), 0, encoder_decoder=lm.encoder_decoder)
        batch = collate([example], lm)
        read = {name: tensor for name, tensor in batch.items() if name not in ("labels", "weights")}
        with torch.no_grad():
            logits = lm.model(**read).logits[batch["labels"] != -100]
        nll = torch.nn.functional.cross_entropy(logits, batch["labels"][batch["labels"] != -100], reduction="none")
        losses.append(float((nll * torch.tensor(example.weights)).sum() / example.weights.sum()))
    run(tmp_path, EasiestFirst(0.34, 2.0, 2, 99), lm=lm)
    easiest = [f"q{n}" for n in np.argsort(losses)]
    epochs = [[0], [1, 2], [3, 4], [5, 6, 7]]  # updates: 2, 4, 4 and 6 rationales, two at a time
    found = [[name for update in epoch for name, _, _ in seen.updates[update]] for epoch in epochs]
    assert found == [easiest[:2], easiest[:4], easiest[:4], easiest]
    assert len(seen.updates) == 8
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines if "validation_accuracy" in line] == [1, 2, 3, 4]
    assert [line["stage"] for line in lines if "loss" in line] == [1, 2, 2, 3, 3, 4, 4, 4]


def test_epochs_that_differ_are_counted_right(tmp_path, monkeypatch):
    """A training cut by max_steps goes through the same epochs; waiting starts where all rationales are in."""
    seen = watched(monkeypatch)
    config = replace(CONFIG, arguments={"max_steps": 7})
    assert run(tmp_path / "cut", EasiestFirst(0.34, 2.0, 2, 99), config).updates == 7
    assert [len({name for name, _, _ in update}) for update in seen.updates] == [2] * 7
    waiting = replace(CONFIG, num_train_epochs=9, validation=ValidationConfig("questions", patience=2))
    answers = Answers(0.9, *[0.1] * 8)
    summary = run(tmp_path / "waited", EasiestFirst(0.34, 2.0, 2, 99), waiting, answers=answers)
    assert summary.updates == 1 + 2 + 2 + 3 + 3  # whole from the fourth epoch on; two validations after that
    assert len(answers.left) == 4
    assert summary.final_loss == pytest.approx(np.mean(summary.losses[-3:]))


def test_batches_that_do_not_fill_are_counted_as_transformers_counts_them(tmp_path):
    accumulated = replace(CONFIG, gradient_accumulation_steps=2, validation=None)
    assert run(tmp_path / "accumulated", EasiestFirst(0.9, 1.0, 1, 1), accumulated).updates == 4 * 2
    dropping = replace(CONFIG, validation=None, arguments={"dataloader_drop_last": True})
    assert run(tmp_path / "dropping", EasiestFirst(0.9, 1.0, 1, 1), dropping).updates == 4 * 2


# -- self-paced learning -----------------------------------------------------------------------------------------------


def test_confidences_by_hand():
    """Two passes over a rationale of two tokens and one of one; variances have divisor K - 1."""
    probabilities = torch.tensor([[0.5, 0.5, 0.25], [0.1, 0.5, 0.05]])
    token = [(1 - 0.08) ** 2, 1.0, (1 - 0.02) ** 2]
    log = [[math.log(0.25), math.log(0.25)], [math.log(0.05), math.log(0.05)]]
    normalised = [[a / min(a, b), b / min(a, b)] for a, b in log]
    assert normalised == [[1, 1], [1, 1]]
    factors = torch.tensor(token).softmax(0) * 3
    assert torch.allclose(confidence_factors(probabilities.log(), [2, 1], 2.0), factors, atol=1e-6)


def test_the_sentence_term_divides_by_the_least_of_the_batch_in_each_pass():
    """In pass 1 the second rationale is the least sure, in pass 2 the first: ratios (0.5, 1) and (1, 0.25)."""
    logprobs = torch.tensor([[-1.0, -2.0], [-4.0, -1.0]])
    token = 1 - logprobs.exp().var(dim=0)
    sentence = 1 - torch.tensor([(0.25**2) * 2, (0.375**2) * 2])
    expected = ((token * sentence) ** 2).softmax(0) * 2
    assert torch.allclose(confidence_factors(logprobs, [1, 1], 2.0), expected, atol=1e-6)


@given(st.data())
def test_factors_have_mean_1_and_never_differ_more_than_e_times(data):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    entry = st.floats(-30, 0, allow_nan=False, width=32)
    rows = data.draw(st.lists(st.lists(entry, min_size=sum(lengths), max_size=sum(lengths)), min_size=2, max_size=5))
    found = confidence_factors(torch.tensor(rows), lengths, 2.0)
    assert float(found.mean()) == pytest.approx(1, abs=1e-4)
    assert float(found.max() / found.min()) <= math.e * (1 + 1e-4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("linear_head", [False, True])
def test_without_dropout_all_factors_are_1(linear_head, packed):
    lm = tiny_llama()
    tokens = [tiny_tokens(lm, f"q{n}", (2 + n, 3)) for n in range(3)]
    examples = [example_at(t, tiny_weights(t), 0, encoder_decoder=False) for t in tokens]
    batch = Collator(lm, packed=packed)(examples)
    assert spl_factors(lm.model, batch, linear_head=linear_head).tolist() == [1.0] * sum(
        len(e.weights) for e in examples
    )


def test_a_student_without_dropout_is_refused_before_its_first_update(tmp_path):
    with pytest.raises(ConfigError, match=r"training\.lora\.dropout: this student has no dropout"):
        run(tmp_path, SelfPaced(), lm=tiny_llama())
    assert not list(tmp_path.glob("checkpoint-*"))
    with pytest.raises(ConfigError, match=r"training\.lora\.dropout"):
        run(tmp_path, SelfPaced(), replace(CONFIG, lora=LoraConfig(2, 4)), lm=tiny_llama())
    for number, (maker, lora) in enumerate([(tiny_llama, LoraConfig(2, 4, dropout=0.1)), (tiny_t5, None)]):
        lm = maker() if lora else maker(dropout=0.1)  # adapters start at zero: the first passes are equal all the same
        brief = replace(CONFIG, num_train_epochs=1, lora=lora)
        assert run(tmp_path / str(number), SelfPaced(), brief, lm=lm).updates == 3


def test_factors_multiply_the_loss_weights(tmp_path, monkeypatch):
    """Each token's gradient share is w_j f_j: with factors of 2 the loss is twice as high, in batches by tokens too."""
    monkeypatch.setattr("kpod.training.self_paced.confidence_factors", lambda logps, *_: torch.full_like(logps[0], 2.0))
    config = replace(CONFIG, num_train_epochs=1, tokens_per_batch=60, validation=None)
    first = run(tmp_path / "two", SelfPaced(), config, lm=tiny_t5(dropout=1e-9)).losses[0]
    monkeypatch.setattr("kpod.training.self_paced.confidence_factors", lambda logps, *_: torch.ones_like(logps[0]))
    assert first == pytest.approx(2 * run(tmp_path / "one", SelfPaced(), config, lm=tiny_t5(dropout=1e-9)).losses[0])


# -- in-sample curriculum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "step", "scores", "rhos", "stops"),
    [
        ("0.6", "0.3", [0.1, 0.2, 0.3], ["0.6", "0.6", "0.6"], None),
        ("0.6", "0.3", [0.5, 0.4, 0.4, 0.4], ["0.6", "0.6", "0.3", "0"], 4),
        ("0.6", "0.3", [0.5, 0.5, 0.6, 0.6, 0.1, 0.2], ["0.6", "0.6", "0.3", "0.3", "0", "0"], 6),
        ("0.9", "0.2", [0.5] * 7, ["0.9", "0.9", "0.7", "0.5", "0.3", "0.1", "0"], 7),  # goes on until rho is 0
        ("0.6", "0.3", [0.5, 0.1, 0.1, 0.6, 0.2, 0.2, 0.2], ["0.6", "0.6", "0.3", "0", "0", "0", "0"], 7),
        ("0", "0.3", [0.5, 0.1, 0.1, 0.1], ["0", "0", "0", "0"], 4),
    ],
)
def test_a_list_of_accuracies_gives_the_list_of_rho(start, step, scores, rhos, stops):
    """The given shares of the epochs before each validation, and after which validation training is over."""
    found, seen, over = InSample(Fraction(start), Fraction(step)), [], None
    for number, score in enumerate(scores, 1):
        seen.append(found.cut(0, MOMENT).given)
        found.see(score)
        over = over or (number if found.over else None)
    assert seen == [Fraction(rho) for rho in rhos]
    assert over == stops


def test_a_training_lets_rho_fall_and_ends_where_patience_does(tmp_path, monkeypatch):
    seen = watched(monkeypatch)
    config = replace(CONFIG, num_train_epochs=9)
    summary = run(tmp_path, InSample(patience=2), config, answers=Answers(0.1, 0.5, 0.5, 0.4, 0.3))
    stages = [{stage for _, stage, _ in update} for update in seen.updates]
    assert stages == [{0}] * 9 + [{1}] * 3 + [{2}] * 3  # 0.1 and 0.5 are new bests, 0.5 again is none
    assert summary.updates == 15
    trained = [sum(number for _, _, number in update) for update in seen.updates]
    assert sum(trained[:3]) < sum(trained[9:12]) < sum(trained[12:])


@pytest.mark.parametrize("last", [False, True])
def test_a_run_that_was_over_is_not_trained_further(last, tmp_path):
    """Killed after patience was used up, before the student was written."""
    student = ValidationConfig("questions", student="last") if last else ValidationConfig("questions")
    config = replace(CONFIG, num_train_epochs=9, validation=student)
    scores = (0.5, 0.4, 0.4, 0.4)
    whole = run(tmp_path / "whole", InSample(), config, answers=Answers(*scores))
    with pytest.raises(KeyError):
        run(tmp_path / "stopped", InSample(), config, [Stop(12, "save")], Answers(*scores))
    assert load_state(last_valid_checkpoint(tmp_path / "stopped")[0])["counts"].tolist() == [2, 3, 1]
    assert run(tmp_path / "stopped", InSample(), config, answers=Answers()).updates == whole.updates == 12
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_accuracy_is_needed(tmp_path):
    with pytest.raises(ConfigError, match=r"training\.validation: the method goes by the accuracy between epochs"):
        run(tmp_path, InSample(), replace(CONFIG, validation=None))


@pytest.mark.parametrize("student", MAKERS)
@pytest.mark.parametrize("where", ["encoder", "decoder"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_at_equal_cuts_the_example_is_that_of_a_stage(student, where, steps):
    lm = MAKERS[student]()
    tokens = tiny_tokens(lm, steps=(4, 3, 2), question=5)
    weights, options = tiny_weights(tokens), {"encoder_decoder": lm.encoder_decoder, "given": where}
    written = len(tokens.token_ids) - tokens.segment_stops[0]
    cut = Cut(given=Fraction(tokens.num_input_tokens(steps), written))
    one, two = cut_example(tokens, weights, cut, **options), example_at(tokens, weights, steps, **options)
    assert (one.encoder_ids, one.token_ids, one.first_trained) == (two.encoder_ids, two.token_ids, two.first_trained)
    assert one.weights.tolist() == two.weights.tolist()


@pytest.mark.parametrize("student", MAKERS)
@given(share=st.fractions(0, 1), dropped=st.integers(0, 15))
def test_answer_and_end_are_trained_under_every_cut(student, share, dropped):
    """And the student reads and writes the rest of the text, nothing else, without its dropped start."""
    lm = MAKERS[student]()
    tokens = tiny_tokens(lm, steps=(4, 3), answer=3)
    cut = Cut(given=share, dropped=dropped)
    dataset = CurriculumDataset(
        [tokens], {"q0": tiny_weights(tokens)}, whole_rationales(["q0"]), encoder_decoder=lm.encoder_decoder
    )
    example = dataset[0, cut]
    assert len(example.weights) >= 4
    assert example.token_ids[-4:] == (*tokens.ids("answer"), *tokens.ids("end"))
    assert example.weights[-4:].tolist() == [1.0] * 4
    assert example.segments[-4:].tolist() == [3, 3, 3, 4]
    left = [
        *tokens.token_ids[: tokens.segment_stops[0]],
        *tokens.token_ids[tokens.segment_stops[0] :][min(dropped, 7) :],
    ]
    read = [*example.encoder_ids[:-1], *example.token_ids] if lm.encoder_decoder else [*example.token_ids]
    assert read == [token for token in left if not lm.encoder_decoder or token is not left[5]]
    target = len(left) - 6
    assert len(example.weights) == target - min(math.floor(share * target), target - 4)


def test_an_index_alone_is_the_whole_rationale():
    lm = tiny_llama()
    tokens = tiny_tokens(lm)
    dataset = CurriculumDataset([tokens], {"q0": tiny_weights(tokens)}, whole_rationales(["q0"]), encoder_decoder=False)
    assert len(dataset[0].weights) == len(tokens.token_ids) - tokens.segment_stops[0]


# -- stepwise internalisation ------------------------------------------------------------------------------------------


def test_the_trace_of_removed_tokens_by_hand():
    """20 updates an epoch: one token more every round(20 / 8) = 2 updates; 39 at update 78, which removes all."""
    found = Internalisation()
    moments = [Moment(0, update // 20, update, 20) for update in range(100)]
    assert [found.removed(moment) for moment in moments] == [min(update // 2, 39) for update in range(100)]
    assert [moment.update for moment in moments if found.starts_afresh(moment)] == list(range(2, 79, 2))
    assert [found.cut(0, moment).dropped == ALL for moment in moments] == [update >= 78 for update in range(100)]
    assert [found.may_choose(moment) for moment in moments] == [update >= 78 for update in range(100)]
    few = [found.removed(Moment(0, 0, update, 3)) for update in range(6)]
    assert few == [0, 1, 2, 3, 4, 5]  # fewer updates than tokens: one token in each


def test_offsets_are_drawn_as_they_should_and_depend_on_nothing_else():
    found = Internalisation(smoothing=1.0)
    drawn = np.array([found.offset(index, MOMENT) for index in range(4000)])
    for offset in range(4):
        chance = (1 - math.exp(-1)) * math.exp(-offset)
        assert np.mean(drawn == offset) == pytest.approx(chance, abs=4 * math.sqrt(chance / 4000))
    assert drawn.min() == 0
    later = replace(MOMENT, update=2)
    assert [found.offset(index, later) for index in range(99)] == drawn[:99].tolist()
    others = (replace(MOMENT, epoch=1), replace(MOMENT, seed=1))
    assert all([found.offset(index, other) for index in range(99)] != drawn[:99].tolist() for other in others)
    assert sum(Internalisation().offset(index, MOMENT) > 0 for index in range(1000)) < 40  # mostly 0: e^-4 is 0.018


@pytest.mark.parametrize("student", MAKERS)
def test_a_training_removes_all_and_forgets_at_every_removal(student, tmp_path, monkeypatch):
    """Three updates an epoch, one token more in each; from s = 4 on nothing of a rationale is left."""
    seen, lm = watched(monkeypatch), MAKERS[student](dropout=0.1)
    run(tmp_path, Internalisation(3, 4, smoothing=50.0), callbacks=[seen], lm=lm)
    stages = [{stage for _, stage, _ in update} for update in seen.updates]
    assert stages == [{0}, {1}, {2}, {3}, *[{4}] * 8]
    tokens = {t.id: t for t in (tiny_tokens(lm, f"q{n}", (2 + n % 3, 3, 1 + n % 2)) for n in range(NUM))}
    for update in seen.updates:
        for name, stage, trained in update:
            left = 0 if stage == 4 else tokens[name].num_tokens - stage
            assert trained == left + 2 + 2 + 1  # closing, answer, end
    assert seen.empty == [True] * 5 + [False] * 7
    lines = read_updates(tmp_path / "metrics.jsonl")
    assert [line["rationale_loss"] is None for line in lines] == [False] * 4 + [True] * 8


def test_the_student_is_chosen_once_all_is_removed(tmp_path):
    """The best accuracy comes too early; of those after it the best is that of the third epoch."""

    class Best(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            self.step = state.best_global_step

    best = Best()
    run(tmp_path, Internalisation(3, 4), callbacks=[best], answers=Answers(0.9, 0.2, 0.4, 0.3))
    assert best.step == 9


def test_a_training_that_ends_too_early_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"num_train_epochs: 5 tokens .* and 6 must be; train 3 epochs or more"):
        run(tmp_path, Internalisation(3, 6), replace(CONFIG, num_train_epochs=2))
    assert run(tmp_path, Internalisation(3, 6), replace(CONFIG, num_train_epochs=3)).updates == 9


# -- what does not go together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("curriculum", [EasiestFirst(), InSample(), Internalisation()], ids=lambda c: type(c).__name__)
def test_batches_by_tokens_are_refused_by_name(curriculum, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.tokens_per_batch: the method chooses"):
        run(tmp_path, curriculum, replace(CONFIG, tokens_per_batch=60))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_packing_bf16_adapters_and_workers_go_together_with_all(kind, tmp_path):
    config = replace(CONFIG, packing=True, lora=LoraConfig(2, 4, dropout=0.1))
    arguments: dict[str, Any] = {"dataloader_num_workers": 1}
    summary = run(tmp_path, KINDS[kind](), replace(config, arguments=arguments), lm=tiny_llama())
    assert summary.updates > 0
    assert all(math.isfinite(loss) for loss in summary.losses)
