"""On-policy distillation: the student's own texts, and its divergence from a teacher on them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kpod.experiment.pipeline import run
from kpod.lm.decoding import continue_sampled
from kpod.lm.head import Predictions
from kpod.lm.models import LanguageModel
from kpod.records.errors import ConfigError
from kpod.records.topk import TopK
from kpod.training.batches import StageExample
from kpod.training.objectives import Objective, StepLoss
from kpod.training.own_texts import OwnTexts
from kpod.training.terms import Nll, OnOwnTexts
from test_objectives import batch_of, dataset_of, trainer_of
from tiny import VOCABULARY, tiny_llama, tiny_t5, tiny_tokens
from tiny_runs import recipe, write_tiny_data

REVERSE, FORWARD = (Objective(((0.0, Nll()), (1.0, OnOwnTexts(name)))) for name in ("reverse", "forward"))
OBJECTIVES = {"reverse": REVERSE, "forward": FORWARD}


def own_example(logs: Tensor, k: int, number: int = 0) -> StageExample:
    """A text of the student with the top k of a teacher's distributions, [text, vocabulary]."""
    found = logs.topk(k, dim=1)
    top = TopK(found.indices.numpy().astype(np.int32), found.values.clamp_max(0).numpy().astype(np.float16))
    size = len(logs)
    return StageExample(
        encoder_ids=(),
        token_ids=(0, *(place % logs.shape[1] for place in range(size))),
        first_trained=1,
        weights=np.ones(size, np.float32),
        id=f"q{number}",
        stage=0,
        segments=np.ones(size, np.int8),
        teacher=top,
    )


def loss_of(logits: Tensor, example: StageExample, objective: Objective) -> Tensor:
    """The loss of one text under a student's logits at its tokens."""
    labels = torch.tensor(example.token_ids[1:])
    weights = torch.ones(len(labels))
    batch = {"labels": labels[None], "weights": weights[None], "examples": (example,)}
    loss = StepLoss("tokens", objective=objective)
    return loss(Predictions(logits), batch, weights, loss.sizes(batch)).loss


def divergence(logits: Tensor, logs: Tensor, name: str) -> Tensor:
    """The exact mean divergence, by autograd."""
    ours = logits.log_softmax(dim=1)
    one, other = (ours, logs) if name == "reverse" else (logs, ours)
    return (one.exp() * (one - other)).sum(dim=1).mean()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_the_whole_vocabulary_it_is_the_divergence_and_its_gradient(name: str) -> None:
    torch.manual_seed(0)
    logits, logs = torch.randn(4, 7, requires_grad=True), torch.randn(4, 7).log_softmax(dim=1)
    example = own_example(logs, 7)
    exact = torch.full((4, 7), 0.0).scatter(
        1, torch.from_numpy(example.teacher.token_ids).long(), torch.from_numpy(example.teacher.logprobs).float()
    )
    found, expected = loss_of(logits, example, OBJECTIVES[name]), divergence(logits, exact, name)
    assert found.item() == pytest.approx(expected.item(), abs=2e-3)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (found, expected))
    assert torch.allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_rest_counts_as_one_token(name: str) -> None:
    """Three tokens of which two are kept: the third is all the rest, so nothing is lost."""
    torch.manual_seed(1)
    logits, logs = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3).log_softmax(dim=1)
    found, expected = loss_of(logits, own_example(logs, 2), OBJECTIVES[name]), divergence(logits, logs, name)
    assert found.item() == pytest.approx(expected.item(), abs=2e-3)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (found, expected))
    assert torch.allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_teacher_that_is_the_student_teaches_nothing(name: str, k: int) -> None:
    torch.manual_seed(2)
    logits = torch.randn(4, 7, requires_grad=True)
    found = loss_of(logits, own_example(logits.detach().log_softmax(dim=1), k), OBJECTIVES[name])
    (gradient,) = torch.autograd.grad(found, logits)
    assert abs(found.item()) < 1e-3
    assert float(gradient.abs().max()) < 1e-3


def test_drawn_tokens_have_the_same_gradient_in_the_mean() -> None:
    """The advantage -(log p - log q) of drawn tokens, times their score, is the gradient of the reverse divergence."""
    torch.manual_seed(3)
    logits, logs = torch.tensor([[0.5, -1.0, 0.3]], requires_grad=True), torch.tensor([[0.2, 0.5, 0.3]]).log()
    (exact,) = torch.autograd.grad(loss_of(logits, own_example(logs, 3), REVERSE), logits)
    ours = logits.detach().log_softmax(dim=1)
    drawn = torch.multinomial(ours.exp()[0], 200_000, replacement=True)
    advantage = -(ours - logs)[0][drawn]
    score = torch.nn.functional.one_hot(drawn, 3).float() - ours.exp()
    sampled = -(advantage[:, None] * score)
    error = sampled.std(dim=0) / len(drawn) ** 0.5
    assert torch.all((sampled.mean(dim=0) - exact[0]).abs() < 4 * error + 1e-3)


