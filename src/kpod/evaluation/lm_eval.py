"""A test set as a task of lm-evaluation-harness, which then asks and judges as kpod does."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from kpod.records import Question
from kpod.records.files import write_text

TASK = """\
# lm_eval --model hf --model_args pretrained=STUDENT --include_path {folder} --tasks {name}
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: answer
process_results: !function {module}.process_results
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: {max_new_tokens}
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""
JUDGE = '''\
"""Judged by kpod, so that lm-eval's accuracy is kpod's."""

import json

from kpod.evaluation.accuracy import judge
from kpod.records import Question


WORDS = {words!r}


def process_results(doc, results):
    question = Question(doc["id"], doc["question"], doc["answer"], json.loads(doc["choices"]))
    return {{"acc": float(judge(question, results[0].strip(), finished=True, words=WORDS).correct)}}
'''


def export_task(
    folder: Path,
    test: str,
    questions: Sequence[Question],
    prompts: Sequence[str],
    max_new_tokens: int,
    words: Sequence[str] = (),
) -> str:
    """Write a task's YAML, its rows and its judge into a folder; returns the task's name.

    The prompts hold the chat template where there is one, so lm-eval must not apply it once more. A tokenizer that
    starts texts with a special token has it added by lm-eval as by kpod.

    Args:
        folder: Made where it is missing; move it only with the path in the YAML.
        test: The test set's name.
        questions: What is asked.
        prompts: What the student reads, one per question.
        max_new_tokens: Where a text is broken off.
        words: Further words that introduce an answer (`data.answer_words`).
    """
    safe = re.sub(r"\W+", "_", test).strip("_").lower()
    if not re.fullmatch(r"[a-z0-9]+|[a-z0-9_]+:[a-z-]+", test):  # a file's, made safe, is kept apart by a hash
        safe = f"{safe[-40:]}_{hashlib.sha256(test.encode()).hexdigest()[:6]}"
    name = f"kpod_{safe}"
    rows = folder.resolve() / f"{name}.jsonl"
    lines = [
        {"id": q.id, "question": q.question, "answer": q.answer, "choices": json.dumps(q.choices), "prompt": prompt}
        for q, prompt in zip(questions, prompts, strict=True)
    ]
    write_text(rows, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_text(folder / f"{name}_judge.py", JUDGE.format(words=tuple(words)))
    task = TASK.format(
        folder=folder.resolve(),
        name=name,
        rows=json.dumps(str(rows)),
        module=f"{name}_judge",
        max_new_tokens=max_new_tokens,
    )
    write_text(folder / f"{name}.yaml", task)
    return name
