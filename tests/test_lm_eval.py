"""lm-evaluation-harness comes to the same accuracy on the same student."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from kpod.commands.command_line import main
from kpod.commands.export_task import export_tasks
from kpod.evaluation.lm_eval import export_task
from kpod.experiment.artifacts import write_jsonl
from kpod.experiment.pipeline import Pipeline
from kpod.records import Question
from kpod.records.errors import ConfigError
from tiny_runs import recipe, write_tiny_data


def test_a_task_holds_prompts_and_options(tmp_path: Path) -> None:
    question = Question("q1", "Which is red?", "A", {"A": "blood", "B": "grass"})
    assert export_task(tmp_path, "csqa:test", [question], ["Q: Which is red?"], 9) == "kpod_csqa_test"
    (row,) = map(json.loads, (tmp_path / "kpod_csqa_test.jsonl").read_text(encoding="utf-8").splitlines())
    assert (row["prompt"], json.loads(row["choices"])) == ("Q: Which is red?", question.choices)
    text = (tmp_path / "kpod_csqa_test.yaml").read_text(encoding="utf-8").replace("!function ", "")
    task = yaml.safe_load(text)
    assert task["dataset_kwargs"]["data_files"]["test"] == str(tmp_path / "kpod_csqa_test.jsonl")
    assert task["generation_kwargs"] == {"until": [], "do_sample": False, "max_gen_toks": 9}
    found: dict[str, object] = {}
    exec((tmp_path / "kpod_csqa_test_judge.py").read_text(encoding="utf-8"), found)
    judged = [found["process_results"](row, [text]) for text in ("The answer is (A).", "The answer is B.", "Hm.")]
    assert judged == [{"acc": 1.0}, {"acc": 0.0}, {"acc": 0.0}]


def test_tasks_of_files_with_like_names_are_kept_apart(tmp_path: Path) -> None:
    question = [Question("q1", "How many?", "1")]
    names = {
        export_task(tmp_path, test, question, ["Q"], 9) for test in ("a/test.jsonl", "../a/test.jsonl", "A/test.jsonl")
    }
    assert len(names) == len(list(tmp_path.glob("*.yaml"))) == 3


def test_a_majority_is_no_task(tmp_path: Path) -> None:
    voting = recipe(write_tiny_data(tmp_path / "data"), tmp_path / "runs", "llama", "--evaluation.samples", "3")
    with pytest.raises(ConfigError, match=r"evaluation\.samples is 3; it must be 1"):
        export_tasks(Pipeline(voting), tmp_path / "tasks")


def test_an_export_reads_the_tokenizer_and_no_weights(tmp_path: Path) -> None:
    """A student of many gigabytes is not loaded for the words of a prompt."""
    made = recipe(write_tiny_data(tmp_path / "data"), tmp_path / "runs")
    weights = list(Path(made.student).glob("*.safetensors"))
    assert weights
    for file in weights:
        file.unlink()
    (name,) = export_tasks(Pipeline(made), tmp_path / "tasks")
    assert (tmp_path / "tasks" / f"{name}.yaml").is_file()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval")
def test_lm_eval_comes_to_the_same_accuracy(tmp_path: Path) -> None:
    """SmolLM2 as it is, on sums after an example of how to answer; it knows some."""
    sums = [(a, b) for a in (3, 12, 27, 48) for b in (2, 9, 35, 76)]
    rows = [{"id": f"{a}+{b}", "question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in sums]
    write_jsonl(tmp_path / "sums.jsonl", rows)
    words = ["--data.tests", json.dumps([str(tmp_path / "sums.jsonl")]), "--data.test_limit", "16"]
    words += ["--runs", str(tmp_path / "runs"), "--student", "smollm2-135m", "--evaluation.max_new_tokens", "7"]
    words += [
        "--data.prompt.chat",
        "false",
        "--data.prompt.question",
        "Q: What is 1 + 1?\nA: The answer is 2.\n\nQ: {question}\nA:",
    ]
    write_tiny_data(tmp_path)
    recipe(tmp_path, tmp_path)
    file = str(tmp_path / "recipe-given.yaml")
    assert main(["export-task", file, "--output", str(tmp_path / "tasks"), *words]) == 0
    from kpod.lm.models import smollm2_folder

    student = str(smollm2_folder())
    assert main(["evaluate", file, "--checkpoint", student, *words]) == 0
    (summary,) = (tmp_path / "runs").rglob("summary.json")
    ours = json.loads(summary.read_text(encoding="utf-8"))["accuracy"]
    assert ours > 0
    command = ["-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={student},dtype=float32"]
    (task,) = (path.stem for path in (tmp_path / "tasks").glob("*.yaml"))
    command += ["--include_path", str(tmp_path / "tasks"), "--tasks", task]
    command += ["--output_path", str(tmp_path / "out"), "--device", "cpu", "--batch_size", "8"]
    subprocess.run([sys.executable, *command], check=True)
    (results,) = (tmp_path / "out").rglob("results*.json")
    theirs = json.loads(results.read_text(encoding="utf-8"))["results"][task]["acc,none"]
    assert theirs == pytest.approx(ours, abs=1e-9)
