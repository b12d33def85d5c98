"""What a student reads and writes where a method has texts of its own."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from kpod.data.answers import extract_answer
from kpod.data.views import View
from kpod.experiment.artifacts import question_row, write_jsonl
from kpod.experiment.method_views import fine_tune_cot, four_formats, two_tasks
from kpod.experiment.methods import METHODS
from kpod.experiment.pipeline import Pipeline, run
from kpod.lm.encoding import encode_views
from kpod.lm.models import LanguageModel
from kpod.lm.sequences import example_at
from kpod.lm.student_prompts import prompt_ids
from kpod.recipe import (
    AskConfig,
    ContrastiveConfig,
    DataConfig,
    PromptConfig,
    TeacherConfig,
    TeacherPromptConfig,
)
from kpod.records import Dropped, Question, Rationale, TokenizedRationale
from kpod.records.errors import DataError
from kpod.weighting.given import uniform_weights
from tiny import ascii_tokenizer, int32, model_with, tiny_llama, tiny_rationales, tiny_t5
from tiny_runs import recipe, write_tiny_data

DATA = DataConfig(prompt=PromptConfig(chat=False), max_length=400)
QUESTION = Question("q", "Two boxes of 3 pens?", "6")
RATIONALE = Rationale("q/1", QUESTION, "There are 2 boxes. 2 * 3 = 6.")
SHORT = PromptConfig(chat=False, cot_prompt="Think.", closing="Is {answer}")
STUDENTS = {"llama": tiny_llama(), "t5": tiny_t5()}


def encoded(lm: LanguageModel, views: list[View]) -> list[TokenizedRationale]:
    found = list(encode_views(lm, views, DATA, len(views)))
    assert not any(isinstance(one, Dropped) for one in found)
    return found  # type: ignore[return-value]


def texts(lm: LanguageModel, tokens: TokenizedRationale) -> tuple[str, str]:
    """What is read before anything is trained, and what is trained."""
    (weights,) = uniform_weights([tokens]).values()
    example = example_at(tokens, weights, 0, encoder_decoder=lm.encoder_decoder)
    first = len(example.token_ids) - len(example.weights)
    read = (*example.encoder_ids, *example.token_ids[:first])
    return lm.tokenizer.decode(list(read)), lm.tokenizer.decode(list(example.token_ids[first:]))


@pytest.mark.parametrize("lm", STUDENTS.values(), ids=STUDENTS)
def test_the_two_tasks_of_distilling_step_by_step(lm: LanguageModel) -> None:
    label, explain = encoded(lm, list(two_tasks([RATIONALE], DATA.prompt)))
    assert (label.task, explain.task) == ("label", "explain")
    assert label.group == explain.group == "q/1"
    assert (label.id, explain.id) == ("q/1#label", "q/1")
    end = lm.tokenizer.decode([lm.end_id])
    asked, written = texts(lm, label)
    assert asked.startswith("predict: Q: Two boxes of 3 pens?\nA:")
    assert "step by step" not in asked
    assert written.strip() == f"Therefore, the answer is 6{end}"
    asked, written = texts(lm, explain)
    assert asked.startswith("explain: Q: Two boxes of 3 pens?\nA: Let's think step by step.")
    assert written.strip() == f"There are 2 boxes. 2 * 3 = 6.{end}"
    assert (label.num_steps, label.num_tokens) == (0, 0)
    assert explain.num_steps == 2


@pytest.mark.parametrize("lm", STUDENTS.values(), ids=STUDENTS)
def test_a_student_is_asked_for_the_label_as_it_was_trained(lm: LanguageModel) -> None:
    label, explain = encoded(lm, list(two_tasks([RATIONALE], DATA.prompt)))
    asked = {task: prompt_ids(lm, QUESTION, words(DATA.prompt)) for task, words in METHODS["step-by-step"].asks.items()}
    assert list(asked) == ["label", "explain"]
    assert asked == {"label": label.ids("question"), "explain": explain.ids("question")}


@pytest.mark.parametrize("lm", STUDENTS.values(), ids=STUDENTS)
def test_a_view_that_trains_the_answer_alone_reads_the_rationale(lm: LanguageModel) -> None:
    (tokens,) = encoded(lm, [View("v", RATIONALE, DATA.prompt, trains="answer")])
    read, trained = texts(lm, tokens)
    assert "2 * 3 = 6. Therefore, the answer is" in read
    assert trained.strip() == f"6{lm.tokenizer.decode([lm.end_id])}"
    plain = replace(tokens, num_read=0)
    assert texts(lm, plain)[1].strip().startswith("There are 2 boxes.")


def test_the_words_of_fine_tune_cot() -> None:
    data = fine_tune_cot(replace(DATA, answer_words=("So:",)))
    assert fine_tune_cot(data) == data
    lm = STUDENTS["llama"]
    (tokens,) = list(encode_views(lm, [View("v", RATIONALE, data.prompt)], data, 1))
    assert isinstance(tokens, TokenizedRationale)
    read, written = texts(lm, tokens)
    assert read.endswith("Two boxes of 3 pens? ###")
    assert written == f" There are 2 boxes. 2 * 3 = 6. --> 6 END{lm.tokenizer.decode([lm.end_id])}"
    assert extract_answer("1 + 1 = 2. --> 12 END of it, not 7", None, data.answer_words) == "12"


def test_a_tokenised_view_is_valid_from_birth() -> None:
    spans = int32([]).reshape(0, 2)
    label = TokenizedRationale("v", int32(range(5)), (2, 2, 3, 4, 5), (), spans, task="label")
    assert label.num_input_tokens(0) == 0
    with pytest.raises(DataError, match="5 of 3 written tokens are only read"):
        replace(label, num_read=5)
    with pytest.raises(DataError, match="segments stop at"):
        TokenizedRationale("v", int32(range(5)), (2, 2, 4, 4, 5), (), spans)
    with pytest.raises(DataError, match=r"steps \(1,\) do not tile 0 tokens"):
        replace(label, step_stops=(1,))


@pytest.mark.parametrize("student", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["step-by-step", pytest.param("fine-tune-cot", marks=pytest.mark.slow)])
def test_a_whole_run_of_a_method_with_its_own_texts(method: str, student: str, tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    found = recipe(data, tmp_path / "runs", student, "--method", method, "--training.num_train_epochs", "1")
    result = run(found)
    pipeline = Pipeline(found)
    assert result.training.updates
    assert len(pipeline.tokens) == len(METHODS[method].shares) * len(tiny_rationales())
    assert {one.task for one in pipeline.tokens} == set(METHODS[method].shares)
    names = {path.name for path in (result.folder / "evaluation").iterdir()}
    assert names == {"before", "after"} | {
        f"{when}-explain" for when in ("before", "after") if method == "step-by-step"
    }


def test_the_four_formats_of_specialized_kd() -> None:
    lm = STUDENTS["llama"]
    others = [
        Rationale(f"r{k}", Question(f"p{k}", f"{k} + {k}?", str(2 * k)), f"{k} + {k} = {2 * k}.") for k in range(6)
    ]
    views = list(four_formats([RATIONALE, replace(RATIONALE, id="q/2"), *others], SHORT, seed=0))
    assert [view.id for view in views[:6]] == [
        "q/1",
        "q/1#examples",
        "q/1#label",
        "q/1#label-examples",
        "q/2",
        "q/2#examples",
    ]
    assert len(views) == 4 * 7 + 2
    plain, led, label, label_led = (texts(lm, tokens) for tokens in encoded(lm, views[:4]))
    assert plain[0] == led[0][-len(plain[0]) :]
    assert plain[1] == led[1]
    assert label[1] == label_led[1]
    assert label[1].strip().startswith("Is 6")
    examples = led[0][: -len(plain[0])].split("\n\n")
    assert len(examples) == 5
    assert not examples[-1]
    assert len({example.split("?")[0] for example in examples[:4]}) == 4
    assert all(" = " in example and "Is " in example for example in examples[:4])
    assert not any(" = " in example for example in label_led[0].split("\n\n")[:4])
    assert [view.lead for view in four_formats([RATIONALE], SHORT, seed=0)] == [""] * 4


@pytest.mark.slow
def test_a_whole_run_of_scott_with_its_own_teacher(tmp_path: Path) -> None:
    """A local teacher explains right and wrong answers by contrastive decoding, and the student learns from both."""
    data = write_tiny_data(tmp_path)
    teacher = model_with(ascii_tokenizer())
    teacher.model.save_pretrained(data / "teacher")  # type: ignore[operator]
    teacher.tokenizer.save_pretrained(data / "teacher")
    questions = [question_row(Question(f"q{n}", "What is " + "1 + " * n + "1?", str(n + 1))) for n in range(5)]
    write_jsonl(data / "questions.jsonl", questions)
    base = recipe(data, tmp_path / "runs", "llama", "--method", "scott", "--training.num_train_epochs", "1")
    ask = AskConfig(
        str(data / "teacher"),
        backend="local",
        precision="fp32",
        temperature=0.0,
        max_tokens=12,
        stop=("e", "a", "."),
        contrastive=ContrastiveConfig(counterfactual=True),
        prompt=TeacherPromptConfig(hint="{{ question }} It is {{ answer }}."),
    )
    found = replace(
        base,
        teacher=TeacherConfig(ask=ask, filter="none"),
        data=replace(base.data, train=str(data / "questions.jsonl")),
    )
    run(found)
    pipeline = Pipeline(found)
    by_task = Counter(one.task for one in pipeline.tokens)
    assert by_task["counterfactual"] == len(pipeline.data.gathered.counterfactual) > 0
    assert by_task["explain"] == len(pipeline.sources[0]) > 0
    for one in pipeline.tokens:
        assert (one.num_read > 0) is (one.task == "counterfactual")
    answers = {one.id: one.question.answer for one in pipeline.data.gathered.counterfactual}
    golds = {row["id"]: row["answer"] for row in questions}
    assert all(answer != golds[id_.split("/")[0]] for id_, answer in answers.items())