def test_recorded_texts_beside_own_ones_have_their_nll() -> None:
    torch.manual_seed(4)
    logits = torch.randn(4, 7)
    recorded = replace(own_example(torch.randn(4, 7).log_softmax(dim=1), 3), teacher=None)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(recorded.token_ids[1:]))
    assert loss_of(logits, recorded, REVERSE).item() == pytest.approx(expected.item())


def test_a_text_is_drawn_as_evaluation_draws_it_and_judged_by_the_teacher() -> None:
    student, teacher = tiny_llama(), tiny_llama(seed=1)
    tokens = [tiny_tokens(student, f"q{n}", (3, 2 + n)) for n in range(2)]
    data = dataset_of(student, tokens)
    own = OwnTexts(teacher, max_new_tokens=6, top_k=VOCABULARY)
    examples = own.of(student, student.model, [data[n] for n in range(2)], seed=5)
    prompts = [one.ids("question") for one in tokens]
    drawn = continue_sampled(student, prompts, 6, number=1, temperature=1.0, seed=5)
    for example, prompt, (text,) in zip(examples, prompts, drawn, strict=True):
        end = (student.end_id,) if text.finished else ()
        assert example.token_ids == (*prompt, *text.token_ids, *end)
        assert example.first_trained == len(prompt)
        ids = torch.tensor([example.token_ids])
        logs = teacher.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        assert example.teacher is not None
        told = torch.gather(logs, 1, torch.from_numpy(example.teacher.token_ids).long())
        assert np.allclose(example.teacher.logprobs, told.detach().numpy(), atol=2e-2)


def test_a_weigher_weighs_the_text_and_not_its_end() -> None:
    student = tiny_llama()
    own = OwnTexts(tiny_llama(seed=1), max_new_tokens=4, weigh=lambda _, text: np.full(len(text), 0.25, np.float32))
    (example,) = own.of(student, student.model, [dataset_of(student, [tiny_tokens(student, "q")])[0]], seed=0)
    ends = example.token_ids[-1] == student.end_id
    assert example.weights[: len(example.weights) - ends].tolist() == [0.25] * (len(example.weights) - ends)
    assert not ends or example.weights[-1] == 1


def test_it_begins_after_its_share_of_the_updates() -> None:
    own = OwnTexts(tiny_llama(), starts_after=0.5)
    assert [own.is_on(update, 5) for update in range(5)] == [False, False, False, True, True]


def with_another_token() -> LanguageModel:
    teacher = tiny_llama()
    teacher.tokenizer.add_tokens(["another"])
    return teacher


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (tiny_t5(), tiny_llama(), "causal models alone"),
        (tiny_llama(), with_another_token(), "its tokenizer has others"),
    ],
    ids=["encoder", "tokens"],
)
def test_what_a_teacher_cannot_read_is_refused(
    student: LanguageModel, teacher: LanguageModel, message: str, tmp_path: Path
) -> None:
    args = trainer_of(tiny_llama(), dataset_of(tiny_llama(), [tiny_tokens(tiny_llama(), "q")]), tmp_path).args
    with pytest.raises(ConfigError, match=message):
        OwnTexts(teacher).check(student, args)


WORDS = ("--method", "on-policy", "--training.on_policy.max_new_tokens", "5", "--evaluation.before", "false")


def on_policy(data: Path, runs: Path, *words: str) -> Path:
    found = recipe(data, runs, "llama", *WORDS, "--teacher.logprobs.model", str(data / "llama"), *words)
    run(found)
    return runs / found.name / "student"


@pytest.mark.slow
def test_a_whole_run_trains_recorded_texts_and_then_own_ones(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    student = on_policy(data, tmp_path / "runs")
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    half = len(lines) // 2
    assert {line["trained_tokens"] for line in lines[half:]} != {line["trained_tokens"] for line in lines[:half]}
    assert all(line["loss"] < 1 < other["loss"] for line, other in zip(lines[half:], lines[:half], strict=True))
    again = on_policy(data, tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_weigher_of_a_run_weighs_own_texts(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    on_policy(data, tmp_path / "runs", "--method", "kpod-on-policy")


def test_without_a_teacher_it_is_refused_before_work(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    with pytest.raises(ConfigError, match=r"teacher\.logprobs: this method asks a local teacher"):
        run(recipe(data, tmp_path / "runs", "llama", "--method", "on-policy"))
    assert not (tmp_path / "runs" / "tiny").exists()


def test_batches_are_made_by_the_trainer(tmp_path: Path) -> None:
    lm = tiny_llama()
    trainer = trainer_of(lm, dataset_of(lm, [tiny_tokens(lm, "q")]), tmp_path)
    assert batch_of(trainer, dataset_of(lm, [tiny_tokens(lm, "q")]))["examples"]
